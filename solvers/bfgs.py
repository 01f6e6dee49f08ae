"""BFGS: curvature is learned from how the gradient changes; ``LBFGS`` remembers some of its last changes, ``BFGS`` all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from solvers.iterate import State
from solvers.linesearch import Sample, wolfe
from solvers.objective import Evaluation, Objective

__all__ = ["BFGS", "LBFGS"]


@dataclass(frozen=True, eq=False)
class _Changes(State):
    """A state with the last changes of coefficients and of gradients, oldest first."""

    steps: tuple[np.ndarray, ...] = ()
    turns: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS with a Wolfe line search, one pass an iteration as a rule.

    Attributes
    ----------
    memory : int
        How many changes it remembers.

    Notes
    -----
    Nocedal and Wright, *Numerical Optimization* (2006), algorithm 7.4.
    """

    memory: int = 10

    @property
    def name(self) -> str:
        return "L-BFGS"

    def refusal(self, objective: Objective) -> str | None:
        return None if objective.penalty.smooth else f"{objective.penalty!r} is not smooth; use ProximalNewton or Proximal"

    def init(self, objective: Objective, beta: np.ndarray) -> _Changes:
        return _Changes(beta, objective(beta))

    def step(self, objective: Objective, state: _Changes) -> _Changes | None:
        direction = -self._scaled(state)
        found = _searched(objective, state, direction, first=1.0 if state.steps else _short(state))
        if found is None and state.steps:  # forget what misled it
            direction = -state.at.gradient
            state = replace(state, steps=(), turns=())
            found = _searched(objective, state, direction, first=_short(state))
        if found is None:
            return None
        beta, at = found
        change, turn = beta - state.beta, at.gradient - state.at.gradient
        if change @ turn <= 1e-14 * (turn @ turn) ** 0.5 * (change @ change) ** 0.5:
            return replace(state, beta=beta, at=at)
        return _Changes(beta, at, (*state.steps, change)[-self.memory :], (*state.turns, turn)[-self.memory :])

    def _scaled(self, state: _Changes) -> np.ndarray:
        """Return the gradient times the inverse Hessian as it is known."""
        pairs = list(zip(state.steps, state.turns, strict=True))
        q: np.ndarray = state.at.gradient.copy()
        parts: list[float] = []
        for step, turn in reversed(pairs):
            part = (step @ q) / (step @ turn)
            q -= part * turn
            parts.append(part)
        if pairs:
            step, turn = pairs[-1]
            q *= (step @ turn) / (turn @ turn)
        for (step, turn), part in zip(pairs, reversed(parts), strict=True):
            q += (part - (turn @ q) / (step @ turn)) * step
        return q


@dataclass(frozen=True)
class BFGS(LBFGS):
    """BFGS that forgets nothing: for some hundred features."""

    memory: int = 10_000

    @property
    def name(self) -> str:
        return "BFGS"


def _short(state: State) -> float:
    """Return a first step that moves no coefficient by more than 1."""
    return float(min(1.0, 1.0 / max(np.abs(state.at.gradient).max(), 1e-300)))


def _searched(objective: Objective, state: State, direction: np.ndarray, first: float) -> tuple[np.ndarray, Evaluation] | None:
    """Go along a direction; return where that led, and the smooth part there."""
    slope = float(direction @ state.at.gradient)
    if not slope < 0:
        return None

    def evaluate(step: float) -> Sample:
        beta = state.beta + step * direction
        at = objective(beta)
        return Sample(step, at.value, float(direction @ at.gradient), (beta, at))

    found = wolfe(evaluate, Sample(0.0, state.at.value, slope, None), first)
    return None if found is None else found.found
