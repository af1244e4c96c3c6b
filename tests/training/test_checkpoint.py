import tracemalloc
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

from foveate.errors import RunError
from foveate.training.checkpoint import drop_checkpoints, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def model() -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dropout(0.5)])
    model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(8, 4)), rng.normal(size=(8, 3)), verbose=0)
    return model


def everything(model: keras.Model) -> list[np.ndarray]:
    metrics = [variable for metric in model.metrics for variable in metric.variables]
    variables = [*model.variables, *model.optimizer.variables, *metrics]
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def test_all_variables_come_back(model: keras.Model, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 7, {"epoch": 3, "note": "é"}, model)
    before = everything(model)
    model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    assert any((now != then).any() for now, then in zip(everything(model), before, strict=True))
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.state == {"epoch": 3, "note": "é"}
    for group in ("model", "optimizer", "metrics"):
        found.restore(model, group)
    for now, then in zip(everything(model), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_the_last_two_are_kept(model: keras.Model, tmp_path: Path) -> None:
    paths = [save_checkpoint(tmp_path, position, {}, model) for position in (9, 10, 100)]
    assert sorted(tmp_path.iterdir()) == paths[1:]
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.path == paths[2]
    drop_checkpoints(tmp_path)
    assert load_checkpoint(tmp_path) is None


def test_variables_are_copied_one_at_a_time(tmp_path: Path) -> None:
    layers = [keras.layers.Dense(256) for _ in range(8)]
    model = keras.Sequential([keras.Input((256,)), *layers])
    model.compile(optimizer="adam", loss="mse")
    model.optimizer.build(model.trainable_variables)
    tracemalloc.start()
    try:
        path = save_checkpoint(tmp_path, 1, {}, model)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 0.3 * path.stat().st_size


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_torn_file_gives_way_to_the_one_before(
    share: float, model: keras.Model, tmp_path: Path
) -> None:
    older, newer = (save_checkpoint(tmp_path, position, {}, model) for position in (1, 2))
    newer.write_bytes(newer.read_bytes()[: int(share * newer.stat().st_size)])
    with pytest.warns(UserWarning, match=f"{newer.name} is torn or altered"):
        found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.path == older


def test_no_altered_value_passes(model: keras.Model, tmp_path: Path) -> None:
    """Each bit that is flipped anywhere is either noticed or changes nothing that is read."""
    path = save_checkpoint(tmp_path, 1, {"epoch": 1}, model)
    whole = load_checkpoint(tmp_path)
    assert whole is not None
    content = path.read_bytes()
    noticed = 0
    for place in range(0, len(content), 97):
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        path.write_bytes(altered)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = load_checkpoint(tmp_path)
        if found is None:
            noticed += 1
            continue
        assert found.state == whole.state
        for group, arrays in whole.arrays.items():
            for mine, theirs in zip(found.arrays[group], arrays, strict=True):
                np.testing.assert_array_equal(mine, theirs)
    assert noticed > 0


def test_another_model_is_refused(model: keras.Model, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {}, model)
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    found = load_checkpoint(tmp_path)
    assert found is not None
    with pytest.raises(RunError, match="must fit the model"):
        found.restore(other, "model")


@pytest.mark.parametrize("scaled", [False, True], ids=["adam", "with loss scaling"])
@pytest.mark.parametrize("num_batches", [4, 5], ids=["between steps", "in a step"])
def test_smaller_batches_go_on_with_the_same_step(
    num_batches: int, scaled: bool, tmp_path: Path
) -> None:
    """Steps of two batches of 8 become steps of four batches of 4, wherever the first ended."""
    rng = np.random.default_rng(1)
    inputs, targets = rng.normal(size=(8, 8, 4)), rng.normal(size=(8, 8, 3))

    def compiled(steps: int) -> keras.Model:
        dense = keras.layers.Dense(3, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((4,)), dense])
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=steps)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model.compile(optimizer, "mse")
        model.optimizer.build(model.trainable_variables)
        return model

    whole = compiled(2)
    for x, y in zip(inputs[:num_batches], targets[:num_batches], strict=True):
        whole.train_on_batch(x, y)
    state = {"batch_size": 8, "position": num_batches, "parts": {"rate": {"seen": num_batches}}}
    save_checkpoint(tmp_path, num_batches, state, whole)
    found = load_checkpoint(tmp_path)
    assert found is not None
    half = compiled(4)
    smaller = found.in_batches_of(4)
    smaller.restore(half, "model")
    smaller.restore(half, "optimizer")
    assert smaller.state["position"] == 2 * num_batches
    for x, y in zip(inputs[num_batches:], targets[num_batches:], strict=True):
        whole.train_on_batch(x, y)
        for part in (slice(4), slice(4, 8)):
            half.train_on_batch(x[part], y[part])
    for mine, theirs in zip(half.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
