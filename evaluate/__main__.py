"""The command ``evaluate``, also as ``python -m synthgen_evaluate``, for ``accelerate launch -m``."""

from synthgen.common.processes import end_silently


def main() -> None:
    """Entry point of ``evaluate``."""
    end_silently()
    from .cli import main as begin

    begin()


if __name__ == "__main__":
    main()
