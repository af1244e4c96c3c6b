"""A process that has imported what every trial needs, and forks one after the other.

To import TensorFlow takes seconds, of a trial on stored features nearly half. Nothing has been
computed in it, and no accelerator was asked, so that what is forked is as good as new. A trial
still is a process of its own: it can crash, or be killed, and hurts no other.

``python -m foveate.search.nursery BACKEND CPUS`` reads requests, a JSON list of arguments each,
and answers with the number of the process, then with its exit code. It ends when nobody asks any
more.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import subprocess
import sys
from pathlib import Path

import psutil

_LOOK_EVERY = 0.02  # seconds between two looks at what was forked


class Nursery:
    """Starts processes quickly, one at a time.

    Args:
        backend: Of Keras; all processes compute on it.
        cpus: Processors that they may use; None for all.
        log_path: Gets what it prints itself.
    """

    def __init__(self, backend: str, cpus: int | None, log_path: Path) -> None:
        self._arguments = [backend, str(cpus or 0)]
        self._log_path = log_path
        self._process: subprocess.Popen[str] | None = None
        self._owes_code = False

    @staticmethod
    def is_possible() -> bool:
        """Whether this system can fork processes that have native libraries loaded."""
        return sys.platform == "linux"

    def start(self, arguments: list[str], log_path: Path) -> psutil.Process:
        """Start `foveate.search.child`; the one before has ended.

        Args:
            arguments: Its verb and its folder.
            log_path: Gets what it prints.

        Raises:
            RuntimeError: This process cannot be started, or was killed.
        """
        if self._owes_code:
            self.code()
        if self._process is None or self._process.poll() is not None:
            self._process = self._begin()
        assert self._process.stdin is not None  # noqa: S101  it is a pipe
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([*arguments, str(log_path)]) + "\n")
            self._process.stdin.flush()
        number = self._answer()
        if number is None:
            raise RuntimeError(
                f"the process that starts trials ended before it could; see {self._log_path}"
            )
        self._owes_code = True
        try:
            return psutil.Process(number)
        except psutil.NoSuchProcess:
            raise RuntimeError(f"ended at once with code {self.code()}") from None

    def code(self) -> int | None:
        """Wait for the end of the last process; once, give its exit code, if anybody knows it."""
        self._owes_code = False
        return self._answer()

    def close(self) -> None:
        """End it, and what it has forked."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _begin(self) -> subprocess.Popen[str]:
        with self._log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "foveate.search.nursery", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for who waits
            )

    def _answer(self) -> int | None:
        assert self._process is not None  # noqa: S101  it was asked something
        assert self._process.stdout is not None  # noqa: S101  it is a pipe
        line = self._process.stdout.readline()
        return int(line) if line else None


def serve(backend: str, cpus: int) -> list[str] | None:
    """Fork a process for each request.

    Returns:
        In what was forked, the arguments it shall work on; None in this process, at its end.
    """
    from foveate import machine
    from foveate.scale import runtime

    if cpus:
        machine.limit_cpus(cpus)
    runtime.load(backend)
    # All that a trial imports in the end.
    import foveate.evaluation.scores
    import foveate.planning.planner
    import foveate.search.child
    import foveate.training.recipe  # noqa: F401

    gc.freeze()  # so that collecting does not copy what is shared
    for request in iter(sys.stdin.readline, ""):
        *arguments, log_path = json.loads(request)
        process = os.fork()
        if process == 0:
            _settle_in(Path(log_path))
            return list(arguments)
        _tell(process)
        _tell(_code_of(process))
    return None


def _settle_in(log_path: Path) -> None:
    """Become a process that has nothing to do with the one it was forked from."""
    os.setsid()
    nothing, log = os.open(os.devnull, os.O_RDONLY), os.open(log_path, os.O_WRONLY | os.O_APPEND)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)


def _code_of(process: int) -> int:
    """Wait for an end, a signal's number being negative; end too when who asked has ended."""
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if select.select([sys.stdin], [], [], _LOOK_EVERY)[
            0
        ]:  # nothing is asked now: it is closed
            sys.exit()


def _tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    forked_for = serve(sys.argv[1], int(sys.argv[2]))
    if forked_for is not None:
        from foveate.search.child import main

        sys.argv[1:] = forked_for  # with which a run that needs new memory starts itself anew
        sys.exit(main(forked_for[0], Path(forked_for[1])))
