"""Looking at data as the command line does it: planned, measured, tried, packed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from foveate.errors import ConfigError


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
    from foveate.planning import planner
    from foveate.scale import runtime

    planner.keep_to_processors(config)
    runtime.prepare(config.runtime.backend)
    from foveate.training import advice
    from foveate.training.profile import profile

    with console.status("measuring"):
        found = profile(data, config, with_model)
    advice.show(found, console, shlex.quote(data))


def find_rate(data: str, config: Any, out: Path, console: Console) -> None:
    """Try the first stage with a learning rate that rises; suggest one, and draw what was seen."""
    page = _rate_page(out)
    from foveate.planning import planner
    from foveate.scale import runtime

    source, plan = planner.hold_to_budget(data, config, console)
    config = config if plan is None else plan.apply(config)
    runtime.prepare(config.runtime.backend)
    from foveate.search.rate_page import write_rate_page
    from foveate.training.prepare import prepare
    from foveate.training.progress import announce, counting
    from foveate.training.rate_advice import advise, flags
    from foveate.training.rate_finder import find_rate as raise_rate

    with counting(console, "reading masks") as report:
        prepared = prepare(source, config, report)
    announce(console, prepared, config)
    curve = raise_rate(prepared, config, console)
    advice, settings = advise(curve, config), flags(curve, config)
    write_rate_page(page, data, curve, settings, advice)
    suggested = [f"Suggested: {settings}"] if settings else []
    for line in (*suggested, *(f"- {line}" for line in advice), f"Curve: {page}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _rate_page(out: Path) -> Path:
    """The file to write: the one that is named, or `learning_rate.html` in a folder."""
    if out.suffix == ".html" and not out.is_dir():
        return out
    if out.suffix and not out.is_dir():
        raise ConfigError(f"--out must be a folder or an .html file, but got {str(out)!r}.")
    return out / "learning_rate.html"


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
            cache_bytes=config.cache_bytes,
        )
    return packed.num_samples
