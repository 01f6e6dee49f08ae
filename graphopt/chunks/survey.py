"""Survey: times a step on samples of its data, cut in several ways, within a bound of time.

Ways are tried from the largest chunks down, until smaller ones are clearly worse or most of the time is over; then those that
may be best take turns, so that a busy moment of the machine falls on all alike. What counts is the lower quartile of the times:
what else the machine does only ever adds to them, so it is nearer than the median to what a call takes, and steadier than the
least.
"""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from graphopt.chunks.executor import Executor, put, run
from graphopt.chunks.sampling import Call
from graphopt.makespan import Model, Run, fit

__all__ = ["Lab", "Trial", "Way", "lower_quartile", "survey", "typical"]

#: How the axes are cut: the lengths of the chunks along each.
Way = Mapping[int, tuple[int, ...]]

#: Runs before the first that counts: a plan that is new finds out in eight where several threads pay.
_WARM = {"compiled": 9, "compiled on a cluster": 4}

#: As many of those must be: a plan is made in the first, checked in the second, and bound anew in neither from then on.
_MUST = 2

#: The most chunks in a sample: each takes its time to make, and to run.
_MOST = {"compiled": 4096, "compiled on a cluster": 64, "threads": 256, "sync": 256, "processes": 64, "cluster": 64}

#: Beyond so many times the best a way is given up, and two such in a row end the search; finals are for those this near.
_GIVEN_UP, _FINAL = 2.0, 1.2

#: Those this near are tried again a few times, and at least once: a first time may have been a bad moment.
_AGAIN, _ONCE_MORE = 2.0, 5.0

_ROUNDS, _FINAL_ROUNDS = 5, 12

#: So many ways are tried, whatever it takes.
_LEAST = 3


