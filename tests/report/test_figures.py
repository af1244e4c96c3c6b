"""Figures as they stand in a page."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from foveate.report.figures import (
    confusion_figure,
    curve_figure,
    histogram_figure,
    reliability_figure,
)


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def epochs(*losses: float | None) -> list[dict[str, Any]]:
    return [{"stage": "frozen", "epoch": n, "loss": loss} for n, loss in enumerate(losses, 1)]


def test_a_figure_takes_the_colours_and_fonts_of_the_page() -> None:
    svg = reliability_figure("one", np.array([0.25, 0.75]), np.array([True, False]))
    assert "stroke: var(--accent)" in svg
    assert not re.search("#00000[1-9]", svg)
    assert {"confidence", "share that is right"} <= set(texts(svg))


def test_a_figure_brings_no_document_of_its_own() -> None:
    svg = histogram_figure("one", np.array([0.5]), "mean IoU")
    assert svg.startswith("<svg ")
    assert svg.rstrip().endswith("</svg>")
    assert not re.search("<metadata|<style|<!DOCTYPE|://", svg)


def test_ids_carry_the_name_of_the_figure() -> None:
    svg = histogram_figure('a "name"', np.array([0.5]), "mean IoU")
    ids = re.findall(r' id="([^"]*)"', svg)
    assert ids
    assert all(found.startswith("a--name--") for found in ids)


@pytest.mark.parametrize("losses", [(), (1.0,), (1.0, None), (float("nan"), 2.0)])
def test_a_curve_needs_two_epochs(losses: tuple[float | None, ...]) -> None:
    assert curve_figure(epochs(*losses), "loss", None) is None


def test_a_curve_names_the_stage_that_begins() -> None:
    history = [*epochs(3.0, 2.0), {"stage": "fine_tune", "epoch": 1, "loss": 1.0}]
    svg = curve_figure(history, "loss", 2)
    assert svg is not None
    assert texts(svg).count("fine tune") == 1
    assert "frozen" not in texts(svg)


def test_few_classes_are_counted_and_named() -> None:
    names = ["猫 & co", "a_rather_long_class_name"]
    svg = confusion_figure("one", np.array([[12345, 0], [1, 2]]), names, per_pixel=False)
    shown = ["12,345", "1", "2", "predicted class", "true class"]
    assert sorted(texts(svg)) == sorted([*shown, *["猫 &amp; co", "a_rather_long_cla…"] * 2])


def test_pixels_are_shown_in_percent_of_the_true_class() -> None:
    counts = np.array([[9999, 1, 0], [1, 3, 0], [0, 0, 0]])
    svg = confusion_figure("one", counts, ["a", "b", "c"], per_pixel=True)
    assert [text for text in texts(svg) if "%" in text] == ["100.0%", "&lt;0.1%", "25.0%", "75.0%"]


def test_more_classes_are_named_but_not_counted() -> None:
    names = [f"class {index}" for index in range(30)]
    svg = confusion_figure("one", np.full((30, 30), 7), names, per_pixel=False)
    assert sorted(texts(svg)) == sorted([*names, *names, "predicted class", "true class"])


def test_very_many_classes_are_numbered_by_tens() -> None:
    names = [f"class {index}" for index in range(120)]
    svg = confusion_figure("one", np.full((120, 120), 7), names, per_pixel=False)
    tens = [str(place) for place in range(10, 121, 10)]
    assert sorted(texts(svg)) == sorted([*tens, *tens, "predicted class", "true class"])
    # One picture, not a shape a cell: 14,400 of them would take a megabyte.
    assert svg.count("<image") == 1
    assert len(svg) < 100_000
