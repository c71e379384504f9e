"""What lstm_sequence and gru_sequence share: the order of time, lengths, recurrent dropout, checks, launches, outputs."""
