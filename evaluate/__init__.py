"""The harness: pre-train on synthetic or natural images, fine-tune on camera traps, compare.

``sources`` and ``tasks`` bring images in, ``suite`` turns a suite file into runs, ``train``
executes one, ``runs`` keeps what it found, ``compare`` and ``report`` judge.
"""
