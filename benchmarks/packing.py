"""How much faster batches come from shards than from files.

The same JPEG files, batches of 32 at 224x224, the recipe of `benchmarks.loader`, as many threads
as cores: from files, packed as they are, and packed at short side 256.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.loader import RECIPE
from benchmarks.measuring import (
    Clock,
    Stream,
    loader_stream,
    measure_stream,
    print_machine,
    print_ratios,
    take_turns,
)
from benchmarks.photographs import photograph_folder
from foveate.data.manifest import Manifest
from foveate.data.repack import PackOptions
from foveate.data.shards import pack
from foveate.scale import runtime

_SIDE = 256


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="class folders of JPEG files of your own")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each in each round")
    arguments = parser.parse_args()
    runtime.prepare("tensorflow")
    folder = arguments.data or photograph_folder()
    smaller = f"packed at short side {_SIDE}"
    with tempfile.TemporaryDirectory() as out:
        contestants = {
            smaller: _packed(folder, Path(out) / "smaller", PackOptions(side=_SIDE)),
            "packed as they are": _packed(folder, Path(out) / "as_they_are", PackOptions()),
            "files": Manifest.from_folder(folder),
        }
        turns = {
            name: partial(measure_stream, _stream(data, arguments.threads), arguments.seconds)
            for name, data in contestants.items()
        }
        speeds = take_turns(turns, arguments.rounds)
    print_machine("foveate", "keras", "opencv-python-headless", "simplejpeg")
    print(f"{arguments.threads} threads, {arguments.rounds} rounds in turn\n")
    print_ratios(speeds, smaller)


def _packed(folder: Path, out: Path, options: PackOptions) -> Manifest:
    clock = Clock()
    packed = pack(folder, out, options=options)
    rate = packed.num_samples / clock.seconds
    num_bytes = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out.name}: packed at {rate:,.0f} images/s, {num_bytes / 2**20:.1f} MiB")
    return packed


def _stream(manifest: Manifest, threads: int) -> Stream:
    from foveate.data.loader import BatchLoader

    loader = BatchLoader(manifest, (224, 224), shuffle=True, augment=RECIPE, threads=threads)
    return loader_stream(loader)


if __name__ == "__main__":
    main()
