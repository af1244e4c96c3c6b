"""The command line as a user meets it: exit codes, messages, and what is left on disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from foveate.cli import run
from foveate.config.files import load_config, split_tokens
from foveate.errors import ConfigError
from foveate.runs import Run

TINY = [
    *("--data.image_size", "16"),
    *("--model.backbone", "simple_cnn"),
    *("--recipe.epochs", "2"),
    *("--augment.preset", "none"),
]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def foveate(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "foveate", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_words_and_settings_in_any_order() -> None:
    words, settings = split_tokens(["--seed", "3", "photos", "--recipe.learning_rate=1e-3"])
    assert (words, settings) == (["photos"], {"seed": "3", "recipe.learning_rate": "1e-3"})
    assert split_tokens(["--data.splits.test", "-1"])[1] == {"data.splits.test": "-1"}
    with pytest.raises(ConfigError, match="needs a value"):
        split_tokens(["--seed"])
    with pytest.raises(ConfigError, match="given twice"):
        split_tokens(["--seed", "1", "--seed", "2"])


def test_train_judges_reports_and_predicts(
    digit_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = ["--data.metadata", "ink,shade", "--data.group", "writer", "--out", str(out), *TINY]
    assert run(["train", str(digit_table), *flags]) == 0
    text = told(capsys)
    assert "150 samples" in text
    assert "accuracy" in text
    assert "report.html" in text
    scores = json.loads((out / "evaluation" / "test.json").read_text())["scores"]
    assert {"accuracy", "macro_f1"} <= set(scores)
    assert (out / "report.html").read_text().startswith("<!doctype html>")

    assert run(["evaluate", str(out), "--split", "validation"]) == 0
    table = tmp_path / "new.csv"
    pl.read_csv(digit_table).with_columns(
        image=pl.lit(f"{digit_table.parent}/") + pl.col("image")
    ).head(4).write_csv(table)
    predictions = tmp_path / "predictions.csv"
    assert run(["predict", str(out), str(table), "--out", str(predictions)]) == 0
    assert pl.read_csv(predictions).height == 4
    assert run(["report", str(out)]) == 0


def test_a_run_stopped_before_its_report_gets_it(
    digit_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = Run(shutil.copytree(digit_run.folder, tmp_path / "run"))
    again.report_path.unlink(missing_ok=True)
    weights = again.best_weights.read_bytes()
    assert run(["train", "--resume", str(again.folder)]) == 0
    assert again.report_path.is_file()
    assert again.evaluation_path("test").is_file()
    assert again.best_weights.read_bytes() == weights
    assert run(["train", "--resume", str(again.folder)]) == 2
    assert "has finished" in told(capsys)


def test_predictions_of_what_can_be_read(
    digit_run: Run, digit_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, out = tmp_path / "broken.png", tmp_path / "new" / "found.parquet"
    broken.write_text("no image")
    files = [str(digit_folders / "digit 1"), str(broken)]
    verb = ["predict", str(digit_run.folder), *files, "--out", str(out)]
    assert run(verb) == 2
    assert "To predict on the others: --unreadable skip" in told(capsys)
    assert not out.parent.exists()
    assert run([*verb, "--unreadable", "skip"]) == 0
    text = told(capsys)
    assert "50 predictions" in text
    assert f"Not read: 1 (see the column problem): {broken}" in text
    assert pl.read_parquet(out).height == 51


@pytest.mark.parametrize("name", ["found.xlsx", "found", "folder.csv"])
def test_predictions_that_could_not_be_written_are_told_first(
    name: str, digit_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.csv").mkdir()
    verb = ["predict", str(digit_run.folder), str(tmp_path / "none.png")]
    assert run([*verb, "--out", str(tmp_path / name)]) == 2
    assert "--out must name a .csv or .parquet file" in told(capsys)


def test_masks_are_predicted_beside_the_table(
    mask_run: Run, mask_folders: Path, tmp_path: Path
) -> None:
    files = [str(mask_folders / "images" / f"0{number}.png") for number in range(3)]
    out = tmp_path / "found.csv"
    assert run(["predict", str(mask_run.folder), *files, "--out", str(out)]) == 0
    masks = pl.read_csv(out)["mask"].to_list()
    assert [Path(mask).parent.name for mask in masks] == ["found_masks"] * 3
    assert np.asarray(Image.open(masks[0])).shape == (32, 32)


def test_init_writes_all_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "foveate.toml"
    assert run(["init", str(path)]) == 0
    assert load_config(path) == load_config()
    assert "# Peak learning rate" in path.read_text()
    assert run(["init", str(path)]) == 2
    assert "exists" in told(capsys)


def test_profile_measures_and_advises(
    digit_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--no-model", "--data.metadata", "ink", "--data.image_size", "16"]
    assert run(["profile", str(digit_table), *flags]) == 0
    text = told(capsys)
    for word in ("decode", "collate", "images/s", "loader, 1 thread", "model was not measured"):
        assert word in text
    assert run(["profile", "--no-model"]) == 2
    assert "profile needs one DATA" in told(capsys)
    assert run(["profile", str(digit_table), "--budget.cpus", "4096"]) == 2
    assert "budget.cpus must be from 1 to" in told(capsys)


def test_lr_suggests_and_draws(
    digit_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data.metadata", "ink,shade", "--out", str(tmp_path / "pages"), *TINY]
    assert run(["lr", str(digit_table), *flags]) == 0
    text = told(capsys)
    assert "150 samples" in text
    assert "Suggested: --recipe.learning_rate " in text
    page = tmp_path / "pages" / "learning_rate.html"
    assert f"Curve: {page}" in text
    assert page.read_text().startswith("<!doctype html>")


def test_lr_is_told_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lr"]) == 2
    assert "lr needs one DATA" in told(capsys)
    assert run(["lr", "nowhere", "--out", str(tmp_path / "curve.png")]) == 2
    assert "a folder or an .html file, but got" in told(capsys)
    assert run(["lr", "nowhere", "--out", str(tmp_path / "curve.html")]) == 2
    assert "no file or folder 'nowhere'" in told(capsys)
    assert list(tmp_path.iterdir()) == []


def test_doctor_names_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    text = told(capsys)
    for name in ("keras", "backend tensorflow", "backend jax", "backend torch"):
        assert name in text
    assert "Runs will use: tensorflow" in text


def make_tables(folder: Path, digits: Path) -> None:
    """Tables and folders, each with one mistake."""
    rows = [f"{digits}/digit {n % 2}/{n:03d}.png,{n % 2}" for n in range(20)]
    (folder / "good.csv").write_text("\n".join(["image,diagnosis", *rows]))
    (folder / "one.csv").write_text("\n".join(["image,label", *[r[:-1] + "1" for r in rows]]))
    (folder / "empty").mkdir()
    for name in ("images", "masks"):
        (folder / "pairs" / name).mkdir(parents=True)
        for number in range(12):
            side = 9 if (name, number) == ("masks", 7) else 8
            pixels = (np.arange(side * side).reshape(side, side) % 2).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "pairs" / name / f"{number}.png")
    for label in "ab":
        (folder / "broken" / label).mkdir(parents=True)
        for number in range(10):
            (folder / "broken" / label / f"{number}.png").write_bytes(b"<html>not found</html>")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["good.csv", "--data.label", "dignosis"], ["dignosis", "good.csv", "Did you mean 'diag"]),
        (["broken"], [".png", "must be"]),
        (["good.csv", "--data.label", "diagnosis", "--model.backbone", "resnet5"], ["'resnet50'"]),
        (["pairs"], ["masks/7.png", "(8, 8)", "(9, 9)"]),
        (["empty"], ["empty"]),
        (["one.csv"], ["at least two classes", "'1'"]),
        (["nowhere"], ["no file or folder 'nowhere'"]),
        (["good.csv", "--recipe.epoch", "3"], ["'recipe.epochs'"]),
        (["good.csv", "broken"], ["train needs one DATA"]),
        (["good.csv", "--config", "nowhere.toml"], ["nowhere.toml"]),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else None,
)
def test_mistakes_get_one_clear_message(
    arguments: list[str],
    words: list[str],
    digit_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_tables(tmp_path, digit_folders)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    given = " ".join(arguments)
    defaults = [] if "--model.backbone" in given else TINY
    assert run(["train", *arguments, *defaults]) == 2
    text = told(capsys)
    for word in words:
        assert word in text
    assert text.count("error:") == 1
    assert "Traceback" not in text
    after = [path for path in sorted(tmp_path.rglob("*")) if path.name != "runs"]
    assert after == before


def test_a_process_prints_no_traceback(tmp_path: Path) -> None:
    done = foveate("train", "nowhere", folder=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "nowhere" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", [["evaluate"], ["predict"], ["frobnicate"], ["predict", "x"]])
def test_wrong_verbs_and_arguments_exit_with_2(verb: list[str], tmp_path: Path) -> None:
    assert foveate(*verb, folder=tmp_path).returncode == 2


def test_ctrl_c_leaves_a_usable_run(digit_folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(digit_folders), "--out", str(out), *TINY]
    arguments[arguments.index("--recipe.epochs") + 1] = "500"
    process = subprocess.Popen(
        [sys.executable, "-m", "foveate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    history = Run(out).history_path
    while not history.exists() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert Run.open(out).status()["state"] == "interrupted"
    assert run(["evaluate", str(out)]) == 0
    assert run(["report", str(out)]) == 0


def test_a_plan_is_followed_with_the_settings_that_it_was_made_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foveate.cli.plan_data", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    settings = ["--model.backbone", "simple_cnn", "--budget.ram", "4GiB"]
    assert run(["plan", "my photos", *settings, "--out", "plan.json"]) == 0
    command = f"foveate train 'my photos' {' '.join(settings)} --plan plan.json"
    assert command in told(capsys)
