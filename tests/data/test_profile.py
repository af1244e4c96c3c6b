from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from skimage import data as photographs

from foveate.config.augmentation import AugmentConfig
from foveate.config.settings import DataConfig
from foveate.data import parts, profile
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest
from foveate.data.parts import Source, decode_rate, read_rate, take_samples, time_parts
from foveate.data.profile import PARTS, repacked, sharp_side, time_loading
from foveate.data.storage import Storage
from foveate.errors import SampleError


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (parts, profile):
        monkeypatch.setattr(module, "_SECONDS", 0.05)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Photographs of 1024 pixels in class folders."""
    folder = tmp_path_factory.mktemp("large")
    for name in ("astronaut", "coffee"):
        pixels = np.tile(getattr(photographs, name)()[:400, :512], (2, 2, 1))
        (folder / name).mkdir()
        for number in range(4):
            (folder / name / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
    return Manifest.from_folder(folder)


def source_of(
    manifest: Manifest, image_size: tuple[int, int] = (32, 32), preset: str = "strong"
) -> Source:
    augment = AugmentConfig.model_validate({"preset": preset})
    return Source(manifest, image_size, augment, DataConfig(), 0, Storage())


def loader_of(source: Source) -> BatchLoader:
    return BatchLoader(
        source.manifest, source.image_size, 4, shuffle=True, augment=source.augment,
        unreadable=source.data.unreadable, max_unreadable=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["labels", "masks"])
def test_parts_are_positive_and_their_shares_sum_to_one(
    kind: str, digit_folders: Path, mask_folders: Path
) -> None:
    source = source_of(Manifest.from_folder(mask_folders if kind == "masks" else digit_folders))
    times, samples = time_loading(loader_of(source), source)
    assert times.num_images == len(samples) > 0
    assert {sample.mask is not None for sample in samples} == {kind == "masks"}
    for part in PARTS[:-1]:
        assert getattr(times, part) > 0
    assert times.first_read > 0
    assert sum(times.shares.values()) == pytest.approx(1)
    assert tuple(times.shares) == PARTS


def test_samples_are_those_of_the_loader(digit_folders: Path) -> None:
    """The same rows with the same changes: applied, they give the loader's pixels."""
    from foveate.data.augment import apply, decode_size
    from foveate.data.decode import decode_image

    source = source_of(Manifest.from_folder(digit_folders))
    loader = loader_of(source)
    images = loader.batch_at(2)[0]["images"]
    samples, _ = take_samples(source, loader.rows_at(2), first=2 * 4)
    for sample, expected in zip(samples, images, strict=True):
        needed = decode_size(sample.parameters, source.image_size)
        pixels = decode_image(sample.image, source.data.decode, needed)
        made, _ = apply(pixels, sample.parameters, source.image_size)
        np.testing.assert_array_equal(made, expected)


def test_large_photographs_are_mostly_decoded(large: Manifest) -> None:
    source = source_of(large, preset="none")
    times, _ = time_loading(loader_of(source), source)
    assert max(times.shares, key=times.shares.__getitem__) == "decode"
    sizes = [Path(large.image_path(row)).stat().st_size for row in range(large.num_samples)]
    assert min(sizes) <= times.file_bytes <= max(sizes)


def test_rates(large: Manifest) -> None:
    source = source_of(large)
    samples, seconds = take_samples(source, np.arange(8, dtype=np.uint32), first=0)
    assert seconds > 0
    assert read_rate(source, samples, threads=2) > decode_rate(source, samples, threads=2) > 0


def test_packing_at_a_side_that_stays_sharp(large: Manifest) -> None:
    source = source_of(large, image_size=(64, 64), preset="none")
    samples, _ = take_samples(source, np.arange(8, dtype=np.uint32), first=0)
    assert sharp_side(source, samples) == 64
    small = repacked(source, samples, 64, most=3)
    assert [sample.row for sample in small] == [0, 1, 2]
    for sample in small:
        assert simplejpeg.decode_jpeg(sample.image.data).shape == (64, 82, 3)
    assert time_parts(source, small)["decode"] < time_parts(source, samples[:3])["decode"]


def test_masks_are_packed_with_their_images(mask_folders: Path) -> None:
    source = source_of(Manifest.from_folder(mask_folders), image_size=(16, 16), preset="none")
    samples, _ = take_samples(source, np.arange(4, dtype=np.uint32), first=0)
    small = repacked(source, samples, 16)
    assert time_parts(source, small)["decode"] > 0


def test_small_images_are_not_worth_packing(digit_folders: Path) -> None:
    source = source_of(Manifest.from_folder(digit_folders))
    samples, _ = take_samples(source, np.arange(8, dtype=np.uint32), first=0)
    assert sharp_side(source, samples) is None


def test_unreadable_files_are_left_out_or_named(large: Manifest, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / "ab"[number]).mkdir()
        whole = Path(large.image_path(0)).read_bytes()
        (tmp_path / "ab"[number] / "whole.jpg").write_bytes(whole)
        (tmp_path / "ab"[number] / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    failing = source_of(Manifest.from_folder(tmp_path))
    skipping = replace(failing, data=DataConfig(unreadable="skip"))
    assert time_loading(loader_of(skipping), skipping)[0].decode > 0
    with pytest.raises(SampleError, match=r"torn\.jpg"):
        time_loading(loader_of(failing), failing)


def test_what_is_no_image_is_packed_as_training_takes_it(large: Manifest, tmp_path: Path) -> None:
    contents = {
        "page.jpg": b"<html>Not found</html>",
        "empty.jpg": b"",
        "header.png": b"\x89PNG\r\n\x1a\n" + bytes(20),
        "whole.jpg": Path(large.image_path(0)).read_bytes(),
    }
    for name in "ab":
        (tmp_path / name).mkdir()
        for file, content in contents.items():
            (tmp_path / name / file).write_bytes(content)
    failing = source_of(Manifest.from_folder(tmp_path), image_size=(64, 64), preset="none")
    skipping = replace(failing, data=DataConfig(unreadable="skip"))
    samples, _ = take_samples(skipping, np.arange(8, dtype=np.uint32), first=0)
    assert sharp_side(skipping, samples) == 64
    small = repacked(skipping, samples, 64)
    assert [sample.row for sample in small] == list(range(8))
    broken = [sample for sample in samples if not sample.image.name.endswith("whole.jpg")]
    assert sharp_side(skipping, broken) is None
    for sample in broken:
        with pytest.raises(SampleError, match=sample.image.name):
            sharp_side(failing, [sample])
