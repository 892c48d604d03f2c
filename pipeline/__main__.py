"""``python -m pipeline``: the command line."""

import sys


def run() -> int:
    """The exit status; an interrupt while the libraries still load is 130 as well."""
    try:
        from .cli import main
    except KeyboardInterrupt:
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(run())
