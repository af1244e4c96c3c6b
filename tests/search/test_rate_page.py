"""What a range test found, as a page and in words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from foveate.config.settings import RunConfig
from foveate.search.rate_page import rate_figure, write_rate_page
from foveate.training.rate_advice import advise, flags
from foveate.training.rate_curve import RateCurve
from html_page import Page

RATES = tuple(np.geomspace(1e-6, 1.0, 73).tolist())
FOUND = RateCurve("frozen", 32, RATES, (2.0,) * 40 + (0.5,) * 30 + (9e3,) * 3, "diverged")
NOTHING = RateCurve("scratch", 4, RATES, (2.0, 1.5) * 36 + (2.0,), "reached the end")


def page(curve: RateCurve, path: Path, data: str = "photos") -> Page:
    config = RunConfig()
    write_rate_page(path, data, curve, flags(curve, config), advise(curve, config))
    return Page(path)


def test_a_suggestion_stands_with_its_reasons(tmp_path: Path) -> None:
    found = page(FOUND, tmp_path / "rate.html", "<b>photos & co")
    assert f"{FOUND.suggestion} suggested peak learning rate" in found.text
    assert f"--recipe.learning_rate {FOUND.suggestion} --recipe.fine_tune_" in found.text
    assert "<b>photos & co" in found.text
    assert "73 steps of 32 samples, from 1e-06 to 1" in found.text
    assert "the loss diverged" in found.text
    for line in advise(FOUND, RunConfig()):
        assert line in found.text
    assert found.figures() == ["training loss by learning rate"]
    assert [path.name for path in tmp_path.iterdir()] == ["rate.html"]


def test_a_page_needs_nothing_else(tmp_path: Path) -> None:
    found = page(FOUND, tmp_path / "rate.html")
    assert found.count("script") == 0
    links = found.values("href") + found.values("src")
    assert [link for link in links if not link.startswith("#")] == []


def test_where_there_is_no_suggestion(tmp_path: Path) -> None:
    found = page(NOTHING, tmp_path / "rate.html")
    assert "No rate can be suggested" in found.text
    assert "--recipe" not in found.text
    assert "highest rate was tried" in found.text
    assert "4 samples instead of 32" in found.text


def test_rates_are_written_as_in_settings() -> None:
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", rate_figure(FOUND))
    assert {"1e-06", "0.0001", "0.01", "learning rate", "loss"} <= set(texts)
    # The steps after the divergence do not flatten those before it.
    assert "9000" not in texts


def test_a_single_step_is_drawn() -> None:
    one = RateCurve("scratch", 8, RATES[:1], (0.0,), "diverged")
    assert one.suggestion is None
    assert rate_figure(one).startswith("<svg")
