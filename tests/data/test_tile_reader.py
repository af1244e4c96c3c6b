"""Tiles of real files: the very pixels, each file decoded once, memory and disk bounded."""

import copy
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image

from foveate.config.augmentation import AugmentConfig
from foveate.config.settings import DataConfig, DecodeConfig
from foveate.config.tiles import TilesConfig
from foveate.data import remote, tile_reader
from foveate.data.decode import decode_pair
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest, read_manifest
from foveate.data.masks import IGNORED
from foveate.data.repack import PackOptions
from foveate.data.shards import pack
from foveate.data.storage import Storage
from foveate.data.tile_reader import TileReader
from foveate.data.tiles import grid, visits, with_sizes
from foveate.errors import SampleError
from foveate.tasks.segmentation import Segmentation

CONFIG = DecodeConfig()
TILES = TilesConfig(size=(64, 48))
ANYWHERE = [0.9, 0.0, 0.0, 0.4, 0.6]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins with nothing decoded, in a folder of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    remote._cache.cache_clear()
    yield
    remote._cache.cache_clear()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lists the images that are decoded; two at a time are an error."""
    names: list[str] = []
    busy = threading.Lock()

    def watched(image: Any, *rest: Any) -> Any:
        assert busy.acquire(blocking=False)
        names.append(Path(image).name)
        time.sleep(0.002)
        try:
            return decode_pair(image, *rest)
        finally:
            busy.release()

    monkeypatch.setattr(tile_reader, "decode_pair", watched)
    return names


def write(
    folder: Path, sizes: list[tuple[int, int]], suffix: str = "png", **options: Any
) -> Manifest:
    """Write noise with masks of 0, 1 and 2, of which 2 is rare, at some (height, width)."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        mask = rng.integers(0, 2, size, dtype=np.uint8)
        mask[-5:, -5:] = 2
        Image.fromarray(pixels).save(folder / f"images/{number}.{suffix}", **options)
        Image.fromarray(mask).save(folder / f"masks/{number}.png", **options)
    return with_sizes(read_manifest(folder), sizes)


def reader(manifest: Manifest, storage: Storage | None = None, **options: Any) -> TileReader:
    given: dict[str, Any] = {"tiles": TILES, "decode": CONFIG, "encode": None, **options}
    return TileReader(manifest, storage=storage or Storage(), **given)


def read(tiles: TileReader, manifest: Manifest, row: int, draws: list[float] = ANYWHERE) -> Any:
    places = manifest.image_path(row), manifest.mask_path(row)
    return tiles.read(row, *places, draws)


def whole(manifest: Manifest, row: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return decode_pair(manifest.image_path(row), manifest.mask_path(row), CONFIG)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("jpg", {}),
        (
            "png",
            {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
        ),
    ],
    ids=["png", "jpeg", "turned"],
)
def test_tiles_are_the_very_pixels(suffix: str, options: Any, tmp_path: Path) -> None:
    manifest = write(tmp_path / "data", [(150, 600)], suffix, **options)
    image, mask = whole(manifest, 0)
    rows = grid(with_sizes(manifest, [mask.shape]), (64, 48), 0.25)
    tiles = reader(rows)
    for row, (top, left) in enumerate(rows.table.select("tile_top", "tile_left").rows()):
        pixels, ids = read(tiles, rows, row)
        here = np.s_[top : top + 64, left : left + 48]
        np.testing.assert_array_equal(pixels, image[here])
        np.testing.assert_array_equal(ids, mask[here])
    np.testing.assert_array_equal(tiles.ids(0, 100, 64), mask[100:164])


def test_beyond_the_image_it_is_mirrored_and_ignored(tmp_path: Path) -> None:
    manifest = write(tmp_path / "data", [(40, 100)])
    image, mask = whole(manifest, 0)
    rows = grid(manifest, (64, 48))
    pixels, ids = read(reader(rows), rows, 2)  # columns 96 to 99
    np.testing.assert_array_equal(pixels[:40, :4], image[:, 96:])
    np.testing.assert_array_equal(pixels[40:, 4:8], image[39:15:-1, 99:95:-1])
    np.testing.assert_array_equal(ids[:40, :4], mask[:, 96:])
    assert (ids[40:] == IGNORED).all()
    assert (ids[:, 4:] == IGNORED).all()


