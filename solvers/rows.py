"""Rows: the loss of the rows of one chunk, in plain NumPy, for methods that solve something in every chunk.

Families with more to look for than a number for each feature have rows of their own, which answer the same. They go through a
chunk in blocks of rows that stay in the cache from the linear predictor to the gradient. A chunk may be dense or CSR, and may
have no rows. Numbers that are not finite are returned as they come, without a warning: callers look.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import dask.array as da
import numpy as np
import scipy.linalg
import scipy.sparse

from solvers import kernels
from solvers.families import Family

__all__ = ["Rows", "by_chunks", "factored", "square", "squared"]

#: Numbers in a block: fewer, and threads wait for each other between short calls; more, and blocks leave the cache.
_BLOCK = 1 << 18

#: Rows in a block of which squares are made.
_ROWS = 2_048


class Rows:
    """The weighted loss of the rows of a chunk, as a function of the coefficients, the intercept last if there is one.

    Parameters
    ----------
    family
        The loss of a row.
    intercept
        Whether there is one.
    scale
        What all is multiplied by.
    X, y, weights, offset
        The chunk, as columns or as vectors; weights and offset may be None.
    """

    def __init__(
        self, family: Family, intercept: bool, scale: float, X: Any, y: Any, weights: Any = None, offset: Any = None
    ) -> None:
        self.family, self.intercept, self.scale, self.X, self.y = family, intercept, scale, X, y.ravel()
        self.weights = None if weights is None else weights.ravel()
        self.offset = None if offset is None else offset.ravel()
        self.sparse = scipy.sparse.issparse(X)

    def __len__(self) -> int:
        return len(self.y)

    def __call__(
        self, beta: np.ndarray, *, hessian: bool = False, least: float = 0.0
    ) -> tuple[float, np.ndarray, np.ndarray | None]:
        """Return loss, gradient, and the Hessian if asked for, in which no row curves less than ``least``."""
        count = self.X.shape[1]
        w, b = (beta[:-1], beta[-1]) if self.intercept else (beta, 0.0)
        loss, level, slope = 0.0, 0.0, np.zeros(count)
        squares, cross, corner = np.zeros((count, count) if hessian else (0, 0)), np.zeros(count), 0.0
        block = max(len(self), 1) if self.sparse else max(256, _BLOCK // count)
        with np.errstate(all="ignore"):
            for start in range(0, len(self), block):
                rows = slice(start, start + block)
                X, y = self.X if self.sparse else self.X[rows], self.y[rows]
                eta = X @ w
                eta += b
                if self.offset is not None:
                    eta += self.offset[rows]
                r = self._weighed(self.family.first(eta, y), rows)
                loss += float(self._weighed(self.family.losses(eta, y), rows).sum())
                slope += X.T @ r
                level += float(r.sum())
                if hessian:
                    h = self._weighed(np.maximum(self.family.second(eta, y), least), rows)
                    squares += square(X, h)
                    cross += X.T @ h
                    corner += float(h.sum())
        gradient = self.scale * (np.append(slope, level) if self.intercept else slope)
        if not hessian:
            return self.scale * loss, gradient, None
        if self.intercept:
            squares = np.block([[squares, cross[:, None]], [cross[None], np.array([[corner]])]])
        return self.scale * loss, gradient, self.scale * squares

    def curvature(self, beta: np.ndarray, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return the diagonal of the Hessian, and of each coefficient what it has with its intercept; 0 if there is none."""
        w, b = (beta[:-1], beta[-1]) if self.intercept else (beta, 0.0)
        squares, cross, corner = np.zeros(len(w)), np.zeros(len(w)), 0.0
        with np.errstate(all="ignore"):
            for rows in self._slices():
                X = self.X[rows]
                eta = X @ w + b + (0.0 if self.offset is None else self.offset[rows])
                h = self._weighed(np.maximum(self.family.second(eta, self.y[rows]), least), rows)
                squares += squared(X).T @ h
                cross += X.T @ h
                corner += float(h.sum())
        if not self.intercept:
            return self.scale * squares, np.zeros(len(w))
        return self.scale * np.append(squares, corner), self.scale * cross

    def steady(self, hessian: np.ndarray) -> np.ndarray:
        """Return a Hessian that curves in all directions: where it never can, no gradient points, and no step goes."""
        return hessian

    def floor(self, z: np.ndarray) -> float | None:
        """Return how small the last number may get in a chunk that is asked about z; None if it may be any."""
        return None

    def _slices(self) -> Iterator[slice]:
        """Yield blocks of rows that stay in the cache while they are squared."""
        for start in range(0, len(self), _ROWS):
            yield slice(start, start + _ROWS)

    def _weighed(self, values: np.ndarray, rows: slice) -> np.ndarray:
        return values if self.weights is None else values * self.weights[rows]


def by_chunks(work: Callable[..., Any], width: int, X: Any, y: Any, weights: Any, offset: Any, *more: Any) -> Any:
    """Return what a function says of each chunk, in a row of ``width`` numbers each: lazily, unless rows are in memory.

    It is called with rows, labels, weights and offset or None, and ``more``, and returns a vector.
    """
    work = functools.partial(_told, work=work, weighted=weights is not None, shifted=offset is not None)
    columns = [part[:, None] for part in (y, weights, offset) if part is not None]
    if not isinstance(X, da.Array):
        return work(X, *columns, *more)
    options: Any = {"chunks": ((1,) * X.numblocks[0], (width,)), "dtype": float, "meta": np.empty((0, 0))}
    return da.map_blocks(work, X, *columns, *more, **options)


def _told(X: Any, *rest: Any, work: Callable[..., np.ndarray], weighted: bool, shifted: bool) -> np.ndarray:
    """Put the columns that there are in their places."""
    y, weights, offset = rest[0].ravel(), None, None
    if weighted:
        weights = rest[1].ravel()
    if shifted:
        offset = rest[1 + weighted].ravel()
    return work(X, y, weights, offset, *rest[1 + weighted + shifted :])[None]


def squared(X: Any) -> Any:
    """Return the squares of what rows hold."""
    return X.multiply(X) if scipy.sparse.issparse(X) else X * X


def square(X: Any, h: np.ndarray) -> np.ndarray:
    """Return ``X.T diag(h) X``."""
    if scipy.sparse.issparse(X):
        found: np.ndarray = kernels.square(X, h)[0]
        return found
    scaled = X * np.sqrt(h)[:, None]  # NumPy multiplies a matrix by its own transpose in half the time
    product: np.ndarray = scaled.T @ scaled
    return product


def factored(matrix: np.ndarray) -> Any:
    """Return the Cholesky factor of a matrix, with as little ridge as it needs; None if there is none."""
    size = float(np.trace(matrix)) / max(len(matrix), 1)
    if not np.isfinite(matrix).all() or size <= 0:
        return None
    for ridge in (0.0, 1e-12, 1e-9, 1e-6, 1e-3):
        try:
            return scipy.linalg.cho_factor(matrix + ridge * size * np.eye(len(matrix)), check_finite=False)
        except np.linalg.LinAlgError:
            continue
    return None
