"""A set: plan, shards, manifest, and what is done with them."""
