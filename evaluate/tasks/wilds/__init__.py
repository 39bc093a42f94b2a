"""Image classification sets of WILDS (Koh et al. 2021, arXiv 2012.07421), read from local copies."""
