"""Work done in a process of its own, watched from outside: what it does cannot hurt who waits."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from foveate import errors
from foveate.search.nursery import Nursery

_PATIENCE = 60.0  # seconds that a process has to store what it has done, before it is killed


class Child:
    """A process that works in a folder, with all that it starts itself.

    It ends when the process that started it does.

    Args:
        verb: What `foveate.search.child` is to do.
        folder: Gets ``log.txt``, with what it prints, and ``outcome.json``, with what it finds.
        nursery: Starts it; without one, Python is started anew.
        part: Which part of the processors it keeps to, where the settings say how many; what a
            nursery starts keeps to the nursery's.

    Raises:
        RuntimeError: The nursery cannot start it.
    """

    def __init__(
        self, verb: str, folder: Path, nursery: Nursery | None = None, part: int = 0
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._nursery = folder, nursery
        self._outcome_path.unlink(missing_ok=True)
        with self.log_path.open("ab") as log:
            if nursery is not None:
                self._process = nursery.start(verb, folder, self.log_path)
            else:
                arguments = [str(os.getpid()), verb, str(folder), str(part)]
                self._process = psutil.Popen(
                    [sys.executable, "-m", "foveate.search.child", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for who waits: it decides what to do
                )
        self.started = time.monotonic()

    @property
    def log_path(self) -> Path:
        """What it has printed."""
        return self._folder / "log.txt"

    @property
    def _outcome_path(self) -> Path:
        return self._folder / "outcome.json"

    def wait(self) -> dict[str, Any]:
        """Wait for its end, and read what it found; see `outcome`."""
        try:
            while self.is_running(1.0):
                pass
            return self.outcome()
        finally:
            self.kill()

    def is_running(self, wait: float) -> bool:
        """Say whether it still works, after so many seconds at most."""
        try:
            self._process.wait(wait)
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            return True
        return False

    def memory_bytes(self) -> int:
        """Measure what it and all below it have resident."""
        total = 0
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                total += int(process.memory_info().rss)
        return total

    def outcome(self) -> dict[str, Any]:
        """Read what it found, once it has ended.

        Raises:
            FoveateError: What it raised.
            RuntimeError: It was killed, or ended otherwise without an outcome.
        """
        try:
            found: dict[str, Any] = json.loads(self._outcome_path.read_text())
        except (OSError, ValueError):
            raise RuntimeError(self._end()) from None
        if "error" in found:
            kind = getattr(errors, found["error"], errors.RunError)
            raise kind(found["message"])
        return found

    def ask_to_end(self) -> None:
        """Ask it to store what it has done and to end."""
        with contextlib.suppress(psutil.Error):
            self._process.terminate()

    def stop(self) -> None:
        """Ask it to end, and kill it if it does not."""
        self.ask_to_end()
        self.is_running(_PATIENCE)
        self.kill()

    def kill(self) -> None:
        """End it at once, and all below it."""
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()

    def _tree(self) -> list[psutil.Process]:
        try:
            return [*self._process.children(recursive=True), self._process]
        except psutil.Error:
            return []

    def _code(self) -> int | None:
        if self._nursery is not None:
            return self._nursery.code()
        code: int | None = self._process.returncode
        return code

    def _end(self) -> str:
        code = self._code()
        if code is not None and code < 0:
            return f"killed by signal {-code}" + (
                ", perhaps because memory ran out" if code == -9 else ""
            )
        lines = self.log_path.read_text(errors="replace").strip().splitlines() or ["no word"]
        return f"ended with code {code}: {lines[-1]}"


def end_with_parent(parent: int) -> None:
    """Have this process end when the one that started it does, however that ends.

    Args:
        parent: Number of that process, which may have ended by now.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
