from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.config.settings import ColumnConfig
from foveate.data.checks import ManifestWarning
from foveate.data.listing import METADATA_PREFIX
from foveate.data.manifest import Manifest
from foveate.data.metadata import MetadataSchema, fit_schema
from foveate.errors import ManifestError

Cells = Sequence[float | None] | Sequence[str | None]


def make(**columns: Cells) -> Manifest:
    """A manifest with these metadata columns, typed as reading a table would."""
    series = [
        pl.Series(METADATA_PREFIX + name, cells, strict=True) for name, cells in columns.items()
    ]
    typed = [s.cast(pl.Float64) if s.dtype.is_numeric() else s for s in series]
    images = pl.Series("image", [f"{row}.jpg" for row in range(len(series[0]))])
    return Manifest(pl.DataFrame([images, *typed]), Path(), "table.csv")


def fit(manifest: Manifest, **declared: tuple[str, ...]) -> MetadataSchema:
    return fit_schema(manifest, ColumnConfig(**declared))


class TestFit:
    def test_kinds_are_inferred(self) -> None:
        schema = fit(make(age=[1.0, 3.0], sex=["m", "f"], size=["1.5", " 2.5"]))
        assert [column.name for column in schema.numeric] == ["age", "size"]
        assert [column.name for column in schema.categorical] == ["sex"]
        assert schema.categorical[0].vocabulary == ("f", "m")

    def test_declared_kinds_win(self) -> None:
        schema = fit(make(code=[2.0, 1.0, 2.5], x=["1", None, "2"]), categorical=("code", "x"))
        assert schema.numeric == ()
        assert [c.vocabulary for c in schema.categorical] == [("1", "2", "2.5"), ("1", "2")]

    def test_statistics_skip_what_is_missing(self) -> None:
        # Mean of 1, 3, 8 is 4; squared deviations 9, 1, 16; their mean 26 / 3.
        schema = fit(make(age=[1.0, None, 3.0, 8.0]))
        column = schema.numeric[0]
        assert column.mean == pytest.approx(4.0)
        assert column.deviation == pytest.approx(math.sqrt(26 / 3))

    def test_statistics_are_after_the_logarithm(self) -> None:
        # log(1 + x) of 0 and e^2 - 1 is 0 and 2.
        column = fit(make(flux=[0.0, math.e**2 - 1]), log=("flux",)).numeric[0]
        assert column.log
        assert (column.mean, column.deviation) == pytest.approx((1.0, 1.0))

    def test_constant_columns_have_deviation_one(self) -> None:
        assert fit(make(x=[0.1, 0.1, 0.1])).numeric[0].deviation == 1.0

    def test_no_metadata(self) -> None:
        manifest = make(x=[1.0])
        bare = Manifest(manifest.table.select("image"), manifest.root, manifest.source)
        schema = fit(bare)
        numeric, categories = schema.arrays(bare)
        assert (numeric.shape, categories.shape) == ((1, 0), (1, 0))

    def test_problems_are_told_together(self) -> None:
        manifest = make(age=[1.0, math.inf], sex=["m", "f"], none=[None, None])
        with pytest.raises(ManifestError) as error:
            fit(manifest, numeric=("sex",), log=("agee",))
        message = str(error.value)
        assert message.startswith("4 problems:")
        assert "data.columns.log must name metadata columns, but got 'agee'" in message
        assert "Did you mean 'age'?" in message
        assert "'age' must hold finite numbers (of 32 bits), but got inf (1.jpg)" in message
        assert "'sex' must hold numbers, but got 'm' (0.jpg), 'f' (1.jpg)" in message
        assert "'none' must have values in the train split" in message

    @pytest.mark.parametrize(
        ("cells", "declared", "said"),
        [
            ([0.0, -1.0], {"log": ("x",)}, r"above -1 .* got -1\.0 \(1\.jpg\)"),
            (["a", "b"], {"log": ("x",)}, "must hold numbers"),
            ([1.0, 2.0], {"log": ("x",), "categorical": ("x",)}, "must have one kind"),
            (["1", "2", "NA"], {}, r"numbers and 'NA' \(2\.jpg\); leave such cells empty"),
            (["nan", "NaN"], {}, "must have values"),
            (["1,5", "2", "-3,25"], {}, r"decimal comma: '1,5' \(0\.jpg\), '-3,25' \(2\.jpg\);"),
        ],
    )
    def test_refused(self, cells: Cells, declared: dict[str, tuple[str, ...]], said: str) -> None:
        with pytest.raises(ManifestError, match=said):
            fit(make(x=cells), **declared)

    def test_identifiers_are_refused(self) -> None:
        manifest = make(name=[f"patient {row}" for row in range(1001)])
        with pytest.raises(ManifestError, match="1001 different texts in 1001 rows; if it ident"):
            fit(manifest)
        assert len(fit(manifest, categorical=("name",)).categorical[0].vocabulary) == 1001

    def test_what_may_be_an_identifier_is_told(self) -> None:
        with pytest.warns(
            ManifestWarning, match="must hold categories that come back, but got 51"
        ):
            fit(make(name=[f"patient {row}" for row in range(51)]))
        fit(make(street=[f"street {row // 2}" for row in range(120)]))  # each comes back
        fit(make(size=["1,5", "2,5"]), categorical=("size",))


