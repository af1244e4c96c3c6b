"""Range tests of real small trainings."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from foveate.errors import RunError
from foveate.runs import Run
from foveate.training import rate_finder
from foveate.training.prepare import prepare
from foveate.training.rate_advice import advise, flags
from foveate.training.rate_curve import RateCurve
from foveate.training.rate_finder import RATES, find_rate

Config = Callable[..., Any]


def find(data: Any, config: Any) -> RateCurve:
    return find_rate(prepare(data, config), config)


@pytest.fixture
def pretrained(digit_run: Run, tiny_config: Config) -> Config:
    weights = next(digit_run.model_folder.glob("*.keras"))
    return lambda **flags: tiny_config(**{"model__weights": weights, **flags})


def test_a_training_from_scratch(digit_folders: Path, tiny_config: Config) -> None:
    config = tiny_config()
    found = find(digit_folders, config)
    assert found.stage == "scratch"
    assert found.step_size == 16
    assert found.ended == "diverged"
    assert found.rates == RATES[: len(found.losses)]
    # Three classes, known at first no better than by chance, or worse by the random weights.
    assert found.start > 0.8 * np.log(3)
    assert found.suggestion is not None
    assert RATES[0] < found.suggestion < found.rates[found.lowest]
    assert flags(found, config) == f"--recipe.learning_rate {found.suggestion}"
    assert len(advise(found, config)) == 1


def test_a_head_learns_from_features_of_some_images(
    pretrained: Config,
    digit_table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rate_finder, "_ROWS", 40)
    config = pretrained(data__metadata="ink,shade", data__batch_size=8, recipe__frozen_views=2)
    found = find(digit_table, config)
    assert (found.stage, found.step_size) == ("frozen", 8)
    assert found.suggestion is not None
    (state,) = (tmp_path / "cache" / "features").glob("*/state.json")
    assert '"items": 40' in state.read_text()
    assert find(digit_table, config) == found  # the seed decides it; the features are found again
    # What suits the head says nothing of the backbone, whose rate must not follow it.
    assert flags(found, config).endswith(" --recipe.fine_tune_learning_rate 0.0002")
    assert "fine_tune" in " ".join(advise(found, config))
    stated = pretrained(recipe__fine_tune_learning_rate=1e-5)
    assert "fine_tune" not in flags(found, stated)


def test_features_that_cannot_be_stored(
    pretrained: Config, digit_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "file"))
    console = Console(file=io.StringIO(), record=True, width=200)
    config = pretrained(recipe__frozen_views=1)
    found = find_rate(prepare(digit_folders, config), config, console)
    assert found.stage == "frozen"
    assert found.suggestion is not None
    assert f"cannot be stored in {tmp_path / 'file'} (" in console.export_text()


def test_a_frozen_backbone_on_images_and_masks(
    mask_run: Run, mask_folders: Path, tiny_config: Config
) -> None:
    weights = next(mask_run.model_folder.glob("*.keras"))
    config = tiny_config(model__weights=weights, data__image_size=32, data__batch_size=8)
    found = find(mask_folders, config)
    assert (found.stage, found.step_size) == ("frozen", 8)
    assert found.suggestion is not None


def test_features_of_a_few_large_images_in_tiles(
    mask_run: Run,
    mask_folders: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    weights = next(mask_run.model_folder.glob("*.keras"))
    flags = {"data__image_size": "none", "data__tiles": 16, "recipe__frozen_views": 1}
    found = find(mask_folders, tiny_config(model__weights=weights, **flags))
    assert found.stage == "frozen"
    (state,) = (tmp_path / "cache" / "features").glob("*/state.json")
    assert json.loads(state.read_text())["items"] == rate_finder._IMAGES_IN_TILES * 2 * 2


def test_gradients_are_accumulated(pretrained: Config, digit_folders: Path) -> None:
    """The rate rises from step to step, and a step has the samples of all its batches."""
    usual = {"recipe__frozen_views": 1, "model__dropout": 0.0}
    whole = find(digit_folders, pretrained(**usual))
    accumulated = {"data__batch_size": 8, "recipe__gradient_accumulation_steps": 2}
    parts = find(digit_folders, pretrained(**usual, **accumulated))
    assert parts.step_size == whole.step_size == 16
    assert parts.losses[:20] == pytest.approx(whole.losses[:20], rel=1e-3)


def test_slow_steps_are_made_smaller(
    digit_folders: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_finder, "_SECONDS", 0.0)
    config = tiny_config()
    found = find(digit_folders, config)
    assert found.step_size == 4
    assert "4 samples instead of 16" in " ".join(advise(found, config))


def test_ten_images(digit_folders: Path, tiny_config: Config, tmp_path: Path) -> None:
    for path in sorted(digit_folders.glob("digit */00[0-4].png")):
        if path.parent.name != "digit 2":
            target = tmp_path / path.parent.name / path.name
            target.parent.mkdir(exist_ok=True)
            shutil.copy(path, target)
    found = find(tmp_path, tiny_config())
    assert found.step_size < 10
    assert found.suggestion is not None


def test_a_loss_that_is_not_finite(digit_table: Path, tiny_config: Config, tmp_path: Path) -> None:
    rows = pl.read_csv(digit_table).with_columns(
        image=pl.lit(f"{digit_table.parent}/") + pl.col("image"), weight=pl.lit(3e38)
    )
    with pytest.raises(RunError, match="finite loss, but got"):
        find(rows, tiny_config(data__weight="weight"))
