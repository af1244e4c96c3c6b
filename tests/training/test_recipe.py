"""Whole small trainings, and what they leave."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import polars as pl
import pytest

from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest
from foveate.errors import ConfigError, ManifestError, RunError, SampleError
from foveate.evaluation.predict import Predictor
from foveate.runs import Run
from foveate.training import fitting
from foveate.training.callbacks import History
from foveate.training.recipe import train
from foveate.training.stages import plan_stages

Config = Callable[..., Any]


@pytest.mark.parametrize("name", ["digit_run", "metadata_run", "mask_run"])
def test_a_run_leaves_what_it_promises(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    assert run.status()["state"] == "finished"
    assert len(run.history()) == run.config().recipe.epochs
    assert list(run.model_folder.glob("*.keras"))
    splits = set(pl.read_parquet(run.manifest_path)["split"].cast(pl.String))
    assert splits == {"train", "validation", "test"}
    assert not [path for path in run.folder.rglob("*") if "part" in path.name]


def test_it_learns(digit_run: Run, mask_run: Run) -> None:
    assert max(record["val_accuracy"] for record in digit_run.history()) > 0.8
    assert max(record["val_mean_iou"] for record in mask_run.history()) > 0.6


def test_the_best_epoch_is_kept(digit_run: Run) -> None:
    """The saved model gives the lowest validation loss of the history."""
    predictor = Predictor.load(digit_run.model_folder)
    rows = Manifest.load(digit_run.manifest_path).split("validation")
    loader = predictor.loader(rows, digit_run.config())
    predictor.bundle.model.compile(
        loss=predictor.task.loss(digit_run.config().recipe.loss, np.ones(3, np.int64))
    )
    loss = predictor.bundle.model.evaluate(loader, verbose=0)
    loader.close()
    best = min(record["val_loss"] for record in digit_run.history())
    assert loss == pytest.approx(best, rel=1e-3)


def test_groups_stay_together(metadata_run: Run) -> None:
    table = Manifest.load(metadata_run.manifest_path).table
    assert table.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1


def test_statistics_come_from_train_alone(metadata_run: Run) -> None:
    predictor = Predictor.load(metadata_run.model_folder)
    assert predictor.schema is not None
    train_rows = Manifest.load(metadata_run.manifest_path).split("train").table
    expected = train_rows["metadata.ink"].drop_nulls().mean()
    assert predictor.schema.numeric[0].mean == pytest.approx(expected, rel=1e-6)


def test_same_seed_same_weights(digit_folders: Path, tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config(recipe__epochs=1, augment__preset="strong")
    weights = []
    for name in "ab":
        run = train(digit_folders, config, tmp_path / name)
        weights.append(Predictor.load(run.model_folder).bundle.model.get_weights())
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_model_opens_in_plain_keras(digit_run: Run, digit_folders: Path) -> None:
    model = keras.saving.load_model(next(digit_run.model_folder.glob("*.keras")))
    loader = BatchLoader(Manifest.from_folder(digit_folders), (16, 16), 32)
    assert model.predict(loader, verbose=0).shape == (150, 3)
    loader.close()


@pytest.mark.parametrize("schedule", ["one_cycle", "plateau"])
def test_schedules_show_in_the_history(
    schedule: str, digit_folders: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config(
        recipe__schedule=schedule, recipe__schedule__warmup=0, recipe__schedule__patience=1
    )
    rates = [r["learning_rate"] for r in train(digit_folders, config, tmp_path / "r").history()]
    assert all(0 < rate <= config.recipe.learning_rate * 1.0001 for rate in rates)
    if schedule == "one_cycle":
        assert rates[-1] < rates[0]


def test_options_of_the_recipe_work_together(
    digit_folders: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config(
        recipe__loss="focal",
        recipe__loss__class_weights="balanced",
        recipe__loss__label_smoothing="0.1",
        recipe__gradient_accumulation_steps=3,
        recipe__optimizer="sgd",
        recipe__optimizer__clip_norm=1,
        augment__preset="strong",
        augment__mix__mixup=0.2,
        augment__mix__cutmix=1,
        model__l2=1e-4,
        model__pooling="both",
        recipe__precision="mixed_bfloat16",
    )
    try:
        run = train(digit_folders, config, tmp_path / "run")
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite([record["val_loss"] for record in run.history()]).all()


@pytest.mark.parametrize("loss", ["focal", "dice"])
def test_mask_losses(loss: str, mask_folders: Path, tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config(
        recipe__loss=loss,
        recipe__loss__class_weights="balanced",
        recipe__epochs=2,
        data__image_size="30,34",
    )
    history = train(mask_folders, config, tmp_path / "run").history()
    assert history[-1]["loss"] < history[0]["loss"]


def test_stopping_early(digit_folders: Path, tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config(
        recipe__epochs=9, recipe__learning_rate=1e-8, recipe__stopping__patience=2,
        recipe__stopping__monitor="val_accuracy",
    )  # fmt: skip
    assert len(train(digit_folders, config, tmp_path / "run").history()) < 9


def test_stages_of_a_pretrained_backbone(
    digit_folders: Path, tiny_config: Config, tmp_path: Path, digit_run: Run
) -> None:
    """Weights from a file, here an older run's model, count as pretrained."""
    config = tiny_config(
        model__weights=next(digit_run.model_folder.glob("*.keras")),
        recipe__epochs=2,
        recipe__fine_tune_epochs=1,
        recipe__unfreeze=0.5,
    )
    stages = plan_stages(config)
    assert [(stage.name, stage.epochs, stage.share) for stage in stages] == [
        ("frozen", 2, 0.0),
        ("fine_tune", 1, 0.5),
    ]
    run = train(digit_folders, config, tmp_path / "run")
    assert [record["stage"] for record in run.history()] == ["frozen", "frozen", "fine_tune"]


