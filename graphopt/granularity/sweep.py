"""Sweep: at which duration of a task the efficiency of whatever runs it falls below a half, found with few runs.

Nothing is run or timed here: what measures, and the clock, are given. `sweep` is long because its phases go on from what the
runs before them showed, and share the clock and the runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from graphopt.cost import in_units

__all__ = ["Measure", "Sample", "crossing", "sweep"]

#: The sweep begins at this efficiency, if there is time for it, and goes down by this factor.
_BEGIN, _FACTOR = 0.9, 2.0

#: How often the durations around the crossing are run, at most, and how close they are to come to each other.
_RUNS, _FINE = 7, 1.12

#: How often the first duration is doubled at most: overhead may grow with the duration, where threads get in each other's way.
_DOUBLED = 2

#: Durations go down to this part of what an empty task costs, where efficiency is not lost before.
_LEAST = 64


@dataclass(frozen=True, slots=True)
class Sample:
    """What the runs of one duration took.

    Attributes
    ----------
    duration : float
        Seconds that the kernel of one task takes alone, on all cores at once: the median of what was measured.
    walls : tuple of float
        Seconds of each run of the whole grid.
    efficiencies : tuple of float
        Of each run, by the duration that was measured beside it.
    best : float
        The efficiency of the quickest run, by the quickest pace that the kernel was ever seen to have. On a machine with others
        to serve it is less than a quiet one would reach: a moment is quiet more often than a whole run.
    """

    duration: float
    walls: tuple[float, ...]
    efficiencies: tuple[float, ...]
    best: float

    @property
    def wall(self) -> float:
        """The median of the runs, in seconds."""
        return median(self.walls)

    @property
    def efficiency(self) -> float:
        """The median of the runs."""
        return median(self.efficiencies)


def crossing(curve: Sequence[tuple[float, float]], efficiency: float) -> float | None:
    """Return the shortest duration down to which an efficiency is kept.

    Efficiency can only fall as tasks become shorter, so what is crossed is the monotone curve that is nearest to all samples
    (isotonic regression): one bad moment of the machine is not taken for the end.

    Parameters
    ----------
    curve
        Durations and efficiencies, in any order.
    efficiency
        What is to be kept.

    Returns
    -------
    The duration between the last sample that keeps it and the first that does not, interpolated on the logarithm of the
    duration; infinity if none keeps it, and None if all do.

    Examples
    --------
    >>> round(crossing([(100, 0.9), (10, 0.6), (1, 0.4)], 0.5), 2)
    3.16
    """
    from scipy.optimize import isotonic_regression  # takes a moment to import

    if not curve:
        return math.inf
    durations, reached = zip(*sorted(curve), strict=True)
    fitted = [float(value) for value in isotonic_regression(reached).x]
    if fitted[-1] < efficiency:
        return math.inf
    first = next(i for i, value in enumerate(fitted) if value >= efficiency)
    if first == 0:
        return None
    share = (efficiency - fitted[first - 1]) / (fitted[first] - fitted[first - 1])
    return float(durations[first - 1] * (durations[first] / durations[first - 1]) ** share)


class Measure(Protocol):
    """Runs a grid of tasks of about this duration once; returns how long the kernel took alone, and the wall time."""

    def __call__(self, duration: float) -> tuple[float, float]:
        """Return both, in seconds."""


@dataclass
class _Runs:
    """The runs of one duration asked for."""

    durations: list[float] = field(default_factory=list)
    walls: list[float] = field(default_factory=list)

    def efficiencies(self, share: float) -> tuple[float, ...]:
        """Return the efficiency of each run."""
        return tuple([duration * share / wall for duration, wall in zip(self.durations, self.walls, strict=True)])


def sweep(
    measure: Measure,
    empty: float,
    share: float,
    *,
    efficiency: float = 0.5,
    seconds: float = 20.0,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[float, str], None] | None = None,
) -> tuple[Sample, ...]:
    """Measure efficiencies around the one asked for, for about so many seconds.

    From long tasks, of which there are more the quicker a run is, down by factors until efficiency is lost; then between the
    samples on both sides of it; then those again, a few times.

    Parameters
    ----------
    measure
        Runs a grid of tasks of a duration once, and returns the duration of the kernel alone and the wall time, in seconds.
    empty
        The wall time of a grid of empty tasks, in seconds.
    share
        Tasks for each core.
    efficiency
        What to look for.
    seconds
        How long to go on. A run that would take longer than a third of what is left is not begun, but for the first two.
    clock
        What to read the time from.
    progress
        Called after each run with the seconds that have passed and a few words.

    Returns
    -------
    The samples, from the longest duration to the shortest.
    """
    found: dict[float, _Runs] = {}
    start, slower = clock(), 1.0  # how much longer a run takes, with all that is measured, than it should

    def left() -> float:
        return seconds - (clock() - start)

    def fits(duration: float) -> bool:
        return (empty + duration * share) * slower < left() / 3

    def run(duration: float, times: int) -> float:
        nonlocal slower
        runs = found.setdefault(duration, _Runs())
        for number in range(times):
            if number and not fits(duration):
                break
            begun = clock()
            took, wall = measure(duration)
            slower = (clock() - begun) / (empty + duration * share)
            runs.durations.append(took)
            runs.walls.append(wall)
            if progress is not None:
                progress(clock() - start, f"{in_units(took)} tasks, {took * share / wall:.0%}")
        return median(runs.efficiencies(share))

    overhead = empty / share
    duration = overhead * _BEGIN / (1 - _BEGIN)
    while duration > 2 * overhead and not fits(duration):
        duration /= _FACTOR
    reached, doubled = run(duration, 2), 0
    while reached < (_BEGIN + efficiency) / 2 and doubled < _DOUBLED and fits(2 * duration * _FACTOR):
        duration, doubled = duration * _FACTOR, doubled + 1
        reached = run(duration, 2)
    while left() > 0 or len(found) < 3:
        at = crossing([(duration, median(runs.efficiencies(share))) for duration, runs in found.items()], efficiency)
        if at is None:
            duration = min(found) / _FACTOR
            if duration < overhead / _LEAST or not (fits(duration) or len(found) < 3):
                break
            if run(duration, 1) < efficiency:  # a bad moment?
                run(duration, 2)
            continue
        if math.isinf(at):
            break
        near = min(d for d in found if d >= at), max(d for d in found if d <= at)
        middle = math.sqrt(near[0] * near[1])
        duration = middle if near[0] / near[1] > _FINE else min(near, key=lambda d: len(found[d].walls))
        if not fits(duration) or (duration in found and len(found[duration].walls) >= _RUNS):
            break
        run(duration, 3 if duration not in found else 1)
    return _samples(found, share)


def _samples(found: Mapping[float, _Runs], share: float) -> tuple[Sample, ...]:
    pace = min([took / duration for duration, runs in found.items() for took in runs.durations])  # to what was asked for
    samples = []
    for duration in sorted(found, reverse=True):
        runs = found[duration]
        best = duration * pace * share / min(runs.walls)
        samples.append(Sample(median(runs.durations), tuple(runs.walls), runs.efficiencies(share), best))
    return tuple(sorted(samples, key=lambda sample: -sample.duration))
