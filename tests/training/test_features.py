"""The frozen stage on stored features: the same training, with the backbone's work done once."""

import fcntl
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from rich.console import Console

from foveate.config.settings import RunConfig
from foveate.data.features import FeatureFiles
from foveate.data.manifest import Manifest
from foveate.errors import BudgetError, ConfigError, SampleError
from foveate.evaluation.predict import Predictor
from foveate.models.build import build_model, split_model
from foveate.report.summary import best_epoch
from foveate.runs import Run
from foveate.training import feeding
from foveate.training.callbacks import LearningRate
from foveate.training.features import disk_limit, stored_features
from foveate.training.prepare import prepare
from foveate.training.recipe import resume, train
from foveate.training.views import run_files_bytes, settle_views, stored_bytes

Config = Callable[..., Any]


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of one's own."""
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images in each batch that went through a backbone; for speed it takes their mean alone."""
    predict = keras.Model.predict_on_batch
    counts: list[int] = []

    def counting(model: keras.Model, x: Any) -> Any:
        if model.name != "trunk":
            return predict(model, x)
        counts.append(len(x))
        means = x.reshape(len(x), -1).mean(axis=1)
        shapes = {name: (len(x), *tensor.shape[1:]) for name, tensor in model.output.items()}
        return {
            name: np.broadcast_to(means.reshape(-1, *[1] * (len(shape) - 1)), shape)
            for name, shape in shapes.items()
        }

    monkeypatch.setattr(keras.Model, "predict_on_batch", counting)
    return counts


@pytest.fixture(scope="module")
def pretrained(digit_run: Run, tiny_config: Config) -> Config:
    """Settings under which a backbone stays frozen for two epochs, and no longer."""
    weights = next(digit_run.model_folder.glob("*.keras"))
    usual = {"model__weights": weights, "recipe__epochs": 2, "recipe__fine_tune_epochs": 0}
    return lambda **flags: tiny_config(**{**usual, **flags})


def weights(run: Run) -> list[np.ndarray]:
    return list(Predictor.load(run.model_folder).bundle.model.get_weights())


def test_it_is_the_training_on_images(
    pretrained: Config, digit_table: Path, tmp_path: Path, cache: Path
) -> None:
    """Order, metadata, dropout, accumulation and rate are the same, so the weights are, too."""
    flags = {
        "data__metadata": "ink,shade",
        "model__pooling": "both",
        "data__batch_size": 8,
        "recipe__gradient_accumulation_steps": 2,
    }
    on_images, on_features = (
        train(digit_table, pretrained(recipe__frozen_views=views, **flags), tmp_path / str(views))
        for views in (0, 1)
    )
    for expected, found in zip(weights(on_images), weights(on_features), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)
    for epoch, same in zip(on_images.history(), on_features.history(), strict=True):
        assert set(epoch) == set(same)
        assert same["val_loss"] == pytest.approx(epoch["val_loss"], abs=1e-4)


def test_masks_go_with_their_views(
    mask_run: Run, tiny_config: Config, mask_folders: Path, tmp_path: Path, cache: Path
) -> None:
    """With as many views as epochs it is the training on images that are augmented in turn."""
    config = tiny_config(
        model__weights=next(mask_run.model_folder.glob("*.keras")),
        model__dropout=0,
        data__image_size=32,
        data__batch_size=8,
        augment__preset="light",
        recipe__epochs=2,
        recipe__fine_tune_epochs=0,
        recipe__frozen_views=2,
    )
    run = train(mask_folders, config, tmp_path / "run")
    assert len(run.history()) == 2
    (folder,) = (folder for folder in cache.iterdir() if _views(folder) == 2)
    masks = np.fromfile(folder / "segmentation_masks.bin", np.uint8).reshape(2, -1, 32, 32)
    assert (masks[0] != masks[1]).any(axis=(1, 2)).mean() > 0.5
    assert set(np.unique(masks)) <= {0, 1, 255}


def _views(folder: Path) -> int:
    return folder.joinpath("segmentation_masks.bin").stat().st_size // (32 * 32 * 48)


class TestStored:
    """What is stored is used again as long as nothing that it depends on has changed."""

    @pytest.fixture
    def store(self, tiny_config: Config, digit_folders: Path, cache: Path) -> Config:
        """Stores the features of the training split under some settings."""

        def store(split: str = "train", **flags: Any) -> FeatureFiles | None:
            stop_at, seconds = flags.pop("stop_at", None), flags.pop("seconds", None)
            data, waiting = flags.pop("data", digit_folders), flags.pop("waiting", lambda: None)
            config = tiny_config(**{"recipe__frozen_views": 2, **flags})
            prepared = prepare(data, config)
            model = build_model(config.model, prepared.model_inputs, prepared.task, config.seed)
            trunk, _ = split_model(model)

            def report(done: int, total: int) -> None:
                if done == stop_at:
                    raise KeyboardInterrupt

            return stored_features(config, prepared, trunk, split, report, seconds, waiting)

        return store

    def test_nothing_is_computed_twice(self, store: Config, computed: list[int]) -> None:
        before = store().read(np.arange(120), 1)
        assert len(computed) == 2 * 8
        assert (store().read(np.arange(120), 1)["features"] == before["features"]).all()
        assert len(computed) == 2 * 8

    @pytest.mark.parametrize(
        "change",
        [
            {"data__image_size": 20},
            {"seed": 1},
            {"augment__preset": "strong"},
            {"recipe__frozen_views": 1},
            {"model__pooling": "max"},
            {"data__decode__background": "0,0,0"},
            {"split": "validation"},
        ],
        ids=str,
    )
    def test_other_features_are_computed_anew(
        self, change: dict[str, Any], store: Config, computed: list[int]
    ) -> None:
        usual = {"augment__preset": "light"}
        store(**usual)
        num_batches = len(computed)
        store(**usual | change)
        assert len(computed) > num_batches

    def test_a_file_that_changed_counts_as_another(
        self, store: Config, computed: list[int], digit_folders: Path
    ) -> None:
        store()
        path = next(digit_folders.rglob("*.png"))
        os.utime(path, (1, 1))
        store()
        assert len(computed) == 2 * 2 * 8

    def test_a_backbone_whose_code_changed_counts_as_another(
        self, store: Config, computed: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store()
        monkeypatch.setattr("foveate.training.features.module_stamp", lambda backbone: [1, 2])
        store()
        assert len(computed) == 2 * 2 * 8

    def test_a_stop_loses_what_was_not_a_whole_batch(
        self, store: Config, computed: list[int]
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            store(stop_at=120 + 32)
        assert len(computed) == 8 + 2
        found = store(data__batch_size=12)  # another batch size, the same features
        assert len(computed) == 8 + 2 + -(-(120 - 24) // 12)
        whole = store(data__batch_size=15, seed=0, recipe__learning_rate=0.1)
        assert len(computed) == 8 + 2 + 8
        assert found.num_done == whole.num_done == 240

    def test_views_differ_only_where_images_are_augmented(self, store: Config) -> None:
        rows = np.arange(120)
        plain = store()
        np.testing.assert_allclose(
            plain.read(rows, 0)["features"], plain.read(rows, 1)["features"], atol=1e-6
        )
        light = store(augment__preset="light")
        differ = light.read(rows, 0)["features"] != light.read(rows, 1)["features"]
        assert differ.any(axis=1).mean() > 0.9

    def test_too_little_time(self, store: Config, computed: list[int]) -> None:
        assert store(data__batch_size=2, seconds=1e-9) is None
        assert len(computed) < 20

    def test_the_least_recently_used_make_room(self, store: Config, cache: Path) -> None:
        folders = [store(data__image_size=size).folder for size in (16, 18, 20)]
        for age, folder in zip((2, 3, 1), folders, strict=True):
            os.utime(folder, (age, age))
        sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in folders]
        newest = store("validation", budget__disk=sum(sizes[:2]) + 20_000).folder
        assert [folder.exists() for folder in folders] == [True, True, False]
        assert newest.exists()

    def test_what_another_run_computes_is_not_deleted(self, store: Config, cache: Path) -> None:
        folders = [store(data__image_size=size).folder for size in (16, 18)]
        os.utime(folders[0], (1, 1))
        with (folders[0] / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            store("validation", budget__disk=1)
        assert [folder.exists() for folder in folders] == [True, False]

    def test_what_another_run_computes_is_waited_for_while_there_is_time(
        self, store: Config, computed: list[int]
    ) -> None:
        folder = store().folder
        computed.clear()
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert store(seconds=0.3) is None
            assert store(waiting=lambda: fcntl.flock(lock, fcntl.LOCK_UN)).num_done == 240
        assert store(seconds=0.3, waiting=pytest.fail).num_done == 240
        assert not computed

    def test_what_is_deleted_later_can_still_be_read(self, store: Config) -> None:
        found, kept = store(), store().read(np.arange(120), 0)
        shutil.rmtree(found.folder)
        assert (found.read(np.arange(120), 0)["features"] == kept["features"]).all()
        assert found.unreadable == {}

    def test_what_is_stored_leaves_as_much_room_as_before(
        self, store: Config, tiny_config: Config, monkeypatch: pytest.MonkeyPatch, cache: Path
    ) -> None:
        def usage(folder: Path) -> SimpleNamespace:
            taken = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
            return SimpleNamespace(free=2**30 - taken)

        monkeypatch.setattr("foveate.training.features.shutil.disk_usage", usage)
        before = disk_limit(tiny_config())
        store()
        assert disk_limit(tiny_config()) == before == 2**29

    def test_what_could_not_be_read_before_a_stop_stays_known(
        self, store: Config, digit_folders: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(digit_folders, folder := tmp_path / "digits")
        torn = sorted(folder.rglob("*.png"))[0]
        torn.write_bytes(torn.read_bytes()[:60])
        flags = {
            "data": folder, "recipe__frozen_views": 1, "data__unreadable": "skip",
            "data__splits__validation": 0, "data__splits__test": 0,
        }  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            store(stop_at=32, **flags)
        assert [path for path, _ in store(**flags).unreadable.values()] == [str(torn)]

    def test_what_can_be_read_again_is_computed_anew(
        self,
        store: Config,
        computed: list[int],
        digit_folders: Path,
        tmp_path: Path,
        cache: Path,
    ) -> None:
        """Even where neither size nor time of a file tell that it was mended."""
        shutil.copytree(digit_folders, folder := tmp_path / "digits")
        files = sorted(folder.rglob("*.png"))[:2]
        whole = [file.read_bytes() for file in files]
        flags = {
            "data": folder, "recipe__frozen_views": 1, "data__unreadable": "skip",
            "data__splits__validation": 0, "data__splits__test": 0,
        }  # fmt: skip

        def write(contents: list[bytes]) -> None:
            for file, content in zip(files, contents, strict=True):
                file.write_bytes(content)
                os.utime(file, (1, 1))

        write([bytes(len(content)) for content in whole])
        with pytest.raises(SampleError, match="1 of 150"):
            store(**flags, data__max_unreadable=0.005)
        assert not any(file.stat().st_size for file in cache.rglob("*.bin"))
        assert sorted(store(**flags, data__max_unreadable=0.1).unreadable) == [0, 1]
        computed.clear()
        assert sorted(store(**flags, data__max_unreadable=0.1).unreadable) == [0, 1]
        assert not computed
        write([whole[0], bytes(len(whole[1]))])
        assert sorted(store(**flags, data__max_unreadable=0.1).unreadable) == [1]
        write(whole)
        found = store(**flags)
        assert not found.unreadable
        assert found.read(np.arange(2), 0)["features"].any(axis=1).all()

    def test_a_full_disk_is_told(self, store: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        full = SimpleNamespace(free=10)
        monkeypatch.setattr("foveate.training.features.shutil.disk_usage", lambda _: full)
        with pytest.raises(OSError, match="needed, 0 MiB free"):
            store(budget__disk="1GiB")


def test_a_killed_run_goes_on_to_the_same_weights(
    pretrained: Config,
    digit_folders: Path,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = pretrained(
        recipe__frozen_views=2,
        recipe__epochs=3,
        recipe__fine_tune_epochs=1,
        augment__preset="strong",
        checkpoint__every_steps=2,
    )
    unbroken = train(digit_folders, config, tmp_path / "unbroken")
    begin, batches = LearningRate.on_train_batch_begin, iter(range(1000))

    def dying(callback: LearningRate, batch: int, logs: Any = None) -> None:
        if next(batches) == 11:  # in the second epoch of the frozen stage
            raise Killed
        begin(callback, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(LearningRate, "on_train_batch_begin", dying)
        with pytest.raises(Killed):
            train(digit_folders, config, tmp_path / "killed")
    resumed = resume(tmp_path / "killed")
    assert len(resumed.history()) == len(unbroken.history()) == 4
    for expected, found in zip(weights(unbroken), weights(resumed), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_best_epoch_is_kept_though_it_is_not_the_last(
    pretrained: Config, digit_folders: Path, tmp_path: Path, cache: Path
) -> None:
    config = pretrained(
        recipe__frozen_views=1,
        recipe__epochs=6,
        recipe__learning_rate=1.0,
        recipe__schedule="constant",
        recipe__loss__label_smoothing=0.4,
    )
    run = train(digit_folders, config, tmp_path / "run")
    losses = [epoch["val_loss"] for epoch in run.history()]
    assert min(losses) < losses[-1]
    predictor = Predictor.load(run.model_folder)
    loss = predictor.task.loss(config.recipe.loss, np.ones(3, np.int64))
    predictor.bundle.model.compile(loss=loss)
    rows = Manifest.load(run.manifest_path).split("validation")
    loader = predictor.loader(rows, config)
    assert predictor.bundle.model.evaluate(loader, verbose=0) == pytest.approx(
        min(losses), rel=1e-3
    )
    loader.close()


def test_training_scores_on_plain_features_do_not_choose_the_model(
    pretrained: Config, digit_folders: Path, tmp_path: Path, cache: Path
) -> None:
    """Where nothing validates, what is fine-tuned on blended images has the higher loss."""
    config = pretrained(
        recipe__frozen_views=1,
        recipe__fine_tune_epochs=2,
        recipe__learning_rate=0.01,
        augment__mix__mixup=1.0,
        data__splits__validation=0,
    )
    run = train(digit_folders, config, tmp_path / "run")
    losses: dict[str, list[float]] = {"frozen": [], "fine_tune": []}
    for epoch in run.history():
        losses[epoch["stage"]].append(epoch["loss"])
    assert min(losses["frozen"]) < min(losses["fine_tune"]), "else this tells nothing"
    told = best_epoch(run.history(), "val_loss")
    assert told is not None
    assert run.history()[told[0]]["stage"] == "fine_tune"
    alone = config.model_copy(
        update={"recipe": config.recipe.model_copy(update={"fine_tune_epochs": 0})}
    )
    frozen = train(digit_folders, alone, tmp_path / "frozen")
    kernels = [one.shape for one in weights(run)]
    first = next(index for index, shape in enumerate(kernels) if len(shape) == 4)
    assert (weights(run)[first] != weights(frozen)[first]).any()


def test_unreadable_files_are_left_out_and_listed(
    pretrained: Config, digit_folders: Path, tmp_path: Path, cache: Path
) -> None:
    folder = tmp_path / "digits"
    for path in digit_folders.rglob("*.png"):
        target = folder / path.relative_to(digit_folders)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    torn = sorted(folder.rglob("*.png"))[::30]
    for path in torn:
        path.write_bytes(path.read_bytes()[:60])
    config = pretrained(
        recipe__frozen_views=1,
        data__unreadable="skip",
        data__max_unreadable=0.2,
        data__splits__validation=0,
        data__splits__test=0,
    )
    for name in ("first", "from the cache"):
        run = train(folder, config, tmp_path / name)
        listed = run.unreadable_path.read_text()
        assert all(path.name in listed for path in torn)


def with_room_for_one(config: RunConfig, data: Path) -> RunConfig:
    """``config`` with a disk for the run's own files and one stored view."""
    prepared = prepare(data, config)
    model = build_model(config.model, prepared.model_inputs, prepared.task)
    room = run_files_bytes(model) + stored_bytes(prepared, model, 1)
    return config.model_copy(update={"budget": config.budget.model_copy(update={"disk": room})})


