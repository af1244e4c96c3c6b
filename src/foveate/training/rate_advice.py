"""What a learning-rate range test means, and what to do about it, in words."""

from __future__ import annotations

from foveate.config.settings import RunConfig
from foveate.training.rate_curve import RateCurve
from foveate.training.stages import plan_stages


def flags(curve: RateCurve, config: RunConfig) -> str:
    """Write the settings that follow from a range test as flags, ready to be copied.

    Args:
        curve: What was found.
        config: The settings it was found with.

    Returns:
        For example ``--recipe.learning_rate 0.0021``; empty where nothing follows.
    """
    if curve.suggestion is None:
        return ""
    # What suits a new head may be ten times too much for a pretrained backbone.
    tuned = _fine_tune_rate(config)
    pinned = "" if tuned is None else f" --recipe.fine_tune_learning_rate {tuned:.2g}"
    return f"--recipe.learning_rate {curve.suggestion}{pinned}"


def advise(curve: RateCurve, config: RunConfig) -> list[str]:
    """Say what a range test found and what to do, the most important first.

    Args:
        curve: What was found.
        config: The settings it was found with.

    Returns:
        Sentences, each with the numbers that it rests on.
    """
    lowest = curve.lowest
    best, rate = curve.smoothed[lowest], curve.rates[lowest]
    if curve.suggestion is None:
        return [
            f"No rate can be suggested: in the stage {curve.stage} the loss, {curve.start:.3g} at "
            f"the beginning, did not fall clearly at any rate from {curve.rates[0]:.2g} to "
            f"{curve.rates[-1]:.2g}. Larger steps (recipe.effective_batch_size) are less noisy; "
            "where they change nothing, look at the labels and the images."
        ]
    lines = [
        f"At {curve.suggestion} half of the fall is done: in the stage {curve.stage} the smoothed "
        f"loss goes from {curve.start:.3g} at the beginning down to {best:.3g} at a rate of "
        f"{rate:.2g}. Take it as right up to a factor of three, for steps of "
        f"{config.effective_batch_size} samples and {config.recipe.optimizer.name}."
    ]
    tuned = _fine_tune_rate(config)
    if tuned is not None:
        lines.append(
            f"The stage fine_tune was not tried, and keeps its rate of {tuned:.2g}. Were it left "
            "to follow, it would be a fifth of the new one, and rates that suit a new head can "
            "make a pretrained backbone forget all it knows."
        )
    return lines


def _fine_tune_rate(config: RunConfig) -> float | None:
    """The rate of a fine_tune stage as the settings have it, if there is such a stage."""
    rates = [stage.learning_rate for stage in plan_stages(config) if stage.name == "fine_tune"]
    return rates[0] if rates else None
