"""Images for pre-training: where they come from, and how they are decoded, once."""
