"""From a study to one HTML file that says what came of it: no network, no script."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from foveate.disk import write_atomically
from foveate.errors import listed
from foveate.report.page import number, render
from foveate.search.best import settings_toml
from foveate.search.figures import curves_figure, history_figure
from foveate.search.importance import LEAST_TOP, LEAST_TRIALS, NUM_SHUFFLES
from foveate.search.outcome import Outcome, StudyRecord, TrialRecord, value_text
from foveate.search.slices import slice_figure

_ORDER: tuple[Outcome, ...] = get_args(Outcome)
_WITHOUT_SCORE = ("infeasible", "timed out", "failed", "queued again")
_MOST_CHOICES = 8


def write_search_report(study_folder: Path, record: StudyRecord) -> Path:
    """Write a study's report: its answer, what led to it and what it cost, on one offline page.

    Args:
        study_folder: Where the page is written; folders of trials are looked for in it.
        record: The study, at any time; what is missing yet, the page says.

    Returns:
        Path of ``search.html``; an earlier one is replaced.
    """
    path = study_folder / "search.html"
    content = _content(study_folder, record)
    write_atomically(path, render("search.html.j2", content, "foveate.search"))
    return path


def _content(folder: Path, record: StudyRecord) -> dict[str, Any]:
    """Gather all that the page shows."""
    best, baseline = record.best, record.baseline
    outcomes = Counter(trial.outcome for trial in record.counted)
    return {
        "name": folder.resolve().name,
        "best_file": shlex.quote(str(folder / "best.toml")),
        "record": record,
        "best": best,
        "baseline": baseline,
        "is_share": _is_share(record.objective),
        "intervals": [record.interval(trial) if trial else None for trial in (best, baseline)],
        "gain": _gain(record),
        "is_within": _is_within(record),
        "outcomes": [(name, outcomes[name]) for name in _ORDER if outcomes[name]],
        "fragment": settings_toml(best.settings) if best else None,
        "scores": _scores(best, baseline),
        "history": history_figure(record),
        "curves": curves_figure(record),
        "parameters": _parameters(record),
        "slices": _slices(record),
        "least": {"trials": LEAST_TRIALS, "top": LEAST_TOP, "shuffles": NUM_SHUFFLES},
        "num_complete": sum(trial.score is not None for trial in record.trials),
        "rows": _rows(folder, record),
        "are_repeated": any(trial.spread is not None for trial in record.trials),
        "failures": _failures(record),
        "costs": _costs(record.counted),
    }


def _is_share(objective: str) -> bool:
    """Whether a score is commonly said in percent."""
    return not objective.endswith("loss") and objective not in ("roc_auc", "average_precision")


def _gain(record: StudyRecord) -> str | None:
    """Say by how much the best is better than the default settings; None if it is not."""
    if not record.gain:
        return None
    if _is_share(record.objective):
        return f"{record.gain * 100:.1f} percentage points"
    return number(record.gain)


def _is_within(record: StudyRecord) -> bool:
    """Whether the default settings' score lies in the interval of the best."""
    best, baseline = record.best, record.baseline
    interval = record.interval(best) if best else None
    if interval is None or baseline is None or baseline.score is None:
        return False
    return interval.low <= baseline.score <= interval.high


def _scores(best: TrialRecord | None, baseline: TrialRecord | None) -> list[tuple[str, Any, Any]]:
    """Lay all scores of the best beside those of the default settings."""
    first = best.scores if best else {}
    second = baseline.scores if baseline else {}
    return [(name, first.get(name), second.get(name)) for name in {**first, **second}]


def _by_importance(record: StudyRecord) -> list[str]:
    """The parameters, the most important first."""
    known = {found.key: place for place, found in enumerate(record.importance)}
    return sorted(record.space, key=lambda key: known.get(key, len(known)))


