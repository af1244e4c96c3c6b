"""From a run folder to one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

import base64
import json
import operator
import shlex
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from foveate.config.files import setting_fields
from foveate.config.settings import RunConfig
from foveate.disk import write_atomically
from foveate.errors import RunError
from foveate.report import figures, summary
from foveate.report.page import is_known, render
from foveate.runs import Run

_MOST_LISTED = 100
_JUDGED_ON = ("test", "validation", "train")
_PRIMARY = {"classification": "accuracy", "segmentation": "mean_iou"}


def write_report(run: Run) -> Path:
    """Write a run's report: data, curves, scores, mistakes and settings on one offline page.

    Args:
        run: A run that has begun; whatever is missing yet, such as scores, the page says.

    Returns:
        Path of the HTML file; an earlier one is replaced.

    Raises:
        RunError: The run has no samples yet, or one of its files is damaged.
        ConfigError: Its settings cannot be read.
    """
    write_atomically(run.report_path, render("report.html.j2", _content(run)))
    return run.report_path


def _content(run: Run) -> dict[str, Any]:
    """Gather all that the page shows."""
    config = run.config()
    history = run.history()
    paths = [(split, run.evaluation_path(split)) for split in _JUDGED_ON]
    outcomes = [run.load_json(path) for _, path in paths if path.exists()]
    data = _data(run)
    return {
        "name": run.folder.resolve().name,
        "folder": shlex.quote(str(run.folder)),
        "status": run.status(),
        "has_model": run.model_folder.is_dir(),
        "config": config,
        "config_text": run.config_path.read_text(encoding="utf-8"),
        "changed": _changed_settings(config),
        "data": data,
        "unreadable": _unreadable(run),
        "best_split": next((split for split in _JUDGED_ON if split in data["splits"]), "test"),
        "training": _training(history, config.recipe.stopping.monitor),
        "plan": _plan(run, config, history),
        "judgements": [_judgement(run, config, outcome) for outcome in outcomes],
        "most_named": figures.MOST_NAMED,
    }


def _changed_settings(config: RunConfig) -> list[tuple[str, Any]]:
    """List the settings that are not the defaults, by dotted key."""
    default = RunConfig()

    def value(of: RunConfig, key: str) -> Any:
        return reduce(getattr, key.split("."), of)

    keys = [key for key, _ in setting_fields()]
    return [(key, value(config, key)) for key in keys if value(config, key) != value(default, key)]


def _data(run: Run) -> dict[str, Any]:
    """Say what the run learned from."""
    if not run.manifest_path.exists():
        raise RunError(
            f"A report needs the samples of the run, but {str(run.folder)!r} has no "
            f"{run.manifest_path.name}. It stopped before it began: train again."
        )
    table = pl.read_parquet(run.manifest_path, glob=False)
    about = json.loads(pl.read_parquet_metadata(run.manifest_path).get("foveate.manifest", "{}"))
    splits = summary.split_counts(table)
    classes = summary.class_counts(table, list(splits))
    totals = [sum(record["counts"]) for record in classes]
    return {
        "source": about.get("source", ""),
        "num_samples": table.height,
        "splits": splits,
        "classes": classes,
        "imbalance": max(totals) / max(min(totals), 1) if totals else 1.0,
        "groups": summary.group_counts(table),
        "weighted": "weight" in table.columns,
        "metadata": summary.describe_metadata(table),
    }


def _unreadable(run: Run) -> dict[str, Any]:
    """Say which files were left out."""
    files = [
        {"split": split, "path": path, "reason": reason.removeprefix(path)}
        for split, reasons in run.unreadable().items()
        for path, reason in reasons.items()
    ]
    return {"num_files": len(files), "listed": files[:_MOST_LISTED]}


def _training(history: Sequence[Mapping[str, Any]], monitor: str) -> dict[str, Any]:
    """Say how the training went."""
    metrics = summary.metric_names(history)
    best = summary.best_epoch(history, monitor)
    curves = [
        (metric, figures.curve_figure(history, metric, best[0] if best else None))
        for metric in metrics
    ]
    columns = [name for metric in metrics for name in (metric, f"val_{metric}")]
    return {
        "num_epochs": len(history),
        "seconds": sum(record.get("seconds", 0.0) for record in history),
        "wait_seconds": sum(record.get("wait_seconds", 0.0) for record in history),
        "from_scratch": all(record.get("stage") == "scratch" for record in history),
        "validated": any(name.startswith("val_") for record in history for name in record),
        "resized": any("image_size" in record for record in history),
        "best": best,
        "curves": [(metric, svg) for metric, svg in curves if svg is not None],
        "columns": [name for name in columns if any(name in record for record in history)],
        "epochs": history,
    }


def _plan(
    run: Run, config: RunConfig, history: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Say what was planned and what became of it; None where nothing was planned."""
    if not run.plan_path.exists():
        return None
    plan = run.load_json(run.plan_path)
    return {
        "ledger": plan["ledger"],
        "advice": plan["advice"],
        "batch_size": plan["batch_size"],
        "is_halved": config.batch_size < plan["batch_size"],
        "compared": summary.planned_and_real(plan, run.status(), history, config.budget.time),
    }


