from __future__ import annotations

import dataclasses
import io
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from foveate.config.augmentation import (
    AugmentConfig,
    ColorConfig,
    GeometryConfig,
    MixConfig,
    QualityConfig,
)
from foveate.config.settings import DecodeConfig
from foveate.data.augment import (
    NUM_DRAWS,
    PRESETS,
    Parameters,
    Ranges,
    apply,
    decode_size,
    mix_batch,
    resolve,
    sample,
)
from foveate.data.color import Quality
from foveate.data.decode import decode_pair
from foveate.data.samples import sample_numbers

SEEDS = st.integers(0, 2**32 - 1)
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def drawn_numbers(seed: int) -> list[float]:
    return [*np.random.default_rng(seed).random(NUM_DRAWS)]


class TestRanges:
    def test_none_changes_nothing(self) -> None:
        assert sample(resolve(AugmentConfig(preset="none")), drawn_numbers(3)) == (
            dataclasses.replace(Parameters(), quality=_quality_left_over(3))
        )

    @pytest.mark.parametrize("preset", PRESETS)
    def test_every_preset_obeys_the_bounds_of_the_settings(self, preset: str) -> None:
        values = dataclasses.asdict(PRESETS[preset])
        sections = (GeometryConfig, ColorConfig, QualityConfig)
        assert set(values) == {name for section in sections for name in section.model_fields}
        for section in sections:
            section(**{name: values[name] for name in section.model_fields})

    def test_medical_keeps_orientation_and_hue(self) -> None:
        ranges = PRESETS["medical"]
        assert (ranges.vertical_flip, ranges.hue, ranges.saturation) == (0, 0, 0)

    def test_given_values_win(self) -> None:
        config = AugmentConfig(
            preset="strong",
            geometry=GeometryConfig(rotation=0.0, border="constant"),
            color=ColorConfig(hue=90.0),
        )
        expected = dataclasses.replace(
            PRESETS["strong"], rotation=0.0, border="constant", hue=90.0
        )
        assert resolve(config) == expected


def _quality_left_over(seed: int) -> Quality:
    """What quality draws without meaning anything: the seed of no noise, the colour of no box."""
    drawn = sample(Ranges(), drawn_numbers(seed)).quality
    return Quality(noise_seed=drawn.noise_seed, erased_color=drawn.erased_color)


class TestSample:
    @settings(deadline=None, max_examples=200)
    @given(SEEDS)
    def test_within_the_ranges(self, seed: int) -> None:
        ranges = PRESETS["strong"]
        drawn = sample(ranges, drawn_numbers(seed))
        geometry, color, quality = drawn.geometry, drawn.color, drawn.quality
        assert abs(geometry.rotation) <= math.radians(ranges.rotation)
        assert abs(geometry.zoom - 1) <= ranges.zoom + 1e-12
        assert max(map(abs, geometry.shift)) <= ranges.shift
        top, left, height, width = geometry.crop
        assert min(top, left) >= 0
        assert max(top + height, left + width) <= 1 + 1e-12
        assert ranges.crop - 1e-12 <= height * width <= 1
        assert 3 / 4 - 1e-12 <= width / height <= 4 / 3 + 1e-12
        assert abs(color.brightness) <= ranges.brightness
        assert all(abs(factor - 1) <= ranges.channel + 1e-12 for factor in color.channel)
        assert 0 <= quality.blur <= ranges.blur
        if quality.erased:
            top, left, height, width = quality.erased
            assert min(top, left) >= 0
            assert max(top + height, left + width) <= 1 + 1e-12
            assert 0.02 - 1e-12 <= height * width <= 0.2 + 1e-12

    @settings(deadline=None)
    @given(SEEDS, st.sampled_from([field.name for field in dataclasses.fields(Ranges)]))
    def test_one_range_does_not_shift_the_others(self, seed: int, name: str) -> None:
        full = PRESETS["strong"]
        less = dataclasses.replace(full, **{name: getattr(Ranges(), name)})
        first, second = (sample(given_, drawn_numbers(seed)) for given_ in (full, less))
        changed = {
            (part.name, field.name)
            for part in dataclasses.fields(Parameters)
            for field in dataclasses.fields(getattr(first, part.name))
            if getattr(getattr(first, part.name), field.name)
            != getattr(getattr(second, part.name), field.name)
        }
        assert len(changed) <= 1

    def test_flips_come_as_often_as_asked(self) -> None:
        ranges = Ranges(horizontal_flip=0.25, vertical_flip=1.0)
        flips = [sample(ranges, drawn_numbers(seed)).geometry.flip for seed in range(2000)]
        assert all(upside_down for upside_down, _ in flips)
        # 500 expected with a standard deviation of 19.4; five of them either way.
        assert abs(sum(flipped for _, flipped in flips) - 500) < 97


