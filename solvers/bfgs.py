"""BFGS: curvature is learned from how the gradient changes; ``LBFGS`` remembers some of its last changes, ``BFGS`` all.

``OWLQN`` is L-BFGS for the lasso: within an orthant the sum of absolute values is as smooth as any function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from solvers.iterate import State
from solvers.linesearch import Sample, wolfe
from solvers.objective import Evaluation, Objective
from solvers.penalties import Kinks

__all__ = ["BFGS", "LBFGS", "OWLQN"]

#: How often a step is halved at most, how much of the promised decrease is asked for, and what is rounding.
_HALVED, _DECREASE, _ROUNDING = 40, 1e-4, 4e-15


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
        direction = -_scaled(state, state.at.gradient)
        found = _searched(objective, state, direction, first=1.0 if state.steps else _short(state))
        if found is None and state.steps:  # forget what misled it
            direction = -state.at.gradient
            state = replace(state, steps=(), turns=())
            found = _searched(objective, state, direction, first=_short(state))
        if found is None:
            return None
        beta, at = found
        return _learned(state, beta, at, self.memory)


@dataclass(frozen=True)
class BFGS(LBFGS):
    """BFGS that forgets nothing: for some hundred features."""

    memory: int = 10_000

    @property
    def name(self) -> str:
        return "BFGS"


@dataclass(frozen=True)
class OWLQN:
    """Orthant-wise limited-memory quasi-Newton: L-BFGS for penalties whose kink is that of the lasso.

    Attributes
    ----------
    memory : int
        How many changes it remembers.

    Notes
    -----
    Andrew and Gao, ICML 2007. The step is taken within the orthant that the steepest descent enters; coefficients that would
    leave it become 0. Theirs takes from the direction whatever disagrees in sign with the steepest descent; here that is asked
    only of coefficients that are 0, as the others are at no kink, and curvature is learned of those that are free: an eighth of
    the iterations where features are correlated.
    """

    memory: int = 10

    @property
    def name(self) -> str:
        return "OWL-QN"

    def refusal(self, objective: Objective) -> str | None:
        kinks = objective.penalty.kinks
        if kinks is None or kinks != Kinks(lasso=kinks.lasso):
            return f"{objective.penalty!r} has other kinks than the lasso; use Proximal"
        return None

    def init(self, objective: Objective, beta: np.ndarray) -> _Changes:
        return _Changes(beta, objective(beta))

    def step(self, objective: Objective, state: _Changes) -> _Changes | None:
        assert objective.penalty.kinks is not None
        count = objective.penalised
        kinks = np.repeat([objective.penalty.kinks.lasso, 0.0], [count, objective.size - count])
        steepest = _steepest(state.beta, state.at.gradient, kinks)
        held = (state.beta == 0) & (kinks > 0)
        direction = -_scaled(state, steepest, ~held | (steepest != 0))
        direction[held & (direction * steepest >= 0)] = 0.0
        found = _within(objective, state, direction, steepest, kinks, 1.0 if state.steps else _short(state))
        if found is None and state.steps:
            state = replace(state, steps=(), turns=())
            found = _within(objective, state, -steepest, steepest, kinks, _short(state))
        return None if found is None else _learned(state, *found, self.memory)


def _steepest(beta: np.ndarray, gradient: np.ndarray, kinks: np.ndarray) -> np.ndarray:
    """Return the subgradient of least length."""
    at_zero = np.sign(gradient) * np.maximum(np.abs(gradient) - kinks, 0.0)
    steepest: np.ndarray = np.where((beta == 0) & (kinks > 0), at_zero, gradient + kinks * np.sign(beta))
    return steepest


def _within(
    objective: Objective, state: State, direction: np.ndarray, steepest: np.ndarray, kinks: np.ndarray, step: float
) -> tuple[np.ndarray, Evaluation] | None:
    """Go along a direction as far as that pays, within the orthant; return where that led, and the smooth part there."""
    orthant = np.where(state.beta != 0, np.sign(state.beta), -np.sign(steepest))
    value = state.at.value + objective.nonsmooth(state.beta)
    certificate = np.abs(objective.residual(state.beta, state.at.gradient)).max()
    for _ in range(_HALVED):
        beta = state.beta + step * direction
        beta = np.where((kinks > 0) & (beta * orthant <= 0), 0.0, beta)
        promised = float(steepest @ (beta - state.beta))
        if not promised < 0:
            return None
        at = objective(beta)
        now = at.value + objective.nonsmooth(beta)
        if abs(now - value) <= _ROUNDING * abs(value):  # rounding hides the decrease: the slope or the certificate decides
            slope = float((at.gradient + kinks * orthant) @ (beta - state.beta))
            better = np.abs(objective.residual(beta, at.gradient)).max() < certificate
            return (beta, at) if better or slope <= (2 * _DECREASE - 1) * promised else None
        if now <= value + _DECREASE * promised:
            return beta, at
        step *= 0.5
    return None


def _learned(state: _Changes, beta: np.ndarray, at: Evaluation, memory: int) -> _Changes:
    """Return the next state, which remembers how the gradient changed if that tells of curvature."""
    change, turn = beta - state.beta, at.gradient - state.at.gradient
    if change @ turn <= 1e-14 * (turn @ turn) ** 0.5 * (change @ change) ** 0.5:
        return replace(state, beta=beta, at=at)
    return _Changes(beta, at, (*state.steps, change)[-memory:], (*state.turns, turn)[-memory:])


def _scaled(state: _Changes, gradient: np.ndarray, free: np.ndarray | None = None) -> np.ndarray:
    """Return a gradient times the inverse Hessian as it is known, in all coordinates or in those that are free."""
    pairs = list(zip(state.steps, state.turns, strict=True))
    if free is not None and not free.all():
        pairs = [(step * free, turn * free) for step, turn in pairs]
        pairs = [(step, turn) for step, turn in pairs if step @ turn > 1e-10 * (step @ step) ** 0.5 * (turn @ turn) ** 0.5]
    q: np.ndarray = gradient.copy()
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
