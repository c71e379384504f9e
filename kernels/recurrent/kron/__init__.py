"""Sums of Kronecker products, W = sum_s A_s (x) C_s, as two GEMMs: what kron_linear and the sequences share."""
