"""Runs that go from small images to full ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.config.augmentation import AugmentConfig, ColorConfig, GeometryConfig, MixConfig
from foveate.data.augment import PRESETS, resolve
from foveate.errors import ConfigError
from foveate.evaluation.scores import evaluate
from foveate.models.build import build_model
from foveate.report import summary
from foveate.runs import Run
from foveate.training import prepare as preparing
from foveate.training.callbacks import LearningRate
from foveate.training.recipe import train
from foveate.training.resizing import most_sizes, settle_sizes, weaker
from foveate.training.schedule import rate_factor
from foveate.training.stages import Stage, in_sizes, plan_stages

Config = Callable[..., Any]


class Watched:
    """What the batches of a run looked like, and the optimizer."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sides: list[int] = []
        self.rates: list[float] = []
        self.steps: list[int] = []
        step = LearningRate.on_train_batch_begin

        def look(callback: LearningRate, batch: int, logs: Any = None) -> None:
            step(callback, batch, logs)
            self.sides.append(callback.model.input["images"].shape[1])
            self.rates.append(float(callback.model.optimizer.learning_rate))
            self.steps.append(int(callback.model.optimizer.iterations))

        patch.setattr(LearningRate, "on_train_batch_begin", look)


@pytest.fixture(scope="module")
def watched() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield Watched(patch)


