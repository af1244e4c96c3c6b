"""Processes that are forked from one that has imported Keras."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from studies import until

from foveate import machine
from foveate.config.files import to_toml
from foveate.data.manifest import read_manifest
from foveate.errors import ConfigError
from foveate.search.nursery import Nursery
from foveate.search.process import Child

pytestmark = pytest.mark.skipif(not Nursery.is_possible(), reason="this system cannot fork")

# Starts what looks at a folder, prints its process, and waits.
DRIVER = """
import sys, time
from pathlib import Path
from foveate.search.nursery import Nursery
folder = Path(sys.argv[1])
(folder / "log.txt").touch()
nursery = Nursery("jax", None, folder / "nursery.txt")
print(nursery.start("look", folder, folder / "log.txt").pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    one = Nursery("jax", None, tmp_path_factory.mktemp("nursery") / "log.txt")
    yield one
    one.close()


@pytest.fixture
def folder(tmp_path: Path, digit_folders: Path, tiny_config: Callable[..., Any]) -> Path:
    """What `look` takes."""
    config = tiny_config()
    read_manifest(digit_folders, config.data).save(tmp_path / "manifest.parquet")
    (tmp_path / "config.toml").write_text(to_toml(config))
    return tmp_path


def test_an_error_is_told(nursery: Nursery, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml"):
        Child("look", tmp_path, nursery).wait()


def test_a_killed_process_hurts_no_other(nursery: Nursery, folder: Path) -> None:
    killed = Child("look", folder, nursery)
    killed.kill()
    with pytest.raises(RuntimeError, match="killed by signal 9"):
        killed.outcome()
    with pytest.raises(ConfigError, match=r"config\.toml"):
        Child("look", folder / "nowhere", nursery).wait()


@pytest.mark.skipif(machine.cpu_count() < 2, reason="one processor has no parts")
def test_what_it_starts_keeps_to_its_part_of_the_processors(tmp_path: Path) -> None:
    (tmp_path / "log.txt").touch()
    found = []
    for part in range(2):
        with closing(Nursery("jax", 1, tmp_path / "nursery.txt", part)) as nursery:
            child = nursery.start("look", tmp_path, tmp_path / "log.txt")
            found += child.cpu_affinity()
            nursery.code()
    assert found == sorted(os.sched_getaffinity(0))[:2]


def test_killed_itself_it_is_started_again(nursery: Nursery, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"config\.toml"):
            Child("look", tmp_path, nursery).wait()
        for process in psutil.Process().children():
            if "foveate.search.nursery" in process.cmdline():
                process.kill()
                process.wait()


def test_all_end_with_the_process_that_asked(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        child = psutil.Process(int(driver.stdout.readline()))
        nursery = child.parent()
        assert nursery is not None
        assert nursery.pid not in (driver.pid, os.getpid())
        child.suspend()  # so that it does not end by itself
        driver.kill()
    until(lambda: not nursery.is_running())
    child.resume()
    until(lambda: not child.is_running())
