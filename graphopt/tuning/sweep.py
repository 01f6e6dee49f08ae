"""A sweep: a step timed on all of its data, cut in each way that was considered, to see how good a choice was."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import graphopt as go
from graphopt.chunks.executor import executor_of, run
from graphopt.chunks.sampling import call_of
from graphopt.chunks.survey import lower_quartile

__all__ = ["sweep", "timed"]

WARM = {"compiled": 9, "compiled on a cluster": 4}  # as in a survey
FAR, NEAR = 2.0, 1.25  # times the best, beyond which a way takes no part in the first and in the second heat
GIVEN_UP = 4.0


@dataclass
class _Way:
    call: Callable[[], Any]
    times: list[float] = field(default_factory=list)

    def turn(self) -> None:
        """Run once unseen, because others had the caches, and then for some hundredths of a second."""
        self.call()
        for _ in range(5):
            start = time.perf_counter()
            self.call()
            self.times.append(time.perf_counter() - start)
            if sum(self.times[-5:]) > 0.05:
                break


def timed(step: Any, args: Sequence[Any], rounds: int) -> float:
    """Return the seconds of a call as it is: the lower quartile of some turns."""
    where = executor_of(step)
    way = _Way(partial(run, where, step, args))
    for _ in range(WARM.get(where.kind, 1)):
        way.call()
    for _ in range(rounds):
        way.turn()
    return lower_quartile(way.times)


def sweep(
    step: Any, args: Sequence[Any], choice: go.Choice, rounds: int, after_each: Callable[[str], None] = lambda state: None
) -> dict[int, float]:
    """Time each candidate of a choice on all data.

    Parameters
    ----------
    step, args
        The call.
    choice
        What was considered for it.
    rounds
        How many turns those take that may be the best. The one that was chosen takes part in any case.
    after_each
        Called after each candidate was first tried.

    Returns
    -------
    The seconds of a call by the number of chunks: lower quartiles, those of ways that took turns.
    """
    where = executor_of(step)
    call = call_of(args[0], args[1:], choice._axes)
    ways: dict[int, _Way] = {}
    best = float("inf")
    for count in sorted({candidate.count for candidate in choice.candidates}):
        cut = call.rechunked(call.lengths(count), where)
        twin = step.twin() if hasattr(step, "twin") else step
        way = _Way(partial(run, where, twin, cut.arguments))
        took = 0.0
        for _ in range(WARM.get(where.kind, 1)):
            start = time.perf_counter()
            way.call()
            took = time.perf_counter() - start
        best = min(best, took)
        if took <= GIVEN_UP * best or count == choice.chosen.count:
            ways[count] = way
        after_each(f"{count} chunks")
    for within, turns in ((FAR, 3), (NEAR, rounds)):
        least = min([lower_quartile(way.times) for way in ways.values() if way.times], default=0.0)
        for _ in range(turns):
            for count, way in ways.items():
                if not way.times or count == choice.chosen.count or lower_quartile(way.times) <= within * least or not least:
                    way.turn()
    return {count: lower_quartile(way.times) for count, way in ways.items()}
