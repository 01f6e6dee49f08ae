"""Path: fits for one strength of the penalty after another, each from where the last one ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from solvers.data import prepare
from solvers.families import Family, family_of
from solvers.fit import cut, objective_of, solve
from solvers.iterate import Method
from solvers.objective import Objective
from solvers.penalties import L1, Box, Penalty
from solvers.result import Result

__all__ = ["Path", "path"]


class Path(tuple[Result, ...]):
    """Results, with the strengths that they are for.

    Attributes
    ----------
    strengths : tuple of float
        One for each result.
    """

    strengths: tuple[float, ...]

    def __new__(cls, results: Iterable[Result], strengths: Iterable[float]) -> Path:
        """Put them together."""
        self = super().__new__(cls, results)
        self.strengths = tuple(strengths)
        return self


def path(
    X: Any,
    y: Any,
    strengths: Iterable[float] | None = None,
    *,
    penalty: Callable[[float], Penalty] = L1,
    count: int = 50,
    ratio: float = 1e-3,
    family: str | Family = "normal",
    solver: str | Method = "auto",
    intercept: bool = True,
    standardize: bool = False,
    weights: Any = None,
    offset: Any = None,
    tol: float = 1e-6,
    max_iter: int = 200,
    chunks: str | None = None,
) -> Path:
    """Fit a model for each of many strengths of its penalty.

    The data is checked and its passes are compiled once; least squares reads it once for all.

    Parameters
    ----------
    X, y, family, solver, intercept, standardize, weights, offset, tol, max_iter, chunks
        As in `fit`; ``max_iter`` is for each strength, and chunks are chosen once for all.
    strengths : iterable of float, optional
        The strengths, best from the largest to the smallest. By default ``count`` of them, from the smallest for which all
        coefficients are 0 down to ``ratio`` of it, evenly on a logarithmic scale.
    penalty : callable
        Returns the penalty of a strength: `L1`, `L2`, ``lambda strength: ElasticNet(strength, 0.3)``.
    count, ratio
        Of the default strengths.

    Returns
    -------
    Path
        A tuple with a result for each strength; its ``strengths`` are what they are for.

    Raises
    ------
    ValueError
        As `fit` does; and if there is no strength for which all coefficients are 0, as with `L2`, and none are given.

    Notes
    -----
    Friedman, Hastie and Tibshirani, J. Stat. Softw. 33 (2010), section 2.5.

    Examples
    --------
    >>> import numpy as np
    >>> from solvers import path
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 3))
    >>> results = path(X, X @ [2.0, 0.0, 0.5], count=4)
    >>> [int(np.count_nonzero(result.coef)) for result in results], sum(result.passes for result in results)
    ([0, 2, 2, 2], 1)
    """
    given = None if strengths is None else tuple(float(strength) for strength in strengths)
    if given == ():
        raise ValueError("strengths: there are none.")
    if given is None and not (count >= 1 and 0 < ratio < 1):
        raise ValueError(f"path(count={count!r}, ratio={ratio!r}): must be at least 1, and between 0 and 1.")
    kind = family_of(family)
    data = prepare(X, y, kind, weights=weights, offset=offset)
    first = penalty(1.0 if given is None else given[0])
    objective = objective_of(data, kind, first, intercept=intercept, standardize=standardize)
    objective, choice = cut(objective, solver, chunks)
    beta = None
    if given is None:
        objective, beta, largest = _start(objective, penalty, tol)
        given = (largest, *np.geomspace(largest, ratio * largest, count).tolist()[1:])
    before, results = objective.passes, []
    for strength in given:
        objective = objective.under(penalty(strength))
        results.append(solve(objective, solver, start=beta, tol=tol, max_iter=max_iter))
        beta = results[-1].beta
    results = [replace(result, chunks=choice) for result in results]
    results[0] = replace(results[0], passes=results[0].passes + before)
    return Path(results, given)


def _start(objective: Objective, penalty: Callable[[float], Penalty], tol: float) -> tuple[Objective, np.ndarray, float]:
    """Return an objective, the best coefficients that are all 0, and the smallest strength for which no others are better.

    What has coefficients that are all 0 is the same in any units of the features.
    """
    null = objective.under(Box(0.0, 0.0))
    beta = null.start()
    at = null(beta)
    if np.abs(null.residual(beta, at.gradient)).max() > 0.01 * tol:
        beta = solve(null, start=beta, tol=0.01 * tol).beta
        at = null(beta)
    down = -at.gradient[: null.penalised]
    if not down.any():
        return null, beta, 1.0

    def zero(strength: float) -> bool:
        return not penalty(strength).prox(down, 1.0).any()

    low, high = 0.0, float(np.abs(down).max())
    for _ in range(100):
        if zero(high):
            break
        low, high = high, 2.0 * high
    else:
        raise ValueError("strengths: no strength of this penalty makes all coefficients 0; give the strengths.")
    while high - low > 1e-15 * high:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (low, middle) if zero(middle) else (middle, high)
    return null, beta, high
