"""Products with Kronecker sums, and LSTM and GRU over whole sequences."""
