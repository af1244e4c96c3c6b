"""One pass over all masks: are they readable, do they fit their images, what do they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from foveate.config.settings import CACHE_BYTES, DecodeConfig
from foveate.data.decode import decode_mask, probe
from foveate.data.manifest import Manifest
from foveate.data.storage import Storage
from foveate.errors import ManifestError, SampleError

IGNORED = 255
"""Mask id of pixels without a class."""

_CHUNK = 64  # masks a thread takes at once: small enough to report often
_BAND = 2**20  # pixels counted at once: NumPy counts what takes eight times their bytes
_COMMON = 10  # rows that give each of the default splits (80/10/10) at least one


class _Counts(NamedTuple):
    """The values in one mask and their pixels; its size, 0 where it cannot be used."""

    ids: NDArray[np.intp]
    pixels: NDArray[np.int64]
    size: tuple[int, int]


_NOTHING = _Counts(np.empty(0, np.intp), np.empty(0, np.int64), (0, 0))


@dataclass(frozen=True, eq=False)
class MaskScan:
    """What the masks of a manifest hold.

    Attributes:
        values: Mask values found, ascending, without the ignored one.
        pixels: Pixels of each value in each mask, int64 of shape (rows, values).
        sizes: (height, width) of each mask in pixels, int64 of shape (rows, 2); 0 where it cannot
            be used.
    """

    values: tuple[int, ...]
    pixels: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which values each mask holds, bool of shape (rows, values)."""
        return self.pixels > 0

    def strata(self) -> NDArray[np.int64]:
        """Number the rows by which values appear in them, to stratify splits.

        Rows whose combination of values is rare are numbered by the rarest value they hold: of a
        combination that no other row has, there is nothing to spread, but of its values there is.

        Returns:
            Integers of shape (rows,), 0 or more.
        """
        present = self.present
        combinations, codes, counts = np.unique(
            present, axis=0, return_inverse=True, return_counts=True
        )
        frequency = np.where(present, present.sum(axis=0), len(present) + 1)
        codes = codes.ravel()  # numpy 2.0 alone gives it two dimensions
        rare = (counts < _COMMON)[codes] & present.any(axis=1)
        rarest = np.argmin(frequency[rare], axis=1) if rare.any() else 0
        codes[rare] = len(combinations) + rarest
        return codes.astype(np.int64)


def scan_masks(
    manifest: Manifest,
    decode: DecodeConfig,
    threads: int,
    report: Callable[[int, int], None] | None = None,
    ignore: int | None = None,
    max_unreadable: float = 0.0,
    cache_bytes: int = CACHE_BYTES,
) -> MaskScan:
    """Decode every mask once and count its values.

    Args:
        manifest: Samples with masks.
        decode: How files become pixels.
        threads: Masks decoded at once.
        report: Called with the number of masks done and their total, as the scan goes on.
        ignore: Mask value (0 to 255) of unlabelled pixels, which is not counted.
        max_unreadable: Share of the rows, 0 to 1, that may be unusable: they count as empty.
        cache_bytes: Most disk space for what is read from far away.

    Returns:
        What the masks hold.

    Raises:
        ManifestError: If too many masks or images cannot be read, or differ in their sizes; the
            message tells the first of all such rows, and their number.
    """
    rows = range(manifest.num_samples)
    chunks = [rows[start : start + _CHUNK] for start in rows[::_CHUNK]]
    found: list[_Counts] = []
    problems: list[str] = []
    storage = Storage(cache_bytes)
    pool = ThreadPoolExecutor(threads)
    try:
        work = pool.map(lambda chunk: _scan_chunk(manifest, chunk, decode, storage), chunks)
        for chunk, (counts, errors) in zip(chunks, work, strict=True):
            found += counts
            problems += errors
            if report is not None:
                report(chunk.stop, manifest.num_samples)
    finally:
        pool.shutdown(cancel_futures=True)
        storage.close()
    if problems and len(problems) / manifest.num_samples > max_unreadable:
        allowed = f"all but {max_unreadable:.4g} of the masks" if max_unreadable else "every mask"
        raise ManifestError(
            f"{manifest.source}: {allowed} must be readable and of its image's size, but "
            f"{len(problems)} of {manifest.num_samples} are not:\n- "
            + "\n- ".join(problems[:5])
            + ("\n- ..." if len(problems) > 5 else "")
        )
    return _gathered(found, ignore)


def _scan_chunk(
    manifest: Manifest, rows: Sequence[int], decode: DecodeConfig, storage: Storage
) -> tuple[list[_Counts], list[str]]:
    counts, problems = [], []
    for row in rows:
        try:
            counts.append(_scan_row(manifest, row, decode, storage))
        except SampleError as error:
            counts.append(_NOTHING)
            problems.append(str(error))
    return counts, problems


def _scan_row(manifest: Manifest, row: int, decode: DecodeConfig, storage: Storage) -> _Counts:
    image = storage.fetch(manifest.image_places(np.array([row]))[0])
    mask = storage.fetch(manifest.mask_places(np.array([row]))[0])
    size, values = probe(image, decode), decode_mask(mask, decode)
    if values.shape != size:
        raise SampleError(
            f"{mask} must have the size of its image, (height, width) {size}, but got "
            f"{values.shape}; the image is {image}"
        )
    flat = values.ravel()
    bands = (flat[start : start + _BAND] for start in range(0, flat.size, _BAND))
    pixels = sum((np.bincount(band, minlength=256) for band in bands), np.zeros(256, np.int64))
    ids = np.flatnonzero(pixels)
    return _Counts(ids, pixels[ids], size)


def _gathered(found: Sequence[_Counts], ignore: int | None) -> MaskScan:
    known = np.unique(np.concatenate([_NOTHING.ids, *(each.ids for each in found)]))
    known = known[known != ignore] if ignore is not None else known
    pixels = np.zeros((len(found), known.size), np.int64)
    for row, (ids, counts, _) in enumerate(found):
        kept = ids != ignore if ignore is not None else slice(None)
        pixels[row, np.searchsorted(known, ids[kept])] = counts[kept]
    sizes = np.array([each.size for each in found], np.int64).reshape(-1, 2)
    return MaskScan(tuple(int(value) for value in known), pixels, sizes)


def encode_mask(
    mask: NDArray[np.uint8], name: str, encode: Callable[[Any], NDArray[Any]] | None
) -> NDArray[np.uint8]:
    """Turn the values of a mask into class ids.

    Args:
        mask: uint8 (H, W).
        name: What messages call it.
        encode: Such as `Task.encode`; None leaves the mask as it is.

    Raises:
        SampleError: It holds a value that is no class.
    """
    if encode is None:
        return mask
    try:
        return encode(mask)
    except SampleError as error:
        raise SampleError(f"{name}: {error}") from None
