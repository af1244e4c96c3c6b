"""A plan made for real: measured in a process of its own, remembered, kept to by the run."""

from __future__ import annotations

import importlib
import io
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_plan import USUAL, tried

from foveate import machine
from foveate.config.settings import RunConfig
from foveate.data.listings import cache_folder
from foveate.data.manifest import Manifest, read_manifest
from foveate.errors import BudgetError, ConfigError, RunError, SampleError
from foveate.planning import measure as measuring
from foveate.planning.fingerprint import fingerprint
from foveate.planning.measurement import Measurement, Try
from foveate.planning.planner import hold_to_budget, make_plan, show
from foveate.runs import Run
from foveate.scale import runtime
from foveate.training.prepare import prepare

GIB = 1024**3


@pytest.fixture(scope="module")
def own_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where nothing is remembered, which has eight processors, and waits for data at any rate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(machine, "cpu_count", lambda: 8)
        patch.setattr(measuring, "LOADING_LIMITS", -1.0)
        yield


@pytest.fixture(scope="module")
def planned(
    digit_folders: Path, tiny_config: Callable[..., Any], own_machine: None
) -> tuple[Any, Any, Any]:
    """Settings, data and plan of a small run."""
    config = tiny_config(
        data__batch_size="none",
        recipe__effective_batch_size=18,
        loader__queue="1MiB",
        budget__ram=str(8 * GIB),
    )
    return config, *make_plan(digit_folders, config)