def test_fine_tuning_random_weights_is_refused(tiny_config: Config) -> None:
    with pytest.raises(ConfigError, match="needs pretrained weights"):
        plan_stages(tiny_config(recipe__fine_tune_epochs=2))


def test_a_dataframe_and_given_splits(
    digit_table: Path, tiny_config: Config, tmp_path: Path
) -> None:
    frame = pl.read_csv(digit_table)
    splits = ["train", "validation", "test"] * 50
    frame = frame.with_columns(
        pl.Series("part", splits),
        image=pl.lit(f"{digit_table.parent}/") + pl.col("image"),
    )
    run = train(frame, tiny_config(data__split="part", recipe__epochs=1), tmp_path / "run")
    counts = Manifest.load(run.manifest_path).table["split"].cast(pl.String).value_counts()
    assert dict(counts.iter_rows()) == {"train": 50, "validation": 50, "test": 50}


def test_without_validation_the_training_loss_chooses(
    digit_folders: Path, tiny_config: Config, tmp_path: Path
) -> None:
    run = train(
        digit_folders, tiny_config(data__splits__validation=0, recipe__epochs=1), tmp_path / "run"
    )
    assert "val_loss" not in run.history()[0]


def test_a_step_has_no_more_batches_than_there_are_rows(
    digit_table: Path, tiny_config: Config, tmp_path: Path
) -> None:
    """Else an epoch would end in the middle of a step, and the first change nothing at all."""
    table = digit_table.with_name("few.csv")
    pl.read_csv(digit_table).gather_every(15).write_csv(table)
    config = tiny_config(
        data__batch_size=1,
        recipe__effective_batch_size=64,
        recipe__epochs=2,
        data__splits__test=0,
    )
    run = train(table, config, tmp_path / "run")
    num_trained = Manifest.load(run.manifest_path).split("train").num_samples
    assert num_trained < 64
    assert run.config().gradient_accumulation_steps == num_trained
    assert run.history()[0]["loss"] != run.history()[1]["loss"]


