"""``python -m synthgen_evaluate``: the command ``evaluate``, for ``accelerate launch -m``."""

from .cli import main

main()
