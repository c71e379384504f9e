"""From a data file to batches: splits, augmentation, input channels."""
