"""Who does the missing shards: workers of this machine, of a Ray cluster, tasks of an array job; and how they share."""
