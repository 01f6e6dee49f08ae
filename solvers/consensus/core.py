"""Core: consensus ADMM as a machine that takes reports of chunks and says which chunks to ask next, and what.

It knows no clock, no scheduler and no randomness: the same reports in the same order give the same numbers, bit for bit, so
the log of a run replays. With f_i the mean loss of chunk i, w_i its share of weight, g the penalty and D a diagonal metric, ::

    z   ← argmin g(z) + rho/2 |z - Σ w_i s_i|²_D              here, with a running sum
    x_i ← argmin f_i(x) + rho/2 |x - (2z - s_i)|²_D           asked of a chunk
    s_i ← s_i + relax (x_i - z)                               here, when it reports

That is ADMM for ``min Σ w_i f_i(x_i) + g(z), x_i = z``, written as the Douglas-Rachford iteration that it is: the unscaled
dual of a chunk is ``rho D (s_i - z)``. A chunk's state is one vector, which lives here. So chunks keep nothing, and what is
asked of one can be asked again anywhere. Each s_i is changed by reports of chunk i alone, with the z that it was asked with;
that is why the iteration may be asynchronous (Peng, Xu, Yan and Yin, ARock, SIAM J. Sci. Comput. 38 (2016)).

What is done for a report costs O(features). Sums run along; once a round, which is over when every chunk has reported, they are
summed afresh, so that rounding does not add up. Metric and weights make rho a pure number: 1 is right for chunks that curve as
their mean does, and then the round loses a factor of 1 - relax / 2.

The three variants are rules, and not code: how many reports an update waits for (`Rules.batched`), and how old the last
report of any chunk may be (`Rules.staleness`): at 1 every update waits for all chunks, which is synchronous ADMM.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from solvers.consensus.prox import Prox

__all__ = ["Ask", "Core", "Report", "Residuals", "Rules"]

#: rho is changed where one residual is so many times the other, by this factor, and so often at most: then it has to stay.
_APART, _FACTOR, _CHANGES = 10.0, 2.0, 30

#: A round that is so many times worse than the best makes the relaxation smaller, by this factor and down to this.
_WORSE, _CALMER, _CALMEST = 2.0, 0.75, 0.5


class Report(NamedTuple):
    """An event: a chunk's answer.

    Attributes
    ----------
    chunk : int
        Which.
    x : numpy.ndarray
        The solution of its problem.
    place : hashable
        Where it was solved. The next chunk that is asked comes from the same place.
    """

    chunk: int
    x: np.ndarray
    place: Hashable = None


class Ask(NamedTuple):
    """An instruction: ask a chunk for ``argmin f(x) + rho/2 |x - target|²``, near ``z``, beginning at ``x``."""

    chunk: int
    target: np.ndarray
    z: np.ndarray
    x: np.ndarray
    rho: float


class Residuals(NamedTuple):
    """How far from consensus the chunks are, after an update.

    Attributes
    ----------
    update, reports : int
        How many there were.
    primal : float
        The mean distance of x_i from the z that it was asked with.
    dual : float
        rho times how far this update moved z.
    rho, relax : float
        As they were.
    """

    update: int
    reports: int
    primal: float
    dual: float
    rho: float
    relax: float


@dataclass(frozen=True)
class Rules:
    """How a run goes.

    Attributes
    ----------
    batched : bool
        Whether all reports that have arrived make one update; if not, each makes one.
    staleness : int
        An update is made only if every chunk has reported within so many updates, this one included. 1 is synchronous.
    in_flight : int
        How many chunks are asked at a time.
    relax : float
        Over-relaxation, above 0 and below 2.
    adapt : bool
        Whether rho and relaxation follow the residuals.
    abstol, reltol : float
        A leg ends where residuals are below ``abstol √features + reltol`` times the size of what they are residuals of.
    rounds : int
        How many rounds a leg takes at most.
    """

    batched: bool = True
    staleness: int = 100
    in_flight: int = 4
    relax: float = 1.7
    adapt: bool = True
    abstol: float = 1e-4
    reltol: float = 1e-2
    rounds: int = 100

    def tighter(self, factor: float) -> Rules:
        """Return the rules with tolerances so many times as large."""
        return replace(self, abstol=factor * self.abstol, reltol=factor * self.reltol)


class Core:
    """The state of a run. It changes in place, for a copy of all chunks' vectors would cost more than an update.

    Parameters
    ----------
    rules, prox
        How it goes, and the update of z.
    shares
        Of the chunks in the sum of weights: above 0, and 1 together.
    z, s
        Where it begins; a row of ``s`` for each chunk.
    rho
        How strongly chunks are drawn together, in units of the metric.
    places
        Where each chunk is; by default all are at one place.
    slots
        How many chunks may be asked at a time at each place; by default ``in_flight``.
    counted
        How many updates and reports there were before.

    Attributes
    ----------
    z : numpy.ndarray
        The consensus.
    seen : numpy.ndarray
        What chunks are told of it: that without what changes no loss, if there is such.
    done : bool
        Whether the leg is over: then nothing is asked any more.
    residuals : list of Residuals
        One for each update.
    """

    def __init__(
        self,
        rules: Rules,
        prox: Prox,
        shares: Sequence[float],
        z: np.ndarray,
        s: np.ndarray,
        rho: float = 1.0,
        places: Sequence[Hashable] | None = None,
        slots: dict[Hashable, int] | None = None,
        counted: tuple[int, int] = (0, 0),
    ) -> None:
        count = len(shares)
        self.rules, self.prox, self.rho, self.relax = rules, prox, rho, rules.relax
        self.shares = [float(share) for share in shares]
        seen = prox.seen(z)
        self.s, self.x, self.asked_z = np.array(s, float), np.tile(seen, (count, 1)), [seen] * count
        self.asked_rho = [rho] * count
        self.apart = [0.0] * count  # |x_i - z|², of the z that it was asked with
        self.sum, self.primal = np.zeros_like(z), 0.0
        self.updates, self.reports = counted
        self.rounds = self.changes = 0
        self.met = False  # whether the leg that is over ended with small residuals
        self.residuals: list[Residuals] = []
        self.least = math.inf
        self.done = False
        # Chunks by the update that has their last report in it, the oldest first.
        self.last: OrderedDict[int, int] = OrderedDict.fromkeys(range(count), self.updates)
        self.place: list[Hashable] = list(places) if places is not None else [None] * count
        self.slots = dict(slots or {})
        self.idle: dict[Hashable, deque[int]] = {}  # the least recently served first
        for chunk, place in enumerate(self.place):
            self.idle.setdefault(place, deque()).append(chunk)
        self.flying: dict[int, Hashable] = {}  # and against whose slots it counts
        self.load: dict[Hashable, int] = {}
        self.waiting = 0  # reports since the last update
        self.heard: set[int] = set()  # in this round
        self._refresh()
        self.z = prox(self.sum, rho)
        self.seen = self.begun = prox.seen(self.z)

    # -- events in, instructions out ----------------------------------------------------------------------------------

    def begin(self, rules: Rules | None = None) -> list[Ask]:
        """Begin a leg, perhaps by other rules, with nothing in flight, and return what is to be asked."""
        self.rules = rules or self.rules
        self.abandon(list(self.flying))
        self.done, self.rounds, self.least = False, 0, math.inf
        self.heard.clear()
        self.begun = self.seen
        return self._asks()

    def take(self, events: Iterable[Report]) -> list[Ask]:
        """Take the reports that have arrived, and return what is to be asked next."""
        for chunk, x, place in events:
            if chunk not in self.flying:  # of a leg that is over
                continue
            self._report(chunk, x, place)
            if not self.rules.batched and self._may_update():
                self._update()
        if self.waiting and self._may_update():
            self._update()
        return [] if self.done else self._asks()

    def abandon(self, chunks: Iterable[int]) -> None:
        """Take chunks for asked no more, whatever became of them: they are the first to be asked again."""
        for chunk in reversed(list(chunks)):
            place = self.flying.pop(chunk)
            self.load[place] -= 1
            self.idle.setdefault(self.place[chunk], deque()).appendleft(chunk)

    # -- a report -----------------------------------------------------------------------------------------------------

    def _report(self, chunk: int, x: np.ndarray, place: Hashable) -> None:
        off, share = x - self.asked_z[chunk], self.shares[chunk]
        # Of the z and the rho that it was asked with: since then s_i was rescaled along with rho.
        step = (self.asked_rho[chunk] / self.rho * self.relax) * off
        self.s[chunk] += step
        self.sum += share * step
        apart = float(self.prox.metric @ (off * off))
        self.primal += share * (apart - self.apart[chunk])
        self.apart[chunk], self.x[chunk] = apart, x
        self.load[self.flying.pop(chunk)] -= 1
        if place is not None:
            self.place[chunk] = place
        self.idle.setdefault(self.place[chunk], deque()).append(chunk)
        self.last[chunk] = self.updates + 1
        self.last.move_to_end(chunk)
        self.heard.add(chunk)
        self.waiting += 1
        self.reports += 1

    def _oldest(self) -> int:
        return self.last[next(iter(self.last))]

    def _may_update(self) -> bool:
        """Say whether no chunk would be too old after an update."""
        return not self.done and self._oldest() > self.updates + 1 - self.rules.staleness

    # -- an update ----------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        old, self.waiting = self.seen, 0
        self.updates += 1
        over = len(self.heard) == len(self.shares)
        if over:
            self._refresh()
        self.z = self.prox(self.sum, self.rho)
        self.seen = self.prox.seen(self.z)
        dual = self.rho * self._size(self.seen - old)
        self.residuals.append(
            Residuals(self.updates, self.reports, math.sqrt(max(self.primal, 0.0)), dual, self.rho, self.relax)
        )
        if over:
            self._round()

    def _refresh(self) -> None:
        """Sum afresh what runs along."""
        shares = np.array(self.shares)
        self.sum, self.primal = shares @ self.s, float(shares @ np.array(self.apart))

    def _round(self) -> None:
        """End a round: say whether the leg is over, and let rho and the relaxation follow the residuals."""
        self.rounds += 1
        self.heard.clear()
        primal, dual = math.sqrt(self.primal), self.rho * self._size(self.seen - self.begun)
        self.begun = self.seen
        floor = self.rules.abstol * math.sqrt(len(self.z))
        duals = self.rho * math.sqrt(float(np.array(self.shares) @ ((self.s - self.seen) ** 2 @ self.prox.metric)))
        near = primal <= floor + self.rules.reltol * self._size(self.z)
        still = dual <= floor + self.rules.reltol * duals
        self.met = near and still
        if self.met or self.rounds >= self.rules.rounds or not math.isfinite(primal):
            self.done = True
        elif self.rules.adapt:
            if primal > _WORSE * self.least:
                self.relax, self.least = max(_CALMEST, _CALMER * self.relax), primal
            self._adapt(primal, dual)
        self.least = min(self.least, primal)

    def _adapt(self, primal: float, dual: float) -> None:
        """Draw chunks together more where they are apart more than z moves, and less where z moves more."""
        if self.changes >= _CHANGES or not (primal > _APART * dual or dual > _APART * primal):
            return
        self.changes += 1
        new = self.rho * (_FACTOR if primal > dual else 1.0 / _FACTOR)
        # Duals rho D (s_i - z) stay as they are.
        self.s = self.seen + (self.s - self.seen) * (self.rho / new)
        self.sum = self.seen + (self.sum - self.seen) * (self.rho / new)
        self.rho, self.least = new, math.inf

    def _size(self, x: np.ndarray) -> float:
        return math.sqrt(float(self.prox.metric @ (x * x)))

    # -- instructions -------------------------------------------------------------------------------------------------

    def _asks(self) -> list[Ask]:
        """Return what to ask: wherever there are slots, the chunks that were served least recently.

        While an update waits for chunks that are too old, others are not asked: they would be asked the same again.
        """
        overdue = self.updates + 1 - self.rules.staleness
        newest = overdue if self.waiting > 0 and not self._may_update() else self.updates + 1
        asks: list[Ask] = []
        while len(self.flying) < self.rules.in_flight:
            free = [place for place in self.idle if self._free(place, newest)]
            if not free:
                break
            place = min(free, key=lambda place: self.last[self.idle[place][0]])
            asks.append(self._ask(self.idle[place].popleft(), place))
        return asks

    def _free(self, place: Hashable, newest: int) -> bool:
        """Say whether a place has a slot, and a chunk whose last report is no newer than that."""
        idle, slots = self.idle[place], self.slots.get(place, self.rules.in_flight)
        return bool(idle) and self.last[idle[0]] <= newest and self.load.get(place, 0) < slots

    def _ask(self, chunk: int, place: Hashable) -> Ask:
        self.flying[chunk] = place
        self.load[place] = self.load.get(place, 0) + 1
        self.asked_z[chunk], self.asked_rho[chunk] = self.seen, self.rho
        return Ask(chunk, 2.0 * self.seen - self.s[chunk], self.seen, self.x[chunk].copy(), self.rho)

    def _check(self) -> None:
        """Assert what always holds."""
        shares = np.array(self.shares)
        np.testing.assert_allclose(self.sum, shares @ self.s, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(self.primal, shares @ np.array(self.apart), rtol=1e-6, atol=1e-12)
        idle = [chunk for queue in self.idle.values() for chunk in queue]
        assert sorted([*idle, *self.flying]) == list(range(len(self.shares)))
        assert len(self.flying) <= self.rules.in_flight
        ages = list(self.last.values())
        assert ages == sorted(ages)
        assert self.updates - ages[0] == 0 or self.updates - ages[0] < self.rules.staleness
        for place, queue in self.idle.items():
            assert all(self.place[chunk] == place for chunk in queue)
        assert {place: count for place, count in self.load.items() if count} == {
            place: list(self.flying.values()).count(place) for place in self.flying.values()
        }
