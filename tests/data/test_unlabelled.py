from pathlib import Path

import pytest

from foveate.config.settings import DataConfig
from foveate.data.checks import ManifestWarning
from foveate.data.unlabelled import read_unlabelled
from foveate.errors import ManifestError


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


class TestFolders:
    def test_all_images_below_are_listed(self, tmp_path: Path) -> None:
        make(tmp_path, "b.JPG", "deep/er/a.png", "a.txt")
        manifest = read_unlabelled([tmp_path], DataConfig())
        assert manifest.table["image"].to_list() == [
            str(tmp_path.resolve() / name) for name in ("b.JPG", "deep/er/a.png")
        ]

    def test_folders_behind_links_are_searched_as_in_training(self, tmp_path: Path) -> None:
        make(tmp_path, "elsewhere/1.jpg", "photos/dog/2.jpg")
        (tmp_path / "photos/cat").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "photos/dog/circle").symlink_to(tmp_path / "photos")
        manifest = read_unlabelled([tmp_path / "photos"], DataConfig())
        assert manifest.table["image"].to_list() == [
            str(tmp_path.resolve() / name) for name in ("elsewhere/1.jpg", "photos/dog/2.jpg")
        ]

    def test_what_is_not_called_an_image_is_told(self, tmp_path: Path) -> None:
        make(tmp_path, "new/1.heic", "new/2.heic")
        with pytest.raises(ManifestError, match=r"holds no images, only 2 \.heic"):
            read_unlabelled([tmp_path], DataConfig())
        make(tmp_path, "1.jpg")
        with pytest.warns(ManifestWarning, match=r"are left out: 2 \.heic"):
            assert read_unlabelled([tmp_path], DataConfig()).num_samples == 1

    def test_what_is_hidden_is_left_out(self, tmp_path: Path) -> None:
        folder = tmp_path / ".hidden itself"
        make(folder, "1.jpg", "._1.jpg", ".thumbnails/1.jpg", "deep/.cache/er/2.jpg")
        manifest = read_unlabelled([folder], DataConfig())
        assert manifest.table["image"].to_list() == [str(folder.resolve() / "1.jpg")]

    def test_folders_are_no_images(self, tmp_path: Path) -> None:
        make(tmp_path, "scans.tif/page.png")
        manifest = read_unlabelled([tmp_path], DataConfig())
        assert manifest.table["image"].to_list() == [
            str(tmp_path.resolve() / "scans.tif/page.png")
        ]

    def test_a_link_that_leads_nowhere_is_not_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / "1.jpg").symlink_to(tmp_path / "gone.jpg")
        manifest = read_unlabelled([tmp_path], DataConfig())
        assert manifest.table["image"].to_list() == [str(tmp_path.resolve() / "gone.jpg")]

    def test_a_folder_of_hidden_images_holds_none(self, tmp_path: Path) -> None:
        make(tmp_path, "._1.jpg")
        with pytest.raises(ManifestError, match="holds no images"):
            read_unlabelled([tmp_path], DataConfig())
