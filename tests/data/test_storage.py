"""Reading from files, shards, web servers and object stores: the same bytes from everywhere."""

import os
import shutil
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import polars as pl
import pytest
from folder_sizes import sampled
from range_server import FailingServer, relaying, serving

from foveate.config.settings import DecodeConfig
from foveate.data import remote
from foveate.data.cache import ByteCache
from foveate.data.loader import BatchLoader
from foveate.data.manifest import Manifest, read_manifest
from foveate.data.masks import scan_masks
from foveate.data.places import Encoded, Member
from foveate.data.remote import RemoteReader, fetch, protocols, require_protocol, shared_cache
from foveate.data.repack import PackOptions
from foveate.data.shards import pack
from foveate.data.storage import Storage
from foveate.errors import ManifestError, MissingDependencyError, SampleError

SMALL = 20_000


@pytest.fixture(scope="module")
def packed(digit_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty digits in shards of about ten."""
    folder = tmp_path_factory.mktemp("packed") / "digits"
    some = Manifest.from_folder(digit_folders).take(range(0, 150, 3))
    pack(some, folder, options=PackOptions(shard_bytes=20_000), threads=2)
    return folder


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE_SECONDS", 0.0001)


def batches(manifest: Manifest, **arguments: Any) -> list[bytes]:
    others = set(threading.enumerate())
    loader = BatchLoader(manifest, (16, 16), 16, threads=4, **arguments)
    found = [
        images["images"].tobytes() + labels.tobytes()
        for epoch in range(2)
        for images, labels in loader
    ]
    loader.close()
    for thread in set(threading.enumerate()) - others:
        if not thread.daemon:
            thread.join()  # it finishes its batch, for which its server must be there
    return found


def from_disk(near: Manifest, far: Manifest, **arguments: Any) -> list[bytes]:
    """What `batches` must find far away: the same rows in the same order, read from disk."""
    loader = BatchLoader(far, (16, 16), 16, **arguments)
    expected = []
    for epoch in range(2):
        positions = range(epoch * len(loader), (epoch + 1) * len(loader))
        rows = np.concatenate([loader.rows_at(position) for position in positions])
        expected += batches(near.take(rows))[: len(loader)]
    return expected


def uploaded(packed: Path) -> str:
    """A copy in fsspec's memory."""
    folder = f"memory://{uuid4().hex}"
    filesystem = fsspec.filesystem("memory")
    for path in packed.iterdir():
        filesystem.pipe_file(f"{folder}/{path.name}", path.read_bytes())
    return folder


class TestLocal:
    def test_reads_what_plain_tar_holds(self, packed: Path) -> None:
        manifest = read_manifest(packed)
        with Storage() as storage:
            for row in (0, 27, 49):
                place = manifest.image_places(np.array([row]))[0]
                assert isinstance(place, Member)
                file = storage.fetch(place)
                assert isinstance(file, Encoded)
                with tarfile.open(place.shard) as tar:
                    member = tar.extractfile(f"{row:09d}.png")
                    assert member is not None
                    assert member.read() == file.data
                assert str(file) == f"{place.shard}: {manifest.table['image'][row]}"

    def test_plain_paths_stay(self) -> None:
        assert Storage().fetch("/some/photo.jpg") == "/some/photo.jpg"

    def test_many_shards_need_few_descriptors(self, tmp_path: Path) -> None:
        places = []
        for number in range(300):
            path = tmp_path / f"{number}.tar"
            path.write_bytes(bytes([number % 256]) * 10)
            places.append(Member(str(path), 2, 5, "part"))
        descriptors = Path("/proc/self/fd")
        before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
        with Storage() as storage, ThreadPoolExecutor(8) as pool:
            for file, number in zip(pool.map(storage.fetch, places), range(300), strict=True):
                assert isinstance(file, Encoded)
                assert file.data == bytes([number % 256]) * 5
            if descriptors.exists():
                assert len(list(descriptors.iterdir())) <= before + 128
        if descriptors.exists():
            assert len(list(descriptors.iterdir())) <= before

    def test_reading_goes_on_while_closing(self, packed: Path) -> None:
        places = read_manifest(packed).image_places(np.arange(50))
        storage = Storage()

        def read(number: int) -> bytes:
            if number % 7 == 0:
                storage.close()
            file = storage.fetch(places[number % 50])
            assert isinstance(file, Encoded)
            return file.data

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(read, range(1500)))
        assert found == found[:50] * 30

    def test_missing_and_short_shards(self, tmp_path: Path) -> None:
        with Storage() as storage:
            with pytest.raises(SampleError, match=r"gone\.tar: cat/1\.jpg must be in a readable"):
                storage.fetch(Member(str(tmp_path / "gone.tar"), 0, 9, "cat/1.jpg"))
            (tmp_path / "short.tar").write_bytes(b"12345")
            with pytest.raises(SampleError, match=r"short\.tar.* ends after 3 .* delete it"):
                storage.fetch(Member(str(tmp_path / "short.tar"), 2, 9, "1.jpg"))

    def test_a_shard_lost_while_training(self, packed: Path, tmp_path: Path) -> None:
        shutil.copytree(packed, tmp_path / "copy")
        loader = BatchLoader(read_manifest(tmp_path / "copy"), (16, 16), 16)
        (tmp_path / "copy" / "shard-00001.tar").unlink()
        with pytest.raises(SampleError, match=r"shard-00001\.tar: digit .*No such file"):
            list(loader)
        loader.close()


