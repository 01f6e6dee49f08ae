"""Local: the problem that a chunk solves for itself, by damped Newton.

Both kinds of ADMM ask a chunk for ``argmin f(x) + dual·(x - centre) + |x - centre|²_metric / 2`` with its own loss f. Newton's
matrix is factored once and kept for as long as it serves; where it does not, it is made anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from solvers.rows import factored

__all__ = ["Pull", "descended"]

#: In how many steps at most, and how often a step is halved.
_STEPS, _HALVED = 20, 30


class Pull(NamedTuple):
    """What draws a chunk to the others: a linear term and a metric, about a centre."""

    centre: np.ndarray
    dual: np.ndarray
    metric: np.ndarray

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return its value, and its gradient."""
        off = x - self.centre
        drawn = self.metric @ off
        return float(self.dual @ off) + 0.5 * float(drawn @ off), self.dual + drawn


def descended(
    evaluate: Callable[..., Any],
    x: np.ndarray,
    loss: float,
    gradient: np.ndarray,
    pull: Pull,
    factor: Any,
    enough: Callable[[np.ndarray, float, float], bool],
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
        Of a Hessian and the metric, both from somewhere near; None if there is none.
    enough
        Asked of a point, its squared Newton decrement, and the first: whether to stop there.
    """
    drawn, slope = pull(x)
    value, slope = loss + drawn, gradient + slope
    if factor is None or not np.isfinite(slope).all():
        return x, factor
    scaled = scipy.linalg.cho_solve(factor, slope, check_finite=False)
    first = left = float(slope @ scaled)
    for _ in range(_STEPS):
        if enough(x, left, first) or left <= 1e-30 * abs(value):
            break
        step = 1.0
        for _ in range(_HALVED):
            new = x - step * scaled
            loss, gradient, _ = evaluate(new)
            drawn, there = pull(new)
            now, there = loss + drawn, gradient + there
            after = scipy.linalg.cho_solve(factor, there, check_finite=False) if np.isfinite(there).all() else there
            rest = float(there @ after)
            # Rounding hides a decrease long before the slope is that small.
            if now <= value - 1e-4 * step * left or (abs(now - value) <= 1e-13 * abs(value) and rest < left):
                break
            step *= 0.5
        else:
            break
        x, value, slope, scaled, slow = new, now, there, after, rest > 0.1 * left
        left = rest
        if slow and not enough(x, left, first):
            hessian = evaluate(x, hessian=True)[2]
            anew = None if hessian is None else factored(hessian + pull.metric)
            factor = anew or factor
            scaled = scipy.linalg.cho_solve(factor, slope, check_finite=False)
            left = float(slope @ scaled)
    return x, factor
