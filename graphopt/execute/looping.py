"""Looping: the loop of `iterate` on a worker.

Every worker has the whole state, folds the same partial results in the same order, and so has the same state after each
iteration; all apply the same stopping rule to it. In an iteration the workers send each other partial results, once, and nobody
waits for the client.

What ends one iteration and begins the next is one job of a task thread: to hand a job over costs more than most of what it
does.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.execute.resident import Resident
from graphopt.formula import Formula
from graphopt.tree import Structure, unflatten
from graphopt.types import ClusterError

__all__ = ["BITS", "Course", "Disagreement", "Loop"]

#: Runs of a loop are numbered from ``loop << BITS`` on; the runs of calls are below the first.
BITS = 40

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
    resident
        The part that is run.
    course
        What is done.
    leaves, first
        The state to start from, and the number of iterations that made it.
    """

    def __init__(self, resident: Resident, course: Course, leaves: Sequence[Any], first: int) -> None:
        self.resident, self.course = resident, course
        self.leaves, self.number = list(leaves), first
        self.phases = resident.part.phases
        self.base: list[Any] = []
        self.bounds: Any = None
        self.each: deque[float] = deque(maxlen=1000)  # seconds of work in each of the last iterations
        self.spent = 0.0  # in this one so far
        self.done: Any = first >= course.last  # changes on another thread
        self.looked = self.told = time.monotonic()

    def fill(self) -> None:
        """Look the blocks up; on the event loop."""
        self.base, self.bounds = self.resident.fill(self.course.names, self.course.given(self.leaves))

    def begin(self) -> list[Any]:
        """Begin an iteration; on a task thread."""
        values = list(self.base)
        small = self.course.given(self.leaves)
        for slot in self.resident.part.small:
            values[slot] = small[slot]
        if self.phases and not self.phases[0].needs:
            self.work(0, values)
        return values

    def work(self, number: int, values: list[Any]) -> None:
        """Run a phase; on a task thread."""
        if self.phases[number].levels:
            self.spent += self.resident.run(number, values, self.bounds)

    def turn(self, values: list[Any], last: int | None) -> list[Any]:
        """Run the last phase if it was not, and begin the next iteration unless this was the last; on a task thread."""
        if last is not None:
            self.work(last, values)
        new = self.course.after(values, self.leaves)
        self.each.append(self.spent)
        self.spent = 0.0
        self.number += 1
        self.done = self.number >= self.course.last or self.course.ends(self.leaves, new)
        self.leaves = new
        return values if self.done else self.begin()

    async def look_around(self, tell: Callable[[int, list[Any]], Any]) -> None:
        """Say how far it is, and let go of blocks that dask wants elsewhere, now and then."""
        now = time.monotonic()
        if now - self.told > _TELL:
            self.told = now
            await tell(self.number, self.leaves)
        if now - self.looked > _LOOK:
            self.looked = now
            self.fill()

    async def run(self, replayer: Any, plan: Any, name: str, loop: int, tell: Callable[[int, list[Any]], Any]) -> None:
        """Go on until the end; on the event loop."""

        async def job(work: Callable[..., Any], *args: Any) -> Any:
            return await asyncio.wrap_future(replayer.executor.submit(work, *args))

        if self.done:
            return
        self.fill()
        values = await job(self.begin)
        while not self.done:
            run = (loop << BITS) + self.number
            box = plan.mailbox(run)
            try:
                plan.check(run)
                last = None
                for number, phase in enumerate(self.phases):
                    if phase.needs:
                        for slot, value in (await box.get(phase.needs)).items():
                            values[slot] = value
                    if number or phase.needs:  # else it has begun with it
                        if number == len(self.phases) - 1 and not phase.sends:
                            last = number
                            break
                        await job(self.work, number, values)
                    for to, slots in phase.sends:
                        await replayer.send(str(to), name, run, slots, [values[slot] for slot in slots])
                values = await job(self.turn, values, last)
            finally:
                plan.mail.pop(run, None)
            await self.look_around(tell)
        for peer in plan.resident.peers:  # who goes on would wait for ever
            await replayer.over(peer, name, loop, self.number)
