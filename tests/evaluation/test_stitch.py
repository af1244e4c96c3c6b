"""Blended tiles are the whole image where a model looks at single pixels."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from foveate.data.manifest import Manifest
from foveate.data.masks import IGNORED
from foveate.data.tiles import Size, grid, with_sizes
from foveate.errors import SampleError
from foveate.evaluation.stitch import blended, whole_images
from foveate.tasks.segmentation import confusion

sides = st.integers(1, 70)


def tiled(sizes: list[Size], tile: Size, overlap: float) -> Manifest:
    table = pl.DataFrame({"image": [f"{row}.png" for row in range(len(sizes))]})
    return grid(with_sizes(Manifest(table, Path(), "test"), sizes), tile, overlap)


def cut(
    wholes: list[NDArray[np.float32]], rows: Manifest, tile: Size
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """What a model that looks at single pixels gives for each tile; noise beyond the image."""
    places = rows.table.select("tile_image", "tile_top", "tile_left").rows()
    for row, (image, top, left) in enumerate(places):
        part = wholes[image][top : top + tile[0], left : left + tile[1]]
        missing = [(0, tile[axis] - part.shape[axis]) for axis in (0, 1)]
        yield row, np.pad(part, [*missing, (0, 0)], constant_values=-99.0)


def logits(rng: np.random.Generator, size: Size, num_classes: int) -> NDArray[np.float32]:
    return rng.normal(size=(*size, num_classes)).astype(np.float32)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(sides, sides), min_size=1, max_size=3),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(0, 0.6),
    st.integers(2, 6),
)
def test_blending_gives_back_logits_that_do_not_depend_on_the_tile(
    sizes: list[Size], tile: Size, overlap: float, num_classes: int
) -> None:
    rng = np.random.default_rng(0)
    wholes = [logits(rng, size, num_classes) for size in sizes]
    rows = tiled(sizes, tile, overlap)
    lines: dict[int, list[NDArray[np.float32]]] = {}
    for band in blended(cut(wholes, rows, tile), rows, tile):
        assert band.size == sizes[band.image]
        assert band.top == sum(map(len, lines.setdefault(band.image, [])))
        assert len(band.logits) <= tile[0]
        lines[band.image].append(band.logits.copy())
    for image, parts in lines.items():
        np.testing.assert_allclose(np.concatenate(parts), wholes[image], rtol=1e-5, atol=1e-5)
    assert list(lines) == list(range(len(sizes)))


def test_every_pixel_is_judged_exactly_once() -> None:
    rng = np.random.default_rng(0)
    sizes = [(70, 101), (20, 64), (33, 33)]
    wholes = [logits(rng, size, 3) for size in sizes]
    truth = [rng.choice([0, 1, 2, IGNORED], size).astype(np.uint8) for size in sizes]
    rows = tiled(sizes, (32, 32), 0.25)
    bands = blended(cut(wholes, rows, (32, 32)), rows, (32, 32))
    found = list(whole_images(bands, lambda row, top, count: truth[row][top : top + count]))
    assert [each.image for each in found] == [0, 1, 2]
    for each, ids, scores in zip(found, truth, wholes, strict=True):
        np.testing.assert_array_equal(each.ids, scores.argmax(-1))
        np.testing.assert_array_equal(each.counts, confusion(ids, scores.argmax(-1), 3))
        assert each.counts.sum() == (ids != IGNORED).sum()


def test_a_tile_counts_most_at_its_middle() -> None:
    rows = tiled([(16, 24)], (16, 16), 0.5)
    ramp = [np.full((16, 16, 1), value, np.float32) for value in (0.0, 1.0)]
    (band,) = blended(enumerate(ramp), rows, (16, 16))
    line = band.logits[8, :, 0]
    assert line[:8].max() == 0.0
    assert line[16:].min() == 1.0
    assert (np.diff(line[7:17]) > 0).all()
    np.testing.assert_allclose(line[8:16] + line[15:7:-1], 1.0, rtol=1e-6)


def test_logits_of_another_size_are_brought_to_the_tile() -> None:
    """A model that sees tiles at half their size, of many classes."""
    rng = np.random.default_rng(0)
    small = logits(rng, (16, 16), 40)
    rows = tiled([(32, 32)], (32, 32), 0.25)
    (band,) = blended([(0, small)], rows, (32, 32))
    one = cv2.resize(small[..., 7], (32, 32), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(band.logits[..., 7], one, rtol=1e-4, atol=1e-5)


def test_an_image_of_which_tiles_are_missing_is_not_judged() -> None:
    rows = tiled([(64, 64)], (32, 32), 0.0)
    tiles = list(cut([np.zeros((64, 64, 2), np.float32)], rows, (32, 32)))
    with pytest.raises(SampleError, match=r"0\.png must stay readable"):
        list(blended(tiles[:1] + tiles[2:], rows, (32, 32)))
    with pytest.raises(SampleError, match=r"0\.png must stay readable"):
        list(blended(tiles[:2], rows, (32, 32)))
