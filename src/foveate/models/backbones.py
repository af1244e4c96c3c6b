"""From a name to a backbone: a Keras model that takes raw pixels and gives feature maps."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import keras

from foveate.errors import ConfigError, first_cause, nearest
from foveate.models.families import BACKBONES, Backbone
from foveate.models.pixels import PixelScaling
from foveate.models.pretrained import construct_with_weights

__all__ = ["BACKBONES", "Backbone", "build_backbone", "get_backbone", "resolve_weights"]

_FILE_TYPES = (".h5", ".keras", ".pth")


@keras.saving.register_keras_serializable(package="foveate")
class BackboneModel(keras.Model):
    """A model that runs wholly in inference mode while it is frozen.

    Frozen batch normalization does so in any Keras model; dropout and stochastic depth do not,
    and with them the features of a frozen backbone would change from epoch to epoch. A flag
    `training=False` in the graph would not last: Keras overrides it in `fit`.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Compute the feature maps of raw images (B, H, W, 3), 0 to 255."""
        return super().call(inputs, training=bool(training) and self.trainable, mask=mask)


def get_backbone(name: str) -> Backbone:
    """Look up a backbone.

    Args:
        name: A name in `BACKBONES`, or ``"module:function"``: a function of the user's that
            takes ``input_shape=(height, width, 3)`` and returns a Keras model from raw RGB
            pixels (0 to 255) to a feature map (B, h, w, C).

    Returns:
        Its row.

    Raises:
        ConfigError: There is none of that name.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if ":" in name:
        return Backbone(name, _user_constructor(name), "raw", (), has_imagenet=False)
    raise ConfigError(
        f"model.backbone must be a name in the backbone table or 'module:function', "
        f"but got {name!r}.{nearest(name, list(BACKBONES))} The names are: "
        f"{', '.join(BACKBONES)}."
    )


def resolve_weights(backbone: Backbone, weights: str) -> Literal["imagenet"] | Path | None:
    """Say where a backbone's weights come from.

    Args:
        backbone: Row of the table.
        weights: `auto`, `imagenet`, `none`, or the path of a file.

    Returns:
        ``"imagenet"``, an existing file, or None for random weights.

    Raises:
        ConfigError: There are no such weights.
    """
    if weights == "none" or (weights == "auto" and not backbone.has_imagenet):
        return None
    if weights in ("auto", "imagenet"):
        if backbone.has_imagenet:
            return "imagenet"
        raise ConfigError(
            f"model.weights must be 'none' or a file for {backbone.name}, which has no ImageNet "
            "weights to load by name, but got 'imagenet'."
        )
    path = Path(weights).expanduser()
    if path.suffix not in _FILE_TYPES or not path.is_file():
        raise ConfigError(
            f"model.weights must be 'auto', 'imagenet', 'none' or an existing file "
            f"({', '.join(_FILE_TYPES)}), but got {weights!r}."
            f"{nearest(weights, ('auto', 'imagenet', 'none'))}"
        )
    if path.suffix == ".pth" and not backbone.name.startswith("efficientnet_lite"):
        raise ConfigError(
            f"model.weights must be a Keras file (.h5, .keras) for {backbone.name}, "
            f"but got {weights!r}; torch files are read for efficientnet_lite alone."
        )
    return path


def build_backbone(
    name: str, image_size: tuple[int, int], weights: str = "auto", skips: bool = False
) -> keras.Model:
    """Build a backbone with its preprocessing inside.

    Args:
        name: As for `get_backbone`.
        image_size: (height, width) in pixels.
        weights: As for `resolve_weights`.
        skips: Whether to return all feature maps that a decoder uses, or the last alone.

    Returns:
        Model named `backbone` from raw RGB images (B, H, W, 3), any number type, 0 to 255, to
        its last feature map (B, h, w, C), or to the list of its feature maps from high
        resolution to low, no two of the same size.

    Raises:
        ConfigError: A name, size or file does not fit, or there are no skips.
        MissingDependencyError: The weights come in a package that is not installed.
        FoveateError: The weights could not be downloaded.
    """
    backbone = get_backbone(name)
    if skips and not backbone.skips:
        raise ConfigError(
            "Segmentation needs a backbone with feature maps of several resolutions, but got "
            f"{name!r}, of which only the output is known. Choose one from the table."
        )
    base = construct_with_weights(
        partial(backbone.constructor, include_top=False, input_shape=(*image_size, 3)),
        backbone.name,
        resolve_weights(backbone, weights),
    )
    if len(base.outputs) != 1 or len(base.output.shape) != 4:
        raise ConfigError(
            f"A backbone must give one feature map (batch, height, width, channels), but {name!r} "
            f"gives {base.output_shape}. Remove its pooling and its top."
        )
    maps = _feature_maps(base, backbone.skips) if skips else base.output
    first = base.get_layer(backbone.first_layer) if backbone.first_layer else base
    network = keras.Model(first.input, maps, name=base.name)
    images = keras.Input((*image_size, 3), dtype="float32", name="images")
    pixels = PixelScaling(backbone.pixels, name="pixels")(images)
    return BackboneModel(images, network(pixels), name="backbone")


def _feature_maps(base: keras.Model, skips: tuple[str | int, ...]) -> list[Any]:
    maps: list[Any] = []
    for skip in skips:
        name, _, side = str(skip).partition(":")
        layer = base.layers[skip] if isinstance(skip, int) else base.get_layer(name)
        maps.append(layer.input if side == "input" else layer.output)
    maps.append(base.output)
    # Small images stop shrinking before the end; of equal sizes the deepest map says most.
    return list({tuple(one.shape[1:3]): one for one in maps}.values())


def _require_loadable(model: keras.Model, name: str) -> None:
    """Refuse now what would be trained and saved, and then not be loaded."""
    try:
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    except Exception as error:
        raise ConfigError(
            f"model.backbone {name!r} must be a model that Keras can save and load, but got: "
            f"{first_cause(error)} Decorate its own layers with "
            "@keras.saving.register_keras_serializable(), and take layers instead of lambdas."
        ) from error


def _user_constructor(name: str) -> Callable[..., keras.Model]:
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"model.backbone must be 'module:function' that Python can import, but got {name!r}: "
            f"{error}. Check the spelling and that the module is on PYTHONPATH."
        ) from error

    def construct(include_top: bool, weights: None, input_shape: tuple[int, int, int]) -> Any:
        del include_top, weights
        try:
            model = function(input_shape=input_shape)
        except Exception as error:
            raise ConfigError(
                f"model.backbone {name!r} must be a function of input_shape={input_shape}, but "
                f"got {type(error).__name__}: {error}."
            ) from error
        if not isinstance(model, keras.Model):
            raise ConfigError(
                f"model.backbone {name!r} must return a Keras model, but got {type(model)}."
            )
        _require_loadable(model, name)
        return model

    return construct
