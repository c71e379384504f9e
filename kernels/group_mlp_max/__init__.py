"""A shared perceptron over groups of points and the max over each group, as PointNet++ needs it."""