class TestArrays:
    def test_values_and_codes(self) -> None:
        train = make(age=[1.0, 3.0], sex=["m", "f"])
        other = make(age=[None, 7.5, 2.0], sex=["m", None, "x"])
        numeric, categories = fit(train).arrays(other)
        np.testing.assert_array_equal(numeric, np.array([[np.nan], [7.5], [2.0]], np.float32))
        np.testing.assert_array_equal(categories, np.array([[3], [0], [1]], np.int32))
        assert [str(array.dtype) for array in (numeric, categories)] == ["float32", "int32"]

    def test_tables_at_prediction_time(self) -> None:
        schema = fit(make(age=[1.0, 3.0], flag=["true", "false"], code=[1.0, 2.0]),
                     categorical=("code",))  # fmt: skip
        table = pl.DataFrame(
            {"code": [2, 3], "flag": [True, None], "age": ["4", ""], "id": [0, 0]}
        )
        numeric, categories = schema.arrays(table)
        np.testing.assert_array_equal(numeric, np.array([[4.0], [np.nan]], np.float32))
        np.testing.assert_array_equal(categories, [[3, 3], [0, 1]])

    def test_lacking_columns_are_named(self) -> None:
        schema = fit(make(age=[1.0, 3.0], sex=["m", "f"]))
        with pytest.raises(ManifestError, match="got no 'age', 'sex'; it has: years"):
            schema.arrays(pl.DataFrame({"years": [1]}))

    def test_numbers_out_of_range_are_refused(self) -> None:
        schema = fit(make(flux=[0.0, 3.0]), log=("flux",))
        with pytest.raises(ManifestError, match=r"above -1 .* got -2\.0 \(row 1\)"):
            schema.arrays(pl.DataFrame({"flux": [1.0, -2.0]}))
        with pytest.raises(ManifestError, match=r"must hold numbers, but got 'much' \(row 0\)"):
            schema.arrays(pl.DataFrame({"flux": ["much"]}))

    @given(
        words=st.lists(st.text(max_size=4) | st.none(), min_size=1, max_size=30).filter(any),
        others=st.lists(st.text(max_size=4) | st.none(), max_size=30),
    )
    @settings(max_examples=100, deadline=None)
    def test_codes_name_the_words(self, words: list[str | None], others: list[str | None]) -> None:
        schema = fit(make(x=[word or None for word in words]), categorical=("x",))
        vocabulary = schema.categorical[0].vocabulary
        frame = pl.DataFrame({"x": words + others}, {"x": pl.String})
        for word, code in zip(frame["x"], schema.arrays(frame)[1][:, 0], strict=True):
            if not word:
                assert code == 0
            elif word in vocabulary:
                assert vocabulary[code - 2] == word
            else:
                assert code == 1

    @given(st.lists(st.floats(-1e6, 1e6) | st.none(), min_size=2, max_size=40))
    @settings(max_examples=100, deadline=None)
    def test_scaled_numbers_are_standard(self, cells: list[float | None]) -> None:
        filled = [cell for cell in cells if cell is not None]
        if not filled or max(filled) - min(filled) < 1e-3:
            return
        manifest = make(x=cells)
        schema = fit(manifest)
        column = schema.numeric[0]
        scaled = (np.array(filled) - column.mean) / column.deviation
        assert abs(scaled.mean()) < 1e-6
        assert scaled.std() == pytest.approx(1.0)
        assert np.isnan(schema.arrays(manifest)[0]).sum() == cells.count(None)


def test_schema_passes_through_json() -> None:
    schema = fit(make(age=[1.0, 3.5], sex=["m", "f"]), log=("age",))
    assert MetadataSchema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
