"""Metadata into the network: columns to a vector, the vector to the image features.

Means, deviations and vocabulary sizes are constants of the layers, so that a saved model takes
raw values and exports without extra inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops

from foveate.errors import ConfigError

HIDDEN_SHARE = 0.03
"""Share of values hidden in training, so that missing and unknown ones are not news in use."""
_VECTOR_SIZE = 64
_FUSED_SIZE = 256
_LARGEST_DEVIATION = 10.0  # one mistyped number must not drown the image
_MISSING, _UNKNOWN, _RESERVED = 0, 1, 2


@dataclass(frozen=True)
class MetadataInputs:
    """What the training split says about the metadata columns.

    Attributes:
        means: Of each numeric column, after the logarithm where there is one.
        deviations: Standard deviations, likewise; 0 is taken as 1.
        log: Whether each numeric column goes through log(1 + x) first.
        vocabulary_sizes: Number of known values of each categorical column; ids are 0 for
            missing, 1 for unknown, then from 2.

    Raises:
        ConfigError: The numeric columns are described unequally, or there is no column at all.
    """

    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()
    log: tuple[bool, ...] = ()
    vocabulary_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        lengths = (len(self.means), len(self.deviations), len(self.log))
        if len(set(lengths)) > 1:
            raise ConfigError(
                "Means, deviations and log must have one entry for each numeric column, "
                f"but got {lengths} entries."
            )
        if not self.means and not self.vocabulary_sizes:
            raise ConfigError("Metadata must have at least one column, but got none.")


def embedding_size(vocabulary_size: int) -> int:
    """Choose the dimension of an embedding: min(32, ceil(1.6 n^0.56)).

    The rule of fastai (`emb_sz_rule`), with a lower ceiling for the small tables that stand
    beside images.
    """
    return min(32, math.ceil(1.6 * vocabulary_size**0.56))


@keras.saving.register_keras_serializable(package="foveate")
class NumericEncoding(layers.Layer):
    """Scale numeric columns and mark what is missing.

    Args:
        means: As in `MetadataInputs`.
        deviations: As in `MetadataInputs`.
        log: As in `MetadataInputs`.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(
        self,
        means: Sequence[float],
        deviations: Sequence[float],
        log: Sequence[bool],
        **kwargs: Any,
    ) -> None:
        # Raw values such as incomes or dates do not survive half precision.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.means, self.deviations, self.log = list(means), list(deviations), list(log)
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, values: Any, training: bool | None = None) -> Any:
        """Encode a batch.

        Args:
            values: (B, M) float32; NaN is missing, and so is what has no logarithm.
            training: Whether to hide some values.

        Returns:
            (B, 2M) float32: values in deviations from the mean (-10 to 10, 0 where missing),
            then 1 where missing, else 0.
        """
        logged = ops.where(ops.array(self.log, "bool"), ops.log1p(values), values)
        deviations = ops.array([one or 1.0 for one in self.deviations], "float32")
        scaled = (logged - ops.array(self.means, "float32")) / deviations
        missing = ops.isnan(scaled)
        if training:
            draw = keras.random.uniform(ops.shape(values), seed=self.seed_generator)
            missing = ops.logical_or(missing, draw < HIDDEN_SHARE)
        scaled = ops.where(missing, 0.0, ops.clip(scaled, -_LARGEST_DEVIATION, _LARGEST_DEVIATION))
        return ops.concatenate([scaled, ops.cast(missing, "float32")], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return (B, 2M)."""
        return (input_shape[0], 2 * len(self.means))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this layer."""
        own = {"means": self.means, "deviations": self.deviations, "log": self.log}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="foveate")
