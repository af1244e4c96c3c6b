"""Whether a run that is killed again and again ends with the very same weights.

One run of two stages is left alone; another is killed with SIGKILL at random moments, in whatever
it is doing then, and resumed each time. The weights of both are compared bit by bit.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from foveate.quickstart import write_dataset
from foveate.runs import Run
from foveate.scale import runtime

_SETTINGS = {
    "data.image_size": "32",
    "model.backbone": "efficientnet_lite0",
    "augment.preset": "strong",
    "recipe.epochs": "8",
    "recipe.fine_tune_epochs": "4",
    "checkpoint.every_steps": "4",
}
_FOVEATE = (sys.executable, "-m", "foveate", "train")


def main() -> None:
    """Run, kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    runtime.prepare("tensorflow")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_dataset("classification", folder / "digits")
        flags = [part for key, value in _SETTINGS.items() for part in (f"--{key}", value)]
        start = [*_FOVEATE, str(data), *flags]
        whole, killed = folder / "whole", folder / "killed"
        subprocess.run([*start, "--out", str(whole)], check=True, stdout=subprocess.DEVNULL)
        _train_killed([*start, "--out", str(killed)], killed, arguments.kills, arguments.seed)
        _compare(whole, killed)


def _train_killed(start: list[str], out: Path, kills: int, seed: int) -> None:
    """Kill a run while it trains, so often; then let it end."""
    moments, command = random.Random(seed), start
    resume = [*_FOVEATE, "--resume", str(out)]
    done = 0
    while done < kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        before = _newest(out)
        while _newest(out) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        if code != -signal.SIGKILL:
            raise SystemExit(f"the run ended by itself, with {code}, after {done} kills")
        command, done = resume, done + 1
        parts = sorted(path.name for path in out.rglob(".*part*"))
        print(f"kill {done:2} after {_newest(out)}{', torn: ' if parts else ''}{', '.join(parts)}")
    subprocess.run(resume, check=True, stdout=subprocess.DEVNULL)


def _newest(out: Path) -> str:
    return max((path.name for path in (out / "checkpoints").glob("checkpoint-*")), default="")


def _compare(whole: Path, killed: Path) -> None:
    from foveate.models.bundle import load_bundle

    models = [load_bundle(Run.open(run).model_folder).model for run in (whole, killed)]
    pairs = list(zip(*(model.get_weights() for model in models), strict=True))
    different = sum(not np.array_equal(mine, theirs) for mine, theirs in pairs)
    print(f"{len(pairs)} arrays, {sum(mine.size for mine, _ in pairs):,} weights; ", end="")
    print(f"{different} arrays differ" if different else "all bit-equal")
    if different:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
