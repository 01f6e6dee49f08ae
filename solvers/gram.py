"""Gram: least squares needs one pass over the data; all else is done on the client with products of its columns.

::

    Σ s (X w + b - t)² / Σ s  =  |centred (X, t)·(w, -1)|² / Σ s + (mean of X·w + b - mean of t)²,    t = y - offset

Every chunk takes its own means off its columns before it multiplies them, and what chunks found is joined by how far apart the
means are (Chan, Golub and LeVeque, American Statistician 37 (1983)): labels that are large beside their spread lose nothing.
CSR chunks, which centring would fill, are multiplied as they are and corrected.

Any penalty, any method that asks nothing but evaluations, and all strengths of a path then cost no further pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import scipy.linalg
import scipy.sparse

from solvers.data import Data
from solvers.families import Family, Normal
from solvers.kernels import square
from solvers.objective import Evaluation, Objective, evaluated
from solvers.penalties import Penalty
from solvers.rows import by_chunks

__all__ = ["GramObjective", "Moments", "moments", "products"]

#: Rows in a block: blocks of columns stay in the cache while they are centred and multiplied.
_BLOCK = 8_192

#: The least part of a feature's variance that those before it leave, for products to be taken for the rows.
_APART = 1e-7


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted means of the features and of what they are to predict, the label last, and their covariances."""

    mean: np.ndarray
    covariance: np.ndarray


class GramObjective(Objective):
    """Least squares with a penalty, from products of columns that one pass makes when they are first needed.

    Notes
    -----
    Products of columns have squared condition: half of the digits, where features nearly depend on each other. Where those
    are needed, with no kink that would choose among such features and no ridge that matters beside them, the objective looks
    at the rows for each evaluation as any other does.
    """

    def __init__(self, data: Data, family: Family, penalty: Penalty, *, intercept: bool = True) -> None:
        super().__init__(data, family, penalty, intercept=intercept)
        self._moments: Moments | None = None
        self._exact: bool | None = None

    @property
    def plain(self) -> bool:
        return True

    def under(self, penalty: Penalty) -> Objective:
        other = super().under(penalty)
        assert isinstance(other, GramObjective)
        other._exact = None
        return other

    def __call__(self, beta: np.ndarray, *, hessian: bool = False) -> Evaluation:
        """Evaluate the smooth part at a point; only the first evaluation makes a pass.

        Raises
        ------
        ValueError
            If X holds what is not finite.
        """
        if self._moments is None:
            self.passes += 1
            self._moments = moments(self.data)
        held = self._moments
        if self._exact is None:
            self._exact = not self.penalty.smooth or _apart(held.covariance[:-1, :-1], self.penalty.ridge)
        if not self._exact:
            return super().__call__(beta, hessian=hessian)
        w, b = self.split(beta)
        with np.errstate(all="ignore"):
            off = float(held.mean[:-1] @ w) + b - float(held.mean[-1])
            both = np.append(w, -1.0)
            turned = held.covariance @ both
            loss = 0.5 * (max(float(both @ turned), 0.0) + off * off) if np.isfinite(turned).all() else np.inf
            slope = turned[:-1] + off * held.mean[:-1]
        gradient = np.append(slope, off) if self.intercept else slope
        return self.ridged(beta, loss, gradient, self._curvature(held) if hessian else None)

    def _curvature(self, held: Moments) -> np.ndarray:
        mean = np.append(held.mean[:-1], 1.0) if self.intercept else held.mean[:-1]
        found = np.outer(mean, mean)
        count = self.data.features
        found[:count, :count] += held.covariance[:-1, :-1]
        return found


def _apart(covariance: np.ndarray, ridge: float) -> bool:
    """Say whether every feature has a part, beside what those before it say of it, that products tell well."""
    if not np.isfinite(covariance).all():  # the evaluation says so
        return True
    spread = np.sqrt(np.diag(covariance) + ridge)
    if not spread.all():
        return False
    try:
        factor = scipy.linalg.cholesky((covariance + ridge * np.eye(len(spread))) / np.outer(spread, spread), lower=True)
    except np.linalg.LinAlgError:
        return False
    return bool(np.diag(factor).min() ** 2 > _APART)


def moments(data: Data) -> Moments:
    """Return means and covariances of the features and of the labels without their offset, in one pass."""
    each, within = evaluated(products, data, Normal())
    each = np.asarray(each)  # of each chunk: its weight, and its means
    share = each[:, 0] / data.total
    mean = share @ each[:, 1:]
    with np.errstate(all="ignore"):
        apart = (each[:, 1:] - mean) * np.sqrt(share)[:, None]
        return Moments(mean, np.asarray(within) / data.total + apart.T @ apart)


def products(family: Family, X: Any, y: Any, weights: Any, offset: Any) -> Any:
    """Weight and means of each chunk, and the sum of products about those means."""
    count = X.shape[1] + 1
    out = by_chunks(_products, 1 + count + count * count, X, y, weights, offset)
    each = out[:, : 1 + count]
    if isinstance(X, da.Array):
        each = each.rechunk((X.numblocks[0], 1 + count))
    return each, out[:, 1 + count :].sum(axis=0).reshape(count, count)


def _products(X: Any, y: np.ndarray, *rest: np.ndarray, weighted: bool, shifted: bool) -> np.ndarray:
    """Return the weight of a chunk, the means of its columns, and their products about those, in one row."""
    rows, count = X.shape[0], X.shape[1] + 1
    s = rest[0].ravel() if weighted else np.ones(rows)
    t = y.ravel() - rest[-1].ravel() if shifted else y.ravel()
    total = float(s.sum())
    if total <= 0:
        return np.zeros((1, 1 + count + count * count))
    with np.errstate(all="ignore"):
        mean = np.append(np.asarray(X.T @ s, float), t @ s) / total
        within = (_sparse if scipy.sparse.issparse(X) else _dense)(X, t, s, mean)
    return np.concatenate([[total], mean, within.ravel()])[None]


def _dense(X: np.ndarray, t: np.ndarray, s: np.ndarray, mean: np.ndarray) -> np.ndarray:
    found = np.zeros((len(mean), len(mean)))
    for start in range(0, len(t), _BLOCK):
        rows = slice(start, start + _BLOCK)
        centred = np.column_stack([X[rows], t[rows]]) - mean
        centred *= np.sqrt(s[rows])[:, None]
        found += centred.T @ centred
    return found


def _sparse(X: Any, t: np.ndarray, s: np.ndarray, mean: np.ndarray) -> np.ndarray:
    count, total = X.shape[1], s.sum()
    apart = t - mean[-1]
    found = np.empty((count + 1, count + 1))
    found[:count, :count] = square(X, s)[0] - total * np.outer(mean[:-1], mean[:-1])
    found[:count, -1] = found[-1, :count] = X.T @ (s * apart)  # the means of the features times a sum that is 0
    found[-1, -1] = s @ apart**2
    return found
