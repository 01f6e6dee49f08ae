"""Cull: keep only what the requested keys need.

::

    {a: 1, b: f(a), c: g(a)}, keys=[b]   ->   {a: 1, b: f(a)}
"""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.graph import dependencies
from graphopt.types import Graph, Key

EXACT = True


def cull(graph: Graph, keys: Iterable[Key]) -> Graph:
    """Return the part of the graph that the keys reach; the same object if that is all of it.

    Keys that the graph does not hold are passed over: a cluster may hold them.
    """
    work = [key for key in keys if key in graph]
    # In a graph without cycles, keys reach all of it if whatever is not among them is read by something.
    if graph.keys() <= set(work).union(*map(dependencies, graph.values())):
        return graph
    seen = set(work)
    while work:
        for dep in dependencies(graph[work.pop()]):
            if dep not in seen and dep in graph:
                seen.add(dep)
                work.append(dep)
    if len(seen) == len(graph):
        return graph
    return {key: node for key, node in graph.items() if key in seen}
