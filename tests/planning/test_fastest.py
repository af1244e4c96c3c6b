"""The backend that a plan takes where it may choose: the fastest one that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_plan import BASE, USUAL

from foveate.config.settings import RunConfig
from foveate.data.manifest import Manifest
from foveate.errors import BudgetError, ConfigError, MissingDependencyError, RunError
from foveate.planning.measurement import Measurement
from foveate.planning.plan import Plan
from foveate.planning.planner import make_plan
from foveate.scale import runtime

INSTALLED = ("tensorflow", "jax", "torch")
CONFIG = RunConfig.model_validate(
    {"runtime": {"backend": "fastest"}, "budget": {"ram": f"{BASE * 3} B"}}
)


def on(backend: Any, slow: float = 1.0, heavy: int = 1) -> Measurement:
    """What a machine does on which a backend takes as much more time and memory."""
    tries = [
        replace(
            one,
            peak_bytes=one.peak_bytes * heavy,
            stage_seconds={
                name: [slow * second for second in seconds]
                for name, seconds in one.stage_seconds.items()
            },
        )
        for one in USUAL.tries
    ]
    return replace(USUAL, backend=backend, tries=tries, base_bytes=BASE * heavy)


@pytest.fixture
def plan(digit_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """Plan on a machine with three backends, of which this is known."""
    monkeypatch.setattr(runtime, "installed_backends", lambda: INSTALLED)
    monkeypatch.setattr(runtime, "running_backend", lambda: None)

    def planned(**found: Measurement | Exception) -> Plan:
        def measure(manifest: Manifest, config: RunConfig, *_: Any) -> Measurement:
            one = found[config.runtime.backend]
            if isinstance(one, Exception):
                raise one
            return one

        monkeypatch.setattr("foveate.planning.concessions.measure", measure)
        return make_plan(digit_folders, CONFIG)[1]

    return planned


def reason(plan: Plan) -> str:
    return next(line.reason for line in plan.ledger if line.name == "backend")


@pytest.mark.parametrize("fastest", INSTALLED)
def test_the_fastest_is_taken(plan: Callable[..., Plan], fastest: str) -> None:
    chosen = plan(**{name: on(name, 1.0 if name == fastest else 3.0) for name in INSTALLED})
    assert chosen.backend == fastest
    assert chosen.apply(CONFIG).runtime.backend == fastest
    assert all(other in reason(chosen) for other in INSTALLED if other != fastest)


def test_one_that_does_not_fit_or_work_is_left_out(plan: Callable[..., Plan]) -> None:
    chosen = plan(
        tensorflow=on("tensorflow", 0.1, heavy=9), jax=RunError("broken"), torch=on("torch")
    )
    assert chosen.backend == "torch"
    assert "tensorflow does not fit" in reason(chosen)
    assert "jax failed its trial" in reason(chosen)


def test_one_without_an_accelerator_is_left_out(plan: Callable[..., Plan]) -> None:
    found = {name: on(name) for name in INSTALLED}
    mistake = ConfigError("budget.gpu_memory needs an accelerator")
    chosen = plan(**{**found, "tensorflow": mistake, "jax": mistake})
    assert chosen.backend == "torch"


def test_where_none_is_installed_it_is_told_what_to_do(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "installed_backends", tuple)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    with pytest.raises(MissingDependencyError, match="pip install"):
        plan()


def test_where_none_fits_the_smallest_budget_is_told(plan: Callable[..., Plan]) -> None:
    with pytest.raises(BudgetError, match=r"budget\.ram must be at least"):
        plan(**{name: on(name, heavy=9) for name in INSTALLED})


def test_without_a_plan_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="foveate plan"):
        runtime.choose_backend("fastest")
