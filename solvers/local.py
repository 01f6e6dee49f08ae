"""Local: the problem that a chunk solves for itself, by damped Newton.

Both kinds of ADMM ask a chunk for ``argmin f(x) + dual·(x - centre) + |x - centre|²_metric / 2`` with its own loss f. Newton's
matrix is factored once and kept for as long as it serves; where it does not, it is made anew. With too many coefficients for a
matrix, curvature is learned from how the gradient changes, as in L-BFGS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from solvers.rows import factored

__all__ = ["Learned", "Pull", "descended"]

#: In how many steps at most, by Newton and by what is learned, how often a step is halved, and how many changes are remembered.
_STEPS, _MORE, _HALVED, _MEMORY = 20, 100, 30, 10


class Pull(NamedTuple):
    """What draws a chunk to the others: a linear term and a metric, a matrix or its diagonal, about a centre."""

    centre: np.ndarray
    dual: np.ndarray
    metric: np.ndarray

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return its value, and its gradient."""
        off = x - self.centre
        drawn = self.metric * off if self.metric.ndim == 1 else self.metric @ off
        return float(self.dual @ off) + 0.5 * float(drawn @ off), self.dual + drawn

    @property
    def matrix(self) -> np.ndarray:
        """The metric as a matrix."""
        return np.diag(self.metric) if self.metric.ndim == 1 else self.metric


class Learned(NamedTuple):
    """A Hessian as L-BFGS has it: a diagonal to begin with, and changes of a point and of the gradient, oldest first."""

    diagonal: np.ndarray
    changes: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    def solve(self, slope: np.ndarray) -> np.ndarray:
        """Return its inverse times a vector (Nocedal and Wright, *Numerical Optimization* (2006), algorithm 7.4)."""
        found: np.ndarray = slope
        parts = []
        for step, turn in reversed(self.changes):
            part = float(step @ found) / float(step @ turn)
            parts.append(part)
            found = found - part * turn
        found = found / self.diagonal
        for (step, turn), part in zip(self.changes, reversed(parts), strict=True):
            found = found + (part - float(turn @ found) / float(step @ turn)) * step
        return found

    def after(self, step: np.ndarray, turn: np.ndarray) -> Learned:
        """Return what is known after a step, and the change of the gradient along it."""
        along = float(step @ turn)
        if not along > 1e-12 * float(np.linalg.norm(step) * np.linalg.norm(turn)):  # rounding
            return self
        return self._replace(changes=(*self.changes[1 - _MEMORY :], (step, turn)))


def descended(
    evaluate: Callable[..., Any],
    x: np.ndarray,
    loss: float,
    gradient: np.ndarray,
    pull: Pull,
    factor: Any,
    enough: Callable[[np.ndarray, float, float], bool],
    floor: float | None = None,
) -> tuple[np.ndarray, Any]:
    """Return where damped Newton leads from a point, and the factor that it used last.

    Parameters
    ----------
    evaluate
        Returns loss, gradient, and with ``hessian=True`` the Hessian of a chunk.
    x, loss, gradient
        Where to begin, and what there is.
    pull
        What is added.
    factor
        Of a Hessian and the metric, both from somewhere near: Cholesky's, a diagonal, or `Learned`; None if there is none.
    enough
        Asked of a point, its squared Newton decrement, and the first: whether to stop there.
    floor
        The least that the last component may be.
    """
    drawn, slope = pull(x)
    value, slope = loss + drawn, gradient + slope
    if factor is None or not np.isfinite(slope).all():
        return x, factor
    scaled = _step(factor, slope, x, floor)
    first = left = float(slope @ scaled)
    for _ in range(_MORE if isinstance(factor, Learned) else _STEPS):
        if enough(x, left, first) or left <= 1e-30 * abs(value):
            break
        step = 1.0
        for _ in range(_HALVED):
            new = x - step * scaled
            loss, gradient, _ = evaluate(new)
            drawn, there = pull(new)
            now, there = loss + drawn, gradient + there
            after = _step(factor, there, new, floor) if np.isfinite(there).all() else there
            rest = float(there @ after)
            # Rounding hides a decrease long before the slope is that small.
            if now <= value - 1e-4 * step * left or (abs(now - value) <= 1e-13 * abs(value) and rest < left):
                break
            step *= 0.5
        else:
            break
        slow = rest > 0.1 * left
        if isinstance(factor, Learned):
            factor = factor.after(new - x, there - slope)
            after = _step(factor, there, new, floor)
            rest, slow = float(there @ after), False
        x, value, slope, scaled, left = new, now, there, after, rest
        if slow and not enough(x, left, first):
            hessian = evaluate(x, hessian=True)[2]
            anew = None if hessian is None else factored(hessian + pull.matrix)
            factor = factor if anew is None else anew
            scaled = _step(factor, slope, x, floor)
            left = float(slope @ scaled)
    return x, factor


def _step(factor: Any, slope: np.ndarray, x: np.ndarray, floor: float | None) -> np.ndarray:
    """Return what Newton takes off a point: to the minimum of its model, on the floor where that is below it."""
    scaled = _solved(factor, slope)
    if floor is None or x[-1] - scaled[-1] >= floor:
        return scaled
    edge = np.zeros_like(x)
    edge[-1] = 1.0
    along = _solved(factor, edge)
    found: np.ndarray = scaled + (x[-1] - floor - scaled[-1]) / along[-1] * along
    return found


def _solved(factor: Any, slope: np.ndarray) -> np.ndarray:
    if isinstance(factor, Learned):
        return factor.solve(slope)
    diagonal = isinstance(factor, np.ndarray)
    return np.asarray(slope / factor if diagonal else scipy.linalg.cho_solve(factor, slope, check_finite=False))