def test_images_without_masks_are_cut_too(tmp_path: Path) -> None:
    manifest = write(tmp_path / "data", [(150, 600)])
    image, _ = whole(manifest, 0)
    bare = Manifest(manifest.table.drop("mask"), manifest.root, manifest.source)
    rows = grid(bare, (64, 48))
    pixels, ids = reader(rows).read(1, rows.image_path(1), None, ANYWHERE)
    np.testing.assert_array_equal(pixels, image[:64, 48:96])
    assert ids is None


@pytest.mark.parametrize("where", ["packed", "remote"])
def test_packed_and_remote_images_are_cut_too(where: str, tmp_path: Path) -> None:
    manifest = write(tmp_path / "data", [(150, 600), (40, 50)])
    if where == "packed":
        other = pack(tmp_path / "data", tmp_path / "out", DataConfig(), PackOptions())
    else:
        folder = (tmp_path / "data").as_uri()
        places = pl.format(f"{folder}/{{}}", pl.col("image", "mask")).name.keep()
        other = Manifest(manifest.table.with_columns(places), tmp_path, "test")
    rows = grid(with_sizes(other, [(150, 600), (40, 50)]), (64, 48))
    tiles = reader(rows)

    def cut(row: int) -> bool:
        places = rows.image_places(np.array([row]))[0], rows.mask_places(np.array([row]))[0]
        image, top, left = rows.table.select("tile_image", "tile_top", "tile_left").row(row)
        pixels, _ = whole(manifest, image)
        part = pixels[top : top + 64, left : left + 48]
        found = tiles.read(row, *places, ANYWHERE)[0][: part.shape[0], : part.shape[1]]
        return bool((found == part).all())

    with ThreadPoolExecutor(4) as pool:  # what is fetched and what is decoded share a cache
        assert all(pool.map(cut, range(rows.num_samples)))


def test_each_file_is_decoded_once_and_never_two_at_a_time(
    decoded: list[str], tmp_path: Path
) -> None:
    manifest = write(tmp_path / "data", [(70, 80)] * 6)
    rows = visits(manifest, (16, 16))
    tiles = reader(rows)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: read(tiles, rows, row % rows.num_samples), range(300)))
    assert sorted(decoded) == [f"{number}.png" for number in range(6)]


def test_a_small_cache_is_kept_to_and_files_are_decoded_once_an_epoch(
    decoded: list[str], tmp_path: Path
) -> None:
    manifest = write(tmp_path / "data", [(100, 100)] * 6)
    room = 4 * (100 * 100 * 4 + 64)  # two at once, and as many that come next
    loader = BatchLoader(
        visits(manifest, (20, 20)), (20, 20), 5, shuffle=True, threads=1, cache_bytes=room,
        tiles=TilesConfig(size=(20, 20), balanced=False),
    )  # fmt: skip
    folder = remote.shared_cache(room).folder
    for position in range(len(loader)):
        loader.batch_at(position)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= room
    loader.close()
    assert len(loader) == 30
    assert sorted(decoded) == [f"{number}.png" for number in range(6)]


def test_without_room_tiles_are_still_right(decoded: list[str], tmp_path: Path) -> None:
    manifest = write(tmp_path / "data", [(70, 80)])
    rows = grid(manifest, (64, 48))
    tiles = reader(rows, Storage(1000))
    for _ in range(2):
        np.testing.assert_array_equal(read(tiles, rows, 0)[0], whole(manifest, 0)[0][:64, :48])
    assert len(decoded) == 2


def test_a_file_that_changes_is_decoded_anew(tmp_path: Path) -> None:
    manifest = write(tmp_path / "data", [(70, 80)])
    rows = grid(manifest, (64, 48))
    tiles = reader(rows)
    read(tiles, rows, 0)
    Image.new("RGB", (80, 70), (1, 2, 3)).save(manifest.image_path(0))
    assert (read(tiles, rows, 0)[0] == (1, 2, 3)).all()


