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
from graphopt.kernel import Kernel

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
    source
        The Python of the kernel that is used most, nothing if there is none.
    regions
        How often that kernel is called.
    calls
        How many calls there are of all kinds: the tasks that are left, or the lanes of a plan.
    whose
        What makes those calls, in words.
    """

    labels: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    data: frozenset[int]
    source: str
    regions: int
    calls: int
    whose: str


def fusion(problem: Problem, beta: Vector, plan: go.Plan | None = None) -> Fusion:
    """Look at the graph of one iteration, and at the plan of a compiled one if there is."""
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
    source, regions, calls, whose = _most_used_of_tasks(graph, keys) if plan is None else _most_used_of_plan(plan)
    return Fusion(
        labels=tuple(names.get(key, key_split(key)) for key in members),
        edges=tuple(sorted(edges)),
        data=frozenset(position[key] for key in names if key in position),
        source=source,
        regions=regions,
        calls=calls,
        whose=whose,
    )


def _most_used_of_tasks(graph: Any, keys: Any) -> tuple[str, int, int, str]:
    explanation = go.explain(graph, keys)
    most = explanation.kernels[0] if explanation.kernels else None  # most used first
    source, regions = ("", 0) if most is None else (most.source, most.regions)
    return source, regions, explanation.tasks_after, f"graphopt's {explanation.tasks_after} tasks"


def _most_used_of_plan(plan: go.Plan) -> tuple[str, int, int, str]:
    used = dict.fromkeys(plan.kernels, 0)
    for level in plan.levels:
        for group in level.groups:
            if isinstance(group.kernel, Kernel):
                used[group.kernel] += len(group.lanes)
    most = max(used, key=lambda kernel: used[kernel], default=None)
    source, regions = ("", 0) if most is None else (most.source, used[most])
    return source, regions, plan.lanes, f"the compiled step's {plan.lanes} calls"


def _flat(keys: Iterable[Iterable[Any]]) -> list[Any]:
    return [key for row in keys for key in row]
