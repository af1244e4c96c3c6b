"""Folders of samples: class folders, image and mask folders, and split folders over either."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from foveate.config.settings import DataConfig
from foveate.data.listing import SPLIT_WORDS, Listing, refuse
from foveate.errors import ManifestError, listed

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
"""Files that count as images when a folder is listed, in lower case."""

_LAYOUTS = """a folder must be laid out as one of
  <class>/*.jpg                      a folder for each class
  images/*.jpg and masks/*.png       an image and its mask have one name up to the suffix
  train/ [validation/] [test/]       over either of these
or name a table (.csv, .tsv, .parquet)"""


def list_folder(folder: Path, config: DataConfig) -> Listing:
    """List the samples of a folder whose layout says labels or masks, and splits.

    Args:
        folder: Folder of class folders, or of an image and a mask folder, or of split folders
            over either. Hidden entries are skipped.
        config: `image` and `mask` name the image and mask folders.

    Returns:
        Its samples, with paths relative to the folder, in their order.

    Raises:
        ManifestError: If the layout is none of these, or classes or masks are incomplete.
    """
    _refuse_columns(folder, config)
    folders, images = _entries(folder)
    words = {name: SPLIT_WORDS.get(name.lower()) for name in folders}
    # A class may be called "train" among others; split folders stand alone.
    if "train" in words.values() and None not in words.values():
        parts = [(folder / name, split) for name, split in words.items()]
    else:
        parts = [(folder, None)]
    pairs = [_mask_pair(part, config) for part, _ in parts]
    if any(pairs) and not all(pairs):
        lacking = [str(part) for (part, _), pair in zip(parts, pairs, strict=True) if not pair]
        raise ManifestError(
            f"every split of {folder} must have an image and a mask folder, but got none in "
            f"{listed(lacking)}"
        )
    if not any(pairs):
        num_loose = sum(len(_entries(part)[1]) for part, split in parts if split is not None)
        _check_classes(folder, [part for part, _ in parts], num_loose + len(images))
    frames = [
        _with_split(_paired(*pair, folder) if pair else _classes(part, folder), split)
        for (part, split), pair in zip(parts, pairs, strict=True)
    ]
    return _listing(frames, folder, str(folder))


def list_mask_folders(images: Path, masks: Path, config: DataConfig) -> Listing:
    """List the samples of a folder of images and a folder of their masks.

    Args:
        images: Folder of images.
        masks: Folder of masks; an image and its mask have one name up to the suffix.
        config: Must name no columns, which folders do not have.

    Returns:
        Their samples, with paths relative to the nearest common folder, in the order of names.

    Raises:
        ManifestError: If an image has no mask, a mask no image, or a name stands for two files.
    """
    _refuse_columns(images, config)
    images, masks = images.resolve(), masks.resolve()
    root = Path(os.path.commonpath([images, masks]))
    return _listing([_paired(images, masks, root)], root, f"{images} and {masks}")


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the visible folders and image files in a folder, each sorted."""
    folders, images = [], []
    if not folder.is_dir():
        raise ManifestError(f"{str(folder)!r} must be a folder, but got a file")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
                images.append(entry.name)  # Path() would double the time of a large folder
    return sorted(folders), sorted(images)


def _refuse_columns(folder: Path, config: DataConfig) -> None:
    named = [key for key in ("label", "group", "split", "weight") if getattr(config, key)]
    if config.metadata:
        named.append("metadata")
    if named:
        raise ManifestError(
            f"{folder} is a folder, which has no columns, but got "
            f"{listed([f'data.{key}' for key in named])}; give a table to use them"
        )


def _mask_pair(part: Path, config: DataConfig) -> tuple[Path, Path] | None:
    images = part / config.image
    if not images.is_dir():
        images = part / "images"
    masks = part / (config.mask or "masks")
    if images.is_dir() and masks.is_dir():
        return images, masks
    if config.mask is not None:
        raise ManifestError(
            f"{part} must hold an image folder {config.image!r} or 'images' and a mask folder "
            f"{config.mask!r}, but got {_found(part)}"
        )
    return None


def _found(folder: Path) -> str:
    folders, images = _entries(folder)
    names = f" ({listed(folders)})" if folders else ""
    return f"{len(folders)} folders{names} and {len(images)} images"


def _check_classes(folder: Path, parts: Sequence[Path], num_loose: int) -> None:
    """Refuse folders without classes, and classes without an image in any split."""
    counts: Counter[str] = Counter()
    nested: set[str] = set()
    for part in parts:
        for name in _entries(part)[0]:
            inner, images = _entries(part / name)
            counts[name] += len(images)
            if inner:
                nested.add(name)
    if not counts.total():
        raise ManifestError(f"{folder} holds {_found(folder)}; {_LAYOUTS}")
    problems = []
    if empty := [repr(name) for name, count in sorted(counts.items()) if not count]:
        problems.append(
            f"{folder}: every class folder must hold images, but got none directly in "
            f"{listed(empty)}; remove what is not a class"
        )
    if deep := sorted(nested & {name for name, count in counts.items() if count}):
        problems.append(
            f"{folder}: a class folder must hold images only, but got folders in "
            f"{listed([repr(name) for name in deep])}; move their images up or use a table"
        )
    if num_loose:
        problems.append(
            f"{folder}: every image must be in a class folder, but got {num_loose} beside them"
        )
    refuse(problems)


def _classes(part: Path, root: Path) -> pl.DataFrame:
    paths, labels = [], []
    for name in _entries(part)[0]:
        start = (part / name).relative_to(root).as_posix()
        images = _entries(part / name)[1]
        paths += [f"{start}/{image}" for image in images]
        labels += [name] * len(images)
    return pl.DataFrame(
        {"image": paths, "label": labels}, {"image": pl.String, "label": pl.String}
    )


def _paired(images: Path, masks: Path, root: Path) -> pl.DataFrame:
    """Pair images and masks by stem; paths are relative to the root."""
    image_of, mask_of = _by_stem(images), _by_stem(masks)
    problems = [
        f"every {what} in {here} must have its {other} of the same stem in {there}, "
        f"but got none for {listed([repr(files[stem]) for stem in files if stem not in others])}"
        for what, files, here, other, others, there in (
            ("image", image_of, images, "mask", mask_of, masks),
            ("mask", mask_of, masks, "image", image_of, images),
        )
        if files.keys() - others.keys()
    ]
    if not image_of and not mask_of:
        problems.append(f"{images} and {masks} must hold images and masks, but got none")
    refuse(problems)
    start, mask_start = (part.relative_to(root).as_posix() for part in (images, masks))
    return pl.DataFrame(
        {
            "image": [f"{start}/{name}" for name in image_of.values()],
            "mask": [f"{mask_start}/{mask_of[stem]}" for stem in image_of],
        }
    )


def _by_stem(folder: Path) -> dict[str, str]:
    folders, names = _entries(folder)
    if folders:
        raise ManifestError(
            f"{folder} must hold images only, but got folders: {listed(folders)}; move their "
            "images up or use a table"
        )
    stems = [Path(name).stem for name in names]
    twice = [repr(stem) for stem, count in Counter(stems).items() if count > 1]
    if twice:
        raise ManifestError(
            f"{folder}: names must differ before the suffix, but got two files for {listed(twice)}"
        )
    return dict(zip(stems, names, strict=True))


def _with_split(frame: pl.DataFrame, split: str | None) -> pl.DataFrame:
    return frame if split is None else frame.with_columns(pl.lit(split).alias("split"))


def _listing(frames: Sequence[pl.DataFrame], root: Path, source: str) -> Listing:
    frame = pl.concat(frames).with_row_index("row")
    return Listing(frame, root.resolve(), source, {name: name for name in frame.columns})
