"""ADMM: every chunk solves a problem of its own, and a penalised mean brings their solutions together.

The consensus form (Boyd et al., Foundations and Trends in Machine Learning 3 (2011), chapters 5 and 7): with f_i the share of
chunk i in the mean loss and g the penalty, a round is ::

    x_i ← argmin f_i(x) + dual_i·(x - z) + |x - z|²_M_i / 2       in the chunks, by damped Newton
    v_i ← relax x_i + (1 - relax) z
    z   ← argmin g(z) + Σ |z - v_i|²_M_i / 2 - dual_i·z           on the client
    dual_i ← dual_i + M_i (v_i - z)                               in the chunks, at the start of the next pass

The metric M_i is the Hessian of f_i where z was. ADMM is Peaceman-Rachford splitting, damped by ``relax``, and the reflection
of a quadratic f_i in the metric of its own Hessian is 0: with ``relax`` near 2 the disagreement of the chunks falls by
1 - ``relax`` / 2 in each round however different they are; a scalar metric is as slow as the data is badly conditioned.
The first duals are the gradients at the start, so that the first round is a proximal Newton step.

A round is one pass: chunks first tell their gradients at the new z, which certify it, and then solve. Between passes they keep
their duals, solutions and metrics, as one row each of a dask array chunked like the rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

import graphopt as go
from solvers.families import Family
from solvers.iterate import State
from solvers.local import Pull, descended
from solvers.objective import Evaluation, Objective, evaluated
from solvers.quadratic import minimum
from solvers.rows import Rows, by_chunks, factored

__all__ = ["ADMM"]

#: How exactly chunks solve: until what is left of the Newton decrement. And how often a step is halved.
_LOOSE, _HALVED = 1e-2, 30

#: Metrics are made anew while a round gains less than this factor, but not for ever: ADMM converges once they stay.
_SLOW, _FRESH = 0.03, 25

#: No row curves less in a metric than this part of what it can: in Huber's tails it does not curve at all.
_CURVED = 1e-3


@dataclass(frozen=True, eq=False)
class _Consensus(State):
    """A state with where z goes next, what the chunks keep, their metrics' sum, how metrics fared, and if it starts over."""

    ahead: np.ndarray
    blocks: Any
    metric: np.ndarray
    promised: float
    fresh: int
    certificate: float
    first: bool


@dataclass(frozen=True)
class ADMM:
    """Consensus ADMM with Hessians as metric and over-relaxation: for any penalty, one pass a round.

    Attributes
    ----------
    relax : float
        Over-relaxation, above 0 and below 2.
    sweeps : int
        How often the client goes through all coefficients at most for a new z.

    Notes
    -----
    Chunks keep the number of features squared in numbers each, which is less than their rows as long as they have more rows
    than features. Where a step would raise the objective by more than its model promised to lower it, it starts over with
    gradients as duals: that is a proximal Newton step, which is damped until it leads down.
    """

    relax: float = 1.9
    sweeps: int = 1_000

    def __post_init__(self) -> None:
        if not 0 < self.relax < 2:
            raise ValueError(f"ADMM(relax={self.relax!r}): must be above 0 and below 2.")

    @property
    def name(self) -> str:
        return "ADMM"

    def refusal(self, objective: Objective) -> str | None:
        if objective.rows is None:
            return f"chunks have no problem of their own in the {objective.family.name} family; use ProximalNewton or Proximal"
        if objective.floor > -np.inf:
            return f"Hessians of chunks are no metric in the {objective.family.name} family; use ConsensusADMM or Proximal"
        return None

    def init(self, objective: Objective, beta: np.ndarray) -> _Consensus:
        return self._round(objective, beta, "first", None, None)

    def step(self, objective: Objective, state: _Consensus) -> _Consensus | None:
        change = state.ahead - state.beta
        if not change.any():
            return None
        slow = _certificate(objective, state) > _SLOW * state.certificate
        kind = "fresh" if slow and state.fresh < _FRESH else "kept"
        try:
            new = self._round(objective, state.ahead, kind, state.blocks, state)
        except go.ClusterError:  # what chunks kept went with its worker: they start over, if dask has their rows
            new = self._round(objective, state.ahead, "first", None, state)
        value = _value(objective, state)
        # ADMM goes up and down, but not in its first step from a start, which is one of proximal Newton.
        if _value(objective, new) <= value + max(0.0 if state.first else -state.promised, 1e-12 * abs(value)):
            return new
        return self._damped(objective, state)

    def _damped(self, objective: Objective, state: _Consensus) -> _Consensus | None:
        """Start over with gradients as duals: that is a proximal Newton step, which leads down if it is short enough."""
        start = state if state.first else self._round(objective, state.beta, "first", None, state)
        value, change, step = _value(objective, start), start.ahead - start.beta, 1.0
        for _ in range(_HALVED):
            new = self._round(objective, start.beta + step * change, "first", None, start)
            if _value(objective, new) <= value + 1e-4 * step * start.promised + 4e-16 * abs(value):
                return new
            step *= 0.5 if np.isfinite(new.at.value) else 0.1
        return None

    def _round(self, objective: Objective, z: np.ndarray, kind: str, blocks: Any, before: _Consensus | None) -> _Consensus:
        """Make a pass: certify z, let the chunks solve, and find the next z."""
        objective.passes += 1
        data, size = objective.data, objective.size
        how = np.array([1.0 / data.total, self.relax])
        given = () if kind == "first" else (blocks,)
        make: Any = objective.rows
        z_, body = objective.original(objective.seen(z)), _pass(make, objective.intercept, kind)
        kept, told = evaluated(body, data, objective.family, *given, z_, how)
        sums = np.asarray(told)  # many are a dask array of one chunk
        at: Evaluation = objective.ridged(z, float(sums[0]), sums[1 : size + 1])
        # What chunks solve does not depend on units, but what is penalised is in those of the objective.
        pull = objective.pulled(sums[size + 1 : 2 * size + 1])
        if kind == "kept" and before is not None:
            metric = before.metric
        else:
            metric = objective.steady(objective.squared(sums[2 * size + 1 :].reshape(size, size)))
        fresh = 0 if before is None else before.fresh + (kind != "kept")
        certificate = np.inf if before is None else _certificate(objective, before)
        if not (np.isfinite(at.value) and np.isfinite(pull).all()):
            return _Consensus(z, at, z, kept, metric, 0.0, fresh, certificate, kind == "first")
        # The ridge of the penalty is on z's side: it curves there, and the chunks know nothing of it.
        ridge = objective.ridges() * z
        curved = metric + np.diag(objective.ridges())
        if objective.penalty.smooth:
            factor = factored(curved)
            change = np.zeros(size) if factor is None else scipy.linalg.cho_solve(factor, pull - ridge, check_finite=False)
            ahead = z + change
        else:
            ahead = minimum(objective, z, ridge - pull, curved, sweeps=self.sweeps, least=1e-6)
            change = ahead - z
        promised = float((ridge - pull) @ change) + objective.nonsmooth(ahead) - objective.nonsmooth(z)
        return _Consensus(z, at, ahead, kept, metric, promised, fresh, certificate, kind == "first")


