"""Method: asynchronous ADMM as one of the solvers. A step of their loop is a *leg*, which ends with a certificate.

In a leg the core and a team go on by themselves until the residuals are small. A pass over the data certifies where it led, and
the next leg goes on from there with tolerances a tenth of those. One that took all its rounds is followed by a new core, with
the metric of where it led. Residuals say when it is worth while to look; what counts is the certificate, which is that of all
solvers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from solvers.consensus.core import Core, Report, Residuals, Rules
from solvers.consensus.problem import Frame, shifted
from solvers.consensus.prox import Prox
from solvers.consensus.record import Log, Record
from solvers.consensus.teams import Team, team_of
from solvers.iterate import State
from solvers.objective import Objective
from solvers.units import Units

__all__ = ["ConsensusADMM"]

VARIANTS = ("synchronous", "single", "batched")

#: Tolerances get smaller by this factor from leg to leg, down to this part of the first.
_TIGHTER, _LEAST = 0.1, 1e-11

#: An update may be as many times the number of chunks old, by default: chunks may be that much slower than others.
_STALE = 20


@dataclass(frozen=True, eq=False)
class _Agreed(State):
    """A state with the core, who works for it, the frame, the tolerances of the next leg, and whether to stop there.

    And with what the core was made of, if it has not had a leg yet.
    """

    core: Core
    team: Team
    frame: Frame
    taken: Record
    tight: float
    begun: tuple[Any, ...] | None
    stopped: bool = False

    @property
    def record(self) -> Record:
        return self.taken


@dataclass(frozen=True)
class ConsensusADMM:
    """Consensus ADMM in which chunks need not wait for each other: for any penalty, on threads and on clusters.

    Attributes
    ----------
    variant : str
        "batched": all solutions that have arrived make one update, and as many chunks are asked again. "single": each makes
        one. "synchronous": an update waits for all chunks.
    staleness : int, optional
        Within how many updates every chunk reports, by waiting for it if need be; by default 20 times the number of chunks.
    in_flight : int, optional
        How many chunks are asked at a time; by default two for each thread, and more where they are so short that a task on a
        cluster takes several. When synchronous, all are.
    rho : float
        How strongly chunks are drawn together, in units of the mean curvature of the loss.
    relaxation : float
        Over-relaxation, above 0 and below 2.
    adapt : bool
        Whether ``rho`` and ``relaxation`` follow the residuals.
    abstol, reltol : float
        The residuals at which the first leg ends. The last leg ends with the certificate that was asked for.
    rounds : int
        How many rounds a leg takes at most. A round is over when every chunk has reported.
    watch : callable, optional
        Called with `Residuals` after each update, while tasks go on; ends the fit if it returns True.
    samples : int
        At how many points of each leg to evaluate the objective, for the record: a pass each, between legs.
    log : bool
        Whether to keep what `solvers.consensus.record.replay` needs.

    Notes
    -----
    ``Result.record`` has residuals, tasks and points on the way. Chunks stay in memory: on a cluster with the workers, here as
    long as they fit. Least squares needs but the moments of their columns.

    Examples
    --------
    >>> import numpy as np
    >>> from solvers import L1, ConsensusADMM, fit
    >>> rng = np.random.default_rng(0)
    >>> X = rng.random((200, 3))
    >>> result = fit(X, X @ [1.0, -2.0, 0.0] + 3, penalty=L1(0.001), solver=ConsensusADMM("single"))
    >>> result.status.value, np.round(result.coef, 1).tolist()
    ('converged', [1.0, -2.0, 0.0])
    """

    variant: str = "batched"
    staleness: int | None = None
    in_flight: int | None = None
    rho: float = 1.0
    relaxation: float = 1.7
    adapt: bool = True
    abstol: float = 1e-4
    reltol: float = 1e-2
    rounds: int = 40
    watch: Callable[[Residuals], Any] | None = None
    samples: int = 0
    log: bool = False

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"ConsensusADMM(variant={self.variant!r}): must be one of {', '.join(VARIANTS)}.")
        if not 0 < self.relaxation < 2:
            raise ValueError(f"ConsensusADMM(relaxation={self.relaxation!r}): must be above 0 and below 2.")
        if not 0 < self.rho < math.inf:
            raise ValueError(f"ConsensusADMM(rho={self.rho!r}): must be a number above 0.")
        for name in ("staleness", "in_flight", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"ConsensusADMM({name}={value!r}): must be at least 1.")
        for name in ("abstol", "reltol", "samples"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"ConsensusADMM({name}={getattr(self, name)!r}): must be at least 0.")
        if self.variant == "synchronous" and self.staleness not in (None, 1):
            raise ValueError("ConsensusADMM(staleness=): synchronous updates wait for all chunks; use variant='batched'.")

    @property
    def name(self) -> str:
        return f"consensus ADMM, {self.variant}"

    def refusal(self, objective: Objective) -> str | None:
        if objective.rows is None:
            return f"chunks have no problem of their own in the {objective.family.name} family; use ProximalNewton or Proximal"
        return None

    def init(self, objective: Objective, beta: np.ndarray) -> _Agreed:
        record, at, team = Record(self.variant), objective(beta), team_of(objective)
        objective.passes += 1
        told = team.look(beta)
        there = np.flatnonzero(told[:, 0] > 0)
        team.keep(there.tolist())
        frame, begun = self._begun(objective, beta, team, told[there], (0, 0))
        record.log = Log(frame) if self.log else None
        return _Agreed(beta, at, Core(*begun), team, frame, record, 1.0, begun)

    def _begun(
        self, objective: Objective, beta: np.ndarray, team: Team, told: np.ndarray, counted: tuple[int, int]
    ) -> tuple[Frame, tuple[Any, ...]]:
        """Return the frame for a point, and what a core is made of that begins there."""
        size, shares = objective.size, told[:, 0] / told[:, 0].sum()
        frame = _frame(objective, *(shares @ told[:, 1 + size :]).reshape(2, size))
        # Duals begin as gradients: then the first z is a step of proximal gradient, in the metric.
        z, gradients = frame.standard(beta), frame.pulled(told[:, 1 : 1 + size].T).T
        classes = objective.classes if objective.shifting else 1
        prox = Prox(objective.penalty, frame.metric, objective.penalised, classes, objective.floor)
        s = np.tile(prox.seen(z), (len(told), 1))
        if np.isfinite(gradients).all():
            s -= gradients / (self.rho * frame.metric)
        places = list(team.places)
        rules, slots = self._rules(team, len(told))
        return frame, (rules, prox, shares.tolist(), z, s, self.rho, places, slots, counted)

    def _anew(self, objective: Objective, state: _Agreed) -> _Agreed:
        """Begin again from a state, with the metric there: the first does not serve where the Hessian is far from it."""
        objective.passes += 1
        counted = state.core.updates, state.core.reports
        frame, begun = self._begun(objective, state.beta, state.team, state.team.look(state.beta), counted)
        if state.taken.log is not None:
            state.taken.log.frame = frame
        return replace(state, core=Core(*begun), frame=frame, begun=begun)

    def _rules(self, team: Team, chunks: int) -> tuple[Rules, dict[Any, int]]:
        """Return the rules, and how many chunks may be asked at a time at each place."""
        threads = team.slots
        total = sum(threads.values())
        at_once = self.in_flight or (chunks if self.variant == "synchronous" else 2 * total)
        slots = {place: max(1, math.ceil(at_once * count / total)) for place, count in threads.items()}
        staleness = 1 if self.variant == "synchronous" else self.staleness or _STALE * chunks
        batched = self.variant != "single"
        rules = Rules(batched, staleness, at_once, self.relaxation, self.adapt, self.abstol, self.reltol, self.rounds)
        return rules, {} if self.variant == "synchronous" else slots

    def step(self, objective: Objective, state: _Agreed) -> _Agreed | None:
        if state.stopped:
            raise KeyboardInterrupt
        if state.tight < _LEAST:
            return None
        if state.begun is None and not state.core.met:
            state = self._anew(objective, state)
        core, record = state.core, state.taken
        kept, stopped = len(record.points), False
        try:
            stopped = self._leg(objective, state)
        except KeyboardInterrupt:  # what there is is worth a certificate
            stopped = True
        objective.passes += core.rounds
        for seconds, point in _some(record.points[kept:], self.samples):
            value = objective.standard(point)
            record.objectives.append((seconds, objective(value).value + objective.nonsmooth(value)))
        beta = state.frame.original(core.z)
        at = objective(beta)
        tight = _TIGHTER * state.tight if core.met else state.tight
        return replace(state, beta=beta, at=at, tight=tight, begun=None, stopped=stopped)

    def _leg(self, objective: Objective, state: _Agreed) -> bool:
        """Go on until the core is content; say whether it was stopped."""
        core, team, record = state.core, state.team, state.taken
        rules = self._rules(team, len(core.shares))[0].tighter(state.tight)
        batches: list[list[Report]] = []
        if record.log is not None:
            record.log.legs.append((state.begun, rules, batches))
        with team.working():
            asks = core.begin(rules)
            while not core.done:
                team.ask(asks, state.frame)
                answers = team.arrived()
                reports = [Report(answer.chunk, answer.x, answer.place) for answer in answers]
                if record.log is not None:
                    batches.append(reports)
                asks = core.take(reports)
                for answer in answers:
                    record.task(answer.place, answer.chunk, answer.begun, answer.ended)
                seen = len(record.seconds)
                record.note(core, objective.original(state.frame.original(core.z)))
                if self.watch is not None and any([self.watch(found) is True for found in record.residuals[seen:]]):
                    return True
        return False


def _frame(objective: Objective, diagonal: np.ndarray, cross: np.ndarray) -> Frame:
    """Return coordinates in which intercepts go with nothing else, with the diagonal of the Hessian there as metric.

    It is the same for all coefficients that are tied together, and their mean where it is not above 0.
    """
    count, classes, units = objective.penalised, objective.classes, None
    level = float(diagonal[count : count + classes].sum()) if objective.intercept else 0.0
    if level > 0 and np.isfinite(cross).all():
        mean = cross[:count].reshape(classes, -1).sum(axis=0) / level
        units = Units(mean, np.ones_like(mean), True, classes)
        diagonal = shifted(units, diagonal, cross[:count])[0]
    known = np.isfinite(diagonal) & (diagonal > 1e-12 * max(float(diagonal.max()), 0.0))
    metric = np.where(known, diagonal, float(diagonal[known].mean()) if known.any() else 1.0)
    if objective.penalty.kinks is None:
        metric[:count] = metric[:count].mean()
    return Frame(metric, units)


def _some(points: list[Any], count: int) -> list[Any]:
    """Return so many of a list, as evenly as can be."""
    if not count or not points:
        return []
    return [points[i] for i in sorted(set(np.linspace(0, len(points) - 1, count).round().astype(int).tolist()))]
