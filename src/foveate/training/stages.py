"""The stages of a run: what is trained in which order, for how long, at which rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from foveate.config.settings import RunConfig
from foveate.errors import ConfigError
from foveate.models.backbones import get_backbone, resolve_weights
from foveate.planning.resizing import epochs_of_sizes, side_shares

_EPOCHS = 10
_FINE_TUNE_EPOCHS = 5
_EPOCHS_ON_FEATURES = 30  # where only a time is stated: they cost little, and more overfit
_FROZEN_WEIGHT, _FINE_TUNE_WEIGHT = 0.3, 0.7
"""Shares of a stated time: an epoch of fine-tuning costs some three times as much as a frozen one,
so that ten frozen epochs and five of fine-tuning take their time about like this."""


@dataclass(frozen=True)
class Stage:
    """One `fit` with its own trainable set and rate.

    Attributes:
        name: ``frozen``, ``fine_tune``, or ``scratch`` where nothing is pretrained.
        epochs: How long, at most; None for as many as fit into the stage's time.
        learning_rate: Peak rate.
        share: Share of the backbone's layers that is trained, from the top.
        weight: What it gets of a stated time, relative to the other stages.
        size: Which of its image sizes this is, from 0, the smallest.
        num_sizes: How many there are; a stage of several is one of these for each.
        span: Where on the way of the learning rate it begins and ends, 0 to 1 over all sizes.
    """

    name: str
    epochs: int | None
    learning_rate: float
    share: float
    weight: float = 1.0
    size: int = 0
    num_sizes: int = 1
    span: tuple[float, float] = (0.0, 1.0)

    @property
    def is_full_size(self) -> bool:
        """Whether it sees images as large as the model that is kept."""
        return self.size == self.num_sizes - 1


def plan_stages(config: RunConfig) -> list[Stage]:
    """Decide the stages: frozen then fine_tune for pretrained backbones, else one from scratch.

    Args:
        config: The settings.

    Returns:
        One or two stages.

    Raises:
        ConfigError: Fine-tuning is asked for where nothing is pretrained.
    """
    recipe, peak = config.recipe, config.recipe.learning_rate
    backbone = get_backbone(config.model.backbone)
    if resolve_weights(backbone, config.model.weights) is None:
        if recipe.fine_tune_epochs:
            raise ConfigError(
                f"recipe.fine_tune_epochs needs pretrained weights, but {backbone.name} starts "
                "from random ones. Set recipe.epochs alone, or model.weights."
            )
        return [Stage("scratch", _epochs(recipe.epochs, _EPOCHS, config), peak, 1.0)]
    epochs = _epochs(recipe.epochs, _EPOCHS, config)
    if epochs is None and recipe.frozen_views:
        epochs = _EPOCHS_ON_FEATURES
    tuned = _epochs(recipe.fine_tune_epochs, _FINE_TUNE_EPOCHS, config)
    stages = [
        Stage("frozen", epochs, peak, 0.0, _FROZEN_WEIGHT),
        Stage("fine_tune", tuned, recipe.tuned_rate, recipe.tuned_share, _FINE_TUNE_WEIGHT),
    ]
    return [stage for stage in stages if stage.epochs != 0]


def _epochs(stated: int | None, usual: int, config: RunConfig) -> int | None:
    """The stated number, else as many as fit into a stated time, else the usual one."""
    if stated is not None or config.budget.time is not None:
        return stated
    return usual


def in_sizes(stages: Sequence[Stage], number: int) -> list[Stage]:
    """Divide the last stage by image size.

    Args:
        stages: What `plan_stages` gave.
        number: Of image sizes.

    Returns:
        The stages, with one for each size in the place of the last. All have as many epochs, as
        far as these can be divided, and share its time by the pixels that these see.
    """
    *before, last = stages
    epochs = epochs_of_sizes(last.epochs or number, number)
    work = [num * share**2 for num, share in zip(epochs, side_shares(number), strict=True)]
    return before + [
        replace(
            last,
            epochs=last.epochs and epochs[size],
            weight=work[size] / sum(work) * last.weight,
            size=size,
            num_sizes=number,
            span=(sum(epochs[:size]) / sum(epochs), sum(epochs[: size + 1]) / sum(epochs)),
        )
        for size in range(number)
    ]
