"""Chunks: chosen for a fit, by timing the pass that its method makes first on samples of the data.

Which pass that is the method shows by asking for it: it is taken down then, and not made. So a method or a family of one's own
has nothing to declare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import graphopt as go
from solvers import gram
from solvers.iterate import Method, begun
from solvers.objective import Objective, compiled

__all__ = ["recut"]

#: How many passes the choice is reckoned for, and how long it may be looked for.
_PASSES, _SECONDS = 50, 5.0


class _Asked(BaseException):
    """The first pass that a method asks for; a solver that minds errors does not mind this one."""

    def __init__(self, body: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.body, self.arguments = body, arguments


def recut(
    objective: Objective, method: Method, start: Any = None, progress: Callable[[str], None] | None = None
) -> tuple[Objective, Any]:
    """Return an objective over the data in chunks that suit a method, and the `graphopt.Choice`; None where there is none.

    Parameters
    ----------
    objective, method, start
        What is to be minimised, by what, from where.
    progress
        Told in a few words after each trial.

    Raises
    ------
    ValueError
        If the method cannot minimise this objective, or not from there.

    Notes
    -----
    Few rows in memory are not in chunks, and least squares by products of columns reads them once: both stay as they are.
    """
    beta, data = begun(method, objective, start), objective.data
    if data.local is not None:
        return objective, None
    try:
        method.init(objective.over(replace(data, asked=_ask)), beta)
        return objective, None
    except _Asked as asked:
        body, arguments = asked.body, asked.arguments
    if body is gram.once:
        return objective, None
    family, *small = arguments
    step = compiled(body, family, data.weights is not None, data.offset is not None)
    given = (data.X, *data.columns, *small)
    choice = go.auto_chunks(given[0], step, *given[1:], axes=0, iterations=_PASSES, seconds=_SECONDS, progress=progress)
    names = ["X", *[name for name in ("y", "weights", "offset") if getattr(data, name) is not None]]
    return objective.over(replace(data, **dict(zip(names, choice.rechunk(*given), strict=False)))), choice  # and small ones


def _ask(body: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    raise _Asked(body, arguments)
