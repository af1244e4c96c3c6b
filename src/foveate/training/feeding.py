"""What a stage fits, and on what: the model on images, small or not, or its head on features."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np

from foveate.data.features import FeatureFiles
from foveate.models.build import split_model
from foveate.planning.plan import size_text
from foveate.training.features import not_stored, stored_features
from foveate.training.fitting import Feed, Work, stage_time
from foveate.training.progress import counting
from foveate.training.stages import Stage
from foveate.training.views import with_views

_SHARE_OF_STAGE = 0.7  # of its time, that computing features may take


@contextmanager
def feeding(work: Work, index: int, stages: Sequence[Stage], images: Feed) -> Iterator[Feed]:
    """Give a stage what it fits; the frozen one stored features, where that was settled.

    Args:
        work: What to work with, at the image size of the stage.
        index: Number of the stage, from 0.
        stages: What to do in all of them.
        images: The whole model, and the loaders of images.

    Yields:
        These, or a model for smaller images with loaders of such, or the head of the model with
        loaders of features. Batches hold the same rows. Where the stage leaves its loader, that
        of the images stands afterwards.
    """
    own = None
    if not stages[index].is_full_size:
        own = feed_images(work)
    elif stages[index].name == "frozen" and work.config.recipe.frozen_views:
        own = _head(work, index, stages)
    if own is None:
        yield images
        return
    for loader in images.loaders.values():
        loader.close()  # it may have read ahead, for memory that this stage needs
    own.train.resume_at(images.train.epoch * len(images.train) + images.train.first_batch)
    try:
        yield own
    finally:
        images.train.resume_at(own.train.epoch * len(own.train) + own.train.first_batch)
        for loader in own.loaders.values():
            loader.close()


def feed_images(work: Work) -> Feed:
    """Give the whole model images, as large as `work` says."""
    train = work.prepared.loader("train", work.config)
    if not work.prepared.rows("validation").num_samples:
        return Feed(work.model, train, None)
    return Feed(work.model, train, work.prepared.loader("validation", work.config))


def _head(work: Work, index: int, stages: Sequence[Stage]) -> Feed | None:
    """The head and its loaders; None where features do not fit into the time, or on the disk."""
    trunk, head = split_model(work.model)
    loaders = {}
    for split in ("train", "validation"):
        if not work.prepared.rows(split).num_samples:
            continue
        stage = stage_time(work, index, stages)
        problem = "do not fit into the time of this stage"
        try:
            files = _files(work, trunk, split, stage.left * _SHARE_OF_STAGE if stage else None)
        except OSError as error:
            files, problem = None, not_stored(error)
        if files is None:
            work.console.print(
                f"Features of all images {problem}: the frozen stage goes over the images.",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            work.run.save_config(with_views(work.config, 0))
            return None
        loaders[split] = work.prepared.loader(
            split, work.config, augment=None, features=files, processes=0
        )
    is_last = index == len(stages) - 1
    if work.time is not None and is_last and not work.time.pace.forward:
        work.time.pace.add_forward(*_forward_seconds(work, trunk))
    return Feed(head, loaders["train"], loaders.get("validation"))


def _forward_seconds(work: Work, trunk: keras.Model) -> tuple[float, float]:
    """Time a forward pass, where neither computing features nor a later stage tells of judging.

    Returns:
        Seconds of a sample, loading included, and of compiling.
    """
    loader = work.prepared.loader("train", work.config, augment=None, processes=0)
    ends = [time.monotonic()]
    images = loader.batch_at(0)[0]["images"]
    ends.append(time.monotonic())
    for _ in range(2):
        trunk.predict_on_batch(images)
        ends.append(time.monotonic())
    loading, first, second = np.diff(ends).tolist()
    return (loading + second) / len(images), max(first - second, 0.0)


def _files(
    work: Work, trunk: keras.Model, split: str, seconds: float | None
) -> FeatureFiles | None:
    """The features of a split; computing them tells how long a forward pass takes."""
    started, has_waited = time.monotonic(), False
    seen: list[tuple[float, int]] = []
    with counting(work.console, f"computing features, {split}") as show:

        def report(done: int, total: int) -> None:
            seen.append((time.monotonic(), done))
            show(done, total)

        def waiting() -> None:
            nonlocal started, has_waited
            if not has_waited:
                line = f"waiting for another run that computes the features, {split}"
                work.console.print(line, highlight=False, soft_wrap=True)
            started, has_waited = time.monotonic(), True

        files = stored_features(work.config, work.prepared, trunk, split, report, seconds, waiting)
    if len(seen) > 1 and work.time is not None:
        (first, begun), (last, done) = seen[0], seen[-1]
        work.time.pace.add_forward((last - first) / (done - begun), first - started)
    if files is not None:
        how = f"computed in {time.monotonic() - started:.0f} s" if seen else "computed before"
        work.console.print(
            f"frozen, {split}: features of {files.num_items:,} images "
            f"({size_text(files.num_items * files.item_bytes)}), {how}",
            highlight=False,
            soft_wrap=True,
        )
    return files
