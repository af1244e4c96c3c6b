"""The stages of a run: what is trained in which order, for how long, at which rate."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.config.settings import RunConfig
from foveate.errors import ConfigError
from foveate.models.backbones import get_backbone, resolve_weights

_EPOCHS = 10
_FINE_TUNE_EPOCHS = 5
_EPOCHS_ON_FEATURES = 30  # where only a time is stated: they cost little, and more overfit
_FINE_TUNE_SHARE_OF_RATE = 0.2
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
    """

    name: str
    epochs: int | None
    learning_rate: float
    share: float
    weight: float = 1.0


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
    rate = recipe.fine_tune_learning_rate or peak * _FINE_TUNE_SHARE_OF_RATE
    stages = [
        Stage("frozen", epochs, peak, 0.0, _FROZEN_WEIGHT),
        Stage("fine_tune", tuned, rate, recipe.unfreeze, _FINE_TUNE_WEIGHT),
    ]
    return [stage for stage in stages if stage.epochs != 0]


def _epochs(stated: int | None, usual: int, config: RunConfig) -> int | None:
    """The stated number, else as many as fit into a stated time, else the usual one."""
    if stated is not None or config.budget.time is not None:
        return stated
    return usual
