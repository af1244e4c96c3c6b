"""What a learning-rate range test found, and which rate follows from it. Nothing here needs Keras.

The test (Smith, "Cyclical Learning Rates for Training Neural Networks", 2017) trains while the
rate rises, here exponentially as it has become usual (Gugger, "How Do You Find A Good Learning
Rate", 2018): where the rate is too low the loss stands still, then it falls, and where the rate is
too high it rises again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np

_KEPT_OVER_A_DECADE = 0.25
"""What the smoothing keeps of itself while the rate rises tenfold: 0.89 a step at 12 steps, which
is the usual 0.9 at the usual number of steps."""
_SHARE_OF_FALL = 0.5
_CLEAR = 1.5  # standard deviations of single losses; by chance the smoothed one falls by less
_LEAST = 1e-3  # of the loss at the beginning; less is nothing, however little noise there is
_WORSE, _CLEARLY = 1.1, 2.0  # times the loss at the beginning; standard deviations beyond it

Ending = Literal["diverged", "reached the end"]


@dataclass(frozen=True)
class RateCurve:
    """The loss while the learning rate rises.

    Attributes:
        stage: The stage of a run that was tried: ``frozen`` or ``scratch``.
        step_size: Samples of each step.
        rates: Learning rate of each step, rising by the same factor from step to step.
        losses: Training loss of each step, before the step is taken; finite.
        ended: Why there are no more: the loss has ``diverged``, or the last rate was tried.
    """

    stage: str
    step_size: int
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    ended: Ending

    @property
    def smoothed(self) -> tuple[float, ...]:
        """The losses, smoothed; see `smooth`."""
        return smooth(self.rates, self.losses)

    @property
    def start(self) -> float:
        """The loss that the fall begins from."""
        return beginning(self.rates, self.losses)

    @property
    def lowest(self) -> int:
        """The step of the lowest smoothed loss, once enough losses are averaged."""
        first = min(num_first(self.rates), len(self.rates) - 1)
        return first + int(np.argmin(self.smoothed[first:]))

    @property
    def suggestion(self) -> float | None:
        """A peak rate for the stage, to two digits: where half of the fall is done.

        That is where the smoothed loss first passes the middle between its beginning and its
        minimum. The usual choice is the rate of its steepest descent (Gugger, 2018), at which a
        fall of the usual shape is half done, too; but a slope depends on a few steps and their
        noise, while the middle of the fall rests on all of them. None where the loss did not
        fall clearly.
        """
        smoothed, lowest = self.smoothed, self.lowest
        fall = self.start - smoothed[lowest]
        steps = range(num_first(self.rates), lowest + 1)
        middle = self.start - _SHARE_OF_FALL * fall
        passed = next((step for step in steps if smoothed[step] <= middle), None)
        if passed is None:
            return None
        if fall <= max(_CLEAR * noise(self.losses[: passed + 1]), _LEAST * self.start):
            return None
        return float(f"{self.rates[passed]:.2g}")


def smooth(rates: Sequence[float], losses: Sequence[float]) -> tuple[float, ...]:
    """Average the losses so far, each step counting less the longer ago it was.

    Args:
        rates: The rate of each step, rising by the same factor.
        losses: The loss of each step.

    Returns:
        The exponential moving average after each step, its bias to zero corrected (Kingma & Ba,
        "Adam", 2015). It reaches back over the same ratio of rates, however many steps that is.
    """
    if len(losses) < 2:
        return tuple(losses)
    decay = _KEPT_OVER_A_DECADE ** math.log10(rates[1] / rates[0])
    sums = accumulate(losses, lambda total, loss: decay * total + (1 - decay) * loss, initial=0.0)
    _, *totals = sums
    return tuple(total / (1 - decay**steps) for steps, total in enumerate(totals, start=1))


def num_first(rates: Sequence[float]) -> int:
    """Count the steps until the rate has risen tenfold, over which hardly anything is learned."""
    return sum(rate <= 10 * rates[0] for rate in rates)


def beginning(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Average the losses of the first steps, see `num_first`; at least one is needed."""
    return float(np.mean(losses[: num_first(rates)]))


def noise(losses: Sequence[float]) -> float:
    """Estimate by how much single losses scatter, whatever their trend.

    Args:
        losses: The loss of each step.

    Returns:
        Their standard deviation, told by the differences between neighbours (von Neumann, 1941).
    """
    if len(losses) < 2:
        return 0.0
    return math.sqrt(float(np.mean(np.square(np.diff(losses)))) / 2)


def has_diverged(rates: Sequence[float], losses: Sequence[float]) -> bool:
    """Tell whether training is worse off than when it began.

    Args:
        rates: The rate of each step so far, rising.
        losses: The loss of each step so far.

    Returns:
        Whether the smoothed loss has risen clearly above that of the beginning. A multiple of
        the best loss, the usual sign, is never reached by a bounded loss such as Dice's, and soon
        by one that has come close to 0.
    """
    scatter = noise(losses[: num_first(rates)])
    return smooth(rates, losses)[-1] > _WORSE * beginning(rates, losses) + _CLEARLY * scatter
