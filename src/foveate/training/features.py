"""A frozen backbone's features, computed once: the head then learns from files.

While the backbone is frozen, an image gives the same features in every epoch, if it is always
augmented in the same way. So they are computed for one or a few views of each image and stored;
an epoch of the frozen stage then trains the head alone. What is stored lies in the user's cache
folder under a key of everything it depends on, and serves later runs as well.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import keras
import numpy as np

from foveate import __version__
from foveate.config.settings import RunConfig
from foveate.data.features import MASKS, FeatureFiles
from foveate.data.listings import cache_folder
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest
from foveate.data.places import Member, is_remote
from foveate.disk import is_locked
from foveate.errors import SampleError
from foveate.models.build import leaves
from foveate.planning.plan import size_text
from foveate.planning.stamps import module_stamp
from foveate.training.prepare import Prepared

_SYNC_SECONDS = 10.0
_LOOK_SECONDS = 0.2  # between two looks whether another run is done
_MOST_BYTES = 10 * 1024**3  # on the disk, unless more is stated
_TRIED_AGAIN = 8  # rows
_FIRST_BATCHES = 3  # after which it can be told how long the rest will take

Report = Callable[[int, int], None]


def stored_features(
    config: RunConfig,
    prepared: Prepared,
    trunk: keras.Model,
    split: str,
    report: Report = lambda done, total: None,
    seconds: float | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> FeatureFiles | None:
    """Give the features of a split, computed now or at an earlier time.

    Args:
        config: The settings, `recipe.frozen_views` at least 1.
        prepared: Data and task.
        trunk: The first part of `foveate.models.build.split_model`.
        split: ``train``, or another, of which one view without augmentation is stored.
        report: Called with (items stored, items in all).
        seconds: Time that computing, or waiting for another run that does, may take; None for as
            long as it takes.
        waiting: Called now and then while another run that computes the same is waited for.

    Returns:
        All of them; None where the time does not suffice.

    Raises:
        SampleError: A file cannot be read and may not be left out.
        OSError: The folder cannot be made, or not be written to, or its disk is full.
    """
    views = config.recipe.frozen_views or 1 if split == "train" else 1
    rows = prepared.rows(split)
    shapes = feature_shapes(prepared, trunk)
    folder = _features_folder() / _key(config, prepared, rows, trunk, views)
    files = FeatureFiles(folder, rows.num_samples, views, shapes)
    end = math.inf if seconds is None else time.monotonic() + seconds
    with _owned(folder, end, waiting) as is_owned:
        if not is_owned:
            return None
        if _is_mended(config, prepared, split, replace(files).unreadable):
            files.cut(0)
            files.sync({})
        if files.num_done < files.num_items:
            _make_room(folder, files.num_items * files.item_bytes, disk_limit(config))
            loader = _loader(config, prepared, split, views)
            if not _compute(files, loader, trunk, report, end - time.monotonic()):
                return None
        os.utime(folder)  # the last that were used are the last to be deleted
        files.open()
    return files


def not_stored(error: OSError) -> str:
    """Say why features are not stored, and what helps: the predicate of a sentence."""
    why = error.strerror or error
    where = "FOVEATE_CACHE may name another folder"
    return f"cannot be stored in {cache_folder()} ({why}; {where})"


def feature_shapes(prepared: Prepared, trunk: keras.Model) -> dict[str, tuple[int, ...]]:
    """Say what is stored of an image: name of each array, and its shape."""
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in trunk.output.items()}
    return shapes | ({MASKS: prepared.image_size} if prepared.task.per_pixel else {})


def disk_limit(config: RunConfig) -> int:
    """Bytes of disk for stored features: `budget.disk`, or half of what they may take, to 10 GiB.

    They may take what is free, and what they take already.
    """
    if config.budget.disk is not None:
        return int(config.budget.disk)
    folder = _features_folder()
    with contextlib.suppress(OSError):  # who writes there says what is wrong
        there = next(path for path in folder.parents if path.exists())
        taken = sum(map(_size, folder.iterdir())) if folder.is_dir() else 0
        return min((shutil.disk_usage(there).free + taken) // 2, _MOST_BYTES)
    return _MOST_BYTES


def _features_folder() -> Path:
    return cache_folder() / "features"


def _is_mended(
    config: RunConfig, prepared: Prepared, split: str, unreadable: Mapping[int, Any]
) -> bool:
    """Say whether rows that could not be read can be now, as far as some of them tell."""
    if not unreadable or prepared.tiles.size is not None:
        return False
    rows = prepared.rows(split).take(sorted(unreadable)[:_TRIED_AGAIN])
    loader = _loader(config, replace(prepared, manifest=rows), split, 1, max_unreadable=1.0)
    try:
        for _ in loader:
            pass
    except SampleError:  # of none of them
        return False
    finally:
        loader.close()
    return True


def _loader(
    config: RunConfig, prepared: Prepared, split: str, views: int, **others: Any
) -> BatchLoader:
    """All rows in order; the last batch as large as the others, as another would be compiled."""
    return prepared.loader(
        split,
        config,
        shuffle=False,
        augment=config.augment if views > 1 else None,
        sampling="uniform",
        repeat=1,
        remainder="pad",
        cycle=1,
        epochs=views,
        **others,
    )


def _compute(
    files: FeatureFiles, loader: BatchLoader, trunk: keras.Model, report: Report, seconds: float
) -> bool:
    """Compute what is missing; False where it would take too long."""
    view, row = divmod(files.num_done, files.num_rows)
    row -= row % loader.batch_size  # whole batches are computed again
    loader.resume_at(view * len(loader) + row // loader.batch_size)
    first = done = view * files.num_rows + row
    files.cut(first)
    started = synced = time.monotonic()
    try:
        for inputs, masks, _ in _views(loader, files.num_views):
            arrays = trunk.predict_on_batch(inputs["images"])
            if MASKS in files.shapes:
                arrays[MASKS] = masks
            count = min(loader.batch_size, files.num_rows - done % files.num_rows)
            files.append({name: array[:count] for name, array in arrays.items()})
            done += count
            report(done, files.num_items)
            now = time.monotonic()
            if now - synced > _SYNC_SECONDS:
                files.sync(_unreadable(loader))
                synced = now
            if done == first + count:
                started = now  # the first batch waits for the compiler
            pace = (now - started) / max(done - first - loader.batch_size, 1)
            is_known = done - first > _FIRST_BATCHES * loader.batch_size
            if is_known and pace * (files.num_items - first) > seconds:
                return False
    except SampleError:
        if loader.unreadable:  # too many, which are to be tried again
            files.cut(0)
        raise
    finally:
        loader.close()
        files.sync(_unreadable(loader))
    return True


def _views(loader: BatchLoader, count: int) -> Iterator[Any]:
    """All batches of the epochs below `count`, from where the loader stands."""
    while loader.epoch < count:
        yield from loader


def _unreadable(loader: BatchLoader) -> dict[int, tuple[str, str]]:
    if not loader.unreadable:
        return {}
    rows = np.flatnonzero(loader.skipped(np.arange(loader.manifest.num_samples)))
    paths = [str(place) for place in loader.manifest.image_places(rows)]
    return {
        int(row): (path, loader.unreadable[path]) for row, path in zip(rows, paths, strict=True)
    }


@contextlib.contextmanager
def _owned(folder: Path, end: float, waiting: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Be alone at a folder, and say so: False where another run is at it till a moment."""
    path = folder / "lock"
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            while not (is_owned := is_locked(file)) and time.monotonic() < end:
                waiting()
                time.sleep(_LOOK_SECONDS)
            if is_owned and not _is_same(file, path):
                continue  # who was alone until now has deleted the folder
            yield is_owned
            return


