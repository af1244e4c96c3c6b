from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from foveate.config.settings import DecodeConfig
from foveate.data.manifest import Manifest, read_manifest
from foveate.data.masks import MaskScan, scan_masks
from foveate.errors import ManifestError


def write(root: Path, masks: list[NDArray[np.uint8]]) -> Manifest:
    """Write grey masks and blank images of their sizes."""
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for row, mask in enumerate(masks):
        Image.fromarray(mask).save(root / f"masks/{row:03d}.png")
        image = Image.new("RGB", (mask.shape[1], mask.shape[0]))
        image.save(root / f"images/{row:03d}.png")
    return read_manifest(root)


def halves(left: int, right: int) -> NDArray[np.uint8]:
    """A mask of 2 by 6 pixels with one value left and one right."""
    return np.repeat(np.array([[left, right]] * 2, np.uint8), 3, axis=1)


def test_values_and_pixels_are_counted(tmp_path: Path) -> None:
    scan = scan_masks(
        write(tmp_path, [halves(0, 7), halves(2, 2), halves(7, 2)]), DecodeConfig(), 2
    )
    assert scan.values == (0, 2, 7)
    np.testing.assert_array_equal(scan.pixels, [[6, 0, 6], [0, 12, 0], [0, 6, 6]])
    np.testing.assert_array_equal(scan.present, [[1, 0, 1], [0, 1, 0], [0, 1, 1]])
    assert scan.pixels.dtype == np.int64


def test_ignored_pixels_are_not_counted(tmp_path: Path) -> None:
    manifest = write(tmp_path, [halves(0, 255), halves(255, 255), halves(1, 0)])
    scan = scan_masks(manifest, DecodeConfig(), 1, ignore=255)
    assert scan.values == (0, 1)
    np.testing.assert_array_equal(scan.pixels, [[6, 0], [0, 0], [6, 6]])


def test_progress_is_reported_in_order(tmp_path: Path) -> None:
    manifest = write(tmp_path, [halves(0, 1)] * 70)
    told: list[tuple[int, int]] = []
    scan = scan_masks(manifest, DecodeConfig(), 2, lambda *done: told.append(done))
    assert told == sorted(told)
    assert told[-1] == (70, 70)
    assert (scan.pixels == 6).all()


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    manifest = write(tmp_path, [halves(0, 1)] * 9)
    for row in range(6):
        Image.new("L", (3, 2)).save(tmp_path / f"masks/{row:03d}.png")
    (tmp_path / "masks/006.png").write_bytes(b"not an image")
    with pytest.raises(ManifestError) as error:
        scan_masks(manifest, DecodeConfig(), 2)
    message = str(error.value)
    assert "but 7 of 9 are not" in message
    assert (
        "000.png must have the size of its image, (height, width) (2, 6), but got (2, 3)"
        in message
    )
    assert message.count("must have the size") == 5


def test_unreadable_images_are_told(tmp_path: Path) -> None:
    manifest = write(tmp_path, [halves(0, 1)])
    (tmp_path / "images/000.png").write_bytes(b"not an image")
    with pytest.raises(ManifestError, match=r"1 of 1 are not:\n- .*images.000\.png"):
        scan_masks(manifest, DecodeConfig(), 1)


class TestStrata:
    def scan(self, present: list[list[int]]) -> MaskScan:
        pixels = np.array(present, np.int64).reshape(len(present), -1)
        return MaskScan(tuple(range(pixels.shape[1])), pixels, np.ones((len(pixels), 2), np.int64))

    def test_common_combinations_are_strata(self) -> None:
        codes = self.scan([[1, 0]] * 10 + [[1, 1]] * 10).strata()
        assert codes.shape == (20,)
        assert len(set(codes[:10])) == len(set(codes[10:])) == 1
        assert codes[0] != codes[10]

    def test_rare_combinations_go_by_their_rarest_value(self) -> None:
        rare = [[1, 1, 0, 1], [1, 0, 1, 1], [0, 1, 0, 1]]  # value 3 in three rows, value 2 in one
        codes = self.scan([[1, 1, 0, 0]] * 20 + rare).strata()
        assert codes[20] == codes[22] != codes[21]
        assert codes[20] != codes[0]

    def test_masks_without_any_value(self) -> None:
        assert set(self.scan([[0, 0]] * 3 + [[1, 0]] * 10).strata()[:3]).isdisjoint({-1})
        assert (
            MaskScan((), np.zeros((4, 0), np.int64), np.ones((4, 2), np.int64)).strata().tolist()
            == [0] * 4
        )
