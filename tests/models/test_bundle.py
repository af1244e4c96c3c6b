"""What is saved of a model is loaded elsewhere: also one with layers of the user's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from foveate.errors import ConfigError, RunError
from foveate.models.backbones import build_backbone
from foveate.models.bundle import Bundle, load_bundle, save_bundle

MODULE = """
import keras

@keras.saving.register_keras_serializable(package="mine")
class Shift(keras.layers.Layer):
    def call(self, x):
        return x + 1.0

class Unknown(Shift):
    pass

def network(input_shape):
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, Shift()(inputs))

def unregistered(input_shape):
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, Unknown()(inputs))

def with_lambda(input_shape):
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1.0)(inputs))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "own_layers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "own_layers.py"
    forget()


def forget() -> None:
    """Be as a process that has not imported the module."""
    sys.modules.pop("own_layers", None)
    keras.saving.get_custom_objects().pop("mine>Shift", None)


def test_layers_of_a_users_own(module: Path, tmp_path: Path) -> None:
    model = build_backbone("own_layers:network", (4, 4), "none")
    save_bundle(tmp_path / "model", Bundle(model, {"backbone": "own_layers:network"}))
    forget()
    loaded = load_bundle(tmp_path / "model").model
    images = np.full((1, 4, 4, 3), 7, np.uint8)
    assert (keras.ops.convert_to_numpy(loaded(images)) == 8).all()
    forget()
    module.unlink()
    with pytest.raises(RunError, match=r"Shift.*'own_layers:network'\) on PYTHONPATH"):
        load_bundle(tmp_path / "model")


@pytest.mark.parametrize("name", ["unregistered", "with_lambda"])
def test_what_could_not_be_loaded_is_refused_before_it_is_trained(module: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="save and load"):
        build_backbone(f"own_layers:{name}", (4, 4), "none")


def test_a_file_that_is_none_of_keras_is_told(tmp_path: Path) -> None:
    model = build_backbone("simple_cnn", (32, 32), "none")
    save_bundle(tmp_path, Bundle(model, {"backbone": "simple_cnn"}))
    (tmp_path / "model.keras").write_bytes(b"torn")
    with pytest.raises(RunError, match=r"model\.keras' must be a model .* Restore the file"):
        load_bundle(tmp_path)
