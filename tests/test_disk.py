import errno
from pathlib import Path

import pytest

from foveate.disk import is_locked, require_space, write_atomically
from foveate.errors import RunError


def test_a_failed_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_disks_without_locks_lock_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "lock").open("w") as mine, (tmp_path / "lock").open("w") as theirs:
        assert is_locked(theirs)
        assert not is_locked(mine)

        def unknown(*_: object) -> None:
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr("fcntl.flock", unknown)
        assert is_locked(mine)


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    require_space(tmp_path, 1)
    with pytest.raises(RunError, match="Make room"):
        require_space(tmp_path, 2**60)
