"""Packing: what is stored, who can read it, and what a crash leaves."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from range_server import serving

from foveate.cli import run
from foveate.config.settings import DataConfig, DecodeConfig, SplitConfig
from foveate.data.decode import decode_image, decode_mask
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest, read_manifest
from foveate.data.places import Encoded
from foveate.data.repack import PackOptions, num_bytes
from foveate.data.shards import pack, verify
from foveate.data.splits import assign_splits
from foveate.data.storage import Storage
from foveate.data.unlabelled import read_unlabelled
from foveate.errors import ConfigError, ManifestError, SampleError

SMALL = PackOptions(shard_bytes=60_000)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def batches(manifest: Manifest, **arguments: Any) -> list[bytes]:
    loader = BatchLoader(manifest, (16, 16), 16, threads=2, **arguments)
    found = [
        b"".join(array.tobytes() for array in [inputs["images"], *targets])
        for _ in range(2)
        for inputs, *targets in loader
    ]
    loader.close()
    return found


class TestAsTheyAre:
    def test_the_same_batches_as_unpacked(self, digit_table: Path, tmp_path: Path) -> None:
        config = DataConfig(metadata=("ink", "shade"), group="writer")
        plain = read_manifest(digit_table, config)
        packed = pack(digit_table, tmp_path / "out", config, SMALL)
        assert packed.table.drop("shard", "image_offset", "image_length").equals(plain.table)
        assert packed.class_names == plain.class_names
        splits = [assign_splits(rows, SplitConfig(), seed=3) for rows in (packed, plain)]
        assert splits[0].table["split"].equals(splits[1].table["split"])
        for shuffle in (False, True):
            mine, theirs = (batches(rows.split("train"), shuffle=shuffle) for rows in splits)
            assert mine == theirs

    def test_the_same_masks_as_unpacked(self, mask_folders: Path, tmp_path: Path) -> None:
        packed = pack(mask_folders, tmp_path / "out", options=SMALL)
        assert packed.has_masks
        assert batches(packed) == batches(Manifest.from_folder(mask_folders))

    def test_bytes_do_not_depend_on_threads(self, digit_folders: Path, tmp_path: Path) -> None:
        for threads in (1, 4):
            pack(digit_folders, tmp_path / str(threads), options=SMALL, threads=threads)
        assert contents(tmp_path / "1") == contents(tmp_path / "4")

    def test_every_shard_holds_every_class(self, digit_folders: Path, tmp_path: Path) -> None:
        packed = pack(digit_folders, tmp_path / "out", options=SMALL)
        classes = packed.table.group_by("shard").agg(pl.col("label").n_unique())
        assert classes.height > 2
        assert classes["label"].min() == 3

    def test_reads_as_webdataset_does(self, mask_folders: Path, tmp_path: Path) -> None:
        pack(mask_folders, tmp_path / "out", options=SMALL)
        samples: dict[str, dict[str, bytes]] = defaultdict(dict)
        keys = []
        for shard in sorted((tmp_path / "out").glob("shard-*.tar")):
            with tarfile.open(shard) as tar:
                for member in tar:
                    key, _, suffix = member.name.partition(".")
                    file = tar.extractfile(member)
                    assert file is not None
                    samples[key][suffix] = file.read()
                    keys.append(key)
        assert len(samples) == 60
        changes = sum(one != other for one, other in pairwise(keys))
        assert changes == 59  # the files of a sample follow one another
        for sample in samples.values():
            said = json.loads(sample["json"])
            assert sample["png"] == (mask_folders / said["image"]).read_bytes()
            assert sample["mask.png"] == (mask_folders / said["mask"]).read_bytes()

    def test_the_table_travels(self, digit_table: Path, tmp_path: Path) -> None:
        config = DataConfig(metadata=("ink", "shade"), group="writer")
        packed = pack(digit_table, tmp_path / "out", config)
        with tarfile.open(tmp_path / "out" / "shard-00000.tar") as tar:
            file = tar.extractfile("000000007.json")
            assert file is not None
            said = json.loads(file.read())
        row = packed.table.row(7, named=True)
        assert said["label"] == row["label"]
        assert said["group"] == row["group"]
        assert said["metadata"]["shade"] == row["metadata.shade"]

    def test_save_and_load(self, digit_folders: Path, tmp_path: Path) -> None:
        packed = pack(digit_folders, tmp_path / "out", options=SMALL)
        packed.save(tmp_path / "manifest.parquet")
        loaded = Manifest.load(tmp_path / "manifest.parquet")
        assert loaded.digest() == packed.digest()
        assert batches(loaded) == batches(packed)

    def test_packed_again(self, digit_folders: Path, tmp_path: Path) -> None:
        once = pack(digit_folders, tmp_path / "one", options=SMALL)
        twice = pack(tmp_path / "one", tmp_path / "two", options=SMALL)
        assert batches(once) == batches(twice)
        for name in ("one", "two"):
            shutil.rmtree(tmp_path / name / "index.parquet", ignore_errors=True)
        assert [p.read_bytes() for p in sorted((tmp_path / "one").glob("*.tar"))] == [
            p.read_bytes() for p in sorted((tmp_path / "two").glob("*.tar"))
        ]


class TestSmaller:
    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        """A photograph turned by its EXIF, wide and small ones, and their masks."""
        from skimage import data

        folder = tmp_path / "photos"
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True)
        cat = Image.fromarray(data.chelsea())
        exif = Image.Exif()
        exif[0x0112] = 6
        cat.save(folder / "images" / "turned.jpg", exif=exif, quality=95)
        cat.save(folder / "images" / "wide.png")
        cat.resize((60, 40)).save(folder / "images" / "small.jpg")
        ids = (np.arange(300 * 451).reshape(300, 451) // 4000).astype(np.uint8)
        Image.fromarray(np.rot90(ids, -1)).save(folder / "masks" / "turned.png")
        Image.fromarray(ids).save(folder / "masks" / "wide.png")
        Image.fromarray(ids[:40, :60]).save(folder / "masks" / "small.png")
        return folder

    def test_sizes_pixels_and_masks(self, photos: Path, tmp_path: Path) -> None:
        packed = pack(photos, tmp_path / "out", options=PackOptions(side=100))
        plain = Manifest.from_folder(photos)
        config, rows = DecodeConfig(), np.arange(3)
        with Storage() as storage:
            for row, image, mask in zip(
                range(3), packed.image_places(rows), packed.mask_places(rows), strict=True
            ):
                pixels = decode_image(storage.fetch(image), config)
                ids = decode_mask(storage.fetch(mask), config)
                whole = decode_image(plain.image_path(row), config)
                assert ids.shape == pixels.shape[:2]
                assert set(np.unique(ids)) <= set(
                    np.unique(decode_mask(plain.mask_path(row), config))
                )
                if "small" in plain.image_path(row):
                    np.testing.assert_array_equal(pixels, whole)
                    continue
                assert min(pixels.shape[:2]) == 100
                assert pixels.shape[0] > pixels.shape[1] or "wide" in plain.image_path(row)
                size = pixels.shape[1::-1]
                averaged = np.asarray(Image.fromarray(whole).resize(size, Image.Resampling.BOX))
                # The same picture up to what JPEG loses, some grey levels.
                assert np.abs(pixels.astype(int) - averaged).mean() < 6

    def test_what_cannot_be_decoded(self, photos: Path, tmp_path: Path) -> None:
        whole = (photos / "images" / "wide.png").read_bytes()
        broken = photos / "images" / "wide.png"
        broken.write_bytes(whole[: len(whole) // 2])
        options = PackOptions(side=100)
        with pytest.raises(SampleError, match=r"wide\.png"):
            pack(photos, tmp_path / "out", options=options)
        config = DataConfig(unreadable="skip")
        packed = pack(photos, tmp_path / "out", config, options)
        row = packed.table["image"].to_list().index("images/wide.png")
        with Storage() as storage:
            file = storage.fetch(packed.image_places(np.array([row]))[0])
        assert isinstance(file, Encoded)
        assert file.data == broken.read_bytes()

    def test_quality_is_kept_to(self, photos: Path, tmp_path: Path) -> None:
        sizes = []
        for quality in (50, 90):
            options = PackOptions(side=200, quality=quality)
            packed = pack(photos, tmp_path / str(quality), options=options)
            sizes.append(packed.table["image_length"].sum())
        assert sizes[0] < sizes[1]

    @pytest.mark.parametrize("options", [{"side": 0}, {"quality": 101}, {"shard_bytes": 0}])
    def test_impossible_options(self, options: dict[str, int]) -> None:
        with pytest.raises(ConfigError, match=next(iter(options))):
            PackOptions(**options)

    def test_sizes_as_texts(self) -> None:
        assert num_bytes("256MiB") == 256 * 1024**2
        with pytest.raises(ConfigError, match="'much'"):
            num_bytes("much")


class TestCrashes:
    def test_killed_and_started_again(self, digit_folders: Path, tmp_path: Path) -> None:
        many = PackOptions(shard_bytes=3000)
        pack(digit_folders, tmp_path / "whole", options=many, threads=2)
        whole = contents(tmp_path / "whole")
        out = tmp_path / "killed"
        code = (
            "import sys, time\n"
            "from foveate.data import shards, repack\n"
            "make = shards.sample_files\n"
            "def slow(*arguments):\n    time.sleep(0.01)\n    return make(*arguments)\n"
            "shards.sample_files = slow\n"
            "options = repack.PackOptions(shard_bytes=3000)\n"
            "shards.pack(sys.argv[1], sys.argv[2], options=options, threads=2)\n"
        )
        for shards_more in (1, 4):
            before = len(list(out.glob("*.tar"))) if out.exists() else 0
            child = subprocess.Popen([sys.executable, "-c", code, str(digit_folders), str(out)])
            while child.poll() is None and len(list(out.glob("*.tar"))) < before + shards_more:
                time.sleep(0.002)
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
            there = contents(out)
            assert "index.parquet" not in there
            # What has its final name is whole.
            finished = {name: data for name, data in there.items() if not name.startswith(".")}
            assert finished.items() <= whole.items()
            with pytest.raises(ManifestError):
                read_manifest(out)
        pack(digit_folders, out, options=many, threads=2)
        assert contents(out) == whole

    def test_a_damaged_index_is_named_and_made_anew(
        self, digit_folders: Path, mask_folders: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out[1]"  # no pattern
        pack(digit_folders, out, options=SMALL)
        pack(mask_folders, tmp_path / "out1", options=SMALL)
        whole, index = contents(out), out / "index.parquet"
        index.write_bytes(index.read_bytes()[:100])
        with pytest.raises(ManifestError, match=r"index\.parquet cannot be read"):
            read_manifest(out)
        with pytest.raises(ManifestError, match=r"index\.parquet cannot be read"):
            pack(digit_folders, out, options=SMALL)
        index.unlink()
        pack(digit_folders, out, options=SMALL)
        assert contents(out) == whole
        assert verify(out) == 150

    @pytest.mark.parametrize(
        "damage",
        ["cut", "cut in a header", "cut at its end", "zeros", "a header", "no tar", "a name"],
    )
    def test_a_damaged_shard_is_named(
        self, mask_folders: Path, tmp_path: Path, damage: str
    ) -> None:
        out = tmp_path / "out"
        packed = pack(mask_folders, out, options=SMALL)
        whole = contents(out)
        (out / "index.parquet").unlink()
        mask = packed.table.filter(pl.col("shard") == "shard-00001.tar")["mask_offset"].min()
        assert isinstance(mask, int)
        shard, data = out / "shard-00001.tar", whole["shard-00001.tar"]
        with tarfile.open(tmp_path / "other.tar", "w") as tar:
            tar.addfile(tarfile.TarInfo("first.png"))
        damaged = {
            "cut": data[: mask + 9],
            "cut in a header": data[: mask - 100],
            "cut at its end": data[:-512],
            "zeros": data[: mask - 512] + bytes(len(data) - mask + 512),
            "a header": data[: mask - 500] + b"x" + data[mask - 499 :],
            "no tar": b"<html>" * 999,
            "a name": (tmp_path / "other.tar").read_bytes(),
        }
        shard.write_bytes(damaged[damage])
        with pytest.raises(ManifestError, match=r"shard-00001\.tar must be a whole .* delete it"):
            pack(mask_folders, out, options=SMALL)
        shard.unlink()
        pack(mask_folders, out, options=SMALL)
        assert contents(out) == whole

    def test_a_finished_pack_is_left_alone(self, digit_folders: Path, tmp_path: Path) -> None:
        first = pack(digit_folders, tmp_path / "out", options=SMALL)
        times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        again = pack(digit_folders, tmp_path / "out", options=SMALL)
        assert again.digest() == first.digest()
        assert times == {
            path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()
        }

    def test_other_data_or_settings_are_refused(self, digit_folders: Path, tmp_path: Path) -> None:
        pack(digit_folders, tmp_path / "out", options=SMALL)
        with pytest.raises(ConfigError, match="side None instead of 9"):
            pack(digit_folders, tmp_path / "out", options=PackOptions(9, shard_bytes=60_000))
        fewer = Manifest.from_folder(digit_folders).take(range(60))
        with pytest.raises(ConfigError, match=r"data '[0-9a-f]{64}' instead of"):
            pack(fewer, tmp_path / "out", options=SMALL)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "notes.txt").touch()
        with pytest.raises(ConfigError, match="new or empty"):
            pack(digit_folders, tmp_path / "other")

    def test_a_file_that_is_gone(self, digit_folders: Path, tmp_path: Path) -> None:
        shutil.copytree(digit_folders, tmp_path / "digits")
        manifest = Manifest.from_folder(tmp_path / "digits")
        gone = Path(manifest.image_path(20))
        gone.unlink()
        with pytest.raises(SampleError, match=gone.name):
            pack(manifest, tmp_path / "out", options=SMALL)
        shutil.copy(digit_folders / gone.relative_to(tmp_path / "digits"), gone)
        packed = pack(manifest, tmp_path / "out", options=SMALL)
        assert batches(packed) == batches(manifest)


class TestVerify:
    def test_one_wrong_byte_is_found(self, digit_folders: Path, tmp_path: Path) -> None:
        packed = pack(digit_folders, tmp_path / "out", options=SMALL)
        assert verify(tmp_path / "out") == 150
        row = packed.table.row(33, named=True)
        path = tmp_path / "out" / row["shard"]
        data = bytearray(path.read_bytes())
        data[row["image_offset"] + 20] ^= 1
        path.write_bytes(data)
        with pytest.raises(ManifestError, match=rf"{row['shard']}: 000000033 \(image\)"):
            verify(tmp_path / "out")

    def test_masks_are_compared_too(self, mask_folders: Path, tmp_path: Path) -> None:
        packed = pack(mask_folders, tmp_path / "out")
        assert verify(tmp_path / "out") == 120
        path = tmp_path / "out" / "shard-00000.tar"
        data = bytearray(path.read_bytes())
        data[packed.table["mask_offset"][5] + 9] ^= 255
        path.write_bytes(data)
        with pytest.raises(ManifestError, match=r"000000005 \(mask\)"):
            verify(tmp_path / "out")

    def test_short_and_missing_shards(self, digit_folders: Path, tmp_path: Path) -> None:
        pack(digit_folders, tmp_path / "out", options=SMALL)
        path = tmp_path / "out" / "shard-00001.tar"
        path.write_bytes(path.read_bytes()[:30_000])
        with pytest.raises(ManifestError, match=r"shard-00001\.tar"):
            verify(tmp_path / "out")
        with pytest.raises(ManifestError, match=r"shard-00001\.tar has 30000 bytes"):
            read_manifest(tmp_path / "out")
        path.unlink()
        with pytest.raises(ManifestError, match=r"shard-00001\.tar .*No such file"):
            verify(tmp_path / "out")
        with pytest.raises(ManifestError, match=r"shard-00001\.tar is missing"):
            read_manifest(tmp_path / "out")

    def test_what_is_no_pack(self, digit_folders: Path) -> None:
        with pytest.raises(ManifestError, match=r"no file or folder"):
            verify(digit_folders)


@pytest.fixture(scope="module")
def packed_table(digit_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "out"
    pack(digit_table, folder, DataConfig(metadata=("ink", "shade"), group="writer"))
    return folder


class TestColumns:
    def test_some_of_the_metadata(self, packed_table: Path) -> None:
        assert read_manifest(packed_table).metadata_columns == ("ink", "shade")
        assert read_manifest(packed_table, DataConfig(metadata=("shade",))).metadata_columns == (
            "shade",
        )
        assert read_manifest(
            packed_table / "index.parquet", DataConfig(group="writer")
        ).num_samples

    def test_columns_that_were_not_packed(self, packed_table: Path) -> None:
        config = DataConfig(label="kind", metadata=("inc",), weight="w", group="writer")
        with pytest.raises(ManifestError) as raised:
            read_manifest(packed_table, config)
        for text in ("data.label must be 'label'", "data.weight", "Did you mean 'ink'"):
            assert text in str(raised.value)
        assert "data.group" not in str(raised.value)

    def test_without_targets(self, packed_table: Path) -> None:
        rows = read_unlabelled([packed_table], DataConfig())
        assert rows.num_samples == 150
        assert rows.class_names == ()
        assert len(batches(rows)) == 20

    def test_other_parquet_files_are_tables(self, digit_table: Path) -> None:
        table = digit_table.with_name("index.parquet")
        pl.read_csv(digit_table).write_parquet(table)
        try:
            assert not read_manifest(table).is_packed
        finally:
            table.unlink()


def test_from_the_shell(
    digit_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, trained = str(tmp_path / "packed"), str(tmp_path / "run")
    assert (
        run(["pack", str(digit_folders), out, "--shard-size", "50kB", "--loader.threads", "2"])
        == 0
    )
    assert "150 samples packed" in capsys.readouterr().out
    assert run(["pack", out, "--verify"]) == 0
    assert "150 files" in capsys.readouterr().out
    assert run(["pack", str(digit_folders)]) == 2
    assert run(["pack", str(digit_folders), out, "--side", "5"]) == 2
    flags = ["--data.image_size", "16", "--model.backbone", "simple_cnn", "--recipe.epochs", "1"]
    with serving(tmp_path / "packed") as server:
        assert run(["train", server.address, "--out", trained, *flags]) == 0
        assert run(["evaluate", trained]) == 0
    assert run(["predict", trained, out, "--out", str(tmp_path / "found.csv")]) == 0
    assert pl.read_csv(tmp_path / "found.csv").height == 150


def test_packing_from_far_away_keeps_to_the_cache(
    digit_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(digit_folders, tmp_path / "near", options=SMALL)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    bound = 5_001
    with serving(tmp_path / "near") as server:
        flags = ["--loader.cache", str(bound), "--loader.threads", "2"]
        assert run(["pack", server.address, str(tmp_path / "again"), *flags]) == 0
    assert verify(tmp_path / "again") == 150
    (cache,) = (tmp_path / "temporary").glob("foveate-cache-*")
    assert 0 < sum(path.stat().st_size for path in cache.iterdir()) <= bound


def test_suffixes_come_from_the_content(tmp_path: Path) -> None:
    rows: list[tuple[str, str, str]] = []
    for name, kind, suffix in (
        ("a.jpg", "PNG", "png"),
        ("b.png", "JPEG", "jpg"),
        ("c", "TIFF", "tif"),
    ):
        data = io.BytesIO()
        Image.new("RGB", (8, 8)).save(data, kind)
        (tmp_path / name).write_bytes(data.getvalue())
        rows.append((name, f"class {len(rows) % 2}", suffix))
    table = pl.DataFrame(rows, schema=["image", "label", "suffix"], orient="row")
    pack(Manifest.from_table(table, root=tmp_path), tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "shard-00000.tar") as tar:
        names = set(tar.getnames())
    assert {f"{row:09d}.{suffix}" for row, (_, _, suffix) in enumerate(rows)} <= names
