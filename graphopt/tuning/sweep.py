"""A sweep: a step timed on all of its data, cut in many ways, to see how good a choice was.

It owes nothing to the search that made the choice: it has its own counts, closer together, and times of its own. There are
two heats. In the first every count is tried by itself, so that no more copies of the data are held than may be the best; in
the second these take turns, so that a busy moment of the machine falls on all alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from graphopt.chunks.executor import executor_of, run
from graphopt.chunks.sampling import call_of

__all__ = ["dense", "sweep", "timed"]

#: Calls before the first that counts, as in a survey.
WARM = {"compiled": 9, "compiled on a cluster": 4}

#: Times the best, beyond which a count takes no part in the second heat; and at which the sweep ends if that often in a row.
NEAR, GIVEN_UP, OFTEN = 1.4, 3.0, 3

#: Seconds that a turn takes at least, if five calls are not over before; and seconds of turns that are enough.
TURN, ENOUGH = 0.05, 15.0


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
            if sum(self.times[-5:]) > TURN:
                break

    @property
    def seconds(self) -> float:
        return statistics.median(self.times)


def dense(workers: int, most: int) -> list[int]:
    """List counts of chunks up to ``most``, at most the root of two apart, with the multiples of the workers next to them.

    >>> dense(2, 40)
    [1, 2, 3, 4, 6, 8, 10, 11, 12, 16, 22, 23, 24, 32]
    """
    steps = {round(2 ** (power / 2)) for power in range(2 * most.bit_length())}
    uneven = [count for count in steps if count % workers and count <= 16 * workers]
    even = {max(1, count // workers + more) * workers for count in uneven for more in (0, 1)}
    return sorted(count for count in steps | even if count <= most)


def timed(step: Any, args: Sequence[Any], seconds: float) -> float:
    """Return the median seconds of a call as it is, from runs for so many seconds."""
    where = executor_of(step)
    way = _Way(partial(run, where, step, args))
    for _ in range(WARM.get(where.kind, 1)):
        way.call()
    start = time.perf_counter()
    while not way.times or time.perf_counter() - start < seconds:
        way.turn()
    return way.seconds


def sweep(
    step: Any,
    args: Sequence[Any],
    axes: tuple[int, ...],
    counts: Iterable[int],
    rounds: int,
    *,
    always: Iterable[int] = (),
    after_each: Callable[[str], None] = lambda state: None,
) -> tuple[dict[int, float], dict[int, float]]:
    """Time a step on all of its data for several numbers of chunks.

    Parameters
    ----------
    step, args
        The call.
    axes
        The axes that are cut.
    counts
        How many chunks to try.
    rounds
        How many turns those take that may be the best, unless that takes too long.
    always
        Counts that take part in the second heat in any case.
    after_each
        Called after each count was first tried.

    Returns
    -------
    The median seconds of a call by the number of chunks: of those that took turns, to be compared with each other; and of those
    that were clearly worse, as they were timed before.
    """
    where = executor_of(step)
    call = call_of(args[0], args[1:], axes)
    always = set(always)
    found: dict[int, float] = {}
    ways: dict[int, _Way] = {}
    worse = 0
    for count in sorted({*counts, *always}):
        cut = call.rechunked(call.lengths(count), where)
        count = len(cut.sizes)  # which may be fewer
        if count in found or (worse >= OFTEN and count not in always):
            continue
        twin = step.twin() if hasattr(step, "twin") else step
        way = _Way(partial(run, where, twin, cut.arguments))
        for _ in range(WARM.get(where.kind, 1)):
            way.call()
        for _ in range(2):
            way.turn()
        found[count] = way.seconds
        best = min(found.values())
        worse = worse + 1 if way.seconds > GIVEN_UP * best and count > where.workers else 0
        ways[count] = way
        ways = {count: way for count, way in ways.items() if count in always or way.seconds <= NEAR * best}
        after_each(f"{count} chunks")
    for way in ways.values():
        way.times.clear()
    start = time.perf_counter()
    for _ in range(rounds):
        for way in ways.values():
            way.turn()
        if time.perf_counter() - start > ENOUGH:
            break
    near = {count: way.seconds for count, way in ways.items()}
    return near, {count: seconds for count, seconds in found.items() if count not in near}
