"""From raw pixels to the range a backbone was trained on, as a layer inside the model."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import layers, ops

from foveate.errors import ConfigError, nearest


class _Affine(NamedTuple):
    """``pixel * scale + offset`` for each channel, after an exchange of red and blue."""

    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
    blue_first: bool = False


def _even(scale: float, offset: float) -> _Affine:
    return _Affine((scale,) * 3, (offset,) * 3)


def _standardized() -> _Affine:
    # Mean and deviation of ImageNet's red, green, blue (0 to 1): torchvision's numbers.
    means, deviations = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    scale = tuple(1.0 / (255.0 * deviation) for deviation in deviations)
    offset = tuple(-mean / dev for mean, dev in zip(means, deviations, strict=True))
    return _Affine(scale, offset)  # type: ignore[arg-type]


CONVENTIONS = {
    "raw": _even(1.0, 0.0),
    "symmetric": _even(1.0 / 127.5, -1.0),  # "tf" in keras.applications.imagenet_utils
    "symmetric_128": _even(1.0 / 128.0, -1.0),  # EfficientNetV2 S, M, L
    "lite": _even(1.0 / 128.0, -127.0 / 128.0),  # EfficientNet-Lite
    "standardized": _standardized(),  # "torch" in keras.applications.imagenet_utils
    # "caffe" in keras.applications.imagenet_utils: blue, green, red, each less its mean.
    "caffe": _Affine((1.0, 1.0, 1.0), (-103.939, -116.779, -123.68), blue_first=True),
}


@keras.saving.register_keras_serializable(package="foveate")
class PixelScaling(layers.Layer):
    """Bring raw RGB pixels into the range that a family of backbones expects.

    Args:
        convention: Key of `CONVENTIONS`.
        **kwargs: Passed to `keras.layers.Layer`.

    Raises:
        ConfigError: The convention is unknown.
    """

    def __init__(self, convention: str, **kwargs: Any) -> None:
        # Computed in float32 under any policy: autocast would round pixels before the scaling.
        super().__init__(autocast=False, **kwargs)
        if convention not in CONVENTIONS:
            raise ConfigError(
                f"The pixel convention must be one of {', '.join(CONVENTIONS)}, "
                f"but got {convention!r}.{nearest(convention, list(CONVENTIONS))}"
            )
        self.convention = convention

    def call(self, images: Any) -> Any:
        """Scale a batch.

        Args:
            images: (B, H, W, 3), any number type, RGB, 0 to 255.

        Returns:
            (B, H, W, 3) in the layer's compute dtype.
        """
        scale, offset, blue_first = CONVENTIONS[self.convention]
        pixels = ops.cast(images, "float32")
        if blue_first:
            # A gather: the one reversal that all export formats know.
            pixels = ops.take(pixels, [2, 1, 0], axis=-1)
        pixels = pixels * ops.array(scale, "float32") + ops.array(offset, "float32")
        return ops.cast(pixels, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the input's own shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this layer."""
        return {**super().get_config(), "convention": self.convention}
