"""The stages of a run: what is trained in which order, for how long, at which rate."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.config.settings import RunConfig
from foveate.errors import ConfigError
from foveate.models.backbones import get_backbone, resolve_weights

_FINE_TUNE_EPOCHS = 5
_FINE_TUNE_SHARE_OF_RATE = 0.2


@dataclass(frozen=True)
class Stage:
    """One `fit` with its own trainable set and rate.

    Attributes:
        name: ``frozen``, ``fine_tune``, or ``scratch`` where nothing is pretrained.
        epochs: How long.
        learning_rate: Peak rate.
        share: Share of the backbone's layers that is trained, from the top.
    """

    name: str
    epochs: int
    learning_rate: float
    share: float


def plan_stages(config: RunConfig) -> list[Stage]:
    """Decide the stages: frozen then fine_tune for pretrained backbones, else one from scratch.

    Args:
        config: The settings.

    Returns:
        One or two stages.

    Raises:
        ConfigError: Fine-tuning is asked for where nothing is pretrained.
    """
    recipe = config.recipe
    backbone = get_backbone(config.model.backbone)
    if resolve_weights(backbone, config.model.weights) is None:
        if recipe.fine_tune_epochs:
            raise ConfigError(
                f"recipe.fine_tune_epochs needs pretrained weights, but {backbone.name} starts "
                "from random ones. Set recipe.epochs alone, or model.weights."
            )
        return [Stage("scratch", recipe.epochs, recipe.learning_rate, 1.0)]
    epochs = recipe.fine_tune_epochs
    rate = recipe.fine_tune_learning_rate or recipe.learning_rate * _FINE_TUNE_SHARE_OF_RATE
    stages = [
        Stage("frozen", recipe.epochs, recipe.learning_rate, 0.0),
        Stage("fine_tune", _FINE_TUNE_EPOCHS if epochs is None else epochs, rate, recipe.unfreeze),
    ]
    return [stage for stage in stages if stage.epochs]
