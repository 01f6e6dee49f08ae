"""Chunks: chosen for a step by timing it on samples of its data, and changed where that pays.

What a call would take is predicted for each way of cutting (`graphopt.makespan`) from runs of the real step on the real
executor (`graphopt.chunks.survey`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
from dask.utils import parse_bytes

from graphopt.chunks.choice import Candidate, Choice
from graphopt.chunks.executor import Executor, cache_sizes, executor_of, prior, run
from graphopt.chunks.sampling import Call, call_of, same
from graphopt.chunks.survey import Lab, Trial, Way, survey, typical
from graphopt.cost import in_units
from graphopt.makespan import Decision, Model, Option, Run, choose, fit

__all__ = ["auto_chunks", "auto_rechunk"]

#: The least bytes of a sample where there are as many, and the most: it must not stay in a cache that all data would not fit.
_LEAST, _MOST = 128 << 20, 128 << 20

#: The smallest chunks that are thought of, and the most of them.
_SMALL, _MANY = 128 << 10, 4096

#: What chunks in flight are taken to hold where it is not measured, times their size; and how much of free memory they may.
_HELD, _SHARE = 4.0, 0.7

#: Rows of the sample on which is tried whether results depend on how an axis is cut.
_FEW = 48


def auto_chunks(
    X: Any,
    step: Callable[..., Any],
    *others: Any,
    axes: Iterable[int] | int | None = None,
    iterations: float = 100,
    rounds: Callable[[int], float] | None = None,
    memory: int | str | None = None,
    measure: bool = True,
    seconds: float = 10.0,
    progress: Callable[[str], None] | None = None,
) -> Choice:
    """Choose chunks for the arrays of a step that is called again and again, by timing it on samples of them.

    The step is called as ``step(X, *others)``, on whatever runs it now: for a function that `compile` returned the replay, here
    or on the cluster of the active client; for another function the scheduler that dask would use. Arrays among the others
    that are as long as X along an axis are taken to be cut with it there.

    Parameters
    ----------
    X : dask array
        The data. Its chunks may be uneven, of unknown lengths, or sparse. Persist it before if it is to be; what is not in
        memory is loaded in each call, and is only cut into multiples of the chunks in which it is stored.
    step : callable
        What is called.
    *others
        Its other arguments.
    axes : int or iterable of int, optional
        The axes that may be cut: the step must give the same for any chunks along them. By default the first, and those that
        are cut already, if on a few rows the results prove to be the same; all others stay as they are.
    iterations : float
        How many calls there will be. A change must pay for itself in these.
    rounds : callable, optional
        How many times the calls there must be with so many chunks, where an algorithm's way depends on them: consensus ADMM
        takes more rounds with more parties.
    memory : int or str, optional
        The most bytes that chunks in flight, and joining chunks, may take in one process; by default 70 % of what is free.
    measure : bool
        False to go by the size of the data and usual costs alone, for a step that cannot be run yet.
    seconds : float
        How long the search may take, about, after the first call; what has begun is finished.
    progress : callable, optional
        Told in a few words after each trial.

    Returns
    -------
    Choice
        ``choice.chunks`` for X; ``choice.rechunk(X, *others)`` cuts. ``print(choice)`` says what was found.

    Raises
    ------
    TypeError
        If X is not a dask array, or the step cannot be called.
    ValueError
        If there is no such axis, or a number makes no sense.
    Exception
        What the step raises.

    Notes
    -----
    The time of a call is modelled as a cost of the call, of each chunk, of each row on the worker that is done last, and of
    each row beyond a knee, where chunks leave a cache. See ``docs/chunks.md``.

    Examples
    --------
    >>> import dask.array as da
    >>> X = da.ones((100_000, 4), chunks=(10, 4))
    >>> choice = auto_chunks(X, lambda X: X.sum(), measure=False)
    >>> choice.pays, choice.chosen.count < choice.present.count
    (True, True)
    """
    started = time.perf_counter()
    _check(X, step, iterations, seconds)
    call, notes = _independent(step, X, others, axes, measure and rounds is None)
    executor = executor_of(step)
    limit = float(parse_bytes(memory)) if memory is not None else _SHARE * executor.memory
    cell = call.cell_bytes() if measure else call.array.nbytes / max(1, call.cells)
    ways = _ways(call, executor, cell) if call.axes else []
    present: Way = {axis: call.array.chunks[axis] for axis in call.axes}
    here = next((place for place, way in enumerate(ways) if way == present), None)
    if here is None:
        here = sum(_count(way) < _count(present) for way in ways)
        ways.insert(here, present)
    model, held, sampled, extra = prior(executor, cell), _HELD * cell, 0, 0.0
    trials: list[Trial] = []
    failed: set[int] = set()
    if measure and len(ways) > 1 and call.cells:
        twin: Any = step.twin() if hasattr(step, "twin") else step
        lab = _lab(twin, call, executor, cell)
        sampled = int(cell * lab.sample.cells)
        if call.lazy:
            cold, warm = lab.loading()
            extra = max(0.0, cold - warm) * call.cells if cell * call.cells > executor.memory else 0.0
            notes.append(f"loading all of it takes {in_units(cold * call.cells)} the first time")
        trials, failed = survey(lab, ways, here, seconds - (time.perf_counter() - started), progress or (lambda text: None))
        if trials:
            model = fit([Run(trial.sizes, trial.seconds) for trial in trials], executor.workers)
            trial = next((trial for trial in trials if trial.call is not None), None)
            held = (lab.held(trial) if trial is not None else None) or held
            held += cell * call.lazy
        if twin is not step:
            twin.close()
    options = _options(call, ways, here, model, trials, executor, held, cell, extra)
    options = [replace(option, open=option.open and place not in failed) for place, option in enumerate(options)]
    if not call.axes:
        decision = Decision(0, "results", 0.0, 0.0)
    else:
        decision = choose(
            options,
            here,
            workers=executor.workers,
            calls=iterations,
            memory=limit,
            rounds=rounds,
            stored=call.lazy,
        )
    seen = {trial.place: trial for trial in trials}
    candidates = tuple(
        _candidate(call, way, option, model, seen.get(place), cell, extra)
        for place, (way, option) in enumerate(zip(ways, options, strict=True))
    )
    kept = [place for place, option in enumerate(options) if option.open or place in (here, decision.place)]
    way = ways[decision.place]
    return Choice(
        tuple(way.get(axis, lengths) for axis, lengths in enumerate(call.array.chunks)),
        tuple(candidates[place] for place in kept),
        candidates[decision.place],
        candidates[here],
        decision.bound,
        str(executor),
        iterations,
        model,
        sampled,
        time.perf_counter() - started,
        tuple(notes),
        call.axes,
        way,
        executor,
    )


def auto_rechunk(step: Callable[..., Any], X: Any, *others: Any, **options: Any) -> Any:
    """Return the arguments of a step, rechunked as `auto_chunks` chooses, or as they were where that does not pay.

    Parameters
    ----------
    step : callable
        What is called, as ``step(X, *others)``.
    X : dask array
        The data.
    *others
        Its other arguments.
    **options
        As in `auto_chunks`.

    Returns
    -------
    X, or the tuple of X and the others. Arrays that were in memory are there again.

    Raises
    ------
    TypeError, ValueError
        As `auto_chunks`, and whatever the step raises.

    Examples
    --------
    >>> import dask.array as da
    >>> X = da.ones((100_000, 4), chunks=(10, 4))
    >>> auto_rechunk(lambda X: X.sum(), X, measure=False).npartitions < X.npartitions
    True
    """
    if not isinstance(X, da.Array):
        return auto_chunks(X, step, *others, **options)  # which says what is wrong
    given = call_of(X, others, ()).arguments  # of known chunks, so that they are asked for once
    choice = auto_chunks(given[0], step, *given[1:], **options)
    if choice.pays:
        return choice.rechunk(*given)
    return (X, *others) if others else X


def _check(X: Any, step: Any, iterations: float, seconds: float) -> None:
    if not isinstance(X, da.Array):
        raise TypeError(f"X is a {type(X).__name__}: must be a dask array, such as da.from_array(X, chunks='auto') makes.")
    if not callable(step):
        raise TypeError(f"step is a {type(step).__name__}: must be a function, called as step(X, *others).")
    if not X.ndim:
        raise ValueError("X has no axis that could be cut.")
    for name, value in (("iterations", iterations), ("seconds", seconds)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r}: must be a number above 0.")


def _independent(step: Any, X: Any, others: Sequence[Any], axes: Any, tried: bool) -> tuple[Call, list[str]]:
    """Return the call with the axes along which it may be cut."""
    whole = call_of(X, others, ())
    X, others = whole.arguments[0], whole.arguments[1:]  # of known chunks
    if axes is not None:
        named = (axes,) if isinstance(axes, int) else tuple(axes)
        for axis in named:
            if not -X.ndim <= axis < X.ndim:
                raise ValueError(f"axes={axes!r}: X has no axis {axis}, only {X.ndim} of them.")
        return call_of(X, others, tuple(sorted({axis % X.ndim for axis in named}))), []
    wanted = (0, *[axis for axis in range(1, X.ndim) if X.numblocks[axis] > 1])
    call = call_of(X, others, wanted)
    if not tried:
        return call, []
    fn = getattr(step, "__wrapped__", step) if hasattr(step, "twin") else step
    free, notes = [], []
    for axis in wanted:
        if _stays_the_same(fn, call_of(X, others, (axis,))):
            free.append(axis)
        else:
            notes.append(f"the results depend on how axis {axis} is cut; axes= says otherwise")
    return call_of(X, others, tuple(free)), notes


def _stays_the_same(fn: Callable[..., Any], call: Call) -> bool:
    """Say whether a step gives the same on a few rows, in one piece and in three; true if that cannot be seen."""
    axis = call.axes[0]
    few = call.first(_FEW)
    length = few.array.shape[axis]
    if length < 3:
        return True
    third = length // 3
    pieces = ((length,), (third, third, length - 2 * third))

    def of(lengths: tuple[int, ...]) -> Callable[[], Any]:
        leaves = [
            leaf.rechunk({axis: lengths}) if axis in tied and isinstance(leaf, da.Array) else leaf
            for leaf, tied in zip(few.leaves, few.tied, strict=True)
        ]
        return lambda: fn(*replace(few, leaves=tuple(leaves)).arguments)

    try:
        whole = of(pieces[0])
        if not same(whole, whole):  # it draws random numbers, or counts
            return True
    except Exception:  # not on so few rows: the step itself will raise on all, if it does
        return True
    try:
        return same(whole, of(pieces[1]))
    except Exception:
        return False


def _lab(step: Callable[..., Any], call: Call, executor: Executor, cell: float) -> Lab:
    """Return what times the step: on a sample, or on all data if the step cannot do with a part of it."""
    axis = call.axes[0]
    length = call.array.shape[axis]
    row = cell * call.cells / max(1, length)
    most = min(_MOST, max(_LEAST, 2 * cache_sizes()[1]))
    rows = max(int(most / row), 2 * executor.workers * call.units[axis])
    sample = call.sample(rows)
    lab = Lab(step, call, sample, executor)
    if sample is not call:
        try:
            run(executor, step, call.sample(max(_FEW, call.units[axis])).arguments)
        except Exception:
            run(executor, step, call.arguments)  # if it raises here too, it is the step's own error
            lab = Lab(step, call, call, executor)
    return lab


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


def _options(
    call: Call,
    ways: Sequence[Way],
    here: int,
    model: Model,
    trials: Sequence[Trial],
    executor: Executor,
    held: float,
    cell: float,
    extra: float,
) -> list[Option]:
    """Predict each way."""
    made = sorted(
        (_count(ways[trial.place]), trial.once * call.cells / sum(trial.sizes)) for trial in trials if trial.place >= 0
    )
    copied = cell * call.cells
    tried = [_count(ways[trial.place]) for trial in trials if trial.place >= 0 and trial.place != here]
    smallest = max(tried, default=math.inf)
    options = []
    for place, way in enumerate(ways):
        sizes = call.sizes_of(way)
        once = 0.0
        if place != here and not call.lazy:
            usual = copied / 2e9 + 2e-4 * (len(sizes) + _count(ways[here]))
            once = float(np.interp(len(sizes), [count for count, _ in made], [took for _, took in made])) if made else usual
        needs = held * sum(sorted(sizes)[-executor.together :])
        if not call.lazy and max(sizes) > max(call.sizes):  # to join chunks takes a copy, to cut them does not
            needs += copied * executor.together / executor.workers
        options.append(Option(sizes, model.seconds(sizes) + extra, int(needs), once, len(sizes) <= smallest))
    return options


def _candidate(call: Call, way: Way, option: Option, model: Model, trial: Trial | None, cell: float, extra: float) -> Candidate:
    measured = None
    if trial is not None:
        measured = trial.seconds * model.seconds(option.sizes) / model.seconds(trial.sizes) + extra
    shape = tuple(typical(way.get(axis, lengths)) for axis, lengths in enumerate(call.array.chunks))
    nbytes = int(cell * math.prod(shape[axis] for axis in call.axes))
    return Candidate(len(option.sizes), shape, nbytes, option.seconds, measured, option.held, option.once)
