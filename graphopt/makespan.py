"""Makespan: how long a call takes by the size of its chunks, fitted to timed runs, and which chunks take least.

The model is the usual one for a loop over tasks of equal work (LogP's overhead and work, and one cache): a call costs
``call``, each chunk ``lane``, each row on the worker that is done last ``row``, and each row of a chunk beyond the ``knee``,
where its work leaves a cache, ``beyond`` on top. Chunks are dealt out whole, so that three chunks on two workers take as
long as four. Pure: no clock, no array.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

__all__ = ["Decision", "Model", "Option", "Run", "choose", "cut", "fit", "promising"]

#: Fits that are further off than this somewhere are bent to go through what was measured (relative).
_BAD = 0.03

#: A knee is believed if it takes this much off the squared error.
_KNEE = 0.5

#: A gain of less is noise: chunks stay (relative).
NOISE = 0.05

#: How far apart two predictions must be for the better one to be the better one: errors of a third do occur (relative).
UNSURE = 0.5


@dataclass(frozen=True, slots=True)
class Run:
    """A timed run: the sizes of its chunks, in rows, and the seconds it took."""

    sizes: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Model:
    """What a call takes, by its chunks.

    Attributes
    ----------
    workers : int
        How many chunks are worked on at once.
    call, lane, row : float
        Seconds for each call, chunk, and row on the worker that is done last.
    knee, beyond : float
        Rows of a chunk beyond the knee cost so many seconds more.
    idle : float
        With fewer chunks than workers, a call takes so many times what the costs above come to: a chunk that has the machine to
        itself is worked on faster, by BLAS in several threads perhaps.
    bends : tuple
        Where the fit was bad, pairs of the logarithms of a size and of measured over fitted, in between which is interpolated.

    Examples
    --------
    >>> model = Model(workers=2, call=1e-3, lane=1e-4, row=1e-6)
    >>> round(model.seconds([1000, 1000, 1000]), 6), round(model.seconds([1000] * 4), 6)
    (0.0033, 0.0034)
    """

    workers: int
    call: float
    lane: float
    row: float
    knee: float = math.inf
    beyond: float = 0.0
    idle: float = 1.0
    bends: tuple[tuple[float, float], ...] = ()

    def seconds(self, sizes: Sequence[int]) -> float:
        """Return the seconds of a call on chunks of these sizes."""
        parts = _parts(sizes, self.workers, self.knee)
        seconds = float(np.dot(parts, (self.call, self.lane, self.row, self.beyond)))
        if len(sizes) < self.workers:
            return seconds * self.idle
        if self.bends:
            places, ratios = zip(*self.bends, strict=True)
            seconds *= math.exp(float(np.interp(_place(sizes), places, ratios)))
        return seconds


def cut(rows: int, chunks: int, unit: int = 1) -> tuple[int, ...]:
    """Return the sizes of about that many equal chunks, each a multiple of a unit; the last may be shorter.

    >>> cut(10, 3), cut(10, 3, unit=3)
    ((4, 4, 2), (6, 4))
    """
    size = max(1, -(-rows // (max(1, chunks) * unit))) * unit
    whole, rest = divmod(rows, size)
    return (size,) * whole + ((rest,) if rest or not whole else ())


def _parts(sizes: Sequence[int], workers: int, knee: float) -> tuple[float, float, float, float]:
    """Return what each of a model's four costs is paid for: calls, chunks, and rows on the worker that is done last."""
    longest = max(sizes, default=0)
    if len(sizes) > 2 and min(sizes[:-1]) == longest:  # all the same but the last, which is short
        turns = -(-len(sizes) // workers)
        last = len(sizes) % workers == 1 or workers == 1
        rows = turns * longest - (longest - sizes[-1] if last else 0)
        over = turns * max(0.0, longest - knee)
        return 1.0, float(len(sizes)), float(max(rows, (turns - 1) * longest)), over
    done = [(0.0, 0.0)] * max(1, workers)
    for size in sizes:  # whoever is done first takes the next
        rows_, over_ = done[0]
        heapq.heapreplace(done, (rows_ + size, over_ + max(0.0, size - knee)))
    rows_, over_ = max(done)
    return 1.0, float(len(sizes)), rows_, over_


def _place(sizes: Sequence[int]) -> float:
    return math.log(max(1, *sizes))


def fit(runs: Iterable[Run], workers: int) -> Model:
    """Fit a model to timed runs, in relative error and with no negative cost.

    A knee is looked for among the sizes that were run and taken if it halves the squared error. Where the best fit is off by
    more than 3 % somewhere, predictions follow what was measured instead, interpolated between sizes on logarithmic
    scales.

    Parameters
    ----------
    runs : iterable of Run
        At least one; for the cost of a call apart from that of rows, runs on different numbers of rows.
    workers : int
        How many chunks are worked on at once.

    Raises
    ------
    ValueError
        If there are no runs, or one took no time.

    Notes
    -----
    Least squares without negative coefficients: Lawson and Hanson, *Solving Least Squares Problems* (1974), chapter 23.

    Examples
    --------
    >>> true = Model(workers=2, call=1e-3, lane=1e-4, row=1e-6)
    >>> shapes = [(1000,) * 8, (4000,) * 2, (250,) * 32, (250,) * 2]
    >>> found = fit([Run(sizes, true.seconds(sizes)) for sizes in shapes], workers=2)
    >>> round(found.call, 7), round(found.lane, 7), round(found.row, 9)
    (0.001, 0.0001, 1e-06)
    """
    runs = list(runs)
    if not runs:
        raise ValueError("fit: there are no runs.")
    if min(run.seconds for run in runs) <= 0:
        raise ValueError("fit: a run took no time.")
    alone = [run for run in runs if len(run.sizes) < workers]
    if alone and len(alone) < len(runs):
        model = fit([run for run in runs if len(run.sizes) >= workers], workers)
        most = max(sum(run.sizes) for run in alone)  # what BLAS gains in several threads depends on how much there is to do
        ratios = [run.seconds / model.seconds(run.sizes) for run in alone if sum(run.sizes) == most]
        return replace(model, idle=math.exp(float(np.mean(np.log(ratios)))))
    sizes = sorted({max(run.sizes) for run in runs})
    best, error = _fitted(runs, workers, math.inf)
    if len(sizes) >= 4:
        between = [math.sqrt(one * other) for one, other in pairwise(sizes)]
        kneed = min((_fitted(runs, workers, knee) for knee in [*sizes[:-1], *between]), key=lambda found: found[1])
        if kneed[1] < _KNEE * error:
            best = kneed[0]
    longest = {_place(run.sizes): run for run in sorted(runs, key=lambda run: len(run.sizes))}  # most chunks, for each size
    if len(alone) == len(runs):
        return best  # nothing is known of more chunks
    offs = tuple((place, math.log(run.seconds / best.seconds(run.sizes))) for place, run in sorted(longest.items()))
    return replace(best, bends=offs) if max(abs(off) for _, off in offs) > _BAD else best


def _fitted(runs: Sequence[Run], workers: int, knee: float) -> tuple[Model, float]:
    """Return the best model with this knee, and its squared error."""
    from scipy.optimize import nnls  # takes a while to import

    parts = np.array([_parts(run.sizes, workers, knee) for run in runs])
    seconds = np.array([run.seconds for run in runs])
    table = parts / seconds[:, None]
    scale = np.where(table.any(axis=0), np.abs(table).max(axis=0), 1.0)
    costs, off = nnls(table / scale, np.ones(len(runs)))
    call, lane, row, beyond = (float(cost) for cost in costs / scale)
    if not call + lane + row + beyond:  # pragma: no cover  nnls of ones has a positive solution
        row = float(seconds.max())
    return Model(workers, call, lane, row, knee if beyond else math.inf, beyond), off**2


@dataclass(frozen=True, slots=True)
class Option:
    """One way of cutting.

    Attributes
    ----------
    sizes : tuple of int
        Rows of each chunk.
    seconds : float
        Predicted for a call.
    held : int
        Bytes that the chunks in flight hold.
    once : float
        Seconds that cutting takes, once.
    open : bool
        Whether it may be chosen; not where others like it were tried and given up.
    """

    sizes: tuple[int, ...]
    seconds: float
    held: int = 0
    once: float = 0.0
    open: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """Which option is taken, what decided, and the seconds that it and staying take in all calls together."""

    place: int
    bound: str
    total: float
    stay: float


def promising(
    options: Sequence[Option],
    present: int,
    *,
    calls: float,
    memory: float = math.inf,
    rounds: Callable[[int], float] | None = None,
    most: int = 5,
) -> list[int]:
    """Return the places of the options that may be the best: the best, its neighbours, others that are near, and the present.

    Options are in the order of their sizes. Time goes down and up with size but once, more or less, so that a neighbour of the
    best which is far off was more likely timed in a bad moment.

    Parameters are those of `choose`, and ``most`` for how many there may be.

    Examples
    --------
    >>> options = [Option((8,), 4.0), Option((4, 4), 2.1), Option((2,) * 4, 2.4), Option((1,) * 8, 3.3)]
    >>> promising(options, 3, calls=100)
    [1, 2, 0, 3]
    """
    totals = _totals(options, calls, rounds)
    fitting = [place for place, option in enumerate(options) if option.open and option.held <= memory]
    order = sorted(fitting, key=lambda place: (totals[place], len(options[place].sizes)))
    near = [place for place in order if totals[place] <= (1 + UNSURE) * totals[order[0]]]
    beside = [place for place in order if abs(fitting.index(place) - fitting.index(order[0])) == 1]
    found = list(dict.fromkeys([*near[:1], *beside, *near]))
    found = found[: most - (present not in found[:most])]
    return found if present in found else [*found, present]


def choose(
    options: Sequence[Option],
    present: int | None,
    *,
    workers: int,
    calls: float,
    memory: float = math.inf,
    rounds: Callable[[int], float] | None = None,
    stored: bool = False,
) -> Decision:
    """Choose the option with the least predicted time for all calls; stay where changing does not pay.

    Parameters
    ----------
    options : sequence of Option
        What there is to choose from, in any order.
    present : int, optional
        The place of the option that is as it is now.
    workers : int
        How many chunks are worked on at once.
    calls : float
        How often the step is called.
    memory : float
        The most bytes that the chunks in flight may hold.
    rounds : callable, optional
        How many times the calls there must be, by the number of chunks.
    stored : bool
        Whether options are multiples of chunks as they are stored.

    Returns
    -------
    Decision
        Its ``bound`` says what decided: ``memory`` if a better option would hold too much, ``parallelism`` if fewer chunks
        would leave workers idle, ``stored chunks`` if no smaller ones can be read, ``present chunks`` if a change does not pay,
        and otherwise ``time``.

    Raises
    ------
    ValueError
        If there are no options, or ``rounds`` returns something that is not above 0.

    Examples
    --------
    >>> options = [Option((8,), 4.0), Option((4, 4), 2.1), Option((1,) * 8, 3.0)]
    >>> choose(options, 0, workers=2, calls=100)
    Decision(place=1, bound='parallelism', total=210.0, stay=400.0)
    >>> choose(options, 0, workers=2, calls=100, rounds=lambda chunks: 9 / chunks).place
    2
    """
    if not options:
        raise ValueError("choose: there are no options.")
    totals = _totals(options, calls, rounds)
    allowed = [place for place, option in enumerate(options) if option.open or place == present] or list(range(len(options)))
    order = sorted(allowed, key=lambda place: (totals[place], len(options[place].sizes)))
    fitting = [place for place in order if options[place].held <= memory]
    if not fitting:  # nothing fits: what holds least
        fitting = sorted(order, key=lambda place: options[place].held)[:1]
    best = fitting[0]
    stay = math.inf if present is None else totals[present]
    if present is not None and present in fitting and totals[best] > stay * (1 - NOISE):
        quicker = [place for place in fitting if totals[place] - options[place].once < stay * (1 - NOISE)]
        bound = "present chunks" if quicker else _bound(options, present, workers, stored)
        return Decision(present, bound, stay, stay)
    bound = "memory" if best != order[0] else _bound(options, best, workers, stored)
    return Decision(best, bound, totals[best], stay)


def _totals(options: Sequence[Option], calls: float, rounds: Callable[[int], float] | None) -> list[float]:
    """Return the seconds of all calls, and of the change."""
    return [calls * _factor(rounds, len(option.sizes)) * option.seconds + option.once for option in options]


def _factor(rounds: Callable[[int], float] | None, chunks: int) -> float:
    if rounds is None:
        return 1.0
    factor = float(rounds(chunks))
    if not 0 < factor < math.inf:
        raise ValueError(f"rounds({chunks}) is {factor}: must be a number above 0.")
    return factor


def _bound(options: Sequence[Option], best: int, workers: int, stored: bool) -> str:
    """Say what kept the best option from being larger or smaller still."""
    counts = [len(option.sizes) for option in options]
    if stored and len(options) > 1 and counts[best] == max(counts):
        return "stored chunks"
    if counts[best] > 1 and counts[best] <= workers and any(count < counts[best] for count in counts):
        return "parallelism"
    return "time"
