"""A plan: what was chosen for a run, and the lines that justify it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from foveate.config.recipe import Precision
from foveate.config.section import Section
from foveate.config.settings import Backend, RunConfig
from foveate.errors import ConfigError

_MIB, _GIB = 1024**2, 1024**3

_OPEN = ("auto", "fastest")  # settings that leave it to a plan

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
        error: Share by which the time from start to report may be wrong either way.
        queue_bytes: Most memory of batches that wait for the model.
        processes: Other processes that load the images; 0 for threads alone.
        frozen_views: Views of each training image whose features are computed once.
        image_sizes: Image sizes that the last stage goes through.
        unfreeze: Share of the backbone's layers that the fine_tune stage trains.
        bottleneck: ``loading`` or ``model``.
        ledger: All lines.
        advice: What would change with more, or is worth knowing.
        device_bytes: Memory of the accelerator that the run will take at most; None without one,
            or where it cannot be measured.
        validation_seconds: Time that judging a sample takes; None where it is not known.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    batch_size: PositiveInt
    gradient_accumulation_steps: PositiveInt
    image_size: tuple[PositiveInt, PositiveInt]
    backend: Backend
    precision: Precision
    peak_bytes: int
    epoch_seconds: dict[str, float]
    total_seconds: float | None
    error: float
    queue_bytes: PositiveInt
    frozen_views: NonNegativeInt
    image_sizes: PositiveInt
    bottleneck: Literal["loading", "model"]
    ledger: list[Line]
    advice: list[str]
    processes: NonNegativeInt = 0
    unfreeze: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    validation_seconds: NonNegativeFloat | None = None
    device_bytes: PositiveInt | None = None

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a ``plan.json``, perhaps edited.

        Raises:
            ConfigError: It is no plan; all problems are told at once.
        """
        try:
            return TypeAdapter(cls).validate_json(Path(path).read_bytes())
        except OSError as error:
            raise ConfigError(f"{path} must be a plan, but got: {error.strerror}.") from None
        except ValidationError as error:
            problems = [
                f"  {'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}, "
                f"but got {str(one['input'])[:60]!r}."
                for one in error.errors(include_url=False)
            ]
            raise ConfigError(
                f"{path} must be a plan as foveate plan --out writes it, but got:\n"
                + "\n".join(problems)
            ) from None

    def apply(self, config: RunConfig) -> RunConfig:
        """Put what was chosen into settings.

        Args:
            config: What the user states.

        Returns:
            Settings in which nothing that the plan decides is left open.

        Raises:
            ConfigError: A setting is stated otherwise.
        """
        chosen: dict[str, dict[str, Any]] = {
            "data": {"batch_size": self.batch_size, "image_size": self.image_size},
            "recipe": {
                "gradient_accumulation_steps": self.gradient_accumulation_steps,
                "effective_batch_size": self.batch_size * self.gradient_accumulation_steps,
                "frozen_views": self.frozen_views,
                "image_sizes": self.image_sizes,
                "unfreeze": self.unfreeze,
                "precision": self.precision,
            },
            "runtime": {"backend": self.backend},
            "loader": {"processes": self.processes},
        }
        for section, values in chosen.items():
            _require_agreement(section, getattr(config, section), values)
        chosen["loader"]["queue"] = ByteSize(self.queue_bytes)  # less than stated, perhaps
        sections = {
            name: getattr(config, name).model_copy(update=values)
            for name, values in chosen.items()
        }
        return config.model_copy(update=sections)

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return asdict(self)


def _require_agreement(name: str, section: Section, values: Mapping[str, Any]) -> None:
    for field, value in values.items():
        stated = getattr(section, field)
        if field in section.model_fields_set and stated not in (None, *_OPEN, value):
            raise ConfigError(
                f"{name}.{field} must be as in the plan, {value!r}, but got {stated!r}. Leave it "
                "out, edit the plan, or plan anew."
            )


def size_text(num_bytes: float) -> str:
    """Write a size as people do."""
    return f"{num_bytes / _GIB:.2f} GiB" if num_bytes >= _GIB else f"{num_bytes / _MIB:,.0f} MiB"


def time_text(seconds: float) -> str:
    """Write a time as people do."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
