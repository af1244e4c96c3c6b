from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.config.settings import ColumnConfig, DataConfig
from foveate.data.checks import ManifestWarning
from foveate.data.manifest import Manifest, read_manifest
from foveate.errors import ManifestError


def touch(root: Path, *names: str) -> Path:
    """Make empty files: a manifest looks for files, it never opens one."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_table(
    root: Path, text: str, images: Sequence[str] = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
) -> Path:
    touch(root, *images)
    path = root / "patients.csv"
    path.write_text(text, encoding="utf-8")
    return path


SIMPLE = "image,label\na.jpg,cat\nb.jpg,dog\nc.jpg,cat\n"


class TestFolders:
    def test_files_that_are_not_called_images_are_told(self, tmp_path: Path) -> None:
        touch(
            tmp_path, "cat/1.jpg", "cat/2.heic", "cat/3.HEIC", "dog/1.jfif", "dog/2", "other.avif"
        )
        with pytest.warns(ManifestWarning, match=r"are left out: 2 \.heic, 1 without a suffix\. "):
            manifest = read_manifest(tmp_path)
        assert manifest.table["image"].to_list() == ["cat/1.jpg", "dog/1.jfif"]
        touch(tmp_path, "images/1.jpg", "masks/1.png", "masks/2.dcm")
        with pytest.warns(ManifestWarning, match=r"are left out: 1 \.dcm\. "):
            Manifest.from_mask_folders(tmp_path / "images", tmp_path / "masks")

    def test_classes_without_images_name_what_they_hold(self, tmp_path: Path) -> None:
        touch(tmp_path, "train/cat/1.heic", "train/dog/1.heic", "test/cat/2.heic")
        with pytest.raises(ManifestError, match=r"in its folders are, by suffix, 3 \.heic"):
            read_manifest(tmp_path)
        touch(tmp_path, "train/dog/2.jpg")
        with pytest.raises(ManifestError, match=r"got none directly in 'cat', only 2 \.heic; "):
            read_manifest(tmp_path)

    def test_class_folders(self, tmp_path: Path) -> None:
        touch(tmp_path, "dog/2.JPG", "cat/1.png", "dog/1.jpeg", "cat/notes.txt", "cat/.hidden.png")
        touch(tmp_path, ".cache/x.png", "readme.md")
        manifest = read_manifest(tmp_path)
        assert manifest.table["image"].to_list() == ["cat/1.png", "dog/1.jpeg", "dog/2.JPG"]
        assert manifest.table["label"].to_list() == ["cat", "dog", "dog"]
        assert manifest.class_names == ("cat", "dog")
        assert not manifest.has_masks
        assert Path(manifest.image_path(0)) == (tmp_path / "cat/1.png").resolve()

    @pytest.mark.parametrize("validation", ["val", "validation", "Valid"])
    def test_split_folders(self, tmp_path: Path, validation: str) -> None:
        touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", f"{validation}/a/2.jpg", "test/b/3.jpg")
        manifest = Manifest.from_folder(tmp_path)
        by_split = {name: manifest.split(name).table["image"].to_list() for name in
                    ("train", "validation", "test")}  # fmt: skip
        assert by_split == {
            "train": ["train/a/1.jpg", "train/b/1.jpg"],
            "validation": [f"{validation}/a/2.jpg"],
            "test": ["test/b/3.jpg"],
        }
        assert manifest.split("test").class_names == ("a", "b")

    def test_train_may_be_a_class(self, tmp_path: Path) -> None:
        touch(tmp_path, "train/1.jpg", "bus/1.jpg")
        assert read_manifest(tmp_path).class_names == ("bus", "train")

    def test_mask_folders(self, tmp_path: Path) -> None:
        touch(tmp_path, "images/2.jpg", "images/1.jpg", "masks/1.png", "masks/2.png")
        manifest = read_manifest(tmp_path)
        assert manifest.table["mask"].to_list() == ["masks/1.png", "masks/2.png"]
        assert manifest.has_masks
        assert manifest.class_names == ()
        assert Path(manifest.mask_path(1)).name == "2.png"

    def test_named_mask_folders_in_splits(self, tmp_path: Path) -> None:
        for part in ("train", "test"):
            touch(tmp_path, f"{part}/scans/1.tif", f"{part}/truth/1.png")
        manifest = read_manifest(tmp_path, DataConfig(image="scans", mask="truth"))
        assert manifest.split("test").table["mask"].to_list() == ["test/truth/1.png"]

    def test_absolute_folders_elsewhere(self, tmp_path: Path) -> None:
        touch(tmp_path / "data", "images/1.jpg")
        touch(tmp_path, "truth/1.png", "scans/1.tif")
        config = DataConfig(mask=str(tmp_path / "truth"))
        manifest = read_manifest(tmp_path / "data", config)
        assert manifest.table.row(0) == ("images/1.jpg", f"{tmp_path}/truth/1.png")
        assert Path(manifest.mask_path(0)) == tmp_path / "truth/1.png"
        config = DataConfig(image=str(tmp_path / "scans"), mask=str(tmp_path / "truth"))
        manifest = read_manifest(tmp_path / "data", config)
        assert Path(manifest.image_path(0)) == tmp_path / "scans/1.tif"

    def test_absolute_folders_within(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(tmp_path, "data/images/1.jpg", "data/truth/1.png")
        monkeypatch.chdir(tmp_path)
        config = DataConfig(mask=str(tmp_path / "data" / "truth"))
        assert read_manifest("data", config).table.row(0) == ("images/1.jpg", "truth/1.png")

    def test_two_folders_anywhere(self, tmp_path: Path) -> None:
        touch(tmp_path, "x/photos/1.jpg", "y/1.png")
        manifest = Manifest.from_mask_folders(tmp_path / "x/photos", tmp_path / "y")
        assert manifest.table.row(0) == ("x/photos/1.jpg", "y/1.png")
        assert manifest.root == tmp_path.resolve()

    @pytest.mark.parametrize(
        ("files", "said"),
        [
            ([], ["0 folders and 0 images", "<class>/*.jpg"]),
            (["1.jpg", "2.jpg"], ["0 folders and 2 images", "images/*.jpg and masks/*.png"]),
            (["cat/1.jpg"], ["at least two classes", "only 'cat'"]),
            (["cat/1.jpg", "dog/x.txt"], ["every class folder must hold images", "'dog'"]),
            (["cat/1.jpg", "dog/1.jpg", "dog/old/2.jpg"], ["images only", "'dog'"]),
            (["cat/1.jpg", "dog/1.jpg", "3.jpg"], ["must be in a class folder", "1 beside"]),
            (["images/1.jpg", "images/2.jpg", "masks/1.png"], ["must have its mask", "'2.jpg'"]),
            (["images/1.jpg", "masks/1.png", "masks/3.png"], ["must have its image", "'3.png'"]),
            (["images/1.jpg", "images/1.png", "masks/1.png"], ["two files for '1'"]),
            (["images/x.txt", "masks/x.txt"], ["must hold images and masks"]),
            (["train/images/1.jpg", "train/masks/1.png", "test/a/1.jpg"], ["got none in", "test"]),
        ],
    )
    def test_refused_layouts(self, tmp_path: Path, files: list[str], said: list[str]) -> None:
        touch(tmp_path, *files)
        with pytest.raises(ManifestError) as error:
            read_manifest(tmp_path)
        assert all(part in str(error.value) for part in said), str(error.value)

    def test_columns_need_a_table(self, tmp_path: Path) -> None:
        touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
        with pytest.raises(
            ManifestError, match=r"no columns, but got data\.group, data\.metadata"
        ):
            read_manifest(tmp_path, DataConfig(group="patient", metadata=("age",)))

    def test_mask_folder_that_is_not_there(self, tmp_path: Path) -> None:
        touch(tmp_path, "images/1.jpg", "masks/1.png")
        with pytest.raises(ManifestError, match=r"mask folder 'truth', but got 2 folders"):
            read_manifest(tmp_path, DataConfig(mask="truth"))

    def test_nothing_there_names_the_neighbour(self, tmp_path: Path) -> None:
        touch(tmp_path, "photos/cat/1.jpg")
        with pytest.raises(ManifestError, match=r"Did you mean 'photos'"):
            read_manifest(tmp_path / "fotos")
        with pytest.raises(ManifestError, match="must be a folder"):
            Manifest.from_folder(touch(tmp_path, "x.csv") / "x.csv")


class TestTables:
    def test_all_columns(self, tmp_path: Path) -> None:
        path = write_table(
            tmp_path,
            "path,diagnosis,age,sex,patient,fold,w,junk\n"
            "a.jpg,01,61,m,7,Training,1,x\nb.jpg,02,,f,8,VAL,0.5,y\nc.jpg,01,50,,9,test,2,z\n",
        )
        config = DataConfig(
            image="path",
            label="diagnosis",
            metadata=("age", "sex"),
            group="patient",
            split="fold",
            weight="w",
        )
        table = read_manifest(path, config).table
        assert table.to_dict(as_series=False) == {
            "image": ["a.jpg", "b.jpg", "c.jpg"],
            "label": ["01", "02", "01"],
            "group": ["7", "8", "9"],
            "split": ["train", "validation", "test"],
            "weight": [1.0, 0.5, 2.0],
            "metadata.age": [61.0, None, 50.0],
            "metadata.sex": ["m", "f", None],
        }
        assert table.schema["weight"] == pl.Float32

    def test_every_kind_of_source_is_one_manifest(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, "image,label,age\na.jpg,3,1\nb.jpg,4,\nc.jpg,3,2.5\n")
        config = DataConfig(metadata=("age",))
        frame = pl.read_csv(path)
        frame.write_parquet(tmp_path / "t.parquet")
        frame.write_csv(tmp_path / "t.tsv", separator="\t")
        pandas = pd.read_csv(path)
        pandas["mixed"] = pd.Series([1, "x", None], dtype=object)  # unused, so it may be anything
        sources = [path, tmp_path / "t.parquet", str(tmp_path / "t.tsv"), frame, pandas]
        sources.append(frame.to_arrow())
        digests = {Manifest.from_table(s, config, root=tmp_path).digest() for s in sources}
        assert len(digests) == 1

    def test_whole_number_labels_carry_no_point(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg", "b.jpg")
        frame = pl.DataFrame({"image": ["a.jpg", "b.jpg"], "label": [3.0, 4.5]})
        assert Manifest.from_table(frame, root=tmp_path).class_names == ("3", "4.5")

    def test_mask_column_is_found(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, "image,mask\na.jpg,b.jpg\n")
        assert read_manifest(path).has_masks

    def test_only_needed_columns_are_read(self, tmp_path: Path) -> None:
        frame = pl.DataFrame(
            {"image": ["a.jpg", "b.jpg"], "label": ["x", "y"], "deep": [[1], [2]]}
        )
        touch(tmp_path, "a.jpg", "b.jpg")
        frame.write_parquet(tmp_path / "t.parquet")
        assert read_manifest(tmp_path / "t.parquet").table.columns == ["image", "label"]

    def test_paths_below_root_become_relative(self, tmp_path: Path) -> None:
        outside = touch(tmp_path / "other", "b.jpg") / "b.jpg"
        root = touch(tmp_path / "here", "a.jpg", "c.jpg")
        paths = [str(root / "a.jpg"), str(outside), "./c.jpg", "s3://bucket/d.jpg"]
        frame = pl.DataFrame({"image": paths, "label": ["x", "y", "x", "y"]})
        manifest = Manifest.from_table(frame, root=root)
        expected = ["a.jpg", str(outside), "c.jpg", "s3://bucket/d.jpg"]
        assert manifest.table["image"].to_list() == expected
        assert manifest.image_path(1) == str(outside)
        assert manifest.image_path(3) == "s3://bucket/d.jpg"

    def test_declared_categories_keep_their_spelling(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, "image,label,zip\na.jpg,x,007\nb.jpg,y,7\n")
        declared = ColumnConfig(categorical=("zip",))
        manifest = read_manifest(path, DataConfig(metadata=("zip",), columns=declared))
        assert manifest.table["metadata.zip"].to_list() == ["007", "7"]

    def test_blank_lines_are_skipped_and_lines_still_right(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, "image,label\na.jpg,x\n\nb.jpg,y\nc.jpg,\n\n")
        with pytest.raises(ManifestError, match=r"column 'label': .* got none in line 5$"):
            read_manifest(path)

    @pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_separators_are_seen(self, tmp_path: Path, name: str, separator: str) -> None:
        rows = ['image|"size, or; other;; "|label', "a.jpg|1|x", "b.jpg|2|y"]
        touch(tmp_path, "a.jpg", "b.jpg")
        (tmp_path / name).write_text("\n".join(rows).replace("|", separator), encoding="utf-8-sig")
        config = DataConfig(metadata=("size, or; other;; ",))
        manifest = read_manifest(tmp_path / name, config)
        assert manifest.class_names == ("x", "y")
        assert manifest.table["metadata.size, or; other;; "].to_list() == [1.0, 2.0]


class TestRefusedTables:
    def check(self, path: Path, config: DataConfig, *said: str) -> str:
        with pytest.raises(ManifestError) as error:
            read_manifest(path, config)
        message = str(error.value)
        assert all(part in message for part in said), message
        return message

    def test_unknown_columns_are_told_together(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, "image,diagnosis,age\na.jpg,x,1\n")
        config = DataConfig(label="dignosis", metadata=("agee", "image"))
        message = self.check(
            path,
            config,
            f"column 'dignosis' (data.label) is not in {path}; it has: 'image', 'diagnosis', "
            "'age'. Did you mean 'diagnosis'?",
            "Did you mean 'age'?",
            "'image' is the image, so it cannot be metadata",
        )
        assert message.startswith("3 problems:\n- ")

    def test_no_target(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, "image,class\na.jpg,x\n")
        self.check(path, DataConfig(), "neither a column 'label' nor 'mask'", "'image', 'class'")
        path = write_table(tmp_path, "filename, label\na.jpg,x\n")
        said = "column 'image' (data.image) is not in", "it has: 'filename', ' label'"
        self.check(path, DataConfig(label=" label"), *said)

    def test_metadata_named_twice(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, "image,label,age\na.jpg,x,1\nb.jpg,y,1\n")
        self.check(path, DataConfig(metadata=("age", "age")), "named once", "'age'")

    def test_values_are_told_together_with_lines(self, tmp_path: Path) -> None:
        path = write_table(
            tmp_path,
            "image,label,fold,w\na.jpg,x,train,1\n,y,tset,-1\nc.jpg,,test,1e39\nzz.jpg,x,,heavy\n",
        )
        self.check(
            path,
            DataConfig(split="fold", weight="w"),
            f"{path}, column 'image': every row must have a value, but got none in line 3",
            "column 'label': every row must have a value, but got none in line 4",
            "column 'fold': must be train, validation, test or empty, but got 'tset' (line 3)",
            "column 'w': must be a finite number, 0 or more, but got '-1' (line 3), '1e39' "
            "(line 4), 'heavy' (line 5)",
            "got none for 'zz.jpg' (line 5)",
        )

    def test_missing_files_name_the_nearest(self, tmp_path: Path) -> None:
        rows = "".join(f"images/cat_{i}.png,{i % 2}\n" for i in range(7))
        path = write_table(tmp_path, "image,label\n" + rows, ["images/cat_0.jpg"])
        message = self.check(path, DataConfig(), "'images/cat_0.png' (line 2)", "and 2 more")
        assert message.endswith("Did you mean 'cat_0.jpg'?")

    def test_missing_folder_is_named(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, "image,label\nnope/a.jpg,x\n", [])
        self.check(path, DataConfig(), "no file in", "nope")

    def test_two_labels_for_one_image(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, "image,label\na.jpg,x\nb.jpg,y\n./a.jpg,y\nb.jpg,y\n")
        said = "an image must have one label, but got 'a.jpg' is 'x' in line 2, 'a.jpg' is 'y' in"
        self.check(path, DataConfig(), said)

    def test_repeated_rows_are_fine(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, SIMPLE + "a.jpg,cat\n")
        assert read_manifest(path).num_samples == 4

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "must begin with a header that names its columns, but got an empty file or line"),
            ("\nimage,label\na.jpg,x\n", "but got an empty file or line"),
            ("sep=;\nimage;label\na.jpg;x\n", "but got 'sep=;'"),
            ('image,label,notes\na.jpg,x,"5"" wide"\nb.jpg,y,5" wide\n', "in line 3 a field"),
            ('image,label,notes\na.jpg,x,"two\nlines"\nb.jpg,"y" z,1\n', "in line 4 a field"),
            ("x" * 200_000, "must be a text of fields, but got: field larger than"),
            ("image,label\n", "must list samples, but got no row"),
            ("image,label\na.jpg,cat\n", "at least two classes, but got only 'cat'"),
            (
                "image,label\na.jpg,cat\nb.jpg,dog,big\n",
                "line 3 has 3 fields, but the header has 2",
            ),
        ],
    )
    def test_unusable_files(self, tmp_path: Path, text: str, said: str) -> None:
        self.check(write_table(tmp_path, text), DataConfig(), said)

    def test_other_encodings(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, "")
        path.write_bytes("image,label\na.jpg,é\nb.jpg,x\n".encode("latin-1"))
        self.check(path, DataConfig(), "line 2 must be UTF-8 text, but got", "xe9", "save it as")
        path.write_bytes("image,größe\na.jpg,x\n".encode("latin-1"))
        self.check(path, DataConfig(label="größe"), "line 1 must be UTF-8 text")
        path.write_text("image,kind,gr\ufffd\ufffde\na.jpg,x,1\nb.jpg,y,2\n", encoding="utf-8")
        assert read_manifest(path, DataConfig(label="kind")).num_samples == 2
        path.write_text(SIMPLE, encoding="utf-16")
        self.check(path, DataConfig(), "must be UTF-8 text, but got UTF-16; save it as")

    def test_a_column_that_stands_twice(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, "image,label,age,label\na.jpg,x,1,y\nb.jpg,y,2,x\n")
        self.check(path, DataConfig(), "must stand in the header once", "several 'label'")
        assert read_manifest(path, DataConfig(label="age")).class_names == ("1", "2")

    def test_other_files(self, tmp_path: Path) -> None:
        self.check(touch(tmp_path, "t.xlsx") / "t.xlsx", DataConfig(), ".csv, .tsv, .parquet")
        self.check(touch(tmp_path, "t.parquet") / "t.parquet", DataConfig(), "cannot be read")
        with pytest.raises(ManifestError, match="but got dict"):
            read_manifest({"image": []})

    def test_columns_of_impossible_types(self, tmp_path: Path) -> None:
        frame = pl.DataFrame({"image": ["a"], "label": [["x"]], "day": [0]})
        frame = frame.with_columns(pl.col("day").cast(pl.Date))
        with pytest.raises(ManifestError, match=r"(?s)2 problems.*'label'.*List.*'day'.*Date"):
            Manifest.from_table(frame, DataConfig(metadata=("day",)))
        mixed = pd.DataFrame({"image": ["a", "b"], "label": [1, "x"]})
        with pytest.raises(ManifestError, match="must each hold one type"):
            Manifest.from_table(mixed)


class TestSpellings:
    def test_look_alikes_are_named(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, "image,label\na.jpg, Cat\nb.jpg,cat\nc.jpg,cat\nd.jpg,dog\n")
        with pytest.warns(ManifestWarning, match=r"' Cat' \(1\) and 'cat' \(2\)") as caught:
            manifest = read_manifest(path)
        assert caught[0].filename == __file__
        assert manifest.class_names == (" Cat", "cat", "dog")

    def test_underscores_count_as_space(self, tmp_path: Path) -> None:
        touch(tmp_path, "open cluster/1.jpg", "Open_Cluster/1.jpg")
        with pytest.warns(ManifestWarning, match="'Open_Cluster'") as caught:
            Manifest.from_folder(tmp_path)
        assert caught[0].filename == __file__


class TestManifest:
    def test_parts_keep_class_names(self, tmp_path: Path) -> None:
        manifest = read_manifest(write_table(tmp_path, SIMPLE))
        part = manifest.take([2, 0])
        assert part.table["image"].to_list() == ["c.jpg", "a.jpg"]
        assert part.class_names == ("cat", "dog")
        divided = manifest.with_splits(np.array([0, 2, 1]))
        assert divided.table["split"].to_list() == ["train", "test", "validation"]
        assert "split" not in manifest.table.columns
        with pytest.raises(ManifestError, match="must be one of train"):
            divided.split("dev")
        with pytest.raises(ManifestError, match="no splits yet"):
            manifest.split("train")

    def test_save_and_load(self, tmp_path: Path) -> None:
        text = "image,label,age,fold\na.jpg,cat,1,train\nb.jpg,dog,,\n"
        config = DataConfig(metadata=("age",), split="fold")
        manifest = read_manifest(write_table(tmp_path, text), config).take([1])
        manifest.save(tmp_path / "manifest.parquet")
        loaded = Manifest.load(tmp_path / "manifest.parquet")
        assert loaded.table.equals(manifest.table)
        assert loaded.table.schema == manifest.table.schema
        assert (loaded.root, loaded.source) == (manifest.root, manifest.source)
        assert loaded.digest() == manifest.digest()
        assert not list(tmp_path.glob(".*tmp"))

    def test_load_refuses_other_files(self, tmp_path: Path) -> None:
        pl.DataFrame({"image": ["a"]}).write_parquet(tmp_path / "t.parquet")
        with pytest.raises(ManifestError, match=r"must be a file that Manifest\.save wrote"):
            Manifest.load(tmp_path / "t.parquet")
        with pytest.raises(ManifestError, match="cannot be read"):
            Manifest.load(touch(tmp_path, "broken.parquet") / "broken.parquet")

    def test_digest_is_of_the_content(self, tmp_path: Path) -> None:
        first = read_manifest(write_table(tmp_path / "x", SIMPLE))
        second = read_manifest(write_table(tmp_path / "y", SIMPLE))
        other = read_manifest(write_table(tmp_path / "z", SIMPLE.replace("dog", "hen")))
        assert first.digest() == second.digest() != other.digest()
        assert first.take([1, 0]).digest() != first.take([0, 1]).digest()

    def test_digest_is_the_same_in_another_process(self, tmp_path: Path) -> None:
        path = write_table(tmp_path, SIMPLE)
        code = (
            "import sys; from foveate.data.manifest import read_manifest; "
            "print(read_manifest(sys.argv[1]).digest(), 'keras' in sys.modules, "
            "'cv2' in sys.modules, 'PIL' in sys.modules)"
        )
        result = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
        assert result.stdout.split() == [read_manifest(path).digest(), "False", "False", "False"]

    @given(
        first=st.lists(st.text(max_size=3) | st.none(), min_size=1, max_size=4),
        second=st.lists(st.text(max_size=3) | st.none(), min_size=1, max_size=4),
    )
    @settings(max_examples=100, deadline=None)
    def test_digest_tells_columns_apart(
        self, first: list[str | None], second: list[str | None]
    ) -> None:
        digests = [
            Manifest(pl.DataFrame({"image": v}, {"image": pl.String}), Path(), "x").digest()
            for v in (first, second)
        ]
        assert (digests[0] == digests[1]) == (first == second)

    def test_no_warning_without_cause(self, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_manifest(write_table(tmp_path, SIMPLE))
