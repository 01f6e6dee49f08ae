"""Probe: one thing to time, with the counts that its time is explained by, and what is measured as the sum of such things."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["COLUMNS", "Probe", "Subject", "empty_tasks"]

#: What a probe counts. ``made`` are bytes that its tasks write. ``calls`` are calls that are not like others, because they find
#: running what a first one starts, or because their messages are long. Both are there to be told apart from what is asked for.
COLUMNS = ("iterations", "tasks", "edges", "moved", "made", "calls")

#: How many dependencies tasks have, in graphs of the same number of tasks.
DEGREES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing to time.

    ``prepare`` returns, outside of the time that is taken, the call to time; ``right`` says whether its result is.
    """

    name: str
    prepare: Callable[[], Callable[[], Any]]
    right: Callable[[Any], bool]
    iterations: int = 1
    tasks: int = 0
    edges: int = 0
    moved: int = 0
    made: int = 0
    calls: int = 0

    @property
    def counts(self) -> tuple[int, ...]:
        """Its numbers, in the order of `COLUMNS`."""
        return self.iterations, self.tasks, self.edges, self.moved, self.made, self.calls


class Subject(Protocol):
    """Something that runs tasks, whose overhead can be measured."""

    target: str
    workers: int
    threads: int
    least: int  # tasks in a graph, at first
    most: int
    warm: int  # calls of each probe before the first that counts

    def probes(self, tasks: int) -> list[Probe]:
        """Return what to time, in graphs of about so many tasks."""

    def phases(self, tasks: int) -> tuple[float, float]:
        """Build and optimise a graph of some hundred tasks; return how many seconds each took, per task."""


def empty_tasks(tasks: int, fewest: int = 1) -> list[tuple[str, int, int]]:
    """Return the graphs of empty tasks to time: name, number of tasks, dependencies of each.

    Independent tasks of three numbers tell a task from a call, and the same number of tasks with more and more dependencies
    tells a dependency from a task. One more task reads what comes out, if that is more than one result.
    """
    independent = [("few tasks", fewest, 0), ("some tasks", tasks // 4, 0), ("many tasks", tasks, 0)]
    return [*independent, *[(f"{degree} dependencies", tasks, degree) for degree in DEGREES]]
