"""Iteration: the client's side of a loop that runs on the workers (`looping.py`).

The client starts the loop with one message to each worker and hears from one of them how far it is, with the state. Should a
worker be lost, the loop is started again from the last state that was heard, on what dask has computed again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.execute.distributed import Remote
from graphopt.execute.looping import Course
from graphopt.execute.packing import unpacked
from graphopt.execute.places import Lost
from graphopt.execute.resident import pickled
from graphopt.execute.runs import BITS
from graphopt.formula import formula_of
from graphopt.trace import Argument
from graphopt.types import ClusterError

__all__ = ["Iteration", "can_loop"]

#: How often in a row a loop is started without getting any further.
_TRIES = 20

_numbers = itertools.count(1)


def can_loop(remote: Remote, state: Sequence[int], arguments: Sequence[Argument]) -> bool:
    """Say whether the state is small, and comes out as it goes in."""
    results = remote.plan.trace.results
    kinds = [arguments[place].kind for place in state]
    return (
        not remote.shares.keeps
        and len(results) == len(kinds)
        and all([kind in ("array", "number") for kind in kinds])
        and all([result.kind in ("array", "number", "constant") for result in results])
    )


@dataclass
class Iteration:
    """A loop on the workers, for the length of one call.

    Attributes
    ----------
    remote
        The plan of one iteration.
    arguments
        Those of the first iteration.
    state
        The places of the arguments that are the leaves of the state.
    until, pair
        The stopping rule, and whether it takes the old state too.
    number, last
        How many iterations there were, and at most will be.
    progress
        Called with the number of iterations and the leaves of the state, ten times a second at most.
    """

    remote: Remote
    arguments: Sequence[Argument]
    state: Sequence[int]
    until: Callable[..., Any] | None
    pair: bool
    number: int
    last: int
    progress: Callable[[int, list[Any]], None]

    def __post_init__(self) -> None:
        self.leaves = [self.arguments[place].value for place in self.state]

    def __call__(self) -> tuple[list[Any], int]:
        """Iterate; return the leaves of the last state, and the number of iterations that made it."""
        self.remote.network.install()
        return self.remote.network.client.sync(self.run, asynchronous=False)  # type: ignore[no-any-return]

    def course(self, names: Mapping[int, Any]) -> Course:
        """Return the loop as workers are sent it."""
        plan = self.remote.plan
        results: list[Any] = []
        for result, slots in zip(plan.trace.results, plan.results, strict=True):
            if result.kind == "array":
                results.append(slots[0])
            else:
                results.append(formula_of(result.value) if result.kind == "number" else (result.value,))
        small = {place: argument.value for place, argument in enumerate(self.arguments) if argument.kind in ("array", "number")}
        return Course(
            dict(names),
            dict(self.remote.shares.small),
            {slot: formula_of(scalar) for slot, scalar in plan.schedule.scalars},
            small,
            tuple(self.state),
            tuple(results),
            plan.trace.structure,
            self.until,
            self.pair,
            self.last,
            dict(plan.trace.numbers),
        )

    async def run(self) -> tuple[list[Any], int]:
        """Start the loop, and start it again where it was lost."""
        reached, tries = self.number, 0
        while tries < _TRIES:
            bound = None
            try:
                bound, names = await self.remote.bind(self.arguments, everywhere=True)
                return await self.once(bound, names)
            except Lost as lost:
                why = lost
            finally:
                if bound is not None:
                    bound.users -= 1
            tries = 0 if self.number > reached else tries + 1
            reached = self.number
            await self.remote.recover(bound, why, tries)
        raise ClusterError(f"The loop was begun {_TRIES} times and got no further. The last time: {why}") from why

    async def once(self, bound: Any, names: Mapping[int, Any]) -> tuple[list[Any], int]:
        """Have the workers iterate from the last state that was heard, until the end or until something is lost."""
        course, run = self.course(names), next(_numbers) << BITS
        asked: dict[str, Any] = {}
        try:
            for worker in bound.workers:
                channel = await self.remote.network.channel(worker)
                told = pickled((course, self.leaves, self.number, not asked))
                asked[worker] = await channel.ask("loop", self.hear, plan=bound.name, run=run, course=told)
            answers = await self.remote.network.answers(asked)
        except BaseException:
            await self.remote.give_up(bound, run, ())
            raise
        first = answers[bound.workers[0]]
        each = {worker: answer["seconds"] for worker, answer in answers.items()}
        self.remote.seconds = {worker: seconds[-1] for worker, seconds in each.items() if seconds}
        self.remote.paces = [max(seconds) for seconds in zip(*each.values(), strict=True)]
        return unpacked(first["values"]), first["number"]

    def hear(self, message: Any) -> None:
        """Note how far the loop is."""
        self.number, self.leaves = message["number"], unpacked(message["values"])
        self.progress(self.number, self.leaves)
