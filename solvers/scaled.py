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

__all__ = ["ScaledHuber", "ScaledObjective"]

#: The least scale, relative to that of the labels: where all residuals can be 0, so would be the scale.
_LEAST = 1e-10


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

    def residual(self, beta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Return the proximal gradient; at its bound the scale may want to be smaller."""
        found = np.array(super().residual(beta, gradient))
        found[-1] = beta[-1] - max(beta[-1] - gradient[-1], self._least)
        return found


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
