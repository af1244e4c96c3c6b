from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import polars as pl
import pytest
from PIL import Image

from foveate.data.manifest import Manifest
from foveate.errors import ConfigError, ManifestError, RunError, SampleError
from foveate.evaluation.predict import predict
from foveate.evaluation.scores import evaluate
from foveate.runs import Run


def test_files_get_the_predictions_of_the_split(digit_run: Run) -> None:
    evaluate(digit_run, "test")
    known = pl.read_parquet(digit_run.predictions_path("test"))
    rows = Manifest.load(digit_run.manifest_path).split("test")
    paths = [rows.image_path(row) for row in range(rows.num_samples)]
    predicted = predict(digit_run, paths)
    assert predicted["predicted"].to_list() == known["predicted"].to_list()
    np.testing.assert_allclose(predicted["confidence"], known["confidence"], atol=1e-5)


def test_a_folder_is_searched(digit_run: Run, digit_folders: Path) -> None:
    predicted = predict(digit_run, [digit_folders / "digit 1"])
    assert predicted.height == 50
    shares = predicted.select(pl.sum_horizontal(pl.selectors.starts_with("probability.")))
    np.testing.assert_allclose(shares.to_series(), 1.0, atol=1e-5)


def test_metadata_comes_from_a_table(metadata_run: Run, digit_table: Path, tmp_path: Path) -> None:
    table = pl.read_csv(digit_table).drop("label", "writer").head(5)
    table = table.with_columns(
        image=pl.lit(f"{digit_table.parent}/") + pl.col("image"),
        shade=pl.Series(["dark", None, "never seen", "light", "dark"]),
    )
    table.write_csv(tmp_path / "new.csv")
    assert predict(metadata_run, [tmp_path / "new.csv"]).height == 5


def test_metadata_that_is_missing_is_told(
    metadata_run: Run, digit_folders: Path, digit_table: Path, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError, match=r"columns image, ink, shade"):
        predict(metadata_run, [digit_folders / "digit 1"])
    pl.read_csv(digit_table).drop("ink").write_csv(digit_table.with_name("without_ink.csv"))
    with pytest.raises(ManifestError, match="'ink'"):
        predict(metadata_run, [digit_table.with_name("without_ink.csv")])