def test_what_is_broken_is_told_for_every_tile_but_looked_at_once(
    decoded: list[str], tmp_path: Path
) -> None:
    manifest = write(tmp_path / "data", [(70, 80)])
    Image.new("L", (9, 9)).save(manifest.mask_path(0))
    rows = grid(manifest, (64, 48))
    tiles = reader(rows)
    for row in range(rows.num_samples):
        with pytest.raises(SampleError, match=r"0\.png must have the size of image"):
            read(tiles, rows, row)
    assert len(decoded) == 1


def test_an_unknown_value_names_the_mask(tmp_path: Path) -> None:
    manifest = write(tmp_path / "data", [(70, 80)])
    tiles = reader(
        visits(manifest, TILES.size or (1, 1)), encode=Segmentation("ab", (0, 1)).encode
    )
    with pytest.raises(SampleError, match=r"masks/0\.png: .* but got \[2\]"):
        read(tiles, manifest, 0)


def test_half_of_the_balanced_tiles_are_drawn_for_a_class(tmp_path: Path) -> None:
    manifest = write(tmp_path / "data", [(400, 400)])  # 2 is in one corner alone
    tiles = reader(visits(manifest, (64, 48)))
    for_two = [0.1, 0.9, 0.5, 0.5, 0.5]
    assert (read(tiles, manifest, 0, for_two)[1] == 2).any()
    assert not (read(tiles, manifest, 0, [0.5, *for_two[1:]])[1] == 2).any()
    # An ignored value is no class.
    ignoring = reader(manifest, encode=Segmentation("ab", (0, 1), ignore=2).encode)
    assert not (read(ignoring, manifest, 0, for_two)[1] == IGNORED).all()


@pytest.fixture
def batches(tmp_path: Path) -> Callable[..., BatchLoader]:
    """Makes loaders of random, augmented tiles."""
    manifest = visits(write(tmp_path / "data", [(90, 120), (40, 200), (130, 64)]), (32, 32))

    def make(**options: Any) -> BatchLoader:
        augment = AugmentConfig(preset="strong")
        tiles = TilesConfig(size=(32, 32))
        return BatchLoader(
            manifest, (24, 24), 4, shuffle=True, augment=augment, tiles=tiles, **options
        )

    return make


def test_random_tiles_belong_to_their_place(batches: Callable[..., BatchLoader]) -> None:
    one, many = batches(threads=1), batches(threads=4)
    first = [batch for _ in range(2) for batch in one]
    for position, (inputs, masks) in enumerate(first):
        again, again_masks = many.batch_at(position)
        np.testing.assert_array_equal(inputs["images"], again["images"])
        np.testing.assert_array_equal(masks, again_masks)
    many.resume_at(3)
    np.testing.assert_array_equal(next(iter(many))[0]["images"], first[3][0]["images"])
    assert any((a[1] != b[1]).any() for a, b in zip(first, batches(seed=1), strict=False))
    for loader in (one, many):
        loader.close()


def test_another_process_cuts_the_same(batches: Callable[..., BatchLoader]) -> None:
    loader = batches()
    other = copy.deepcopy(loader._batches)  # by way of what is sent to processes
    np.testing.assert_array_equal(other.at(2)[0]["images"], loader.batch_at(2)[0]["images"])


def test_a_tile_that_may_be_skipped_weighs_nothing(tmp_path: Path) -> None:
    manifest = write(tmp_path / "data", [(64, 64), (64, 64)])
    Path(manifest.image_path(1)).write_bytes(b"nothing")
    rows = visits(manifest, (32, 32))
    loader = BatchLoader(
        rows, (32, 32), 8, tiles=TilesConfig(size=(32, 32)), unreadable="skip", max_unreadable=0.5
    )
    inputs, masks, weights = loader.batch_at(0)
    assert weights.ravel().tolist() == [1.0] * 4 + [0.0] * 4
    assert not inputs["images"][4:].any()
    assert (masks[4:] == IGNORED).all()
    assert list(loader.unreadable) == [manifest.image_path(1)]
