"""Quadratic: the minimum of a quadratic model and the penalty, found on the client.

The intercept, and what else has no penalty, is eliminated first: with features whose mean is large beside their spread, descent
by coordinates would walk along the valley that it makes with them for ever. Then coefficients are solved for one by one, and
those that move more often than the rest. From a hundred features on numba compiles the very loop that Python runs for fewer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from solvers.objective import Objective
from solvers.penalties import Penalty

__all__ = ["minimum"]

#: From so many features on a compiled loop is worth the time it takes to load it.
_MANY = 100


def minimum(
    objective: Objective, beta: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, *, sweeps: int, least: float
) -> np.ndarray:
    """Return what minimises ``gradient·(x - beta) + |x - beta|²_hessian / 2`` and what is not smooth of the penalty.

    Parameters
    ----------
    objective
        Whose penalty.
    beta, gradient, hessian
        The model.
    sweeps
        How often to go through all coefficients at most.
    least
        How far from optimal it may be, relative to how far ``beta`` is.

    Notes
    -----
    Coordinate descent where every coefficient has its own term (Friedman, Hastie and Tibshirani, J. Stat. Softw. 33 (2010)),
    else FISTA with restart.
    """
    least *= float(np.abs(objective.residual(beta, gradient)).max())
    tiny = 1e-12 * max(1.0, float(np.diag(hessian).max()))
    count = objective.penalised
    if count == len(beta):
        return _coefficients(objective.penalty, beta, gradient, hessian, sweeps, least, tiny)
    cross, inner = hessian[:count, count:], _inverse(hessian[count:, count:], tiny)
    across = cross @ inner
    slope = gradient[:count] - across @ gradient[count:]
    w = _coefficients(objective.penalty, beta[:count], slope, hessian[:count, :count] - across @ cross.T, sweeps, least, tiny)
    return np.append(w, beta[count:] - inner @ (gradient[count:] + (w - beta[:count]) @ cross))


def _inverse(square: np.ndarray, tiny: float) -> np.ndarray:
    """Return the inverse of a few rows of a Hessian, in which no direction curves less than rounding."""
    if not np.isfinite(square).all():
        return np.zeros_like(square)
    sizes, along = np.linalg.eigh(square)
    inverse: np.ndarray = along / np.maximum(sizes, max(tiny, 1e-10 * float(sizes[-1]))) @ along.T
    return inverse


def _coefficients(
    penalty: Penalty, w: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, sweeps: int, least: float, tiny: float
) -> np.ndarray:
    if not penalty.separable:
        return _accelerated(penalty, w, gradient, hessian, 50 * sweeps, least)
    curvature = np.maximum(np.diag(hessian), tiny)
    kinks = penalty.kinks
    if kinks is None:
        return _one_by_one(penalty, w, gradient, hessian, curvature, sweeps, least)
    descend: Callable[..., None] = _compiled() if len(w) >= _MANY else _descend
    x: np.ndarray = w.copy()
    descend(x, gradient.copy(), np.ascontiguousarray(hessian), curvature, *map(float, kinks), sweeps, least)
    return x


def _descend(
    x: np.ndarray,
    slope: np.ndarray,
    hessian: np.ndarray,
    curvature: np.ndarray,
    lasso: float,
    low: float,
    high: float,
    sweeps: int,
    least: float,
) -> None:
    """Descend by coordinates, in place; after a full sweep only those that it moved, until they rest.

    What numba compiles is this source, and without leave to reorder: both give the same numbers.
    """
    moves = np.ones(len(x), np.bool_)
    full = True
    for _ in range(sweeps):
        most = 0.0
        for j in range(len(x)):
            if not (full or moves[j]):
                continue
            now, curved = x[j], curvature[j]
            new = now - slope[j] / curved
            by = lasso / curved
            if new > by:
                new -= by
            elif new < -by:
                new += by
            else:
                new = 0.0
            new = min(max(new, low), high)
            change = new - now
            moves[j] = change != 0.0
            if change != 0.0:
                x[j] = new
                slope += change * hessian[j]
                most = max(most, abs(change) * curved)
        if most <= least:
            if full:
                return
            full = True
        else:
            full = False


@functools.lru_cache(maxsize=1)
def _compiled() -> Callable[..., None]:
    """Return the compiled loop; where there is no numba, the loop."""
    try:
        import numba
    except ImportError:
        return _descend
    compiled: Callable[..., None] = numba.njit(cache=True, nogil=True)(_descend)
    return compiled


def _one_by_one(
    penalty: Penalty, w: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, curvature: np.ndarray, sweeps: int, least: float
) -> np.ndarray:
    """Descend by coordinates with the proximal operator of a penalty that has kinks of its own."""
    x: np.ndarray = w.copy()
    slope = gradient.copy()
    for _ in range(sweeps):
        most = 0.0
        for j in range(len(x)):
            new = float(penalty.prox(np.array([x[j] - slope[j] / curvature[j]]), 1.0 / curvature[j])[0])
            change = new - x[j]
            if change:
                x[j] = new
                slope += change * hessian[j]
                most = max(most, abs(change) * curvature[j])
        if most <= least:
            break
    return x


def _accelerated(
    penalty: Penalty, w: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, most: int, least: float
) -> np.ndarray:
    """Minimise the model by FISTA, with restart where momentum leads uphill."""
    step = 1.0 / max(float(np.linalg.eigvalsh(hessian)[-1]), 1e-300)
    x = ahead = w
    momentum = 1.0
    for _ in range(most):
        slope = gradient + hessian @ (ahead - w)
        new = penalty.prox(ahead - step * slope, step)
        if np.abs(new - ahead).max() <= step * least:
            return new
        if (ahead - new) @ (new - x) > 0:
            momentum, ahead = 1.0, new
        else:
            after = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            ahead = new + (momentum - 1) / after * (new - x)
            momentum = after
        x = new
    return x