def views_of(config: RunConfig, data: Path) -> int | None:
    prepared = prepare(data, config)
    model = build_model(config.model, prepared.model_inputs, prepared.task)
    return settle_views(config, prepared, model).recipe.frozen_views


class TestDecision:
    """Without a word features are stored where that pays; what is stated is kept or refused."""

    @pytest.mark.parametrize(
        ("flags", "views"),
        [
            ({}, 0),  # two epochs: storing would hardly pay
            ({"recipe__epochs": 8, "recipe__fine_tune_epochs": 1}, 1),
            ({"recipe__epochs": 8}, 2),
            ({"recipe__epochs": 100}, 4),
            ({"recipe__epochs": 8, "augment__mix__mixup": 0.2}, 0),
            ({"recipe__epochs": 8, "recipe__frozen_views": 0}, 0),
        ],
    )
    def test_what_pays(
        self,
        flags: dict[str, Any],
        views: int,
        pretrained: Config,
        digit_folders: Path,
        cache: Path,
    ) -> None:
        assert views_of(pretrained(**flags), digit_folders) == views

    def test_a_disk_with_room_for_one(
        self, pretrained: Config, digit_folders: Path, cache: Path
    ) -> None:
        config = pretrained(recipe__epochs=8)
        assert views_of(with_room_for_one(config, digit_folders), digit_folders) == 1

    def test_a_disk_that_is_too_small(
        self, pretrained: Config, digit_folders: Path, tmp_path: Path, cache: Path
    ) -> None:
        config = with_room_for_one(pretrained(recipe__frozen_views=50), digit_folders)
        with pytest.raises(BudgetError, match=r"frozen_views = 50 must fit on the disk with"):
            train(digit_folders, config, tmp_path / "run")
        with pytest.raises(BudgetError, match=r"budget\.disk must be at least [\d.,]+ MiB"):
            train(digit_folders, pretrained(budget__disk="1MiB"), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_without_a_frozen_backbone(
        self, tiny_config: Config, digit_folders: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError, match="needs a stage with a frozen backbone, but got 1"):
            train(digit_folders, tiny_config(recipe__frozen_views=1), tmp_path / "run")

    def test_mixing_is_refused(
        self, pretrained: Config, digit_folders: Path, tmp_path: Path, cache: Path
    ) -> None:
        config = pretrained(recipe__frozen_views=2, augment__mix__mixup=0.2)
        with pytest.raises(ConfigError, match=r"augment\.mix blends images, not stored features"):
            train(digit_folders, config, tmp_path / "run")


def test_without_the_time_to_compute_it_goes_over_images(
    pretrained: Config,
    digit_folders: Path,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeding, "stored_features", lambda *_: None)
    console = Console(file=io.StringIO(), record=True, width=200)
    config = pretrained(recipe__frozen_views=2, budget__time=600)
    run = train(digit_folders, config, tmp_path / "run", console)
    assert "Features of all images do not fit into the time" in console.export_text()
    assert run.config().recipe.frozen_views == 0
    assert [record["stage"] for record in run.history()] == ["frozen"] * 2


def test_judging_has_its_time_though_features_were_computed_before(
    pretrained: Config,
    digit_folders: Path,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither computing them nor a stage on images then tells how long it takes."""
    told: list[tuple[float, float]] = []
    measure = feeding._forward_seconds

    def measured(*arguments: Any) -> tuple[float, float]:
        told.append(measure(*arguments))
        return told[-1]

    monkeypatch.setattr(feeding, "_forward_seconds", measured)
    config = pretrained(recipe__frozen_views=1, budget__time=600)
    train(digit_folders, config, tmp_path / "first")
    assert not told
    train(digit_folders, config, tmp_path / "from the cache")
    ((seconds, _),) = told
    assert seconds > 0


@pytest.mark.parametrize("name", ["a [bold] file", "x" * 300])
def test_without_a_folder_to_store_them_it_goes_over_images(
    name: str,
    pretrained: Config,
    digit_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a [bold] file").touch()
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / name))
    console = Console(file=io.StringIO(), record=True, width=200)
    config = pretrained(recipe__epochs=4)  # of which features of one view are stored
    run = train(digit_folders, config, tmp_path / "run", console)
    (line,) = (one for one in console.export_text().splitlines() if "FOVEATE_CACHE" in one)
    assert f"cannot be stored in {tmp_path / name} (" in line
    assert "the frozen stage goes over the images" in line
    assert run.config().recipe.frozen_views == 0
    assert [record["stage"] for record in run.history()] == ["frozen"] * 4


def test_a_run_says_once_that_it_waits_for_another(
    pretrained: Config,
    digit_folders: Path,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def after_others(*request: Any) -> FeatureFiles | None:
        for _ in range(3):
            request[-1]()
        return stored_features(*request)

    monkeypatch.setattr(feeding, "stored_features", after_others)
    console = Console(file=io.StringIO(), record=True, width=200)
    train(digit_folders, pretrained(recipe__frozen_views=1), tmp_path / "run", console)
    told = console.export_text()
    for split in ("train", "validation"):
        assert told.count(f"waiting for another run that computes the features, {split}") == 1


@pytest.mark.parametrize("name", ["digit_run", "metadata_run", "mask_run"])
def test_the_parts_of_a_model_are_the_model(name: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(name)
    model = Predictor.load(run.model_folder).bundle.model
    trunk, head = split_model(model)
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.integers(0, 255, (3, *tensor.shape[1:])).astype(tensor.dtype)
        if name == "images"
        else np.zeros((3, *tensor.shape[1:]), tensor.dtype)
        for name, tensor in model.input.items()
    }
    features = trunk.predict_on_batch(inputs["images"])
    others = {name: array for name, array in inputs.items() if name != "images"}
    np.testing.assert_allclose(
        head.predict_on_batch(features | others), model.predict_on_batch(inputs), atol=1e-5
    )
    assert not {id(w) for w in head.weights} & {id(w) for w in trunk.weights}
