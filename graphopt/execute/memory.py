"""Memory: what a replay holds beside its arguments, measured at its first run, and how many lanes a bound allows at once.

A replay holds the results that later levels read, and what the lanes that run right now make on their way. The first is
counted, the second is measured on the first lane of each group: lanes of one kernel are alike.
"""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from dask.sizeof import sizeof
from dask.utils import format_bytes

from graphopt.schedule import Group, Level, Schedule, Stack
from graphopt.types import MemoryLimitError

__all__ = ["Meter"]

_TRACING = threading.Lock()


class Meter:
    """Measures a schedule level by level, and keeps it within a bound.

    Parameters
    ----------
    schedule
        What runs.
    limit
        The most bytes to hold beside the arguments; None for any number.
    """

    def __init__(self, schedule: Schedule, limit: int | None = None) -> None:
        self.limit = limit
        self.lane = [0] * len(schedule.levels)  # bytes that one lane needs at most, by level
        self.held = [0] * len(schedule.levels)  # bytes of results that are held after a level
        self.made = [0] * len(schedule.levels)  # bytes of results that a level makes, reckoned from its first lanes
        self.flight = [0] * len(schedule.levels)  # lanes that ran at once
        self.measured = False
        made = {slot for level in schedule.levels for group in level.groups for lane in group.lanes for slot in lane.writes}
        self._made, self._given = sorted(made), [slot for slot in range(len(schedule.template)) if slot not in made]

    @property
    def peak(self) -> int:
        """The most bytes that were held at once."""
        before = [0, *self.held][:-1]
        running = [held + lane * count for held, lane, count in zip(before, self.lane, self.flight, strict=True)]
        return max([*running, *self.held], default=0)

    def measure(self, number: int, group: Group, values: list[Any], run: Callable[[], None]) -> None:
        """Run the first lane of a group, and note what it needs and what it leaves."""
        mine = _TRACING.acquire(blocking=False)  # or a lane would wait for ever that itself runs a plan
        if not mine:
            run()
        else:
            started = not tracemalloc.is_tracing()
            if started:
                tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            try:
                run()
                self.lane[number] = max(self.lane[number], tracemalloc.get_traced_memory()[1] - before)
            finally:
                if started:
                    tracemalloc.stop()
                _TRACING.release()
        given = {id(_owner(values[slot])) for slot in group.lanes[0].reads}
        owners = [_owner(values[slot]) for slot in group.lanes[0].writes]
        left = sum({id(owner): _bytes(owner) for owner in owners if id(owner) not in given}.values())
        self.made[number] += left * len(group.lanes)

    def allowed(self, number: int, level: Level, threads: int) -> int:
        """Return how many lanes may run at once.

        Raises
        ------
        MemoryLimitError
            If not even one may.
        """
        if self.limit is not None and self.lane[number]:
            held = self.held[number - 1] if number else 0
            names = " and ".join(dict.fromkeys(group.name for group in level.groups))
            if held + self.made[number] > self.limit:
                raise MemoryLimitError(
                    f"The results of {names} would take {format_bytes(self.made[number])}, and {format_bytes(held)} are held "
                    f"already: more than memory={format_bytes(self.limit)} allows. Something later reads them all again after "
                    "all were made: split the function there, so that they are made anew, or allow more."
                )
            threads = min(threads, max(0, self.limit - held) // self.lane[number])
            if threads < 1:
                raise MemoryLimitError(
                    f"A lane of {names} needs {format_bytes(self.lane[number])} where {format_bytes(held)} are held already, "
                    f"more than memory={format_bytes(self.limit)} allows: use smaller chunks, or allow more."
                )
        self.flight[number] = min(threads, level.lanes)
        return threads

    def note(self, number: int, values: list[Any]) -> None:
        """Count the results that are held after a level."""
        given = {id(_owner(values[slot])) for slot in self._given if values[slot] is not None}
        owners = [_owner(values[slot]) for slot in self._made if values[slot] is not None]
        self.held[number] = sum({id(owner): _bytes(owner) for owner in owners if id(owner) not in given}.values())
        if number + 1 == len(self.held):
            self.measured = True


def _owner(value: Any) -> Any:
    """Return what holds the memory of a value: the array that it is a view of."""
    while isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
        value = value.base
    return value


def _bytes(value: Any) -> int:
    return value.nbytes if isinstance(value, (np.ndarray, Stack)) else int(sizeof(value))