@dataclass
class Trial:
    """A sample that is cut in one way, and what it took.

    Attributes
    ----------
    place : int
        Of the way among the ways; -1 for the run that shows what a call costs without work.
    sizes : tuple of int
        Cells of each chunk of the sample.
    once : float
        Seconds that cutting took.
    call : Any
        What to run.
    times : list of float
        Seconds of each run.
    """

    place: int
    sizes: tuple[int, ...]
    once: float = 0.0
    call: Any = None
    times: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The lower quartile."""
        return lower_quartile(self.times)


def lower_quartile(times: Sequence[float]) -> float:
    """Return the time that a quarter of the runs were as fast as."""
    return sorted(times)[(len(times) - 1) // 4]


class Timer(Protocol):
    """What the survey asks: the seam at which tests put a clock and times of their own."""

    workers: int
    cells: int

    def clock(self) -> float:
        """Return the time in seconds."""

    def trial(self, place: int, way: Way, *, few: bool = False) -> Trial | None:
        """Cut a sample in one way; None if too few chunks of it would keep the workers busy."""

    def warm(self, trial: Trial, seconds: float) -> None:
        """Run a trial until it runs as it will."""

    def time(self, trial: Trial) -> None:
        """Run a trial, and note the seconds."""


class Lab:
    """Times a step on samples of its arguments.

    Parameters
    ----------
    step
        What is called.
    call
        With what.
    sample
        The same with a sample of the rows, or all.
    executor
        What runs it.
    """

    def __init__(self, step: Callable[..., Any], call: Call, sample: Call, executor: Executor) -> None:
        self.step, self.call, self.sample, self.executor = step, call, sample, executor
        self.workers, self.cells = executor.workers, call.cells
        self.most = _MOST[executor.kind]

    def clock(self) -> float:
        """Return the time in seconds."""
        return time.perf_counter()

    def trial(self, place: int, way: Way, *, few: bool = False) -> Trial | None:
        """Cut a sample in one way; None if too few chunks of it would keep the workers busy."""
        axis = self.call.axes[0]
        count = math.prod(len(lengths) for lengths in way.values())
        start = self.clock()
        if self.sample is self.call and count <= self.most and not few:
            call = self.call.rechunked(way, self.executor)
        else:
            length = typical(way[axis])
            beside = count // len(way[axis])
            rows = min(self.sample.array.shape[axis] // length, max(1, self.most // beside))
            rows = -(-self.workers // beside) if few else rows - rows % -(-self.workers // math.gcd(beside, self.workers))
            if count < self.workers and not few:  # as few chunks, as large as the sample gives
                rows, length = len(way[axis]), max(1, self.sample.array.shape[axis] // len(way[axis]))
            if rows < 1 or rows * length > self.sample.array.shape[axis] or rows * beside < min(self.workers, count):
                return None
            call = self.sample.first(rows * length).rechunked({**way, axis: (length,) * rows}, self.executor)
        return Trial(place, call.sizes, self.clock() - start, call)

    def warm(self, trial: Trial, seconds: float) -> None:
        """Run a trial until it runs as it will, or that many seconds are over."""
        start = self.clock()
        for number in range(_WARM.get(self.executor.kind, 1)):
            self._run(trial)
            if number >= _MUST and self.clock() - start > seconds:
                break

    def time(self, trial: Trial) -> None:
        """Run a trial and note the seconds; what is quick more than once, after others have had the caches."""
        start = self.clock()
        self._run(trial)
        first = self.clock() - start
        if first > 0.05:
            trial.times.append(first)
            return
        for _ in range(3):
            start = self.clock()
            self._run(trial)
            trial.times.append(self.clock() - start)

    def held(self, trial: Trial) -> float | None:
        """Return the bytes that a run holds for each cell in flight, beside what it is given; None if it cannot be seen."""
        if self.executor.client is not None or self.executor.kind == "processes" or tracemalloc.is_tracing():
            return None
        tracemalloc.start()
        try:
            self._run(trial)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        return peak / max(1, sum(sorted(trial.sizes)[-self.workers :]))

    def loading(self) -> tuple[float, float]:
        """Return the seconds of loading a sample for the first and for the second time, for each cell."""
        took = []
        for _ in range(2):
            start = self.clock()
            put(self.executor, [self.sample.array])
            took.append((self.clock() - start) / max(1, self.sample.cells))
        return took[0], took[1]

    def _run(self, trial: Trial) -> None:
        run(self.executor, self.step, trial.call.arguments)


def typical(lengths: Sequence[int]) -> int:
    """Return the length of the chunk in which a row is on average: that of all where they are even."""
    return max(1, round(sum(length * length for length in lengths) / max(1, sum(lengths))))


def survey(
    timer: Timer, ways: Sequence[Way], here: int, seconds: float, say: Callable[[str], None]
) -> tuple[list[Trial], set[int]]:
    """Time ways of cutting, from the largest chunks to the smallest, for about that many seconds.

    The way that is there already, the one at ``here``, comes first: whatever else is found is compared with it.

    Returns
    -------
    What was run, and the places of ways in which the step raised: with chunks so large it may want more memory than there is.

    Raises
    ------
    Exception
        What the step raised, if it did so in all ways.
    """
    start = timer.clock()
    trials: list[Trial] = []
    worse, errors = 0, dict[int, Exception]()
    for place in [here, *[place for place in range(len(ways)) if place != here]]:
        way = ways[place]
        if len(trials) >= _LEAST and (timer.clock() - start > 0.6 * seconds or worse >= 2):
            break
        try:
            trial = timer.trial(place, way)
            if trial is None:
                continue
            timer.warm(trial, seconds / 10)
            if not trials:
                start = timer.clock()  # what the first call takes to compile, and to wake who runs it, is not for the bound
            timer.time(trial)
        except Exception as error:
            errors[place] = error
            if len(errors) >= _LEAST and not trials:
                break
            continue
        trials.append(trial)
        say(f"{len(trial.sizes)} chunks: {1e3 * trial.seconds:.3g} ms")
        enough = place != here and len(trial.sizes) >= 2 * timer.workers  # fewer may be slow because workers wait
        worse = worse + 1 if enough and _rate(trial) > _GIVEN_UP * min(map(_rate, trials)) else 0
    if not trials:
        if errors:
            raise next(iter(errors.values()))
        return trials, set()
    if any(sum(trial.sizes) != timer.cells for trial in trials):  # or it could not be told from the work
        smallest = max(trials, key=lambda trial: trial.place)
        least = timer.trial(-1, ways[smallest.place], few=True)
        if least is not None and timer.clock() - start < seconds:
            timer.warm(least, seconds / 20)
            timer.time(least)
            trials.append(least)
    for number in range(_ROUNDS + _FINAL_ROUNDS):
        final = number >= _ROUNDS
        model = fit([Run(trial.sizes, trial.seconds) for trial in trials], timer.workers) if final else None
        rates = [_rate(trial, model, timer.cells) for trial in trials]
        near = min(rate for rate, trial in zip(rates, trials, strict=True) if trial.place >= 0)
        near *= _FINAL if final else _AGAIN if number else _ONCE_MORE
        for rate, trial in zip(rates, trials, strict=True):
            if timer.clock() - start > seconds:
                return trials, set(errors)
            if trial.call is not None and (rate <= near or (trial.place < 0 and not final)):
                timer.time(trial)
        say(f"turn {number + 1} of {_ROUNDS + _FINAL_ROUNDS}")
    return trials, set(errors)


def _rate(trial: Trial, model: Model | None = None, cells: int = 1) -> float:
    """Return the seconds for each cell, with a model of as many as there are in all."""
    here = sum(trial.sizes)
    if model is None or here == cells or len(trial.sizes) < model.workers:
        return trial.seconds / here
    longest = max(trial.sizes)
    whole = (longest,) * max(1, round(cells / longest))
    return trial.seconds * model.seconds(whole) / model.seconds(trial.sizes) / cells
