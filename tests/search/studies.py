"""Studies whose trials end at once, for the tests of who works on which."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from foveate.config.files import load_config
from foveate.search.look import Facts
from foveate.search.queue import original_number
from foveate.search.space import Space
from foveate.search.study import StudyFolder, create_study

FACTS = Facts(
    task="classification",
    scores=("accuracy", "macro_f1", "log_loss"),
    told=("accuracy",),
    num_validation=10,
    has_metadata=False,
    is_tuned=False,
    image_size=(224, 224),
)
AT_ONCE = "0.1s"  # no process has even imported Keras by then: such a trial times out


def study_folder(path: Path, **flags: str) -> StudyFolder:
    """A study without data: its trials end before they would look for it."""
    settings = {
        "search.space.recipe.learning_rate": "1e-4..1e-2 log",
        "search.space.model.dropout": "0..0.5",
        "search.trials": "4",
        "search.budget.trial_time": AT_ONCE,
        **{key.replace("__", "."): text for key, text in flags.items()},
    }
    config = load_config(None, settings)
    folder = StudyFolder(path)
    path.mkdir()
    folder.save_config(config)
    create_study(folder, config, FACTS, Space(config))
    return folder


def trials(folder: StudyFolder) -> list[FrozenTrial]:
    return folder.load().get_trials()


def settings(folder: StudyFolder) -> list[dict[str, Any]]:
    return [one.user_attrs["settings"] for one in trials(folder)]


WORK = """
import sys
from pathlib import Path
from foveate.search.study import StudyFolder
from foveate.search import study
from foveate.search.worker import Worker
if sys.argv[3] == "True":
    study.HEARTBEAT, study.GRACE = 1, 2
Worker(StudyFolder(Path(sys.argv[1])), int(sys.argv[2])).work()
"""


def worker(folder: StudyFolder, number: int, impatient: bool = False) -> subprocess.Popen[bytes]:
    """Start a worker; an impatient one soon takes others for dead."""
    return subprocess.Popen(
        [sys.executable, "-c", WORK, str(folder.path), str(number), str(impatient)]
    )


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def running(folder: StudyFolder) -> list[FrozenTrial]:
    return [one for one in trials(folder) if one.state == TrialState.RUNNING]


def accounted(folder: StudyFolder) -> list[int]:
    """Numbers of the trials that have an outcome; each of those made must come once."""
    return sorted(original_number(one) for one in trials(folder) if "outcome" in one.user_attrs)
