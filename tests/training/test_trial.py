"""What a trial makes of the steps that it times."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from foveate.training.trial import _StepTimes


@pytest.mark.parametrize("waits", [0.0, 0.9])
def test_compiling_is_no_part_of_the_time_in_which_data_is_waited_for(waits: float) -> None:
    """Slow loading would go unnoticed behind the first step, a hundred times as long."""
    loader: Any = SimpleNamespace(wait_seconds=0.0)
    watch = _StepTimes(loader)
    watch.set_model(SimpleNamespace(stop_training=False))
    batch = 0
    while not watch.model.stop_training:
        seconds = 0.5 if not batch else 0.005
        time.sleep(seconds)
        if batch:
            loader.wait_seconds += waits * seconds
        watch.on_train_batch_end(batch)
        batch += 1
    assert watch.compiling > 0.4
    assert watch.wait_share == pytest.approx(waits, abs=0.3)
