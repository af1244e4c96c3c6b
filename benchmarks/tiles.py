"""Whether the memory of a run in tiles depends on how large its images are.

Canvases of two sizes are put together from the scenes of `foveate quickstart`. On each a small
network is trained for an epoch, judged, and asked for the mask of one canvas, each in a process of
its own. What may differ is the moment in which one file is decoded, so that is told beside.

With --ram a plan chooses the batch, and what it tried is counted too: the peak is that of the
largest process, trial or run, or prediction.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.measuring import print_machine
from foveate.quickstart import write_dataset

_MIB = 1024**2
_SETTINGS = {
    "data.image": "images",
    "data.mask": "masks",
    "data.image_size": "128",
    "data.splits.validation": "0.25",
    "data.splits.test": "0.25",
    "model.backbone": "simple_cnn",
    "recipe.epochs": "1",
}
_FOVEATE = (sys.executable, "-m", "foveate")


def main() -> None:
    """Train and predict on small and large canvases, then print the memory of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[2000, 6000])
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--canvases", type=int, default=4)
    parser.add_argument(
        "--ram", metavar="SIZE", help="budget.ram; batches of 8 without a plan when not given"
    )
    arguments = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = write_dataset("segmentation", folder / "scenes")
        for side in arguments.sides:
            data, run = folder / f"canvases-{side}", folder / f"run-{side}"
            _write_canvases(scenes, data, side, arguments.canvases)
            flags = {**_SETTINGS, "data.tiles": str(arguments.tile)}
            flags |= {"budget.ram": arguments.ram} if arguments.ram else {"data.batch_size": "8"}
            settings = [part for key, value in flags.items() for part in (f"--{key}", value)]
            train = _measured([*_FOVEATE, "train", str(data), *settings, "--out", str(run)])
            image, out = str(data / "images" / "0.png"), str(folder / "out.csv")
            predict = _measured([*_FOVEATE, "predict", str(run), image, "--out", out])
            lines.append((side, 4 * side**2 / _MIB, *train, *predict))
    print_machine("foveate", "keras", "tensorflow-cpu", "tensorflow", "opencv-python-headless")
    print(f"{arguments.canvases} canvases, tiles of {arguments.tile} pixels\n")
    print("side  one decoded MiB  train: peak MiB  seconds  predict one: peak MiB  seconds")
    for side, decoded, peak, seconds, predict_peak, predict_seconds in lines:
        print(
            f"{side:4}  {decoded:15,.0f}  {peak:15,.0f}  {seconds:7,.0f}  {predict_peak:21,.0f}  "
            f"{predict_seconds:7,.0f}"
        )


def _write_canvases(scenes: Path, folder: Path, side: int, count: int) -> None:
    """Lay scenes side by side, drawn at random, with their masks."""
    names = sorted(path.name for path in (scenes / "images").iterdir())
    pairs = [_read(scenes, name) for name in names]
    step = pairs[0][0].shape[0]
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        drawn = rng.integers(0, len(pairs), (-(-side // step),) * 2)
        for kind, name in enumerate(("images", "masks")):
            lines = [np.hstack([pairs[scene][kind] for scene in line]) for line in drawn]
            canvas = np.vstack(lines)[:side, :side]
            cv2.imwrite(str(folder / name / f"{number}.png"), canvas)


def _read(scenes: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    mask = scenes / "masks" / Path(name).with_suffix(".png")
    image = cv2.imread(str(scenes / "images" / name), cv2.IMREAD_COLOR)
    return np.asarray(image), np.asarray(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED))


def _measured(command: list[str]) -> tuple[float, float]:
    """Run a command; gives its highest resident memory in MiB, and its seconds."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * unit / _MIB, time.perf_counter() - started


if __name__ == "__main__":
    main()
