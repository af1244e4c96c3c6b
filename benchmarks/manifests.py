"""How long large datasets take to begin, and what memory they cost.

A table of a million rows that repeat a few hundred photographs, in a process of its own for each
size: from the table to the first batch of training, once Keras is imported. And a folder of
200,000 files: from the folder to its samples, for the first time, again, and after a change,
beside `keras.utils.image_dataset_from_directory`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import polars as pl

from benchmarks.measuring import print_machine
from benchmarks.photographs import photograph_folder

_ROWS = (1_000, 1_000_000)
_CLASSES = 100
_MIB = 1024**2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.table is not None:
        print(json.dumps(first_batch(arguments.table)))
        return
    # The children come first: a parent's memory would count as theirs.
    tables = measure_tables(arguments.rounds)
    folders = measure_folders(arguments.files, arguments.rounds)
    print_machine("foveate", "keras", "tensorflow-cpu", "tensorflow", "polars")
    print(f"{arguments.rounds} rounds; medians (lowest to highest)\n")
    for line in (*tables, "", *folders):
        print(line)


def first_batch(table: Path) -> dict[str, float]:
    """Go from a table to the first batch of training.

    Args:
        table: A Parquet file.

    Returns:
        Seconds, and the highest memory of the process in bytes.
    """
    from foveate.scale import runtime

    runtime.prepare("tensorflow")
    from foveate.config.files import load_config
    from foveate.training.prepare import prepare

    settings = {"data.metadata": "age,sex", "data.group": "patient"}
    config = load_config(None, {**settings, "model.backbone": "efficientnet_lite0"})
    started = time.perf_counter()
    loader = prepare(table, config).loader("train", config)
    next(iter(loader))
    seconds = time.perf_counter() - started
    loader.close()
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": seconds,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }


def measure_tables(rounds: int) -> list[str]:
    """Measure tables of both sizes in turn; returns lines to print."""
    found: dict[int, list[dict[str, float]]] = {rows: [] for rows in _ROWS}
    with tempfile.TemporaryDirectory() as folder:
        for rows in _ROWS:
            _write_table(Path(folder) / f"{rows}.parquet", rows)
        for _ in range(rounds):
            for rows in _ROWS:
                command = [sys.executable, "-m", "benchmarks.manifests"]
                command += ["--table", f"{folder}/{rows}.parquet"]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[rows].append(json.loads(done.stdout.splitlines()[-1]))
    lines = [f"{'table':26}  seconds to first batch  highest memory, MiB"]
    for rows in _ROWS:
        seconds = _spread([one["seconds"] for one in found[rows]], ".2f")
        memory = _spread([one["peak_bytes"] / _MIB for one in found[rows]], ",.0f")
        lines.append(f"{rows:>13,} rows of Parquet  {seconds:>22}  {memory:>19}")
    pairs = zip(found[_ROWS[1]], found[_ROWS[0]], strict=True)
    more = [(large["peak_bytes"] - small["peak_bytes"]) / _MIB for large, small in pairs]
    lines.append(f"{'the larger above the smaller':50}  {_spread(more, ',.0f'):>19}")
    return lines


def measure_folders(num_files: int, rounds: int) -> list[str]:
    """Measure a folder's first look, second look and change; returns lines to print."""
    import keras

    from foveate.data.manifest import Manifest

    with tempfile.TemporaryDirectory() as place:
        data, cache = Path(place) / "data", Path(place) / "cache"
        _write_files(data, num_files)
        time.sleep(2.1)  # a folder that has just changed is not kept

        def first() -> None:
            os.environ["FOVEATE_CACHE"] = str(cache / str(time.time_ns()))
            Manifest.from_folder(data)

        def changed() -> None:
            (data / "class 000" / f"{time.time_ns()}.jpg").touch()
            Manifest.from_folder(data)

        contestants: dict[str, Callable[[], object]] = {
            "foveate, first": first,
            "foveate, again": lambda: Manifest.from_folder(data),
            "foveate, a file added": changed,
            "image_dataset_from_directory": lambda: keras.utils.image_dataset_from_directory(
                str(data), verbose=False
            ),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(rounds + 1):
            for name, look in contestants.items():
                started = time.perf_counter()
                look()
                if turn > 0:
                    seconds[name].append(time.perf_counter() - started)
            time.sleep(2.1)
    peers = seconds["image_dataset_from_directory"]
    lines = [f"{f'folder of {num_files:,} files':28}  {'seconds':>20}  Keras / this"]
    for name, own in seconds.items():
        ratios = [peer / mine for peer, mine in zip(peers, own, strict=True)]
        lines.append(f"{name:28}  {_spread(own, '.3f'):>20}  {_spread(ratios, '.1f')}")
    return lines


def _spread(values: list[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _write_table(path: Path, rows: int) -> None:
    files = sorted(str(file) for file in photograph_folder().rglob("*.jpg"))
    row = pl.int_range(rows, eager=True).alias("row")
    image = pl.Series("image", files).gather(row % len(files))
    pl.DataFrame(
        {
            "image": image,
            "label": image.str.split("/").list.get(-2),
            "age": 20.0 + row % 61,
            "sex": (row % 2).replace_strict({0: "f", 1: "m"}),
            "patient": row % len(files) // 2,
        }
    ).write_parquet(path)


def _write_files(folder: Path, number: int) -> None:
    for label in range(_CLASSES):
        (folder / f"class {label:03d}").mkdir(parents=True)
        for index in range(number // _CLASSES):
            (folder / f"class {label:03d}" / f"photograph-{index:06d}.jpg").touch()


if __name__ == "__main__":
    main()
