"""The backbone table: one row a network, with its input range and its skip layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
from keras import applications

from foveate.models.efficientnet_lite import NATIVE_SIDES, efficientnet_lite
from foveate.models.simple_cnn import simple_cnn


@dataclass(frozen=True)
class Backbone:
    """A row of the table.

    Attributes:
        name: What a user writes in `model.backbone`.
        constructor: Called as ``constructor(include_top=False, weights=..., input_shape=...)``.
        pixels: Key of `foveate.models.pixels.CONVENTIONS`: the input range it was trained on.
        skips: Layers whose output a decoder joins, from high resolution to low; a number is a
            place in the model's list of layers, and ``name:input`` means what enters the layer.
            The model's own output is always the last feature map and is not listed.
        native_size: (height, width) in pixels that the published weights were trained at; None
            for a network that is always trained from scratch, which takes the images' own.
        has_imagenet: Whether there are ImageNet weights to load by name.
        first_layer: Where the network proper starts, when the constructor puts preprocessing
            of its own before it.
    """

    name: str
    constructor: Callable[..., keras.Model]
    pixels: str
    skips: tuple[str | int, ...]
    native_size: tuple[int, int] | None = (224, 224)
    has_imagenet: bool = True
    first_layer: str | None = None


def _nasnet_mobile(input_shape: tuple[int, int, int], weights: str | None, **rest: Any) -> Any:
    """Load at the native size and copy: the constructor refuses ImageNet weights at others."""
    model = applications.NASNetMobile(input_shape=input_shape, weights=None, **rest)
    if weights is not None:
        native = applications.NASNetMobile(input_shape=(224, 224, 3), weights=weights, **rest)
        model.set_weights(native.get_weights())
    return model


def _resnet(depth: int, third: int, fourth: int) -> Backbone:
    skips = (
        "conv1_relu",
        "conv2_block3_out",
        f"conv3_block{third}_out",
        f"conv4_block{fourth}_out",
    )
    return Backbone(f"resnet{depth}", getattr(applications, f"ResNet{depth}"), "caffe", skips)


def _resnet_v2(depth: int, third: int, fourth: int) -> Backbone:
    blocks = ("conv2_block3", f"conv3_block{third}", f"conv4_block{fourth}")
    skips = ("conv1_conv", *(f"{block}_preact_relu" for block in blocks))
    constructor = getattr(applications, f"ResNet{depth}V2")
    return Backbone(f"resnet{depth}_v2", constructor, "symmetric", skips)


def _densenet(depth: int) -> Backbone:
    skips = ("conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu")
    constructor = getattr(applications, f"DenseNet{depth}")
    return Backbone(f"densenet{depth}", constructor, "standardized", skips)


def _vgg(depth: int, last: int) -> Backbone:
    skips = ("block2_conv2", *(f"block{block}_conv{last}" for block in (3, 4, 5)))
    return Backbone(f"vgg{depth}", getattr(applications, f"VGG{depth}"), "caffe", skips)


def _mobilenet_v3(size: str, blocks: tuple[str, ...]) -> Backbone:
    # Activations have no lasting names here, so skips are taken just before them.
    constructor = partial(getattr(applications, f"MobileNetV3{size}"), include_preprocessing=False)
    return Backbone(f"mobilenet_v3_{size.lower()}", constructor, "symmetric", blocks)


_EXPANSIONS = tuple(f"block{stage}a_expand_activation" for stage in (2, 3, 4, 6))


def _efficientnet(variant: int, side: int) -> Backbone:
    # Cut off its preprocessing: it scales otherwise with a weights file than with "imagenet",
    # and Normalization exports to ONNX as two extra inputs.
    return Backbone(
        f"efficientnet_b{variant}",
        getattr(applications, f"EfficientNetB{variant}"),
        "standardized",
        _EXPANSIONS,
        (side, side),
        first_layer="stem_conv_pad",
    )


def _efficientnet_v2(variant: str, side: int, first: str, second: str) -> Backbone:
    """`first` and `second`: the last layers of the stages at strides 2 and 4."""
    return Backbone(
        f"efficientnet_v2_{variant.lower()}",
        partial(getattr(applications, f"EfficientNetV2{variant}"), include_preprocessing=False),
        "standardized" if variant.startswith("B") else "symmetric_128",
        (first, second, *_EXPANSIONS[2:]),
        (side, side),
    )


def _efficientnet_lite(variant: int) -> Backbone:
    side = NATIVE_SIDES[variant]
    return Backbone(
        f"efficientnet_lite{variant}",
        partial(efficientnet_lite, variant),
        "lite",
        _EXPANSIONS,
        (side, side),
        has_imagenet=variant <= 2,
    )


def _convnext(size: str) -> Backbone:
    name = f"convnext_{size.lower()}"
    skips = tuple(f"{name}_downsampling_block_{block}:input" for block in range(3))
    constructor = partial(getattr(applications, f"ConvNeXt{size}"), include_preprocessing=False)
    return Backbone(name, constructor, "standardized", skips)


def _xception() -> Backbone:
    skips = tuple(f"block{block}_sepconv2_bn" for block in (2, 3, 4, 13))
    return Backbone("xception", applications.Xception, "symmetric", skips, (299, 299))


_TABLE = (
    Backbone(
        "simple_cnn",
        simple_cnn,
        "symmetric",
        ("block1a_activation", "block2b_activation", "block3b_activation"),
        None,
        has_imagenet=False,
    ),
    *(_efficientnet_lite(variant) for variant in range(5)),
    _mobilenet_v3("Small", ("conv_bn", *(f"expanded_conv_{i}_expand_bn" for i in (1, 3, 8)))),
    _mobilenet_v3("Large", tuple(f"expanded_conv_{i}_expand_bn" for i in (1, 3, 6, 12))),
    Backbone(
        "mobilenet",
        applications.MobileNet,
        "symmetric",
        tuple(f"conv_pw_{i}_relu" for i in (1, 3, 5, 11)),
    ),
    Backbone(
        "mobilenet_v2",
        applications.MobileNetV2,
        "symmetric",
        tuple(f"block_{i}_expand_relu" for i in (1, 3, 6, 13)),
    ),
    *(_efficientnet(i, side) for i, side in enumerate((224, 240, 260, 300, 380, 456, 528, 600))),
    _efficientnet_v2("B0", 224, "block1a_project_activation", "block2b_add"),
    _efficientnet_v2("B1", 240, "block1b_add", "block2c_add"),
    _efficientnet_v2("B2", 260, "block1b_add", "block2c_add"),
    _efficientnet_v2("B3", 300, "block1b_add", "block2c_add"),
    _efficientnet_v2("S", 384, "block1b_add", "block2d_add"),
    _efficientnet_v2("M", 480, "block1c_add", "block2e_add"),
    _efficientnet_v2("L", 480, "block1d_add", "block2g_add"),
    _resnet(50, 4, 6),
    _resnet(101, 4, 23),
    _resnet(152, 8, 36),
    _resnet_v2(50, 4, 6),
    _resnet_v2(101, 4, 23),
    _resnet_v2(152, 8, 36),
    _vgg(16, 3),
    _vgg(19, 4),
    # The stem of both Inceptions is unnamed; 9 and 16 are its activations at strides 2 and 4.
    Backbone(
        "inception_v3",
        applications.InceptionV3,
        "symmetric",
        (9, 16, "mixed2", "mixed7"),
        (299, 299),
    ),
    Backbone(
        "inception_resnet_v2",
        applications.InceptionResNetV2,
        "symmetric",
        (9, 16, "block35_10_ac", "block17_20_ac"),
        (299, 299),
    ),
    _xception(),
    _densenet(121),
    _densenet(169),
    _densenet(201),
    *(_convnext(size) for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
    Backbone(
        "nasnet_mobile",
        _nasnet_mobile,
        "symmetric",
        ("stem_bn1", "reduction_concat_stem_1", "normal_concat_3", "normal_concat_8"),
    ),
)
BACKBONES: dict[str, Backbone] = {backbone.name: backbone for backbone in _TABLE}
"""Every backbone by name."""
