"""What one chunk of the data asks for in the user's graph, and the one function that graphopt makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dask.utils import key_split

import graphopt as go
from graphopt.demo.descent import Vector
from graphopt.demo.problem import Problem
from graphopt.demo.race import user_graph
from graphopt.graph import dependencies, normalise, toposort

__all__ = ["Fusion", "fusion"]


@dataclass(frozen=True)
class Fusion:
    """The tasks of the first chunk, and the kernel that graphopt uses most.

    Parameters
    ----------
    labels
        A short name for each node of the drawing: the chunk's data and the tasks that depend on nothing else.
    edges
        Pairs of positions in ``labels``: the second reads the first. Every edge goes from lower to higher.
    data
        Which positions are data rather than tasks.
    tasks_after
        How many tasks are left.
    source
        The Python of the kernel that is used most, nothing if there is none.
    regions
        How many of the tasks that are left call that kernel.
    """

    labels: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    data: frozenset[int]
    tasks_after: int
    source: str
    regions: int


def fusion(problem: Problem, beta: Vector) -> Fusion:
    """Look at the graph of one iteration."""
    graph, keys = user_graph(problem, beta)
    nodes = normalise(graph, merge_layers=False)
    chunks = [*_flat(problem.X.__dask_keys__()), *problem.y.__dask_keys__()]
    names = {problem.X.__dask_keys__()[0][0]: "X", problem.y.__dask_keys__()[0]: "y"}
    reads: dict[Any, set[Any]] = {}  # the chunks that a task depends on, directly or not
    for key in toposort(nodes):
        own = {key} if key in chunks else set()
        reads[key] = own.union(*(reads[dep] for dep in dependencies(nodes[key]) if dep in reads))
    members = [key for key in reads if key in names or (reads[key] and reads[key] <= names.keys())]
    position = {key: i for i, key in enumerate(members)}
    edges = [(position[dep], i) for key, i in position.items() for dep in dependencies(nodes[key]) if dep in position]
    explanation = go.explain(graph, keys)
    kernels = explanation.kernels  # most used first
    return Fusion(
        labels=tuple(names.get(key, key_split(key)) for key in members),
        edges=tuple(sorted(edges)),
        data=frozenset(position[key] for key in names if key in position),
        tasks_after=explanation.tasks_after,
        source=kernels[0].source if kernels else "",
        regions=kernels[0].regions if kernels else 0,
    )


def _flat(keys: Iterable[Iterable[Any]]) -> list[Any]:
    return [key for row in keys for key in row]
