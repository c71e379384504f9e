"""The passes over a tensor that BatchNorm, activation and noise share, fused: one to apply them, two for the gradient."""
