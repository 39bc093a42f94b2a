"""How a Comparison is shown: page, figures and tables."""
