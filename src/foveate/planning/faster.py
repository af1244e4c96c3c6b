"""What else was tried at one batch size, and whether it is faster: a precision, loading."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

from foveate.planning.measurement import Measurement, Try, step_seconds
from foveate.planning.reckon import WORTH_IT


def fastest_first(measured: Measurement) -> list[Measurement]:
    """Give what was measured with each precision and loading that is faster by more than noise.

    Returns:
        Measurements as they would be with it at each batch size, by how it compares at one; last
        those that were given.
    """
    ways, fastest = [measured], None
    for other in measured.others:
        base = _base_of(measured, other)
        if step_seconds(fastest or base) > WORTH_IT * step_seconds(other):
            fastest = other
            tries = [_scaled(one, base, other) for one in measured.tries]
            ways.insert(0, replace(measured, tries=tries))
    return ways


def gains(measured: Measurement) -> tuple[float | None, float | None]:
    """Say how many times as fast another precision trains, and loading by processes.

    Each is None where it was not tried.
    """
    of_precision = of_processes = None
    for other in measured.others:
        base = _base_of(measured, other)
        if other.processes == base.processes:
            of_precision = step_seconds(base) / step_seconds(other)
            continue
        (alike,) = (
            one
            for one in (base, *measured.others)
            if (one.precision, one.processes) == (other.precision, base.processes)
        )
        of_processes = step_seconds(alike) / step_seconds(other)
    return of_precision, of_processes


def _base_of(measured: Measurement, other: Try) -> Try:
    """What was tried with the same batches, as all other batch sizes were."""
    return next(one for one in measured.tries if one.batch_size == other.batch_size)


def _scaled(one: Try, base: Try, other: Try) -> Try:
    factors = {
        name: mean(other.stage_seconds[name]) / mean(seconds)
        for name, seconds in base.stage_seconds.items()
    }
    judging = other.validation_seconds / base.validation_seconds if base.validation_seconds else 1
    forward = other.forward_seconds / base.forward_seconds if base.forward_seconds else 1
    return replace(
        one,
        peak_bytes=round(one.peak_bytes + max(other.peak_bytes - base.peak_bytes, 0)),
        stage_seconds={
            name: [factors[name] * second for second in seconds]
            for name, seconds in one.stage_seconds.items()
        },
        validation_seconds=one.validation_seconds * judging,
        forward_seconds=one.forward_seconds * forward,
        wait_shares=other.wait_shares,
        precision=other.precision,
        processes=other.processes,
    )
