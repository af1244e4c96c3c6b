"""A plan: what was chosen for a run, and the lines that justify it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import ByteSize

from foveate.config.settings import RunConfig

_MIB, _GIB = 1024**2, 1024**3

Source = Literal["stated", "measured", "derived", "pinned"]


@dataclass(frozen=True)
class Line:
    """One line of the ledger.

    Attributes:
        name: What.
        value: How much, as text with its unit.
        source: Where the number is from: the budget, a measurement, arithmetic, or a setting.
        reason: Why it is so.
    """

    name: str
    value: str
    source: Source
    reason: str


@dataclass(frozen=True)
class Plan:
    """What was chosen, and the ledger that justifies it.

    Attributes:
        batch_size: Samples the loader yields at once.
        gradient_accumulation_steps: Batches of one step.
        image_size: (height, width) the model sees, in pixels.
        backend: Keras backend.
        precision: Arithmetic of the layers.
        peak_bytes: Memory that the run will take at most.
        epoch_seconds: Time of an epoch with its validation, by stage.
        total_seconds: Time from start to report; None where the number of epochs is open.
        error: Share by which the times may be wrong either way.
        queue_bytes: Most memory of batches that wait for the model.
        frozen_views: Views of each training image whose features are computed once.
        bottleneck: ``loading`` or ``model``.
        ledger: All lines.
        advice: What would change with more, or is worth knowing.
    """

    batch_size: int
    gradient_accumulation_steps: int
    image_size: tuple[int, int]
    backend: str
    precision: str
    peak_bytes: int
    epoch_seconds: dict[str, float]
    total_seconds: float | None
    error: float
    queue_bytes: int
    frozen_views: int
    bottleneck: Literal["loading", "model"]
    ledger: list[Line]
    advice: list[str]

    def apply(self, config: RunConfig) -> RunConfig:
        """Put what was chosen into settings.

        Args:
            config: What the user states.

        Returns:
            Settings in which nothing that the plan decides is left open.
        """
        data = config.data.model_copy(update={"batch_size": self.batch_size})
        chosen = {
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "effective_batch_size": None,
            "frozen_views": self.frozen_views,
        }
        recipe = config.recipe.model_copy(update=chosen)
        loader = config.loader.model_copy(update={"queue": ByteSize(self.queue_bytes)})
        return config.model_copy(update={"data": data, "recipe": recipe, "loader": loader})

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return asdict(self)


def size_text(num_bytes: float) -> str:
    """Write a size as people do."""
    return f"{num_bytes / _GIB:.2f} GiB" if num_bytes >= _GIB else f"{num_bytes / _MIB:,.0f} MiB"


def time_text(seconds: float) -> str:
    """Write a time as people do."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
