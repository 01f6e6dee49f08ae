"""What graphs cost that share their history: ``python bench/shared.py``.

Bookkeeping is what an operation does beside dask's own work on names, chunks and dtypes: the time in
``HighLevelGraph.from_collections``. CPU time throughout, because the machine is shared. It never fails on a time.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from operator import add
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef
from measure import interleaved, machine
from problems import lanes
from rich.console import Console
from rich.table import Table

import graphopt as go

Row = tuple[str, str, str, str]

_OPERATIONS, _SOME = 10_000, 200


def grown(operations: int) -> da.Array:
    """Return an array with so many operations behind it."""
    x = da.ones(4, chunks=4)
    for _ in range(operations):
        x = x + 1
    return x


def bookkeeping(array: da.Array, times: int = _SOME) -> float:
    """Return the seconds that it takes to hang a layer on an array's graph."""
    layer: dict[Any, Any] = {("new", 0): Task(("new", 0), add, TaskRef((array.name, 0)), 1)}
    found = []
    for _ in range(times):
        start = time.process_time()
        for _ in range(10):
            HighLevelGraph.from_collections("new", layer, dependencies=[array])
        found.append((time.process_time() - start) / 10)
    return statistics.median(found)


def operations() -> Iterator[Row]:
    """Hang one more operation on a short and on a long history."""
    costs: dict[str, tuple[float, float]] = {}
    for name, context in (("dask", nullcontext), ("ours", go.sharing)):
        with context():
            costs[name] = bookkeeping(grown(100)), bookkeeping(grown(_OPERATIONS), 20 if name == "dask" else _SOME)
    for place, after in enumerate((100, _OPERATIONS)):
        per = [f"{costs[name][place] * 1e6:.1f} µs" for name in ("dask", "ours")]
        yield f"bookkeeping of an operation after {after}", *per, ""
    ratio = [f"{costs[name][1] / costs[name][0]:.2f}" for name in ("dask", "ours")]
    yield f"after {_OPERATIONS} over after 100", *ratio, "≤ 1.2"


def increments(rounds: int) -> Iterator[Row]:
    """Optimise ``x = x + 1`` repeated."""
    from dask.array.optimization import optimize as dask_optimize

    with go.sharing():
        arrays = {n: grown(n) for n in (500, 1_000, 2_000)}
    for n, x in arrays.items():
        keys = x.__dask_keys__()
        ours = interleaved({"ours": partial(go.optimize, x.dask, keys)}, rounds, cpu=True)["ours"]
        theirs = interleaved({"dask": partial(dask_optimize, x.dask, keys)}, 1, cpu=True)["dask"]
        yield f"optimise x = x + 1, {n} times", f"{theirs:.2f} s", f"{ours:.3f} s", "≤ 0.1 s" if n == 2_000 else ""


def logistic(X: da.Array, y: da.Array, beta: Any) -> Any:
    """Return loss and gradient, as in the README."""
    eta = X.dot(beta)
    p = 1 / (1 + da.exp(-eta))
    return (da.log1p(da.exp(-eta)) + (1 - y) * eta).sum(), X.T.dot(p - y)


def first_plans(rounds: int) -> Iterator[Row]:
    """Plan a step for the first time, where dask builds and optimises the same expression for each iteration."""
    for chunks in (100, 1_000):
        X = da.zeros((20_000, 15), chunks=(20_000 // chunks, 15)).persist(scheduler="sync")
        y = da.zeros(20_000, chunks=20_000 // chunks).persist(scheduler="sync")
        given = X, y, np.zeros(15)

        def planned(given: Any = given) -> None:
            step = go.compile(logistic)
            step._find(*step._arguments(given, {}))  # what a first call does before it runs

        runs: dict[str, Callable[[], Any]] = {
            "dask": lambda given=given: dask.optimize(*logistic(*given)),
            "plan": planned,
            "checked": lambda given=given: go.compile(logistic).plan(*given),
            "call": lambda given=given: go.compile(logistic)(*given),
        }
        found = interleaved(runs, rounds, cpu=True)
        theirs = f"{found['dask'] * 1e3:.1f} ms"
        for name, what in (("plan", "a first plan"), ("checked", "and traced again"), ("call", "a first call")):
            ratio = f"{found[name] * 1e3:.1f} ms ({found['dask'] / found[name]:.1f} x)"
            yield f"{what}, logistic, {chunks} chunks", theirs, ratio, "3 x" if name == "plan" else ""


def chains(tasks: int) -> tuple[dict[Any, Task], list[Any]]:
    """Make chains of a thousand tasks."""
    graph: dict[Any, Task] = {}
    for lane in range(max(1, tasks // 1_000)):
        keys = [(f"x-{i}", lane) for i in range(min(tasks, 1_000))]
        graph[keys[0]] = Task(keys[0], float, 1)
        for before, key in pairwise(keys):
            graph[key] = Task(key, add, TaskRef(before), 1)
    return graph, [(f"x-{min(tasks, 1_000) - 1}", lane) for lane in range(max(1, tasks // 1_000))]


def whole_graphs(largest: int) -> Iterator[Row]:
    """Optimise graphs of growing size, and measure the memory that it takes."""
    for what, make in (("chains", chains), ("lanes and a tree", lanes)):
        tasks = 1_000
        while tasks <= largest:
            seconds, memory, count = optimised(make, tasks)
            said = f"{seconds / count * 1e6:.1f} µs, {memory / count:.0f} B"
            yield f"optimise {count} tasks ({what}), per task", "", said, "≤ 10 µs, 1 KiB" if tasks == 1_000_000 else ""
            tasks *= 10


def optimised(make: Callable[[int], tuple[dict[Any, Task], list[Any]]], tasks: int) -> tuple[float, float, int]:
    """Return the seconds that it takes, the bytes beside the graph at the peak, and the number of tasks."""
    graph, keys = make(tasks)
    gc.collect()
    found = []
    for _ in range(5 if tasks <= 100_000 else 1):
        start = time.process_time()
        go.optimize(graph, keys)
        found.append(time.process_time() - start)
    return statistics.median(found), peak_of(partial(go.optimize, graph, keys)), len(graph)


def peak_of(run: Callable[[], Any]) -> float:
    """Return how many bytes more than before a call had at its peak, seen by the system."""
    gc.collect()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return float("nan")
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def status(name: str) -> float:
    """Return a line of the process's status, in bytes."""
    with open("/proc/self/status") as file:
        return float(next(line for line in file if line.startswith(name)).split()[1]) * 1024


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tasks", type=int, default=1_000_000, help="the largest graph")
    options = parser.parse_args()
    console = Console(width=140)
    table = Table("what", "dask", "graphopt", "to reach", title=machine())
    with console.status("measuring"):
        for row in (*operations(), *increments(options.rounds), *first_plans(options.rounds), *whole_graphs(options.tasks)):
            table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
