"""What lstm_sequence and gru_sequence share: inputs, the order of time, recurrent dropout, device code."""
