"""Scaled: Huber's loss with the scale of the residuals estimated beside the coefficients, so that units of y do not matter.

::

    F(w, b, σ) = mean of σ / 2 + σ huber((eta - y) / σ), and penalty(w)

It is convex in all three together, and half of what Huber calls Proposal 2 (Huber and Ronchetti, Robust Statistics, 2009,
section 7.8; Owen, Contemporary Mathematics 443, 2007), as in scikit-learn's HuberRegressor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

from solvers.families import Huber
from solvers.objective import Evaluation, Objective, back, gram, summed, times
from solvers.rows import Rows, square, squared

__all__ = ["ScaledHuber", "ScaledObjective", "ScaledRows"]

#: The least scale, relative to that of the labels: where all residuals can be 0, so would be the scale.
_LEAST = 1e-10

#: To which part of itself a scale shrinks at most, where chunks solve for theirs.
_SHRUNK = 0.1


@dataclass(frozen=True)
class ScaledHuber(Huber):
    """Huber's loss in units of a scale that is estimated too; ``delta`` is where it begins to grow linearly, in those units."""

    name = "scaled huber"


class ScaledObjective(Objective):
    """The objective of `ScaledHuber`: its vector is the coefficients, the intercept if there is one, and the scale."""

    @property
    def size(self) -> int:
        return self.penalised + self.intercept + 1

    def start(self) -> np.ndarray:
        """Return the mean label and the spread of labels about it; a pass over them alone."""
        beta = np.zeros(self.size)
        beta[-1] = max(self._spread, self._least)
        if self.intercept:
            beta[-2] = self.data.label
        return self.prox(beta, 1.0)

    @property
    def _spread(self) -> float:
        if not hasattr(self, "_found"):
            squares = (self.data.y - (self.data.label if self.intercept else 0.0)) ** 2
            if self.data.weights is not None:
                squares = squares * self.data.weights
            self._found = float(np.sqrt(da.sum(squares).compute() / self.data.total))
        return self._found

    @property
    def _least(self) -> float:
        return _LEAST * max(self._spread, abs(self.data.label)) or _LEAST

    def split(self, beta: np.ndarray) -> tuple[np.ndarray, Any]:
        beta = self.original(beta)
        return beta[: self.penalised], float(beta[-2]) if self.intercept else 0.0

    def __call__(self, beta: np.ndarray, *, hessian: bool = False) -> Evaluation:
        (w, b), scale = self.split(beta), float(beta[-1])
        if scale < self._least:  # outside: solvers turn back from what is infinite
            return Evaluation(np.inf, np.zeros(self.size), np.eye(self.size) if hessian else None)
        self.passes += 1
        loss, slope, level, turn, *curved = summed(_curve if hessian else _slope, self.data, self.family, w, b, scale)
        ends = [level, turn] if self.intercept else [turn]
        return self._whole(beta, loss, np.append(slope, ends), self._hessian(*curved) if curved else None)

    def _hessian(self, square: Any, cross: Any, corner: Any, *rest: Any) -> np.ndarray:
        across, mixed, last = rest
        found = np.block([[square, cross[:, None], across[:, None]], [np.append(cross, [corner, mixed])]])
        found = np.vstack([found, np.append(across, [mixed, last])])
        kept = [*range(self.penalised), *([self.penalised] if self.intercept else []), self.penalised + 1]
        return found[np.ix_(kept, kept)]

    @property
    def rows(self) -> type[Rows]:
        return ScaledRows

    @property
    def floor(self) -> float:
        return self._least

    def residual(self, beta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return the proximal gradient; at its bound the scale may want to be smaller."""
        found = np.array(super().residual(beta, gradient))
        found[-1] = beta[-1] - max(beta[-1] - gradient[-1], self._least)
        return found


class ScaledRows(Rows):
    """The loss of the rows of a chunk, as a function of coefficients, intercept and scale.

    A chunk by itself may be fitted better the smaller its scale is, without end, and cannot be where there is none. So a
    chunk makes its scale no smaller than a part of the one that it is asked about; at the optimum all scales are that one.
    """

    def __call__(
        self, beta: np.ndarray, *, hessian: bool = False, least: float = 0.0
    ) -> tuple[float, np.ndarray, np.ndarray | None]:
        size, scale = len(beta), float(beta[-1])
        if not scale > 0:  # outside: who comes here turns back
            return np.inf, np.zeros(size), np.eye(size) if hessian else None
        loss, gradient, squares = 0.0, np.zeros(size), np.zeros((size, size) if hessian else (0, 0))
        with np.errstate(all="ignore"):
            for rows in self._slices():
                X, z = self.X[rows], self._off(rows, beta)
                near = self.family.first(z, 0.0)
                r, turn = self._weighed(near, rows), self._weighed(0.5 - 0.5 * near * near, rows)
                loss += scale * float(self._weighed(0.5 + self.family.losses(z, 0.0), rows).sum())
                gradient += np.concatenate([X.T @ r, [r.sum()] if self.intercept else [], [turn.sum()]])
                if hessian:
                    h = self._weighed(np.maximum(self.family.second(z, 0.0), least), rows) / scale
                    ends = np.array([np.ones(len(z)), -near][not self.intercept :])  # what rows have beside features
                    cross = X.T @ (ends * h).T
                    squares += np.block([[square(X, h), cross], [cross.T, (ends * h) @ ends.T]])
        return self.scale * loss, self.scale * gradient, self.scale * squares if hessian else None

    def curvature(self, beta: np.ndarray, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        count = self.X.shape[1]
        squares, cross, ends = np.zeros(count), np.zeros(count), np.zeros(2)
        with np.errstate(all="ignore"):
            for rows in self._slices():
                X, z = self.X[rows], self._off(rows, beta)
                h = self._weighed(np.maximum(self.family.second(z, 0.0), least), rows) / beta[-1]
                squares += squared(X).T @ h
                cross += X.T @ h
                ends += [h.sum(), self.family.first(z, 0.0) ** 2 @ h]
        return self.scale * np.append(squares, ends[not self.intercept :]), self.scale * self.intercept * cross

    def floor(self, z: np.ndarray) -> float:
        return _SHRUNK * float(z[-1])

    def _off(self, rows: slice, beta: np.ndarray) -> np.ndarray:
        count = self.X.shape[1]
        eta = self.X[rows] @ beta[:count] + (beta[count] if self.intercept else 0.0)
        off: np.ndarray = eta + (0.0 if self.offset is None else self.offset[rows]) - self.y[rows]
        off /= beta[-1]
        return off


def _slope(family: Huber, X: Any, y: Any, weights: Any, offset: Any, w: Any, b: Any, scale: Any) -> Any:
    """Loss, and gradient by coefficients, intercept and scale."""
    z = _residuals(X, y, offset, w, b, scale)
    s = 1.0 if weights is None else weights
    near = np.minimum(np.abs(z), family.delta)
    losses, turn = scale * (0.5 + family.losses(z, 0.0)), 0.5 - 0.5 * near * near
    r = family.first(z, 0.0) * s
    return (losses * s).sum(), back(X, r), r.sum(), (turn * s).sum()


def _curve(family: Huber, X: Any, y: Any, weights: Any, offset: Any, w: Any, b: Any, scale: Any) -> Any:
    """Loss, gradient and Hessian."""
    z = _residuals(X, y, offset, w, b, scale)
    s = (1.0 if weights is None else weights) / scale
    h = family.second(z, 0.0) * s
    m = h * z
    curved = *gram(X, h), h.sum(), -back(X, m), -m.sum(), (m * z).sum()
    return *_slope(family, X, y, weights, offset, w, b, scale), *curved


def _residuals(X: Any, y: Any, offset: Any, w: Any, b: Any, scale: Any) -> Any:
    eta = times(X, w) + b
    return ((eta if offset is None else eta + offset) - y) / scale
