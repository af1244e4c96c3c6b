"""A process that has imported what every trial needs, and forks one after the other.

To import TensorFlow takes seconds, of a trial on stored features nearly half. Nothing has been
computed in it, and no accelerator was asked, so that what is forked is as good as new. A trial
still is a process of its own: it can crash, or be killed, and hurts no other.

``python -m foveate.search.nursery BACKEND CPUS PART FD`` gets requests through a connection, and
answers each with the number of the process, then with its exit code. It ends when nobody is at the
other side any more.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import runpy
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import psutil

from foveate import machine
from foveate.scale import runtime

_NEEDED = (
    "foveate.planning.planner",
    "foveate.training.recipe",
    "foveate.evaluation.scores",
)
"""What a trial imports in the end; named only, as this room is imported without Keras."""
_LOOK_EVERY = 0.02  # seconds between two looks at what was forked


class Nursery:
    """Starts processes quickly, one at a time.

    Args:
        backend: Of Keras; all processes compute on it.
        cpus: Processors that they may use; None for all.
        log_path: Gets what it prints itself.
        part: Which part of the processors, as `foveate.machine.limit_cpus` counts them.
    """

    def __init__(self, backend: str, cpus: int | None, log_path: Path, part: int = 0) -> None:
        self._arguments = [backend, str(cpus or 0), str(part)]
        self._log_path = log_path
        self._server: _Server | None = None
        self._owes_code = False

    @staticmethod
    def is_possible() -> bool:
        """Whether this system can fork processes that have native libraries loaded."""
        return sys.platform == "linux"

    def start(self, verb: str, folder: Path, log_path: Path) -> psutil.Process:
        """Start `foveate.search.child`; the one before has ended.

        Args:
            verb: What it is to do.
            folder: Where.
            log_path: Gets what it prints.

        Raises:
            RuntimeError: This process cannot be started, or was killed.
        """
        if self._owes_code:
            self.code()
        if self._server is None or self._server.process.poll() is not None:
            self.close()
            self._server = self._begin()
        with contextlib.suppress(BrokenPipeError):
            self._server.connection.send((verb, str(folder), str(log_path)))
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
        if self._server is not None:
            self._server.process.kill()
            self._server.process.wait()
            self._server.connection.close()
            self._server = None

    def _begin(self) -> _Server:
        ours, its = Pipe()
        arguments = [*self._arguments, str(its.fileno())]
        with self._log_path.open("ab") as log, its:
            process = subprocess.Popen(
                [sys.executable, "-m", "foveate.search.nursery", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[its.fileno()],
                start_new_session=True,  # Ctrl-C is for who waits
            )
        return _Server(process, ours)

    def _answer(self) -> int | None:
        if self._server is not None:
            with contextlib.suppress(EOFError, ConnectionResetError):
                return int(self._server.connection.recv())
        return None


class _Server(NamedTuple):
    process: subprocess.Popen[bytes]
    connection: Connection


def serve(backend: str, cpus: int, part: int, connection: Connection) -> list[str] | None:
    """Fork a process for each request.

    Args:
        backend: Of Keras.
        cpus: As many may be used; 0 for all.
        part: Which part of the processors.
        connection: Where the requests come from.

    Returns:
        In what was forked, the arguments of `foveate.search.child`; None in this process, at its
        end.
    """
    if cpus:
        machine.limit_cpus(cpus, part)
    runtime.load(backend)
    for module in _NEEDED:
        importlib.import_module(module)
    nursery = str(os.getpid())
    gc.freeze()  # so that collecting does not copy what is shared
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            verb, folder, log_path = connection.recv()
            forked = os.fork()
            if forked == 0:
                connection.close()
                _settle_in(Path(log_path))
                return [nursery, verb, folder, str(part)]
            connection.send(forked)
            connection.send(_code_of(forked, connection))
    return None


def _settle_in(log_path: Path) -> None:
    """Become the head of a session, that prints to a file."""
    os.setsid()
    with log_path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _code_of(process: int, connection: Connection) -> int:
    """Wait for the end of a process.

    Returns:
        Its exit code, or the number of a signal, negative.

    Raises:
        EOFError: Who asked for it is gone: nothing else comes through the connection meanwhile.
    """
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if connection.poll(_LOOK_EVERY):
            raise EOFError


if __name__ == "__main__":
    runtime.own_process()
    connection = Connection(int(sys.argv[4]))
    task = serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), connection)
    if task is not None:
        sys.argv[1:] = task
        runpy.run_module("foveate.search.child", run_name="__main__", alter_sys=True)
