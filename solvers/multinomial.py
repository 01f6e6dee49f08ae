"""Multinomial: several classes, each with coefficients and an intercept of its own, as in scikit-learn.

::

    eta = X Wᵀ + b,  a column for each class          loss = log Σ exp(eta) - eta of the row's class

All classes are treated alike, so adding one vector to the coefficients of all changes no loss. A penalty settles the
coefficients; intercepts (and coefficients, where there is none) are those whose sum over the classes is 0.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from solvers.data import Data, is_sparse
from solvers.families import Family
from solvers.objective import Evaluation, Objective, summed
from solvers.penalties import Penalty
from solvers.rows import Rows, by_chunks, squared

__all__ = ["Multinomial", "MultinomialObjective", "MultinomialRows"]

#: How many numbers made of rows are held at a time while a Hessian is summed.
_HELD = 1 << 16


@dataclass(frozen=True)
class Multinomial(Family):
    """Several classes, labelled from 0; the linear predictor has a column for each.

    Attributes
    ----------
    classes : int
        How many there are.
    """

    classes: int
    name = "multinomial"
    labels = "whole numbers of classes"
    bound = 0.5

    def losses(self, eta: Any, y: Any) -> Any:
        top = eta.max(axis=1)
        return np.log(np.exp(eta - top[:, None]).sum(axis=1)) + top - (self._own(y) * eta).sum(axis=1)

    def first(self, eta: Any, y: Any) -> Any:
        return self.mean(eta) - self._own(y)

    def second(self, eta: Any, y: Any) -> Any:
        """Return the diagonal of the second derivative."""
        p = self.mean(eta)
        return p * (1.0 - p)

    def mean(self, eta: Any) -> Any:
        e = np.exp(eta - eta.max(axis=1)[:, None])
        return e / e.sum(axis=1)[:, None]

    def wrong(self, y: Any) -> Any:
        return ~((y >= 0) & (y < self.classes) & (y == np.floor(y)))

    def _own(self, y: Any) -> Any:
        return (y[:, None] == np.arange(self.classes)) * 1.0


class MultinomialObjective(Objective):
    """The objective of `Multinomial`: its vector is the coefficients, class by class, and then the intercepts."""

    family: Multinomial

    def __init__(self, data: Data, family: Family, penalty: Penalty, *, intercept: bool = True) -> None:
        if data.offset is not None:
            raise ValueError("offset: one number for each row changes nothing where there are several classes.")
        super().__init__(data, family, penalty, intercept=intercept)

    @property
    def size(self) -> int:
        return self.penalised + self.intercept * self.family.classes

    @property
    def penalised(self) -> int:
        return self.data.features * self.family.classes

    def start(self) -> np.ndarray:
        return self.prox(np.zeros(self.size), 1.0)

    def split(self, beta: np.ndarray) -> tuple[np.ndarray, Any]:
        """Return coefficients, a row for each class, and intercepts whose sum is 0."""
        beta = self.original(beta)
        w, b = beta[: self.penalised].reshape(self.family.classes, -1), beta[self.penalised :]
        return w, b - b.mean() if self.intercept else np.zeros(len(w))

    def __call__(self, beta: np.ndarray, *, hessian: bool = False) -> Evaluation:
        w, b = self.split(beta)
        self.passes += 1
        loss, slope, level, *curved = summed(_curve if hessian else _slope, self.data, self.family, w, b)
        gradient = np.concatenate([slope.ravel(), level]) if self.intercept else slope.ravel()
        return self._whole(beta, loss, gradient, self._hessian(*curved) if curved else None)

    def _hessian(self, square: Any) -> np.ndarray:  # type: ignore[override]
        return self.steady(_ordered(square, self.family.classes, self.data.features, self.intercept))

    @property
    def rows(self) -> type[Rows]:
        return MultinomialRows

    @property
    def shifting(self) -> bool:
        return True

    def seen(self, beta: np.ndarray) -> np.ndarray:
        found: np.ndarray = beta.copy()
        w, b = found[: self.penalised].reshape(self.family.classes, -1), found[self.penalised :]
        w -= w.mean(axis=0)
        b -= b.mean() if self.intercept else 0.0
        return found

    def steady(self, hessian: np.ndarray) -> np.ndarray:
        free = self.penalty.ridge == 0 and self.penalty.smooth
        return _curving(hessian, self.family.classes, self.data.features, coefficients=free)


class MultinomialRows(Rows):
    """The loss of the rows of a chunk, of several classes."""

    family: Multinomial

    def __call__(
        self, beta: np.ndarray, *, hessian: bool = False, least: float = 0.0
    ) -> tuple[float, np.ndarray, np.ndarray | None]:
        classes, count = self.family.classes, self.X.shape[1]
        weights = self.weights
        with np.errstate(all="ignore"):
            found = _sums(self.X, self.y, weights, None, *self._split(beta), family=self.family, hessian=hessian)
        found *= self.scale
        size = (count + 1) * classes
        gradient = found[1 : 1 + size if self.intercept else 1 + count * classes]
        curved = _ordered(found[1 + size :], classes, count, self.intercept) if hessian else None
        return float(found[0]), gradient, curved

    def curvature(self, beta: np.ndarray, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        w, b = self._split(beta)
        squares, cross, corner = np.zeros(w.shape), np.zeros(w.shape), np.zeros(len(w))
        with np.errstate(all="ignore"):
            for rows in self._slices():
                X = self.X[rows]
                h = np.maximum(self.family.second(np.asarray(X @ w.T) + b, self.y[rows]), least)
                h = h if self.weights is None else h * self.weights[rows, None]
                squares += np.asarray(squared(X).T @ h).T
                cross += np.asarray(X.T @ h).T
                corner += h.sum(axis=0)
        if not self.intercept:
            return self.scale * squares.ravel(), np.zeros(cross.size)
        return self.scale * np.append(squares, corner), self.scale * cross.ravel()

    def steady(self, hessian: np.ndarray) -> np.ndarray:
        return _curving(hessian, self.family.classes, self.X.shape[1], coefficients=True)

    def _split(self, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        classes, count = self.family.classes, self.X.shape[1]
        w = beta[: classes * count].reshape(classes, count)
        return w, beta[classes * count :] if self.intercept else np.zeros(classes)


def _ordered(square: np.ndarray, classes: int, count: int, intercept: bool) -> np.ndarray:
    """Return the Hessian's sums in the order of what is looked for: they come class by class, the intercept last in each."""
    found = square.reshape(classes, count + 1, classes, count + 1)
    coefs = found[:, :count, :, :count].reshape(classes * count, classes * count)
    if not intercept:
        return np.array(coefs)
    cross = found[:, :count, :, count].reshape(classes * count, classes)
    return np.block([[coefs, cross], [cross.T, found[:, count, :, count]]])


