"""Problem: what a chunk is asked, and how it solves it, as pure functions for tasks to call.

A chunk is held as a value that evaluates its own mean loss: its rows, or for least squares the moments of its columns, after
which rows are not needed any more. What else it holds is a factor that a Newton step may begin with: a cache, which is
left behind where the value moves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from solvers.consensus.core import Ask
from solvers.families import Family, Normal
from solvers.local import Learned, Pull, descended
from solvers.moments import products
from solvers.rows import Rows, factored
from solvers.units import Units

__all__ = ["Frame", "Problem", "look", "problem_of", "solve"]

#: A chunk's solution is off by at most this part of its distance from z, in the metric.
_LOOSE = 1e-3

#: With more coefficients a Hessian costs more than what chunks learn without one.
_MANY = 500

#: No row curves less in the metric than this part of what it can: in Huber's tails it does not curve at all.
_CURVED = 1e-2


class Frame(NamedTuple):
    """The coordinates of the consensus: a diagonal metric, and features about means if there is an intercept to make up for it.

    The intercept has no penalty, so that nothing changes but how near the Hessian is to its diagonal.
    """

    metric: np.ndarray
    units: Units | None

    def original(self, x: np.ndarray) -> np.ndarray:
        """Return a point in the units of the objective."""
        return x if self.units is None else self.units.original(x)

    def standard(self, beta: np.ndarray) -> np.ndarray:
        """Return a point in these coordinates."""
        return beta if self.units is None else self.units.standard(beta)

    def pulled(self, gradient: np.ndarray) -> np.ndarray:
        """Return a gradient in these coordinates."""
        return gradient if self.units is None else self.units.pulled(gradient)


class Problem:
    """The mean loss of a chunk as a function of the coefficients, in the units of the objective.

    Attributes
    ----------
    weight : float
        The sum of its weights.
    factor : tuple, or None
        The factor that was used last, and the rho that it was made with.
    """

    def __init__(self, evaluate: Any, weight: float, units: Units | None, least: float) -> None:
        self.evaluate, self.weight, self.units, self.least = evaluate, weight, units, least
        self.factor: tuple[Any, float] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "factor": None}

    def __sizeof__(self) -> int:
        held = vars(self.evaluate).values()
        return 1_000 + sum(int(getattr(getattr(part, "data", part), "nbytes", 0)) for part in held)

    def __call__(self, x: np.ndarray, *, hessian: bool = False) -> Any:
        """Return mean loss, gradient, and the Hessian if asked for."""
        if self.units is None:
            return self.evaluate(x, hessian=hessian)
        loss, gradient, curved = self.evaluate(self.units.original(x), hessian=hessian)
        return loss, self.units.pulled(gradient), None if curved is None else self.units.squared(curved)

    def curvature(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the diagonal of the Hessian, and of each coefficient what it has with its intercept; 0 if there is none."""
        units = self.units
        diagonal, cross = self.evaluate.curvature(x if units is None else units.original(x), self.least)
        return (diagonal, cross) if units is None else shifted(units, diagonal, cross)


