"""Iterate: a loop around a compiled step, here or on the workers of a cluster."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from graphopt.compiled import Compiled
from graphopt.compiled import compile as compile_
from graphopt.tree import flatten, unflatten

__all__ = ["iterate"]


def iterate(
    step: Callable[..., Any],
    state: Any,
    *data: Any,
    until: Callable[..., Any] | None = None,
    max_iter: int,
    progress: Callable[[int, Any], None] | None = None,
) -> Any:
    """Repeat ``state = step(state, *data)``, and return the last state.

    Where a distributed client is active and the state is small, the loop itself runs on the workers: each has the whole state,
    they exchange partial results among themselves, and the client only hears how far they are. The results are the same as
    those of the loop written out. A state that is chunked stays on its workers, and the client asks for each iteration.

    Parameters
    ----------
    step : callable
        A function that `compile` takes, or one that it returned.
    state
        What the first iteration starts from: small arrays, numbers and chunked arrays in any nesting. The step returns a
        state of the same structure.
    *data
        The other arguments of the step.
    until : callable, optional
        The stopping rule: ``until(state)``, or ``until(old, state)``, is called after each iteration with plain arrays and
        numbers, and ends the loop if it is true. It runs where the loop runs, on every worker, so it must be a function of its
        arguments alone.
    max_iter : int
        The most iterations.
    progress : callable, optional
        Called with the number of iterations and the state, now and then: on a cluster at most ten times a second, from another
        thread.

    Returns
    -------
    The last state.

    Raises
    ------
    ClusterError
        If the cluster lost data that dask cannot compute again.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> X = da.ones((8, 2), chunks=(2, 2)).persist()
    >>> def step(beta, X):
    ...     return beta - X.T.dot(X.dot(beta) - 1) / 32
    >>> iterate(step, np.zeros(2), X, until=lambda old, new: abs(new - old).max() < 1e-9, max_iter=100).round(6)
    array([0.5, 0.5])
    """
    compiled: Compiled = step if isinstance(step, Compiled) else compile_(step)
    pair = until is not None and _takes_two(until)
    number, before, refused = 0, None, False
    while number < max_iter:
        found = None if refused else compiled._to_loop(state, *data)
        if found is not None and found[0] is before:  # the state has come to be of the types that it stays of
            done = _there(compiled, *found, state, until, pair, number, max_iter, progress)
            if done is not None:
                return done[0]
            refused = True
        before = None if found is None else found[0]
        new = compiled(state, *data)
        number += 1
        ends = until is not None and bool(until(state, new) if pair else until(new))
        state = new
        if progress is not None:
            progress(number, state)
        if ends:
            break
    return state


def _there(
    compiled: Compiled, remote: Any, arguments: Any, state: Any, until: Any, pair: bool, number: int, last: int, progress: Any
) -> tuple[Any] | None:
    """Run the rest of a loop on the workers; None if they cannot be talked to."""
    from graphopt.execute.channel import Unreachable
    from graphopt.execute.iteration import Iteration

    leaves, structure = flatten(state)

    def tell(number: int, leaves: list[Any]) -> None:
        if progress is not None:
            progress(number, unflatten(structure, leaves))

    before = remote.retries
    try:
        found, reached = Iteration(remote, arguments, range(len(leaves)), until, pair, number, last, tell)()
    except Unreachable:
        return None
    compiled._count(calls=reached - number, on_cluster=reached - number, retries=remote.retries - before)
    return (unflatten(structure, found),)


def _takes_two(until: Callable[..., Any]) -> bool:
    """Say whether a rule takes the old state and the new one."""
    parameters = inspect.signature(until).parameters.values()
    needed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return len(needed) > 1
