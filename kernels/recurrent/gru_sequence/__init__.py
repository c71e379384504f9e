"""A whole GRU layer in one direction, over time, with a compressed hidden matrix."""

from dropfold.kernels.recurrent.gru_sequence.operation import gru_sequence, reference

__all__ = ["gru_sequence", "reference"]
