import json
from pathlib import Path

import pytest

from foveate.config.settings import RunConfig
from foveate.errors import RunError
from foveate.runs import Run, next_folder


def test_a_new_run_remembers_its_settings(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"seed": 7, "data": {"label": "kind"}})
    run = Run.create(tmp_path / "deep" / "run", config)
    assert Run.open(run.folder).config() == config
    assert run.status() == {"state": "running"}


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", RunConfig())
    with pytest.raises(RunError, match="holds a run that has not finished"):
        Run.create(tmp_path / "run", RunConfig())
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="must be writable"):
        Run.create(tmp_path / "file" / "run", RunConfig())


def test_history_grows_by_whole_lines(tmp_path: Path) -> None:
    run = Run.create(tmp_path, RunConfig())
    assert run.history() == []
    for epoch in range(3):
        run.append_history({"epoch": epoch, "loss": 0.5})
    assert [record["epoch"] for record in run.history()] == [0, 1, 2]


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    run = Run.create(tmp_path, RunConfig())
    path = tmp_path / "scores.json"
    run.save_json(path, {"a": float("nan"), "b": [float("inf"), 1.0]})
    assert json.loads(path.read_text()) == {"a": None, "b": [None, 1.0]}


def test_missing_and_damaged_files_are_told(tmp_path: Path) -> None:
    run = Run.create(tmp_path, RunConfig())
    with pytest.raises(RunError, match=r"no nothing\.json yet"):
        run.load_json(tmp_path / "nothing.json")
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(RunError, match="must be JSON"):
        run.load_json(tmp_path / "torn.json")
    with pytest.raises(RunError, match="does not"):
        Run.open(tmp_path.parent)


def test_free_names(tmp_path: Path) -> None:
    assert next_folder(tmp_path, "photos") == tmp_path / "photos-1"
    (tmp_path / "photos-1").mkdir()
    assert next_folder(tmp_path, "photos") == tmp_path / "photos-2"
