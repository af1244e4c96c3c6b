"""Folders of samples: class folders, image and mask folders, and split folders over either."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from foveate.config.settings import DataConfig
from foveate.data.checks import in_words, warn_left_out
from foveate.data.listing import SPLIT_WORDS, Listing, refuse
from foveate.data.listings import load_listing, save_listing
from foveate.data.tree import FolderTree
from foveate.errors import ManifestError, listed

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
    kept = load_listing(folder, config)
    if kept is None:
        tree = FolderTree()
        frame = _frame(tree, folder, config)
        kept = frame, _left_out(tree, folder, frame)
        save_listing(folder, config, tree, *kept)
    return _listing(*kept, folder, str(folder))


def _frame(tree: FolderTree, folder: Path, config: DataConfig) -> pl.DataFrame:
    """Find the layout of a folder and list its samples; paths are relative to the folder."""
    folders, images = tree.entries(folder)
    words = {name: SPLIT_WORDS.get(name.lower()) for name in folders}
    # A class may be called "train" among others; split folders stand alone.
    if "train" in words.values() and None not in words.values():
        parts = [(folder / name, split) for name, split in words.items()]
    else:
        parts = [(folder, None)]
    pairs = [_mask_pair(tree, part, config) for part, _ in parts]
    if any(pairs) and not all(pairs):
        lacking = [str(part) for (part, _), pair in zip(parts, pairs, strict=True) if not pair]
        raise ManifestError(
            f"every split of {folder} must have an image and a mask folder, but got none in "
            f"{listed(lacking)}"
        )
    if not any(pairs):
        num_loose = sum(len(tree.entries(part)[1]) for part, split in parts if split is not None)
        _check_classes(tree, folder, [part for part, _ in parts], num_loose + len(images))
    frames = [
        _with_split(_paired(tree, *pair, folder) if pair else _classes(tree, part, folder), split)
        for (part, split), pair in zip(parts, pairs, strict=True)
    ]
    return pl.concat(frames)


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
    tree = FolderTree()
    frame = _paired(tree, images, masks, root)
    return _listing(frame, _left_out(tree, root, frame), root, f"{images} and {masks}")


def _refuse_columns(folder: Path, config: DataConfig) -> None:
    named = [key for key in ("label", "group", "split", "weight") if getattr(config, key)]
    if config.metadata:
        named.append("metadata")
    if named:
        raise ManifestError(
            f"{folder} is a folder, which has no columns, but got "
            f"{listed([f'data.{key}' for key in named])}; give a table to use them"
        )


def _mask_pair(tree: FolderTree, part: Path, config: DataConfig) -> tuple[Path, Path] | None:
    images = part / config.image
    if not tree.is_folder(images):
        images = part / "images"
    masks = part / (config.mask or "masks")
    if tree.is_folder(images) and tree.is_folder(masks):
        return images, masks
    if config.mask is not None:
        raise ManifestError(
            f"{part} must hold an image folder {config.image!r} or 'images' and a mask folder "
            f"{config.mask!r}, but got {_found(tree, part)}"
        )
    return None


def _found(tree: FolderTree, folder: Path) -> str:
    folders, images = tree.entries(folder)
    names = f" ({listed(folders)})" if folders else ""
    return f"{len(folders)} folders{names} and {len(images)} images"


def _check_classes(tree: FolderTree, folder: Path, parts: Sequence[Path], num_loose: int) -> None:
    """Refuse folders without classes, and classes without an image in any split."""
    counts: Counter[str] = Counter()
    others: dict[str, Counter[str]] = defaultdict(Counter)
    nested: set[str] = set()
    for part in parts:
        for name in tree.entries(part)[0]:
            inner, images = tree.entries(part / name)
            counts[name] += len(images)
            others[name] += tree.others(part / name)
            if inner:
                nested.add(name)
    if not counts.total():
        inside = in_words(sum(others.values(), Counter()), "; in its folders are, by suffix, ")
        raise ManifestError(f"{folder} holds {_found(tree, folder)}{inside}; {_LAYOUTS}")
    problems = []
    if empty := [name for name, count in sorted(counts.items()) if not count]:
        inside = in_words(sum((others[name] for name in empty), Counter()), ", only ")
        problems.append(
            f"{folder}: every class folder must hold images, but got none directly in "
            f"{listed([repr(name) for name in empty])}{inside}; remove what is not a class"
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


def _classes(tree: FolderTree, part: Path, root: Path) -> pl.DataFrame:
    paths, labels = [], []
    for name in tree.entries(part)[0]:
        start = (part / name).relative_to(root).as_posix()
        images = tree.entries(part / name)[1]
        paths += [f"{start}/{image}" for image in images]
        labels += [name] * len(images)
    return pl.DataFrame(
        {"image": paths, "label": labels}, {"image": pl.String, "label": pl.String}
    )


def _paired(tree: FolderTree, images: Path, masks: Path, root: Path) -> pl.DataFrame:
    """Pair images and masks by stem; paths are relative to the root where they lie under it."""
    image_of, mask_of = _by_stem(tree, images), _by_stem(tree, masks)
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
    start, mask_start = _start(images, root), _start(masks, root)
    return pl.DataFrame(
        {
            "image": [f"{start}/{name}" for name in image_of.values()],
            "mask": [f"{mask_start}/{mask_of[stem]}" for stem in image_of],
        }
    )


def _start(folder: Path, root: Path) -> str:
    """What paths in a folder begin with; settings may name one that is not under the root."""
    for above in (root, root.absolute(), root.resolve()):
        if folder.is_relative_to(above):
            return folder.relative_to(above).as_posix()
    return folder.as_posix()


def _by_stem(tree: FolderTree, folder: Path) -> dict[str, str]:
    folders, names = tree.entries(folder)
    if folders:
        raise ManifestError(
            f"{folder} must hold images only, but got folders: {listed(folders)}; move their "
            "images up or use a table"
        )
    stems = [name[: name.rindex(".")] for name in names]
    twice = [repr(stem) for stem, count in Counter(stems).items() if count > 1]
    if twice:
        raise ManifestError(
            f"{folder}: names must differ before the suffix, but got two files for {listed(twice)}"
        )
    return dict(zip(stems, names, strict=True))


def _with_split(frame: pl.DataFrame, split: str | None) -> pl.DataFrame:
    return frame if split is None else frame.with_columns(pl.lit(split).alias("split"))


def _left_out(tree: FolderTree, root: Path, frame: pl.DataFrame) -> Counter[str]:
    """Count, by suffix, what lies beside listed images and masks but is not called an image."""
    paths = pl.concat([frame[name] for name in ("image", "mask") if name in frame.columns])
    folders = paths.str.replace("/[^/]*$", "").unique()
    return sum((tree.others(root / folder) for folder in folders), Counter())


def _listing(frame: pl.DataFrame, left_out: Counter[str], root: Path, source: str) -> Listing:
    warn_left_out(left_out, source, stacklevel=5)
    frame = frame.with_row_index("row")
    names = {name: name for name in frame.columns}
    return Listing(frame, root.resolve(), source, names, files_seen=True)