def test_categories_stay_text_at_prediction(
    digit_table: Path, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    """A column of "01" and "x2" is text, also in a table that happens to hold "01" alone."""
    from foveate.data.metadata import fit_schema
    from foveate.data.unlabelled import read_unlabelled

    frame = pl.read_csv(digit_table).with_columns(
        kind=pl.Series(["01", "x2", "x3"] * 50),
        image=pl.lit(f"{digit_table.parent}/") + pl.col("image"),
    )
    frame.write_csv(tmp_path / "train.csv")
    frame.head(1).write_csv(tmp_path / "new.csv")
    config = tiny_config(data__metadata="kind").data
    schema = fit_schema(Manifest.from_table(tmp_path / "train.csv", config), config.columns)
    new = read_unlabelled([tmp_path / "new.csv"], config, schema)
    assert schema.arrays(new)[1].tolist() == [[2]]  # the first of the vocabulary


def test_truth_values_are_known_at_prediction(
    digit_table: Path, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    """Training reads True and False of a CSV as truth values, prediction as text."""
    from foveate.data.metadata import fit_schema
    from foveate.data.unlabelled import read_unlabelled

    image = pl.lit(f"{digit_table.parent}/") + pl.col("image")
    frame = pl.read_csv(digit_table).with_columns(image=image)
    smoker = pl.Series("smoker", ["True", "False", ""] * 50)
    frame.with_columns(smoker).write_csv(tmp_path / "train.csv")
    smoker = pl.Series("smoker", ["FALSE", "True", "true", "", "perhaps"])
    frame.head(5).with_columns(smoker).write_csv(tmp_path / "new.csv")
    config = tiny_config(data__metadata="smoker").data
    schema = fit_schema(Manifest.from_table(tmp_path / "train.csv", config), config.columns)
    new = read_unlabelled([tmp_path / "new.csv"], config, schema)
    assert schema.arrays(new)[1].ravel().tolist() == [2, 3, 3, 0, 1]


def test_masks_have_the_size_and_values_of_the_data(
    mask_run: Run, mask_folders: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    Image.open(mask_folders / "images" / "00.png").resize((70, 50)).save(large)
    predicted = predict(mask_run, [large], masks=tmp_path / "masks")
    mask = np.asarray(Image.open(predicted["mask"][0]))
    assert mask.shape == (50, 70)
    assert set(np.unique(mask)) <= {0, 255}
    assert predicted["share.0"][0] + predicted["share.255"][0] == pytest.approx(1.0)


def test_files_that_cannot_be_read_are_told_in_their_rows(
    digit_run: Run, digit_folders: Path, tmp_path: Path
) -> None:
    good = sorted((digit_folders / "digit 1").glob("*.png"))[:20]
    bad = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in bad:
        path.write_text("no image")
    files = [bad[0], *good, bad[1]]
    with pytest.raises(SampleError, match=r"a\.png"):
        predict(digit_run, files)
    predicted = predict(digit_run, files, unreadable="skip")
    assert predicted["image"].to_list() == [str(path.resolve()) for path in files]
    problems = predicted["problem"].to_list()
    assert problems[1:-1] == [None] * 20
    assert all("no image" in text or "must be" in text for text in (problems[0], problems[-1]))
    assert predicted["predicted"].is_null().to_list() == [True, *[False] * 20, True]
    alone = predict(digit_run, good)
    assert "problem" not in alone.columns
    assert predicted[1:-1].drop("problem").equals(alone)
    with pytest.raises(SampleError, match="never all"):
        predict(digit_run, bad, unreadable="skip")
    with pytest.raises(ConfigError, match="Did you mean 'skip'"):
        predict(digit_run, bad, unreadable="skp")


def test_mistakes_are_told(digit_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no file or folder"):
        predict(digit_run, [tmp_path / "nothing.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="no images"):
        predict(digit_run, [tmp_path / "empty"])
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(SampleError, match=r"text\.png"):
        predict(digit_run, [tmp_path / "text.png"])
    with pytest.raises(RunError):
        predict(tmp_path, [tmp_path / "text.png"])


def test_masks_of_equal_names_do_not_overwrite_each_other(
    mask_run: Run, mask_folders: Path, tmp_path: Path
) -> None:
    paths = [
        tmp_path / name for name in ("a/scan.png", "b/scan.png", "c/scan_2.png", "d/scan.png")
    ]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        image = Image.open(mask_folders / "images" / "00.png")
        image.resize((20 + number, 20)).save(path)
    predicted = predict(mask_run, paths, masks=tmp_path / "masks")
    masks = [Path(mask) for mask in predicted["mask"]]
    # An image that alone has its name gives it to its mask.
    assert [mask.name for mask in masks] == ["scan.png", "scan_3.png", "scan_2.png", "scan_4.png"]
    assert [np.asarray(Image.open(mask)).shape[1] for mask in masks] == [20, 21, 22, 23]


def test_masks_of_equal_names_are_numbered(
    mask_run: Run, mask_folders: Path, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        Image.open(mask_folders / "images" / "00.png").save(tmp_path / name / "same.png")
    folders = [tmp_path / name for name in ("a", "b", "c")]
    predicted = predict(mask_run, folders, masks=tmp_path / "masks")
    names = [Path(mask).name for mask in predicted["mask"]]
    assert names == ["same.png", "same_2.png", "same_3.png"]


def test_masks_of_images_far_away_keep_to_the_cache(
    mask_run: Run, mask_folders: Path, tiny_config: Callable[..., Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    bound = 2_001  # of bytes; one image has about 1,000
    config = tiny_config(data__image_size=32, data__batch_size=8, loader__cache=bound)
    monkeypatch.setattr(Run, "config", lambda _: config)
    uris = [f"memory://{tmp_path.name}/{number:02d}.png" for number in range(5)]
    for uri in uris:
        data = (mask_folders / "images" / uri[-6:]).read_bytes()
        fsspec.filesystem("memory").pipe_file(uri, data)
    pl.DataFrame({"image": uris}).write_csv(tmp_path / "far.csv")
    predicted = predict(mask_run, [tmp_path / "far.csv"], masks=tmp_path / "masks")
    assert predicted["mask"].n_unique() == 5
    (cache,) = (tmp_path / "temporary").glob("foveate-cache-*")
    assert 0 < sum(path.stat().st_size for path in cache.iterdir()) <= bound
