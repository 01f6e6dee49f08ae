"""Survey: times a step on samples of its data, cut in several ways, within a bound of time.

Ways are tried from the largest chunks down, every other at first, until smaller ones are clearly worse or most of the time is
over: what is quick may be as small as a cache, and a dozen of ways on a cluster take longer than anybody waits. Then those that
may be best take turns, so that a busy moment of the machine falls on all alike. What counts is the median: in a long loop most
calls take that, and it is what a prediction can be held to.

`finals` are the same on all of the data, or as much of it as is bearable, for the few ways that may be the best by what the
samples showed. A sample does not show it all: where threads of BLAS and of dask get into each other's way, or what it takes to
bring together the results of many chunks, does not go with the rows. The difference between good ways is smaller than that.
"""

from __future__ import annotations

import math
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from graphopt.chunks.executor import Executor, put, run
from graphopt.chunks.sampling import Call

__all__ = ["Lab", "Trial", "Way", "finals", "survey", "typical"]

#: How the axes are cut: the lengths of the chunks along each.
Way = Mapping[int, tuple[int, ...]]

#: Runs before the first that counts: a plan that is new finds out in eight where several threads pay. And memory for large
#: temporaries that a process never had takes twice as long as the work itself.
_WARM = {"compiled": 9, "compiled on a cluster": 4, "threads": 3, "sync": 3}

#: As many of those must be: a plan is made in the first, checked in the second, and bound anew in neither from then on.
_MUST = 2

#: The most chunks in a sample: each takes its time to make, and to run.
_MOST = {"compiled": 4096, "compiled on a cluster": 64, "threads": 256, "sync": 256, "processes": 64, "cluster": 64}

#: Beyond so many times the best a way is given up, and two such in a row, or one beyond the square, end the search.
_GIVEN_UP = 2.0

#: Those this near are tried again a few times, and at least once: a first time may have been a bad moment.
_AGAIN, _ONCE_MORE, _ROUNDS = 2.0, 5.0, 3

#: In finals, how near ways must be after a few rounds to go on, and the rounds. Those that are worse than what is given up in a
#: survey have one more turn, or none, as there.
_NEAR, _FEW_ROUNDS, _FINAL_ROUNDS = 1.15, 3, 30

#: How many calls of a turn count, by the seconds up to which the first takes. That does not: it finds caches, and the memory
#: that is to be had, as another way left them, and takes a third longer. Beyond, more turns say more than more calls in a turn.
_TURN = {0.004: 5, 0.02: 3, 0.1: 2}

#: So many ways are tried, whatever it takes.
_LEAST = 3


@dataclass(eq=False)
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
    final : bool
        Whether it was in the finals.
    """

    place: int
    sizes: tuple[int, ...]
    once: float = 0.0
    call: Any = None
    times: list[float] = field(default_factory=list)
    final: bool = False

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(self.times)


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
        self.most: float = _MOST[executor.kind]

    def larger(self, rows: int) -> Lab:
        """Return the same with more rows in the sample, and with as many chunks as there are."""
        if self.sample is self.call and self.most == math.inf:
            return self
        larger = type(self)(
            self.step, self.call, self.call if self.sample is self.call else self.call.sample(rows), self.executor
        )
        larger.most = math.inf
        return larger

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
            rows = int(min(self.sample.array.shape[axis] // length, max(1, self.most // beside)))
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
        """Run a trial and note the seconds: of some runs if it is quick, and of the first only if that takes long."""
        first = self._run(trial)
        more = next((calls for most, calls in _TURN.items() if first <= most), 0)
        trial.times += [self._run(trial) for _ in range(more)] or [first]

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

    def _run(self, trial: Trial) -> float:
        """Run a trial; return the seconds."""
        start = self.clock()
        run(self.executor, self.step, trial.call.arguments)
        return self.clock() - start


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
    last = len(ways)  # the place beyond which ways are given up
    for place in _order(len(ways), here):
        way = ways[place]
        if len(trials) >= _LEAST and timer.clock() - start > 0.75 * seconds:
            break
        if place > last and len(trials) >= _LEAST:
            continue
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
        times = _rate(trial) / min(map(_rate, trials)) if enough else 1.0
        worse = 0 if times <= _GIVEN_UP else worse + 1 + (times > _GIVEN_UP**2)
        if worse >= 2:
            last = min(last, place)
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
    for number in range(_ROUNDS):
        near = min(map(_rate, (trial for trial in trials if trial.place >= 0))) * (_AGAIN if number else _ONCE_MORE)
        for trial in trials:
            if timer.clock() - start > seconds:
                return trials, set(errors)
            if trial.call is not None and (_rate(trial) <= near or trial.place < 0):
                timer.time(trial)
        say(f"turn {number + 1} of {_ROUNDS}")
    return trials, set(errors)


def _order(count: int, here: int) -> list[int]:
    """Return the order in which ways are tried: the present one, every other from the largest chunks down, then the rest."""
    coarse = [0, *range(1, count, 2)]
    return list(dict.fromkeys([here, *coarse, *range(count)]))


def _rate(trial: Trial) -> float:
    """Return the seconds for each cell."""
    return trial.seconds / sum(trial.sizes)


def finals(
    timer: Timer,
    ways: Sequence[Way],
    places: Sequence[int],
    trials: Sequence[Trial],
    seconds: Callable[[int], float],
    until: float,
    say: Callable[[str], None],
) -> tuple[list[Trial], set[int]]:
    """Let a few ways take turns on all of the data, until the clock says so.

    Parameters
    ----------
    timer
        Runs them; its sample is all of the data, or what is bearable of it.
    ways
        The ways.
    places
        Which of them, the most promising first.
    trials
        What was run already; what was on all of the data goes on.
    seconds
        Says how long it will take, about, to cut the data in the way at a place and to run it a few times.
    until
        When the clock says this it is over. What would not be done by then is not begun.
    say
        Told in a few words after each turn.

    Returns
    -------
    The trials, those that go on among them, none if there are not two to compare; and the places of ways that raised.
    """
    going: list[Trial] = []
    errors: set[int] = set()
    there = {trial.place: trial for trial in trials if sum(trial.sizes) == timer.cells and trial.call is not None}
    for place in places:
        trial = there.get(place)
        if trial is None and timer.clock() + seconds(place) > until:
            continue
        try:
            if trial is None:
                trial = timer.trial(place, ways[place])
                if trial is None:
                    continue
                timer.warm(trial, 0.1 * (until - timer.clock()))
            if not trial.times or timer.clock() < until:
                timer.time(trial)
        except Exception:  # it went well on a sample: all data in chunks so large may want more memory than there is
            errors.add(place)
            continue
        going.append(trial)
        say(f"{len(trial.sizes)} chunks, on all data: {1e3 * trial.seconds:.3g} ms")
    if len(going) < 2:
        return [], errors
    for trial in going:
        trial.final = True
    for number in range(_FINAL_ROUNDS):
        near = min(map(_rate, going)) * (_NEAR if number >= _FEW_ROUNDS else _GIVEN_UP if number else _GIVEN_UP**2)
        for trial in going:
            if timer.clock() > until:
                return going, errors
            if _rate(trial) <= near:
                timer.time(trial)
        say(f"final {number + 1} of {_FINAL_ROUNDS}")
    return going, errors
