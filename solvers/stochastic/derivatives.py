"""Derivatives: that of each family's loss by the linear predictor, for one row, as a compiled function.

Families are written in array functions; SAGA goes row by row. Each takes eta, y, and a parameter of the family that is a
number, so that a Huber loss is compiled once for any ``delta``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from solvers.families import Family, Gamma, Huber, Logistic, Normal, Poisson

__all__ = ["derivative_of", "parameter_of"]


def _normal(eta: float, y: float, _: float) -> float:
    return eta - y


def _logistic(eta: float, y: float, _: float) -> float:
    return 1.0 / (1.0 + math.exp(-eta)) - y


def _poisson(eta: float, y: float, _: float) -> float:
    return math.exp(eta) - y


def _gamma(eta: float, y: float, _: float) -> float:
    return 1.0 - y * math.exp(-eta)


def _huber(eta: float, y: float, delta: float) -> float:
    far = eta - y
    if far > delta:
        return delta
    return far if far > -delta else -delta


_SCALAR: dict[type[Family], Callable[..., float]] = {
    Normal: _normal,
    Logistic: _logistic,
    Poisson: _poisson,
    Gamma: _gamma,
    Huber: _huber,
}


def derivative_of(family: Family, own: Any = None) -> Any:
    """Return the compiled derivative of a family's loss; None if it has none.

    Parameters
    ----------
    family
        What is fitted.
    own
        A function of eta and y, compiled by ``numba.njit``, that takes its place.
    """
    if own is not None:
        return _adapted(own)
    return _compiled(type(family)) if type(family) in _SCALAR else None


def parameter_of(family: Family) -> float:
    """Return the number that a family's derivative takes."""
    return float(family.delta) if type(family) is Huber else 0.0


@functools.cache
def _compiled(kind: type[Family]) -> Any:
    from numba import njit

    return njit(nogil=True, error_model="numpy")(_SCALAR[kind])


@functools.lru_cache(maxsize=64)
def _adapted(own: Any) -> Any:
    from numba import njit

    @njit(nogil=True, error_model="numpy")
    def derivative(eta: float, y: float, _: float) -> float:
        return own(eta, y)  # type: ignore[no-any-return]

    return derivative