def _parameters(record: StudyRecord) -> list[dict[str, Any]]:
    """Say of each parameter where it was searched, and what came of it."""
    found = {importance.key: importance for importance in record.importance}
    trials = {"default": record.baseline, "best": record.best}

    def text(trial: TrialRecord | None, key: str) -> str:
        return value_text(trial.settings[key]) if trial and key in trial.settings else ""

    return [
        {
            "key": key,
            "range": range_text(record.space[key]),
            **{name: text(trial, key) for name, trial in trials.items()},
            "importance": found.get(key),
        }
        for key in _by_importance(record)
    ]


def range_text(entry: Mapping[str, Any]) -> str:
    """Write what a parameter may be, and when.

    Args:
        entry: A range as `StudyRecord.space` holds it.
    """
    if "choices" in entry:
        text = listed([value_text(choice) for choice in entry["choices"]], _MOST_CHOICES)
    else:
        text = f"{value_text(entry['low'])} to {value_text(entry['high'])}"
        text += f", in steps of {value_text(entry['step'])}" if entry.get("step") else ""
        text += ", on a log scale" if entry.get("log") else ""
    conditions = [
        f"{key} is {value_text(value)}" for key, value in (entry.get("when") or {}).items()
    ]
    return f"{text}; only when {' and '.join(conditions)}" if conditions else text


def _slices(record: StudyRecord) -> list[tuple[str, str]]:
    figures = [(key, slice_figure(record, key)) for key in _by_importance(record)]
    return [(key, svg) for key, svg in figures if svg is not None]


def _rows(folder: Path, record: StudyRecord) -> list[dict[str, Any]]:
    """List the trials, the best first, then those that ended early, by number."""
    sign = -1.0 if record.maximize else 1.0
    names = _short_names(record.space)
    baseline = record.baseline
    default = {key: value_text(v) for key, v in (baseline.settings if baseline else {}).items()}

    def rank(trial: TrialRecord) -> tuple[int, float, int]:
        score = sign * trial.score if trial.score is not None else 0.0
        return _ORDER.index(trial.outcome), score, trial.number

    return [
        {
            "trial": trial,
            "report": _report_link(folder, trial),
            "is_default": trial is baseline,
            "changed": [
                (names.get(key, key), value_text(value))
                for key, value in trial.settings.items()
                if default.get(key) != value_text(value)
            ],
        }
        for trial in sorted(record.trials, key=rank)
    ]


def _report_link(folder: Path, trial: TrialRecord) -> str | None:
    """Where the report of a trial's run is, relative to the study; None if it has none there."""
    if trial.folder is None:
        return None
    path = Path(trial.folder) / "report.html"
    return path.as_posix() if (folder / path).is_file() else None


def _short_names(keys: Iterable[str]) -> dict[str, str]:
    """Leave out the first word of each key, unless two would become the same."""
    short = {key: key.partition(".")[2] or key for key in keys}
    counts = Counter(short.values())
    return {key: name if counts[name] == 1 else key for key, name in short.items()}


def _failures(record: StudyRecord) -> list[dict[str, Any]]:
    """Collect the trials without a score by what happened to them, and why."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for trial in record.trials:
        if trial.outcome in _WITHOUT_SCORE:
            numbers.setdefault((trial.outcome, trial.reason), []).append(trial.number)
    order = sorted(numbers.items(), key=lambda item: _WITHOUT_SCORE.index(item[0][0]))
    return [
        {"outcome": outcome, "reason": reason, "trials": listed(list(map(str, trials)), 10)}
        for (outcome, reason), trials in order
    ]


def _costs(trials: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Sum up the time of the trials by what became of them, with a last line for all."""
    lines: list[tuple[str, Sequence[TrialRecord]]] = [
        (name, [trial for trial in trials if trial.outcome == name]) for name in _ORDER
    ]
    return [
        {
            "outcome": name,
            "num_trials": len(found),
            "seconds": sum(trial.cost.seconds or 0.0 for trial in found),
        }
        for name, found in [*lines, ("all", trials)]
        if found
    ]
