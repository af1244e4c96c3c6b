"""Progressive resizing: a stage that begins with small images and ends with the full ones.

As in EfficientNetV2 (Tan & Le, 2021, section 4), augmentation grows with the images: small ones
need less of it. A model for small images is built as the one of the run was, and takes over its
weights, so that whatever a network makes of its input size is right: the steps of a decoder, the
padding of odd sides.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import zip_longest
from typing import Any

import keras

from foveate.config.augmentation import AugmentConfig, MixConfig
from foveate.config.settings import RunConfig
from foveate.data.augment import resolve
from foveate.errors import ConfigError, FoveateError
from foveate.models.build import build_model, leaves
from foveate.planning.resizing import Size, image_sizes
from foveate.scale import runtime
from foveate.training.fitting import Work
from foveate.training.prepare import Prepared
from foveate.training.stages import Stage, plan_stages

_LEAST_SIDE = 96  # smaller images are left at their size, unless the person says otherwise
_MOST_SIZES = 4  # as in the paper, unless more are stated
_WEAKEST = 0.5  # share of the augmentation that the smallest images get


def settle_sizes(config: RunConfig, prepared: Prepared, model: keras.Model) -> RunConfig:
    """Decide how many image sizes the last stage goes through.

    Args:
        config: The settings; a stated `recipe.image_sizes` is kept or refused.
        prepared: Data and task.
        model: The model of the run.

    Returns:
        Settings in which `recipe.image_sizes` is a number; 1 where nothing was stated.

    Raises:
        ConfigError: What is stated does not go with data, model or other settings.
    """
    number = config.recipe.image_sizes or 1
    problem = _problem(config, prepared, model, number)
    if problem:
        raise ConfigError(f"recipe.image_sizes {problem} Set it to 1, or leave it out.")
    recipe = config.recipe.model_copy(update={"image_sizes": number})
    return config.model_copy(update={"recipe": recipe})


def most_sizes(config: RunConfig, prepared: Prepared, model: keras.Model) -> int:
    """Say how many image sizes a plan may weigh; a stated number is kept or refused."""
    if config.recipe.image_sizes is not None:
        settle_sizes(config, prepared, model)
        return config.recipe.image_sizes
    if min(prepared.image_size) < _LEAST_SIDE:
        return 1
    numbers = range(_MOST_SIZES, 1, -1)
    return next((some for some in numbers if not _problem(config, prepared, model, some)), 1)


def at_size(work: Work, stage: Stage) -> Work:
    """Give a stage its model, data and augmentation at its image size.

    Args:
        work: What the run works with, at full size.
        stage: What to train.

    Returns:
        The same at full size, else a model with weights of its own, which begin as those of the
        run are, and images as small as it sees.
    """
    if stage.is_full_size:
        return work
    size = image_sizes(work.prepared.image_size, stage.num_sizes)[stage.size]
    prepared = replace(work.prepared, image_size=size)
    model = _build(work.config, prepared)
    for variable, value in zip(model.variables, work.model.variables, strict=True):
        variable.assign(value)
    factor = _WEAKEST + (1.0 - _WEAKEST) * stage.size / (stage.num_sizes - 1)
    config = work.config.model_copy(update={"augment": weaker(work.config.augment, factor)})
    return replace(work, config=config, prepared=prepared, model=model)


def weaker(config: AugmentConfig, factor: float) -> AugmentConfig:
    """Weaken an augmentation.

    Args:
        config: A preset and what overrides it.
        factor: What all ranges are multiplied with, 0 for none to 1 for all of it. Flips stay:
            a mirrored image is as easy.

    Returns:
        Settings that state every range.
    """
    kept = ("horizontal_flip", "vertical_flip", "border")
    ranges: dict[str, Any] = {
        name: value if name in kept else factor * value
        for name, value in asdict(resolve(config)).items()
        if name != "crop"
    }
    ranges["crop"] = factor * resolve(config).crop + (1.0 - factor)  # 1 crops nothing
    sections = {
        name: type(section)(**{field: ranges[field] for field in type(section).model_fields})
        for name, section in config
        if name in ("geometry", "color", "quality")
    }
    mix = MixConfig(mixup=factor * config.mix.mixup, cutmix=factor * config.mix.cutmix)
    return config.model_copy(update={**sections, "mix": mix})


def _problem(config: RunConfig, prepared: Prepared, model: keras.Model, number: int) -> str:
    """Say why a run cannot go through so many image sizes; nothing where it can."""
    if number == 1:
        return ""
    last = plan_stages(config)[-1]
    if last.name == "frozen":
        return (
            f"needs a stage that trains the backbone, but got {number} with "
            "recipe.fine_tune_epochs = 0."
        )
    if last.epochs is not None and last.epochs < number:
        return (
            f"must be at most the {last.epochs} epochs of the {last.name} stage, but got {number}."
        )
    if config.recipe.schedule.name == "plateau":
        return (
            f"needs a schedule that goes by the epoch, but got {number} with "
            "recipe.schedule = 'plateau', which goes by scores: those of other sizes do not "
            "compare."
        )
    if prepared.tiles.size is not None:
        return (
            f"needs whole images, but got {number} with data.tiles, which cuts them at full "
            "resolution."
        )
    sizes = image_sizes(prepared.image_size, number)
    if len(sizes) < number:
        return (
            f"must be at most {len(sizes)} at {_text(sizes[-1])}, where multiples of 32 pixels "
            f"from half the side up give {', '.join(map(_text, sizes))}, but got {number}."
        )
    if not _is_same_network(config, prepared, model, sizes[0]):
        return (
            f"needs a network with the same layers at each size, but got {number} for "
            f"{config.model.backbone}, which has others at {_text(sizes[0])} than at "
            f"{_text(sizes[-1])}."
        )
    return ""


def _is_same_network(
    config: RunConfig, prepared: Prepared, model: keras.Model, size: Size
) -> bool:
    """Whether a smaller size has the same layers, so that their weights mean the same."""
    try:
        smaller = _build(config, replace(prepared, image_size=size))
    except FoveateError:
        return False
    layers = zip_longest(leaves(smaller), leaves(model))
    return all(_about(one) == _about(other) for one, other in layers)


def _about(layer: Any) -> list[Any]:
    """What must be the same at each size: its kind, and if it has weights, how it uses them."""
    settings = layer.get_config() if layer is not None and layer.weights else {}
    kept = {key: value for key, value in settings.items() if key not in ("name", "trainable")}
    return [type(layer), kept, [weight.shape for weight in getattr(layer, "weights", [])]]


def _build(config: RunConfig, prepared: Prepared) -> keras.Model:
    """Build the model for images of a size, with weights that mean nothing yet."""
    with runtime.dtype_policy(config.recipe.precision):
        return build_model(
            config.model.model_copy(update={"weights": "none"}),
            prepared.model_inputs,
            prepared.task,
            config.seed,
        )


def _text(size: Size) -> str:
    return f"{size[0]}×{size[1]}"
