"""Prologue: what a step does to its small arguments alone, before any chunk is looked at.

::

    {norms: sum(centres**2), d0: norms - x0, d1: norms - x1}, small=[centres]   ->   [norms], [d0, d1]

All lanes read it. To the one fusion rule it is a region like any other, which cannot join every lane, so no lane could go on
past it. Run first, it is data that is already there.
"""

from __future__ import annotations

from collections.abc import Collection

from graphopt.graph import dependencies, is_constant, toposort
from graphopt.types import Graph, Key

__all__ = ["prologue"]


def prologue(graph: Graph, small: Collection[Key]) -> tuple[list[Key], list[Key]]:
    """Find the tasks that read nothing but small arguments and each other, and those of them that other tasks read.

    Parameters
    ----------
    graph
        A normalised graph.
    small
        The keys of the small arguments. Tasks that read nothing at all make chunks, and do not count.

    Returns
    -------
    Both lists, inputs first. Both are empty if there is nothing else in the graph.
    """
    known = set(small)
    found: list[Key] = []
    others: list[Key] = []
    for key in toposort(graph):
        node = graph[key]
        if is_constant(node):
            continue
        reads = dependencies(node)
        if reads and reads <= known:
            known.add(key)
            found.append(key)
        else:
            others.append(key)
    if not others:
        return [], []
    read = {dep for key in others for dep in dependencies(graph[key])}
    return found, [key for key in found if key in read]
