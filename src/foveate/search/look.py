"""What a search must know of data and model before its first trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.config.settings import RunConfig
from foveate.errors import FoveateError, RunError
from foveate.search.process import Child

if TYPE_CHECKING:
    from foveate.training.prepare import Prepared


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
        image_size: (height, width) the model sees, in pixels.
        learning_rate: What the range test suggests; None where it was not made.
    """

    task: str
    scores: tuple[str, ...]
    told: tuple[str, ...]
    num_validation: int
    has_metadata: bool
    is_tuned: bool
    image_size: tuple[int, int]
    learning_rate: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Facts:
        """Make one from what `dataclasses.asdict` gave, through JSON."""
        lists = {name: tuple(values[name]) for name in ("scores", "told", "image_size")}
        return cls(**{**values, **lists})


def facts_of(prepared: Prepared, config: RunConfig) -> Facts:
    """Find the facts in this process, which runs Keras.

    Args:
        prepared: What a run on the data would work with.
        config: The settings.
    """
    import numpy as np

    from foveate.training.rate_finder import find_rate
    from foveate.training.stages import plan_stages

    task = prepared.task
    # Any targets will do to learn the names of the scores.
    targets = np.arange(task.num_outputs)
    logits = np.eye(task.num_outputs, dtype=np.float32)
    if task.per_pixel:
        targets, logits = targets[None, None].astype(np.uint8), logits[None, None]
    scorer = task.scorer()
    scorer.update(targets, logits)
    scores = tuple(scorer.result()["scores"])
    told = [getattr(metric, "name", "") for metric in task.metrics()]
    # The range test is made for the space that is searched unless another one is stated.
    rate = None if config.search.space else find_rate(prepared, config).suggestion
    return Facts(
        task=task.name,
        scores=scores,
        told=tuple(name for name in told if name in scores),
        num_validation=prepared.num_judged("validation"),
        has_metadata=prepared.schema is not None,
        is_tuned=any(stage.name == "fine_tune" for stage in plan_stages(config)),
        image_size=prepared.image_size,
        learning_rate=rate,
    )


def look(folder: Path) -> Facts:
    """Find the facts in a process of its own, and give each sample its split.

    Args:
        folder: The study's, with settings and samples.

    Raises:
        FoveateError: As for a run with these settings.
        RunError: The process was killed, or has failed otherwise.
    """
    try:
        return Facts.from_dict(Child("look", folder).wait())
    except FoveateError:
        raise
    except RuntimeError as error:
        raise RunError(
            "A search looks at data and model in a process of its own before its first trial, "
            f"which must come to its end, but got: {error}."
        ) from None
    finally:
        (folder / "outcome.json").unlink(missing_ok=True)
