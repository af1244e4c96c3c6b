"""Memory that is freed stays with a run, until it is given back or where memory is stated."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import json
import numpy as np
from foveate.planning.memory import give_back, resident_bytes
from foveate.config.files import load_config
from foveate.scale.allocation import settle_allocation

settle_allocation(load_config(overrides={overrides}))

def fill():
    blocks = [np.ones(2**26, np.uint8), *(np.ones(2**18, np.uint8) for _ in range(256))]
    return sum(block.nbytes for block in blocks)

before = resident_bytes()
filled = fill()
freed = resident_bytes() - before
fill()
again = resident_bytes() - before
give_back()
print(json.dumps([freed / filled, again / filled, (resident_bytes() - before) / filled]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
@pytest.mark.parametrize(
    ("overrides", "keeps"),
    [({}, True), ({"budget.time": "10m"}, True), ({"budget.ram": "2GiB"}, False)],
)
def test_what_is_freed_is_kept_and_used_again(overrides: dict[str, str], keeps: bool) -> None:
    told = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(overrides=overrides)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    freed, again, given_back = json.loads(told.stdout)
    assert (freed > 0.95) == keeps
    assert again < 1.1  # nothing is left unused beside it
    assert given_back < 0.1