class TestMakePlan:
    def test_what_is_measured_is_plausible(self, planned: Any) -> None:
        _, manifest, plan = planned
        assert plan.batch_size * plan.gradient_accumulation_steps == 18
        # A process with Keras and TensorFlow takes hundreds of MiB.
        assert GIB / 4 < plan.peak_bytes < 8 * GIB
        assert list(plan.epoch_seconds) == ["scratch"]
        assert 0 < plan.epoch_seconds["scratch"] < plan.total_seconds
        assert any(f"{manifest.num_samples} images, 100% png" in one.value for one in plan.ledger)

    def test_it_is_remembered(self, planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        config, manifest, plan = planned

        def refuse(*_: Any) -> None:
            pytest.fail("measured again")

        monkeypatch.setattr(measuring, "_try_out", refuse)
        assert make_plan(manifest, config)[1] == plan

    def test_an_epoch_is_as_long_as_that_of_the_run(self, planned: Any) -> None:
        config, manifest, plan = planned
        (file,) = (cache_folder() / "measured").iterdir()
        found = Measurement.from_dict(json.loads(file.read_text()))
        loader = prepare(manifest, plan.apply(config)).loader("train", plan.apply(config))
        assert found.rows["train"] % 18, "else nothing is left over"
        assert found.epoch_samples == len(loader) * loader.batch_size < found.rows["train"]

    def test_what_the_data_is(self, planned: Any) -> None:
        """The trial finds the classes that the training split has, and how fast it loads."""
        config, manifest, plan = planned
        counts = prepare(manifest, config).class_counts
        lines = {line.name: line for line in plan.ledger}
        assert lines["classes"].value == f"{len(counts)}, {counts.min()} to {counts.max()} images"
        assert float(lines["loading"].value.partition(" ")[0].replace(",", "")) > 10
        for part in ("read", "decode", "warp", "colour", "collate"):
            assert part in lines["loading"].reason

    def test_processes_are_tried_where_threads_wait(self, planned: Any) -> None:
        (file,) = (cache_folder() / "measured").iterdir()
        found = Measurement.from_dict(json.loads(file.read_text()))
        threads, processes = found.tries[-1], found.others[-1]
        assert (threads.processes, processes.processes) == (0, 2)
        assert threads.batch_size == processes.batch_size
        # Each of them has NumPy, OpenCV and Polars to load.
        assert processes.peak_bytes > threads.peak_bytes + 2 * 20 * 1024**2
        (line,) = (line for line in planned[2].ledger if line.name == "loader")
        assert line.source == "measured"

    def test_fewer_layers_are_tried_where_time_is_short(
        self,
        digit_run: Run,
        digit_folders: Path,
        tiny_config: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
        monkeypatch.setattr(measuring, "_SHARE_OF_TIME", 100.0)
        weights = next(digit_run.model_folder.glob("*.keras"))
        flags = {
            "model__weights": weights,
            "recipe__precision": "float32",
            "loader__processes": 0,
        }
        ask, answers = measuring._ask, {}

        def ask_once(*request: Any, **ways: Any) -> Any:
            if ways["unfreeze"] not in answers:
                answers[ways["unfreeze"]] = ask(*request, **ways)
            about, found = answers[ways["unfreeze"]]
            return dict(about), found

        monkeypatch.setattr(measuring, "_ask", ask_once)

        def tried(**more: str) -> list[float]:
            config = tiny_config(**flags, **more)
            manifest = read_manifest(digit_folders, config.data)
            return [one.unfreeze for one in measuring.measure(manifest, config, 8 * GIB).others]

        assert tried(budget__time="5s") == [0.6]
        assert tried(budget__time="5s", recipe__unfreeze="1") == []
        assert tried(budget__time="1h") == []

    def test_every_line_is_shown_with_its_reason(self, planned: Any) -> None:
        printed = io.StringIO()
        show(planned[2], Console(file=printed, width=40))
        rows = printed.getvalue().splitlines()
        for line in planned[2].ledger:
            assert f"{line.name}: {line.value} ({line.source}: {line.reason})" in rows

    @pytest.mark.parametrize("width", [80, 160])
    def test_in_a_terminal_no_number_is_torn(self, planned: Any, width: int) -> None:
        printed = io.StringIO()
        plan = replace(planned[2], advice=["What one more GiB would buy. " * 10])
        show(plan, Console(file=printed, width=width, force_terminal=True, no_color=True))
        text = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())
        assert max(map(len, text.splitlines())) <= width
        for line in planned[2].ledger[1:]:  # the first, of the data, is long
            row = next(row for row in text.splitlines() if row.strip().startswith(line.name))
            assert line.value in row
            assert (f" {line.source} " in row) == (width == 160)
            assert line.reason.split()[-1] in text

    def test_a_budget_far_too_small(self, planned: Any) -> None:
        config, manifest, _ = planned
        small = config.budget.model_copy(update={"ram": 200 * 1024**2})
        with pytest.raises(BudgetError, match=r"budget\.ram must be at least .* got 200 MiB"):
            make_plan(manifest, config.model_copy(update={"budget": small}))

    def test_more_than_the_machine_has(
        self, digit_folders: Path, tiny_config: Callable[..., Any]
    ) -> None:
        with pytest.raises(BudgetError, match="at most what the machine has"):
            make_plan(digit_folders, tiny_config(budget__ram="9999GiB"))

    def test_a_mistake_in_the_settings_is_told_as_by_train(
        self, digit_folders: Path, tiny_config: Callable[..., Any], own_machine: None
    ) -> None:
        config = tiny_config(model__backbone="simple_cn", budget__ram=str(8 * GIB))
        with pytest.raises(ConfigError, match="Did you mean 'simple_cnn'"):
            make_plan(digit_folders, config)


def test_nothing_is_measured_unless_memory_is_stated(tiny_config: Callable[..., Any]) -> None:
    data = object()
    assert hold_to_budget(data, tiny_config(), Console(quiet=True)) == (data, None)


def test_what_is_remembered_of_one_backend_is_not_taken_for_another(
    digit_folders: Path, tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "running_backend", lambda: None)
    asked = []

    def try_out(manifest: Manifest, config: RunConfig, *_: Any) -> None:
        asked.append(config.runtime.backend)
        raise RunError("enough")

    monkeypatch.setattr(measuring, "_try_out", try_out)
    for backend in ("jax", "torch"):
        monkeypatch.setenv("KERAS_BACKEND", backend)
        with pytest.raises(RunError, match="enough"):
            make_plan(digit_folders, tiny_config(budget__ram=str(8 * GIB)))
    assert asked == ["jax", "torch"]


def test_a_plan_keeps_to_its_processors(
    digit_folders: Path, tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(count: int) -> None:
        raise ConfigError(f"{count} are too many")

    monkeypatch.setattr(machine, "limit_cpus", refuse)
    with pytest.raises(ConfigError, match="64 are too many"):
        make_plan(digit_folders, tiny_config(budget__cpus=64))


def test_what_was_measured_is_of_these_images_on_these_devices(
    tiny_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other images may have the same names, another device the same backend."""
    keys = set()
    for folder, side in (("small", 8), ("small again", 8), ("large", 64)):
        for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(side))  # nothing looks into it here
        config = tiny_config()
        keys.add(measuring._key(read_manifest(tmp_path / folder), config, [8], 1.0))
    assert len(keys) == 2
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    keys.add(measuring._key(read_manifest(tmp_path / "large"), config, [8], 1.0))
    assert len(keys) == 3


def test_what_was_measured_is_of_these_masks_and_this_schedule(
    mask_folders: Path, tmp_path: Path, tiny_config: Callable[..., Any]
) -> None:
    """Masks may be corrected; with plateau there is but one image size."""
    folder = tmp_path / "data"
    shutil.copytree(mask_folders, folder)

    def key(**flags: Any) -> str:
        config = tiny_config(**flags)
        manifest = read_manifest(folder, config.data)
        assert manifest.has_masks
        return measuring._key(manifest, config, [8], 1.0)

    first = key()
    assert key(recipe__schedule__warmup=0.5) == first
    assert key(recipe__schedule="plateau") != first
    path = next((folder / "masks").rglob("*.png"))
    path.write_bytes(path.read_bytes() + b" ")
    assert key() != first


def test_what_was_measured_is_of_this_version_of_a_users_backbone(
    tiny_config: Callable[..., Any], digit_folders: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package/__init__.py").write_text("raise SystemError('imported')")
    manifest = read_manifest(digit_folders)
    for name in ("own_module", "own_package.inner"):
        config = tiny_config(model__backbone=f"{name}:plain")
        file = tmp_path / f"{name.replace('.', '/')}.py"
        keys = {measuring._key(manifest, config, [8], 1.0)}  # before there is such a file
        for text in ("one", "another"):
            file.write_text(text)
            importlib.invalidate_caches()
            keys |= {measuring._key(manifest, config, [8], 1.0) for _ in range(2)}
        assert len(keys) == 3


@pytest.mark.parametrize("cache", ["a file", "x" * 300, "~nobody-of-this-name/cache"])
def test_what_cannot_be_remembered_is_measured(
    cache: str, tiny_config: Callable[..., Any], digit_folders: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a file"))
    (tmp_path / "a file").touch()
    monkeypatch.setenv("FOVEATE_CACHE", cache)
    monkeypatch.setattr(measuring, "_try_out", lambda *_: USUAL)
    assert measuring.measure(read_manifest(digit_folders), tiny_config(), 8 * GIB) == USUAL


def test_reading_masks_is_not_of_the_time_of_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_LONGEST", 0.5)
    monkeypatch.setattr(measuring, "_LOOK_SECONDS", 0.1)
    ready = tmp_path / "ready"

    def outcome(code: str) -> str:
        ready.unlink(missing_ok=True)
        script = f"import sys, time, pathlib; ready = pathlib.Path({str(ready)!r}); {code}"
        return measuring._carried_out([sys.executable, "-S", "-c", script], ready)

    assert outcome("time.sleep(2); ready.touch(); sys.exit('words')") == "exit code 1: words"
    began = time.monotonic()
    assert outcome("ready.touch(); time.sleep(60)").startswith("none within")
    assert time.monotonic() - began < 30
    assert outcome("sys.stderr.write('x' * 10**6); sys.exit(3)") == "exit code 3: " + 2000 * "x"


def test_a_mistake_before_a_trial_begins_is_told_in_words(
    digit_folders: Path, tiny_config: Callable[..., Any]
) -> None:
    config = tiny_config(budget__cpus=4096)
    with pytest.raises(ConfigError, match=r"budget\.cpus"):
        measuring.measure(read_manifest(digit_folders, config.data), config, 8 * GIB)


def test_a_size_that_fails_leaves_the_smaller_ones_to_try(
    digit_folders: Path, tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    sizes, found_by_trying = [], ("tries", "others", "limit", "too_large")

    def ask(folder: Path, config: RunConfig, size: int, **_: Any) -> tuple[dict[str, Any], Try]:
        sizes.append(size)
        if size > 4:
            raise RunError("the accelerator has no room")
        about = {key: one for key, one in asdict(USUAL).items() if key not in found_by_trying}
        return {**about, "has_bfloat16": False}, tried(size)

    monkeypatch.setattr(measuring, "_ask", ask)
    config = tiny_config(data__batch_size="none", recipe__effective_batch_size=16)
    found = measuring.measure(read_manifest(digit_folders, config.data), config, 64 * GIB)
    assert sizes[:4] == [1, 16, 8, 4]  # what may be faster is tried afterwards
    assert [one.batch_size for one in found.tries] == [1, 4]
    assert found.too_large == 8


class TestFingerprint:
    def test_of_real_files(self, digit_folders: Path, tiny_config: Callable[..., Any]) -> None:
        found = fingerprint(Manifest.from_folder(digit_folders), tiny_config())
        assert (found.num_rows, found.num_looked_at) == (150, 100)
        assert found.formats == {"png": 1.0}
        assert found.median_size == found.largest_size

    def test_of_unreadable_files(self, tmp_path: Path, tiny_config: Callable[..., Any]) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "x.png").write_bytes(b"<html>")
        with pytest.raises(SampleError, match="must be a JPEG"):
            fingerprint(Manifest.from_folder(tmp_path), tiny_config())
