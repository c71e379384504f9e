"""Linear maps with BatchNorm, activation and a pool, fused: activations and edges are not stored."""
