"""Arrays of all rows in files: what was appended is read, view by view, whatever tears."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.config.augmentation import AugmentConfig
from foveate.data.features import MASKS, FeatureFiles
from foveate.data.loader import BatchLoader
from foveate.data.manifest import read_manifest
from foveate.errors import RunError, SampleError

ROWS, VIEWS = 5, 2
SHAPES = {"features": (3,), "features1": (2, 2, 1), MASKS: (4, 4)}


def items(count: int = ROWS * VIEWS) -> dict[str, np.ndarray]:
    """Arrays in which each item holds its own number."""
    numbers = np.arange(count, dtype=np.float32)
    return {
        name: np.broadcast_to(numbers.reshape(-1, *[1] * len(shape)), (count, *shape))
        for name, shape in SHAPES.items()
    }


def files(folder: Path, rows: int = ROWS, views: int = VIEWS) -> FeatureFiles:
    return FeatureFiles(folder, rows, views, SHAPES)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> FeatureFiles:
    found = files(tmp_path_factory.mktemp("features"))
    found.append(items())
    found.sync({})
    return found


@given(st.lists(st.integers(0, ROWS - 1), max_size=8), st.integers(0, 7))
def test_epochs_take_the_views_in_turn(stored: FeatureFiles, rows: list[int], epoch: int) -> None:
    expected = np.array(rows, np.float32) + epoch % VIEWS * ROWS
    for name, array in stored.read(np.array(rows, np.uint32), epoch).items():
        assert array.shape == (len(rows), *SHAPES[name])
        assert array.dtype == (np.uint8 if name == MASKS else np.float32)
        assert (array == expected.reshape(-1, *[1] * len(SHAPES[name]))).all()


def test_what_was_not_synced_does_not_count(tmp_path: Path) -> None:
    found = files(tmp_path)
    assert found.num_done == 0
    found.append(items(4))
    assert found.num_done == 0
    found.sync({})
    assert found.num_done == 4


def test_torn_ends_are_cut(tmp_path: Path) -> None:
    found = files(tmp_path)
    found.append(items(4))
    found.sync({})
    with (tmp_path / "features1.bin").open("ab") as file:
        file.write(b"torn")
    found.cut(3)
    found.append({name: array[3:] for name, array in items().items()})
    found.sync({})
    assert found.num_done == found.num_items
    assert (found.read(np.arange(ROWS), 1)["features1"].ravel()[::4] == np.arange(5, 10)).all()


def test_what_one_file_lacks_does_not_count(tmp_path: Path) -> None:
    """A disk may be full between two files."""
    found = files(tmp_path)
    found.append(items(4))
    found.append({"features": np.zeros((1, 3))})
    found.sync({})
    assert found.num_done == 4


def test_files_that_were_cut_short_are_told(tmp_path: Path) -> None:
    found = files(tmp_path)
    found.append(items())
    found.sync({})
    with (tmp_path / "features.bin").open("r+b") as file:
        file.truncate(20)
    with pytest.raises(RunError, match=r"features\.bin must hold 10 items, but got none at 9"):
        found.read(np.array([4]), 1)


def test_open_files_outlive_their_names(stored: FeatureFiles, tmp_path: Path) -> None:
    found = files(tmp_path)
    found.append(items())
    found.sync({})
    before = found.read(np.arange(ROWS), 0)
    for file in tmp_path.iterdir():
        file.unlink()
    assert (found.read(np.arange(ROWS), 0)["features"] == before["features"]).all()


class TestLoader:
    """`BatchLoader` gives the same rows, targets and metadata, with features for images."""

    def test_the_same_rows_in_the_same_order(self, digit_folders: Path, tmp_path: Path) -> None:
        rows = read_manifest(digit_folders)
        found = FeatureFiles(tmp_path, rows.num_samples, 1, {"features": (1,)})
        found.append({"features": np.arange(rows.num_samples, dtype=np.float32)[:, None]})
        found.sync({})
        images = BatchLoader(rows, (16, 16), 20, shuffle=True, remainder="drop", seed=3)
        features = BatchLoader(
            rows, (16, 16), 20, shuffle=True, remainder="drop", seed=3, features=found
        )
        for position in (0, 6, 7, 20):
            inputs, labels = features.batch_at(position)
            assert set(inputs) == {"features"}
            assert (inputs["features"][:, 0] == images.rows_at(position)).all()
            assert (labels == images.batch_at(position)[1]).all()
        features.resume_at(10)
        assert len(list(features)) == 4

    def test_rows_that_could_not_be_read_weigh_nothing(
        self, digit_folders: Path, tmp_path: Path
    ) -> None:
        rows = read_manifest(digit_folders)
        found = FeatureFiles(tmp_path, rows.num_samples, 1, {"features": (1,)})
        found.append({"features": np.zeros((rows.num_samples, 1))})
        found.sync({7: ("7.png", "it is torn")})
        loader = BatchLoader(
            rows, (16, 16), 10, unreadable="skip", features=found, augment=AugmentConfig()
        )
        _, _, weights = loader.batch_at(0)
        assert weights.tolist() == [1.0] * 7 + [0.0] + [1.0] * 2
        assert loader.unreadable == {"7.png": "it is torn"}
        with pytest.raises(SampleError, match="it is torn"):
            BatchLoader(rows, (16, 16), 10, features=found)
