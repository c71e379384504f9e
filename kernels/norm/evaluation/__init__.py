"""A linear map, BatchNorm, activation and max where nothing learns: no gradient, running statistics, no noise."""
