"""Objective: the mean loss of data under a family, with a penalty, evaluated by compiled passes over the data.

::

    F(w, b) = Σ weight · loss(X w + b + offset, y) / Σ weight + penalty(w)

A pass is written in plain dask.array and compiled by graphopt: where chunks are dense it becomes one loop that reads each row
once; chunks of CSR are multiplied by SciPy, and by a kernel of ours for the Hessian. It runs where the data is, on threads or
on the workers of a cluster.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

import graphopt as go
from solvers.data import Data
from solvers.families import Family
from solvers.kernels import product, square, transposed
from solvers.penalties import Penalty

__all__ = ["Evaluation", "Objective"]

#: What kernels return: dask would ask them otherwise.
_ARRAY: dict[str, Any] = {"dtype": float, "meta": np.empty(0)}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The smooth part at a point: mean loss and ridge, its gradient, and its Hessian if that was asked for."""

    value: float
    gradient: np.ndarray
    hessian: np.ndarray | None = None


class Objective:
    """The function that a solver minimises, of one vector: the coefficients, and the intercept last if there is one.

    Parameters
    ----------
    data
        What is fitted.
    family
        The loss.
    penalty
        Of the coefficients, not of the intercept.
    intercept
        Whether there is one.

    Attributes
    ----------
    passes : int
        How many passes over the data were made.
    """

    def __init__(self, data: Data, family: Family, penalty: Penalty, *, intercept: bool = True) -> None:
        penalty._check(np.empty(data.features))
        self.data, self.family, self.penalty, self.intercept = data, family, penalty, intercept
        self.passes = 0

    @property
    def size(self) -> int:
        """How many numbers are looked for."""
        return self.data.features + self.intercept

    def start(self) -> np.ndarray:
        """Return the best constant prediction: no coefficients, and the intercept that goes with the mean label."""
        beta = np.zeros(self.size)
        if self.intercept and self.data.offset is None:
            beta[-1] = self.family.link(self.data.label)
        return self.prox(beta, 1.0)

    def split(self, beta: np.ndarray) -> tuple[np.ndarray, float]:
        """Return coefficients and intercept."""
        return (beta[:-1], float(beta[-1])) if self.intercept else (beta, 0.0)

    def __call__(self, beta: np.ndarray, *, hessian: bool = False) -> Evaluation:
        """Evaluate the smooth part at a point, in one pass over the data.

        Raises
        ------
        ValueError
            If X holds what is not finite.
        """
        w, b = self.split(beta)
        self.passes += 1
        data = self.data
        run = (_curved if hessian else _sloped)(self.family, data.sparse, data.weights is not None, data.offset is not None)
        rows = [part for part in (data.weights, data.offset) if part is not None]
        loss, slope, level, *curved = run(data.X, data.y, *rows, w, b)
        ridge, total = self.penalty.ridge, data.total
        gradient = np.append(slope / total + ridge * w, level / total) if self.intercept else slope / total + ridge * w
        value = float(loss) / total + 0.5 * ridge * float(w @ w)
        if not np.isfinite(value) and not self._is_finite():
            raise ValueError("X holds NaN or infinite numbers.")
        return Evaluation(value, np.asarray(gradient, float), self._hessian(*curved) if curved else None)

    def _hessian(self, around: np.ndarray, cross: np.ndarray, corner: float) -> np.ndarray:
        count = self.data.features
        found = np.empty((self.size, self.size))
        found[:count, :count] = around
        if self.intercept:
            found[:count, -1] = found[-1, :count] = cross
            found[-1, -1] = corner
        found /= self.data.total
        found[range(count), range(count)] += self.penalty.ridge
        return found

    def nonsmooth(self, beta: np.ndarray) -> float:
        """Return what the penalty adds that is not smooth."""
        return self.penalty.value(self.split(beta)[0])

    def prox(self, beta: np.ndarray, step: float) -> np.ndarray:
        """Return the proximal operator of what is not smooth; the intercept is as it is."""
        if not self.intercept:
            return self.penalty.prox(beta, step)
        return np.append(self.penalty.prox(beta[:-1], step), beta[-1])

    def residual(self, beta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return the proximal gradient for a step of 1: zero at an optimum, and nowhere else."""
        return gradient if self.penalty.smooth else beta - self.prox(beta - gradient, 1.0)

    def _is_finite(self) -> bool:
        def ends(block: Any) -> np.ndarray:
            held = block.data if hasattr(block, "tocsr") else block
            return np.array([[np.isfinite(held).all()]])

        return bool(self.data.X.map_blocks(ends, chunks=(1, 1), dtype=bool, meta=np.empty((0, 0), bool)).all().compute())


@functools.lru_cache(maxsize=64)
def _sloped(family: Family, sparse: bool, weighted: bool, shifted: bool) -> Callable[..., Any]:
    """Return the compiled pass that gives loss and gradient."""

    def slope(X: Any, y: Any, *rest: Any) -> Any:
        eta, weigh = _eta(X, sparse, weighted, shifted, rest)
        r = weigh(family.first(eta, y))
        return weigh(family.losses(eta, y)).sum(), _transposed(X, r, sparse), r.sum()

    return _compiled(slope, weighted, shifted)


@functools.lru_cache(maxsize=64)
def _curved(family: Family, sparse: bool, weighted: bool, shifted: bool) -> Callable[..., Any]:
    """Return the compiled pass that gives loss, gradient and Hessian."""

    def curve(X: Any, y: Any, *rest: Any) -> Any:
        eta, weigh = _eta(X, sparse, weighted, shifted, rest)
        r, h = weigh(family.first(eta, y)), weigh(family.second(eta, y))
        if sparse:
            around, cross = _gram(X, h), _transposed(X, h, sparse)
        else:
            scaled = X * h[:, None]
            around, cross = X.T.dot(scaled), scaled.sum(axis=0)
        return weigh(family.losses(eta, y)).sum(), _transposed(X, r, sparse), r.sum(), around, cross, h.sum()

    return _compiled(curve, weighted, shifted)


def _compiled(function: Callable[..., Any], weighted: bool, shifted: bool) -> Callable[..., Any]:
    """Compile a pass with as many arguments as it has."""
    if weighted and shifted:
        return go.compile(lambda X, y, s, o, w, b: function(X, y, s, o, w, b))  # type: ignore[no-any-return]
    if weighted or shifted:
        return go.compile(lambda X, y, s, w, b: function(X, y, s, w, b))  # type: ignore[no-any-return]
    return go.compile(lambda X, y, w, b: function(X, y, w, b))  # type: ignore[no-any-return]


def _eta(X: Any, sparse: bool, weighted: bool, shifted: bool, rest: tuple[Any, ...]) -> tuple[Any, Callable[[Any], Any]]:
    """Return the linear predictor, and what multiplies numbers of rows by the weights of those."""
    *rows, w, b = rest
    eta = (X.map_blocks(product, w, drop_axis=1, **_ARRAY) if sparse else X.dot(w)) + b
    if shifted:
        eta = eta + rows[-1]
    return eta, (lambda values: values * rows[0]) if weighted else lambda values: values


def _transposed(X: Any, r: Any, sparse: bool) -> Any:
    if not sparse:
        return X.T.dot(r)
    return da.blockwise(transposed, "ij", X, "ij", r, "i", adjust_chunks={"i": 1}, **_ARRAY).sum(axis=0)


def _gram(X: Any, h: Any) -> Any:
    new = {"k": X.shape[1]}
    return da.blockwise(square, "ijk", X, "ij", h, "i", new_axes=new, adjust_chunks={"i": 1}, **_ARRAY).sum(axis=0)
