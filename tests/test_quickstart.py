from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.config.files import load_config
from foveate.data.manifest import Manifest
from foveate.errors import ConfigError
from foveate.quickstart import SETTINGS, write_dataset


def test_digits_are_all_there(tmp_path: Path) -> None:
    manifest = Manifest.from_folder(write_dataset("classification", tmp_path / "digits"))
    assert manifest.num_samples == 1797  # scikit-learn's documentation of load_digits
    assert manifest.class_names == tuple("0123456789")


def test_scenes_have_exact_masks(tmp_path: Path) -> None:
    folder = write_dataset("segmentation", tmp_path / "scenes")
    manifest = Manifest.from_folder(folder)
    for row in range(0, manifest.num_samples, 100):
        mask = np.asarray(Image.open(manifest.mask_path(row)))
        image = np.asarray(Image.open(manifest.image_path(row)))
        assert mask.shape == image.shape
        assert set(np.unique(mask)) == {0, 1}
        assert (image[mask == 1] > 127).all()


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    folder = write_dataset("classification", tmp_path / "digits")
    (folder / "0" / "own.png").write_bytes(b"")
    assert write_dataset("classification", folder) == folder
    assert (folder / "0" / "own.png").exists()


def test_unknown_task(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'clasification'"):
        write_dataset("clasification", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", sorted(SETTINGS))
def test_settings_are_settings(task: str) -> None:
    load_config(None, SETTINGS[task])
