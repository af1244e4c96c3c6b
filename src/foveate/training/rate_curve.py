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
from itertools import accumulate, pairwise
from typing import Literal

import numpy as np

_KEPT_OVER_A_DECADE = 0.25
"""What the smoothing keeps of itself while the rate rises tenfold: 0.89 a step at 12 steps, which
is the usual 0.9 at the usual number of steps."""
_DIVERGED = 1.25  # times the loss at the beginning
_SHARE_OF_FALL = 0.5
_CLEAR = 1.5  # standard deviations of a single loss; by chance the smoothed one falls by less

Ending = Literal["diverged", "reached the end"]


@dataclass(frozen=True)
class RateCurve:
    """The loss while the learning rate rises.

    Attributes:
        stage: The stage of a run that was tried: ``frozen`` or ``scratch``.
        rates: Learning rate of each step, rising by the same factor from step to step.
        losses: Training loss of each step, before the step is taken; finite.
        ended: Why there are no more: the loss has ``diverged``, or the last rate was tried.
    """

    stage: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    ended: Ending

    @property
    def smoothed(self) -> tuple[float, ...]:
        """The losses, smoothed; see `smooth`."""
        return smooth(self.rates, self.losses)

    @property
    def lowest(self) -> int:
        """The step of the lowest smoothed loss."""
        return int(np.argmin(self.smoothed))

    @property
    def start(self) -> float:
        """The loss that the fall begins from."""
        return beginning(self.rates, self.losses)[0]

    @property
    def suggestion(self) -> float | None:
        """A peak rate for the stage, to two digits: where half of the fall lies behind.

        That is where the smoothed loss first passes the middle between its beginning and its
        minimum. The usual choice is the rate of its steepest descent (Gugger, 2018), at which a
        fall of the usual shape is half done, too; but a slope depends on a few steps and their
        noise, while the middle of the fall rests on all of them. None where the loss did not
        fall clearly, or not before the last rate.
        """
        start, noise = beginning(self.rates, self.losses)
        smoothed, lowest = self.smoothed, self.lowest
        if not start - smoothed[lowest] > _CLEAR * noise:
            return None
        middle = start + _SHARE_OF_FALL * (smoothed[lowest] - start)
        first = next(step for step, loss in enumerate(smoothed) if loss <= middle)
        part = (smoothed[first - 1] - middle) / (smoothed[first - 1] - smoothed[first])
        low, high = self.rates[first - 1 : first + 1]
        return float(f"{low * (high / low) ** part:.2g}")


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


def beginning(rates: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """Look at the first tenfold rise of the rate, over which hardly anything is learned.

    Args:
        rates: The rate of each step, rising.
        losses: The loss of each step, at least one.

    Returns:
        Mean of the losses there; and the standard deviation of their noise, told by the
        differences between neighbours (von Neumann, 1941), so that a fall does not count as noise.
    """
    first = [loss for rate, loss in zip(rates, losses, strict=True) if rate <= 10 * rates[0]]
    differences = [after - before for before, after in pairwise(first)]
    noise = math.sqrt(float(np.mean(np.square(differences))) / 2) if differences else 0.0
    return float(np.mean(first)), noise


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
    start, noise = beginning(rates, losses)
    return smooth(rates, losses)[-1] > _DIVERGED * start + noise
