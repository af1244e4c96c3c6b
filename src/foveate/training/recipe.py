"""The story of a run, top to bottom."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from foveate.config.settings import RunConfig, StoppingConfig
from foveate.data.loader import BatchLoader
from foveate.errors import ConfigError, FoveateError, nearest
from foveate.models.build import build_model, set_trainable
from foveate.models.bundle import Bundle, save_bundle
from foveate.runs import Run, next_folder
from foveate.scale import runtime
from foveate.training.callbacks import BestEpoch, History, LearningRate
from foveate.training.optimizers import make_optimizer
from foveate.training.prepare import Prepared, prepare
from foveate.training.progress import ProgressDisplay, counting
from foveate.training.stages import Stage, plan_stages


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
    folder = Path(out) if out is not None else next_folder(Path("runs"), _stem(data))
    Run(folder).require_unused()
    runtime.prepare(config.runtime.backend)
    stages = plan_stages(config)
    with counting(console, "reading masks") as report:
        prepared = prepare(data, config, report)
    _announce(console, prepared, config)
    keras.utils.set_random_seed(config.seed)
    with _dtype_policy(config.recipe.precision):
        model = build_model(config.model, prepared.model_inputs, prepared.task, config.seed)
    stopping = _stopping(config, prepared)

    run = Run.create(folder, config)
    with _leaving_nothing_half_done(run):
        prepared.manifest.save(run.manifest_path)
        state = "finished"
        try:
            run_stages(model, stages, prepared, config, stopping, run, console)
        except KeyboardInterrupt:
            if not run.best_weights.exists():
                raise
            console.print("Interrupted: keeping the best epoch so far.")
            state = "interrupted"
        finally:
            # Also after an error: what was learned until then is worth keeping.
            if run.best_weights.exists():
                model.load_weights(run.best_weights)
                save_bundle(run.model_folder, Bundle(model, describe(prepared, config)))
        run.set_status(state)
    return run


def run_stages(
    model: keras.Model,
    stages: list[Stage],
    prepared: Prepared,
    config: RunConfig,
    stopping: StoppingConfig,
    run: Run,
    console: Console,
) -> None:
    """Train the stages in turn, each from the best epoch so far.

    Args:
        model: What is trained; ends with the weights of its last epoch.
        stages: What to do.
        prepared: Data and task.
        config: The settings.
        stopping: What to watch and how patiently.
        run: Where history and best weights go.
        console: Where progress is shown.
    """
    train_loader = prepared.loader("train", config)
    validation = _validation_loader(prepared, config)
    best = BestEpoch(stopping, run.best_weights)
    loss = prepared.task.loss(config.recipe.loss, prepared.class_counts)
    try:
        for stage in stages:
            if best.value is not None:
                model.load_weights(run.best_weights)
            trainable = _compile(model, stage, loss, prepared, config)
            console.print(f"{stage.name}: {trainable:,} weights are trained", highlight=False)
            display = ProgressDisplay(console, stage.name, stage.epochs, train_loader)
            callbacks = [
                LearningRate(
                    config.recipe.schedule,
                    stage.learning_rate,
                    stage.epochs * len(train_loader),
                    stopping.monitor,
                ),
                best,
                History(run, stage.name, train_loader),
                display,
            ]
            with display, _loaders_own_errors(train_loader, validation):
                model.fit(
                    train_loader,
                    validation_data=validation,
                    epochs=stage.epochs,
                    callbacks=callbacks,
                    shuffle=False,
                    verbose=0,
                )
    finally:
        train_loader.close()
        if validation is not None:
            validation.close()


def describe(prepared: Prepared, config: RunConfig) -> dict[str, Any]:
    """Say in JSON values what a trained model needs to take a raw file."""
    return {
        "task": prepared.task.to_dict(),
        "image_size": list(prepared.image_size),
        "metadata": prepared.schema.to_dict() if prepared.schema else None,
        "decode": config.data.decode.model_dump(mode="json"),
        "backbone": config.model.backbone,
        "manifest": prepared.manifest.digest(),
    }


def _compile(
    model: keras.Model, stage: Stage, loss: Any, prepared: Prepared, config: RunConfig
) -> int:
    """Settle what is trained, then compile: Keras fixes the trainable variables there.

    Returns:
        Number of trainable weights.
    """
    trainable = set_trainable(model, stage.share, pretrained=stage.name != "scratch")
    model.compile(
        optimizer=make_optimizer(config.recipe, stage.learning_rate, model),
        loss=loss,
        metrics=prepared.task.metrics(),
        jit_compile=runtime.jit_compile(),
    )
    return trainable


def _stopping(config: RunConfig, prepared: Prepared) -> StoppingConfig:
    """Check what is watched; without a validation split the training loss stands in."""
    stopping = config.recipe.stopping
    measured = ["loss"]
    measured += [getattr(m, "name", None) or m.__name__ for m in prepared.task.metrics()]
    if prepared.manifest.split("validation").num_samples:
        measured += [f"val_{name}" for name in measured]
    elif stopping.monitor == "val_loss":
        return stopping.model_copy(update={"monitor": "loss"})
    if stopping.monitor not in measured:
        raise ConfigError(
            f"recipe.stopping.monitor must be one of {measured}, but got {stopping.monitor!r}."
            f"{nearest(stopping.monitor, measured)}"
        )
    return stopping


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    """Build layers under a policy; they keep it, the process does not."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


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
        markup=False,
        soft_wrap=True,
    )


def _stem(data: Any) -> str:
    return Path(data).resolve().stem if isinstance(data, str | Path) else "run"
