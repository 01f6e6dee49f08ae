"""Newton: the Hessian is made in the same pass as the gradient, and solved with on the client.

``Newton`` is for smooth penalties. ``ProximalNewton`` minimises the quadratic model with the penalty by coordinate descent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from solvers.iterate import State
from solvers.objective import Objective
from solvers.quadratic import minimum

__all__ = ["Newton", "ProximalNewton"]

#: How much of the promised decrease is asked for, and how often a step is halved at most.
_DECREASE, _HALVED = 1e-4, 30

#: Pivots and eigenvalues below this, relative to the largest and for each row of a Hessian, are rounding.
_SINGULAR = 4e-15

#: Differences of values that are rounding, relative to the value.
_ROUNDING = 4e-15


@dataclass(frozen=True)
class Newton:
    """Damped Newton steps: one pass each as a rule, and the number of features squared in numbers."""

    @property
    def name(self) -> str:
        return "Newton"

    def refusal(self, objective: Objective) -> str | None:
        return None if objective.penalty.smooth else f"{objective.penalty!r} is not smooth; use ProximalNewton"

    def init(self, objective: Objective, beta: np.ndarray) -> State:
        return State(beta, objective(beta, hessian=True))

    def step(self, objective: Objective, state: State) -> State | None:
        assert state.at.hessian is not None
        direction = -_solved(state.at.hessian, state.at.gradient, objective.penalised)
        return _damped(objective, state, direction, float(direction @ state.at.gradient))


@dataclass(frozen=True)
class ProximalNewton:
    """Newton steps for penalties with a kink at 0 or with bounds, one coefficient at a time on the client.

    Attributes
    ----------
    sweeps : int
        How often coordinate descent goes through all coefficients at most.

    Notes
    -----
    Lee, Sun and Saunders, SIAM J. Optim. 24 (2014).
    """

    sweeps: int = 200

    @property
    def name(self) -> str:
        return "proximal Newton"

    def refusal(self, objective: Objective) -> str | None:
        if not objective.penalty.separable:
            return f"{objective.penalty!r} ties coefficients together; use Proximal"
        return None

    def init(self, objective: Objective, beta: np.ndarray) -> State:
        return State(beta, objective(beta, hessian=True))

    def step(self, objective: Objective, state: State) -> State | None:
        assert state.at.hessian is not None
        gradient, hessian = state.at.gradient, state.at.hessian
        direction = minimum(objective, state.beta, gradient, hessian, sweeps=self.sweeps, least=1e-3) - state.beta
        before, after = objective.nonsmooth(state.beta), objective.nonsmooth(state.beta + direction)
        return _damped(objective, state, direction, float(direction @ gradient) + after - before)


def _solved(hessian: np.ndarray, gradient: np.ndarray, penalised: int) -> np.ndarray:
    """Return the inverse of the Hessian times the gradient; where it is singular, that with the shortest coefficients.

    Shortest is meant of the coefficients, the first ``penalised``, once the others are at their best for them: so that least
    squares of more features than rows has the answer that is expected, of which the intercept is no part.
    """
    try:
        factor = scipy.linalg.cholesky(hessian, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return _shortest(hessian, gradient, penalised)
    pivots = np.diag(factor) / np.sqrt(np.diag(hessian))  # of the scaled Hessian: units of features are no matter
    if pivots.min() ** 2 < _SINGULAR * len(hessian):
        return _shortest(hessian, gradient, penalised)
    return np.asarray(scipy.linalg.cho_solve((factor, True), gradient, check_finite=False))


def _shortest(hessian: np.ndarray, gradient: np.ndarray, penalised: int) -> np.ndarray:
    first, last = slice(penalised), slice(penalised, None)
    inner = scipy.linalg.pinvh(hessian[last, last], check_finite=False)
    across = hessian[first, last] @ inner
    schur = hessian[first, first] - across @ hessian[last, first]
    w = scipy.linalg.pinvh(schur, rtol=_SINGULAR * len(hessian), check_finite=False) @ (
        gradient[first] - across @ gradient[last]
    )
    found = np.concatenate([w, inner @ (gradient[last] - hessian[last, first] @ w)])
    left = hessian @ found - gradient
    if np.isfinite(found).all() and np.abs(left).max() <= 1e-6 * np.abs(gradient).max():
        return found
    # There is a slope without curvature: with a little of that, a long step down it, which the line search shortens.
    size = float(np.trace(hessian)) / len(hessian) or 1.0
    ridged: np.ndarray = scipy.linalg.pinvh(hessian + 1e-8 * size * np.eye(len(hessian)), check_finite=False) @ gradient
    return ridged if np.isfinite(ridged).all() and ridged @ gradient > 0 else gradient / size


def _damped(objective: Objective, state: State, direction: np.ndarray, promised: float) -> State | None:
    """Go along a direction as far as that pays: half as far each time; None where it never does."""
    value = state.at.value + objective.nonsmooth(state.beta)
    certificate = np.abs(objective.residual(state.beta, state.at.gradient)).max()
    if not promised < 0:
        return None
    step = 1.0
    for _ in range(_HALVED):
        beta = state.beta + step * direction
        at = objective(beta, hessian=True)
        now = at.value + objective.nonsmooth(beta)
        near = abs(now - value) <= _ROUNDING * abs(value)
        if now <= value + _DECREASE * step * promised and not near:
            return State(beta, at)
        if near:  # rounding hides the decrease: go on as long as the certificate does
            better = np.abs(objective.residual(beta, at.gradient)).max() < certificate
            return State(beta, at) if better else None
        step *= 0.5 if np.isfinite(now) else 0.1
    return None
