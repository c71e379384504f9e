"""Noise by dropping: the numbers, what they drop, the pass that applies it, DropFeat, DropPoint, DropCluster."""
