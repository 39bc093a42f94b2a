"""Fine-tuning tasks: the sets of WILDS, a simulated one, and what all tasks have in common."""
