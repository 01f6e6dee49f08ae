"""Gradient descent: steps against the gradient, of a fixed length or found by a line search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from solvers.iterate import State
from solvers.linesearch import Sample, wolfe
from solvers.objective import Objective

__all__ = ["GradientDescent"]


@dataclass(frozen=True, eq=False)
class _Paced(State):
    """A state with the length of the step to try next."""

    step: float = 1.0


@dataclass(frozen=True)
class GradientDescent:
    """Gradient descent.

    Attributes
    ----------
    step_size : float, optional
        The length of all steps, in coefficients per gradient; by default a line search finds each, and begins with the length
        that the last change of the gradient suggests (Barzilai and Borwein, IMA J. Numer. Anal. 8 (1988)).
    """

    step_size: float | None = None

    @property
    def name(self) -> str:
        return "gradient descent"

    def refusal(self, objective: Objective) -> str | None:
        return None if objective.penalty.smooth else f"{objective.penalty!r} is not smooth; use Proximal"

    def init(self, objective: Objective, beta: np.ndarray) -> _Paced:
        at = objective(beta)
        return _Paced(beta, at, min(1.0, 1.0 / max(float(np.abs(at.gradient).max()), 1e-300)))

    def step(self, objective: Objective, state: _Paced) -> _Paced | None:
        gradient = state.at.gradient
        if self.step_size is not None:
            beta = state.beta - self.step_size * gradient
            return _Paced(beta, objective(beta), self.step_size)

        def evaluate(step: float) -> Sample:
            at = objective(state.beta - step * gradient)
            return Sample(step, at.value, -float(gradient @ at.gradient), at)

        found = wolfe(evaluate, Sample(0.0, state.at.value, -float(gradient @ gradient), None), state.step)
        if found is None:
            return None
        beta, turn = state.beta - found.step * gradient, found.found.gradient - gradient
        change = beta - state.beta
        curved = float(change @ turn)
        return _Paced(beta, found.found, float(change @ change) / curved if curved > 0 else 2 * found.step)
