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
    pinned = "" if tuned is None else f" --recipe.fine_tune_learning_rate {tuned:g}"
    return f"--recipe.learning_rate {curve.suggestion}{pinned}"


def advise(curve: RateCurve, config: RunConfig) -> list[str]:
    """Say what a range test found and what to do, the most important first.

    Args:
        curve: What was found.
        config: The settings it was found with.

    Returns:
        Sentences, each with the numbers that it rests on.
    """
    lines = [_suggestion(curve, config) if curve.suggestion is not None else _nothing(curve)]
    if curve.step_size < config.effective_batch_size:
        lines.append(
            f"Its steps had {curve.step_size} samples instead of {config.effective_batch_size}: "
            "more are not there, or would have taken too long."
        )
    tuned = _fine_tune_rate(config)
    if tuned is not None and curve.suggestion is not None:
        lines.append(
            f"The stage fine_tune was not tried, and keeps its rate of {tuned:g}. Were it left "
            "to follow, it would be a fifth of the new one, and rates that suit a new head can "
            "make a pretrained backbone forget all it knows."
        )
    return lines


def _suggestion(curve: RateCurve, config: RunConfig) -> str:
    lowest = curve.lowest
    return (
        f"At {curve.suggestion} half of the fall is done: in the stage {curve.stage} the smoothed "
        f"loss goes from {curve.start:.3g} at the beginning down to {curve.smoothed[lowest]:.3g} "
        f"at a rate of {curve.rates[lowest]:.2g}. Take it as right up to a factor of three, for "
        f"steps of {config.effective_batch_size} samples and {config.recipe.optimizer.name}."
    )


def _nothing(curve: RateCurve) -> str:
    return (
        f"No rate can be suggested: in the stage {curve.stage} the loss, {curve.start:.3g} at the "
        f"beginning, did not fall clearly at any rate from {curve.rates[0]:.2g} to "
        f"{curve.rates[-1]:.2g}. So few steps may be too few to learn anything, or too noisy with "
        f"{curve.step_size} samples each. Pretrained weights or a smaller data.image_size may "
        "help."
    )


def _fine_tune_rate(config: RunConfig) -> float | None:
    """The rate of the fine_tune stage, if there is one and its rate is not stated."""
    if config.recipe.fine_tune_learning_rate is not None:
        return None
    rates = [stage.learning_rate for stage in plan_stages(config) if stage.name == "fine_tune"]
    return rates[0] if rates else None
