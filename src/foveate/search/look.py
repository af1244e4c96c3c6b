"""What a search must know of data and model before its first trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.search.process import Child


@dataclass(frozen=True)
class Facts:
    """What a run on this data would be like.

    Attributes:
        task: ``classification`` or ``segmentation``.
        scores: Names of what the validation split is judged by.
        told: Those of them that are told every epoch; the first is the most telling.
        num_validation: Samples of the validation split.
        has_metadata: Whether there is more than images.
        is_tuned: Whether a pretrained backbone is fine-tuned.
        backend: Keras backend.
        image_size: (height, width) the model sees, in pixels.
        learning_rate: What the range test suggests; None where it was not made.
    """

    task: str
    scores: tuple[str, ...]
    told: tuple[str, ...]
    num_validation: int
    has_metadata: bool
    is_tuned: bool
    backend: str
    image_size: tuple[int, int]
    learning_rate: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Facts:
        """Make one from what `dataclasses.asdict` gave, through JSON."""
        lists = {name: tuple(values[name]) for name in ("scores", "told", "image_size")}
        return cls(**{**values, **lists})


def look(folder: Path) -> Facts:
    """Find the facts in a process of its own, and give each sample its split.

    Args:
        folder: The study's, with settings and samples.

    Raises:
        FoveateError: As for a run with these settings.
        RuntimeError: The process was killed.
    """
    try:
        return Facts.from_dict(Child(["foveate.search.child", "look"], folder).wait())
    finally:
        (folder / "outcome.json").unlink(missing_ok=True)
