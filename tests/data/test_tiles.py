"""Where tiles lie: on grids that cover, or drawn inside, where rare classes are."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.data.manifest import Manifest
from foveate.data.masks import IGNORED
from foveate.data.tiles import (
    NUM_DRAWS,
    Presence,
    Size,
    cell_size,
    count,
    find_classes,
    grid,
    images_at_once,
    random_tile,
    require_room,
    visits,
    with_sizes,
)
from foveate.errors import ConfigError

sides = st.integers(1, 90)
sizes = st.tuples(sides, sides)
tiles = st.tuples(st.integers(1, 40), st.integers(1, 40))


def images(*sizes: Size) -> Manifest:
    names = [f"{row}.png" for row in range(len(sizes))]
    table = pl.DataFrame({"image": names, "mask": names})
    return with_sizes(Manifest(table, Path(), "test"), sizes)


def places(manifest: Manifest) -> list[tuple[int, int, int]]:
    return manifest.table.select("tile_image", "tile_top", "tile_left").rows()


def coverage(size: Size, tile: Size, overlap: float | None) -> np.ndarray:
    """How many tiles each pixel lies in."""
    covered = np.zeros(size, int)
    for _, top, left in places(grid(images(size), tile, overlap)):
        covered[top : top + tile[0], left : left + tile[1]] += 1
    return covered


@given(sizes, tiles)
def test_a_grid_without_overlap_covers_each_pixel_once(size: Size, tile: Size) -> None:
    assert (coverage(size, tile, None) == 1).all()


@given(sizes, tiles, st.floats(0, 0.9))
def test_overlapping_tiles_cover_everything_from_inside(
    size: Size, tile: Size, overlap: float
) -> None:
    assert coverage(size, tile, overlap).all()
    found = places(grid(images(size), tile, overlap))
    for axis in (0, 1):
        starts = sorted({place[1 + axis] for place in found})
        assert starts[-1] == max(size[axis] - tile[axis], 0)
        steps = np.diff(starts)
        assert (steps <= max(tile[axis] * (1 - overlap), 1) + 1).all()  # rounded to whole pixels


def test_tiles_follow_one_another_image_by_image_from_top_to_bottom() -> None:
    manifest = grid(images((50, 60), (20, 20)), (32, 32), 0.25)
    found = places(manifest)
    assert found == sorted(found)
    assert [row[0] for row in found].count(1) == 1
    assert manifest.num_samples == count(images((50, 60), (20, 20)), (32, 32), 0.25)
    assert manifest.table["image"].to_list() == [f"{image}.png" for image, *_ in found]


def test_an_epoch_visits_an_image_as_often_as_tiles_cover_it() -> None:
    manifest = visits(images((64, 64), (65, 32), (1, 1)), (32, 32))
    assert manifest.table["tile_image"].to_list() == [0] * 4 + [1] * 3 + [2]
    assert "tile_top" not in manifest.table.columns


def test_an_image_of_unknown_size_is_one_tile() -> None:
    assert grid(images((0, 0)), (32, 32)).num_samples == 1
    assert visits(images((0, 0)), (32, 32)).num_samples == 1


draws = st.lists(st.floats(0, 1, exclude_max=True), min_size=NUM_DRAWS, max_size=NUM_DRAWS)


@given(sizes, tiles, draws, st.data())
def test_a_drawn_tile_is_inside_and_holds_what_it_was_drawn_for(
    size: Size, tile: Size, numbers: list[float], data: st.DataObject
) -> None:
    cell = cell_size(tile)
    ids = np.zeros(size, np.uint8)
    row, column = (data.draw(st.integers(0, side - 1)) for side in size)
    ids[row, column] = 7
    presence = find_classes(bands(ids, cell), cell)
    for known in (None, presence):
        top, left = random_tile(size, tile, numbers, known)
        assert 0 <= top <= max(size[0] - tile[0], 0)
        assert 0 <= left <= max(size[1] - tile[1], 0)
    for_seven = [0.0, 0.999, *numbers[2:]]
    top, left = random_tile(size, tile, for_seven, presence)
    assert (ids[top : top + tile[0], left : left + tile[1]] == 7).any()


def bands(ids: np.ndarray, cell: Size) -> list[np.ndarray]:
    return [ids[top : top + cell[0]] for top in range(0, len(ids), cell[0])]


def test_classes_are_found_where_they_are() -> None:
    ids = np.zeros((10, 14), np.uint8)
    ids[9, 13], ids[0, 5], ids[3, 3] = 3, 3, IGNORED
    presence = find_classes(bands(ids, (4, 4)), (4, 4))
    assert [cells.tolist() for cells in presence.cells] == [
        [[row, column] for row in range(3) for column in range(4)],
        [[0, 1], [2, 3]],
    ]


def test_balanced_tiles_meet_a_rare_class_far_more_often() -> None:
    size, tile, cell = (1000, 1000), (100, 100), cell_size((100, 100))
    ids = np.zeros(size, np.uint8)
    ids[700:710, 200:210] = 1  # one hundredth of a percent of the pixels
    presence = find_classes(bands(ids, cell), cell)
    numbers = np.random.default_rng(0).random((2000, NUM_DRAWS)).tolist()

    def share(known: Presence | None) -> float:
        found = [random_tile(size, tile, drawn, known) for drawn in numbers]
        return float(np.mean([ids[y : y + 100, x : x + 100].any() for y, x in found]))

    # Every second tile is drawn for a class, half of these for this one; anywhere, a tile has it
    # in about 109 * 109 of 901 * 901 places.
    assert share(None) < 0.03
    assert share(presence) == pytest.approx(0.25 + 0.5 * 109**2 / 901**2, abs=0.04)


def test_an_image_without_any_class_is_drawn_from_anywhere() -> None:
    nothing = find_classes([np.full((4, 8), IGNORED, np.uint8)], (4, 4))
    assert nothing.cells == ()
    assert random_tile((4, 8), (4, 4), [0.0, 0.5, 0.5, 0.0, 0.99], nothing) == (0, 4)


def test_the_cache_must_hold_the_largest_image() -> None:
    require_room(images((100, 100), (10, 10)), 50_000)
    with pytest.raises(ConfigError, match=r"loader\.cache .* 1 MiB of .*0\.png, but got 0 MiB"):
        require_room(images((100, 100), (10, 10)), 30_000)


def test_as_many_images_are_mixed_as_half_the_cache_holds() -> None:
    manifest = visits(images(*[(100, 100)] * 8), (50, 50))
    one = 100 * 100 * 4 + 64
    assert images_at_once(manifest, 8 * one) is None
    assert images_at_once(manifest, 8 * one - 1) == 3
    assert images_at_once(manifest, one) == 1
    assert images_at_once(images((100, 100)), 1) is None
