"""Runs the same descent several ways, in turns, and measures them.

The runs alternate iteration by iteration, in an order that changes each time, so that a busy moment of the machine
falls on all of them alike; medians then forget it. What is timed is what a user waits for: building the graph,
optimising it and running it. A compiled step did the first two at its first call, which is measured apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dask
import numpy as np
from dask.base import compute
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph

import graphopt as go
from graphopt.demo.descent import Chunks, Descent, Vector, chunked_loss_and_gradient, loss_and_gradient
from graphopt.demo.problem import Problem
from graphopt.graph import flatten_keys, normalise
from graphopt.spec import DataNode, GraphNode

__all__ = [
    "COMPILED",
    "DASK",
    "GRAPHOPT",
    "NUMPY",
    "RUNS",
    "Compilation",
    "Trace",
    "compilation",
    "count_tasks",
    "evaluators",
    "graph_tasks",
    "race",
    "user_graph",
]

NUMPY, DASK, GRAPHOPT, COMPILED = RUNS = ("numpy", "dask", "graphopt", "compiled")

Evaluate = Callable[[Vector], tuple[float, Vector]]


@dataclass
class Trace:
    """What one run did: seconds and loss (before the penalty) of every iteration, and the coefficients at the end."""

    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    beta: Vector = field(default_factory=lambda: np.zeros(0))

    @property
    def median(self) -> float:
        """Seconds per iteration."""
        return float(np.median(self.seconds))


@dataclass(frozen=True)
class Compilation:
    """What it took to compile the step: seconds of the first call, and the kernels and lanes of the plan."""

    first_call: float
    kernels: int
    lanes: int


def evaluators(problem: Problem, chunks: Chunks, step: go.Compiled | None = None) -> dict[str, Evaluate]:
    """The ways of computing loss and gradient: NumPy chunk by chunk, dask, dask with graphopt, and a compiled step if any."""

    def with_dask(beta: Vector) -> tuple[float, Vector]:
        loss, gradient = compute(*loss_and_gradient(problem.X, problem.y, beta))
        return float(loss), gradient

    def with_graphopt(beta: Vector) -> tuple[float, Vector]:
        with go.optimized():
            return with_dask(beta)

    ways: dict[str, Evaluate] = {NUMPY: lambda beta: chunked_loss_and_gradient(chunks, beta)}
    ways |= {DASK: with_dask, GRAPHOPT: with_graphopt}
    if step is not None:
        ways[COMPILED] = _with_compiled(problem, step)
    return ways


def _with_compiled(problem: Problem, step: go.Compiled) -> Evaluate:
    def compiled(beta: Vector) -> tuple[float, Vector]:
        loss, gradient = step(problem.X, problem.y, beta)
        return float(loss), gradient

    return compiled


def compilation(problem: Problem, beta: Vector, step: go.Compiled) -> Compilation:
    """Call a step for the first time, which traces and compiles it, and see what that came to."""
    start = time.perf_counter()
    step(problem.X, problem.y, beta)
    seconds = time.perf_counter() - start
    plan = step.plan(problem.X, problem.y, beta)
    return Compilation(seconds, len(plan.kernels), plan.lanes)


def race(
    evaluate: Mapping[str, Evaluate], descent: Descent, iterations: int, after_each: Callable[[str], None]
) -> dict[str, Trace]:
    """Descend ``iterations`` steps in every way, each from its own gradients, and time each evaluation."""
    names = list(evaluate)
    traces = {name: Trace() for name in names}
    states = {name: descent.start() for name in names}
    for iteration in range(iterations):
        for name in np.roll(names, iteration):
            state, trace = states[name], traces[name]
            start = time.perf_counter()
            loss, gradient = evaluate[name](state.point)
            trace.seconds.append(time.perf_counter() - start)
            trace.losses.append(loss)
            states[name] = descent.advance(state, gradient)
        after_each(f"loss {traces[names[0]].losses[-1]:.6g}")
    for name in names:
        traces[name].beta = states[name].beta
    return traces


def user_graph(problem: Problem, beta: Vector) -> tuple[HighLevelGraph, list[Any]]:
    """The graph of one iteration as the user's code builds it, not optimised yet, and its nested list of keys."""
    collections = loss_and_gradient(problem.X, problem.y, beta)
    graph = HighLevelGraph.merge(*(collection.__dask_graph__() for collection in collections))
    return graph, [collection.__dask_keys__() for collection in collections]


def graph_tasks(problem: Problem, beta: Vector) -> int:
    """How many tasks the user's code asks for in one iteration."""
    graph, keys = user_graph(problem, beta)
    return sum(map(_is_task, normalise(graph, flatten_keys(keys), merge_layers=False).values()))


def _is_task(node: object) -> bool:
    """Whether a node of a graph is work for a scheduler; data is not. Aliases are: schedulers handle them as tasks."""
    return isinstance(node, GraphNode) and not isinstance(node, DataNode)


def count_tasks(problem: Problem, beta: Vector, evaluate: Evaluate, local: bool) -> int:
    """How many tasks the scheduler runs in one iteration.

    Schedulers in this process are asked to count. A distributed scheduler has nothing to ask, so the graph that dask
    would send it is counted instead.
    """
    if local:
        executed: list[Any] = []
        with Callback(posttask=lambda key, result, dsk, state, worker: executed.append(key)):
            evaluate(beta)
        return len(executed)
    graphs: list[Mapping[Any, Any]] = []
    with dask.config.set(scheduler=lambda expr, keys, **_: _keep(graphs, expr, keys)):
        evaluate(beta)
    return sum(map(_is_task, normalise(graphs[0]).values()))


def _keep(graphs: list[Mapping[Any, Any]], expr: Any, keys: list[Any]) -> list[Any]:
    """A dask scheduler that keeps the graph and answers with zeros."""
    graphs.append(dict(expr.__dask_graph__()))
    return [0.0 for _ in keys]