class CategoryEmbeddings(layers.Layer):
    """Look up one learned vector for each categorical column.

    Args:
        vocabulary_sizes: As in `MetadataInputs`.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(self, vocabulary_sizes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vocabulary_sizes = list(vocabulary_sizes)
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape: Any) -> None:
        """Make a table for each column: a row each for missing and unknown, then the known."""
        del input_shape
        self.tables = [
            self.add_weight(
                (size + _RESERVED, embedding_size(size)), "random_normal", name=f"table_{index}"
            )
            for index, size in enumerate(self.vocabulary_sizes)
        ]

    def call(self, ids: Any, training: bool | None = None) -> Any:
        """Look up a batch.

        Args:
            ids: (B, N) int32, 0 to vocabulary size + 1.
            training: Whether to hide some values, half as missing and half as unknown.

        Returns:
            (B, sum of the embedding sizes) in the layer's compute dtype.
        """
        if training:
            draw = keras.random.uniform(ops.shape(ids), seed=self.seed_generator)
            ids = ops.where(draw < HIDDEN_SHARE, _UNKNOWN, ids)
            ids = ops.where(draw < HIDDEN_SHARE / 2, _MISSING, ids)
        columns = [ops.take(table, ids[:, i], axis=0) for i, table in enumerate(self.tables)]
        return ops.concatenate(columns, axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return (B, sum of the embedding sizes)."""
        return (input_shape[0], sum(map(embedding_size, self.vocabulary_sizes)))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild this layer."""
        return {**super().get_config(), "vocabulary_sizes": self.vocabulary_sizes}


def metadata_inputs(metadata: MetadataInputs) -> dict[str, Any]:
    """Make the model inputs that the columns need.

    Args:
        metadata: The columns.

    Returns:
        `numeric` (B, M) float32 and `categories` (B, N) int32, each only if it has columns.
    """
    inputs = {}
    if metadata.means:
        inputs["numeric"] = keras.Input((len(metadata.means),), dtype="float32", name="numeric")
    if metadata.vocabulary_sizes:
        columns = len(metadata.vocabulary_sizes)
        inputs["categories"] = keras.Input((columns,), dtype="int32", name="categories")
    return inputs


def metadata_vector(metadata: MetadataInputs, inputs: dict[str, Any]) -> Any:
    """Bring all columns into one normalized vector.

    Args:
        metadata: The columns.
        inputs: What `metadata_inputs` returned.

    Returns:
        (B, 64).
    """
    encoded = []
    if "numeric" in inputs:
        encoding = NumericEncoding(
            metadata.means, metadata.deviations, metadata.log, name="metadata_numeric"
        )
        encoded.append(encoding(inputs["numeric"]))
    if "categories" in inputs:
        embed = CategoryEmbeddings(metadata.vocabulary_sizes, name="metadata_categories")
        encoded.append(embed(inputs["categories"]))
    x = encoded[0] if len(encoded) == 1 else layers.Concatenate(name="metadata_join")(encoded)
    x = layers.Dense(_VECTOR_SIZE, activation="relu", name="metadata_dense")(x)
    return layers.LayerNormalization(name="metadata_norm")(x)


def fuse(features: Any, vector: Any, fusion: str) -> Any:
    """Let metadata speak with the image.

    `film` is feature-wise linear modulation (Perez et al., 2018) and starts as the identity.
    `concatenate` normalizes both sides first, so that neither drowns the other, and ends for
    feature vectors in a small hidden layer, where image and metadata can interact; for a feature
    map the decoder's convolutions do that.

    Args:
        features: (B, C) or (B, h, w, C).
        vector: (B, V), normalized.
        fusion: `concatenate` or `film`.

    Returns:
        `film`: the shape of `features`; `concatenate`: (B, 256) or (B, h, w, C + V).
    """
    if fusion == "film":
        return _modulate(features, vector)
    features = layers.LayerNormalization(name="fusion_norm")(features)
    if len(features.shape) == 2:
        joined = layers.Concatenate(name="fusion_join")([features, vector])
        return layers.Dense(_FUSED_SIZE, activation="relu", name="fusion_dense")(joined)
    height, width = features.shape[1:3]
    spread = layers.RepeatVector(height * width, name="fusion_repeat")(vector)
    spread = layers.Reshape((height, width, vector.shape[-1]), name="fusion_spread")(spread)
    return layers.Concatenate(name="fusion_join")([features, spread])


def _modulate(features: Any, vector: Any) -> Any:
    channels = features.shape[-1]
    factor = layers.Dense(
        channels, kernel_initializer="zeros", bias_initializer="ones", name="fusion_factor"
    )(vector)
    shift = layers.Dense(channels, kernel_initializer="zeros", name="fusion_shift")(vector)
    if len(features.shape) == 4:
        factor = layers.Reshape((1, 1, channels), name="fusion_factor_map")(factor)
        shift = layers.Reshape((1, 1, channels), name="fusion_shift_map")(shift)
    features = layers.Multiply(name="fusion_multiply")([features, factor])
    return layers.Add(name="fusion_add")([features, shift])