class TestWebServer:
    def test_the_same_batches_as_from_disk(self, packed: Path) -> None:
        expected = batches(read_manifest(packed))
        with serving(packed) as server:
            assert batches(read_manifest(server.address)) == expected
            index = read_manifest(f"{server.address}/index.parquet")
            assert batches(index) == expected

    @pytest.mark.parametrize("shuffle", [False, True])
    def test_one_request_in_ten_fails(self, packed: Path, shuffle: bool) -> None:
        near = read_manifest(packed)
        with serving(packed, fails_each=10) as server:
            far = read_manifest(server.address)
            found = batches(far, shuffle=shuffle, cache_bytes=0)
            assert found == from_disk(near, far, shuffle=shuffle)
            assert server.failures > 9

    def test_each_part_is_asked_for_once(self, packed: Path) -> None:
        with serving(packed) as server:
            manifest = read_manifest(server.address)
            batches(manifest, cache_bytes=10_000_001)
            asked = [request for request in server.requests if ".tar" in request]
            assert len(asked) == len(set(asked)) == 50
            server.requests.clear()
            batches(manifest, shuffle=True, cache_bytes=10_000_002)
            asked = [request for request in server.requests if ".tar" in request]
            assert len(asked) == len(list(packed.glob("*.tar")))  # each fits into one block

    def test_what_is_not_there_is_asked_for_once(self, packed: Path) -> None:
        with serving(packed) as server:
            with pytest.raises(SampleError, match=r"gone\.jpg .*there is no such file"):
                Storage().fetch(f"{server.address}/gone.jpg")
            assert len(server.requests) == 1
            with pytest.raises(ManifestError, match="packed dataset"):
                read_manifest(f"{server.address}/nowhere")

    def test_what_is_no_index_is_told(self, packed: Path, tmp_path: Path) -> None:
        index = (packed / "index.parquet").read_bytes()
        pl.DataFrame({"image": ["a.jpg"]}).write_parquet(tmp_path / "table.parquet")
        contents = {"page": b"<html>Please log in</html>", "empty": b"", "cut": index[:-100]}
        for name, content in contents.items():
            (tmp_path / f"{name}.parquet").write_bytes(content)
        with serving(tmp_path) as server:
            for name in (*contents, "table"):
                with pytest.raises(ManifestError, match="must be what foveate pack wrote"):
                    read_manifest(f"{server.address}/{name}.parquet")

    def test_a_server_that_stays_broken(self, packed: Path) -> None:
        with serving(packed, fails_each=1) as server:
            with pytest.raises(SampleError, match="8 times"):
                Storage().fetch(f"{server.address}/shard-00000.tar")
            assert len(server.requests) == 8

    def test_a_server_without_ranges(self, packed: Path) -> None:
        with (
            serving(packed, ranges=False) as server,
            pytest.raises(SampleError, match="range requests"),
        ):
            Storage().fetch(Member(f"{server.address}/shard-00000.tar", 512, 99, "1.png"))

    def test_a_table_of_addresses(self, digit_folders: Path, tmp_path: Path) -> None:
        paths = sorted(digit_folders.rglob("*.png"))[::15]
        for number, path in enumerate(paths):
            (tmp_path / f"{number}.png").write_bytes(path.read_bytes())
        names = [f"{number}.png" for number in range(len(paths))]
        table = pl.DataFrame({"image": names, "label": [path.parent.name for path in paths]})
        expected = batches(Manifest.from_table(table, root=tmp_path))
        with serving(tmp_path, fails_each=5) as server:
            far = table.with_columns(image=f"{server.address}/" + pl.col("image"))
            assert batches(Manifest.from_table(far), cache_bytes=SMALL) == expected
            assert server.failures


