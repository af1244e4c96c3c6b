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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from studies import accounted, study_folder, trials, until, worker

from foveate import cli
from foveate.errors import RunError
from foveate.search import search
from foveate.search.queue import QueuedStudy, settled
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
    with server() as url:
        yield url


@contextmanager
def server() -> Iterator[str]:
    """Have a real server while a block runs."""
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


def test_who_joined_is_told_that_the_server_is_gone(tmp_path: Path) -> None:
    with server() as url:
        folder = study_folder(tmp_path / "left", search__trials="200", search__storage=url)
        joined = subprocess.Popen(
            [sys.executable, "-m", "foveate", "search", "--join", str(folder.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: accounted(folder))
    _, told = joined.communicate(timeout=60)
    assert joined.returncode == 2, told
    assert "must stay reachable" in told
    assert f"foveate search --join {folder.path}" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("verb", "broken"),
    [("--resume", "reclaim_lost"), ("--resume", "queue_more"), ("--join", "Worker")],
)
def test_a_database_that_breaks_is_told(
    verb: str,
    broken: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = study_folder(tmp_path / "study", search__trials="1")
    then = getattr(search, broken)

    def broken_before(*arguments: Any) -> Any:
        (folder.path / "study.db").write_bytes(b"no database any more" * 1000)
        return then(*arguments)

    monkeypatch.setattr(search, broken, broken_before)
    assert cli.run(["search", verb, str(folder.path)]) == 2
    told = capsys.readouterr().err
    assert "must stay reachable" in told
    assert f"To go on: foveate search {verb} {folder.path}" in told


def test_the_heart_beats_on_after_a_while_without_database(tmp_path: Path) -> None:
    folder = study_folder(tmp_path / "study")
    storage = open_storage(folder.storage_url())
    study = QueuedStudy(folder.name, storage)
    with settled():
        number = study._pop_waiting_trial_id()
    path, away = folder.path / "study.db", folder.path / "away.db"
    path.rename(away)
    storage.record_heartbeat(number)  # a new, empty database is in its place
    away.replace(path)
    storage.record_heartbeat(number)
    assert [one.state for one in trials(folder)].count(TrialState.RUNNING) == 1


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
