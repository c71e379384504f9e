"""Noise by dropping: what falls, as a function of (seed, index), for every operation that carries noise."""
