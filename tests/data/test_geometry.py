from __future__ import annotations

import dataclasses
import math
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.data.augment import NUM_DRAWS, PRESETS, Parameters, apply, decode_size, sample
from foveate.data.geometry import Border, Geometry, matrix

SEEDS = st.integers(0, 2**32 - 1)
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def moved(image: np.ndarray, size: tuple[int, int], **geometry: Any) -> np.ndarray:
    return apply(image, Parameters(Geometry(**geometry)), size)[0]


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
        to_source = np.array(matrix(Geometry(shear=0.5), (48, 64), (48, 64)))
        # The centre stays; ten pixels below it, the source lies five pixels further left.
        np.testing.assert_allclose(to_source @ [31.5, 23.5, 1], [31.5, 23.5])
        np.testing.assert_allclose(to_source @ [31.5, 33.5, 1], [26.5, 33.5])

    @pytest.mark.parametrize("rotation", [0.0, 0.3, math.pi / 4])
    def test_shrinking_averages(self, rotation: float) -> None:
        # A chessboard of single pixels is the finest pattern there is: only grey may remain.
        board = np.uint8(255) * (np.indices((256, 256)).sum(axis=0) % 2).astype(np.uint8)
        result = moved(np.dstack([board] * 3), (64, 64), rotation=rotation)
        assert np.abs(result[1:-1, 1:-1].astype(int) - 127.5).max() <= 1.5

    @pytest.mark.parametrize("rotation", [0.0, 1e-9])  # a crop and resize, and a warp
    @pytest.mark.parametrize("upright", [True, False])
    @pytest.mark.parametrize("rate", [2, 2.5, 3, 3.5, 4, 5, 9])
    def test_one_side_that_shrinks_is_averaged(
        self, rate: float, upright: bool, rotation: float
    ) -> None:
        # Stripes of single pixels: only grey may remain. The other side shrinks too little.
        lines = np.uint8(255) * (np.indices((96, 720))[1] % 2).astype(np.uint8)
        stripes, size = np.dstack([lines] * 3), (64, int(720 / rate))
        if upright:
            stripes, size = np.ascontiguousarray(stripes.transpose(1, 0, 2)), size[::-1]
        result = moved(stripes, size, rotation=rotation)
        assert np.abs(result[1:-1, 1:-1].astype(int) - 127.5).max() <= 1.5

    @pytest.mark.parametrize("rate", [2.1, 2.9, 3.1, 3.9])
    def test_one_side_that_shrinks_is_averaged_where_it_lies(self, rate: float) -> None:
        image = cv2.GaussianBlur(cv2.resize(NOISE, (320, 120)), (0, 0), 2)
        wide = round(320 / rate)
        exact = cv2.resize(image, (wide, 80), interpolation=cv2.INTER_AREA).astype(int)
        for rotation in (0.0, 1e-9):
            result = moved(image, (80, wide), rotation=rotation, border="nearest")
            assert np.abs(result - exact).max() <= 6

    def test_averaging_shifts_nothing(self) -> None:
        image = cv2.GaussianBlur(cv2.resize(NOISE, (256, 256)), (0, 0), 4)
        turned = moved(image, (64, 64), rotation=math.pi / 2).astype(int)
        assert np.abs(turned - np.rot90(moved(image, (64, 64)), -1)).max() <= 2

    def test_small_shifts_of_an_enlarged_image_are_kept(self) -> None:
        image = np.zeros((4, 4, 3), np.uint8)
        image[:, 2:] = 255
        result = moved(image, (80, 80), shift=(0.0, 0.1), border="nearest")
        # The edge between the halves, pixel 40 of 80, moves right by a tenth of the width.
        assert (result[:, 46] < 128).all()
        assert (result[:, 49] > 127).all()

    @settings(deadline=None, max_examples=60)
    @given(SEEDS, st.sampled_from(["reflect", "constant", "nearest"]), st.booleans())
    def test_mask_ids_are_never_invented(self, seed: int, border: Border, turn: bool) -> None:
        rng = np.random.default_rng(seed)
        ids = rng.choice(256, 4, replace=False)
        mask = rng.choice(ids[:3], size=rng.integers(1, 90, 2)).astype(np.uint8)
        ranges = dataclasses.replace(PRESETS["strong"], border=border, rotation=180.0 * turn)
        size = (int(rng.integers(1, 50)), int(rng.integers(1, 50)))
        drawn = sample(ranges, rng.random(NUM_DRAWS))
        _, result = apply(NOISE, drawn, size, mask, ignore=int(ids[3]))
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
        drawn = Parameters(sample(ranges, np.random.default_rng(seed).random(NUM_DRAWS)).geometry)
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
