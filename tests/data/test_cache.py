"""A cache on disk keeps what was used last, and its bound."""

import os
import resource
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from folder_sizes import sampled

from foveate.data.cache import ByteCache
from foveate.errors import SampleError

SMALL = 20_000


def test_never_over_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cache = ByteCache(SMALL)
    rng = np.random.default_rng(0)
    contents = [rng.bytes(int(rng.integers(1, SMALL // 3))) for _ in range(60)]

    def read(number: int) -> bool:
        content = contents[number * 7919 % 60]
        start, stop = number % 50, number % 50 + 100
        found = cache.get(str(number * 7919 % 60), lambda: content, start, stop)
        return found == content[start:stop]

    with sampled(tmp_path) as sizes, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(1000)))
    assert SMALL // 2 < max(sizes) <= SMALL
    assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= SMALL


def test_the_least_recently_used_goes_first() -> None:
    cache, made = ByteCache(10), []

    def make(key: str) -> bytes:
        made.append(key)
        return b"12345"

    for key in "abacab":
        cache.get(key, partial(make, key))
    assert made == ["a", "b", "c", "b"]


def test_one_thread_makes_what_many_want() -> None:
    cache, made = ByteCache(SMALL), []

    def make() -> bytes:
        made.append(1)
        return b"x"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cache.get("one", make), range(100)))
    assert made == [1]


def test_goes_with_its_owner_and_survives_cleaning() -> None:
    cache = ByteCache(SMALL)
    cache.get("a", lambda: b"first")
    for entry in cache.folder.iterdir():
        entry.unlink()
    assert cache.get("a", lambda: b"again") == b"again"
    folder = cache.folder
    assert folder.exists()
    del cache
    assert not folder.exists()


def test_what_killed_processes_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    orphan = left_by_a_killed_process(ByteCache(SMALL))
    cache = ByteCache(SMALL)
    assert not orphan.exists()
    assert cache.folder.exists()


def test_folders_of_other_machines_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of processes that are not found here, but may well run there."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("socket.gethostname", lambda: "elsewhere")
        theirs = left_by_a_killed_process(ByteCache(SMALL))
    cache = ByteCache(SMALL)
    assert theirs.exists()
    assert cache.folder.exists()


def left_by_a_killed_process(like: ByteCache) -> Path:
    """A folder such as this cache has, but of a number above the highest that Linux gives."""
    folder = like.folder.with_name(like.folder.name.replace(f"-{os.getpid()}-", "-4194304-"))
    folder.mkdir()
    return folder


def test_a_file_that_cannot_be_opened_is_gone() -> None:
    cache = ByteCache(SMALL)
    cache.get("a", lambda: b"first")

    def fail() -> bytes:
        raise SampleError("the server is gone")

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(SampleError):
            cache.get("a", fail)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(cache.folder.iterdir()) == []  # uncounted, it would take from others
    assert cache.get("a", lambda: b"again") == b"again"
