"""What runs found: pairing, trends, estimators, tests, checks, and the Comparison that comes of them."""
