"""What one chunk of the data asks for in the user's graph, and the one function that graphopt makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dask.utils import key_split

import graphopt as go
from graphopt.demo.descent import Vector
from graphopt.demo.problem import Problem
from graphopt.demo.race import is_task, user_graph
from graphopt.graph import dependencies, normalise, toposort

__all__ = ["Fusion", "fusion"]


@dataclass(frozen=True)
class Fusion:
    """The tasks of the first chunk, and the kernel that stands for most of the graph's tasks.

    Parameters
    ----------
    graph_tasks
        How many tasks the user's graph has.
    labels
        A short name for each node of the drawing: the chunk's data and the tasks that depend on nothing else.
    edges
        Pairs of positions in ``labels``: the second reads the first. Every edge goes from lower to higher.
    data
        Which positions are data rather than tasks.
    kernel, source
        The kernel's name and the Python it runs.
    regions, tasks
        How many regions of the graph use the kernel, and how many tasks of the user's graph one call stands for.
    """

    graph_tasks: int
    labels: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    data: frozenset[int]
    kernel: str
    source: str
    regions: int
    tasks: int


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
    kernel = max(explanation.kernels, key=lambda kernel: kernel.regions * kernel.tasks, default=None)
    return Fusion(
        graph_tasks=sum(map(is_task, nodes.values())),
        labels=tuple(names.get(key, key_split(key)) for key in members),
        edges=tuple(sorted(edges)),
        data=frozenset(position[key] for key in names if key in position),
        kernel="" if kernel is None else kernel.name,
        source="" if kernel is None else kernel.source,
        regions=0 if kernel is None else kernel.regions,
        tasks=0 if kernel is None else kernel.tasks,
    )


def _flat(keys: Iterable[Iterable[Any]]) -> list[Any]:
    return [key for row in keys for key in row]