def _is_same(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _make_room(folder: Path, num_bytes: int, limit: int) -> None:
    """Delete features that were not used for longest, until there is room for more."""
    others = sorted(
        (other for other in folder.parent.iterdir() if other != folder),
        key=lambda other: other.stat().st_mtime,
    )
    sizes = {other: _size(other) for other in others}
    total = sum(sizes.values()) + num_bytes
    for other in others:
        if total <= limit:
            break
        with _owned(other, -math.inf) as is_owned:
            if is_owned:  # and a run that reads it has its files open
                shutil.rmtree(other, ignore_errors=True)
                total -= sizes[other]
    free, needed = shutil.disk_usage(folder).free, max(num_bytes - _size(folder), 0)
    if free < needed:
        raise OSError(errno.ENOSPC, f"{size_text(needed)} needed, {size_text(free)} free")


def _size(folder: Path) -> int:
    total = 0
    for file in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another run makes room at this moment
            total += file.stat().st_size
    return total


def _key(
    config: RunConfig, prepared: Prepared, rows: Manifest, trunk: keras.Model, views: int
) -> str:
    """Everything that features depend on, as a name."""
    is_drawn = views > 1 or prepared.tiles.size is not None
    augment = [config.augment.model_dump(mode="json"), config.seed] if is_drawn else None
    about = [
        __version__, keras.backend.backend(), keras.version(),
        rows.digest(), _stamps(rows), prepared.image_size, prepared.task.to_dict(),
        config.data.decode.model_dump(mode="json"), prepared.tiles.model_dump(mode="json"),
        config.data.unreadable, augment, views, module_stamp(config.model.backbone),
        _trunk_digest(trunk),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _stamps(rows: Manifest) -> str:
    """Size and time of change of each file of this machine; a URI stands for its content."""
    places = [rows.image_places(np.arange(rows.num_samples))]
    if rows.has_masks:
        places.append(rows.mask_places(np.arange(rows.num_samples)))
    digest = hashlib.sha256()
    paths = (
        place.shard if isinstance(place, Member) else place for some in places for place in some
    )
    for path in dict.fromkeys(paths):
        digest.update(path.encode())
        if not is_remote(path):
            with contextlib.suppress(OSError):  # the loader says what is wrong with it
                found = Path(path).stat()
                digest.update(f"{found.st_size} {found.st_mtime_ns}".encode())
    return digest.hexdigest()


def _trunk_digest(trunk: keras.Model) -> str:
    """Hash weights and layers of a backbone."""
    digest = hashlib.sha256()
    for layer in leaves(trunk):
        settings = layer.get_config()
        for name in ("name", "trainable"):  # what was built before in this process decides them
            settings.pop(name, None)
        digest.update(f"{type(layer).__name__} {settings}".encode())
        for weight in layer.weights:
            digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
