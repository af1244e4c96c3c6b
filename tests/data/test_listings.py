"""A list that is kept between starts is never another one than a fresh look would give."""

import os
import stat
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveate.config.settings import DataConfig
from foveate.data import listings, tree
from foveate.data.folders import list_folder
from foveate.data.listing import Listing
from foveate.data.manifest import Manifest

_REST = 0.03  # seconds; clocks of file systems tick every few milliseconds


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of any size are kept, and are at rest soon."""
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listings, "_SMALLEST", 1)
    monkeypatch.setattr(tree, "_SETTLED_NS", int(_REST * 1e9))
    return tmp_path / "cache"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def rested(folder: Path, config: DataConfig | None = None) -> Listing:
    time.sleep(_REST * 1.2)
    return list_folder(folder, config or DataConfig())


def kept(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.parquet"))


def forbid_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the folder was listed again")

    monkeypatch.setattr(tree.FolderTree, "entries", fail)


LAYOUTS = {
    "classes": ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"),
    "splits": ("train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg", "val/dog/2.jpg"),
    "masks": ("images/1.jpg", "images/2.jpg", "masks/1.png", "masks/2.png"),
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_a_second_start_lists_nothing(
    names: tuple[str, ...], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = touch(tmp_path / "data", *names)
    fresh = rested(data)
    assert len(kept(cache)) == 1
    forbid_looking(monkeypatch)
    again = list_folder(data, DataConfig())
    assert again.frame.equals(fresh.frame)
    assert again.frame.schema == fresh.frame.schema
    assert (again.root, again.source, again.names) == (fresh.root, fresh.source, fresh.names)
    assert Manifest.from_folder(data).digest()


def test_other_ways_to_the_folder_share_its_list(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = touch(tmp_path / "data", *LAYOUTS["classes"])
    fresh = rested(data)
    (tmp_path / "link").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    forbid_looking(monkeypatch)
    for way in (Path("data"), tmp_path / "link"):
        again = list_folder(way, DataConfig())
        assert again.frame.equals(fresh.frame)
        assert again.source == str(way)


def test_names_of_folders_have_lists_of_their_own(cache: Path, tmp_path: Path) -> None:
    data = touch(tmp_path / "data", *LAYOUTS["masks"], "fine/1.png", "fine/2.png")
    coarse = rested(data, DataConfig(mask="masks"))
    fine = list_folder(data, DataConfig(mask="fine"))
    assert not fine.frame.equals(coarse.frame)
    assert len(kept(cache)) == 2
    assert list_folder(data, DataConfig(mask="fine")).frame.equals(fine.frame)


def add(data: Path) -> None:
    touch(data, "cat/3.jpg")


def add_with_old_times(data: Path) -> None:
    """As tools do that copy the times of folders, too."""
    before = (data / "cat").stat()
    touch(data, "cat/3.jpg")
    os.utime(data / "cat", ns=(before.st_atime_ns, before.st_mtime_ns))


def remove(data: Path) -> None:
    (data / "cat/1.jpg").unlink()


def rename(data: Path) -> None:
    (data / "cat/1.jpg").rename(data / "cat/9.jpg")


def swap_folders(data: Path) -> None:
    (data / "cat").rename(data / "x")
    (data / "dog").rename(data / "cat")
    (data / "x").rename(data / "dog")


def add_class(data: Path) -> None:
    touch(data, "eel/1.jpg")


def replace_all(data: Path) -> None:
    data.rename(data.with_name("old"))
    touch(data, "cat/1.jpg", "dog/7.jpg")


@pytest.mark.parametrize(
    "change",
    [add, add_with_old_times, remove, rename, swap_folders, add_class, replace_all],
    ids=lambda change: change.__name__,
)
def test_changes_are_noticed(change: object, cache: Path, tmp_path: Path) -> None:
    data = touch(tmp_path / "data", *LAYOUTS["classes"])
    before = rested(data)
    assert kept(cache)
    change(data)  # type: ignore[operator]
    after = list_folder(data, DataConfig())
    assert not after.frame.equals(before.frame)
    images = [data / path for path in after.frame["image"]]
    assert images == sorted(data.rglob("*.jpg"))


NAMES = st.sampled_from([f"{kind}/{number}.jpg" for kind in ("cat", "dog") for number in range(4)])


@given(changes=st.lists(st.tuples(st.booleans(), NAMES), min_size=1, max_size=6))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_changes_the_list_is_that_of_a_fresh_look(
    changes: list[tuple[bool, str]], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = touch(tmp_path_factory.mktemp("data"), "cat/0.jpg", "cat/1.jpg", "dog/0.jpg")
    touch(data, "cat/stays.jpg", "dog/stays.jpg")
    rested(data)
    for is_added, name in changes:
        if is_added:
            touch(data, name)
        else:
            (data / name).unlink(missing_ok=True)
        listed = [data / path for path in list_folder(data, DataConfig()).frame["image"]]
        assert listed == sorted(data.rglob("*.jpg"))


@pytest.mark.parametrize("place", [0, 40, -1])
def test_damage_is_as_good_as_no_list(place: int, cache: Path, tmp_path: Path) -> None:
    data = touch(tmp_path / "data", *LAYOUTS["classes"])
    fresh = rested(data)
    [file] = kept(cache)
    whole = bytearray(file.read_bytes())
    whole[place] ^= 1
    for content in (bytes(whole), whole[:100], b"", b"not ours at all" * 10):
        file.write_bytes(content)
        assert listings.load_listing(data, DataConfig()) is None
        assert list_folder(data, DataConfig()).frame.equals(fresh.frame)


def test_the_list_of_another_folder_is_foreign(cache: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        touch(tmp_path / name, *LAYOUTS["classes"])
    rested(tmp_path / "one")
    [file] = kept(cache)
    rested(tmp_path / "two")
    [other] = set(kept(cache)) - {file}
    other.write_bytes(file.read_bytes())
    assert listings.load_listing(tmp_path / "two", DataConfig()) is None


def test_a_folder_that_has_just_changed_is_not_kept(cache: Path, tmp_path: Path) -> None:
    data = touch(tmp_path / "data", *LAYOUTS["classes"])
    list_folder(data, DataConfig())
    assert not kept(cache)
    rested(data)
    assert kept(cache)


def test_a_link_that_leads_nowhere_may_lead_somewhere_tomorrow(
    cache: Path, tmp_path: Path
) -> None:
    data = touch(tmp_path / "data", *LAYOUTS["classes"])
    (data / "eel").symlink_to(tmp_path / "eels")
    assert rested(data).frame.height == 3
    touch(tmp_path / "eels", "1.jpg")
    assert rested(data).frame.height == 4
    assert kept(cache)
    touch(tmp_path / "eels", "2.jpg")
    assert rested(data).frame.height == 5


def test_small_folders_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    list_folder(touch(tmp_path / "data", *LAYOUTS["classes"]), DataConfig())
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    cache: Path, tmp_path: Path
) -> None:
    cache.write_text("a file where the folder should be")
    assert rested(touch(tmp_path / "data", *LAYOUTS["classes"])).frame.height == 3
    assert cache.read_text().startswith("a file")


def test_only_the_owner_may_read_names_of_files(cache: Path, tmp_path: Path) -> None:
    rested(touch(tmp_path / "data", *LAYOUTS["classes"]))
    [file] = kept(cache)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path for path in file.parent.iterdir() if path != file] == []


def test_a_list_that_nobody_asks_for_is_deleted_and_one_in_use_is_not(
    cache: Path, tmp_path: Path
) -> None:
    folders = [touch(tmp_path / name, *LAYOUTS["classes"]) for name in ("used", "unused", "new")]
    files: list[Path] = []
    for folder in folders[:2]:
        rested(folder)
        files += set(kept(cache)) - set(files)
    long_ago = time.time() - 100 * 86_400
    for file in files:
        os.utime(file, (long_ago, long_ago))
    used, unused = files
    rested(folders[0])
    assert unused.exists()
    rested(folders[2])
    assert used.exists()
    assert not unused.exists()


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    assert listings.cache_folder() == tmp_path
    monkeypatch.delenv("FOVEATE_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert listings.cache_folder() == tmp_path / "xdg" / "foveate"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert listings.cache_folder() == Path.home() / ".cache" / "foveate"
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    assert listings.cache_folder().parent == Path(tempfile.gettempdir())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert listings.cache_folder() == tmp_path / "xdg" / "foveate"
    monkeypatch.setenv("FOVEATE_CACHE", "~nobody-of-this-name/cache")
    assert listings.cache_folder().parent == Path(tempfile.gettempdir())


def test_file_systems_in_user_space_are_not_trusted(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "36 35 98:0 / / rw,noatime master:1 - ext4 /dev/root rw\n"
        "40 36 0:52 / /bucket rw,nosuid - fuse.s3fs s3fs rw,user_id=0\n"
    )
    assert listings._timeless_devices(mounts) == {os.makedev(0, 52)}
    assert listings._timeless_devices(tmp_path / "none") == set()
