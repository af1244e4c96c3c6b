"""What a run takes is counted over all its processes."""

from foveate.planning.guard import MemoryGuard, tree_bytes
from foveate.training.clock import Clock
from foveate.training.tally import Tally


def tally(moments: list[float]) -> Tally:
    """A tally whose clock tells these moments, one a question."""
    return Tally(Clock(iter(moments).__next__), MemoryGuard(2**40))


def test_time_adds_up_and_of_memory_the_most_counts() -> None:
    ours = tally([100.0, 130.0, 135.0])
    with ours.guard:
        pass
    before = ours.to_dict()
    assert before["seconds"] == 30.0
    assert 0 < before["peak_memory_bytes"] < 2 * tree_bytes()
    assert before["planning_seconds"] == 0.0
    ours.add({"seconds": 60.0, "planning_seconds": 20.0, "peak_memory_bytes": 2**39})
    taken = {"seconds": 95.0, "planning_seconds": 20.0, "peak_memory_bytes": 2**39}
    assert ours.to_dict() == taken


def test_planning_is_counted_by_itself_too() -> None:
    ours = tally([0.0, 5.0, 25.0, 30.0])
    with ours.clock.planning():
        pass
    taken = ours.to_dict()
    assert (taken["seconds"], taken["planning_seconds"]) == (30.0, 20.0)


def test_less_memory_than_now_changes_nothing() -> None:
    ours = tally([0.0, 1.0])
    ours.guard.peak_bytes = 20
    ours.add({"seconds": 0.0, "peak_memory_bytes": 10})
    assert ours.to_dict()["peak_memory_bytes"] == 20
