"""A set: its plan, shards and manifest, and what is done with them."""
