"""Looping: the loop of `iterate` on a worker.

Every worker has the whole state, folds the same partial results in the same order, and so has the same state after each
iteration; all apply the same stopping rule to it. In an iteration the workers send each other partial results, once, and nobody
waits for the client.

A task thread goes from one iteration to the next by itself: to hand a job over costs more than most of what is done between.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.execute.ears import Ears
from graphopt.execute.peers import Peers
from graphopt.execute.runs import BITS, Held, Pass
from graphopt.formula import Formula
from graphopt.tree import Structure, unflatten
from graphopt.types import ClusterError

__all__ = ["Course", "Disagreement", "Loop"]

#: How often, in seconds, a loop says how far it is, and looks whether dask still has its blocks in memory.
_TELL, _LOOK = 0.1, 0.25


class Disagreement(ClusterError):
    """Workers came to different ends of a loop."""


@dataclass(frozen=True, slots=True)
class Course:
    """A loop as workers are sent it.

    Attributes
    ----------
    names : dict
        As for `Resident.fill`.
    slots : dict
        The place of the argument that goes into a slot.
    formulas : dict
        How numbers in slots are computed from those of the arguments, by slot.
    values : dict
        The arguments that stay the same, by place.
    state : tuple of int
        The places of the leaves of the state.
    results : tuple
        What the leaves of the new state are made of: a slot, a formula, or a tuple of one constant.
    structure
        How the leaves are put together.
    until : callable
        The stopping rule, or None; ``pair`` says whether it takes the old state too.
    last : int
        The number of iterations after which to stop.
    """

    names: Mapping[int, Any]
    slots: Mapping[int, int]
    formulas: Mapping[int, Formula]
    values: Mapping[int, Any]
    state: tuple[int, ...]
    results: tuple[Any, ...]
    structure: Structure
    until: Callable[..., Any] | None
    pair: bool
    last: int
    tokens: Mapping[str, int] = field(default_factory=dict)

    def given(self, leaves: Sequence[Any]) -> dict[int, Any]:
        """Return the small arguments of an iteration, by slot."""
        values = {**self.values, **dict(zip(self.state, leaves, strict=True))}
        small = {slot: values[place] for slot, place in self.slots.items()}
        if self.formulas:
            numbers = {token: values[place] for token, place in self.tokens.items()}
            small.update({slot: formula(numbers) for slot, formula in self.formulas.items()})
        return small

    def after(self, values: Sequence[Any], leaves: Sequence[Any]) -> list[Any]:
        """Return the leaves of the new state from the values of the slots after an iteration."""
        out = []
        for result in self.results:
            if isinstance(result, int):
                out.append(values[result])
            elif isinstance(result, Formula):
                numbers = {**self.values, **dict(zip(self.state, leaves, strict=True))}
                out.append(result({token: numbers[place] for token, place in self.tokens.items()}))
            else:
                out.append(result[0])
        return out

    def ends(self, old: Sequence[Any], new: Sequence[Any]) -> bool:
        """Ask the stopping rule."""
        if self.until is None:
            return False
        states = [unflatten(self.structure, leaves) for leaves in ((old, new) if self.pair else (new,))]
        return bool(self.until(*states))


class Loop:
    """A loop under way on a worker.

    Parameters
    ----------
    held
        The part that is run.
    course
        What is done.
    leaves, first
        The state to start from, and the number of iterations that made it.
    plan, loop
        The names of the plan and of the loop.
    peers, ears
        The connections to other workers, and from them.
    """

    def __init__(
        self, held: Held, course: Course, leaves: Sequence[Any], first: int, plan: str, loop: int, peers: Peers, ears: Ears
    ) -> None:
        self.held, self.course, self.plan, self.loop, self.peers, self.ears = held, course, plan, loop, peers, ears
        self.leaves, self.number = list(leaves), first
        self.base: list[Any] = []
        self.bounds: Any = None
        self.way: Pass | None = None  # the iteration under way
        self.each: deque[float] = deque(maxlen=1000)  # seconds of work in each of the last iterations
        self.worked = 0.0  # seconds in all of them
        self.done: Any = first >= course.last  # changes on another thread
        self.looked = self.told = time.monotonic()

    def fill(self) -> None:
        """Look the blocks up; on the event loop."""
        self.base, self.bounds = self.held.resident.fill(self.course.names, self.course.given(self.leaves))

    def go(self, wanted: Callable[[], bool]) -> None:
        """Iterate on a task thread, until the end or until there is something to do on the event loop."""
        until = self.told + _TELL
        while True:
            if self.way is None:
                self.way = self.begin()
            if not self.way.go(wanted, self.ears.listen):
                return
            self.turn(self.way)
            self.way = None
            if self.done or wanted() or time.monotonic() > until:
                return

    def begin(self) -> Pass:
        """Begin an iteration."""
        values = list(self.base)
        small = self.course.given(self.leaves)
        for slot in self.held.resident.part.small:
            values[slot] = small[slot]
        return Pass(self.held, self.plan, self.run_of(self.number), values, self.bounds, self.peers)

    def turn(self, way: Pass) -> None:
        """Make the new state, and ask whether it is the last."""
        way.close()
        new = self.course.after(way.values, self.leaves)
        self.each.append(way.seconds)
        self.worked += way.seconds
        self.number += 1
        self.done = self.number >= self.course.last or self.course.ends(self.leaves, new)
        self.leaves = new

    async def look_around(self, tell: Callable[[int, list[Any]], Any]) -> None:
        """Say how far it is, and let go of blocks that dask wants elsewhere, now and then."""
        now = time.monotonic()
        if now - self.told > _TELL:
            self.told = now
            await tell(self.number, self.leaves)
        if now - self.looked > _LOOK:
            self.looked = now
            self.fill()

    async def run(
        self,
        job: Callable[..., Any],
        wanted: Callable[[], bool],
        tell: Callable[[int, list[Any]], Any],
    ) -> None:
        """Go on until the end; on the event loop."""
        try:
            if not self.done:
                self.fill()
            while not self.done:
                with self.ears:
                    await job(self.go, wanted)
                if self.way is not None:
                    await self.way.wait()
                await self.look_around(tell)
        finally:
            if self.way is not None:
                self.way.close()
        for peer in self.held.resident.peers:  # who goes on would wait for ever
            await self.peers.over(peer, self.plan, self.run_of(self.number))

    def run_of(self, number: int) -> int:
        """Return the run that an iteration is."""
        return (self.loop << BITS) + number
