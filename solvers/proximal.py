"""Proximal gradient: for any penalty with a proximal operator, with momentum that starts over when it overshoots."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from solvers.iterate import State
from solvers.objective import Evaluation, Objective

__all__ = ["Proximal"]


@dataclass(frozen=True, eq=False)
class _Moving(State):
    """A state with the point that momentum leads to, the smooth part there, and the length of steps."""

    ahead: np.ndarray | None = None
    there: Evaluation | None = None
    step: float = 1.0
    momentum: float = 1.0


@dataclass(frozen=True)
class Proximal:
    """FISTA with backtracking and restart.

    Notes
    -----
    Beck and Teboulle, SIAM J. Imaging Sci. 2 (2009); restart: O'Donoghue and Candès, Found. Comput. Math. 15 (2015). A step
    that was short enough is lengthened a little for the next, so that one bad place does not slow all that follow.
    """

    @property
    def name(self) -> str:
        return "proximal gradient"

    def refusal(self, objective: Objective) -> str | None:
        return None

    def init(self, objective: Objective, beta: np.ndarray) -> _Moving:
        at = objective(beta)
        return _Moving(beta, at, beta, at)

    def step(self, objective: Objective, state: _Moving) -> _Moving | None:
        assert state.ahead is not None
        assert state.there is not None
        found = _descended(objective, state.ahead, state.there, 1.2 * state.step)
        if found is None:
            return None
        beta, at, step = found
        back = (state.ahead - beta) @ (beta - state.beta) > 0  # momentum leads uphill
        momentum = 1.0 if back else (1 + math.sqrt(1 + 4 * state.momentum**2)) / 2
        factor = 0.0 if back else (state.momentum - 1) / momentum
        if not factor:
            return _Moving(beta, at, beta, at, step, momentum)
        ahead = beta + factor * (beta - state.beta)
        there = objective(ahead)
        if not np.isfinite(there.value):  # momentum leads out of where the objective is
            return _Moving(beta, at, beta, at, step)
        return _Moving(beta, at, ahead, there, step, momentum)


def _descended(
    objective: Objective, start: np.ndarray, at: Evaluation, step: float
) -> tuple[np.ndarray, Evaluation, float] | None:
    """Return the proximal gradient step from a point that is short enough for the quadratic bound to hold."""
    for _ in range(60):
        beta = objective.prox(start - step * at.gradient, step)
        change = beta - start
        if not change.any():
            return None
        there = objective(beta)
        # The bound in terms of gradients says the same where rounding hides the difference of values.
        bound = at.value + float(at.gradient @ change) + float(change @ change) / (2 * step)
        slopes = float((there.gradient - at.gradient) @ change) <= float(change @ change) / step
        if there.value <= bound or (abs(there.value - at.value) <= 1e-13 * abs(at.value) and slopes):
            return beta, there, step
        step *= 0.5
    return None