class _Moments:
    """The mean loss of least squares from weighted means of columns and their covariance."""

    def __init__(self, told: np.ndarray, columns: int, intercept: bool) -> None:
        self.mean, self.intercept = told[1 : columns + 1], intercept
        self.covariance = told[columns + 1 :].reshape(columns, columns) / told[0]

    def __call__(self, x: np.ndarray, *, hessian: bool = False) -> Any:
        w, b = (x[:-1], x[-1]) if self.intercept else (x, 0.0)
        mean = self.mean[:-1]
        off = float(mean @ w) + b - float(self.mean[-1])
        both = np.append(w, -1.0)
        turned = self.covariance @ both
        gradient = turned[:-1] + off * mean
        if self.intercept:
            gradient, mean = np.append(gradient, off), np.append(mean, 1.0)
        loss = 0.5 * (max(float(both @ turned), 0.0) + off * off)  # without what rounding takes
        if not hessian:
            return loss, gradient, None
        curved = np.outer(mean, mean)
        curved[: len(w), : len(w)] += self.covariance[:-1, :-1]
        return loss, gradient, curved

    def curvature(self, x: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
        hessian = self(x, hessian=True)[2]
        return np.diag(hessian).copy(), hessian[-1, :-1].copy() if self.intercept else np.zeros(len(x))

    def floor(self, z: np.ndarray) -> None:
        """Any will do."""


def shifted(units: Units, diagonal: np.ndarray, cross: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what `Problem.curvature` does in other units."""
    count, diagonal = len(cross), diagonal.copy()
    across, own = cross.reshape(units.classes, -1), diagonal[:count].reshape(units.classes, -1)
    levels = diagonal[count : count + units.classes, None] if units.intercept else 0.0
    own += units.shift * (units.shift * levels - 2.0 * across)
    own /= units.scale**2
    return diagonal, ((across - units.shift * levels) / units.scale).ravel()


def problem_of(parts: list[Any], family: Family, intercept: bool, units: Units | None, make: type[Rows] = Rows) -> Problem:
    """Return the problem of a chunk, given as rows, labels, weights and offset; the last two may be None."""
    X, y, weights, offset = parts
    y = y.ravel()
    weight = float(len(y) if weights is None else weights.sum())
    if type(family) is Normal and weight > 0:
        s = np.ones(len(y)) if weights is None else weights.ravel()
        with np.errstate(all="ignore"):  # what is not finite is seen by whoever looks
            told = products(X, s, y if offset is None else y - offset.ravel())
        return Problem(_Moments(told, X.shape[1] + 1, intercept), weight, units, 0.0)
    least = _CURVED * family.bound if np.isfinite(family.bound) else 0.0
    return Problem(make(family, intercept, 1.0 / max(weight, 1e-300), X, y, weights, offset), weight, units, least)


@np.errstate(all="ignore")
def look(problem: Problem, z: np.ndarray) -> np.ndarray:
    """Return the weight of a chunk, its gradient, and what `Problem.curvature` says, filled up with zeros, in one vector.

    Hessians are not made: that would cost as much as many solutions.
    """
    if not problem.weight > 0:
        return np.zeros(1 + 3 * len(z))
    diagonal, cross = problem.curvature(z)
    return np.concatenate([[problem.weight], problem(z)[1], diagonal, cross, np.zeros(len(z) - len(cross))])


@np.errstate(all="ignore")  # what is not finite is returned as it is, and the core ends the leg
def solve(problem: Problem, ask: Ask, frame: Frame) -> np.ndarray:
    """Return the answer of a chunk."""
    _, target, z, x, rho = ask
    metric, units = frame

    def evaluate(x: np.ndarray, *, hessian: bool = False) -> Any:
        loss, gradient, curved = problem(frame.original(x), hessian=hessian)
        return loss, frame.pulled(gradient), curved if curved is None or units is None else units.squared(curved)

    pull = Pull(target, np.zeros_like(z), rho * metric)
    held, whole = problem.factor, isinstance(problem.evaluate, _Moments)
    kept = held is not None and held[1] == rho
    floor = problem.evaluate.floor(z)
    if floor is not None and x[-1] < floor:
        x = np.append(x[:-1], floor)
    loss, gradient, hessian = evaluate(x, hessian=whole and not kept)
    # A Hessian of rows costs as much as many gradients. The metric is the mean of their diagonals: where chunks are alike and
    # features are apart, it does as well.
    factor: Any = pull.metric + metric
    if held is not None and kept:
        factor = held[0]
    elif whole:
        factor = factored(pull.matrix + hessian)
    elif len(z) > _MANY:
        factor = Learned(factor)

    def enough(x: np.ndarray, left: float, first: float) -> bool:
        off = x - z
        return not left > _LOOSE**2 * rho * float(metric @ (off * off))

    x, factor = descended(evaluate, x, loss, gradient, pull, factor, enough, floor)
    problem.factor = None if factor is None else (factor, rho)
    return x
