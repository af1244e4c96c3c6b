"""Reports of small studies, as pages."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_studies import DEFAULT, OPTIMIZER, RATE, SPACE, add, begin
from optuna.study import Study
from optuna.trial import TrialState

from foveate.config.search import RangeConfig, range_from_text
from foveate.search.outcome import read_study
from foveate.search.report import write_search_report
from html_page import Page


def page(study: Study, folder: Path) -> Page:
    path = write_search_report(folder, read_study(study))
    assert path == folder / "search.html"
    assert list(folder.glob(".*")) == []
    return Page(path)


def five() -> Study:
    """Default settings, a better trial, one that was pruned, one infeasible, one queued again."""
    study = begin()
    curve = {1: 0.5, 2: 0.75, 3: 0.8}
    scores = {"accuracy": 0.8, "log_loss": 0.5}
    add(study, 0.8, curve=curve, seconds=60.0, peak_bytes=2**30, batch_size=8, scores=scores)
    add(
        study, 0.9, curve={1: 0.5, 2: 0.8, 3: 0.9}, settings={RATE: 0.0123, OPTIMIZER: "adamw"},
        seconds=120.0, scores={"accuracy": 0.9}, folder="trials/0001",
    )  # fmt: skip
    add(
        study, state=TrialState.PRUNED, settings={RATE: 0.03, OPTIMIZER: "sgd"},
        curve={1: 0.25, 2: 0.3}, seconds=20.0, outcome="pruned", reason="worse than the median",
    )  # fmt: skip
    add(
        study, state=TrialState.FAIL, outcome="infeasible", seconds=1.0,
        reason="it needs 5 GiB, but budget.ram is 4 GiB",
    )  # fmt: skip
    add(study, state=TrialState.FAIL)
    add(study, state=TrialState.WAITING, replaces=(4,))
    return study


def test_a_study_is_told_from_answer_to_cost(tmp_path: Path) -> None:
    (tmp_path / "trials" / "0001").mkdir(parents=True)
    (tmp_path / "trials" / "0001" / "report.html").touch()
    found = page(five(), tmp_path)
    heads = ("Best settings", "Trial by trial", "What was searched", "Trials The best first")
    places = [
        found.text.index(head) for head in (*heads, "Trials without a score", "What it cost")
    ]
    assert places == sorted(places)
    assert "90.0 % accuracy on the validation split, highest of 2 complete trials" in found.text
    # Wilson for 0.9 of 400: (0.9 + 0.004802 ± 0.029784) / 1.009604.
    assert "95 % interval 86.7 % to 92.6 %" in found.text
    assert "10.0 percentage points better than the default settings" in found.text
    assert "which gave 80.0 %." in found.text
    assert "hardly be told apart" not in found.text
    assert "Not finished. 1 trial was still running or waiting" in found.text
    assert "5: 2 complete, 1 pruned, 1 infeasible, 1 waiting" in found.text
    assert f"foveate train DATA --config {tmp_path}/best.toml" in found.text
    assert '[recipe] learning_rate = 0.0123 [recipe.optimizer] name = "adamw"' in found.text
    assert "chosen among 2 because it scored best on just these samples" in found.text
    assert "read the score on the test split" in found.text
    assert "log loss n/a 0.500" in found.text
    assert "cannot be said of 2 complete trials: it takes at least 10" in found.text
    assert "recipe.learning_rate 0.0123 0.001 0.0001 to 0.03, on a log scale" in found.text
    assert "1 0.900 learning_rate 0.0123 2 min 0 s complete" in found.text
    assert "0 0.800 the default settings 1 min 0 s 1.00 GiB batch 8 complete" in found.text
    assert (
        "2 0.300 learning_rate 0.03 optimizer.name sgd 20 s pruned after 2 epochs "
        "worse than the median"
    ) in found.text
    assert "infeasible 3 it needs 5 GiB, but budget.ram is 4 GiB" in found.text
    assert "queued again 4 its worker died; queued again as 5" in found.text
    assert "pruned 1 20 s 10.0 % infeasible 1 1.0 s 0.5 % waiting 1 0.0 s 0.0 %" in found.text
    assert "all 5 3 min 21 s 100.0 %" in found.text
    assert "trials/0001/report.html" in found.values("href")


def test_the_page_needs_no_network_and_no_script(tmp_path: Path) -> None:
    found = page(five(), tmp_path)
    slices = [f"score by {key}" for key in SPACE]
    assert found.figures() == ["score by trial", "score by epoch of each trial", *slices]
    references = [value for name in ("src", "href", "xlink:href") for value in found.values(name)]
    assert all(value.startswith("#") for value in references)
    assert "://" not in found.source
    assert found.count("script") == found.count("link") == 0
    assert any("default-src 'none'" in value for value in found.values("content"))
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in references} <= set(ids)
    assert {*re.findall(r"url\(#([^)]+)\)", found.source)} <= set(ids)


def test_defaults_that_could_not_be_beaten_are_said_so(tmp_path: Path) -> None:
    study = begin()
    add(study, 0.75)
    found = page(study, tmp_path)
    assert "Only the default settings have given a score." in found.text
    assert "chosen among" not in found.text
    assert found.figures() == []
    for value in (0.75, 0.5):
        add(study, value, settings={RATE: 0.01, OPTIMIZER: "sgd"})
    found = page(study, tmp_path)
    assert "The default settings could not be beaten." in found.text
    assert "Best trial 0, the default settings" in found.text
    assert "they are the default ones" in found.text


def test_a_gain_within_the_interval_is_doubted(tmp_path: Path) -> None:
    study = begin(num_validation=100)
    add(study, 0.9)
    add(study, 0.92, settings={RATE: 0.01, OPTIMIZER: "sgd"})
    text = page(study, tmp_path).text
    assert "2.0 percentage points better" in text
    assert "That lies within the interval: the two can hardly be told apart." in text


def test_without_default_settings_nothing_is_compared(tmp_path: Path) -> None:
    study = begin()
    add(study, state=TrialState.FAIL, outcome="failed", reason="the loss became nan")
    add(study, 0.9)
    assert (
        "The default settings gave no score (failed: the loss became nan), so there is nothing to "
        "compare with."
    ) in page(study, tmp_path).text


def test_studies_without_a_score_say_why(tmp_path: Path) -> None:
    study = begin()
    assert "There is nothing to choose from yet." in page(study, tmp_path).text
    for number in range(12):
        reason = "no sign of life" if number % 2 else "division by zero"
        add(study, state=TrialState.FAIL, outcome="failed", reason=reason)
    found = page(study, tmp_path)
    assert "No trial has given a score The reasons stand under" in found.text
    assert "failed 0, 2, 4, 6, 8, 10 division by zero" in found.text
    assert "failed 1, 3, 5, 7, 9, 11 no sign of life" in found.text
    assert "Best settings" not in found.text
    assert found.figures() == []


def test_losses_are_no_percents_and_less_is_better(tmp_path: Path) -> None:
    study = begin("log_loss", maximize=False)
    add(study, 0.5, curve={1: 1.0, 2: 0.5})
    add(study, 0.125, settings={RATE: 0.01, OPTIMIZER: "sgd"})
    text = page(study, tmp_path).text
    assert "0.125 log loss on the validation split, lowest of 2 complete trials" in text
    assert "0.375 better than the default settings" in text
    assert "There is no interval: log loss is not a share of independent samples" in text
    assert "Lower is better" in text


def test_repeats_show_their_spread(tmp_path: Path) -> None:
    study = begin("mean_iou")
    add(study, 0.5, 0.5)
    add(study, 0.90, 0.92, 0.94, settings={RATE: 0.01, OPTIMIZER: "sgd"})
    text = page(study, tmp_path).text
    assert "92.0 % mean IoU on the validation split" in text
    assert "95 % interval 87.0 % to 97.0 %" in text
    assert "from 3 repeats with different seeds (Student's t)" in text
    assert "1 0.920 ± 0.020" in text
    assert "Thin upright lines span the repeats" in text


def test_what_matters_stands_first(tmp_path: Path) -> None:
    study, rng = begin(), np.random.default_rng(1)
    for number in range(30):
        rate = float(10 ** rng.uniform(-4, -1.6))
        optimizer = ["adamw", "sgd"][number % 2]
        score = 0.9 - 0.1 * abs(math.log10(rate) + 2.5)
        add(study, score, settings={RATE: rate, OPTIMIZER: optimizer})
    found = page(study, tmp_path)
    assert "What was searched, and what mattered" in found.text
    assert "PedAnovaImportanceEvaluator" in found.text
    bars = [dict(attrs) for tag, attrs in found.tags if "--share" in str(attrs.get("style"))]
    assert [bar["class"] for bar in bars] == ["n share", "n share chance"]
    assert found.text.index("recipe.learning_rate 9") < found.text.index("recipe.optimizer.name ")
    assert found.figures()[-2:] == [f"score by {RATE}", f"score by {OPTIMIZER}"]


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    odd = "<script>alert(1)</script>"
    study = begin(
        strategy=odd, notes=[odd], space={"model.backbone": {"choices": [odd, "a\"b' & c", "$x$"]}}
    )
    for name in (odd, "a\"b' & c", "$x$"):
        told: dict[str, Any] = {"scores": {odd: 0.5}, "folder": odd, "curve": {1: 0.1, 2: 0.5}}
        add(study, 0.5, settings={"model.backbone": name}, **told)
    add(study, state=TrialState.FAIL, settings={}, outcome="failed", reason=odd)
    found = page(study, tmp_path / odd.replace("/", ":"))
    assert found.count("script") == 0
    # The strategy, the note, the folder, the score, the range, in trials, the reason twice.
    assert found.text.count(odd) >= 8
    assert "$x$" in found.text


def test_settings_of_every_kind_are_drawn(tmp_path: Path) -> None:
    names = [f"a_backbone_of_a_rather_long_name_{number}" for number in range(14)]
    space = {
        "many": {"choices": names},
        "mixed": {"choices": [None, 0.5, "auto", True, 3]},
        "one": {"choices": [0.1]},
        "fixed": {"low": 1.0, "high": 1.0},
        "decay": {"low": 1e-6, "high": 1e-2, "log": True},
        "epochs": {"low": 4, "high": 16, "step": 4},
        "layers": {"low": 1, "high": 1000},
        "other.one": {"low": 0.0, "high": 1.0, "step": 0.25, "when": {"mixed": "auto"}},
    }
    default = {"many": "none of them", "mixed": None, "one": 0.0, "fixed": None, "decay": 0.0}
    study = begin(space=space)
    add(study, 0.5, settings={**default, "epochs": 10, "layers": 5, "other.one": 0.5})
    for number in range(14):
        chosen: dict[str, Any] = {
            "many": names[number], "mixed": [None, 0.5, "auto", True, 3][number % 5], "one": 0.1,
            "fixed": 1.0, "decay": 10 ** -(2 + number / 4), "epochs": 4 + number % 4 * 4,
            "layers": 1 + number * 70, "other.one": 0.25,
        }  # fmt: skip
        add(study, 0.5 + number / 100, settings=chosen)
    found = page(study, tmp_path)
    assert sorted(found.figures()[1:]) == sorted(f"score by {key}" for key in space)
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", found.source)
    # Nine are named, by their beginning; the rest is one group.
    assert sum(label.startswith("a_backbone_of_a_r") for label in labels) == 9
    assert "6 others" in labels
    assert {"none", "0.5", "auto", "true", "3"} <= set(labels)
    assert {"1e-06", "0.0001", "0.01"} <= set(labels)
    (epochs,) = (svg for svg in found.source.split("<svg") if "score by epochs" in svg)
    assert re.findall(r"<text[^>]*>(\d+)</text>", epochs) == ["4", "8", "12", "16"]
    assert "0 to 1, in steps of 0.25; only when mixed is auto" in found.text
    assert f"{names[7]} and 6 more" in found.text
    # The default settings have no place on a log scale: zero. They are in the table.
    assert "decay" in found.text


@pytest.mark.parametrize(
    ("stated", "values", "ticks"),
    [
        ("16..64 step 16", (16, 32, 64), ["16", "32", "48", "64"]),
        ("0..1 step 0.5", (0.0, 0.5, 1.0), ["0.0", "0.5", "1.0"]),
        ("1..3", (1, 2, 3), ["1", "2", "3"]),
    ],
)
def test_steps_as_they_are_stated_have_their_ticks(
    stated: str, values: tuple[float, ...], ticks: list[str], tmp_path: Path
) -> None:
    entry = RangeConfig(**range_from_text(stated)).model_dump(mode="json", exclude_defaults=True)
    study = begin(space={"size": entry})
    for value in values:
        add(study, 0.5, settings={"size": value})
    found = page(study, tmp_path)
    (figure,) = (svg for svg in found.source.split("<svg") if "score by size" in svg)
    x_axis = figure.partition("matplotlib.axis_2")[0]
    assert re.findall(r"<text[^>]*>([\d.]+)</text>", x_axis) == ticks


def test_a_very_bad_trial_does_not_flatten_the_others(tmp_path: Path) -> None:
    study = begin("log_loss", maximize=False)
    for number in range(8):
        add(study, 0.5 + number / 100)
    add(study, 5000.0)
    add(study, math.inf)
    source = page(study, tmp_path).source
    ticks = [float(t) for t in re.findall(r"<text[^>]*>([\d.]+)</text>", source)]
    assert {0.5, 0.55} <= set(ticks)
    assert 5000.0 not in ticks


OUTCOMES = st.sampled_from(["complete", "pruned", "failed", "infeasible", "running", "died"])
VALUES = st.floats(0, 1) | st.sampled_from([0.0, 1.0, math.nan, math.inf])


@given(st.lists(st.tuples(OUTCOMES, VALUES, st.booleans()), max_size=12), st.booleans())
@settings(max_examples=8)
def test_any_study_is_told_whole(
    tmp_path_factory: pytest.TempPathFactory,
    trials: list[tuple[str, float, bool]],
    maximize: bool,
) -> None:
    study = begin(maximize=maximize)
    for outcome, value, is_default in trials:
        chosen = DEFAULT if is_default else {RATE: 0.01, OPTIMIZER: "sgd"}
        told: dict[str, Any] = {"settings": chosen, "curve": {1: value, 2: value / 2}}
        if outcome == "complete" and not math.isnan(value):
            add(study, value, **told)
        elif outcome == "died":
            number = add(study, state=TrialState.FAIL, **told)
            add(study, state=TrialState.WAITING, replaces=(number,), **told)
        else:
            state = {"pruned": TrialState.PRUNED, "running": TrialState.RUNNING}
            add(study, state=state.get(outcome, TrialState.FAIL), outcome=outcome, **told)
    found = page(study, tmp_path_factory.mktemp("study"))
    rows = re.findall(r'<th scope="row" class="n">(\d+)</th>', found.source)
    assert sorted(map(int, rows)) == list(range(len(study.trials)))
    assert "nan" not in found.text.lower().replace("finan", "")
    assert "None" not in found.text
