"""Lanes: which thread runs which lanes of a level, what runs one, and what is said of one that failed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import Any

from graphopt.kernel import Kernel
from graphopt.notes import explain_error
from graphopt.schedule import Group, Lane, Level

__all__ = ["Piece", "blame", "deal", "runs"]

Piece = tuple[int, int, int]  # the place of a group in its level, its first lane, and the one after its last


def deal(level: Level, threads: int, begun: Collection[int] = ()) -> list[list[Piece]]:
    """Divide the lanes of each group evenly among threads, each thread's in one piece, in chunk order.

    Lanes of a group are alike, those of two groups are not: a level with a group of long lanes and one of short ones is
    halved where both are. What does not divide evenly goes to who has least to do, by the tasks that a lane stands for.

    Parameters
    ----------
    level
        What is to run.
    threads
        How many threads there are.
    begun
        The groups of which the first lane has run already, by their places.

    Returns
    -------
    For each thread its pieces, in the order of groups; there may be none.
    """
    parts: list[list[Piece]] = [[] for _ in range(threads)]
    load = [0] * threads
    for place in sorted(range(len(level.groups)), key=lambda place: -_tasks(level.groups[place])):
        group, start = level.groups[place], int(place in begun)
        each, rest = divmod(len(group.lanes) - start, threads)
        least = sorted(range(threads), key=load.__getitem__)[:rest]
        for thread, part in enumerate(parts):
            stop = start + each + (thread in least)
            if start < stop:
                part.append((place, start, stop))
                load[thread] += (stop - start) * _tasks(group)
            start = stop
    return [sorted(part) for part in parts]


def runs(group: Group) -> Callable[..., Any]:
    """Return the function that is called for each lane of a group."""
    return group.kernel.fn if isinstance(group.kernel, Kernel) else group.kernel


def blame(error: BaseException, group: Group, lane: Lane) -> None:
    """Add to an error which of the user's keys a lane was computing."""
    if isinstance(error, Exception) and isinstance(group.kernel, Kernel):
        with contextlib.suppress(Exception):
            explain_error(error, group.kernel, lane.labels, lane.key)


def _tasks(group: Group) -> int:
    return group.kernel.tasks if isinstance(group.kernel, Kernel) else 1
