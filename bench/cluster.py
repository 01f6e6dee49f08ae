"""What an iteration costs on a cluster of two local worker processes beside the work itself, and what dask takes for it.

Logistic loss and gradient, 1 000 000 x 15, each worker with one thread. "Beside" is what an iteration takes longer than the
slower worker says that it worked. Run ``python bench/cluster.py``; ``--json`` prints the figures for a machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np

import graphopt as go

ROWS, COLUMNS = int(os.environ.get("ROWS", 1_000_000)), 15


def loss_and_gradient(X: Any, y: Any, beta: Any) -> Any:
    """Logistic loss and its gradient, in plain dask."""
    eta = X.dot(beta)
    p = 1 / (1 + da.exp(-eta))
    return (da.log1p(da.exp(eta)) - y * eta).sum(), X.T.dot(p - y)


def descent(beta: Any, X: Any, y: Any) -> Any:
    """One step down the gradient."""
    return beta - 4 / ROWS * loss_and_gradient(X, y, beta)[1]


def quartiles(seconds: list[float]) -> str:
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75)) * 1e3
    return f"{middle:7.2f} ms ({low:.2f} to {high:.2f})"


def data(client: distributed.Client, chunks: int) -> tuple[Any, Any]:
    """Put a problem on the workers by turns, so that both have half of it."""
    X = da.random.default_rng(0).random((ROWS, COLUMNS), chunks=(-(-ROWS // chunks), COLUMNS))
    workers = sorted(client.scheduler_info()["workers"])
    with dask.annotate(workers=lambda key: [workers[key[1] * len(workers) // chunks]], allow_other_workers=False):
        X, y = client.persist([X, (X[:, 0] > 0.5).astype(float)], optimize_graph=False)
    distributed.wait([X, y])
    return X, y


def remote(step: Any) -> Any:
    """Return what knows how long the workers worked."""
    return next(iter(next(iter(step._ready.values())).remotes.values()))


def calls(X: Any, y: Any, repeats: int) -> tuple[list[float], list[float]]:
    """Return what each call took, and what it took beside the work."""
    step, beta = go.compile(loss_and_gradient), np.zeros(COLUMNS)
    whole, beside = [], []
    for i in range(repeats + 10):
        start = time.perf_counter()
        step(X, y, beta)
        took = time.perf_counter() - start
        if i >= 10:
            whole.append(took)
            beside.append(took - max(remote(step).seconds.values()))
    return whole, beside


def loops(X: Any, y: Any, repeats: int, iterations: int = 50) -> tuple[list[float], list[float]]:
    """Return what an iteration of each loop took on average, and beside the work."""
    step, beta = go.compile(descent), np.zeros(COLUMNS)
    go.iterate(step, beta, X, y, max_iter=3)
    whole, beside = [], []
    for _ in range(repeats):
        step(beta, X, y)
        start = time.perf_counter()
        go.iterate(step, beta, X, y, max_iter=iterations + 1)
        took = time.perf_counter() - start
        paces = remote(step).paces
        whole.append(took / (iterations + 1))
        beside.append((took - sum(paces) - min(paces)) / (iterations + 1))  # the first iteration is a call
    return whole, beside


def against_dask(X: Any, y: Any, iterations: int) -> tuple[float, float]:
    """Return the seconds of a descent with `iterate`, and of the same with dask computing each step."""
    step, beta = go.compile(descent), np.zeros(COLUMNS)
    go.iterate(step, beta, X, y, max_iter=3)
    start = time.perf_counter()
    mine = go.iterate(step, beta, X, y, max_iter=iterations)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(iterations):
        beta = dask.compute(descent(beta, X, y))[0]
    theirs = time.perf_counter() - start
    np.testing.assert_allclose(mine, beta, rtol=1e-8)
    return ours, theirs


def tiny(a: Any, x: Any) -> Any:
    """Do next to nothing with each chunk: all that is left is the cost of reaching the workers."""
    return 0 * x.sum() + a


def by_workers(count: int, repeats: int, processes: bool) -> tuple[float, float, float]:
    """Return the seconds of a call, of an iteration of a loop, and of CPU of the client in a call; a chunk on each worker."""
    with cluster(n_workers=count, processes=processes) as client:
        names = sorted(client.scheduler_info(n_workers=-1)["workers"])
        x = da.ones(count * 10, chunks=10)
        with dask.annotate(workers=lambda key: [names[key[1]]], allow_other_workers=False):
            (x,) = client.persist([x], optimize_graph=False)
        distributed.wait(x)
        step = go.compile(tiny)
        walls, cpus = [], []
        for i in range(repeats + 10):
            start, cpu = time.perf_counter(), time.thread_time()
            step(1.0, x)
            if i >= 10:
                walls.append(time.perf_counter() - start)
                cpus.append(time.thread_time() - cpu)
        go.iterate(step, 1.0, x, max_iter=3)
        start = time.perf_counter()
        go.iterate(step, 1.0, x, max_iter=repeats)
        return float(np.median(walls)), (time.perf_counter() - start) / repeats, float(np.median(cpus))


@contextlib.contextmanager
def cluster(**options: Any) -> Iterator[distributed.Client]:
    """Start a cluster of workers with one thread each."""
    with (
        distributed.LocalCluster(threads_per_worker=1, dashboard_address=":0", silence_logs=60, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=50, help="of the descent against dask; 0 leaves it out")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32], help="numbers of in-process workers")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4, 8], help="numbers of worker processes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with cluster(n_workers=2) as client:
        for chunks in options.chunks:
            X, y = data(client, chunks)
            for name, measure, repeats in (("call", calls, options.repeats), ("iterate", loops, max(5, options.repeats // 10))):
                whole, beside = measure(X, y, repeats)
                found[f"{name}, {chunks} chunks"] = {"ms": np.median(whole) * 1e3, "beside ms": np.median(beside) * 1e3}
                if not options.json:
                    print(f"{name:8} {chunks:5} chunks  {quartiles(whole)}, beside the work {quartiles(beside)}", flush=True)
        if options.iterations:
            X, y = data(client, 100)
            ours, theirs = against_dask(X, y, options.iterations)
            found["descent"] = {"iterate s": ours, "dask s": theirs, "ratio": theirs / ours}
            if not options.json:
                print(
                    f"{options.iterations} iterations, 100 chunks: {ours:.2f} s, dask {theirs:.2f} s, {theirs / ours:.0f} times"
                )
    for kind, counts in (("workers in one process", options.workers), ("worker processes", options.processes)):
        for count in counts:
            call, loop, cpu = by_workers(count, options.repeats, processes=kind == "worker processes")
            found[f"{count} {kind}"] = {"call ms": call * 1e3, "iterate ms": loop * 1e3, "client ms": cpu * 1e3}
            if not options.json:
                times = f"call {call * 1e3:.2f} ms, of which the client's CPU {cpu * 1e3:.2f} ms, iterate {loop * 1e3:.2f} ms"
                print(f"{count:3} {kind}, a tiny chunk each: {times}", flush=True)
    if options.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
