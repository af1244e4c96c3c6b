"""The U-Net decoder at any size."""

from __future__ import annotations

import math

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import ConfigError
from foveate.models.decoders import unet_decoder

CHANNELS = (16, 12, 8, 6, 4)


def feature_maps(size: tuple[int, int], strides: tuple[int, ...]) -> list[keras.KerasTensor]:
    return [
        keras.KerasTensor((None, *(math.ceil(side / stride) for side in size), 8))
        for stride in strides
    ]


def joins(model: keras.Model) -> list[tuple[int, ...]]:
    chosen = [layer for layer in model.layers if layer.name.endswith("_join")]
    return [layer.output.shape[1:3] for layer in chosen]


class TestUnetDecoder:
    @settings(max_examples=20, deadline=None)
    @given(
        st.tuples(st.integers(32, 400), st.integers(32, 400)),
        st.sampled_from([(2, 4, 8, 16, 32), (1, 2, 4, 8), (4, 8, 16, 32), (2, 4, 8)]),
    )
    def test_ends_at_the_image_size(self, size: tuple[int, int], strides: tuple[int, ...]) -> None:
        decoded = unet_decoder(feature_maps(size, strides), size, CHANNELS, dropout=0.2)
        assert decoded.shape[:3] == (None, *size)

    def test_joins_each_skip_at_its_size(self) -> None:
        inputs = [keras.Input((side, side, 4)) for side in (53, 25, 12, 5)]
        decoded = unet_decoder(inputs, (111, 111), CHANNELS, dropout=0.0)
        assert joins(keras.Model(inputs, decoded)) == [(12, 12), (25, 25), (53, 53)]
        assert decoded.shape == (None, 111, 111, CHANNELS[3])

    def test_bridges_a_missing_resolution_in_two_steps(self) -> None:
        # Strides 4 and 8 alone: 8 to 4 with a skip, then 2 and 1 without.
        decoded = unet_decoder(feature_maps((64, 64), (4, 8)), (64, 64), CHANNELS, dropout=0.0)
        assert decoded.shape == (None, 64, 64, CHANNELS[2])

    def test_too_few_channels(self) -> None:
        with pytest.raises(ConfigError, match=r"model\.decoder_channels.*at least 5.*got 2"):
            unet_decoder(feature_maps((64, 64), (2, 4, 8, 16, 32)), (64, 64), (8, 4), 0.0)
