"""Sums of Kronecker products, W = sum_s A_s (x) C_s, as two GEMMs: on the CPU, and inside Triton kernels."""
