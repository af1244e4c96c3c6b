import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from foveate.planning import guard
from foveate.planning.guard import NEAR, MemoryGuard, tree_bytes

MIB = 1024**2
SHARED = "import mmap, sys; file = open(sys.argv[1], 'rb'); \
block = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ); block.find(b'1')"
OWN = "block = b'x' * (200 * 1024**2)"


@contextmanager
def child(code: str, *arguments: str) -> Iterator[None]:
    """Another process, which has run the code and waits."""
    code += "; print('ready', flush=True); import sys; sys.stdin.read()"
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        process.communicate()


@pytest.fixture(scope="module")
def small() -> Iterator[Callable[..., None]]:
    """Runs a function in a process in which nothing else comes and goes.

    It has no large library either: how much of one counts depends on who else maps it.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def limit_at(bytes_: int) -> int:
    """The limit that is near from so many bytes on."""
    return round(bytes_ / NEAR)


def test_what_is_allocated_is_seen_and_what_is_freed_too(small: Callable[..., None]) -> None:
    small(allocate_and_free)


def allocate_and_free() -> None:
    before = tree_bytes()
    with MemoryGuard(limit_at(before + 100 * MIB), every_seconds=0.01) as watch:
        assert not watch.is_near()
        block = np.ones(200 * MIB, np.uint8)
        while not watch.is_near():
            time.sleep(0.01)
        assert before + 150 * MIB < watch.peak_bytes < before + 300 * MIB
        del block
        watch.relieve()
        assert not watch.is_near()
    assert watch.peak_bytes > before + 150 * MIB


def test_a_peak_between_two_questions_is_kept(small: Callable[..., None]) -> None:
    small(allocate_without_asking)


def allocate_without_asking() -> None:
    before = tree_bytes()
    with MemoryGuard(limit_at(before), every_seconds=0.01) as watch:
        block = np.ones(200 * MIB, np.uint8)
        while watch.peak_bytes < before + 150 * MIB:
            time.sleep(0.01)
        del block


def test_relief_gives_back_what_the_allocator_keeps(small: Callable[..., None]) -> None:
    """Small blocks below one that stays are free, yet the system has them only after a trim."""
    small(allocate_small_blocks)


def allocate_small_blocks() -> None:
    with MemoryGuard(limit_at(tree_bytes() + 100 * MIB)) as watch:
        blocks = [b"x" * size for size in range(1000, 9000) for _ in range(5)]
        while not watch.is_near():
            time.sleep(0.01)
        del blocks[:-1]
        watch.relieve()
        assert not watch.is_near()


def test_cycles_are_relieved(small: Callable[..., None]) -> None:
    small(leave_a_cycle)


def leave_a_cycle() -> None:
    with MemoryGuard(limit_at(tree_bytes() + 100 * MIB)) as watch:
        holder: list[object] = [np.ones(200 * MIB, np.uint8)]
        holder.append(holder)
        del holder
        watch.relieve()
        assert not watch.is_near()


def test_children_count(small: Callable[..., None]) -> None:
    small(watch_a_child)


def with_a_child_that_takes_little() -> int:
    with child("pass"):
        return tree_bytes()


def watch_a_child() -> None:
    before = with_a_child_that_takes_little()
    with MemoryGuard(limit_at(before + 100 * MIB), every_seconds=0.01) as watch:
        with child(OWN):
            assert before + 150 * MIB < tree_bytes() < before + 300 * MIB
            while not watch.is_near():
                time.sleep(0.01)
        while watch.is_near():
            time.sleep(0.01)
    assert before + 150 * MIB < watch.peak_bytes < before + 300 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is shared")
def test_what_is_shared_counts_once(small: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "block"
    path.write_bytes(bytes(200 * MIB))
    small(watch_children_that_share, path)


def watch_children_that_share(path: Path) -> None:
    before = with_a_child_that_takes_little()
    mapped = np.memmap(path, mode="r")
    assert not mapped.any()
    with child(SHARED, str(path)), child(SHARED, str(path)):
        assert before + 150 * MIB < tree_bytes() < before + 300 * MIB
        with MemoryGuard(limit_at(before), every_seconds=0.01) as watch:
            for _ in range(10):
                time.sleep(0.02)
                assert watch.is_near()
        assert before + 150 * MIB < watch.peak_bytes < before + 300 * MIB


def test_children_that_vanish_do_not_stop_it() -> None:
    """An error in a thread would fail the test."""
    with MemoryGuard(0, every_seconds=0.001) as watch:
        for _ in range(20):
            subprocess.run([sys.executable, "-S", "-c", ""], check=True)
        assert watch._thread.is_alive()
        assert watch.is_near()


def test_a_process_that_has_ended_takes_nothing() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        seen = psutil.Process(process.pid)
    assert guard._resident(seen) == guard._share(seen) == 0


def test_systems_that_do_not_let_us_look(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "memory_full_info", refuse)
    with child("pass"):
        assert tree_bytes() > psutil.Process().memory_info().rss


def test_no_thread_is_left() -> None:
    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate()]

    with MemoryGuard(MIB):
        assert "memory-guard" in names()
    assert "memory-guard" not in names()
