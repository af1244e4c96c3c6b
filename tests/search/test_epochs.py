"""What a study is told of the epochs of a run, and what follows."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from foveate.config.settings import RunConfig
from foveate.runs import Run
from foveate.search.trial import Epochs


@pytest.fixture
def trial() -> optuna.Trial:
    """One that is behind others from its first epoch on."""
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(1, 0))
    for _ in range(2):
        earlier = study.ask()
        for epoch in (1, 2, 3):
            earlier.report(0.9, epoch)
        study.tell(earlier, 0.9)
    return study.ask()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """One that has come through two epochs."""
    run = Run.create(tmp_path / "run", RunConfig())
    for _ in range(2):
        run.append_history({"val_accuracy": 0.1})
    return run


def test_what_falls_behind_is_ended_while_it_is_trained(trial: optuna.Trial, run: Run) -> None:
    run.set_status("running")
    epochs = Epochs(trial, run, "accuracy")
    assert epochs.tell()
    assert epochs.reason == "behind the others after epoch 2"
    assert not epochs.tell(), "nothing is new"
    run.append_history({"val_accuracy": 0.2})
    assert epochs.tell()


def test_what_has_come_to_its_end_is_judged(trial: optuna.Trial, run: Run) -> None:
    run.set_status("finished")
    assert not Epochs(trial, run, "accuracy").tell()


def test_epochs_on_smaller_images_do_not_compare(trial: optuna.Trial, run: Run) -> None:
    run.cut_history(0)
    run.append_history({"val_accuracy": 0.1, "image_size": [32, 32]})
    run.set_status("running")
    assert not Epochs(trial, run, "accuracy").tell()
