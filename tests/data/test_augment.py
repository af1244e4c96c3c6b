from __future__ import annotations

import dataclasses
import io
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
    PRESETS,
    Parameters,
    Ranges,
    apply,
    decode_size,
    mix_batch,
    resolve,
    sample,
)
from foveate.data.color import Color, Quality, color_matrix, degrade, lookup_table, recolor
from foveate.data.decode import decode_pair
from foveate.data.geometry import Border, Geometry, matrix

SEEDS = st.integers(0, 2**32 - 1)
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def moved(image: np.ndarray, size: tuple[int, int], **geometry: Any) -> np.ndarray:
    return apply(image, Parameters(Geometry(**geometry)), size)[0]


def recolored(values: Any, color: Color) -> Any:
    image = np.array([values], np.uint8)
    recolor(image, color)
    return image[0].tolist()


class TestRanges:
    def test_none_changes_nothing(self) -> None:
        assert sample(resolve(AugmentConfig(preset="none")), np.random.default_rng(3)) == (
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
    drawn = sample(Ranges(), np.random.default_rng(seed)).quality
    return Quality(noise_seed=drawn.noise_seed, erased_color=drawn.erased_color)


class TestSample:
    @settings(deadline=None, max_examples=200)
    @given(SEEDS)
    def test_within_the_ranges(self, seed: int) -> None:
        ranges = PRESETS["strong"]
        drawn = sample(ranges, np.random.default_rng(seed))
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
        first, second = (sample(given_, np.random.default_rng(seed)) for given_ in (full, less))
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
        flips = [sample(ranges, np.random.default_rng(seed)).geometry.flip for seed in range(2000)]
        assert all(upside_down for upside_down, _ in flips)
        # 500 expected with a standard deviation of 19.4; five of them either way.
        assert abs(sum(flipped for _, flipped in flips) - 500) < 97


class TestGeometry:
    @settings(deadline=None)
    @given(*[st.integers(1, 60)] * 4)
    def test_identity_is_a_plain_resize(
        self, height: int, width: int, high: int, wide: int
    ) -> None:
        image = np.ascontiguousarray(NOISE[:height, :width])
        result, _ = apply(image, Parameters(), (high, wide))
        assert result.shape == (high, wide, 3)
        if high > height / 2 and wide > width / 2:  # less is averaged first
            np.testing.assert_array_equal(result, cv2.resize(image, (wide, high)))

    def test_identity_matrix_has_the_half_pixel_alignment(self) -> None:
        # (x + 0.5) * 40 / 10 - 0.5 and (y + 0.5) * 30 / 20 - 0.5
        expected = [[4, 0, 1.5], [0, 1.5, 0.25]]
        np.testing.assert_allclose(matrix(Geometry(), (30, 40), (20, 10)), expected)

    def test_flips_are_exact(self) -> None:
        for flip, axes in (((True, False), 0), ((False, True), 1), ((True, True), (0, 1))):
            np.testing.assert_array_equal(moved(NOISE, (48, 64), flip=flip), np.flip(NOISE, axes))

    @pytest.mark.parametrize("turns", [1, 2, 3])
    def test_quarter_turns_are_exact_and_clockwise(self, turns: int) -> None:
        image = np.ascontiguousarray(NOISE[:, :48])
        result = moved(image, (48, 48), rotation=math.radians(90 * turns))
        np.testing.assert_array_equal(result, np.rot90(image, -turns))

    def test_shift_goes_down_and_right(self) -> None:
        result = moved(NOISE, (48, 64), shift=(0.25, 0.125), border="constant")
        np.testing.assert_array_equal(result[12:, 8:], NOISE[:-12, :-8])
        assert not result[:12].any()
        assert not result[:, :8].any()

    def test_reflection_mirrors_at_the_edge(self) -> None:
        result = moved(NOISE, (48, 64), shift=(0.25, 0.0))
        np.testing.assert_array_equal(result, np.concatenate([NOISE[11::-1], NOISE[:-12]]))

    def test_nearest_repeats_the_edge(self) -> None:
        result = moved(NOISE, (48, 64), shift=(0.0, -0.5), border="nearest")
        np.testing.assert_array_equal(result[:, 32:], np.repeat(NOISE[:, -1:], 32, axis=1))

    def test_zoom_enlarges_about_the_centre(self) -> None:
        result = moved(NOISE, (48, 64), zoom=2.0)
        np.testing.assert_array_equal(result, cv2.resize(NOISE[12:36, 16:48], (64, 48)))

    def test_crop_keeps_its_part(self) -> None:
        result = moved(NOISE, (24, 32), crop=(0.25, 0.5, 0.5, 0.5))
        np.testing.assert_array_equal(result, NOISE[12:36, 32:])

    def test_crop_is_flipped_about_its_own_centre(self) -> None:
        result = moved(NOISE, (24, 32), crop=(0.25, 0.5, 0.5, 0.5), flip=(True, True))
        np.testing.assert_array_equal(result, NOISE[35:11:-1, :31:-1])

    def test_shear_moves_right_below_the_centre(self) -> None:
        to_source = matrix(Geometry(shear=0.5), (48, 64), (48, 64))
        # The centre stays; ten pixels below it, the source lies five pixels further left.
        np.testing.assert_allclose(to_source @ [31.5, 23.5, 1], [31.5, 23.5])
        np.testing.assert_allclose(to_source @ [31.5, 33.5, 1], [26.5, 33.5])

    @pytest.mark.parametrize("rotation", [0.0, 0.3, math.pi / 4])
    def test_shrinking_averages(self, rotation: float) -> None:
        # A chessboard of single pixels is the finest pattern there is: only grey may remain.
        board = np.uint8(255) * (np.indices((256, 256)).sum(axis=0) % 2).astype(np.uint8)
        result = moved(np.dstack([board] * 3), (64, 64), rotation=rotation)
        assert np.abs(result[1:-1, 1:-1].astype(int) - 127.5).max() <= 1.5

    @settings(deadline=None, max_examples=60)
    @given(SEEDS, st.sampled_from(["reflect", "constant", "nearest"]), st.booleans())
    def test_mask_ids_are_never_invented(self, seed: int, border: Border, turn: bool) -> None:
        rng = np.random.default_rng(seed)
        ids = rng.choice(256, 4, replace=False)
        mask = rng.choice(ids[:3], size=rng.integers(1, 90, 2)).astype(np.uint8)
        ranges = dataclasses.replace(PRESETS["strong"], border=border, rotation=180.0 * turn)
        size = (int(rng.integers(1, 50)), int(rng.integers(1, 50)))
        _, result = apply(NOISE, sample(ranges, rng), size, mask, ignore=int(ids[3]))
        assert result is not None
        assert result.shape == size
        known = set(mask.ravel()) | ({ids[3]} if border == "constant" else set())
        assert set(result.ravel()) <= known

    @settings(deadline=None, max_examples=60)
    @given(
        SEEDS,
        st.sampled_from(["reflect", "nearest"]),
        st.sampled_from([1, 2, 4]),
        st.booleans(),
        st.booleans(),
    )
    def test_image_and_mask_move_together(
        self, seed: int, border: Border, reduced: int, turn: bool, along_x: bool
    ) -> None:
        # Image and mask hold the same ramp, so a difference in value is one in place.
        shape = (320, 480)
        ramp = np.broadcast_to(np.linspace(0, 255, shape[along_x]), shape[:: 1 if along_x else -1])
        mask = np.rint(ramp if along_x else ramp.T).astype(np.uint8)
        whole = np.dstack([mask] * 3)
        image = cv2.resize(whole, (480 // reduced, 320 // reduced), interpolation=cv2.INTER_AREA)
        ranges = dataclasses.replace(PRESETS["strong"], border=border)
        if not turn:
            ranges = dataclasses.replace(ranges, rotation=0.0, shear=0.0)
        drawn = Parameters(sample(ranges, np.random.default_rng(seed)).geometry)
        size = (40, 60)
        warped, ids = apply(image, drawn, size, mask)
        assert ids is not None
        row = matrix(drawn.geometry, shape, size)[0 if along_x else 1]
        slope = (abs(row[0]) + abs(row[1])) * 255 / (shape[along_x] - 1)
        # One output pixel, and one level for each of the two roundings to whole values.
        difference = np.abs(warped[..., 0].astype(int) - ids)
        assert difference.max() <= slope + 2

    def test_constant_border_is_black_and_ignored(self) -> None:
        mask = np.ones((48, 64), np.uint8)
        geometry = Geometry(rotation=math.pi / 4, border="constant")
        image, ids = apply(NOISE // 2 + 99, Parameters(geometry), (48, 64), mask, ignore=200)
        assert ids is not None
        assert ids[0, 0] == 200
        assert not image[0, 0].any()
        assert ids[24, 32] == 1
        assert set(ids.ravel()) == {1, 200}

    def test_masks_longer_than_opencv_can_warp(self) -> None:
        mask = np.zeros((3, 40_000), np.uint8)
        mask[:, 20_000:] = 9
        _, ids = apply(np.zeros((3, 400, 3), np.uint8), Parameters(), (3, 100), mask)
        np.testing.assert_array_equal(ids, np.tile(np.repeat([0, 9], 50), (3, 1)))


class TestApply:
    def test_writes_into_the_batch_and_leaves_its_input(self) -> None:
        image, mask = NOISE.copy(), NOISE[..., 0].copy()
        for preset in PRESETS:
            batch, masks = np.zeros((2, 30, 40, 3), np.uint8), np.zeros((2, 30, 40), np.uint8)
            drawn = sample(PRESETS[preset], np.random.default_rng(1))
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
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
            drawn = sample(ranges, rng)
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


class TestDecodeSize:
    def test_plain_resize_needs_the_size_itself(self) -> None:
        assert decode_size(Parameters(), (224, 320)) == (224, 320)

    @pytest.mark.parametrize(
        ("geometry", "expected"),
        [
            (Geometry(zoom=2.0), (200, 400)),
            (Geometry(crop=(0.0, 0.0, 0.5, 0.25)), (200, 800)),
            (Geometry(zoom=0.5, flip=(True, True)), (50, 100)),
            (Geometry(shift=(0.3, -0.3)), (100, 200)),
        ],
    )
    def test_larger_where_less_is_seen(
        self, geometry: Geometry, expected: tuple[int, int]
    ) -> None:
        assert decode_size(Parameters(geometry), (100, 200)) == expected


class TestColor:
    @settings(deadline=None)
    @given(st.tuples(*[st.integers(0, 255)] * 3))
    def test_default_changes_nothing(self, pixel: tuple[int, int, int]) -> None:
        assert recolored([pixel], Color()) == [list(pixel)]
        np.testing.assert_array_equal(lookup_table(Color()).ravel(), np.arange(256))

    @pytest.mark.parametrize(
        ("color", "expected"),
        [
            (Color(brightness=0.2), [51, 151, 251, 255]),  # + 0.2 * 255
            (Color(contrast=0.5), [64, 114, 164, 191]),  # (value - 127.5) / 2 + 127.5
            (Color(gamma=2.0), [0, 39, 157, 255]),  # 255 * (value / 255) ** 2
        ],
    )
    def test_point_wise(self, color: Color, expected: list[int]) -> None:
        values = [[value] * 3 for value in (0, 100, 200, 255)]
        assert recolored(values, color) == [[value] * 3 for value in expected]

    def test_channels_on_their_own(self) -> None:
        color = Color(channel=(0.5, 1.0, 1.5))
        assert recolored([(100, 100, 100), (0, 255, 200)], color) == [
            [50, 100, 150],
            [0, 255, 255],
        ]

    @settings(deadline=None)
    @given(st.floats(0, 2), st.floats(-math.pi, math.pi))
    def test_saturation_and_hue_leave_grey(self, saturation: float, hue: float) -> None:
        rows = color_matrix(Color(saturation=saturation, hue=hue)).sum(axis=1)
        np.testing.assert_allclose(rows, 1, atol=1e-5)

    def test_no_saturation_is_luminance(self) -> None:
        # 0.213 * 255, 0.715 * 255, 0.072 * 255
        primaries = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
        greys = [[value] * 3 for value in (54, 182, 18)]
        assert recolored(primaries, Color(saturation=0.0)) == greys

    def test_full_turn_of_hue_is_none(self) -> None:
        np.testing.assert_allclose(color_matrix(Color(hue=2 * math.pi)), np.eye(3), atol=1e-6)


class TestQuality:
    def test_noise_has_its_deviation_and_its_seed(self) -> None:
        def noisy(seed: int) -> np.ndarray:
            image = np.full((100, 100, 3), 128, np.uint8)
            degrade(image, Quality(noise=10.0, noise_seed=seed))
            return image

        np.testing.assert_array_equal(noisy(1), noisy(1))
        assert (noisy(1) != noisy(2)).any()
        # The standard error of a deviation from n draws is 10 / sqrt(2 n) = 0.04.
        assert abs(noisy(1).std() - 10) < 0.2

    def test_blur_of_a_point_is_the_gaussian(self) -> None:
        image = np.zeros((21, 21, 3), np.uint8)
        image[10, 10] = 255
        degrade(image, Quality(blur=1.0))
        # 255 / (2 pi) * exp(-r^2 / 2) at r = 0 and r = 1; the kernel ends at 3 deviations.
        assert np.abs(image[10, 10].astype(int) - 40.6).max() <= 1
        assert np.abs(image[10, 11].astype(int) - 24.6).max() <= 1

    def test_erased_rectangle(self) -> None:
        image = np.full((40, 80, 3), 9, np.uint8)
        degrade(image, Quality(erased=(0.25, 0.5, 0.5, 0.25), erased_color=(1, 2, 3)))
        expected = np.full((40, 80, 3), 9, np.uint8)
        expected[10:30, 40:60] = (1, 2, 3)
        np.testing.assert_array_equal(image, expected)


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
