"""What a process of the command imports together with Keras."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from foveate.scale import runtime

_SCRIPT = """
import gc, json, sys
from foveate.scale import runtime

if {is_ours}:
    runtime.own_process()
runtime.prepare("tensorflow")
collects = gc.isenabled()
import keras
found = [name for name in ("sklearn", "pandas", "jax") if name in sys.modules]
frozen = gc.get_freeze_count()
runtime.prepare("tensorflow")
frozen_later = gc.get_freeze_count() - frozen
import sklearn.linear_model, pandas
rows = len(pandas.DataFrame([1]))
print(json.dumps([found, frozen, frozen_later, collects, keras.backend.backend(), rows]))
"""


@pytest.mark.parametrize("is_ours", [True, False])
def test_only_the_command_does_without_what_keras_imports_for_others(is_ours: bool) -> None:
    for name in ("sklearn", "pandas", "jax"):
        pytest.importorskip(name)
    script = _SCRIPT.format(is_ours=is_ours)
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240
    )
    found, frozen, frozen_later, collects, backend, rows = json.loads(told.stdout.splitlines()[-1])
    assert (found == []) == is_ours
    assert (frozen > 0) == is_ours  # what others have in their process may become garbage
    assert frozen_later <= 0  # and so may what came after the import
    assert collects  # again
    assert (backend, rows) == ("tensorflow", 1)


def test_jax_takes_no_memory_of_an_accelerator_before_it_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unless the user says otherwise: https://docs.jax.dev/en/latest/gpu_memory_allocation.html."""
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.delenv(name)
    runtime.load()
    assert os.environ[name] == "false"
    monkeypatch.setenv(name, "true")
    runtime.load()
    assert os.environ[name] == "true"
