"""`dropfold explain RUN`."""
