"""Whether the features of the frozen stage are stored, and of how many views of each image."""

from __future__ import annotations

import math
from pathlib import Path

import keras

from foveate.config.settings import CACHE_BYTES, RunConfig
from foveate.data.features import FeatureFiles
from foveate.errors import BudgetError, ConfigError
from foveate.models.build import split_model
from foveate.planning.ledger import RUN_FILES
from foveate.planning.plan import size_text
from foveate.training.features import disk_limit, feature_shapes
from foveate.training.prepare import Prepared, remote_protocols
from foveate.training.stages import plan_stages

_MOST_VIEWS = 4  # unless more are stated
_EPOCHS_OF_A_VIEW = 4  # with fewer a view hardly pays


def settle_views(config: RunConfig, prepared: Prepared, model: keras.Model) -> RunConfig:
    """Decide how many views of each image the frozen stage stores the features of.

    Args:
        config: The settings; a stated `recipe.frozen_views` is kept or refused.
        prepared: Data and task.
        model: The model of the run.

    Returns:
        Settings in which `recipe.frozen_views` is a number; 0 where nothing is stored.

    Raises:
        BudgetError: The disk does not hold what is stated.
        ConfigError: What is stated does not go with other settings.
    """
    stated, room = config.recipe.frozen_views, disk_limit(config) - run_files_bytes(model)
    if config.budget.disk is not None:
        room -= cached_bytes(config, prepared)
        if room < 0:
            raise BudgetError(_refusal(config, prepared, model))
    if all(stage.name != "frozen" for stage in plan_stages(config)):
        if stated:
            raise ConfigError(
                f"recipe.frozen_views needs a stage with a frozen backbone, but got {stated} for "
                "a run without one, since no weights are pretrained. Leave it out."
            )
        return with_views(config, 0)
    if stated == 0:
        return config
    if stated is None:
        views = _views_that_pay(config, prepared)
        while views and stored_bytes(prepared, model, views) > room:
            views -= 1
        return with_views(config, views)
    if stated > 1 and _mixes(config):
        raise ConfigError(
            "augment.mix blends images, not stored features, but got recipe.frozen_views = "
            f"{stated}. Set it to 1 (the images as they are) or 0 (nothing is stored)."
        )
    needed = stored_bytes(prepared, model, stated)
    if needed > room:
        raise BudgetError(
            f"recipe.frozen_views = {stated} must fit on the disk with {size_text(needed)}, but "
            f"got {size_text(room)}. Raise budget.disk, make room, or state fewer views."
        )
    return config


def _refusal(config: RunConfig, prepared: Prepared, model: keras.Model) -> str:
    files, caches = run_files_bytes(model), _num_caches(config, prepared)
    needed, change = float(files + caches * CACHE_BYTES), "choose a smaller model.backbone"
    if config.loader.cache is None:  # which takes a third of what is stated, at most
        needed = min(needed, files / (1 - caches / 3))
    elif caches:
        needed = files + caches * config.cache_bytes
        change = f"choose a smaller loader.cache than {size_text(config.cache_bytes)}"
    whole = math.ceil(needed / 2**20)
    kept = ", and what is cached for a while" if caches else ""
    return (
        f"budget.disk must be at least {whole:,} MiB, for checkpoints and model{kept}, but "
        f"got {size_text(config.budget.disk or 0)}. Raise it, or {change}."
    )


def cached_bytes(config: RunConfig, prepared: Prepared) -> int:
    """Reckon the temporary disk space of what is read from far away, and of decoded images.

    Args:
        config: The settings.
        prepared: Data and task.

    Returns:
        Most bytes; 0 where files of this machine are read whole, which are not kept.
    """
    return config.cache_bytes * _num_caches(config, prepared)


def _num_caches(config: RunConfig, prepared: Prepared) -> int:
    """That of this process, which reads the validation split at least, and that of all others."""
    if prepared.tiles.size is None and not remote_protocols(prepared.manifest):
        return 0
    return 2 if config.loader.processes else 1


def stored_bytes(prepared: Prepared, model: keras.Model, views: int) -> int:
    """Reckon the size of the stored features.

    Args:
        prepared: Data and task.
        model: The model of the run.
        views: Of each training image.

    Returns:
        Bytes, with those of one view of each validation image.
    """
    if not views:
        return 0
    files = FeatureFiles(Path(), 0, 0, feature_shapes(prepared, split_model(model)[0]))
    train, validation = (prepared.rows(name).num_samples for name in ("train", "validation"))
    return files.item_bytes * (views * train + validation)


def run_files_bytes(model: keras.Model) -> int:
    """Reckon the disk space of a run without features, in bytes."""
    return RUN_FILES * weight_bytes(model)


def weight_bytes(model: keras.Model) -> int:
    """Reckon the size of a model's weights, in bytes: float32 in any precision of the layers."""
    return 4 * int(model.count_params())


def _views_that_pay(config: RunConfig, prepared: Prepared) -> int:
    """How many views to store unless the person says so.

    Where fine-tuning follows, the head need see no more than the images as they are. The decoder
    of a U-Net takes most of the time itself: storing what it is fed wins little.
    """
    stages = plan_stages(config)
    epochs = next(stage.epochs for stage in stages if stage.name == "frozen")
    views = _MOST_VIEWS if epochs is None else epochs // _EPOCHS_OF_A_VIEW
    if prepared.task.per_pixel or not views:
        return 0
    if stages[-1].name == "fine_tune":
        return 1
    return 0 if _mixes(config) else min(views, _MOST_VIEWS)


def _mixes(config: RunConfig) -> bool:
    return bool(config.augment.mix.mixup or config.augment.mix.cutmix)


def with_views(config: RunConfig, views: int) -> RunConfig:
    """State the number of views."""
    recipe = config.recipe.model_copy(update={"frozen_views": views})
    return config.model_copy(update={"recipe": recipe})
