"""Moments: weighted means and products of columns about their means, chunk by chunk.

Every chunk takes its own means off its columns before it multiplies them, and what chunks found is joined by how far apart the
means are (Chan, Golub and LeVeque, American Statistician 37 (1983)): columns that are large beside their spread lose nothing.
CSR chunks, which centring would fill, are multiplied as they are and corrected.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import scipy.sparse

from solvers.data import Data
from solvers.families import Family, Normal
from solvers.kernels import square
from solvers.objective import Objective, evaluated
from solvers.rows import by_chunks
from solvers.units import Units

__all__ = ["Moments", "constant", "joined", "per_chunk", "products", "spreads", "standardised", "width"]

#: Rows in a block: blocks of columns stay in the cache while they are centred and multiplied.
_BLOCK = 8_192


@dataclass(frozen=True, eq=False)
class Moments:
    """Sum of weights, weighted means of columns, and their products about these, summed."""

    total: float
    mean: np.ndarray
    products: np.ndarray

    @functools.cached_property
    def covariance(self) -> np.ndarray:
        """The mean of the products."""
        return self.products / self.total


def width(columns: int) -> int:
    """Return how many numbers `products` of so many columns takes."""
    return 1 + columns + columns * columns


def products(X: Any, s: np.ndarray, *more: np.ndarray) -> np.ndarray:
    """Return the sum of weights of a chunk, the means of its columns, and their products about those, in one vector.

    Parameters
    ----------
    X
        Rows, dense or CSR.
    s
        Their weights, of at least 0.
    more
        More columns, dense.
    """
    columns = X.shape[1] + len(more)
    total = float(s.sum())
    if not total > 0:
        return np.zeros(width(columns))
    also = np.column_stack(more) if more else np.empty((len(s), 0))
    with np.errstate(all="ignore"):
        mean = np.append(np.asarray(X.T @ s, float), s @ also) / total
        within = (_sparse if scipy.sparse.issparse(X) else _dense)(X, also, s, mean)
    return np.concatenate([[total], mean, within.ravel()])


def per_chunk(out: Any, columns: int) -> tuple[Any, Any]:
    """Return the sum of weights and the means of each chunk, a row each, and the sum of all else that chunks said."""
    each, within = out[:, : 1 + columns], out[:, 1 + columns :].sum(axis=0)
    return each.rechunk((out.numblocks[0], 1 + columns)) if isinstance(each, da.Array) else each, within


def joined(each: Any, within: Any) -> Moments:
    """Return the moments of all rows, of what `per_chunk` returned."""
    each = np.asarray(each)
    total, count = float(each[:, 0].sum()), each.shape[1] - 1
    if not total > 0:
        return Moments(0.0, np.zeros(count), np.zeros((count, count)))
    mean = each[:, 0] / total @ each[:, 1:]
    with np.errstate(all="ignore"):
        apart = (each[:, 1:] - mean) * np.sqrt(each[:, 0])[:, None]
        return Moments(total, mean, np.asarray(within).reshape(count, count) + apart.T @ apart)


def _dense(X: np.ndarray, also: np.ndarray, s: np.ndarray, mean: np.ndarray) -> np.ndarray:
    found = np.zeros((len(mean), len(mean)))
    for start in range(0, len(s), _BLOCK):
        rows = slice(start, start + _BLOCK)
        centred = np.column_stack([X[rows], also[rows]]) - mean
        centred *= np.sqrt(s[rows])[:, None]
        found += centred.T @ centred
    return found


def _sparse(X: Any, also: np.ndarray, s: np.ndarray, mean: np.ndarray) -> np.ndarray:
    count, total = X.shape[1], s.sum()
    apart = also - mean[count:]
    found = np.empty((len(mean), len(mean)))
    found[:count, :count] = square(X, s)[0] - total * np.outer(mean[:count], mean[:count])
    found[:count, count:] = X.T @ (s[:, None] * apart)  # the means of the features times a sum that is 0
    found[count:, :count] = found[:count, count:].T
    found[count:, count:] = apart.T @ (s[:, None] * apart)
    return found


# -- means and spreads alone, which take no products ---------------------------------------------------------------------


def standardised(objective: Objective) -> Objective:
    """Return the same objective of coefficients in units of the features' spread; a pass tells that where it is not known.

    Raises
    ------
    ValueError
        If X holds what is not finite.
    """
    known = objective.spreads()
    if known is None:
        objective.passes += 1
        known = spreads(objective.data)
    if not np.isfinite(known[1]).all():
        raise ValueError("X holds NaN or infinite numbers.")
    classes = objective.penalised // objective.data.features
    return objective.within(Units.of(*known, intercept=objective.intercept, classes=classes))


def spreads(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted mean of each feature and its standard deviation, 0 if it is constant, in one pass."""
    each, within = evaluated(_pass, data, Normal())
    each = np.asarray(each)
    share = each[:, :1] / data.total
    mean = (share * each[:, 1:]).sum(axis=0)
    with np.errstate(all="ignore"):
        variance = np.asarray(within) / data.total + (share * (each[:, 1:] - mean) ** 2).sum(axis=0)
        return mean, np.where(constant(variance, mean, data.rows), 0.0, np.sqrt(variance))


def constant(variance: np.ndarray, mean: np.ndarray, rows: int) -> np.ndarray:
    """Say which features have a variance that is no more than the rounding of their mean."""
    return np.asarray(variance <= (2e-16 * rows * mean) ** 2)


def _pass(family: Family, X: Any, y: Any, weights: Any, offset: Any) -> Any:
    """Weight and means of each chunk, and the sum of squares about those means."""
    count = X.shape[1]
    return per_chunk(by_chunks(_squares, 1 + 2 * count, X, y, weights, offset), count)


def _squares(X: Any, y: np.ndarray, weights: Any, offset: Any) -> np.ndarray:
    """Return the weight of a chunk, the means of its columns, and their squares about those."""
    s = np.ones(len(y)) if weights is None else weights
    total = float(s.sum())
    if not total > 0:
        return np.zeros(1 + 2 * X.shape[1])
    with np.errstate(all="ignore"):
        mean = np.asarray(X.T @ s, float) / total
        if scipy.sparse.issparse(X):
            X = X.tocsr()
            if not X.has_canonical_format:
                X = X.copy()
                X.sum_duplicates()
            held = np.repeat(s, np.diff(X.indptr))  # the weights of the numbers that are there; the others are all 0
            within = np.bincount(X.indices, held * (X.data - mean[X.indices]) ** 2, X.shape[1])
            within += np.maximum(total - np.bincount(X.indices, held, X.shape[1]), 0.0) * mean**2
        else:
            within = np.zeros(X.shape[1])
            for start in range(0, len(s), _BLOCK):
                rows = slice(start, start + _BLOCK)
                within += s[rows] @ (X[rows] - mean) ** 2
    return np.concatenate([[total], mean, within])
