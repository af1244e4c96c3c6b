"""Packing: images and masks into uncompressed tar shards, with an index beside them.

Each file of a sample is named after its row (``000000012.jpg``, ``000000012.mask.png``,
``000000012.json``), as WebDataset wants it. Rows are spread over the shards at random, always in
the same way: who reads some shards alone still meets all classes. The index keeps their order.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from foveate import machine
from foveate.config.settings import CACHE_BYTES, DataConfig
from foveate.data.manifest import Manifest, read_manifest
from foveate.data.packed import INDEX_NAME, PLACES, ROLES, read_index, write_index
from foveate.data.repack import PackOptions, SampleFiles, sample_files
from foveate.data.samples import random_generator
from foveate.data.shard_files import DAMAGED, Packed, read_shard, write_shard
from foveate.data.storage import Storage
from foveate.disk import write_atomically
from foveate.errors import ConfigError, ManifestError, listed

_PLAN_NAME = "pack.json"
_AHEAD = 4  # samples made ahead by each thread
_KINDS = ("image", "mask")


def pack(
    data: Any,
    out: str | Path,
    config: DataConfig | None = None,
    options: PackOptions | None = None,
    threads: int | None = None,
    report: Callable[[int, int], None] | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Manifest:
    """Pack a dataset; started again after a crash, it goes on with the first unfinished shard.

    Args:
        data: A folder, a table, a dataframe, or a Manifest.
        out: Folder for the shards and their index: new, empty, or one of the same pack.
        config: Columns, decoding, and what becomes of unreadable files, see `sample_files`.
        options: What becomes of the images, and the size of the shards.
        threads: Samples read and encoded at once; one per processor when not given.
        report: Called with (samples done, of how many).
        cache_bytes: Most disk space for what is read from far away.

    Returns:
        The packed dataset.

    Raises:
        ConfigError: The folder holds something else.
        ManifestError: The data does not describe a usable dataset.
        SampleError: A file cannot be read; all shards before it are kept.
    """
    config, options = config or DataConfig(), options or PackOptions()
    manifest = data if isinstance(data, Manifest) else read_manifest(data, config)
    folder = Path(out)
    _start(folder, options.plan(manifest, config))
    if not (folder / INDEX_NAME).exists():
        with Storage(cache_bytes) as storage:
            index = _write_shards(manifest, folder, config, options, storage, threads, report)
        roles = [role for role in ROLES if role in manifest.table.columns]
        names = {role: getattr(config, role) or role for role in roles}
        content = write_index(index.table(), manifest.class_names, names)
        write_atomically(folder / INDEX_NAME, content)
    return read_manifest(folder)


def _write_shards(
    manifest: Manifest,
    folder: Path,
    config: DataConfig,
    options: PackOptions,
    storage: Storage,
    threads: int | None,
    report: Callable[[int, int], None] | None,
) -> _Index:
    """Write the shards that are not there yet, and say what lies where in all."""
    threads, skip = threads or machine.cpu_count(), config.unreadable == "skip"
    order = random_generator(0, 0, 0, stream=3).permutation(manifest.num_samples)
    index = _Index(manifest)
    done, shard = _finished(folder, order, index)
    with ThreadPoolExecutor(threads) as pool:
        samples = _ahead(
            pool,
            lambda row: sample_files(manifest, row, storage, config.decode, options, skip),
            order[done:],
            ahead=_AHEAD * threads,
        )
        while done < manifest.num_samples:
            found = write_shard(folder / _name(shard), samples, options.shard_bytes)
            done += index.note(shard, found)
            shard += 1
            if report is not None:
                report(done, manifest.num_samples)
    return index


def verify(folder: str | Path, threads: int | None = None) -> int:
    """Read all shards of a packed dataset and compare each file with its checksum.

    Args:
        folder: What `pack` was given as `out`; on this machine.
        threads: Shards read at once; one per processor when not given.

    Returns:
        Number of files compared.

    Raises:
        ManifestError: Files are damaged or missing; the message names the first of them.
    """
    index = read_index(Path(folder) / INDEX_NAME)
    shards = index.partition_by("shard", as_dict=True)
    with ThreadPoolExecutor(threads or machine.cpu_count()) as pool:
        found = pool.map(
            lambda item: _problems(Path(folder), str(item[0][0]), item[1]), sorted(shards.items())
        )
        problems = [problem for part in found for problem in part]
    if problems:
        raise ManifestError(
            f"{folder} must hold what was packed, but {len(problems)} files are damaged: "
            f"{listed(problems)}; copy the shards again, or pack anew into another folder"
        )
    return index.height * (2 if "mask_offset" in index.columns else 1)


def _problems(folder: Path, shard: str, index: pl.DataFrame) -> list[str]:
    kinds = [kind for kind in _KINDS if f"{kind}_offset" in index.columns]
    expected = {
        (int(row["key"]), kind): Packed(
            int(row["key"]),
            kind,
            *(row[f"{kind}_{what}"] for what in ("offset", "length", "checksum")),
        )
        for row in index.iter_rows(named=True)
        for kind in kinds
    }
    try:
        found = {(entry.row, entry.kind): entry for entry in read_shard(folder / shard)}
    except DAMAGED as error:
        return [f"{shard} ({error})"]
    return [
        f"{shard}: {row:09d} ({kind})"
        for (row, kind), entry in expected.items()
        if found.get((row, kind)) != entry
    ]


def _start(folder: Path, plan: str) -> None:
    """Make the folder of a new pack, or check that it is one of the same pack."""
    path = folder / _PLAN_NAME
    if path.exists():
        there, wanted = json.loads(path.read_text()), json.loads(plan)
        if there != wanted:
            differing = [
                f"{key} {there.get(key)!r} instead of {wanted.get(key)!r}"
                for key in {**there, **wanted}
                if there.get(key) != wanted.get(key)
            ]
            raise ConfigError(
                f"{str(folder)!r} must be a pack of the same data and settings, but has "
                f"{listed(differing)}. Choose another folder, or delete it."
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"A pack needs a new or empty folder, but {str(folder)!r} holds files already. "
            "Choose another, or delete it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, plan)


def _finished(folder: Path, order: NDArray[np.int64], index: _Index) -> tuple[int, int]:
    """Take over the shards that are there: number of their rows, and of the shards."""
    done = shard = 0
    while (path := folder / _name(shard)).exists():
        try:
            found = list(read_shard(path))
        except DAMAGED as error:
            raise ManifestError(
                f"{path} must be a whole shard of this pack, but got: {error}; delete it, and run "
                "the same foveate pack again"
            ) from error
        rows = list(dict.fromkeys(entry.row for entry in found))
        if rows != order[done : done + len(rows)].tolist() or not rows:
            raise ManifestError(
                f"{path} must hold the next rows of this pack, but got others; delete it"
            )
        done += index.note(shard, found)
        shard += 1
    return done, shard


def _name(shard: int) -> str:
    return f"shard-{shard:05d}.tar"


def _ahead(
    pool: ThreadPoolExecutor,
    make: Callable[[int], SampleFiles],
    rows: NDArray[np.int64],
    ahead: int,
) -> Iterator[SampleFiles]:
    """Make samples in threads, a few ahead, and give them in order."""
    waiting: deque[Future[SampleFiles]] = deque()
    try:
        for row in rows.tolist():
            waiting.append(pool.submit(make, row))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class _Index:
    """Collects where each row's image and mask lie."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        rows, self._kinds = manifest.num_samples, _KINDS[: 1 + manifest.has_masks]
        self._shards = np.zeros(rows, np.int64)
        self._numbers = {
            f"{kind}_{what}": np.zeros(rows, np.int64)
            for kind in self._kinds
            for what in ("offset", "length", "checksum")
        }

    def note(self, shard: int, found: Sequence[Packed]) -> int:
        """Note the files of a shard; gives the number of their rows."""
        for entry in found:
            self._shards[entry.row] = shard
            for what in ("offset", "length", "checksum"):
                self._numbers[f"{entry.kind}_{what}"][entry.row] = getattr(entry, what)
        return len({entry.row for entry in found})

    def table(self) -> pl.DataFrame:
        """The columns of the index."""
        rows = range(self._manifest.num_samples)
        columns = {
            "key": [f"{row:09d}" for row in rows],
            "shard": [_name(shard) for shard in self._shards.tolist()],
            **self._numbers,
        }
        table = self._manifest.table.drop(PLACES, strict=False)
        return pl.concat([pl.DataFrame(columns), table], how="horizontal")