def test_masks_of_equal_names_are_refused(
    mask_folders: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config(data__masks__class_names="cell,cell")
    with pytest.raises(ConfigError, match="must differ, but got several cell"):
        train(mask_folders, config, tmp_path / "run")


def test_rows_that_weigh_nothing_are_refused(
    digit_table: Path, tiny_config: Config, tmp_path: Path
) -> None:
    table = digit_table.with_name("weightless.csv")
    pl.read_csv(digit_table).with_columns(w=pl.lit(0.0)).write_csv(table)
    with pytest.raises(ManifestError, match="of the train split must have a weight above 0"):
        train(table, tiny_config(data__weight="w"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    split = pl.Series("split", (["train"] * 4 + ["validation"]) * 30)
    weight = (split == "train").cast(float).alias("w")
    pl.read_csv(digit_table).with_columns(split, weight).write_csv(table)
    config = tiny_config(data__weight="w", data__split="split", data__splits__test=0)
    with pytest.raises(ManifestError, match="of the validation split must have a weight above 0"):
        train(table, config, tmp_path / "run")


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        ({"model__backbone": "resnet5"}, ConfigError, "Did you mean 'resnet50'"),
        ({"task": "segmentation"}, ConfigError, "needs masks"),
        ({"recipe__loss": "dice"}, ConfigError, "for masks"),
        (
            {"loader__sampling": "balanced", "recipe__loss__class_weights": "balanced"},
            ConfigError,
            "Choose one",
        ),
    ],
)
def test_contradictions_leave_no_folder(
    flags: dict[str, Any],
    error: type[Exception],
    words: str,
    digit_folders: Path,
    tiny_config: Config,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=words):
        train(digit_folders, tiny_config(**flags), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_monitor_is_told(
    digit_folders: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config(recipe__stopping__monitor="val_acuracy")
    with pytest.raises(ConfigError, match="Did you mean 'val_accuracy'"):
        train(digit_folders, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_explodes_is_told(
    digit_folders: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config(
        recipe__learning_rate=1e30, recipe__optimizer="sgd", recipe__schedule="constant"
    )
    with pytest.raises(RunError, match=r"Lower recipe\.learning_rate"):
        train(digit_folders, config, tmp_path / "run")


def test_a_loss_that_explodes_is_told_whatever_is_watched(
    digit_folders: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config(
        recipe__learning_rate=1e30,
        recipe__optimizer="sgd",
        recipe__schedule="constant",
        recipe__stopping__monitor="val_accuracy",
    )
    with pytest.raises(RunError, match="keep the loss finite"):
        train(digit_folders, config, tmp_path / "run")


def test_what_was_learned_before_an_error_is_kept(
    digit_folders: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(History):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if self._run.history():
                raise OSError("a cable came loose")

    monkeypatch.setattr(fitting, "History", Broken)
    with pytest.raises(OSError, match="cable"):
        train(digit_folders, tiny_config(), tmp_path / "run")
    assert Run.open(tmp_path / "run").status()["state"] == "failed"
    Predictor.load(tmp_path / "run" / "model")


def test_bad_metadata_is_told_before_training(
    digit_table: Path, tiny_config: Config, tmp_path: Path
) -> None:
    frame = pl.read_csv(digit_table).with_columns(
        pl.Series("part", ["train", "validation", "test"] * 50),
        image=pl.lit(f"{digit_table.parent}/") + pl.col("image"),
        ink=pl.when(pl.int_range(pl.len()) == 140).then(float("inf")).otherwise("ink"),
    )
    config = tiny_config(data__split="part", data__metadata="ink")
    with pytest.raises(ManifestError, match="ink"):
        train(frame, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unreadable_file_stops_and_is_named(
    digit_table: Path, tiny_config: Config, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    frame = pl.read_csv(digit_table).with_columns(
        image=pl.lit(f"{digit_table.parent}/") + pl.col("image")
    )
    frame = frame.with_columns(
        image=pl.when(pl.int_range(pl.len()) == 5).then(pl.lit(str(broken))).otherwise("image")
    )
    with pytest.raises(SampleError, match=r"broken\.png"):
        train(
            frame,
            # Ten rows a batch leave none of the 150 out of the first epoch.
            tiny_config(data__splits__test=0, data__splits__validation=0, data__batch_size=10),
            tmp_path / "r",
        )
    assert not (tmp_path / "r").exists()


def test_a_folder_in_use_is_not_touched(
    digit_folders: Path, tiny_config: Config, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="holds files already"):
        train(digit_folders, tiny_config(), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_one_class_only(digit_folders: Path, tiny_config: Config, tmp_path: Path) -> None:
    only = tmp_path / "data"
    only.mkdir()
    (only / "digit 0").symlink_to(digit_folders / "digit 0")
    with pytest.raises(ManifestError, match="at least two classes"):
        train(only, tiny_config(), tmp_path / "run")


def test_smoothed_masks_are_refused(tiny_config: Config, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            shades = np.arange(256, dtype=np.uint8).reshape(16, 16)
            Image.fromarray(shades).save(tmp_path / "data" / name / f"{number}.png")
    with pytest.raises(ConfigError, match="ids, not shades"):
        train(tmp_path / "data", tiny_config(), tmp_path / "run")


def test_interrupted_run_keeps_its_best_epoch(
    digit_folders: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Impatient(History):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if len(self._run.history()) == 2 and batch == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "History", Impatient)
    run = train(digit_folders, tiny_config(recipe__epochs=5), tmp_path / "run")
    assert run.status()["state"] == "interrupted"
    assert len(run.history()) == 2
    Predictor.load(run.model_folder)


def test_interrupted_before_the_first_epoch_leaves_nothing(
    digit_folders: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Impatient(History):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "History", Impatient)
    with pytest.raises(KeyboardInterrupt):
        train(digit_folders, tiny_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_history_is_json_lines(digit_run: Run) -> None:
    for line in digit_run.history_path.read_text().splitlines():
        assert {"stage", "epoch", "loss", "val_loss", "learning_rate"} <= set(json.loads(line))
