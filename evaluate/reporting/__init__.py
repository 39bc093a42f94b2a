"""A Comparison, shown: the page, figures, tables."""
