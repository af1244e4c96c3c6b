import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate import machine
from foveate.errors import ConfigError

MIB = 1024**2


def cgroup(root: Path, lines: str, files: dict[str, str]) -> Path:
    """A root with what the kernel shows of control groups, and nothing else."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_cgroups_it_is_all_of_the_machine(tmp_path: Path) -> None:
    assert machine.memory_bytes(tmp_path) == psutil.virtual_memory().total
    assert machine.cpu_count(tmp_path) == len(os.sched_getaffinity(0))


def test_this_machine() -> None:
    assert 0 < machine.memory_bytes() <= psutil.virtual_memory().total
    assert 1 <= machine.cpu_count() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("lines", "files"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": f"{64 * MIB}\n"}),
        ("0::/a\n", {"a/memory.max": f"{64 * MIB}\n", "memory.max": f"{96 * MIB}\n"}),
        ("0::/of/the/host\n", {"memory.max": f"{64 * MIB}\n"}),
        ("0::/../other\n", {"memory.max": f"{64 * MIB}\n", "other/memory.max": f"{MIB}\n"}),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": f"{64 * MIB}\n"}),
        (
            "4:memory:/a\n0::/\n",
            {"memory/a/memory.limit_in_bytes": f"{64 * MIB}\n", "unified/cgroup.procs": ""},
        ),
        (
            "4:memory:/a\n",
            {
                "memory/memory.limit_in_bytes": f"{64 * MIB}\n",
                "memory/a/memory.limit_in_bytes": "9223372036854771712\n",
            },
        ),
    ],
)
def test_the_smallest_limit_above_holds(lines: str, files: dict[str, str], tmp_path: Path) -> None:
    assert machine.memory_bytes(cgroup(tmp_path, lines, files)) == 64 * MIB


@pytest.mark.parametrize(
    ("lines", "files"),
    [
        ("0::/a\n", {"a/memory.max": "max\n", "a/cpu.max": "max 100000\n"}),
        (
            "3:cpu,cpuacct:/\n4:memory:/\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
        ),
        ("0::/a\n", {"a/memory.max": "\n", "a/cpu.max": "\n"}),
    ],
)
def test_no_limit(lines: str, files: dict[str, str], tmp_path: Path) -> None:
    root = cgroup(tmp_path, lines, files)
    assert machine.memory_bytes(root) == psutil.virtual_memory().total
    assert machine.cpu_count(root) == len(os.sched_getaffinity(0))


def test_a_quota_of_half_a_processor_is_one(tmp_path: Path) -> None:
    version_2 = cgroup(tmp_path / "2", "0::/a/b\n", {"a/cpu.max": "50000 100000\n"})
    quota = {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}
    version_1 = cgroup(
        tmp_path / "1",
        "1:cpuacct,cpu:/a\n",
        {f"cpu/a/{name}": text for name, text in quota.items()},
    )
    assert machine.cpu_count(version_2) == machine.cpu_count(version_1) == 1


@given(quota=st.integers(1000, 10**7), period=st.integers(1000, 10**6))
def test_processors_cover_the_quota(
    quota: int, period: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("root")
    count = machine.cpu_count(cgroup(root, "0::/\n", {"cpu.max": f"{quota} {period}\n"}))
    there = len(os.sched_getaffinity(0))
    assert 1 <= count <= there
    assert count == there or (count - 1) * period < quota <= count * period


def test_limited_processes_and_threads_stay_where_they_are_put() -> None:
    code = (
        "import os, threading\n"
        "from foveate.machine import cpu_count, limit_cpus\n"
        "limit_cpus(1)\n"
        "seen = [len(os.sched_getaffinity(0)), cpu_count()]\n"
        "thread = threading.Thread(target=lambda: seen.append(len(os.sched_getaffinity(0))))\n"
        "thread.start(); thread.join(); print(seen)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1, 1, 1]"


@pytest.mark.parametrize(
    ("count", "part", "expected"),
    [
        (4, 0, [1, 2, 3, 4]),
        (4, 1, [5, 6, 7, 8]),
        (4, 2, [1, 2, 3, 4]),
        (3, 1, [4, 5, 6]),
        (3, 2, [1, 2, 3]),  # two are left, which are no part
        (8, 2**31, [1, 2, 3, 4, 5, 6, 7, 8]),
        (1, 7, [8]),
    ],
)
def test_parts_of_the_processors(
    count: int, part: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = [8, 7, 6, 5, 4, 3, 2, 1]

    def cpu_affinity(process: psutil.Process, processors: list[int] | None = None) -> list[int]:
        allowed[:] = processors or allowed
        return list(allowed)

    monkeypatch.setattr(psutil.Process, "cpu_affinity", cpu_affinity)
    monkeypatch.setattr(machine, "_cgroup_folders", lambda *_: [])
    machine.limit_cpus(count, part)
    assert allowed == expected
    machine.limit_cpus(count, part)  # as a process does that was started by one in its part
    assert allowed == expected


def test_more_processors_than_there_are() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(ConfigError, match=r"budget\.cpus must be from 1 to .* got 100000"):
        machine.limit_cpus(100_000)
    assert os.sched_getaffinity(0) == before


def test_a_system_that_cannot_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil.Process, "cpu_affinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(machine, "_cgroup_folders", lambda *_: [])
    machine.limit_cpus(2)
    with pytest.raises(ConfigError, match=r"budget\.cpus needs a system"):
        machine.limit_cpus(1)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu sse avx512_bf16", True), ("fpu sse avx512f", False), (None, False)],
)
def test_bfloat16_as_the_system_tells(flags: str | None, expected: bool, tmp_path: Path) -> None:
    if flags is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n\n")
    assert machine.has_bfloat16(tmp_path) is expected
