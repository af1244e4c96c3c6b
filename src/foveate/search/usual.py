"""What a search varies unless it is told: what usually matters, around what is usual."""

from __future__ import annotations

from foveate.config.search import RangeConfig
from foveate.config.settings import RunConfig
from foveate.search.look import Facts

_DECADES = 1.0  # on each side of a learning rate


def usual_space(config: RunConfig, facts: Facts) -> dict[str, RangeConfig]:
    """Choose what to vary where nothing is stated.

    Args:
        config: The settings of the run to beat.
        facts: What data and model are like.

    Returns:
        Ranges by key; a learning rate goes up and down by a factor of ten from what the range
        test suggests, or from what is stated where that was not made.
    """
    centre = facts.learning_rate or config.recipe.learning_rate
    space = {
        "recipe.learning_rate": _around(centre),
        "model.dropout": RangeConfig(low=0.0, high=0.5),
        "augment.preset": RangeConfig(choices=("none", "light", "standard", "strong")),
    }
    if config.recipe.optimizer.name in ("adamw", "sgd"):
        space["recipe.optimizer.weight_decay"] = RangeConfig(low=1e-6, high=1e-1, log=True)
    if facts.is_tuned:
        space["recipe.fine_tune_learning_rate"] = _around(config.recipe.tuned_rate)
        space["recipe.unfreeze"] = RangeConfig(choices=(0.3, 0.6, 1.0))
    if facts.task == "segmentation":
        losses = ("cross_entropy", "dice", "cross_entropy_dice")
        space["recipe.loss.name"] = RangeConfig(choices=losses)
    else:
        space["recipe.loss.label_smoothing"] = RangeConfig(low=0.0, high=0.2)
    if facts.has_metadata:
        space["model.fusion"] = RangeConfig(choices=("concatenate", "film"))
    return space


def _around(rate: float) -> RangeConfig:
    factor = 10.0**_DECADES
    return RangeConfig(low=rate / factor, high=rate * factor, log=True)
