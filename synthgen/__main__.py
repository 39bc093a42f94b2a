"""The command ``synthgen``, also as ``python -m synthgen``."""

from synthgen.common.processes import end_silently


def main() -> None:
    """Entry point of ``synthgen``."""
    end_silently()
    from synthgen.cli import main as begin

    begin()


if __name__ == "__main__":
    main()
