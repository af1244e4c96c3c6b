"""Workers that share a study through a database server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from studies import accounted, study_folder, trials, worker

from foveate.errors import RunError
from foveate.search.study import open_storage


def _binaries() -> Path | None:
    """Where PostgreSQL is, if it is."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((one for one in places if (one / "postgres").exists()), None)


BINARIES = _binaries()


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """URL of a real server on loopback."""
    if BINARIES is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    # It refuses to run as root, and its user may not reach the folders of pytest.
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="foveate-postgresql-") as name:
        folder = Path(name)
        if user is not None:
            shutil.chown(folder, user)
        yield from _serve(folder, user, BINARIES)


def _serve(folder: Path, user: str | None, binaries: Path) -> Iterator[str]:
    data, log = folder / "data", folder / "log.txt"
    subprocess.run(
        [str(binaries / "initdb"), "-D", str(data), "-U", "foveate", "-A", "trust", "-N"],
        user=user, check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-k", "", "-F"],
            user=user, stdout=output, stderr=output, cwd=folder,
        )  # fmt: skip
    try:
        for _ in range(100):
            ready = [str(binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
            if subprocess.run(ready, capture_output=True, check=False).returncode == 0:
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        yield f"postgresql://foveate@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # which does not wait for those who are connected
        server.wait(30)


def test_two_workers_share_a_study_on_a_server(postgresql: str, tmp_path: Path) -> None:
    folder = study_folder(tmp_path / "study", search__trials="8", search__storage=postgresql)
    workers = [worker(folder, number) for number in range(2)]
    assert [process.wait(120) for process in workers] == [0, 0]
    assert accounted(folder) == list(range(8))
    pids = {one.user_attrs["worker"]["pid"] for one in trials(folder)}
    assert pids == {process.pid for process in workers}


def test_who_joins_by_url_finds_the_study(postgresql: str, tmp_path: Path) -> None:
    folder = study_folder(tmp_path / "joined", search__trials="3", search__storage=postgresql)
    done = subprocess.run(
        [sys.executable, "-m", "foveate", "search", "--join", postgresql],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert accounted(folder) == [0, 1, 2]
    assert "trial 2: timed out" in done.stdout


def test_a_url_may_name_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "sqlite:///${FOVEATE_TEST_FOLDER}/study.db"
    with pytest.raises(RunError, match=r"\$\{FOVEATE_TEST_FOLDER\}"):
        open_storage(url)
    monkeypatch.setenv("FOVEATE_TEST_FOLDER", str(tmp_path))
    open_storage(url)
    assert (tmp_path / "study.db").is_file()


def test_a_password_in_the_environment_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("FOVEATE_TEST_PASSWORD", "swordfish")
    url = "postgresql://foveate:${FOVEATE_TEST_PASSWORD}@127.0.0.1:1/none"
    with pytest.raises(RunError) as raised:
        open_storage(url)
    assert "swordfish" not in str(raised.value)
