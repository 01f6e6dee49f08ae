"""Local: runs a schedule on the threads of this process, without a scheduler."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from graphopt.execute.lanes import Piece, blame, deal, runs
from graphopt.execute.loops import Bounds, LoopRun, Loops
from graphopt.execute.memory import Meter
from graphopt.execute.streams import Streams
from graphopt.execute.team import Team
from graphopt.execute.threads import Threads
from graphopt.schedule import Group, Level, Schedule

__all__ = ["run"]

_LARGE = 4 << 20  # bytes

Stop = list[bool]  # one place: whether to stop at the next lane


def run(
    schedule: Schedule,
    values: list[Any],
    team: Team,
    threads: Threads,
    loops: Loops | None = None,
    bounds: Bounds | None = None,
    meter: Meter | None = None,
    streams: Streams | None = None,
) -> list[Any]:
    """Go through the levels of a schedule.

    Parameters
    ----------
    schedule
        What to run.
    values
        The values of all slots, those of the arguments filled in; they are changed.
    team
        The threads to use.
    threads
        Says whether to use more than one of them at a level, and is told how long it took.
    loops, bounds
        The groups that run as compiled loops, and what those are bound to already; none if results must be dask's own.
    meter
        Measures memory at the first run, and keeps it within a bound.
    streams
        Where threads go through several levels without waiting for each other after each.

    Returns
    -------
    The same list, with the results in their slots.
    """
    bounds = {} if bounds is None else bounds
    level = partial(_run_level, schedule, values, team, threads, loops, bounds, meter)
    number = 0
    while number < len(schedule.levels):
        stretch = None if streams is None or meter is None else streams.at(number, loops, meter)
        if streams is None or stretch is None:
            level(number)
            number += 1
            continue
        start = time.perf_counter()
        together = streams.threads(number) and stretch.run(values, team)
        if not together:
            for each in range(number, stretch.end):
                level(each)
        streams.threads.took(number, together, time.perf_counter() - start)
        number = stretch.end
    return values


def _run_level(
    schedule: Schedule,
    values: list[Any],
    team: Team,
    threads: Threads,
    loops: Loops | None,
    bounds: Bounds,
    meter: Meter | None,
    number: int,
) -> None:
    """Run a level, and drop what nothing reads after it."""
    level, stop = schedule.levels[number], [False]
    looped = {} if loops is None else loops.bind(number, values, bounds)
    begun = _probe(number, level, values, looped, meter) if meter is not None and not meter.measured else frozenset()
    workers = team.threads if meter is None else meter.allowed(number, level, team.threads)
    choice = workers > 1 and level.lanes > 1
    several = choice and threads(number)
    start = time.perf_counter()
    # What one thread has freed, the C library does not give to another: large results stay with the thread that makes them.
    in_turn = choice and not several and meter is not None and meter.held[number] > _LARGE
    parts = [part for part in deal(level, workers if several or in_turn else 1, begun) if part]
    if len(parts) > 1:
        works = [partial(_guarded, level, part, values, stop, looped) for part in parts]
        team.run(works, partial(_stop, stop), in_turn=in_turn)
    elif parts:
        _run_part(level, parts[0], values, stop, looped)
    if choice and not begun:
        threads.took(number, several, time.perf_counter() - start)
    for slot in level.drop:
        values[slot] = None
    if meter is not None and not meter.measured:
        meter.note(number, values)


def _probe(number: int, level: Level, values: list[Any], looped: Mapping[int, LoopRun], meter: Meter) -> frozenset[int]:
    """Run the first lane of each group that runs by its kernel, to see how much memory it takes; return those groups."""
    begun = [place for place in range(len(level.groups)) if place not in looped]
    for place in begun:
        group = level.groups[place]
        meter.measure(number, group, values, partial(_run_lanes, group, 0, 1, values, [False]))
    return frozenset(begun)


def _guarded(level: Level, part: Sequence[Piece], values: list[Any], stop: Stop, looped: Mapping[int, LoopRun]) -> None:
    """Run a thread's part; if anything goes wrong, Ctrl-C too, the others stop at their next lane."""
    try:
        _run_part(level, part, values, stop, looped)
    except BaseException:
        _stop(stop)
        raise


def _run_part(level: Level, part: Sequence[Piece], values: list[Any], stop: Stop, looped: Mapping[int, LoopRun]) -> None:
    for place, first, last in part:
        if place in looped:
            try:
                looped[place].run(first, last, values, stop)
                continue
            except ValueError:
                pass  # a value that all lanes share is of another shape than at the first run
        _run_lanes(level.groups[place], first, last, values, stop)


def _stop(stop: Stop) -> None:
    stop[0] = True


def _run_lanes(group: Group, first: int, last: int, values: list[Any], stop: Stop) -> None:
    kernel, lane = runs(group), group.lanes[first]
    try:
        if len(lane.writes) == 1:
            for lane, fetch in zip(group.lanes[first:last], group.fetch[first:last], strict=True):
                values[lane.writes[0]] = kernel(*fetch(values))
                if stop[0]:
                    return
        else:
            for lane, fetch in zip(group.lanes[first:last], group.fetch[first:last], strict=True):
                for slot, value in zip(lane.writes, kernel(*fetch(values)), strict=True):
                    values[slot] = value
                if stop[0]:
                    return
    except Exception as error:
        blame(error, group, lane)
        raise
