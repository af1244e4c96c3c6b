"""The parts a user takes into code of their own, on each Keras backend."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("backend_script.py")
BACKENDS = ("tensorflow", "jax", "torch")


@pytest.fixture(scope="module", params=BACKENDS)
def outcome(
    request: pytest.FixtureRequest, on_backend: Callable[..., Any], digit_folders: Path
) -> Any:
    return on_backend(request.param, SCRIPT, str(digit_folders))


def test_fit_sees_every_row_once_an_epoch(outcome: Any) -> None:
    fit = outcome["fit"]
    for epoch in range(6):
        rows = Counter(row for number, *batch in fit["handed"] for row in batch if number == epoch)
        first_pass = [batch[1:] for batch in fit["handed"] if batch[0] == epoch]
        assert set(rows) == set(range(fit["num_rows"])), epoch
        # Building the model may look at the first batch once more; nothing else is read twice.
        assert len(first_pass) <= fit["num_batches"] + 1, epoch


def test_fit_learns_and_agrees_with_evaluate(outcome: Any) -> None:
    fit = outcome["fit"]
    assert fit["accuracy"] > 0.7  # three balanced classes: chance is 1/3
    assert fit["evaluated"] == pytest.approx(fit["accuracy"], abs=1e-6)
    assert fit["predicted"] == fit["validation_rows"]


def test_order_is_the_loaders_own(outcome: Any, digit_folders: Path) -> None:
    """Whatever Keras does with `shuffle`, batches come as (seed, epoch, position) say."""
    from foveate.config.settings import SplitConfig
    from foveate.data.loader import BatchLoader
    from foveate.data.manifest import Manifest
    from foveate.data.splits import assign_splits

    manifest = assign_splits(Manifest.from_folder(digit_folders), SplitConfig(), seed=0)
    loader = BatchLoader(manifest.split("train"), (8, 8), 16, shuffle=True, seed=1)
    expected = [loader.rows_at(position).tolist() for position in range(6 * len(loader))]
    handed = [batch[1:] for batch in outcome["fit"]["handed"]]
    if len(handed) > len(expected):  # the look at the first batch
        assert handed[0] == handed[1]
        handed = handed[1:]
    assert handed == expected


def test_weighted_mask_losses_train(outcome: Any) -> None:
    losses = outcome["weighted_masks"]
    assert losses[0] > losses[1] > losses[2] > 0


def test_accumulated_gradients_equal_the_large_batch(outcome: Any) -> None:
    assert outcome["accumulation"] < 1e-5


def test_an_epoch_cut_short_is_validated(outcome: Any) -> None:
    """Batches of a second: 44, less 8 for the end of the run, are up in the third epoch of 14."""
    cut = outcome["cut_short"]
    assert cut["why"] == "its time was up"
    assert 2 * 14 < cut["batches"] <= 44 - 8
    assert cut["batches"] % 2 == 0, "steps are whole"
    assert len(cut["epochs"]) == 3
