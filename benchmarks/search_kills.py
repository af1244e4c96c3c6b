"""Whether a search loses nothing to SIGKILL, and whether its driver grows.

The driver (with all below it) and single workers are killed at random moments, and the search is
gone on with until it ends: every trial must have one outcome, none two. Its trials end at once, so
that many fit into a minute; what happens to them is the same. Then the memory of a driver is told,
early and late in a search of many trials.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from foveate.quickstart import write_dataset
from foveate.search.queue import has_outcome, original_number
from foveate.search.study import StudyFolder

_FOVEATE = (sys.executable, "-m", "foveate", "search")
_SETTINGS = {
    "data.image_size": "16",
    "model.backbone": "simple_cnn",
    "search.space.recipe.learning_rate": "1e-4..1e-2 log",
    "search.strategy": "random",
}


def main() -> None:
    """Kill, go on, count; then watch the memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--kills", type=int, default=6, help="half of the driver")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--grown", type=int, default=200, help="trials for the memory")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--storage", help="database of the killed search, else a file")
    arguments = parser.parse_args()
    if arguments.grown < 40:
        parser.error("--grown must be at least 40, for early and late to be told apart")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_dataset("classification", folder / "digits")
        _kill(arguments, data, folder / "killed")
        _watch(arguments.grown, data, folder / "grown")


def _command(data: Path, out: Path, trials: int, workers: int, trial_time: str) -> list[str]:
    settings = {
        **_SETTINGS,
        "search.trials": str(trials),
        "search.workers": str(workers),
        "search.budget.trial_time": trial_time,
    }
    flags = [part for key, value in settings.items() for part in (f"--{key}", value)]
    return [*_FOVEATE, str(data), "--out", str(out), *flags]


def _kill(arguments: argparse.Namespace, data: Path, out: Path) -> None:
    moments = random.Random(arguments.seed)
    command = _command(data, out, arguments.trials, arguments.workers, "1s")
    if arguments.storage:
        command += ["--search.storage", arguments.storage]
    done = 0
    driver = _start(command)
    study = StudyFolder(out)
    while not (out / "trials").exists():
        time.sleep(0.2)
    while done < arguments.kills:
        time.sleep(moments.uniform(0.5, 6.0))
        if driver.poll() is not None:
            break
        workers = _workers(driver)
        if done % 2 and workers:
            moments.choice(workers).send_signal(signal.SIGKILL)
        else:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            driver = _start([*_FOVEATE, "--resume", str(out)])
        done += 1
    driver.wait()
    trials = study.load().get_trials()
    ended = Counter(original_number(one) for one in trials if has_outcome(one))
    lost = [number for number in range(arguments.trials) if number not in ended]
    twice = [number for number, count in ended.items() if count > 1]
    again = sum(original_number(one) != one.number for one in trials)
    print(
        f"{arguments.trials} trials, {done} kills, {again} queued again: {len(ended)} accounted "
        f"for, lost {lost or 'none'}, counted twice {twice or 'none'}"
    )


def _workers(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The other workers that a driver has started, and that live."""
    found = []
    for child in psutil.Process(driver.pid).children():
        with contextlib.suppress(psutil.Error):
            if "work" in child.cmdline():
                found.append(child)
    return found


def _watch(trials: int, data: Path, out: Path) -> None:
    driver = _start(_command(data, out, trials, 1, "0.1s"))
    while not (out / "trials").exists():
        time.sleep(0.2)
    study, told = StudyFolder(out).load(), []
    while driver.poll() is None:
        time.sleep(1.0)
        ended = sum(has_outcome(one) for one in study.get_trials(deepcopy=False))
        try:
            told.append((ended, psutil.Process(driver.pid).memory_info().rss / 2**20))
        except psutil.Error:
            break
    # What comes last is the report, which needs more than a driver does.
    early = [memory for ended, memory in told if 10 <= ended <= trials // 4]
    late = [memory for ended, memory in told if trials * 3 // 4 <= ended < trials]
    print(
        f"memory of the driver: {max(early):.0f} MiB over the first quarter of {trials} trials, "
        f"{max(late):.0f} MiB over the last"
    )


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    main()