class TestApply:
    def test_writes_into_the_batch_and_leaves_its_input(self) -> None:
        image, mask = NOISE.copy(), NOISE[..., 0].copy()
        for preset in PRESETS:
            batch, masks = np.zeros((2, 30, 40, 3), np.uint8), np.zeros((2, 30, 40), np.uint8)
            drawn = sample(PRESETS[preset], drawn_numbers(1))
            result, ids = apply(image, drawn, (30, 40), mask, out=batch[1], mask_out=masks[1])
            fresh, fresh_ids = apply(image, drawn, (30, 40), mask)
            assert np.shares_memory(result, batch)
            np.testing.assert_array_equal(batch[1], fresh)
            np.testing.assert_array_equal(masks[1], fresh_ids)
            np.testing.assert_array_equal(result, fresh)
            np.testing.assert_array_equal(ids, fresh_ids)
            assert not batch[0].any()
        np.testing.assert_array_equal(image, NOISE)
        np.testing.assert_array_equal(mask, NOISE[..., 0])

    def test_same_bytes_for_any_number_of_threads(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        Image.fromarray(cv2.resize(NOISE, (320, 240))).save(buffer, "JPEG")
        (tmp_path / "image").write_bytes(buffer.getvalue())
        Image.fromarray(cv2.resize(NOISE[..., 0], (320, 240))).save(tmp_path / "mask.png")
        ranges = dataclasses.replace(PRESETS["strong"], noise=5.0)

        def load(key: tuple[int, int, int]) -> bytes:
            drawn = sample(ranges, sample_numbers(*key, 1)[0])
            image, mask = decode_pair(
                tmp_path / "image",
                tmp_path / "mask.png",
                DecodeConfig(),
                decode_size(drawn, (64, 64)),
            )
            image, ids = apply(image, drawn, (64, 64), mask)
            assert ids is not None
            return image.tobytes() + ids.tobytes()

        keys = [(7, epoch, index) for epoch in range(2) for index in range(16)]
        alone = [load(key) for key in keys]
        assert len(set(alone)) == len(keys)
        for threads in (1, 2, 4):
            with ThreadPoolExecutor(threads) as pool:
                assert list(pool.map(load, keys)) == alone


class TestMix:
    @staticmethod
    def batch() -> tuple[np.ndarray, np.ndarray]:
        """Eight images, each filled with 30 times its class."""
        values = np.arange(8, dtype=np.uint8) * 30
        images = np.broadcast_to(values[:, None, None, None], (8, 20, 30, 3)).copy()
        return images, np.eye(8, dtype=np.float32)

    def test_off_gives_the_batch_back(self) -> None:
        images, targets = self.batch()
        mixed, mixed_targets = mix_batch(images, targets, MixConfig(), np.random.default_rng(0))
        assert mixed is images
        assert mixed_targets is targets

    @settings(deadline=None)
    @given(SEEDS, st.floats(0.1, 5))
    def test_mixup_blends_pixels_as_targets(self, seed: int, concentration: float) -> None:
        images, targets = self.batch()
        config = MixConfig(mixup=concentration)
        mixed, weights = mix_batch(images, targets, config, np.random.default_rng(seed))
        expected = weights @ (np.arange(8) * 30.0)
        assert np.abs(mixed - expected[:, None, None, None]).max() <= 0.5 + 1e-3
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
        assert mixed.dtype == np.uint8
        assert weights.dtype == np.float32

    @settings(deadline=None)
    @given(SEEDS, st.floats(0.1, 5))
    def test_cutmix_weighs_by_the_exact_area(self, seed: int, concentration: float) -> None:
        images, targets = self.batch()
        config = MixConfig(cutmix=concentration)
        mixed, weights = mix_batch(images, targets, config, np.random.default_rng(seed))
        for image, weight in zip(mixed, weights, strict=True):
            counts = np.bincount(image[..., 0].ravel() // 30, minlength=8)
            np.testing.assert_allclose(weight, counts / 600, atol=1e-6)

    def test_with_both_each_batch_takes_one(self) -> None:
        images, targets = self.batch()
        config = MixConfig(mixup=1.0, cutmix=1.0)
        cut = 0
        for seed in range(200):
            mixed, _ = mix_batch(images, targets, config, np.random.default_rng(seed))
            cut += bool((mixed % 30 == 0).all())
        # 100 expected with a standard deviation of 7.1; five of them either way.
        assert abs(cut - 100) < 36
        np.testing.assert_array_equal(images, self.batch()[0])
        np.testing.assert_array_equal(targets, self.batch()[1])
