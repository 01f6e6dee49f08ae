"""Logistic regression by gradient descent, as a dask user would write it.

Nothing here knows about graphopt. `loss_and_gradient` runs unchanged on NumPy arrays, on dask arrays, and
compiled, so all runs of the demonstration execute the same formulas; they differ only in who executes them.

The step size is fixed: 1 over a bound on the curvature. Nothing depends on the value of the loss, so runs that agree
to rounding take the same steps. Nesterov's momentum costs nothing and saves a factor of ten in iterations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Descent", "State", "Vector", "chunked_loss_and_gradient", "curvature_bound", "loss_and_gradient"]

Vector = npt.NDArray[np.float64]
Chunks = Sequence[tuple[Vector, Vector]]


def loss_and_gradient(X: Any, y: Any, beta: Vector) -> tuple[Any, Any]:
    """Negative log-likelihood of a logistic model and its gradient; ``y`` is 0 or 1.

    ``log(1 + exp(eta))`` is written as ``max(eta, 0) + log1p(exp(-|eta|))``, which cannot overflow.
    """
    eta = X.dot(beta)
    p = 1 / (1 + np.exp(-eta))
    loss = (np.maximum(eta, 0) + np.log1p(np.exp(-abs(eta))) - y * eta).sum()
    gradient = X.T.dot(p - y)
    return loss, gradient


def chunked_loss_and_gradient(chunks: Chunks, beta: Vector) -> tuple[float, Vector]:
    """The same in NumPy, one chunk after the other: the work that every other way of running it has to do."""
    loss, gradient = 0.0, np.zeros_like(beta)
    for X, y in chunks:
        chunk_loss, chunk_gradient = loss_and_gradient(X, y, beta)
        loss += float(chunk_loss)
        gradient += chunk_gradient
    return loss, gradient


def curvature_bound(chunks: Chunks, penalty: Vector) -> float:
    """A Lipschitz constant of the gradient: the largest eigenvalue of X'X / 4, plus the penalty."""
    gram = sum(X.T.dot(X) for X, _ in chunks)
    return float(np.linalg.eigvalsh(np.asarray(gram))[-1] / 4 + penalty.max(initial=0.0))


@dataclass(frozen=True, slots=True)
class State:
    """Where the descent stands: the coefficients, the point at which to take the next gradient, and the step count."""

    beta: Vector
    point: Vector
    iteration: int = 0


@dataclass(frozen=True, slots=True)
class Descent:
    """The method: accelerated gradient steps of a fixed size.

    Parameters
    ----------
    curvature
        A Lipschitz constant of the gradient; the step is its inverse.
    penalty
        Weight of half the squared coefficient, one for each coefficient (0 leaves it, as the intercept, alone).
    """

    curvature: float
    penalty: Vector

    def start(self) -> State:
        """The state before the first step: all coefficients zero."""
        zero = np.zeros_like(self.penalty)
        return State(zero, zero)

    def momentum(self, iteration: int) -> float:
        """How far to look ahead: Nesterov's constant for a strongly convex problem, his sequence for any other."""
        strong = float(self.penalty.max(initial=0.0))
        if strong > 0:
            root = math.sqrt(self.curvature / strong)
            return (root - 1) / (root + 1)
        return iteration / (iteration + 3)

    def advance(self, state: State, gradient: Vector) -> State:
        """The next state, from the gradient of the loss at ``state.point``."""
        beta = state.point - (gradient + self.penalty * state.point) / self.curvature
        point = beta + self.momentum(state.iteration) * (beta - state.beta)
        return State(beta, point, state.iteration + 1)
