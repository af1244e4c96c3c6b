"""What else was tried at one batch size, and whether it is faster: a precision, loading."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

from foveate.planning.measurement import WAYS, Measurement, Try, step_seconds
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
            tries = [_scaled(one, base, other, measured.base_bytes) for one in measured.tries]
            ways.insert(0, replace(measured, tries=tries))
    return ways


def gains(measured: Measurement) -> dict[str, float]:
    """Say how many times as fast training is with what was tried, by which of `WAYS` that is."""
    found: dict[str, float] = {}
    known = [_base_of(measured, other) for other in measured.others[:1]]
    for other in measured.others:
        fastest = min(known, key=step_seconds)
        (way,) = (name for name in WAYS if getattr(other, name) != getattr(fastest, name))
        found[way] = step_seconds(fastest) / step_seconds(other)
        known.append(other)
    return found


def _base_of(measured: Measurement, other: Try) -> Try:
    """What was tried with the same batches, as all other batch sizes were."""
    return next(one for one in measured.tries if one.batch_size == other.batch_size)


def _scaled(one: Try, base: Try, other: Try, base_bytes: int) -> Try:
    more = max(other.peak_bytes - base.peak_bytes, 0)
    less = 1.0  # of what training takes, where it keeps fewer activations
    if other.unfreeze < base.unfreeze and other.peak_bytes < base.peak_bytes:
        less = (other.peak_bytes - base_bytes) / (base.peak_bytes - base_bytes)
    factors = {
        name: mean(other.stage_seconds[name]) / mean(seconds)
        for name, seconds in base.stage_seconds.items()
    }
    judging = other.validation_seconds / base.validation_seconds if base.validation_seconds else 1
    forward = other.forward_seconds / base.forward_seconds if base.forward_seconds else 1
    return replace(
        one,
        peak_bytes=round(base_bytes + less * (one.peak_bytes - base_bytes) + more),
        stage_seconds={
            name: [factors[name] * second for second in seconds]
            for name, seconds in one.stage_seconds.items()
        },
        validation_seconds=one.validation_seconds * judging,
        forward_seconds=one.forward_seconds * forward,
        wait_shares=other.wait_shares,
        precision=other.precision,
        unfreeze=other.unfreeze,
        processes=other.processes,
    )
