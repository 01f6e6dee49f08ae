"""The problems that the benchmarks measure, each built the way a user of dask would write it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph

from graphopt.spec import GraphNode, Task, TaskRef

ROWS, COLUMNS = 1_000_000, 15


def logistic_data(chunks: int, rows: int = ROWS, columns: int = COLUMNS) -> tuple[da.Array, da.Array, np.ndarray]:
    """Make the document's logistic problem: X uniform on [0, 1), Bernoulli labels; stored in ``chunks`` row blocks."""
    rng = np.random.default_rng(42)
    beta = (rng.random(columns) - 0.5) * 3
    data = rng.random((rows, columns))
    labels = (rng.random(rows) < 1 / (1 + np.exp(-data @ beta))).astype(float)
    size = -(-rows // chunks)
    X = da.from_array(data, chunks=(size, columns)).persist(scheduler="sync")
    y = da.from_array(labels, chunks=size).persist(scheduler="sync")
    return X, y, beta * 0.5


def logistic(X: da.Array, y: da.Array, beta: np.ndarray) -> tuple[da.Array, da.Array]:
    """Write down loss and gradient in plain dask."""
    eta = X.dot(beta)
    p = 1 / (1 + da.exp(-eta))
    return (da.log1p(da.exp(-eta)) + (1 - y) * eta).sum(), X.T.dot(p - y)


def logistic_numpy(blocks: list[tuple[np.ndarray, np.ndarray]], beta: np.ndarray) -> tuple[float, np.ndarray]:
    """Do the same work as a plain loop over NumPy blocks: the floor for one thread."""
    loss, grad = 0.0, np.zeros_like(beta)
    for X, y in blocks:
        eta = X.dot(beta)
        e = np.exp(-eta)
        loss += (np.log1p(e) + (1 - y) * eta).sum()
        grad += X.T.dot(1 / (1 + e) - y)
    return loss, grad


def blocks_of(X: da.Array, y: da.Array) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the stored blocks of the problem."""
    graph_x, graph_y = dict(X.dask), dict(y.dask)

    def value(graph: dict[Any, Any], key: Any) -> Any:
        node = graph[key]
        return node() if isinstance(node, GraphNode) else node

    return [
        (value(graph_x, key[0]), value(graph_y, other)) for key, other in zip(X.__dask_keys__(), y.__dask_keys__(), strict=True)
    ]


def graph_of(*collections: Any) -> tuple[HighLevelGraph, list[Any]]:
    """Return what dask hands to an optimiser: the merged graph and the keys."""
    return HighLevelGraph.merge(*[c.dask for c in collections]), [c.__dask_keys__() for c in collections]


def chain(nodes: int) -> dict[Any, Task]:
    """Make a chain of trivial tasks on one input ``x``: what fusing ten nodes is measured on."""
    graph: dict[Any, Task] = {}
    last: Any = "x"
    for i in range(nodes):
        graph[f"n{i}"] = Task(f"n{i}", operator.add, TaskRef(last), 1)
        last = f"n{i}"
    return graph


def lanes(tasks: int) -> tuple[dict[Any, Task], list[Any]]:
    """Make a low-level graph of about this many tasks: lanes of ten operations each, and a tree of sums over them."""
    graph: dict[Any, Task] = {}
    count = max(1, tasks // 11)
    for i in range(count):
        graph[("load", i)] = Task(("load", i), float, i)
        for j, func in enumerate([operator.add, operator.mul, operator.sub, operator.truediv] * 2 + [operator.neg]):
            name, before = f"op{j}", ("load", i) if j == 0 else (f"op{j - 1}", i)
            args = (TaskRef(before),) if func is operator.neg else (TaskRef(before), 2.0)
            graph[(name, i)] = Task((name, i), func, *args)
    level, width, name = 0, count, "op8"
    while width > 1:
        new = f"sum{level}"
        for k in range(0, width, 8):
            refs = [TaskRef((name, m)) for m in range(k, min(k + 8, width))]
            graph[(new, k // 8)] = Task((new, k // 8), _total, *refs)
        name, width, level = new, -(-width // 8), level + 1
    return graph, [(name, 0)]


def _total(*values: float) -> float:
    return sum(values)


def diamonds(blocks: int) -> dict[str, Callable[[], list[Any]]]:
    """Write ``exp(x) - 1 / x`` in the three ways in which people do."""
    x = da.from_array(np.linspace(1.0, 2.0, 100 * blocks), chunks=100)

    def plain() -> list[Any]:
        return [da.exp(x) - 1 / x]

    def mapped() -> list[Any]:
        e = x.map_blocks(np.exp, dtype=float)
        r = x.map_blocks(np.reciprocal, dtype=float)
        return [da.map_blocks(np.subtract, e, r, dtype=float)]

    def delayed() -> list[Any]:
        out = []
        for block in x.to_delayed():
            b = dask.delayed(np.copy)(block)
            out.append(dask.delayed(np.subtract)(dask.delayed(np.exp)(b), dask.delayed(np.reciprocal)(b)))
        return out

    return {"plain operations": plain, "map_blocks": mapped, "Delayed": delayed}
