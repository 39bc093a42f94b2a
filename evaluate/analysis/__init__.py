"""From runs to a Comparison: pairing, trends, estimators, tests and checks."""
