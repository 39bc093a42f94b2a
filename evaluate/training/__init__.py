"""Running a suite: the run grid, the training loop, several workers."""
