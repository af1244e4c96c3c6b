"""From settings or a stored description to a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.errors import RunError
from foveate.tasks.base import Task
from foveate.tasks.classification import Classification
from foveate.tasks.segmentation import Segmentation


def task_from_dict(description: Mapping[str, Any]) -> Task:
    """Rebuild a task from what `Task.to_dict` gave.

    Args:
        description: JSON values.

    Returns:
        An equal task.

    Raises:
        RunError: This version knows no such task.
    """
    kinds = {kind.name: kind for kind in (Classification, Segmentation)}
    arguments = dict(description)
    name = arguments.pop("name", None)
    if name not in kinds:
        raise RunError(f"A task must be one of {sorted(kinds)}, but got {name!r}.")
    return kinds[name](**arguments)
