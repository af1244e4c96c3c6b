"""The time of a run: what is spent, what its end needs, how far a stage has come.

All moments are seconds of the run, from its start. Nothing here imports Keras, so that the
clock of the command line starts before Keras does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from foveate.errors import BudgetError

_SAFETY = 1.25
"""By how much what comes once may take longer than it did, on a machine that others use too."""
_FIRST_SECONDS = 10.0
"""Compiling, the first step and the first validation, until they are measured."""
_FEWEST_STEPS = 3
"""An epoch that could not take so many is not begun."""


class Clock:
    """Counts the seconds of a run; it starts when it is made.

    Args:
        now: Tells the time in seconds, from wherever.

    Attributes:
        started: What `now` told when the run began. `time.monotonic` tells all processes of a
            machine the same.
        planning_seconds: Those that planning took, which no plan foretells.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self.started = now, now()
        self.planning_seconds = 0.0

    @classmethod
    def of_process(cls) -> Clock:
        """Make one that started with this process."""
        clock = cls()
        clock.add(max(time.time() - psutil.Process().create_time(), 0.0))
        return clock

    @property
    def spent(self) -> float:
        """Seconds of the run so far."""
        return self._now() - self.started

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Count what goes on meanwhile as planning, too."""
        began = self.spent
        yield
        self.planning_seconds += self.spent - began

    def add(self, seconds: float) -> None:
        """Count what the run had spent before it was interrupted."""
        self.started -= seconds


class Pace:
    """How long things take, as far as they have been measured.

    Args:
        batch_size: Samples of a training batch.
        num_validated: Samples of a validation; 0 where there is none.
        planned: Seconds of judging a sample, as a plan has measured them; None without one.

    Attributes:
        batch: Mean seconds of a batch of the stage, loading included; 0 before its second one.
    """

    def __init__(self, batch_size: int, num_validated: int, planned: float | None = None) -> None:
        self._batch_size, self._num_validated = batch_size, num_validated
        self._planned = math.inf if planned is None else planned
        self._cold: float | None = None  # the first end of an epoch, which compiles
        self._warm: float | None = None  # the last one that did not
        self._compile = math.inf  # of the stage that compiled fastest
        self._trained = math.inf  # a sample, in the stage that trained fastest
        self._is_apart = False
        self.batch = 0.0
        self.start_stage()

    def start_stage(self, is_apart: bool = False) -> None:
        """Forget the batches of the stage before: other weights are trained.

        Args:
            is_apart: Whether the stage learns from stored features or smaller images: how long
                that takes says nothing of those that are judged.
        """
        if self._is_apart:
            self._cold = self._warm = None
        self._trained = self._sample
        self._is_apart = is_apart
        self.batch = 0.0
        self._first: float | None = None
        self._seconds, self._num_batches = 0.0, 0
        self._is_cold = True

    def add_forward(self, seconds: float, compiling: float) -> None:
        """Add what features told: seconds of a forward pass of a sample, and of compiling it."""
        self._trained = min(self._trained, seconds)
        self._compile = min(self._compile, compiling)

    def add_batch(self, seconds: float) -> None:
        """Add a training batch, from the end of the one before; the first compiles."""
        if self._first is None:
            self._first = seconds
            return
        self._seconds, self._num_batches = self._seconds + seconds, self._num_batches + 1
        self.batch = self._seconds / self._num_batches

    def add_epoch_end(self, seconds: float) -> None:
        """Add what followed the last batch of an epoch: validation and saving."""
        if self._is_cold:
            self._compile = min(self._compile, self.compiling or math.inf)
            self._cold = seconds
        else:
            self._warm = seconds
        self._is_cold = False

    @property
    def compiling(self) -> float:
        """What compiling a forward pass takes, at most: training compiles more than that."""
        here = math.inf
        if self._first is not None and not self._is_apart:
            here = max(self._first - self.batch, 0.0)
        compiling = min(self._compile, here)
        return compiling if math.isfinite(compiling) else 0.0

    @property
    def forward(self) -> float:
        """Seconds of judging a sample: as validation took, and no more than training did.

        Before a validation, as it was planned.
        """
        judged = self._planned
        if self._warm is not None and self._num_validated and not self._is_apart:
            judged = self._warm / self._num_validated
        judged = min(judged, self._sample)
        return judged if math.isfinite(judged) else 0.0

    @property
    def _sample(self) -> float:
        """Seconds of training on a sample; infinite before they are known."""
        here = 0.0 if self._is_apart else self.batch / self._batch_size
        return min(self._trained, here or math.inf)

    @property
    def epoch_end(self) -> float:
        """Seconds to expect between the last batch of an epoch and the next epoch."""
        known = self._cold if self._is_cold or self._warm is None else self._warm
        if known is None and self._is_apart:
            known = 0.0
        elif known is None:
            known = self.compiling + self._num_validated * self.forward
        return _SAFETY * known


class RunTime:
    """What a stated time leaves for training.

    Args:
        budget: Seconds that the run may take, `budget.time`.
        clock: What it has spent.
        pace: What was measured.
        num_judged: Samples that are judged after the training.
        end: Seconds that follow judging and cannot be measured before: saving, the report.
        is_resumed: Whether the run goes on: then it ends with what it has, however late.
    """

    def __init__(
        self,
        budget: float,
        clock: Clock,
        pace: Pace,
        num_judged: int,
        end: float,
        is_resumed: bool = False,
    ) -> None:
        self.clock, self.pace = clock, pace
        self._budget, self._num_judged = budget, num_judged
        self._is_resumed, self._end = is_resumed, end

    @property
    def training_end(self) -> float:
        """Moment at which the last validation must be over, so that there is time to judge."""
        judging = self.pace.compiling + _SAFETY * self._num_judged * self.pace.forward
        return self._budget - self._end - judging

    def require_enough(self) -> None:
        """Check that there is time for any model, as far as can be told by now.

        Raises:
            BudgetError: There is not.
        """
        ahead = self.pace.epoch_end
        if not ahead or not self.pace.batch:
            ahead += _FIRST_SECONDS
        needed = self.clock.spent + ahead + self._budget - self.training_end
        if self._is_resumed or needed <= self._budget:
            return
        enough = 5 * math.ceil(_SAFETY * needed / 5.0)
        raise BudgetError(
            f"A run must start, train, be judged and reported within budget.time, but got "
            f"{self._budget:.0f} s, of which {self.clock.spent:.0f} s have passed and about "
            f'{needed - self.clock.spent:.0f} s are needed at the end. Set it to "{enough}s" or '
            "more, or take a smaller backbone or image size."
        )


class StageTime:
    """The share of its time that a stage has spent, which its learning rate goes by.

    Its time begins when its first batch is done: what that took to compile says nothing of how
    far the stage has come. It ends with room for the validation of the last epoch.

    Args:
        run: The time of the whole run.
        weight: What the stage gets of the time that is left, relative to `after`.
        after: Weights of all stages after it.
        cycle: Batches of a step.
        is_apart: As for `Pace.start_stage`.

    Attributes:
        run: The time of the whole run.
        cycle: Batches of a step.
    """

    def __init__(
        self, run: RunTime, weight: float, after: float, cycle: int, is_apart: bool = False
    ) -> None:
        self.run = run
        self.cycle = cycle
        self._weight, self._after = weight, after
        self._began: float | None = None
        self._before = self._reached = 0.0
        run.pace.start_stage(is_apart)

    def begin(self) -> None:
        """Start to count."""
        self._began = self.run.clock.spent

    def resume_at(self, progress: float) -> None:
        """Go on from a share; what is left of the stage then fills what is left of its time."""
        self._before = self._reached = progress

    @property
    def end(self) -> float:
        """Moment at which the last batch must be done; it moves as the pace becomes known."""
        began = self.run.clock.spent if self._began is None else self._began
        ahead = self._weight * (1.0 - self._before)
        share = ahead / (ahead + self._after) if self._after else 1.0
        return began + share * (self.run.training_end - began) - self.run.pace.epoch_end

    @property
    def left(self) -> float:
        """Seconds of training that are left, negative when they are overdrawn."""
        return self.end - self.run.clock.spent

    def progress(self, ahead: float = 0.0) -> float:
        """Say which share of the stage is done, 0 to 1; it never falls.

        Args:
            ahead: How many seconds from now.
        """
        if self._began is not None:
            length = self.end - self._began
            spent = self.run.clock.spent + ahead - self._began
            share = min(spent / length, 1.0) if length > 0 else 1.0
            self._reached = max(self._reached, self._before + (1.0 - self._before) * share)
        return self._reached

    def has_room_to_begin(self) -> bool:
        """Say whether there would be time for more than compiling."""
        return self.left > self.run.pace.compiling

    def has_room_for(self, steps: int) -> bool:
        """Say whether so many steps fit into the time that is left."""
        return self.left >= steps * self.cycle * self.run.pace.batch

    def has_room_for_an_epoch(self, num_batches: int) -> bool:
        """Say whether an epoch is worth to begin: all of it fits, or at least a few steps.

        Args:
            num_batches: Of a whole epoch.
        """
        return self.has_room_for(max(min(_FEWEST_STEPS, num_batches // self.cycle), 1))
