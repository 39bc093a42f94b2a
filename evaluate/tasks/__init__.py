"""Fine-tuning tasks: the sets of WILDS, a simulated one, and what every task is."""
