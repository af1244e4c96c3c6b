"""Looking at data as the command line does it: planned, measured, packed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress


def plan_data(data: str, config: Any, out: Path | None, console: Console) -> None:
    """Measure what a run would take; show its plan, and write it to a file."""
    from foveate.disk import write_atomically
    from foveate.planning import planner

    with console.status("measuring"):
        _, found = planner.make_plan(data, config)
    planner.show(found, console)
    if out is not None:
        write_atomically(out, json.dumps(found.to_dict(), indent=2))


def profile_data(data: str, config: Any, with_model: bool, console: Console) -> None:
    """Measure what limits training, and show it with advice."""
    from foveate.scale import runtime

    runtime.prepare(config.runtime.backend)
    from foveate.training import advice
    from foveate.training.profile import profile

    with console.status("measuring"):
        found = profile(data, config, with_model)
    advice.show(found, console, shlex.quote(data))


def pack_data(data: str, out: str, config: Any, options: Any, console: Console) -> int:
    """Pack under a progress bar.

    Returns:
        Number of samples.
    """
    from foveate.data import shards

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("packing")
        packed = shards.pack(
            data,
            out,
            config.data,
            options,
            config.loader.threads,
            report=lambda done, total: bar.update(task, completed=done, total=total),
        )
    return packed.num_samples