def _value(objective: Objective, state: State) -> float:
    return state.at.value + objective.nonsmooth(state.beta)


def _certificate(objective: Objective, state: State) -> float:
    return float(np.abs(objective.residual(state.beta, state.at.gradient)).max())


@functools.cache
def _pass(make: Any, intercept: bool, kind: str) -> Callable[..., Any]:
    """Return the pass of a round.

    Its kinds: ``first`` takes gradients as duals; ``fresh`` goes on, with new metrics; ``kept`` goes on as it was.
    """

    def turn(family: Family, X: Any, y: Any, weights: Any, offset: Any, *more: Any) -> Any:
        work = functools.partial(_solve, make=make, family=family, intercept=intercept, kind=kind)
        size = more[-2].shape[0]  # of z
        held = 2 * size + size * size
        width = held + 1 + 2 * size + (size * size if kind != "kept" else 0)
        out = by_chunks(work, width, X, y, weights, offset, *more)
        return out[:, :held], out[:, held:].sum(axis=0)

    return turn


@np.errstate(all="ignore")  # what is not finite is returned as it is, and the client looks
def _solve(
    X: Any, y: np.ndarray, weights: Any, offset: Any, *more: Any, make: type[Rows], family: Family, intercept: bool, kind: str
) -> np.ndarray:
    """Return what a chunk keeps, and after it what it tells: loss, gradient and pull on z, and its metric if it is new."""
    *kept, z, how = more
    blocks = kept[0] if kept else None
    rows = make(family, intercept, float(how[0]), X, y, weights, offset)
    size = len(z)
    loss, gradient, curved = rows(z, hessian=kind != "kept", least=_CURVED * family.bound if np.isfinite(family.bound) else 0.0)
    metric = None if curved is None else rows.steady(curved)
    if blocks is None:
        dual, solution = -gradient, z
    else:
        dual, ahead = blocks[0, :size], blocks[0, size : 2 * size]
        old = blocks[0, 2 * size :].reshape(size, size)
        dual = dual + old @ (ahead - z)
        metric = old if metric is None else metric
        solution = _local(rows, z, loss, gradient, dual, metric)
    assert metric is not None
    ahead = z + float(how[1]) * (solution - z)
    pull = dual + metric @ (ahead - z)
    told = [[loss], gradient, pull, *([] if curved is None else [curved.ravel()])]
    return np.concatenate([dual, ahead, metric.ravel(), *told])


def _local(rows: Rows, z: np.ndarray, loss: float, gradient: np.ndarray, dual: np.ndarray, metric: np.ndarray) -> np.ndarray:
    """Minimise the problem of a chunk from z, with the metric for the Hessian as long as that serves."""
    if not len(rows):
        return z
    return descended(rows, z, loss, gradient, Pull(z, dual, metric), factored(2.0 * metric), _enough)[0]


def _enough(x: np.ndarray, left: float, first: float) -> bool:
    return not left > _LOOSE**2 * first  # nor where it is not a number
