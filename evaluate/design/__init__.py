"""A suite file, checked: its arms, the images and labels that each chooses, and its cost."""
