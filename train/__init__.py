"""Training: `dropfold train RECIPE`."""
