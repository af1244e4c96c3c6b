"""The command `foveate`, also as ``python -m foveate``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Run the command line and exit with its code."""
    from foveate.cli import run
    from foveate.scale import runtime

    runtime.own_process()
    outcome = run(sys.argv[1:])
    sys.exit(_go_on_afresh(outcome) if isinstance(outcome, Path) else outcome)


def _go_on_afresh(run: Path) -> int:
    """Replace this process by one that goes on with a run, and keeps nothing of its memory."""
    command = [sys.executable, "-m", "foveate", "train", "--resume", str(run)]
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.platform != "win32":
        os.execv(command[0], command)  # noqa: S606
    # There the one who waits for this process would not wait for what it becomes.
    with subprocess.Popen(command) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the other one gets it as well, and ends in its own way
                continue


if __name__ == "__main__":
    main()
