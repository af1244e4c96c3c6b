"""A whole search: real trials, one answer."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from studies import FACTS, accounted, running, study_folder, until

from foveate import cli
from foveate.config.files import load_config
from foveate.data.manifest import Manifest
from foveate.errors import ConfigError, RunError
from foveate.runs import Run
from foveate.search.outcome import StudyRecord, read_study
from foveate.search.process import Child
from foveate.search.proxy import save_share
from foveate.search.search import _others, resume, search
from foveate.search.study import StudyFolder

Config = Callable[..., Any]


@pytest.fixture(scope="module")
def searched(
    digit_folders: Path, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StudyFolder, str]:
    """A study of two trials, each with a proxy, and its last run; and what was printed."""
    config = tiny_config(
        recipe__epochs=2,
        search__trials=2,
        search__proxy="share",
        search__retrain="true",
        search__space__recipe__learning_rate="1e-3..1e-2 log",
        search__space__recipe__optimizer="adamw,sgd",
    )
    printed = io.StringIO()
    out = tmp_path_factory.mktemp("studies") / "digits"
    return search(digit_folders, config, out, Console(file=printed, width=100)), printed.getvalue()


@pytest.fixture(scope="module")
def record(searched: tuple[StudyFolder, str]) -> StudyRecord:
    return read_study(searched[0].load())


def runs(folder: StudyFolder) -> list[Run]:
    return [Run(path) for path in sorted(folder.path.glob("trials/*/*/run"))]


class TestSearch:
    def test_the_first_trial_is_the_run_to_beat(
        self, searched: tuple[StudyFolder, str], record: StudyRecord
    ) -> None:
        folder, _ = searched
        assert record.baseline is not None
        assert record.baseline.settings == {
            "recipe.learning_rate": 1e-3,
            "recipe.optimizer.name": "adamw",
        }
        first = Run(folder.path / "trials" / "0000" / "1" / "run").config()
        config = folder.config()
        # But for what a run settles itself, and the search that it knows nothing of.
        assert (
            first.model_copy(update={"search": config.search, "recipe": config.recipe}) == config
        )

    def test_a_score_is_that_of_the_run_on_validation(
        self, searched: tuple[StudyFolder, str], record: StudyRecord
    ) -> None:
        for trial in record.trials:
            run = Run(searched[0].path / str(trial.folder))
            told = run.load_json(run.evaluation_path("validation"))["scores"]
            assert trial.score == told["accuracy"]
            assert trial.scores == told

    def test_all_runs_have_the_same_splits(self, searched: tuple[StudyFolder, str]) -> None:
        folder = searched[0]
        whole = Manifest.load(folder.manifest_path)
        for run in runs(folder):
            one = Manifest.load(run.manifest_path)
            if run.folder.parent.name == "proxy":
                assert one.split("train").num_samples == -(-whole.split("train").num_samples // 4)
                assert one.split("validation").digest() == whole.split("validation").digest()
            else:
                assert one.digest() == whole.digest()

    def test_no_trial_sees_the_test_split(self, searched: tuple[StudyFolder, str]) -> None:
        found = runs(searched[0])
        assert len(found) == 4
        assert not [run for run in found if run.evaluation_path("test").exists()]

    def test_the_last_run_has_all_the_rest_and_is_judged_on_test(
        self, searched: tuple[StudyFolder, str], record: StudyRecord
    ) -> None:
        folder, printed = searched
        run = Run(folder.path / "retrained" / "run")
        whole = Manifest.load(folder.manifest_path)
        splits = Manifest.load(run.manifest_path).table["split"].cast(pl.String).value_counts()
        kept = whole.split("test").num_samples
        assert dict(splits.iter_rows()) == {"train": whole.num_samples - kept, "test": kept}
        score = run.load_json(run.evaluation_path("test"))["scores"]["accuracy"]
        assert f"accuracy {score:.4f}" in printed
        assert run.report_path.exists()

    def test_the_answer_can_be_trained_with(
        self, searched: tuple[StudyFolder, str], record: StudyRecord
    ) -> None:
        folder, printed = searched
        best = load_config(folder.best_path)
        assert record.best is not None
        assert best.recipe.learning_rate == record.best.settings["recipe.learning_rate"]
        assert best.data == folder.config().data
        assert not best.search.space
        assert f"--config {folder.best_path}" in printed
        assert f"Best settings: accuracy {record.best.score:.4f}" in printed

    def test_the_proxy_is_reported(
        self, searched: tuple[StudyFolder, str], record: StudyRecord
    ) -> None:
        (note, _) = record.notes
        assert "share" in note
        assert "2 trials of the 6" in note
        assert note in searched[0].report_path.read_text()

    def test_only_the_best_keeps_its_weights(
        self, searched: tuple[StudyFolder, str], record: StudyRecord
    ) -> None:
        assert record.best is not None
        kept = {run.folder for run in runs(searched[0]) if run.model_folder.exists()}
        assert searched[0].path / str(record.best.folder) in kept


class TestResume:
    def test_what_makes_trials_differ_cannot_change(
        self, searched: tuple[StudyFolder, str]
    ) -> None:
        with pytest.raises(ConfigError, match=r"--recipe\.epochs"):
            resume(searched[0].path, {"recipe.epochs": "3"})

    def test_a_folder_without_a_study_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match=r"config\.toml"):
            resume(tmp_path)


def test_other_workers_are_asked_once_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Child] = []
    ask = Child.ask_to_end

    def ask_to_end(child: Child) -> None:
        asked.append(child)
        ask(child)

    monkeypatch.setattr(Child, "ask_to_end", ask_to_end)
    folder = study_folder(tmp_path / "study", search__trials="500")

    def interrupt() -> None:
        with _others(folder, 1):
            until(lambda: accounted(folder))  # it works
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert len(asked) == 1  # a second time would end it before its trial is queued again
    assert not running(folder)


class TestRefused:
    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            (["--search.space.recipe.lerning_rate", "1..2"], "Did you mean"),
            (["--search.objective", "acuracy"], "Did you mean 'accuracy'"),
        ],
    )
    def test_a_mistake_leaves_nothing_behind(
        self,
        flags: list[str],
        told: str,
        digit_folders: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr("foveate.search.search.look", lambda folder: FACTS)  # is known
        arguments = [
            "search", str(digit_folders), "--out", str(tmp_path / "study"),
            "--model.backbone", "simple_cnn", "--data.image_size", "16", *flags,
        ]  # fmt: skip
        assert cli.run(arguments) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "study").exists()

    def test_a_dry_run_shows_what_would_be_varied(
        self,
        digit_folders: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("foveate.search.search.look", lambda folder: FACTS)
        arguments = ["search", str(digit_folders), "--dry-run", "--data.image_size", "16"]
        assert cli.run([*arguments, "--model.backbone", "simple_cnn"]) == 0
        shown = capsys.readouterr().out
        assert "recipe.learning_rate: " in shown
        assert "(default 0.001)" in shown
        assert list(tmp_path.iterdir()) == []


def test_a_share_holds_a_quarter_of_each_class(
    searched: tuple[StudyFolder, str], tmp_path: Path
) -> None:
    save_share(searched[0].manifest_path, tmp_path / "share.parquet")
    whole = Manifest.load(searched[0].manifest_path).split("train")
    part = Manifest.load(tmp_path / "share.parquet").split("train")
    counts = dict(whole.table["label"].value_counts().iter_rows())
    for label, count in part.table["label"].value_counts().iter_rows():
        assert abs(count - counts[label] / 4) < 1
