"""The foundation's numbers, each as a ratio or a count within one run: ``python bench/foundation.py``.

Prints a table of what the design asks for beside what was measured here, and writes it as JSON where asked. It never
fails on a time; counts are asserted in ``tests/``.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import threadpoolctl
from rich.console import Console
from rich.table import Table

import graphopt as go
from graphopt.graph import normalise
from graphopt.spec import Task

sys.path.insert(0, str(Path(__file__).parent))
from measure import count_tasks, interleaved, machine
from problems import blocks_of, chain, diamonds, graph_of, lanes, logistic, logistic_data, logistic_numpy

Row = tuple[str, str, str, str]  # what, dask or NumPy, graphopt, what to reach


def fused_region() -> Iterator[Row]:
    """Execute a fused region of ten trivial nodes."""
    graph = chain(10)
    region = go.optimize(graph, ["n9"], futures=["x"])["n9"]
    theirs = Task.fuse(*graph.values(), key="n9")
    values = {"x": 1}
    assert region(values) == theirs(values) == 11
    loops = 2000

    def run(task: Any, times: int) -> None:
        for _ in range(times):
            task(values)

    found = interleaved({"dask": lambda: run(theirs, loops // 20), "ours": lambda: run(region, loops)}, 15)
    dask_us, ours_us = found["dask"] / (loops // 20) * 1e6, found["ours"] / loops * 1e6
    yield "executing a fused region of 10 nodes", f"{dask_us:.0f} µs", f"{ours_us:.2f} µs", "≤ 2 µs"


def diamond() -> Iterator[Row]:
    """Count the tasks a chunk of ``exp(x) - 1/x``."""
    blocks = 20
    for name, build in diamonds(blocks).items():
        before = count_tasks(partial(_compute, build))
        with go.optimized(strict=True):
            after = count_tasks(partial(_compute, build))
        # One more where dask joins the chunks into one array.
        extra = 0 if name == "Delayed" else 1
        yield (
            f"exp(x) - 1/x, tasks a chunk, {name}",
            f"{(before - extra) / blocks:g}",
            f"{(after - extra) / blocks:g}",
            "1",
        )


def _compute(build: Callable[[], Any]) -> Any:
    return dask.compute(build(), scheduler="threads")


def logistic_step(chunks: int, rounds: int) -> Iterator[Row]:
    """Run one loss and gradient of the document's problem on dask threads."""
    X, y, beta = logistic_data(chunks)
    blocks = blocks_of(X, y)

    def with_dask() -> Any:
        return dask.compute(*logistic(X, y, beta), scheduler="threads")

    def with_graphopt() -> Any:
        with go.optimized(strict=True):
            return dask.compute(*logistic(X, y, beta), scheduler="threads")

    with threadpoolctl.threadpool_limits(1, "blas"):
        assert str(with_dask()) == str(with_graphopt())
        tasks = count_tasks(with_dask), count_tasks(with_graphopt)
        t = interleaved({"numpy": lambda: logistic_numpy(blocks, beta), "dask": with_dask, "graphopt": with_graphopt}, rounds)
    what = f"logistic step, {chunks} chunks, threads"
    yield f"{what}: tasks run", f"{tasks[0]}", f"{tasks[1]}", "≤ 120 at 100 chunks"
    ms = {name: f"{seconds * 1e3:.1f} ms" for name, seconds in t.items()}
    yield f"{what}: time (NumPy loop, 1 thread: {ms['numpy']})", ms["dask"], ms["graphopt"], ""
    over_dask, over_ours = t["dask"] - t["numpy"], t["graphopt"] - t["numpy"]
    ratio = f"{over_dask / over_ours:.1f} × less" if over_ours > 0 else "below NumPy's time"
    yield f"{what}: time over NumPy's", f"{over_dask * 1e3:.1f} ms", f"{over_ours * 1e3:.1f} ms, {ratio}", "≥ 4 × less"


def optimise(rounds: int) -> Iterator[Row]:
    """Optimise graphs of growing size; CPU time, because the machine is shared."""
    from dask.array.optimization import optimize as dask_optimize

    for tasks in (1_000, 10_000, 100_000):
        graph, keys = lanes(tasks)
        gc.collect()
        t = interleaved(
            {
                "dask": partial(dask_optimize, graph, keys),
                "ours": partial(go.optimize, graph, keys, go.Policy(strict=True)),
            },
            3 if tasks > 50_000 else rounds,
            cpu=True,
        )
        per = {name: f"{seconds / len(graph) * 1e6:.1f} µs" for name, seconds in t.items()}
        yield f"optimise {len(graph)} low-level tasks, per task", per["dask"], per["ours"], "≤ 15 µs, linear"
    X, y, beta = logistic_data(100, rows=100_000)
    hlg, keys = graph_of(*logistic(X, y, beta))
    raw = normalise(hlg, merge_layers=False)
    t = interleaved(
        {
            "dask": lambda: dask_optimize(hlg, keys),
            "ours": lambda: go.optimize(hlg, keys),
            "ours, from low level": lambda: go.optimize(raw, keys),
        },
        rounds,
        cpu=True,
    )
    per = {name: f"{seconds / len(raw) * 1e6:.1f} µs" for name, seconds in t.items()}
    what = f"optimise the logistic step ({len(raw)} tasks), per task"
    yield f"{what}, layers materialised", per["dask"], per["ours"], ""
    yield f"{what}, low-level graph", "", per["ours, from low level"], "≤ 15 µs"


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    console = Console(width=150)
    rows: list[Row] = []
    parts = [
        fused_region(),
        diamond(),
        logistic_step(100, options.rounds),
        logistic_step(1_000, 5),
        optimise(options.rounds),
    ]
    with console.status("measuring") as status:
        for part in parts:
            for row in part:
                rows.append(row)
                status.update(row[0])
    table = Table("what", "dask", "graphopt", "to reach", title=machine())
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
