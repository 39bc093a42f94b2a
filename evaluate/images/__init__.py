"""Images for pre-training: their sources, and how they are decoded, once."""
