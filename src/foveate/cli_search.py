"""Searching as the command line does it: started, gone on with, joined."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console


def start_search(
    data: str, config: Any, out: Path | None, dry_run: bool, console: Console
) -> None:
    """Make all trials and say what was found; or only say what would be tried."""
    from foveate.search import search as story

    if not dry_run:
        story.search(data, config, out, console)
        return
    import tempfile

    from foveate.search.narrator import show_space

    with tempfile.TemporaryDirectory() as folder:
        _, _, space = story.prepare(data, config, Path(folder) / "study", console)
    show_space(space, console)
    console.print("Nothing was tried.", highlight=False)


def resume_search(folder: Path, changes: Mapping[str, Any], console: Console) -> None:
    """Go on with a search."""
    from foveate.search import search as story

    story.resume(folder, changes, console)


def join_search(where: str, console: Console) -> None:
    """Be one more worker of a search."""
    from foveate.search import search as story

    story.join(where, console)
