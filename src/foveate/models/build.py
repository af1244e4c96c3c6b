"""From settings to a model: backbone, metadata, head or decoder, put together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from foveate.config.settings import ModelConfig
from foveate.models.backbones import build_backbone, get_backbone, resolve_weights
from foveate.models.decoders import unet_decoder
from foveate.models.fusion import MetadataInputs, fuse, metadata_inputs, metadata_vector
from foveate.models.heads import class_logits, pixel_logits, pool

if TYPE_CHECKING:
    from foveate.tasks.base import Task

_FRONTIER = "features"


@dataclass(frozen=True)
class ModelInputs:
    """What the model is fed.

    Attributes:
        image_size: (height, width) in pixels.
        metadata: The columns beside the image, if any.
    """

    image_size: tuple[int, int]
    metadata: MetadataInputs | None = None


def build_model(
    config: ModelConfig, inputs: ModelInputs, task: Task, seed: int = 0
) -> keras.Model:
    """Build the model of a run.

    Its backbone is the layer named `backbone`. All of it is trainable but the batch
    normalization of a pretrained backbone (see `set_trainable`).

    Args:
        config: Settings of the network.
        inputs: What it is fed.
        task: What it predicts.
        seed: Determines initial weights and later dropout; sets the global seeds of Python,
            NumPy and the backend.

    Returns:
        Model from a dict of `images` uint8 (B, H, W, 3), RGB, 0 to 255, and if there are any
        `numeric` float32 (B, M) and `categories` int32 (B, N), to float32 logits: (B, K), or
        (B, H, W, K) for a task per pixel.

    Raises:
        FoveateError: A setting does not fit, or weights are not to be had.
    """
    keras.utils.set_random_seed(seed)
    backbone = build_backbone(
        config.backbone, inputs.image_size, config.weights, skips=task.per_pixel
    )
    tensors = {"images": keras.Input((*inputs.image_size, 3), dtype="uint8", name="images")}
    vector = None
    if inputs.metadata is not None:
        tensors |= metadata_inputs(inputs.metadata)
        vector = metadata_vector(inputs.metadata, tensors)
    features = backbone(tensors["images"])
    connect = _segment if task.per_pixel else _classify
    logits = connect(features, vector, config, inputs.image_size, task.num_outputs)
    model = keras.Model(tensors, logits, name="foveate")
    pretrained = resolve_weights(get_backbone(config.backbone), config.weights) is not None
    set_trainable(model, 1.0, pretrained)
    return model


def set_trainable(model: keras.Model, share: float, pretrained: bool) -> int:
    """Freeze or unfreeze the backbone; everything else always trains. Compile afterwards.

    A wholly frozen backbone runs in inference mode. In a pretrained one batch normalization does
    so even when unfrozen: small batches would wreck the statistics it was trained with.

    Args:
        model: What `build_model` returned.
        share: Share of the backbone's layers with weights to train, counted from the top; 0 to 1.
        pretrained: Whether the backbone started from given weights.

    Returns:
        Number of trainable parameters of the whole model.
    """
    backbone = model.get_layer("backbone")
    backbone.trainable = share > 0
    weighted = [layer for layer in leaves(backbone) if layer.weights]
    num_frozen = len(weighted) - math.ceil(share * len(weighted))
    for index, layer in enumerate(weighted):
        statistics = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = index >= num_frozen and not (pretrained and statistics)
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def split_model(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Cut a model where the weights of its backbone end.

    Args:
        model: What `build_model` returned.

    Returns:
        Two models that share its layers: one from `images` to a dict of the features, float
        arrays named ``features``, ``features1`` and so on (one vector (B, C) where an image is
        classified, else the feature maps (B, h, w, C) from high resolution to low); and one from
        those, with the metadata if there is any, to the logits.
    """
    features = {
        layer.name: layer.output for layer in model.layers if layer.name.startswith(_FRONTIER)
    }
    for name, tensor in features.items():
        tensor.name = name  # that Keras asks for
    others = {name: tensor for name, tensor in model.input.items() if name != "images"}
    trunk = keras.Model(model.input["images"], features, name="trunk")
    head = keras.Model(features | others, model.output, name="head")
    head.dtype_policy = model.dtype_policy  # by which Keras decides to scale the loss
    return trunk, head


def _frontier(features: Sequence[Any]) -> list[Any]:
    """Mark where the weights of the backbone end, for `split_model`."""
    names = [f"{_FRONTIER}{number or ''}" for number in range(len(features))]
    return [
        keras.layers.Identity(name=name)(tensor)
        for name, tensor in zip(names, features, strict=True)
    ]


def leaves(model: keras.Model) -> Iterator[Any]:
    """Yield the layers of a model from the input up, those of nested models in their place."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer


def _classify(
    features: Any, vector: Any, config: ModelConfig, image_size: tuple[int, int], num_outputs: int
) -> Any:
    del image_size
    (pooled,) = _frontier([pool(features, config.pooling)])
    if vector is not None:
        pooled = fuse(pooled, vector, config.fusion)
    return class_logits(pooled, config, num_outputs)


def _segment(
    features: Any, vector: Any, config: ModelConfig, image_size: tuple[int, int], num_outputs: int
) -> Any:
    *skips, bottleneck = _frontier(features)
    if vector is not None:
        bottleneck = fuse(bottleneck, vector, config.fusion)
    decoded = unet_decoder(
        [*skips, bottleneck], image_size, config.decoder_channels, config.dropout
    )
    return pixel_logits(decoded, config, num_outputs)
