"""Noise by dropping: random numbers, what they drop, the passes that apply it, DropFeat, DropPoint, DropCluster."""
