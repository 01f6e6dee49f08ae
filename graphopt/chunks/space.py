"""Space: the ways of cutting that a choice is made from, and what is expected of each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from dask.utils import parse_bytes

from graphopt.chunks.choice import Candidate
from graphopt.chunks.executor import Executor, prior
from graphopt.chunks.sampling import Call
from graphopt.chunks.survey import Trial, Way, typical
from graphopt.makespan import Model, Option

__all__ = ["Found", "Space", "candidates", "guessed", "options", "space_of"]

#: The smallest chunks that are thought of, and the most of them.
_SMALL, _MANY = 128 << 10, 4096

#: How many times what a call costs without chunks a run of a sample must take to say something of the chunks.
_TELLING = 2.0

#: What chunks in flight are taken to hold where it is not measured, times their size; and how much of free memory they may.
_HELD, _SHARE = 4.0, 0.7


@dataclass(frozen=True)
class Space:
    """What there is to choose from.

    Attributes
    ----------
    call : Call
        The call, with the axes that are cut.
    executor : Executor
        What runs it.
    cell : float
        Bytes of a cell, in all arrays that are cut.
    limit : float
        Bytes that chunks in flight may hold in one process.
    ways : tuple
        The ways of cutting, from the fewest chunks to the most; none if there is no axis to cut.
    here : int
        The place of the one that is there.
    """

    call: Call
    executor: Executor
    cell: float
    limit: float
    ways: tuple[Way, ...]
    here: int


@dataclass(frozen=True)
class Found:
    """What is known of the costs of a step.

    Attributes
    ----------
    model : Model
        The time of a call.
    held : float
        Bytes that a cell in flight holds, beside what is given.
    trials : list of Trial
        What was run, on samples and on all data.
    failed : set of int
        Places of ways in which the step raised.
    extra : float
        Seconds that loading takes more for all data than for a sample, which the system keeps in memory.
    sampled : int
        Bytes of the sample.
    notes : tuple of str
        What else is to be known.
    """

    model: Model
    held: float
    trials: Sequence[Trial] = ()
    failed: set[int] = field(default_factory=set)
    extra: float = 0.0
    sampled: int = 0
    notes: tuple[str, ...] = ()


def space_of(call: Call, executor: Executor, memory: int | str | None, *, weigh: bool) -> Space:
    """Return the ways of cutting a call; chunks that are not NumPy's are weighed if they may be looked at."""
    cell = call.cell_bytes() if weigh else call.array.nbytes / max(1, call.cells)
    limit = float(parse_bytes(memory)) if memory is not None else _SHARE * executor.memory
    ways = _ways(call, executor, cell) if call.axes else []
    present: Way = {axis: call.array.chunks[axis] for axis in call.axes}
    if present not in ways:
        ways = sorted([*ways, present], key=_count)
    return Space(call, executor, cell, limit, tuple(ways), ways.index(present))


def _ways(call: Call, executor: Executor, cell: float) -> list[Way]:
    """List the ways of cutting that are thought of: one chunk, and multiples of the workers that grow by powers of two."""
    counts = [1]
    while (counts[-1] == 1 or counts[-1] * 2 <= _MANY) and cell * call.cells / counts[-1] > _SMALL:
        counts.append(executor.workers if len(counts) == 1 and executor.workers > 1 else counts[-1] * 2)
    ways: list[Way] = []
    for count in counts:
        way = call.lengths(count)
        if way not in ways:
            ways.append(way)
    return sorted(ways, key=_count)


def _count(way: Way) -> int:
    return math.prod(len(lengths) for lengths in way.values())


def guessed(space: Space) -> Found:
    """Return what can be said of a step that is not run."""
    return Found(prior(space.executor, space.cell), _HELD * space.cell)


def options(space: Space, found: Found) -> list[Option]:
    """Return what is expected of each way: what was measured on all data, or else what the model says.

    Where two ways or more were in the finals only those are open: they were the best by the model, and what it says of others
    is not to win against what was measured. Chunks smaller than any that were tried are not open either; those of a sample
    that was so small that its run took little more than any call do not count as tried.
    """
    call, executor = space.call, space.executor
    copied = space.cell * call.cells
    trials = [trial for trial in found.trials if trial.place >= 0]
    finalists = {trial.place for trial in trials if trial.final}
    telling = [trial for trial in trials if sum(trial.sizes) >= call.cells or trial.seconds >= _TELLING * found.model.call]
    smallest = max([_count(space.ways[trial.place]) for trial in telling if trial.place != space.here], default=math.inf)
    cutting = sorted((_count(space.ways[trial.place]), trial.once * call.cells / sum(trial.sizes)) for trial in trials)
    counts, took = [count for count, _ in cutting], [seconds for _, seconds in cutting]
    out = []
    for place, way in enumerate(space.ways):
        sizes = call.sizes_of(way)
        count, once = _count(way), 0.0
        if place != space.here and not call.lazy:
            usual = copied / 2e9 + 2e-4 * (count + _count(space.ways[space.here]))
            once = float(np.interp(count, counts, took)) if cutting else usual
        needs = found.held * sum(sorted(sizes)[-executor.together :])
        if not call.lazy and max(sizes) > max(call.sizes):  # to join chunks takes a copy, to cut them does not
            needs += copied * executor.together / executor.workers
        measured = measured_of(space, found, place) if place in finalists else None
        seconds = found.model.seconds(sizes) + found.extra if measured is None else measured[0]
        is_open = place not in found.failed and (place in finalists if len(finalists) > 1 else count <= smallest)
        out.append(Option(sizes, seconds, int(needs), once, is_open))
    return out


def measured_of(space: Space, found: Found, place: int) -> tuple[float, float] | None:
    """Return the seconds of a call in one way as timed on the most data, reckoned up to all, and on what part of it."""
    runs = [trial for trial in found.trials if trial.place == place and trial.times]
    if not runs:
        return None
    trial = max(runs, key=lambda trial: (sum(trial.sizes), trial.final))
    whole = space.call.sizes_of(space.ways[place])
    part = sum(trial.sizes) / max(1, space.call.cells)
    up = 1.0 if part >= 1 else found.model.seconds(whole) / found.model.seconds(trial.sizes)
    return trial.seconds * up + found.extra, part


def candidates(space: Space, found: Found, options: Sequence[Option]) -> list[Candidate]:
    """Describe the ways."""
    finalists = {trial.place for trial in found.trials if trial.final}
    out = []
    for place, (way, option) in enumerate(zip(space.ways, options, strict=True)):
        shape = tuple(typical(way.get(axis, lengths)) for axis, lengths in enumerate(space.call.array.chunks))
        nbytes = int(space.cell * math.prod(shape[axis] for axis in space.call.axes))
        measured, part = measured_of(space, found, place) or (None, 0.0)
        predicted = found.model.seconds(option.sizes) + found.extra
        final = place in finalists
        out.append(Candidate(len(option.sizes), shape, nbytes, predicted, measured, part, final, option.held, option.once))
    return out
