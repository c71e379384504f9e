"""Layers that networks are made of: linear maps with norm and pool, noise, groups, compressed linear maps."""
