"""Which parameters matter, told apart from chance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState

from foveate.report.page import is_known

LEAST_TRIALS = 10
"""Fewest complete trials of which anything is said."""
LEAST_TOP = 5
"""Fewest trials among the best: the evaluator's documentation advises as many."""
NUM_SHUFFLES = 39
"""How often scores are dealt out anew to see what chance does."""
_TOP = 0.1


@dataclass(frozen=True)
class Importance:
    """How much a parameter has to do with a trial being among the best.

    Attributes:
        key: Config key.
        share: Its part of the sum over all parameters, 0 to 1.
        chance: How probable it is that a parameter without any influence comes as far, 0 to 1.
    """

    key: str
    share: float
    chance: float


def importances(study: Study) -> tuple[Importance, ...]:
    """Compute the importance of each parameter.

    By PED-ANOVA (Watanabe et al., 2023, "PED-ANOVA: Efficiently Quantifying Hyperparameter
    Importance in Arbitrary Subspaces"), in Optuna's form that also takes parameters which only
    some trials have: how the values of the best tenth of the trials differ from those of all.

    It always finds something to share out: of 20 trials with random scores and three parameters,
    more than half may fall to one of them. So it is laid beside what it finds in the same
    trials with their scores shuffled.

    Args:
        study: A study with one objective.

    Returns:
        The most important first; empty with fewer than `LEAST_TRIALS` complete trials, or where
        all of their scores are the same.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    # The evaluator, given a target, takes less of it as better.
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    scores = {trial.number: trial.value for trial in trials}
    losses = {number: sign * score for number, score in scores.items() if is_known(score)}
    if len(losses) < LEAST_TRIALS or len(set(losses.values())) == 1:
        return ()
    found = _weights(study, losses)
    total = sum(found.values())
    if not total:
        return ()
    generator, values = np.random.default_rng(0), list(losses.values())
    as_far = dict.fromkeys(found, 1)
    for _ in range(NUM_SHUFFLES):
        dealt = dict(zip(losses, generator.permutation(values).tolist(), strict=True))
        weights = _weights(study, dealt)
        for key in found:
            as_far[key] += weights[key] >= found[key]
    return tuple(
        Importance(key, found[key] / total, as_far[key] / (NUM_SHUFFLES + 1))
        for key in sorted(found, key=lambda key: (-found[key], key))
    )


def _weights(study: Study, losses: Mapping[int, float]) -> dict[str, float]:
    """Weigh all parameters by the trials that have a loss; others may end meanwhile."""
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(_TOP, LEAST_TOP / len(losses)))
    with warnings.catch_warnings():
        # That less is taken as better, and that a value which one trial has is left out.
        warnings.simplefilter("ignore")
        return get_param_importances(
            study,
            evaluator=evaluator,
            target=lambda trial: losses.get(trial.number, math.nan),
            normalize=False,
        )
