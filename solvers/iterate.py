"""Iterate: the one loop that all methods share.

A method says what it needs, where it begins, and makes one step at a time: pure functions of the objective and a state. The
loop asks for steps, certifies each, takes down the trace, and says how it ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from solvers.objective import Evaluation, Objective
from solvers.result import Point, Result, Status

__all__ = ["Method", "State", "begun", "minimise"]

#: After how many iterations that gain nothing beyond rounding a fit is as far as it gets, and what rounding is.
_IDLE, _ROUNDING = 10, 4e-16

#: Coefficients that are larger than this, in units of their features, are taken to grow without end.
_ENDLESS = 1e8


@dataclass(frozen=True, eq=False)
class State:
    """Where a method is.

    Attributes
    ----------
    beta : numpy.ndarray
        The coefficients, and the intercept last if there is one.
    at : Evaluation
        The smooth part there.
    """

    beta: np.ndarray
    at: Evaluation

    @property
    def record(self) -> Any:
        """What a method has taken down on the way, for the result."""
        return None


class Method(Protocol):
    """A way to minimise an objective."""

    @property
    def name(self) -> str:
        """What it is called."""

    def refusal(self, objective: Objective) -> str | None:
        """Say what it needs that the objective does not have; None if it has all."""

    def init(self, objective: Objective, beta: np.ndarray) -> Any:
        """Return the state at a start."""

    def step(self, objective: Objective, state: Any) -> Any:
        """Return the next state; None if rounding leaves none that is better."""


def minimise(
    method: Method,
    objective: Objective,
    start: np.ndarray | None = None,
    *,
    tol: float = 1e-6,
    max_iter: int = 100,
    callback: Callable[[Point, np.ndarray], Any] | None = None,
    why: str = "",
) -> Result:
    """Minimise an objective.

    Parameters
    ----------
    method
        How.
    objective
        What.
    start
        Coefficients to begin with, the intercept last if there is one; by default the best constant prediction.
    tol
        The certificate to reach: the largest component of the proximal gradient of the mean loss and penalty.
    max_iter
        The most iterations.
    callback
        Called after each iteration with a line of the trace and the coefficients; ends the fit if it returns True.
    why
        Why this method, for the result.

    Raises
    ------
    ValueError
        If the method cannot minimise this objective, or the data is not finite.
    """
    beta = begun(method, objective, start)
    run = _Run(method, objective, tol, max_iter, callback)
    status = run.go(beta)
    coef, intercept = objective.split(run.best.beta)
    return Result(
        np.array(coef),
        intercept,
        status,
        run.point.objective,
        run.point.certificate,
        run.trace[-1].iteration,
        objective.passes - run.before,
        time.perf_counter() - run.begun,
        f"{method.name}{f' ({why})' if why else ''}",
        tuple(run.trace),
        objective.original(run.best.beta).copy(),
        record=run.best.record,
    )


def begun(method: Method, objective: Objective, start: np.ndarray | None) -> np.ndarray:
    """Return where a method begins, or raise ValueError if it cannot minimise this objective, or not from there."""
    refusal = method.refusal(objective)
    if refusal is not None:
        raise ValueError(f"{method.name}: {refusal}.")
    beta = objective.start() if start is None else np.asarray(start, float)
    if beta.shape != (objective.size,):
        raise ValueError(f"start has shape {beta.shape}: must be {(objective.size,)}, the intercept last if there is one.")
    return beta if start is None else objective.standard(beta)


class _Run:
    """One run of the loop: the best state so far, and its line of the trace."""

    def __init__(self, method: Method, objective: Objective, tol: float, max_iter: int, callback: Any) -> None:
        self.method, self.objective, self.tol, self.max_iter, self.callback = method, objective, tol, max_iter, callback
        self.begun, self.before = time.perf_counter(), objective.passes
        self.trace: list[Point] = []
        self.idle = 0
        self.best: State
        self.point: Point

    def go(self, beta: np.ndarray) -> Status:
        """Iterate, and say how it ended."""
        state = self.best = self.method.init(self.objective, beta)
        point = self.point = self.note(state)
        try:
            while point.certificate > self.tol:
                if point.iteration >= self.max_iter:
                    return Status.ITERATIONS
                state = self.method.step(self.objective, state)
                if state is None:
                    return Status.PRECISION
                point = self.note(state)
                self.idle = 0 if self.gains(point) else self.idle + 1
                if self.idle == _IDLE:
                    return Status.PRECISION
                if point.objective <= self.point.objective or point.certificate <= self.tol:
                    self.best, self.point = state, point
                if not np.isfinite(point.objective) or np.abs(state.beta).max() > _ENDLESS:
                    return Status.UNBOUNDED
                if self.callback is not None and self.callback(point, self.objective.original(state.beta)) is True:
                    return Status.INTERRUPTED
        except KeyboardInterrupt:
            return Status.INTERRUPTED
        return Status.CONVERGED

    def gains(self, point: Point) -> bool:
        """Say whether an iteration lowered the objective by more than rounding, or is better certified than all before."""
        lower = point.objective < self.point.objective - _ROUNDING * abs(self.point.objective)
        return lower or point.certificate < min([before.certificate for before in self.trace[:-1]])

    def note(self, state: State) -> Point:
        """Certify a state and take it down."""
        value = state.at.value + self.objective.nonsmooth(state.beta)
        certificate = float(np.abs(self.objective.residual(state.beta, state.at.gradient)).max())
        passes = self.objective.passes - self.before
        self.trace.append(Point(len(self.trace), passes, value, certificate, time.perf_counter() - self.begun))
        return self.trace[-1]
