"""A suite's runs, done: the grid, networks, the training loop, several workers."""
