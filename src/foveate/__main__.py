"""The command `foveate`, also as ``python -m foveate``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from foveate.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