@pytest.fixture(scope="module")
def unbroken(
    resized: Config,
    watched: Watched,
    digit_folders: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    return train(digit_folders, resized(), tmp_path_factory.mktemp("runs") / "unbroken")


class TestRun:
    def test_small_images_come_first(self, unbroken: Run, watched: Watched) -> None:
        assert watched.sides[:24] == [32] * 12 + [64] * 12
        assert [record.get("image_size") for record in unbroken.history()] == [
            *[[32, 32]] * 2,
            *[None] * 2,
        ]
        assert {record["stage"] for record in unbroken.history()} == {"scratch"}

    def test_the_rate_and_the_optimizer_know_no_sizes(
        self, unbroken: Run, watched: Watched
    ) -> None:
        recipe = unbroken.config().recipe
        for batch, rate in enumerate(watched.rates[:24]):
            expected = recipe.learning_rate * rate_factor((batch + 0.5) / 24, recipe.schedule)
            assert rate == pytest.approx(expected, rel=1e-5)
        assert watched.steps[:24] == list(range(24))

    def test_the_best_epoch_is_one_at_full_size(self, unbroken: Run) -> None:
        full = [record for record in unbroken.history() if "image_size" not in record]
        best = min(full, key=lambda record: record["val_loss"])
        judged = evaluate(unbroken, "validation")
        assert judged["image_size"] == [64, 64]
        assert judged["scores"]["accuracy"] == pytest.approx(best["val_accuracy"])


def test_stopped_before_the_full_size_there_is_a_model(
    resized: Config, digit_folders: Path, tmp_path: Path
) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foveate.training.fitting.go_on_at_next_size", stop)
        run = train(digit_folders, resized(recipe__epochs=2), tmp_path / "run")
    assert run.status()["state"] == "interrupted"
    assert evaluate(run, "validation")["image_size"] == [64, 64]


def test_a_frozen_stage_comes_first(
    resized: Config, unbroken: Run, digit_folders: Path, tmp_path: Path
) -> None:
    """Its best epoch stands until one at full size is better, however good small images are."""
    config = resized(
        model__weights=next(unbroken.model_folder.glob("*.keras")),
        recipe__epochs=1,
        recipe__fine_tune_epochs=2,
    )
    history = train(digit_folders, config, tmp_path / "run").history()
    assert [(record["stage"], record.get("image_size")) for record in history] == [
        ("frozen", None),
        ("fine_tune", [32, 32]),
        ("fine_tune", None),
    ]
    history[1] |= {"val_loss": 0.0}
    best = summary.best_epoch(history, "val_loss")
    assert best is not None
    assert best[0] in (0, 2)
    assert "image_size" not in summary.metric_names(history)


def test_masks(mask_folders: Path, tiny_config: Config, tmp_path: Path) -> None:
    """The steps of the decoder take other sizes, with the same weights."""
    config = tiny_config(
        data__image_size="32,64", data__batch_size=12, recipe__epochs=2, recipe__image_sizes=2
    )
    run = train(mask_folders, config, tmp_path / "run")
    assert [record.get("image_size") for record in run.history()] == [[32, 32], None]
    assert evaluate(run, "validation")["image_size"] == [32, 64]


class TestSettled:
    """What is stated is kept or refused before anything is trained."""

    def settle(self, data: Path, config: Any) -> Any:
        prepared = preparing.prepare(data, config)
        model = build_model(config.model, prepared.model_inputs, prepared.task)
        found = settle_sizes(config, prepared, model).recipe.image_sizes
        return found, most_sizes(config, prepared, model)

    def test_kept(self, digit_folders: Path, resized: Config) -> None:
        assert self.settle(digit_folders, resized()) == (2, 2)

    def test_not_stated(self, digit_folders: Path, resized: Config) -> None:
        flags = {"recipe__image_sizes": "none", "recipe__epochs": 3}
        assert self.settle(digit_folders, resized(**flags)) == (1, 1)  # too small to be worth it
        flags["data__image_size"] = 160
        assert self.settle(digit_folders, resized(**flags)) == (1, 3)  # no more than epochs

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ({"recipe__image_sizes": 5}, r"at most the 4 epochs of the scratch stage, but got 5"),
            ({"recipe__image_sizes": 3}, r"at most 2 at 64×64, .* give 32×32, 64×64, but got 3"),
            ({"recipe__schedule": "plateau"}, r"but got 2 with recipe\.schedule = 'plateau'"),
            ({"model__backbone": "users_backbones:flat"}, r"same layers .* at 32×32 than at 64"),
            ({"model__backbone": "simple_cnn", "data__image_size": 128}, r"same layers"),
        ],
    )
    def test_refused(
        self, flags: dict[str, Any], message: str, digit_folders: Path, resized: Config
    ) -> None:
        with pytest.raises(ConfigError, match=rf"recipe\.image_sizes .*{message}"):
            self.settle(digit_folders, resized(**flags))

    def test_refused_without_a_stage_for_it(
        self, digit_folders: Path, digit_run: Run, resized: Config, tmp_path: Path
    ) -> None:
        flags = {
            "model__backbone": "simple_cnn",
            "model__weights": next(digit_run.model_folder.glob("*.keras")),
            "recipe__fine_tune_epochs": 0,
        }
        with pytest.raises(ConfigError, match=r"but got 2 with recipe\.fine_tune_epochs = 0"):
            train(digit_folders, resized(**flags), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_tiles_are_refused(self, mask_folders: Path, tiny_config: Config) -> None:
        config = tiny_config(
            data__image_size="none", data__tiles=32, recipe__epochs=4, recipe__image_sizes=2
        )
        with pytest.raises(ConfigError, match=r"but got 2 with data\.tiles"):
            self.settle(mask_folders, config)


class TestStages:
    @given(st.integers(1, 6), st.integers(0, 9), st.booleans())
    def test_sizes_fill_the_stage(self, number: int, more: int, is_open: bool) -> None:
        first = Stage("frozen", 3, 1e-3, 0.0, 0.3)
        last = Stage("fine_tune", None if is_open else number + more, 1e-4, 1.0, 0.7)
        kept, *sizes = in_sizes([first, last], number)
        assert kept == first
        assert [stage.is_full_size for stage in sizes] == [False] * (number - 1) + [True]
        assert sum(stage.weight for stage in sizes) == pytest.approx(0.7)
        assert [sizes[0].span[0], sizes[-1].span[1]] == [0.0, 1.0]
        for one, following in itertools.pairwise(sizes):
            assert one.span[1] == following.span[0]
            assert one.weight < following.weight
        if not is_open:
            assert sum(stage.epochs or 0 for stage in sizes) == number + more
        if number == 1:
            assert sizes == [last]

    def test_a_plan_of_stages_knows_no_sizes(self, resized: Config) -> None:
        (stage,) = plan_stages(resized())
        assert stage.epochs == 4


class TestWeaker:
    @pytest.mark.parametrize("preset", PRESETS)
    def test_whole_half_and_none(self, preset: Any) -> None:
        config = AugmentConfig(preset=preset, mix=MixConfig(mixup=0.4, cutmix=1.0))
        assert resolve(weaker(config, 1.0)) == resolve(config)
        assert weaker(config, 1.0).mix == config.mix
        half = resolve(weaker(config, 0.5))
        assert half.rotation == resolve(config).rotation / 2
        assert 1.0 - half.crop == pytest.approx((1.0 - resolve(config).crop) / 2)
        flip = resolve(config).horizontal_flip
        none = replace(PRESETS["none"], horizontal_flip=flip)
        assert resolve(weaker(config, 0.0)) == none
        assert weaker(config, 0.0).mix == MixConfig()

    def test_what_is_stated_counts(self) -> None:
        config = AugmentConfig(
            preset="none",
            geometry=GeometryConfig(zoom=0.4, border="nearest", vertical_flip=0.5),
            color=ColorConfig(hue=20.0),
        )
        half = resolve(weaker(config, 0.5))
        assert (half.zoom, half.hue, half.border, half.vertical_flip) == (0.2, 10, "nearest", 0.5)
