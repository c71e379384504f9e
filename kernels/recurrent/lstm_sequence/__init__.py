"""A whole LSTM layer in one direction, over time, with a compressed hidden matrix."""

from dropfold.kernels.recurrent.lstm_sequence.operation import lstm_sequence, reference

__all__ = ["lstm_sequence", "reference"]
