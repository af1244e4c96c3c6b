"""The story of a run, top to bottom."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from foveate.config.settings import RunConfig
from foveate.data.loader import BatchLoader
from foveate.errors import ConfigError, FoveateError
from foveate.models.backbones import get_backbone, resolve_weights
from foveate.models.build import build_model, set_trainable
from foveate.models.bundle import Bundle, save_bundle
from foveate.runs import Run, next_folder
from foveate.scale import runtime
from foveate.training.callbacks import BestEpoch, History, LearningRate
from foveate.training.optimizers import make_optimizer
from foveate.training.prepare import Prepared, prepare
from foveate.training.progress import ProgressDisplay, counting

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


def train(
    data: Any,
    config: RunConfig | None = None,
    out: str | Path | None = None,
    console: Console | None = None,
) -> Run:
    """Train a model on data and leave a run folder.

    Args:
        data: A folder, a CSV or Parquet file, a dataframe, or a Manifest.
        config: The settings; defaults when None.
        out: The run folder, new or empty; ``runs/<data>-<number>`` when None.
        console: Where progress is shown; nowhere when None.

    Returns:
        The finished run. After Ctrl-C it has status ``interrupted`` and the best model so far.

    Raises:
        ConfigError: Settings contradict each other or the data.
        ManifestError: The data does not describe a usable dataset.
        SampleError: A file cannot be read.
        RunError: The run folder cannot be used, or the loss left the finite numbers.
    """
    config = config or RunConfig()
    console = console or Console(quiet=True)
    runtime.prepare(config.runtime.backend)
    stages = plan_stages(config)
    with counting(console, "reading masks") as report:
        prepared = prepare(data, config, report)
    _announce(console, prepared, config)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.recipe.precision)
    model = build_model(config.model, prepared.model_inputs, prepared.task, config.seed)

    run = Run.create(out or next_folder(Path("runs"), _stem(data)), config)
    with _leaving_nothing_half_done(run):
        prepared.manifest.save(run.manifest_path)
        finished = run_stages(model, stages, prepared, config, run, console)
        save_bundle(run.model_folder, Bundle(model, describe(prepared, config)))
        run.set_status("finished" if finished else "interrupted")
    return run


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


def run_stages(
    model: keras.Model,
    stages: list[Stage],
    prepared: Prepared,
    config: RunConfig,
    run: Run,
    console: Console,
) -> bool:
    """Train the stages in turn, each from the best epoch so far.

    Args:
        model: Holds the weights of the best epoch afterwards.
        stages: What to do.
        prepared: Data and task.
        config: The settings.
        run: Where history and best weights go.
        console: Where progress is shown.

    Returns:
        Whether all stages ran to their end; False after Ctrl-C.
    """
    train_loader = prepared.loader("train", config)
    validation = _validation_loader(prepared, config)
    stopping = config.recipe.stopping
    if validation is None and stopping.monitor == "val_loss":
        stopping = stopping.model_copy(update={"monitor": "loss"})
    best = BestEpoch(stopping, run.best_weights)
    loss = prepared.task.loss(config.recipe.loss, prepared.class_counts)
    finished = True
    try:
        for stage in stages:
            _compile(model, stage, loss, prepared, config)
            callbacks = [
                LearningRate(
                    config.recipe.schedule,
                    stage.learning_rate,
                    stage.epochs * len(train_loader),
                    stopping.monitor,
                ),
                best,
                History(run, stage.name, train_loader),
                ProgressDisplay(console, stage.name, stage.epochs, train_loader),
            ]
            with _loaders_own_errors(train_loader, validation):
                model.fit(
                    train_loader,
                    validation_data=validation,
                    epochs=stage.epochs,
                    callbacks=callbacks,
                    shuffle=False,
                    verbose=0,
                )
            model.load_weights(run.best_weights)
    except KeyboardInterrupt:
        finished = False
        if best.value is None:
            raise
        console.print("Interrupted: keeping the best epoch so far.")
        model.load_weights(run.best_weights)
    finally:
        train_loader.close()
        if validation is not None:
            validation.close()
    return finished


def describe(prepared: Prepared, config: RunConfig) -> dict[str, Any]:
    """Say in JSON values what a trained model needs to take a raw file."""
    return {
        "task": prepared.task.to_dict(),
        "image_size": list(prepared.image_size),
        "metadata": prepared.schema.to_dict() if prepared.schema else None,
        "decode": config.data.decode.model_dump(mode="json"),
        "backbone": config.model.backbone,
    }


def _compile(
    model: keras.Model, stage: Stage, loss: Any, prepared: Prepared, config: RunConfig
) -> None:
    """Settle what is trained, then compile: Keras fixes the trainable variables there."""
    pretrained = stage.name != "scratch"
    set_trainable(model, stage.share, pretrained)
    model.compile(
        optimizer=make_optimizer(config.recipe, stage.learning_rate, model),
        loss=loss,
        metrics=prepared.task.metrics(),
        jit_compile=runtime.jit_compile(),
    )


def _validation_loader(prepared: Prepared, config: RunConfig) -> BatchLoader | None:
    rows = prepared.manifest.split("validation")
    return prepared.loader("validation", config) if rows.num_samples else None


@contextlib.contextmanager
def _loaders_own_errors(*loaders: BatchLoader | None) -> Iterator[None]:
    """Raise what a loader raised, not what a backend made of it."""
    try:
        yield
    except Exception as error:
        for loader in loaders:
            if loader is not None and isinstance(loader.failure, FoveateError):
                raise loader.failure from None
        raise error


@contextlib.contextmanager
def _leaving_nothing_half_done(run: Run) -> Iterator[None]:
    """Record why a run failed; without a single finished epoch there is nothing to keep."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not run.history():
            run.discard()
        else:
            reason = str(error) if isinstance(error, FoveateError) else repr(error)
            run.set_status("failed", reason=reason)
        raise


def _announce(console: Console, prepared: Prepared, config: RunConfig) -> None:
    counts = prepared.manifest.table["split"].cast(str).value_counts()
    sizes = dict(counts.iter_rows())
    shares = ", ".join(
        f"{sizes.get(name, 0):,} {name}" for name in ("train", "validation", "test")
    )
    height, width = prepared.image_size
    console.print(
        f"{prepared.manifest.num_samples:,} samples ({shares}) · {prepared.task.name} in "
        f"{prepared.task.num_outputs} classes · {config.model.backbone} at {height}×{width} · "
        f"{keras.backend.backend()}",
        highlight=False,
        soft_wrap=True,
    )


def _stem(data: Any) -> str:
    return Path(data).resolve().stem if isinstance(data, str | Path) else "run"
