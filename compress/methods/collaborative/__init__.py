"""Collaborative Compression: channels and singular values compete for what stays."""