@pytest.fixture(scope="module")
def bucket(packed: Path) -> Iterator[str]:
    """The packed digits in a bucket of a real S3-speaking server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        filesystem = fsspec.filesystem("s3")
        filesystem.mkdir("foveate-digits")
        filesystem.put(f"{packed}/", "foveate-digits/packed/", recursive=True)
        yield "s3://foveate-digits/packed"
    server.stop()


@pytest.fixture
def failing_bucket(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingServer]:
    """What stands before the bucket from now on; nobody but Foveate tries again."""
    with relaying(os.environ["AWS_ENDPOINT_URL"], fails_each=10) as server:
        once = {"retries": {"total_max_attempts": 1}}
        options = {"endpoint_url": server.address, "config_kwargs": once}
        monkeypatch.setitem(fsspec.config.conf, "s3", options)
        monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "retries", 1)
        yield server


class TestObjectStore:
    def test_the_same_batches_as_from_disk(self, packed: Path, bucket: str) -> None:
        assert batches(read_manifest(bucket)) == batches(read_manifest(packed))

    @pytest.mark.parametrize("shuffle", [False, True])
    def test_one_request_in_ten_fails(
        self, packed: Path, bucket: str, failing_bucket: FailingServer, shuffle: bool
    ) -> None:
        far = read_manifest(bucket)
        found = batches(far, shuffle=shuffle, cache_bytes=0)
        assert found == from_disk(read_manifest(packed), far, shuffle=shuffle)
        assert failing_bucket.failures > 9

    def test_a_bucket_that_stays_broken(self, bucket: str, failing_bucket: FailingServer) -> None:
        failing_bucket.fails_each = 1
        with pytest.raises(SampleError, match="8 times"):
            fetch(f"{bucket}/shard-00000.tar", 77, 99)
        asked = [request for request in failing_bucket.requests if "bytes=77-98" in request]
        assert len(asked) == 8  # so each failure came to us

    def test_missing_objects(self, bucket: str) -> None:
        with pytest.raises(SampleError, match="there is no such file"):
            Storage().fetch(f"{bucket}/gone.jpg")


class TestProtocols:
    def test_missing_packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(protocol: str) -> None:
            raise ImportError("Install it")

        monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
        require_protocol.cache_clear()
        with pytest.raises(MissingDependencyError, match=r"pip install \"foveate\[s3\]\""):
            require_protocol("s3")
        with pytest.raises(MissingDependencyError, match="gcsfs"):
            require_protocol("gs")

    def test_unknown_protocols(self) -> None:
        with pytest.raises(ManifestError, match="Did you mean 's3'"):
            require_protocol("s33")

    def test_those_of_a_column(self) -> None:
        places = pl.Series(["a/b.jpg", "s3://b/c.jpg", "https://d/e.jpg", "s3://f/g.jpg"])
        assert protocols(places) == {"s3", "https"}


class TestOrder:
    def test_far_shards_come_in_windows(self, packed: Path) -> None:
        near, far = read_manifest(packed), read_manifest(uploaded(packed))
        num_shards = far.table["shard"].n_unique()
        assert num_shards == 5  # so that the last window, of four shards, holds one
        for manifest in (near, far):
            rows = [
                BatchLoader(manifest, (8, 8), 50, shuffle=True, seed=seed).rows_at(epoch)
                for seed, epoch in ((3, 0), (3, 0), (3, 1), (4, 0))
            ]
            assert all(sorted(order.tolist()) == list(range(50)) for order in rows)
            np.testing.assert_array_equal(rows[0], rows[1])
            assert rows[0].tolist() != rows[2].tolist() != rows[3].tolist()
            shards = manifest.table["shard"].to_physical().to_numpy()[rows[0]]
            is_last = shards == shards[-1]
            assert is_last[-is_last.sum() :].all() == (manifest is far)


class TestMasks:
    def test_a_run_on_masks_far_away(self, mask_folders: Path, tmp_path: Path) -> None:
        near = pack(mask_folders, tmp_path / "packed")
        far = read_manifest(uploaded(tmp_path / "packed"))
        scans = [scan_masks(data, DecodeConfig(), threads=2) for data in (near, far)]
        np.testing.assert_array_equal(scans[0].pixels, scans[1].pixels)
        assert batches(near) == batches(far)


class TestCache:
    def test_a_shuffled_epoch_never_takes_more(
        self, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        shards = [path.stat().st_size for path in packed.glob("*.tar")]
        bound = max(shards) * 2 + 1  # two of the five that belong together in windows of four
        near = read_manifest(packed)
        with serving(packed) as server:
            far = read_manifest(server.address)
            with sampled(tmp_path) as sizes:
                found = batches(far, shuffle=True, repeat=2, cache_bytes=bound)
            assert found == from_disk(near, far, shuffle=True, repeat=2)
            assert len(server.requests) > 4 * len(shards)  # what had to go was wanted again
        assert min(shards) * 2 <= max(sizes) <= bound
        (cache,) = tmp_path.iterdir()
        assert 0 < sum(entry.stat().st_size for entry in os.scandir(cache)) <= bound

    def test_threads_that_come_at_once_share_one(self) -> None:
        together = threading.Barrier(8)

        def ask(bound: int) -> ByteCache:
            together.wait()
            return shared_cache(bound)

        with ThreadPoolExecutor(8) as pool:
            for bound in range(10):
                assert len(set(pool.map(ask, [bound] * 8))) == 1

    def test_blocks_give_the_same_bytes(self, tmp_path: Path) -> None:
        content = np.random.default_rng(0).bytes(3 * 1024**2 + 17)
        uri = f"memory://{uuid4().hex}/file"
        fsspec.filesystem("memory").pipe_file(uri, content)
        for whole_blocks in (True, False):
            reader = RemoteReader(ByteCache(2 * 1024**2), whole_blocks)
            for start, stop in ((0, 9), (5, 2**20), (2**20 - 1, 2**21 + 3)):
                assert reader.read_range(uri, start, stop) == content[start:stop]
            assert reader.read_range(uri, len(content) - 5, len(content) + 9) == content[-5:]
            assert reader.read(uri) == content
