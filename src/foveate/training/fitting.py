"""One stage of a run: compile, put back where it was if need be, fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
from rich.console import Console

from foveate.config.recipe import StoppingConfig
from foveate.config.settings import RunConfig
from foveate.data.loader import BatchLoader
from foveate.errors import FoveateError
from foveate.models.build import set_trainable
from foveate.planning.memory import give_back
from foveate.runs import Run
from foveate.scale import runtime
from foveate.training.best import BestEpoch
from foveate.training.callbacks import GiveBack, History, LearningRate, TimeKeeper
from foveate.training.checkpoint import Checkpoint, load_weights
from foveate.training.clock import RunTime, StageTime
from foveate.training.optimizers import make_optimizer
from foveate.training.prepare import Prepared
from foveate.training.pressure import MemoryWatch
from foveate.training.progress import ProgressDisplay
from foveate.training.resume import (
    Checkpoints,
    Stateful,
    go_on_at_next_size,
    restore_model,
    stopping_softly,
)
from foveate.training.stages import Stage
from foveate.training.tally import Tally
from foveate.training.unreadable import UnreadableList

_ENDLESS = 2**31 - 1  # epochs, where the time decides


@dataclass(frozen=True)
class Work:
    """What a run works with.

    Attributes:
        run: Where everything goes.
        config: The settings.
        prepared: Data and task.
        model: What is trained.
        stopping: What to watch and how patiently.
        console: Where progress is shown.
        tally: What the run has taken; its guard watches the memory.
        time: What the run may take; None without `budget.time`.
    """

    run: Run
    config: RunConfig
    prepared: Prepared
    model: keras.Model
    stopping: StoppingConfig
    console: Console
    tally: Tally
    time: RunTime | None = None


@dataclass(frozen=True)
class Feed:
    """What is fitted on what.

    Attributes:
        model: The model of a run, or the part of it that follows a frozen backbone.
        train: Gives it training batches.
        validation: Gives it validation batches, if there are such rows.
    """

    model: keras.Model
    train: BatchLoader
    validation: BatchLoader | None

    @property
    def loaders(self) -> dict[str, BatchLoader]:
        """The loaders by split."""
        return {"train": self.train} | ({"validation": self.validation} if self.validation else {})


def run_stage(
    work: Work,
    index: int,
    stages: Sequence[Stage],
    best: BestEpoch,
    feed: Feed,
    checkpoint: Checkpoint | None,
) -> None:
    """Train one stage from its beginning, or from a checkpoint in its midst.

    Args:
        work: What to work with; its model ends with the weights of the last epoch.
        index: Number of the stage, from 0.
        stages: What to do in all of them.
        best: Keeps the best epoch of all stages.
        feed: What to fit on what; the stage goes on with the epoch its loader stands at.
        checkpoint: Where to go on; None begins from the best epoch of the stages before.
    """
    config, model, console = work.config, work.model, work.console
    stage, loader, name = stages[index], feed.train, _name(work, stages[index])
    is_apart = feed.model is not model or not stage.is_full_size
    time = stage_time(work, index, stages, is_apart)
    compares = stage.is_full_size and not _flatters(work, index, stages, feed)
    best.watch(model, compares)
    if checkpoint is None:
        best.start_stage()
        has_weights = work.run.best_weights.exists()  # of a stage before
        if has_weights and time is not None and not time.has_room_to_begin():
            console.print(f"{name} is left out: the time is up", highlight=False)
            return
        if best.value is not None:
            load_weights(model, work.run.best_weights)
    trainable = compile_stage(model, stage, work.prepared, config, feed.model)
    console.print(f"{name}: {trainable:,} weights are trained", highlight=False)
    first_epoch = 0
    if checkpoint is not None:
        restore_model(model, feed.model, loader, checkpoint)
        first_epoch = checkpoint.state["epoch"]
    elif stage.size > 0:
        go_on_at_next_size(work.run.checkpoints, index, model, loader)
    rate = LearningRate(
        config.recipe.schedule,
        stage.learning_rate,
        stage.epochs and stage.epochs * len(loader),
        work.stopping.monitor,
        config.gradient_accumulation_steps,
        time,
        stage.span,
    )
    parts: dict[str, Stateful] = {"rate": rate, "best": best}
    keeper = None
    if time is not None:
        is_first = index == 0 and checkpoint is None
        parts["time"] = keeper = TimeKeeper(time, loader, stage.epochs, is_first)
    epochs = stage.epochs or _ENDLESS
    checkpoints = Checkpoints(
        config, work.run, model, loader, index, epochs, first_epoch, parts, work.tally
    )
    if checkpoint is not None:
        checkpoints.restore(checkpoint)
    elif best.value is not None:
        checkpoints.store_beginning(feed.model)
    display = ProgressDisplay(console, name, stage.epochs, loader, time)
    left_out = UnreadableList(work.run, console, feed.loaders)
    smaller = None if stage.is_full_size else work.prepared.image_size
    history = History(work.run, stage.name, loader, keeper, smaller, compares)
    watch = MemoryWatch(
        work.tally.guard, loader, checkpoints, config.gradient_accumulation_steps, console
    )
    memory = GiveBack() if feed.model is model else None
    callbacks = [memory, rate, best, keeper, history, display, left_out, watch, checkpoints]
    with (
        display,
        loaders_own_errors(*feed.loaders.values()),
        stopping_softly(checkpoints, console),
    ):
        _fit(feed, first_epoch, epochs, [c for c in callbacks if c])
    loader.resume_at(checkpoints.position)  # the next epoch, where this one was cut short
    if keeper is not None:
        _tell_end(name, keeper, console)


def stage_time(
    work: Work, index: int, stages: Sequence[Stage], is_apart: bool = False
) -> StageTime | None:
    """Give a stage its part of the time that is left; None without `budget.time`.

    Args:
        work: What to work with.
        index: Number of the stage, from 0.
        stages: What to do in all of them.
        is_apart: As for `foveate.training.clock.Pace.start_stage`.
    """
    if work.time is None:
        return None
    after = sum(stage.weight for stage in stages[index + 1 :])
    cycle = work.config.gradient_accumulation_steps
    return StageTime(work.time, stages[index].weight, after, cycle, is_apart)


def _flatters(work: Work, index: int, stages: Sequence[Stage], feed: Feed) -> bool:
    """Whether scores of a head on training features are too good to be compared with later ones.

    The features may be those of images as they are; later stages learn from augmented ones.
    """
    is_of_training = not work.stopping.monitor.startswith("val_")
    return is_of_training and feed.model is not work.model and index + 1 < len(stages)


def _name(work: Work, stage: Stage) -> str:
    """What a person sees of a stage, with its image size if it has several."""
    height, width = work.prepared.image_size
    return f"{stage.name} at {height}×{width}" if stage.num_sizes > 1 else stage.name


def _tell_end(name: str, keeper: TimeKeeper, console: Console) -> None:
    console.print(f"{name} ended: {keeper.ended}", highlight=False)
    if keeper.seen < 1.0:
        console.print(
            f"{name} saw {keeper.seen:.0%} of the training samples, evenly drawn: "
            "more do not fit into its time",
            highlight=False,
            soft_wrap=True,
        )


def _fit(
    feed: Feed,
    first_epoch: int,
    epochs: int,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    """Fit; the rest of a broken epoch on its own, as Keras counts the batches but once."""
    ends = [first_epoch + 1, epochs] if feed.train.first_batch else [epochs]
    for end in ends:
        if first_epoch < end:
            feed.model.fit(
                feed.train,
                validation_data=feed.validation,
                initial_epoch=first_epoch,
                epochs=end,
                callbacks=callbacks,
                shuffle=False,
                verbose=0,
            )
        if feed.model.stop_training:
            return
        first_epoch = end


def compile_stage(
    model: keras.Model,
    stage: Stage,
    prepared: Prepared,
    config: RunConfig,
    fitted: keras.Model | None = None,
) -> int:
    """Settle what is trained, then compile: Keras fixes the trainable variables there.

    The optimizer has its variables then, as what was stored of it asks for. What the start, or the
    stage before, has left is given back before a whole model is trained.

    Args:
        model: The model of the run.
        stage: What to train.
        prepared: Data and task.
        config: The settings.
        fitted: What is compiled, if that is a part of the model.

    Returns:
        Number of trainable weights.
    """
    trainable = set_trainable(model, stage.share, pretrained=stage.name != "scratch")
    loss = prepared.task.loss(config.recipe.loss, prepared.class_counts)
    if config.data.unreadable == "skip" and "weight" not in prepared.manifest.table.columns:
        loss.reduction = "mean_with_sample_weight"  # that is, of the samples that are there
    # Where a sample could not be read, its mask is ignored, its label only weighs nothing.
    measured = "metrics" if prepared.task.per_pixel else "weighted_metrics"
    fitted = fitted or model
    fitted.compile(
        optimizer=make_optimizer(
            config.recipe, stage.learning_rate, fitted, config.gradient_accumulation_steps
        ),
        loss=loss,
        **{measured: prepared.task.metrics()},
        jit_compile=runtime.jit_compile(),
    )
    if fitted is model:  # which takes more than its head alone
        give_back()
    # Where the first step made the optimizer's variables, TensorFlow would trace it twice.
    fitted.optimizer.build(fitted.trainable_variables)
    return trainable


@contextlib.contextmanager
def loaders_own_errors(*loaders: BatchLoader) -> Iterator[None]:
    """Raise what one of these loaders raised, not what a backend made of it."""
    try:
        yield
    except Exception as error:
        for loader in loaders:
            if isinstance(loader.failure, FoveateError):
                raise loader.failure from None
        raise error
