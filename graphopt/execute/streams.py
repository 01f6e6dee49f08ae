"""Streams: threads that go their own ways through many small levels, and wait only for what they read of each other.

To bring all threads together after each level costs more than small lanes take: they leave for the next level at the same
moment, all ask for the interpreter's lock, and who does not get it is put to sleep and has to be woken. So where levels are
small, each thread is given its lanes of all of them, first those that others read. It says how far it is, and before a lane
that reads what another thread writes it looks how far that one is. Most often that is far enough.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from graphopt.execute.lanes import blame, deal, runs
from graphopt.execute.loops import Loops
from graphopt.execute.memory import Meter
from graphopt.execute.spin import Counters
from graphopt.execute.team import Team
from graphopt.execute.threads import Threads
from graphopt.schedule import Group, Lane, Level, Schedule

__all__ = ["Step", "Streams", "Stretch", "divided"]

#: The most bytes of results that may wait for the end of a stretch to be dropped: streams are for small values.
_SMALL = 4 << 20

#: Later than any step: written by a thread that gave up, so that nobody waits for it.
_NEVER = 2**62


class Step(NamedTuple):
    """A lane in its place among those of a thread.

    Attributes
    ----------
    kernel, fetch, writes : callable, callable, tuple of int
        What to call, what makes its arguments of the values of all slots, and where the results go.
    needs : tuple of (int, int)
        Threads that must have run so many of their steps before.
    says : int
        The number of the step, the first is 1, if other threads wait for it; or 0.
    group, lane : Group, Lane
        What it is, for messages.
    """

    kernel: Callable[..., Any]
    fetch: Callable[[Sequence[Any]], tuple[Any, ...]]
    writes: tuple[int, ...]
    needs: tuple[tuple[int, int], ...]
    says: int
    group: Group
    lane: Lane


@dataclass(frozen=True, slots=True)
class Stretch:
    """Levels that threads go through as streams.

    Attributes
    ----------
    end : int
        The level after the last.
    streams : tuple of tuple of Step
        What each thread runs.
    drop : tuple of int
        The slots that nothing reads after it.
    """

    end: int
    streams: tuple[tuple[Step, ...], ...]
    drop: tuple[int, ...]

    def run(self, values: list[Any], team: Team) -> bool:
        """Run all levels on the threads of a team, unless it is busy; return whether that was done."""
        progress = _Progress(len(self.streams))
        works = [partial(progress.run, number, stream, values) for number, stream in enumerate(self.streams)]
        if not team.run(works, progress.stop, together=True):
            return False
        for slot in self.drop:
            values[slot] = None
        return True


class Streams:
    """The stretches of a schedule, known once it has run, and whether they are quicker than going level by level.

    Parameters
    ----------
    schedule
        What is run.
    threads
        How many threads there are.
    """

    def __init__(self, schedule: Schedule, threads: int) -> None:
        self.schedule, self.size = schedule, threads
        self.threads = Threads(len(schedule.levels))  # by the first level of a stretch
        self._found: dict[int, Stretch] | None = None

    def at(self, number: int, loops: Loops | None, meter: Meter) -> Stretch | None:
        """Return the stretch that begins with a level."""
        if self.size < 2 or not meter.measured or meter.limit is not None:
            return None
        if self._found is None:
            found = {} if loops is None else loops.found
            looped = {level for (level, _), loop in found.items() if not isinstance(loop, str)}
            self._found = _stretches(self.schedule, self.size, looped, meter.made)
        return self._found.get(number)


def _stretches(schedule: Schedule, threads: int, looped: Collection[int], made: Sequence[int]) -> dict[int, Stretch]:
    """Find the runs of levels that are worth streams: two and more of them, with small results, and lanes for all threads."""
    found: dict[int, Stretch] = {}
    first, size = 0, 0
    for number in range(len(schedule.levels) + 1):
        ends = number == len(schedule.levels) or number in looped
        if not ends and size + made[number] <= _SMALL:
            size += made[number]
            continue
        if number - first > 1:
            levels = schedule.levels[first:number]
            if max([level.lanes for level in levels]) > 1:
                drop = tuple([slot for level in levels for slot in level.drop])
                found[first] = Stretch(number, divided(levels, threads), drop)
        first, size = (number + 1, 0) if ends or made[number] > _SMALL else (number, made[number])
    return found


def divided(levels: Sequence[Level], threads: int) -> tuple[tuple[Step, ...], ...]:
    """Deal the lanes of levels out to threads, in an order in which nobody waits for what comes later.

    Parameters
    ----------
    levels
        What is to run.
    threads
        How many threads there are.

    Returns
    -------
    For each thread its steps: level by level, and in each first those that others read.
    """
    dealt = [
        [
            [(level.groups[place], at) for place, first, last in part for at in range(first, last)]
            for part in deal(level, threads)
        ]
        for level in levels
    ]
    writer = {slot: thread for level in dealt for thread, lanes in enumerate(level) for slot in _slots(lanes, "writes")}
    exchanged = {
        slot
        for level in dealt
        for thread, lanes in enumerate(level)
        for slot in _slots(lanes, "reads")
        if writer.get(slot, thread) != thread
    }
    order = [
        [
            (group, at)
            for level in dealt
            for group, at in sorted(level[thread], key=lambda one: exchanged.isdisjoint(one[0].lanes[one[1]].writes))
        ]
        for thread in range(threads)
    ]
    number = {slot: n for lanes in order for n, (group, at) in enumerate(lanes, 1) for slot in group.lanes[at].writes}
    return tuple([_stream(thread, lanes, writer, number, exchanged) for thread, lanes in enumerate(order)])


def _slots(lanes: Iterable[tuple[Group, int]], which: str) -> Iterator[int]:
    return (slot for group, at in lanes for slot in getattr(group.lanes[at], which))


def _stream(
    thread: int,
    lanes: Sequence[tuple[Group, int]],
    writer: Mapping[int, int],
    number: Mapping[int, int],
    exchanged: AbstractSet[int],
) -> tuple[Step, ...]:
    steps: list[Step] = []
    known: dict[int, int] = {}  # how far others are by then
    for n, (group, at) in enumerate(lanes, 1):
        lane, needs = group.lanes[at], {}
        for slot in lane.reads:
            other = writer.get(slot, thread)
            if other != thread and number[slot] > known.get(other, 0):
                needs[other] = known[other] = number[slot]
        says = 0 if exchanged.isdisjoint(lane.writes) else n
        steps.append(Step(runs(group), group.fetch[at], lane.writes, tuple(needs.items()), says, group, lane))
    return tuple(steps)


class _Progress:
    """How far the threads of one run are."""

    def __init__(self, threads: int) -> None:
        self.counters = Counters(threads)
        self.stopped = False
        self.asleep = 0
        self.changed = threading.Condition()

    def run(self, thread: int, stream: Sequence[Step], values: list[Any]) -> None:
        """Run the steps of a thread; if anything goes wrong, Ctrl-C too, nobody waits for it any more."""
        numbers, step = self.counters.numbers, None
        try:
            for step in stream:
                kernel, fetch, writes, needs, says, _, _ = step
                for other, number in needs:
                    if numbers[other] < number:
                        self._wait(other, number)
                if self.stopped:
                    break
                if len(writes) == 1:
                    values[writes[0]] = kernel(*fetch(values))
                else:
                    for slot, value in zip(writes, kernel(*fetch(values)), strict=True):
                        values[slot] = value
                if says:
                    numbers[thread] = says
                    if self.asleep:
                        self._wake()
        except BaseException as error:
            if step is not None:
                blame(error, step.group, step.lane)
            self.stop()
            raise
        numbers[thread] = _NEVER
        self._wake()

    def stop(self) -> None:
        """Make all threads return before their next step."""
        self.stopped = True
        for thread in range(len(self.counters.numbers)):
            self.counters.numbers[thread] = _NEVER
        self._wake()

    def _wait(self, other: int, number: int) -> None:
        """Wait until another thread has run so many steps: awake for a moment, then asleep."""
        numbers = self.counters.numbers
        self.counters.look(other, number)
        if numbers[other] >= number:
            return
        with self.changed:
            self.asleep += 1
            try:
                while numbers[other] < number:
                    self.changed.wait()
            finally:
                self.asleep -= 1

    def _wake(self) -> None:
        with self.changed:
            self.changed.notify_all()
