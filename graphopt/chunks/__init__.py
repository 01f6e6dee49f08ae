"""Chunks: chosen for a step by timing it on samples of its data, and changed where that pays.

What a call would take is predicted for each way of cutting (`graphopt.makespan`) from runs of the real step on the real
executor (`graphopt.chunks.survey`). The few that may be best are then timed on all of the data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import dask.array as da

from graphopt.chunks.axes import cuttable
from graphopt.chunks.choice import Choice
from graphopt.chunks.executor import executor_of
from graphopt.chunks.measuring import measured
from graphopt.chunks.sampling import call_of
from graphopt.chunks.space import candidates, guessed, options, space_of
from graphopt.makespan import Decision, choose

__all__ = ["auto_chunks", "auto_rechunk"]


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
    each row beyond a knee, where chunks leave a cache. The few ways that may be best by that are timed on all of the data, for
    which there is a copy of it for each of them meanwhile, of at most 1 GiB. See ``docs/chunks.md``.

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
    call, notes = cuttable(step, X, others, axes, tried=measure and rounds is None)
    space = space_of(call, executor_of(step), memory, weigh=measure)
    terms: dict[str, Any] = {"calls": iterations, "memory": space.limit, "rounds": rounds}
    if measure and len(space.ways) > 1 and call.cells:
        found = measured(step, space, terms, started + seconds, progress or (lambda text: None))
    else:
        found = guessed(space)
    known = options(space, found)
    if call.axes:
        decision = choose(known, space.here, workers=space.executor.workers, stored=call.lazy, **terms)
    else:
        decision = Decision(0, "results", 0.0, 0.0)
    rows = candidates(space, found, known)
    shown = {space.here, decision.place, *[place for place, one in enumerate(rows) if one.part or known[place].open]}
    way = space.ways[decision.place]
    return Choice(
        chunks=tuple(way.get(axis, lengths) for axis, lengths in enumerate(call.array.chunks)),
        candidates=tuple(rows[place] for place in sorted(shown)),
        chosen=rows[decision.place],
        present=rows[space.here],
        bound=decision.bound,
        executor=str(space.executor),
        calls=iterations,
        model=found.model,
        sampled=found.sampled,
        seconds=time.perf_counter() - started,
        notes=(*notes, *found.notes),
        _axes=call.axes,
        _way=way,
        _runs_on=space.executor,
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
