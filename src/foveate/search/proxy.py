"""Cheap runs that stand in for full ones, as long as they rank settings alike."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import polars as pl
from optuna.study import StudyDirection
from optuna.trial import TrialState

from foveate.config.search import SearchConfig
from foveate.data.manifest import Manifest
from foveate.errors import ConfigError
from foveate.search.look import Facts

CALIBRATION = 6
"""Trials that are run in full whatever their proxy says, to see whether it can be trusted."""
POOR = 0.6
"""Spearman's rank correlation below which it is not."""
_KEPT = 1 / 3  # of the proxies so far, the best, whose trials are run in full
_SAMPLES = 4  # one of so many training samples is kept by `share`
_STRIDE = 32  # pixels, of which image sizes are multiples
_SMALLEST = 64  # pixels, of an image that can be halved


@dataclass(frozen=True)
class Standing:
    """What has been seen of a proxy.

    Attributes:
        correlation: Spearman's rank correlation with full runs; None before it is known.
        num_compared: Trials that it was measured on.
    """

    correlation: float | None
    num_compared: int

    @property
    def is_trusted(self) -> bool:
        """Whether it may end trials."""
        return self.correlation is not None and self.correlation >= POOR

    @property
    def is_dropped(self) -> bool:
        """Whether it ranks settings otherwise than full runs do."""
        return self.correlation is not None and not self.is_trusted

    def sentence(self, name: str) -> str:
        """Say it for a report."""
        if self.correlation is None:
            return (
                f"The proxy ({name}) was compared with full runs on {self.num_compared} trials of "
                f"the {CALIBRATION} that are needed before it may end one."
            )
        verdict = (
            "so trials were run in full only where it put them among the best third"
            if self.is_trusted
            else f"which is less than {POOR}: it was dropped"
        )
        return (
            f"The proxy ({name}) and full runs ranked {self.num_compared} trials with a Spearman "
            f"correlation of {self.correlation:.2f}, {verdict}."
        )


def standing(study: optuna.Study) -> Standing:
    """Compare proxies with full runs, on those trials that were run in full for that."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    pairs = [
        (one.user_attrs["proxy"], one.value)
        for one in trials
        if one.user_attrs.get("calibrates") and one.value is not None
    ]
    if len(pairs) < CALIBRATION:
        return Standing(None, len(pairs))
    return Standing(rank_correlation(*zip(*pairs, strict=True)), len(pairs))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's: the correlation of ranks; 0 where one side is all equal.

    Args:
        first: Values, at least two.
        second: As many.

    Returns:
        -1 to 1.
    """
    from scipy.stats import rankdata

    ranks = rankdata(first), rankdata(second)
    if any(np.ptp(one) == 0 for one in ranks):
        return 0.0
    return statistics.correlation(*(one.tolist() for one in ranks))


def is_among_best(study: optuna.Study, value: float) -> bool:
    """Whether a proxy is among the best third of those so far, itself included."""
    sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
    others = [
        one.user_attrs["proxy"]
        for one in study.get_trials(deepcopy=False)
        if "proxy" in one.user_attrs and one.state.is_finished()
    ]
    better = sum(sign * other > sign * value for other in others)
    return better < max((len(others) + 1) * _KEPT, 1)


def proxy_settings(config: SearchConfig, facts: Facts) -> dict[str, Any]:
    """Settings in which a proxy differs from a full run.

    Raises:
        ConfigError: It would not be cheaper.
    """
    match config.proxy:
        case "frozen":
            if not facts.is_tuned:
                raise ConfigError(
                    "search.proxy frozen needs a pretrained backbone that is fine-tuned, but got "
                    "a run of one stage. Choose another, or none."
                )
            return {"recipe.fine_tune_epochs": 0}
        case "small":
            sides = [side // 2 // _STRIDE * _STRIDE for side in facts.image_size]
            if min(facts.image_size) < _SMALLEST:
                raise ConfigError(
                    f"search.proxy small needs images of at least {_SMALLEST} pixels a side, but "
                    f"got {facts.image_size}. Choose another, or none."
                )
            return {"data.image_size": sides}
        case _:
            return {}


def save_share(manifest: Path, path: Path) -> None:
    """Write a manifest with a part of the training samples, of each class alike.

    Args:
        manifest: That of all samples, with their splits.
        path: Where to write; one that is there already stays.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = Manifest.load(manifest)
    rows = whole.table.with_row_index("row")
    is_train = rows["split"].cast(pl.String) == "train"
    train = rows.filter(is_train)
    if "label" in train.columns:
        train = train.sort("label", "row")
    kept = pl.concat([train.gather_every(_SAMPLES)["row"], rows.filter(~is_train)["row"]])
    part = path.with_suffix(".part")
    whole.take(kept.sort().to_numpy()).save(part)
    part.replace(path)