def _curving(hessian: np.ndarray, classes: int, count: int, *, coefficients: bool) -> np.ndarray:
    """Give curvature to the directions that change no loss, of intercepts and perhaps of coefficients.

    Without a penalty on them, Cholesky would divide rounding by rounding there. The gradient has no part in them, and
    neither have the steps, whatever curvature they are given: here as much as others have.
    """
    found: np.ndarray = hessian.copy()
    penalised = classes * count
    coefs = found[:penalised, :penalised].reshape(classes, count, classes, count)
    if coefficients:
        for j, size in enumerate(np.einsum("kjkj->j", coefs) / classes**2):
            coefs[:, j, :, j] += size
        found[:penalised, :penalised] = coefs.reshape(penalised, penalised)
    levels = found[penalised:, penalised:]
    levels += np.trace(levels) / classes**2
    return found


def _slope(family: Multinomial, X: Any, y: Any, weights: Any, offset: Any, w: Any, b: Any) -> Any:
    """Loss and gradient."""
    if is_sparse(X):
        found = _by_blocks(family, X, y, weights, w, b, hessian=False)
        return found[0], found[1 : 1 + X.shape[1] * family.classes], found[1 + X.shape[1] * family.classes :]
    eta = X.dot(w.T) + b
    losses, r = family.losses(eta, y), family.first(eta, y)
    if weights is not None:
        losses, r = losses * weights, r * weights[:, None]
    return losses.sum(), X.T.dot(r).T, r.sum(axis=0)


def _curve(family: Multinomial, X: Any, y: Any, weights: Any, offset: Any, w: Any, b: Any) -> Any:
    """Loss, gradient and Hessian."""
    found = _by_blocks(family, X, y, weights, w, b, hessian=True)
    first = 1 + X.shape[1] * family.classes
    second = first + family.classes
    return found[0], found[1:first], found[first:second], found[second:]


def _by_blocks(family: Multinomial, X: Any, y: Any, weights: Any, w: Any, b: Any, *, hessian: bool) -> Any:
    """Return all sums over rows in one vector, each chunk's by NumPy and SciPy: a Hessian is a product for each two classes."""
    work, size = functools.partial(_sums, family=family, hessian=hessian), (X.shape[1] + 1) * family.classes
    return by_chunks(work, 1 + size + hessian * size * size, X, y, weights, None, w, b).sum(axis=0)


def _sums(
    block: Any, y: np.ndarray, weights: Any, offset: Any, w: np.ndarray, b: np.ndarray, *, family: Multinomial, hessian: bool
) -> np.ndarray:
    s = 1.0 if weights is None else weights[:, None]
    eta = np.asarray(block @ w.T) + b
    r = family.first(eta, y) * s
    loss = (family.losses(eta, y)[:, None] * s).sum() if len(eta) else 0.0
    parts = [[loss], np.asarray(block.T @ r).T.ravel(), r.sum(axis=0)]
    if hessian:
        parts.append(_square(block, family.mean(eta), s).ravel())
    return np.concatenate(parts)


def _square(block: Any, p: np.ndarray, s: Any) -> np.ndarray:
    """Return the Hessian's sums: Xᵀ diag(s p (1 - p)) X and so on for each two classes, X with a column of ones."""
    s = np.broadcast_to(np.ravel(s), len(p))
    if scipy.sparse.issparse(block):
        return _square_of_csr(scipy.sparse.hstack([block, np.ones((len(p), 1))], format="csr"), p, s)
    classes, count = p.shape[1], block.shape[1] + 1
    square, own = np.zeros((classes * count, classes * count)), np.zeros((count, classes * count))
    few = max(16, _HELD // (classes * count))
    for start in range(0, len(p), few):  # so many rows that what is made of them stays in the cache
        rows = slice(start, start + few)
        X = np.column_stack([block[rows], np.ones(len(p[rows]))])
        Z = (p[rows, :, None] * X[:, None, :]).reshape(len(X), -1)
        scaled = Z * s[rows, None]
        square -= Z.T @ scaled
        own += X.T @ scaled
    found = square.reshape(classes, count, classes, count)
    for k in range(classes):
        found[k, :, k, :] += own[:, k * count : (k + 1) * count]
    return found


def _square_of_csr(X: Any, p: np.ndarray, s: np.ndarray) -> np.ndarray:
    classes, count = p.shape[1], X.shape[1]
    found = np.empty((classes, count, classes, count))
    for k in range(classes):
        for m in range(k + 1):
            h = s * p[:, k] * ((k == m) - p[:, m])
            found[k, :, m, :] = (X.T @ X.multiply(h[:, None]).tocsr()).toarray()
            found[m, :, k, :] = found[k, :, m, :]
    return found
