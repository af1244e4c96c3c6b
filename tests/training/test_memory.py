"""Training that meets its memory limit: the queue, then the batches, then a clean stop."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from rich.console import Console

from foveate.config.files import load_config
from foveate.errors import BudgetError
from foveate.planning.guard import MemoryGuard, tree_bytes
from foveate.runs import Run
from foveate.training import pressure
from foveate.training.checkpoint import has_checkpoint
from foveate.training.pressure import TooLargeError, device_memory_told, halved
from foveate.training.recipe import resume, train

MIB = 1024**2


def near_at(moments: Callable[[int], bool]) -> Callable[[MemoryGuard], bool]:
    """Makes a guard that is asked for the n-th time find the memory short, or not."""
    asked = iter(range(10_000))
    return lambda guard: moments(next(asked))


def final_weights(run: Any) -> list[Any]:
    from foveate.models.bundle import load_bundle

    return list(load_bundle(run.model_folder).model.get_weights())


BACKBONE = """
import keras

def without_statistics(input_shape):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(inputs / 255)
    return keras.Model(inputs, keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x))
"""


@pytest.fixture
def plain(
    tiny_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Settings of a run whose weights do not depend on what shares a batch."""
    (tmp_path / "plain_backbone.py").write_text(BACKBONE)
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"recipe__epochs": 2, "checkpoint__every_steps": 1, "model__dropout": 0}
    backbone = "plain_backbone:without_statistics"
    return lambda **flags: tiny_config(**{**settings, "model__backbone": backbone, **flags})


class TestHalving:
    @pytest.mark.parametrize("restarts", [False, True])
    def test_the_run_goes_on_as_if_nothing_had_been(
        self,
        digit_folders: Path,
        plain: Callable[..., Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        restarts: bool,
    ) -> None:
        unbroken = train(digit_folders, plain(data__batch_size=16), tmp_path / "unbroken")
        # From the sixth look on; after relief it is asked again, then the queue can shrink once.
        monkeypatch.setattr(MemoryGuard, "is_near", near_at(lambda n: 5 <= n < 9))
        printed = io.StringIO()
        console = Console(file=printed)
        config = plain(data__batch_size=16)
        run = train(digit_folders, config, tmp_path / "run", console, restarts=restarts)
        if restarts:
            run = resume(tmp_path / "run", restarts=True)
        assert "the queue shrinks" in printed.getvalue()
        assert "batches of 8 from here on, 2 to a step" in printed.getvalue()
        assert (run.config().batch_size, run.config().effective_batch_size) == (8, 16)
        assert [line["epoch"] for line in run.history()] == [1, 2]
        for ours, theirs in zip(final_weights(run), final_weights(unbroken), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)

    def test_a_first_batch_that_does_not_fit_the_accelerator(
        self,
        digit_folders: Path,
        plain: Callable[..., Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        class ResourceExhaustedError(Exception):
            pass

        fit = keras.Model.fit

        def fit_small(model: Any, loader: Any, **options: Any) -> Any:
            if loader.batch_size > 4:
                raise ResourceExhaustedError("OOM when allocating tensor")
            return fit(model, loader, **options)

        monkeypatch.setattr(keras.Model, "fit", fit_small)
        run = train(digit_folders, plain(data__batch_size=16), tmp_path / "run")
        assert (run.config().batch_size, run.config().gradient_accumulation_steps) == (4, 4)
        assert run.status()["state"] == "finished"

    def test_an_odd_batch_cannot_be_halved(self, plain: Callable[..., Any]) -> None:
        with pytest.raises(BudgetError, match="batches of 1, which cannot be halved"):
            halved(plain(data__batch_size=1), "its memory limit of 2 GiB")

    def test_other_errors_stay_what_they_are(self) -> None:
        with pytest.raises(ValueError, match="as it was"), device_memory_told():
            raise ValueError("as it was")
        error = type("OutOfMemoryError", (RuntimeError,), {})
        with pytest.raises(TooLargeError), device_memory_told():
            raise error("CUDA out of memory")


class Leak:
    """Loses 50 MiB with each batch until it is mended."""

    def __init__(self) -> None:
        self._lost: list[Any] = []
        self._is_open = True

    def lose(self) -> None:
        if self._is_open:
            self._lost.append(np.ones(50 * MIB, np.uint8))

    def mend(self) -> None:
        self._is_open = False
        self._lost.clear()


@pytest.fixture
def leak(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leak]:
    leak = Leak()
    look = pressure.MemoryWatch.on_train_batch_end

    def lose_and_look(self: Any, batch: int, logs: Any = None) -> None:
        leak.lose()
        look(self, batch, logs)

    monkeypatch.setattr(pressure.MemoryWatch, "on_train_batch_end", lose_and_look)
    yield leak
    leak.mend()


def test_a_leak_ends_in_a_clean_stop_from_which_the_run_goes_on(
    digit_folders: Path,
    plain: Callable[..., Any],
    tmp_path: Path,
    leak: Leak,
) -> None:
    limit = tree_bytes() + 800 * MIB
    config = plain(
        data__batch_size=8, recipe__epochs=4, budget__ram=limit, checkpoint__every_steps=1000
    )
    printed = io.StringIO()
    with pytest.raises(BudgetError, match=r"stay below its memory limit .* goes on from"):
        train(digit_folders, config, tmp_path / "run", Console(file=printed, width=200))
    steps = ["queue shrinks", "batches of 4", "batches of 2", "batches of 1"]
    places = [printed.getvalue().find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places)
    assert has_checkpoint(tmp_path / "run" / "checkpoints")
    leak.mend()
    stopped = Run.open(tmp_path / "run")
    stopped.save_config(load_config(stopped.config_path, {"budget.ram": "64GiB"}))
    run = resume(tmp_path / "run")
    assert run.status()["state"] == "finished"
    assert run.config().effective_batch_size == 8


def test_the_first_batch_of_a_larger_size_does_not_fit(
    resized: Callable[..., Any],
    digit_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Smaller batches go on from the end of the small images, as if nothing had been."""
    flags = {"recipe__epochs": 2, "model__dropout": 0}
    whole = train(digit_folders, resized(**flags), tmp_path / "whole")

    class ResourceExhaustedError(Exception):
        pass

    fit = keras.Model.fit

    def fit_small(model: Any, loader: Any, **options: Any) -> Any:
        if loader.batch_size > 10 and model.input["images"].shape[1] == 64:
            raise ResourceExhaustedError("OOM when allocating tensor")
        return fit(model, loader, **options)

    monkeypatch.setattr(keras.Model, "fit", fit_small)
    run = train(digit_folders, resized(**flags), tmp_path / "run")
    assert (run.config().batch_size, run.config().gradient_accumulation_steps) == (10, 2)
    assert [record.get("image_size") for record in run.history()] == [[32, 32], None]
    for ours, theirs in zip(final_weights(run), final_weights(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
