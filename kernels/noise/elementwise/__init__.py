"""The fused passes of BatchNorm, activation and noise over a tensor."""
