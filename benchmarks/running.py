"""What benchmarks of whole runs share: the datasets, the command line, how it went.

A run is the command as a user types it, in a process of its own. Nothing is remembered of what was
measured before, so each plans anew.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

from foveate.config.files import load_config, split_tokens
from foveate.config.settings import RunConfig
from foveate.data.listing import METADATA_PREFIX
from foveate.data.manifest import Manifest, read_manifest
from foveate.runs import Run

EVERY = 0.2
"""Seconds between two looks at a run."""
_ROLES = ("label", "mask", "group", "split", "weight")


@dataclass(frozen=True)
class Dataset:
    """Something to train on.

    Attributes:
        name: What the table calls it.
        source: What stands after ``foveate train``.
        settings: The flags that follow, without their dashes.
    """

    name: str
    source: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Dataset:
        """Read ``NAME=PATH``, and any flags of ``foveate train`` behind it."""
        words, settings = split_tokens(shlex.split(text))
        name, equals, source = " ".join(words).partition("=")
        if not equals or not Path(source).exists():
            raise argparse.ArgumentTypeError(
                f"{text!r} must be NAME=PATH, with flags behind it, and the path must exist"
            )
        return cls(name, source, settings)

    @property
    def config(self) -> RunConfig:
        """Its settings, all others as they are by default."""
        return load_config(overrides=self.settings)

    def read(self, num_rows: int | None = None) -> Manifest:
        """Read it; of more rows than that, take so many at random, the same each time."""
        manifest = read_manifest(self.source, self.config.data)
        if num_rows is None or num_rows >= manifest.num_samples:
            return manifest
        rows = np.random.default_rng(0).permutation(manifest.num_samples)[:num_rows]
        return manifest.take(np.sort(rows))

    def written(self, manifest: Manifest, path: Path) -> Dataset:
        """Write rows of it as a table that names images by their whole paths.

        Args:
            manifest: The rows.
            path: The CSV file; columns are `image`, `label` and so on.

        Returns:
            The dataset that is in the file.
        """
        rows = np.arange(manifest.num_samples)
        table = manifest.table.with_columns(image=pl.Series(manifest.image_places(rows)))
        if manifest.has_masks:
            table = table.with_columns(mask=pl.Series(manifest.mask_places(rows)))
        table.rename(lambda name: name.removeprefix(METADATA_PREFIX)).write_csv(path)
        columns = {f"data.{role}": role for role in _ROLES if role in table.columns}
        named = {"data.image", *(f"data.{role}" for role in _ROLES)}
        others = {key: value for key, value in self.settings.items() if key not in named}
        return Dataset(self.name, str(path), others | columns)


@dataclass(frozen=True)
class Outcome:
    """How a command went.

    Attributes:
        seconds: From its start to its end.
        problem: What it complained about last; empty where all went well.
    """

    seconds: float
    problem: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the user say what to train on, and where runs stay."""
    parser.add_argument(
        "--data",
        type=Dataset.parse,
        action="append",
        required=True,
        metavar="'NAME=PATH [FLAGS]'",
        help="a dataset, and how to train on it; may be given several times",
    )
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="only these of them")
    parser.add_argument("--rows", type=int, help="of a dataset, at most; all when not given")
    parser.add_argument(
        "--out", type=Path, help="where runs and what they print stay; else they are deleted"
    )
    parser.add_argument(
        "--longest", type=float, default=60.0, help="minutes after which a run is killed"
    )


@contextlib.contextmanager
def place(arguments: argparse.Namespace) -> Iterator[Path]:
    """Give the folder for runs: the stated one, or one that is deleted in the end."""
    with tempfile.TemporaryDirectory(prefix="foveate-benchmark-") as name:
        folder = arguments.out or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()


def chosen(arguments: argparse.Namespace, folder: Path) -> list[Dataset]:
    """Give the datasets to train on, those of too many rows cut down."""
    known = [dataset.name for dataset in arguments.data]
    names = arguments.datasets or known
    if not set(names) <= set(known):
        raise SystemExit(f"--datasets must be among {known}, but got {names}")
    datasets = [dataset for dataset in arguments.data if dataset.name in names]
    if arguments.rows is None:
        return datasets
    return [
        dataset.written(dataset.read(arguments.rows), folder / f"{dataset.name}.csv")
        for dataset in datasets
    ]


def model_settings(backbone: str) -> dict[str, str]:
    """Read ``NAME`` or ``NAME:WEIGHTS``, as --backbones takes them."""
    name, _, weights = backbone.partition(":")
    return {"model.backbone": name, "model.weights": weights or "auto"}


def train(
    dataset: Dataset,
    settings: Mapping[str, str],
    out: Path,
    longest: float,
    before: Sequence[str] = (),
    watch: Callable[[Any], None] = lambda process: None,
) -> Outcome:
    """Run ``foveate train``.

    Args:
        dataset: What to train on; its settings win.
        settings: More of them.
        out: The run folder; what the run prints stays beside it, in a file ``.log``.
        longest: Minutes after which it is killed.
        before: Words that stand before the command.
        watch: Gets the `psutil.Process` every `EVERY` seconds.

    Returns:
        How it went.
    """
    flags = [part for k, v in {**settings, **dataset.settings}.items() for part in (f"--{k}", v)]
    command = [sys.executable, "-m", "foveate", "train", dataset.source, *flags]
    return run([*before, *command, "--out", str(out)], Path(f"{out}.log"), longest, watch)


def run(
    command: Sequence[str],
    log: Path,
    longest: float,
    watch: Callable[[Any], None] = lambda process: None,
) -> Outcome:
    """Run a command to its end; the arguments are those of `train`."""
    with tempfile.TemporaryDirectory() as cache, log.open("w") as lines:
        environment = {**os.environ, "FOVEATE_CACHE": cache}
        start = time.perf_counter()
        process = psutil.Popen(command, stdout=lines, stderr=subprocess.STDOUT, env=environment)
        code: int | None = None
        while code is None:
            try:
                code = process.wait(EVERY)
            except psutil.TimeoutExpired:
                with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                    watch(process)
                    if time.perf_counter() - start > 60 * longest:
                        _kill(process)
        seconds = time.perf_counter() - start
    if seconds > 60 * longest:
        return Outcome(seconds, f"killed after {longest:g} minutes")
    return Outcome(seconds, _complaint(log, code) if code else "")


def _kill(process: Any) -> None:
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def _complaint(log: Path, code: int) -> str:
    """The last that was said, or what an error said of itself."""
    lines = [line.strip() for line in log.read_text().splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error:")] or lines[-1:] or ["said nothing"]
    return f"exit code {code}, {told[-1].removeprefix('error: ')}"


def score(out: Path) -> float:
    """Give the main score of a finished run on its test split: accuracy, or mean IoU."""
    opened = Run(out)
    return next(iter(opened.load_json(opened.evaluation_path("test"))["scores"].values()))