def _judgement(run: Run, config: RunConfig, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Say how good the model is on one split."""
    split, names = outcome["split"], outcome["class_names"]
    per_pixel = outcome["task"] == "segmentation"
    counts = np.asarray(outcome["confusion_matrix"], np.int64).reshape(len(names), len(names))
    primary = _PRIMARY[outcome["task"]]
    total = int(counts.sum())
    judgement = {
        **{key: outcome[key] for key in ("split", "num_samples", "image_size", "scores")},
        "class_names": names,
        "overlay_colors": outcome.get("overlay_colors"),
        "num_unreadable": outcome.get("num_unreadable", 0),
        "per_pixel": per_pixel,
        "tile_size": config.data.tiles.size if per_pixel else None,
        "primary": primary,
        "value": outcome["scores"].get(primary),
        "total": total,
        "num_right": int(counts.trace()),
        "per_class": outcome["per_class"],
        "weakest": _weakest(outcome["per_class"], "iou" if per_pixel else "f1"),
        "pairs": summary.confused_pairs(counts, names) if len(names) > 2 else [],
        "worst": [_with_picture(run, record) for record in outcome["worst"]],
        "confusion": None,
        "interval": None,
        "constant": None,
        **_distribution(run, split, per_pixel),
    }
    if total:
        name = f"confusion-{split}"
        judgement["confusion"] = figures.confusion_figure(name, counts, names, per_pixel)
    if total and not per_pixel:
        low, high = summary.wilson_interval(counts.trace() / total, total)
        judgement["interval"] = float(low), float(high)
        judgement["constant"] = counts.sum(axis=1).max() / total
    return judgement


def _weakest(per_class: Sequence[Mapping[str, Any]], score: str) -> list[tuple[str, float]]:
    """Name up to five classes of the lowest score, where there are more to look through."""
    known = [(record["class"], record[score]) for record in per_class if is_known(record[score])]
    faulty = [(name, value) for name, value in known if value < 1]
    return sorted(faulty, key=operator.itemgetter(1))[:5] if len(known) > 5 else []


def _distribution(run: Run, split: str, per_pixel: bool) -> dict[str, Any]:
    """Draw what the single predictions tell: image scores, or confidence against truth."""
    nothing = {"distribution": None, "mean_confidence": None}
    path = run.predictions_path(split)
    table = pl.read_parquet(path, glob=False) if path.exists() else pl.DataFrame()
    if per_pixel:
        if "mean_iou" not in table.columns:
            return nothing
        values = table["mean_iou"].fill_nan(None).drop_nulls().to_numpy()
        svg = (
            figures.histogram_figure(f"images-{split}", values, "mean IoU")
            if len(values)
            else None
        )
        return {**nothing, "distribution": svg}
    if table.is_empty() or not {"label", "predicted", "confidence"} <= set(table.columns):
        return nothing
    confidence = table["confidence"].cast(pl.Float64).to_numpy()
    right = (table["label"].cast(pl.String) == table["predicted"].cast(pl.String)).to_numpy()
    svg = figures.reliability_figure(f"confidence-{split}", confidence, right)
    return {"distribution": svg, "mean_confidence": confidence.mean()}


def _with_picture(run: Run, record: Mapping[str, Any]) -> dict[str, Any]:
    """Put a picture's bytes in place of its path; None if the file is gone."""
    path = run.folder / record["picture"]
    data = base64.b64encode(path.read_bytes()).decode() if path.is_file() else None
    return {**record, "picture": data and f"data:image/jpeg;base64,{data}"}
