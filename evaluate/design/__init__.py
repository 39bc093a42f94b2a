"""A suite file, checked: its arms, the images and labels that each chooses, what it costs."""
