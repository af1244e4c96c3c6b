"""What a search says when a process of its own does not come to its end: the first, the last."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from made_studies import add
from rich.console import Console
from studies import study_folder

from foveate import cli
from foveate.config.files import load_config
from foveate.errors import BudgetError
from foveate.search.answer import conclude
from foveate.search.outcome import read_study
from foveate.search.process import Child
from foveate.search.study import StudyFolder


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """A study without data that has a best trial; its last run has nothing to train on."""
    one = study_folder(tmp_path / "study", search__trials="1", search__retrain="true")
    settings = {"recipe.learning_rate": 0.005}
    add(one.load(), 0.75, settings=settings, seconds=1.0)
    return one


def kill(child: Child, wait: float) -> bool:
    """Have a process be killed as one that takes too much memory is."""
    del wait
    child.kill()
    return False


def concluded(folder: StudyFolder) -> str:
    """Write the answer, and give what was printed."""
    printed = io.StringIO()
    conclude(folder, Console(file=printed, width=100))
    return printed.getvalue()


def require_answer(folder: StudyFolder, printed: str, reason: str) -> None:
    """Check that all is there but the last run, and that the reason is told."""
    told = f"could not be trained on train and validation together; see {folder.path}"
    (note,) = read_study(folder.load()).notes
    assert told in note
    assert reason in note
    assert note in printed
    assert "Best settings: accuracy 0.7500" in printed
    assert told in folder.report_path.read_text()
    assert load_config(folder.best_path).recipe.learning_rate == 0.005


def test_a_last_run_that_fails_leaves_the_answer(folder: StudyFolder) -> None:
    require_answer(folder, concluded(folder), "manifest.parquet")
    log = folder.path / "retrained" / "log.txt"
    assert str(log) in read_study(folder.load()).notes[0]
    assert log.is_file()


def test_a_last_run_that_is_killed_leaves_the_answer(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Child, "is_running", kill)
    require_answer(folder, concluded(folder), "killed by signal 9, perhaps because memory ran out")


def test_a_last_run_that_finds_no_room_leaves_the_answer(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(child: Child) -> None:
        raise BudgetError("budget.ram must be more")

    monkeypatch.setattr(Child, "outcome", refuse)
    require_answer(folder, concluded(folder), "budget.ram must be more")


def test_a_first_process_that_is_killed_is_told(
    digit_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Child, "is_running", kill)
    out = tmp_path / "study"
    assert cli.run(["search", str(digit_folders), "--out", str(out)]) == 2
    assert "killed by signal 9, perhaps because memory ran out" in capsys.readouterr().err
    assert not out.exists()
