from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.data.color import Color, Quality, color_matrix, degrade, recolor


def recolored(values: Any, color: Color) -> Any:
    image = np.array([values], np.uint8)
    recolor(image, color)
    return image[0].tolist()


class TestColor:
    @settings(deadline=None)
    @given(st.tuples(*[st.integers(0, 255)] * 3))
    def test_default_changes_nothing(self, pixel: tuple[int, int, int]) -> None:
        assert recolored([pixel], Color()) == [list(pixel)]

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
        matrix = color_matrix(Color(saturation=saturation, hue=hue))
        np.testing.assert_allclose(matrix[:, :3].sum(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(matrix[:, 3], 0)

    @given(*[st.floats(0.5, 1.5)] * 4, st.floats(-0.3, 0.3), st.floats(-1, 1))
    def test_one_matrix_is_all_steps(
        self, contrast: float, red: float, blue: float, less: float, more: float, hue: float
    ) -> None:
        color = Color(1.0, contrast, more, (red, 1.0, blue), saturation=less, hue=hue)
        pixel = np.array([30.0, 90.0, 200.0])
        stepped = (pixel - 127.5) * contrast + 127.5 + 255 * more
        stepped = stepped * (red, 1.0, blue)
        for step in (Color(saturation=less), Color(hue=hue)):
            stepped = color_matrix(step)[:, :3] @ stepped
        np.testing.assert_allclose(color_matrix(color) @ [*pixel, 1], stepped, atol=1e-2)

    def test_no_saturation_is_luminance(self) -> None:
        # 0.213 * 255, 0.715 * 255, 0.072 * 255
        primaries = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
        greys = [[value] * 3 for value in (54, 182, 18)]
        assert recolored(primaries, Color(saturation=0.0)) == greys

    def test_full_turn_of_hue_is_none(self) -> None:
        np.testing.assert_allclose(color_matrix(Color(hue=2 * math.pi)), np.eye(3, 4), atol=1e-6)


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
