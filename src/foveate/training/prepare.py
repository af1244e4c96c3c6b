"""From data and settings to everything a run decides before its first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate import machine
from foveate.config.settings import RunConfig
from foveate.config.tiles import TilesConfig
from foveate.data.decode import probe
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest, read_manifest
from foveate.data.masks import scan_masks
from foveate.data.metadata import MetadataSchema, fit_schema
from foveate.data.remote import protocols, require_protocol
from foveate.data.samples import label_ids
from foveate.data.splits import assign_splits
from foveate.data.storage import Storage
from foveate.data.tiles import count, grid, require_room, visits, with_sizes
from foveate.errors import ConfigError, ManifestError, SampleError, listed
from foveate.models.backbones import get_backbone
from foveate.models.build import ModelInputs
from foveate.models.fusion import MetadataInputs
from foveate.tasks.base import Task
from foveate.tasks.classification import Classification
from foveate.tasks.segmentation import Segmentation

_PROBED = 200
_LARGEST_NATIVE = 128
_MOST_CLASSES = 254  # the two ids left mark ignored and impossible pixels


@dataclass(frozen=True)
class Prepared:
    """What is to be learned, from what.

    Attributes:
        manifest: All rows with their splits.
        task: What is predicted.
        schema: The metadata columns, fitted on the training split; None without metadata.
        class_counts: Training samples (pixels for masks) of each class, (K,) int64.
        image_size: (height, width) the model sees.
        tiles: How images are cut into tiles, if they are.
    """

    manifest: Manifest
    task: Task
    schema: MetadataSchema | None
    class_counts: NDArray[np.int64]
    image_size: tuple[int, int]
    tiles: TilesConfig

    @property
    def model_inputs(self) -> ModelInputs:
        """What the model takes."""
        return ModelInputs(self.image_size, metadata_inputs(self.schema))

    def rows(self, split: str) -> Manifest:
        """Give what the loader of a split reads: its rows, or a row a tile.

        A tile of the training split is drawn anew at each visit; those of the others together
        cover each image once.
        """
        rows = self.manifest.split(split)
        if self.tiles.size is None:
            return rows
        return visits(rows, self.tiles.size) if split == "train" else grid(rows, self.tiles.size)

    def num_judged(self, split: str) -> int:
        """Count what the model sees when a split is judged: its images, or overlapping tiles."""
        rows = self.manifest.split(split)
        if self.tiles.size is None:
            return rows.num_samples
        return count(rows, self.tiles.size, self.tiles.overlap)

    def loader(self, split: str, config: RunConfig, **others: Any) -> BatchLoader:
        """Make the loader of a split: shuffled and augmented for training, plain otherwise.

        Args:
            split: Name of the split.
            config: The settings.
            others: Arguments of `BatchLoader` that are to be other than these would have them.
        """
        train = split == "train"
        options: dict[str, Any] = {
            "shuffle": train,
            "augment": config.augment if train else None,
            "encode": self.task.encode,
            "num_classes": self.task.num_outputs,
            "metadata": self.schema,
            "decode": config.data.decode,
            "sampling": config.loader.sampling if train else "uniform",
            "repeat": config.loader.repeat if train else 1,
            "remainder": "drop" if train else "keep",
            "cycle": config.gradient_accumulation_steps if train else 1,
            "seed": config.seed,
            "threads": config.loader.threads,
            "processes": (config.loader.processes or 0) if train else 0,
            "queue_bytes": config.loader.queue,
            "cache_bytes": config.cache_bytes,
            "unreadable": config.data.unreadable,
            "max_unreadable": config.data.max_unreadable,
            "tiles": self.tiles,
        }
        return BatchLoader(
            self.rows(split), self.image_size, config.batch_size, **{**options, **others}
        )


def prepare(
    data: Any, config: RunConfig, report: Callable[[int, int], None] | None = None
) -> Prepared:
    """Read the manifest, settle the task, divide the rows, fit the metadata.

    Args:
        data: A folder, a table file, a dataframe, or a Manifest.
        config: The settings.
        report: Called with (masks read, masks to read) while masks are counted.

    Returns:
        All that the training needs to know.

    Raises:
        ManifestError: The data does not describe a usable dataset.
        ConfigError: The settings contradict the data.
    """
    manifest = data if isinstance(data, Manifest) else read_manifest(data, config.data)
    for protocol in remote_protocols(manifest):  # not in the first batch
        require_protocol(protocol)
    kind = _kind(manifest, config)
    if kind == "segmentation":
        manifest, task, counts = _segmentation(manifest, config, report)
    else:
        manifest, task, counts = _classification(manifest, config)
    train = manifest.split("train")
    for split in ("train", "validation"):
        _require_weight(manifest.split(split), split)
    schema = fit_schema(train, config.data.columns) if manifest.metadata_columns else None
    if schema is not None:
        schema.arrays(manifest)  # a bad value in a later split is better told now
    size = _image_size(train, config)
    return Prepared(manifest, task, schema, counts, size, config.data.tiles)


def metadata_inputs(schema: MetadataSchema | None) -> MetadataInputs | None:
    """Tell the model what the metadata columns look like."""
    if schema is None:
        return None
    return MetadataInputs(
        means=tuple(column.mean for column in schema.numeric),
        deviations=tuple(column.deviation for column in schema.numeric),
        log=tuple(column.log for column in schema.numeric),
        vocabulary_sizes=tuple(len(column.vocabulary) for column in schema.categorical),
    )


def remote_protocols(manifest: Manifest) -> set[str]:
    """Collect what the places of images and masks that are far away begin with."""
    columns = {"shard"} if manifest.is_packed else {"image", "mask"}
    found = (protocols(manifest.table[name]) for name in columns & set(manifest.table.columns))
    return set().union(*found)


def _require_weight(rows: Manifest, split: str) -> None:
    table = rows.table
    if "weight" in table.columns and table.height and not (table["weight"] > 0).any():
        raise ManifestError(
            f"{rows.source}: some row of the {split} split must have a weight above 0, or its "
            "loss says nothing, but all weights are 0."
        )


def _kind(manifest: Manifest, config: RunConfig) -> str:
    if manifest.has_masks and "label" in manifest.table.columns:
        raise ConfigError(
            "A run predicts labels or masks: name data.label or data.mask, not both."
        )
    found = "segmentation" if manifest.has_masks else "classification"
    if config.task not in ("auto", found):
        needed = "masks (data.mask)" if config.task == "segmentation" else "labels (data.label)"
        raise ConfigError(
            f"task {config.task!r} needs {needed}, but got a {found} dataset "
            f"from {manifest.source}."
        )
    if found == "classification" and config.recipe.loss.name in ("dice", "cross_entropy_dice"):
        raise ConfigError(
            f"recipe.loss must be cross_entropy or focal for labels, but got "
            f"{config.recipe.loss.name!r}, which is for masks."
        )
    balanced = config.loader.sampling, config.recipe.loss.class_weights
    if found == "classification" and balanced == ("balanced", "balanced"):
        raise ConfigError(
            "Rare classes are either drawn more often (loader.sampling balanced) or weigh more "
            "(recipe.loss.class_weights balanced), but got both, which would be too much. Choose "
            "one."
        )
    if found == "classification" and config.data.tiles.size is not None:
        raise ConfigError(
            f"data.tiles cuts images with masks, but got a classification dataset from "
            f"{manifest.source}: a tile has no label of its own. Leave data.tiles out."
        )
    if found == "segmentation" and (config.augment.mix.mixup or config.augment.mix.cutmix):
        raise ConfigError("augment.mix blends labels, not masks: set mixup and cutmix to 0.")
    return found


def _classification(
    manifest: Manifest, config: RunConfig
) -> tuple[Manifest, Task, NDArray[np.int64]]:
    task = Classification(manifest.class_names)
    manifest = assign_splits(manifest, config.data.splits, config.seed)
    ids = label_ids(manifest.split("train"), task.encode)
    return manifest, task, np.bincount(ids, minlength=task.num_outputs)


def _segmentation(
    manifest: Manifest, config: RunConfig, report: Callable[[int, int], None] | None
) -> tuple[Manifest, Task, NDArray[np.int64]]:
    ignore, names = config.data.masks.ignore, config.data.masks.class_names
    in_tiles = config.data.tiles.size is not None
    # Masks of large images take much memory: one at a time.
    threads = 1 if in_tiles else config.loader.threads or machine.cpu_count()
    skip = config.data.unreadable == "skip"
    scan = scan_masks(
        manifest,
        config.data.decode,
        threads=threads,
        ignore=ignore,
        report=report,
        max_unreadable=config.data.max_unreadable if skip else 0.0,
        cache_bytes=config.cache_bytes,
    )
    if len(scan.values) < 2:
        raise ConfigError(
            f"Masks must hold at least two classes, but got the value(s) {list(scan.values)} only."
        )
    if len(scan.values) > _MOST_CLASSES:
        raise ConfigError(
            f"Masks must hold at most {_MOST_CLASSES} classes, but got {len(scan.values)} values. "
            "Were they smoothed, or saved with loss? A mask holds ids, not shades."
        )
    if names and len(names) != len(scan.values):
        raise ConfigError(
            f"data.masks.class_names must name the {len(scan.values)} mask values "
            f"{list(scan.values)}, but got {len(names)} names."
        )
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ConfigError(
            f"data.masks.class_names must differ, but got several {listed(twice)}: their shares "
            "and scores could not be told apart."
        )
    task = Segmentation(names or [str(value) for value in scan.values], scan.values, ignore)
    if in_tiles:
        manifest = with_sizes(manifest, scan.sizes)
        require_room(manifest, config.cache_bytes // max(config.loader.processes or 0, 1))
    manifest = assign_splits(manifest, config.data.splits, config.seed, scan.strata())
    in_train = (manifest.table["split"].cast(str) == "train").to_numpy()
    return manifest, task, scan.pixels[in_train].sum(axis=0)


def _image_size(train: Manifest, config: RunConfig) -> tuple[int, int]:
    """The stated size, the tile's, the backbone's own, or the usual size of the images."""
    stated = config.data.image_size or config.data.tiles.size
    if stated is not None:
        return stated
    native = get_backbone(config.model.backbone).native_size
    if native is not None:
        return native
    height, width = np.median(np.array(_some_sizes(train, config)), axis=0)
    return min(int(height), _LARGEST_NATIVE), min(int(width), _LARGEST_NATIVE)


def _some_sizes(train: Manifest, config: RunConfig) -> list[tuple[int, int]]:
    rows = np.linspace(0, train.num_samples - 1, min(_PROBED, train.num_samples)).astype(int)
    sizes = []
    problems: list[SampleError] = []
    with Storage(config.cache_bytes) as storage:
        for place in train.image_places(rows):
            try:
                sizes.append(probe(storage.fetch(place), config.data.decode))
            except SampleError as error:
                problems.append(error)
    if problems and (not sizes or config.data.unreadable == "fail"):
        raise problems[0]
    return sizes
