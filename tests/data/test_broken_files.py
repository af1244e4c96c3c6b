"""Every broken or odd file has one expected outcome, on every way it may be read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from benchmarks.fuzz import damaged, sample_files
from broken_files import CONFIG, PHOTO, Case, all_cases, encoded, unusual_files
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.config.settings import DecodeConfig
from foveate.data.decode import decode_image, decode_mask, decode_pair, probe
from foveate.errors import SampleError

FILES = sample_files()


def written(case: Case, folder: Path) -> Path:
    path = folder / case.name
    if case.data is not None:
        path.write_bytes(case.data)
    return path


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_expected_outcome(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(case, tmp_path)
    if case.pixels is None:
        with pytest.raises(SampleError, match=rf"{re.escape(str(path))} .*({case.reason})"):
            decode_image(path, CONFIG)
    else:
        pixels = decode_image(path, CONFIG)
        assert pixels.shape == case.pixels.shape
        assert np.abs(pixels.astype(int) - case.pixels).max() <= case.tolerance
        assert probe(path, CONFIG) == pixels.shape[:2]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "case", [case for case in all_cases() if case.pixels is None], ids=lambda case: case.name
)
def test_what_is_no_image_is_no_mask_either(case: Case, tmp_path: Path) -> None:
    mask = written(case, tmp_path)
    image = tmp_path / "whole.png"
    image.write_bytes(encoded(PHOTO, "PNG"))
    for read in (lambda: decode_mask(mask, CONFIG), lambda: decode_pair(image, mask, CONFIG)):
        with pytest.raises(SampleError, match=re.escape(str(mask))):
            read()


def test_sixteen_bits_without_a_range_are_refused(tmp_path: Path) -> None:
    for case in unusual_files():
        if case.name.startswith("deep"):
            with pytest.raises(SampleError, match=rf"{case.name}.*range_16bit"):
                decode_image(written(case, tmp_path), DecodeConfig())


def test_a_file_that_is_replaced_shows_what_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    for image in (PHOTO, PHOTO.resize((13, 7)), PHOTO.rotate(90, expand=True)):
        path.write_bytes(encoded(image, "PNG"))
        np.testing.assert_array_equal(decode_image(path, CONFIG), np.asarray(image))
    path.write_bytes(b"gone")
    with pytest.raises(SampleError, match="photo"):
        decode_image(path, CONFIG)


@settings(max_examples=400)
@given(
    name=st.sampled_from(sorted(FILES)),
    rng=st.randoms(use_true_random=False),
    least=st.sampled_from([None, (1, 1), (8, 8)]),
)
def test_damaged_files_raise_sample_errors_alone(
    tmp_path_factory: pytest.TempPathFactory, name: str, rng: Random, least: tuple[int, int] | None
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(damaged(FILES[name], list(FILES.values()), rng))
    config = DecodeConfig(max_pixels=100_000, range_16bit=(0, 65535))
    readers: tuple[Callable[[], Any], ...] = (
        lambda: decode_image(path, config, least),
        lambda: decode_mask(path, config),
        lambda: decode_pair(path, path, config, least)[0],
    )
    for read in readers:
        try:
            pixels = read()
        except SampleError as error:
            assert str(path) in str(error)  # noqa: PT017 (both outcomes are right)
        else:
            assert pixels.dtype == np.uint8
            assert pixels.size <= 3 * config.max_pixels


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_undamaged_files_are_read(name: str, tmp_path: Path) -> None:
    """Else the test above would prove little."""
    (tmp_path / name).write_bytes(FILES[name])
    side = (44, 31) if name in ("progressive.jpg", "color.png", "lossy.webp") else (31, 44)
    assert decode_image(tmp_path / name, CONFIG).shape == (*side, 3)
