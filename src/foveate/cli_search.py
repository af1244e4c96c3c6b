"""Searching as the command line does it: started, gone on with, joined."""

from __future__ import annotations

import shlex
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

    with tempfile.TemporaryDirectory() as folder:
        _, facts, space = story.prepare(data, config, Path(folder) / "study", console)
    story.show_space(facts, space, config, console)
    again = f"foveate search {shlex.quote(data)}"
    console.print(f"Nothing was tried. To do it: {again}", highlight=False, soft_wrap=True)


def resume_search(folder: Path, changes: Mapping[str, Any], console: Console) -> None:
    """Go on with a search."""
    from foveate.search import search as story

    story.resume(folder, changes, console)


def join_search(where: str, console: Console) -> None:
    """Be one more worker of a search."""
    from foveate.search import search as story

    story.join(where, console)
