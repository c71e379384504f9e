"""A linear layer whose weight is a sum of Kronecker products, and whose input may be bytes."""

from dropfold.kernels.recurrent.kron_linear.operation import kron_linear, reference

__all__ = ["kron_linear", "reference"]
