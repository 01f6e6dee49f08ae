"""Gram: least squares needs one pass over the data; all else is done on the client with products of its columns.

::

    Σ s (X w + b - t)² / Σ s  =  |centred (X, t)·(w, -1)|² / Σ s + (mean of X·w + b - mean of t)²,    t = y - offset

Products are of columns about their means (`solvers.moments`): labels that are large beside their spread lose nothing. Any
penalty, any method that asks nothing but evaluations, and all strengths of a path then cost no further pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

from solvers.data import Data
from solvers.families import Family, Normal
from solvers.moments import Moments, constant, joined, per_chunk, products, width
from solvers.objective import Evaluation, Objective, evaluated
from solvers.penalties import Penalty
from solvers.rows import by_chunks

__all__ = ["GramObjective", "once"]

#: The least part of a feature's variance that those before it leave, for products to be taken for the rows.
_APART = 1e-7


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
        held = self._held()
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

    def _held(self) -> Moments:
        if self._moments is None:
            self.passes += 1
            self._moments = joined(*evaluated(once, self.data, Normal()))
        return self._moments

    def spreads(self) -> tuple[np.ndarray, np.ndarray] | None:
        if self.data.sparse:  # products of what is not centred do not tell what is constant
            return None
        held = self._held()
        mean, variance = held.mean[:-1], np.diag(held.covariance)[:-1]
        return mean, np.where(constant(variance, mean, self.data.rows), 0.0, np.sqrt(variance))

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
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0) + ridge)  # of CSR, a constant's may be a little less than 0
    if not spread.all():
        return False
    try:
        factor = scipy.linalg.cholesky((covariance + ridge * np.eye(len(spread))) / np.outer(spread, spread), lower=True)
    except np.linalg.LinAlgError:
        return False
    return bool(np.diag(factor).min() ** 2 > _APART)


def once(family: Family, X: Any, y: Any, weights: Any, offset: Any) -> Any:
    """Weight and means of each chunk, and the sum of products about those means."""
    columns = X.shape[1] + 1
    return per_chunk(by_chunks(_products, width(columns), X, y, weights, offset), columns)


def _products(X: Any, y: np.ndarray, weights: Any, offset: Any) -> np.ndarray:
    """Return the products of the features and of the labels without their offset."""
    return products(X, np.ones(len(y)) if weights is None else weights, y if offset is None else y - offset)
