"""Recurrent networks whose matrices are tensor networks."""
