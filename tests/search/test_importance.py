"""Which parameters are said to matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_studies import add, begin

from foveate.search.importance import LEAST_TRIALS, Importance, importances

SPACE = {f"x{place}": {"low": 0.0, "high": 1.0} for place in range(3)}


def found(
    seed: int, num_trials: int, weight: float, maximize: bool = True
) -> tuple[Importance, ...]:
    """Of trials whose score depends on x0 alone, by `weight`, and otherwise on chance."""
    study = begin(space=SPACE, maximize=maximize)
    rng = np.random.default_rng(seed)
    for _ in range(num_trials):
        settings = {key: rng.uniform() for key in SPACE}
        add(study, weight * settings["x0"] + rng.normal(), settings=settings)
    return importances(study)


@pytest.mark.parametrize("maximize", [True, False])
def test_what_matters_is_told_from_chance(maximize: bool) -> None:
    first, *others = found(1, 40, 20.0, maximize)
    assert first.key == "x0"
    assert first.share > 0.5
    assert first.chance == 1 / 40
    assert sum(one.share for one in (first, *others)) == pytest.approx(1)


def test_chance_is_rarely_taken_for_something() -> None:
    chances = np.array([one.chance for seed in range(10) for one in found(seed, 16, 0.0)])
    # Of 30, 1.5 are expected; 7 or more would come about once in a thousand.
    assert (chances <= 0.05).sum() < 7
    assert 0.3 < chances.mean() < 0.7


def test_few_trials_say_nothing() -> None:
    assert found(1, LEAST_TRIALS - 1, 10.0) == ()
    assert len(found(1, LEAST_TRIALS, 10.0)) == 3


def test_equal_scores_say_nothing() -> None:
    study = begin()
    for _ in range(LEAST_TRIALS):
        add(study, 0.5)
    assert importances(study) == ()


def test_a_parameter_that_some_trials_lack_is_weighed_too() -> None:
    space = {
        "kind": {"choices": [None, 0.5, "a", True]},
        "rate": {"low": 0.0, "high": 1.0, "when": {"kind": "a"}},
        "fixed": {"choices": [1]},
    }
    study, rng = begin(space=space), np.random.default_rng(0)
    for number in range(40):
        settings: dict[str, Any] = {
            "kind": [None, 0.5, "a", True][number % 4],
            "fixed": 1,
            "rate": rng.uniform(),
        }
        if settings["kind"] != "a":
            del settings["rate"]
        add(study, settings.get("rate", 0.0) + 0.01 * rng.uniform(), settings=settings)
    first, second, third = importances(study)
    assert {first.key, second.key} == {"kind", "rate"}
    assert (third.key, third.share, third.chance) == ("fixed", 0, 1)
