"""Objective: the mean loss of data under a family, with a penalty, evaluated by compiled passes over the data.

::

    F(w, b) = Σ weight · loss(X w + b + offset, y) / Σ weight + penalty(w)

A pass is written in plain dask.array and compiled by graphopt: where chunks are dense it becomes one loop that reads each row
once; chunks of CSR, and dense ones of many features where a Hessian is asked for, are summed up by `Rows`, one call a chunk,
with the products of SciPy and BLAS and a kernel of ours. It runs where the data is, on threads or on the workers of a cluster.
On a few rows in memory the same functions are NumPy, for compiling takes seconds and such a pass less than a millisecond.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

import graphopt as go
from solvers.data import Data, is_sparse
from solvers.families import Family
from solvers.kernels import product, square, transposed
from solvers.penalties import Penalty
from solvers.rows import Rows, by_chunks
from solvers.units import Units

__all__ = ["Evaluation", "Objective", "back", "evaluated", "gram", "summed", "times"]

#: With more features a Hessian is BLAS's work, block by block; with fewer a loop is twice as quick, which reads each row once.
_WIDE = 300

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
    units : Units, or None
        Those in which the vector is and which the penalty is in; None if they are the features' own.
    """

    def __init__(self, data: Data, family: Family, penalty: Penalty, *, intercept: bool = True) -> None:
        self.data, self.family, self.penalty, self.intercept = data, family, penalty, intercept
        self.passes = 0
        self.units: Units | None = None
        penalty._check(np.empty(self.penalised))

    def under(self, penalty: Penalty) -> Objective:
        """Return the same objective with another penalty: it shares the data and all that is known of them."""
        penalty._check(np.empty(self.penalised))
        other = copy.copy(self)
        other.penalty = penalty
        return other

    def over(self, data: Data) -> Objective:
        """Return the same objective over the same rows, as other data has them: in other chunks."""
        other = copy.copy(self)
        other.data = data
        return other

    def within(self, units: Units) -> Objective:
        """Return the same objective of coefficients in other units, which the penalty is of then."""
        other = copy.copy(self)
        other.units = units
        return other

    def spreads(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return means and standard deviations of the features, if the objective knows them or needs them anyway."""
        return None

    @property
    def plain(self) -> bool:
        """Whether rows are summed up over the family's loss of one linear predictor each, and nothing else is looked for.

        Then chunks can evaluate their rows by themselves. Who sums up otherwise is taken not to be, unless it says so.
        """
        return type(self) is Objective

    @property
    def rows(self) -> type[Rows] | None:
        """What evaluates the rows of a chunk by themselves, for methods whose chunks solve a problem; None if nothing does."""
        return Rows if self.plain else None

    @property
    def classes(self) -> int:
        """How many rows of coefficients there are, one after the other, and intercepts after them."""
        return self.penalised // self.data.features

    @property
    def shifting(self) -> bool:
        """Whether it changes no loss to add one vector to the coefficients of all classes, or a number to the intercepts."""
        return False

    @property
    def floor(self) -> float:
        """Below which the last of what is looked for cannot be."""
        return -np.inf

    def seen(self, beta: np.ndarray) -> np.ndarray:
        """Return a point of the same loss without what changes no loss."""
        return beta

    def steady(self, hessian: np.ndarray) -> np.ndarray:
        """Return a Hessian that curves wherever the objective does not, with this penalty, so that steps do not go there."""
        return hessian

    @property
    def size(self) -> int:
        """How many numbers are looked for."""
        return self.penalised + self.intercept

    @property
    def penalised(self) -> int:
        """How many of them are coefficients, which the penalty is of; they come first."""
        return self.data.features

    def start(self) -> np.ndarray:
        """Return the best constant prediction: no coefficients, and the intercept that goes with the mean label."""
        beta = np.zeros(self.size)
        if self.intercept and self.data.offset is None:
            beta[-1] = self.family.link(self.data.label)
        return self.prox(beta, 1.0)

    def original(self, beta: np.ndarray) -> np.ndarray:
        """Return what is looked for in the features' own units, as chunks and callers have it."""
        return beta if self.units is None else self.units.original(beta)

    def standard(self, beta: np.ndarray) -> np.ndarray:
        """Return what callers give in the units of the objective."""
        return beta if self.units is None else self.units.standard(beta)

    def pulled(self, gradient: np.ndarray) -> np.ndarray:
        """Return derivatives in the units of the objective from those in the features' own."""
        return gradient if self.units is None else self.units.pulled(gradient)

    def squared(self, hessian: np.ndarray) -> np.ndarray:
        """Return second derivatives in the units of the objective from those in the features' own."""
        return hessian if self.units is None else self.units.squared(hessian)

    def split(self, beta: np.ndarray) -> tuple[np.ndarray, Any]:
        """Return coefficients and intercept, in the features' own units."""
        beta = self.original(beta)
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
        if self.data.sparse or (hessian and self.data.features > _WIDE):
            how = np.array([1.0 / self.data.total])
            found = summed(_sums(self.intercept, hessian), self.data, self.family, self.original(beta), how)
            size = 1 + len(beta)
            return self.ridged(beta, float(found[0]), found[1:size], found[size:].reshape(size - 1, -1) if hessian else None)
        loss, slope, level, *curved = summed(_curve if hessian else _slope, self.data, self.family, w, b)
        gradient = np.append(slope, level) if self.intercept else slope
        return self._whole(beta, loss, gradient, self._hessian(*curved) if curved else None)

    def _hessian(self, square: np.ndarray, cross: np.ndarray, corner: float) -> np.ndarray:
        if not self.intercept:
            return square
        return np.block([[square, cross[:, None]], [cross[None], np.array([[corner]])]])

    def _whole(self, beta: np.ndarray, loss: float, gradient: np.ndarray, hessian: np.ndarray | None) -> Evaluation:
        """Make means of sums over rows, and add the ridge."""
        total = self.data.total
        means = float(loss) / total, np.asarray(gradient, float) / total, None if hessian is None else hessian / total
        return self.ridged(beta, *means)

    def ridged(self, beta: np.ndarray, loss: float, gradient: np.ndarray, hessian: np.ndarray | None = None) -> Evaluation:
        """Return the smooth part at a point whose mean loss is known, with its derivatives in the features' own units.

        Raises
        ------
        ValueError
            If X holds what is not finite.
        """
        if not np.isfinite(loss) and not self._is_finite():
            raise ValueError("X holds NaN or infinite numbers.")
        ridges, gradient = self.ridges(), self.pulled(gradient)
        hessian = None if hessian is None else self.squared(hessian)
        with np.errstate(over="ignore", invalid="ignore"):  # a step may go too far; the solver sees that from the value
            value, gradient = loss + 0.5 * float(ridges @ beta**2), gradient + ridges * beta
        return Evaluation(value, gradient, None if hessian is None else hessian + np.diag(ridges))

    def ridges(self) -> np.ndarray:
        """Return the ridge of each number that is looked for; those that are no coefficients have none."""
        return np.repeat([self.penalty.ridge, 0.0], [self.penalised, self.size - self.penalised])

    def nonsmooth(self, beta: np.ndarray) -> float:
        """Return what the penalty adds that is not smooth."""
        return self.penalty.value(beta[: self.penalised])

    def prox(self, beta: np.ndarray, step: float) -> np.ndarray:
        """Return the proximal operator of what is not smooth; the intercept is as it is."""
        count = self.penalised
        return np.append(self.penalty.prox(beta[:count], step), beta[count:])

    def residual(self, beta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return the proximal gradient for a step of 1: zero at an optimum, and nowhere else."""
        return gradient if self.penalty.smooth else beta - self.prox(beta - gradient, 1.0)

    def _is_finite(self) -> bool:
        def ends(block: Any) -> Any:
            held = block.data if hasattr(block, "tocsr") else block
            return np.array([[np.isfinite(held).all()]])

        return bool(self.data.X.map_blocks(ends, chunks=(1, 1), dtype=bool, meta=np.empty((0, 0), bool)).all().compute())


def evaluated(body: Callable[..., Any], data: Data, family: Family, *small: Any) -> Any:
    """Evaluate a pass: compiled over chunks, or as it is on what is in memory and small.

    Parameters
    ----------
    body
        A function of the family, rows and labels, weights and offset or None, and the small arguments, in array functions.
    data, family, small
        What to call it with.
    """
    if data.asked is not None:
        data.asked(body, (family, *small))
    if data.local is not None:
        with np.errstate(over="ignore", invalid="ignore"):  # a step may go too far; the solver sees that from the value
            return body(family, *data.local, *small)
    return compiled(body, family, data.weights is not None, data.offset is not None)(data.X, *data.columns, *small)


def summed(body: Callable[..., Any], data: Data, family: Family, *small: Any) -> Any:
    """Evaluate a pass that returns sums over all rows: in memory, where compiled passes leave large ones in a chunk."""
    found = evaluated(body, data, family, *small)
    return tuple(map(np.asarray, found)) if isinstance(found, tuple) else np.asarray(found)


@functools.lru_cache(maxsize=256)
def compiled(body: Callable[..., Any], family: Family, weighted: bool, shifted: bool) -> Any:
    """Return a pass, compiled for data with or without weights and offset."""

    def run(X: Any, y: Any, *rest: Any) -> Any:
        weights = rest[0] if weighted else None
        offset = rest[weighted] if shifted else None
        return body(family, X, y, weights, offset, *rest[weighted + shifted :])

    return go.compile(run)


def _slope(family: Family, X: Any, y: Any, weights: Any, offset: Any, w: Any, b: Any) -> Any:
    """Loss and gradient."""
    eta = _eta(X, offset, w, b)
    r = _weighed(family.first(eta, y), weights)
    return _weighed(family.losses(eta, y), weights).sum(), back(X, r), r.sum()


def _curve(family: Family, X: Any, y: Any, weights: Any, offset: Any, w: Any, b: Any) -> Any:
    """Loss, gradient and Hessian."""
    eta = _eta(X, offset, w, b)
    r, h = _weighed(family.first(eta, y), weights), _weighed(family.second(eta, y), weights)
    return _weighed(family.losses(eta, y), weights).sum(), back(X, r), r.sum(), *gram(X, h), h.sum()


@functools.cache
def _sums(intercept: bool, hessian: bool) -> Callable[..., Any]:
    """Return the pass over chunks that may be sparse: loss, gradient, and the Hessian if asked for, in one vector."""

    def sums(family: Family, X: Any, y: Any, weights: Any, offset: Any, beta: Any, how: Any) -> Any:
        size = X.shape[1] + intercept
        work = functools.partial(_sum, family=family, intercept=intercept, hessian=hessian)
        return by_chunks(work, 1 + size + hessian * size * size, X, y, weights, offset, beta, how).sum(axis=0)

    return sums


def _sum(
    X: Any, y: Any, weights: Any, offset: Any, beta: Any, how: Any, *, family: Family, intercept: bool, hessian: bool
) -> np.ndarray:
    loss, gradient, square = Rows(family, intercept, float(how[0]), X, y, weights, offset)(beta, hessian=hessian)
    return np.concatenate([[loss], gradient, [] if square is None else square.ravel()])


def _eta(X: Any, offset: Any, w: Any, b: Any) -> Any:
    """Return the linear predictor."""
    eta = times(X, w) + b
    return eta if offset is None else eta + offset


def _weighed(values: Any, weights: Any) -> Any:
    return values if weights is None else values * weights


# -- products, of NumPy, dask, SciPy and dask of SciPy ------------------------------------------------------------------


def times(X: Any, w: Any) -> Any:
    """Return X w."""
    if not is_sparse(X):
        return X.dot(w)
    return da.map_blocks(product, X, w, drop_axis=1, **_ARRAY) if isinstance(X, da.Array) else product(X, w)


def back(X: Any, r: Any) -> Any:
    """Return Xᵀ r."""
    if not is_sparse(X):
        return X.T.dot(r)
    if not isinstance(X, da.Array):
        return transposed(X, r)[0]
    return da.blockwise(transposed, "ij", X, "ij", r, "i", adjust_chunks={"i": 1}, **_ARRAY).sum(axis=0)


def gram(X: Any, h: Any) -> tuple[Any, Any]:
    """Return Xᵀ diag(h) X and Xᵀ h."""
    if not is_sparse(X):
        return X.T.dot(X * h[:, None]), X.T.dot(h)
    if not isinstance(X, da.Array):
        return square(X, h)[0], back(X, h)
    new = {"k": X.shape[1]}
    squares = da.blockwise(square, "ijk", X, "ij", h, "i", new_axes=new, adjust_chunks={"i": 1}, **_ARRAY)
    return squares.sum(axis=0), back(X, h)
