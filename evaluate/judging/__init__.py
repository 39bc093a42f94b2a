"""Runs, judged: resampling, trends, tests, and the Comparison that comes of them."""
