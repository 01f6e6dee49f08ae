"""What the numba cache saves on a cluster of two worker processes: ``python bench/numba_cache.py``.

Tasks whose closures and function arguments are made anew for each, as numba and dask run them, and with the cache: new, with a
store that is filled, after `prewarm`, and after the workers were restarted. Then the first call of a fresh worker, and what it
takes to unpickle a ufunc. Every case starts its own cluster, because what numba has compiled stays. It never fails on a time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import distributed
import numba
import numpy as np
from rich.console import Console
from rich.table import Table

from graphopt import numba_cache

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from measure import machine
from numba_seen import call, loss_and_derivative, seen, total, ufunc, watch

DATA = np.linspace(-1.0, 1.0, 1_000)


@contextlib.contextmanager
def cluster() -> Iterator[distributed.Client]:
    """Two fresh worker processes of one thread each, that have loaded numba."""
    patient = {"distributed.deploy.lost-worker-timeout": "60s"}
    quiet = {"dashboard_address": ":0", "scheduler_kwargs": {"dashboard": False}}
    with (
        dask.config.set(patient),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **quiet) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(watch)
        yield client


def tasks(client: distributed.Client, number: int) -> tuple[float, int, int]:
    """Run tasks with functions made anew for each; return seconds, and how often each of the two was compiled."""
    client.run(watch)
    workers = sorted(client.scheduler_info()["workers"])
    start = time.perf_counter()
    futures = []
    for i in range(number):
        epoch, derivative = loss_and_derivative(2.0)
        futures.append(client.submit(call, epoch, DATA, derivative, pure=False, workers=[workers[i % 2]]))
    client.gather(futures)
    took = time.perf_counter() - start
    counts = list(client.run(seen).values())
    return took, total(counts, "epoch"), total(counts, "derivative")


def warm(client: distributed.Client) -> None:
    """Wait until the workers have started numba's compiler: that takes a second in any case, beside what they do."""
    client.run(_wait)


def _wait() -> bool:
    from graphopt.numba_cache.installing import wait_until_warm

    return wait_until_warm(60)


def _warm_by_itself() -> None:
    numba.njit(lambda x: x + 1)(1.0)


def plain(client: distributed.Client, number: int, store: str) -> tuple[float, int, int]:
    """As numba and dask are."""
    client.run(_warm_by_itself)
    return tasks(client, number)


def new(client: distributed.Client, number: int, store: str) -> tuple[float, int, int]:
    """With the cache, which knows nothing yet."""
    numba_cache.install(client)
    warm(client)
    return tasks(client, number)


def stored(client: distributed.Client, number: int, store: str) -> tuple[float, int, int]:
    """With the store: empty in the first round, and filled then."""
    numba_cache.install(client, store=store)
    warm(client)
    return tasks(client, number)


def prewarmed(client: distributed.Client, number: int, store: str) -> tuple[float, int, int]:
    """After prewarming."""
    numba_cache.install(client)
    epoch, derivative = loss_and_derivative(2.0)
    numba_cache.prewarm(client, epoch, DATA, derivative)
    warm(client)
    return tasks(client, number)


def restarted(client: distributed.Client, number: int, store: str) -> tuple[float, int, int]:
    """With the store, after the workers were started anew."""
    numba_cache.install(client, store=store)
    tasks(client, 2)
    client.restart()
    warm(client)
    return tasks(client, number)


CASES: dict[str, Callable[[distributed.Client, int, str], tuple[float, int, int]]] = {
    "numba and dask": plain,
    "cache": new,
    "empty store": stored,
    "filled store": stored,
    "prewarm": prewarmed,
    "restart, filled store": restarted,
}


def first_call(store: str) -> dict[str, float]:
    """Return milliseconds of the first call in a fresh worker's task, its functions unpickled in it, by what is there."""
    found = {}
    for name, options in (("compiled", {}), ("from the store", {"store": store})):
        with cluster() as client:
            numba_cache.install(client, **options)
            warm(client)
            data = cloudpickle.dumps(loss_and_derivative(2.0))
            found[name] = client.submit(_first, data, pure=False).result() * 1e3
            numba_cache.uninstall(client)
    return found


def _first(data: bytes) -> float:
    start = time.perf_counter()
    epoch, derivative = pickle.loads(data)
    epoch(DATA, derivative)
    return time.perf_counter() - start


def unpickling() -> dict[str, float]:
    """Return milliseconds to unpickle a ufunc, as numba does it and shipped."""
    function = ufunc(1.0)
    shipped = numba_cache.ship(function)
    shipped(1.0, 2.0)
    found = {}
    for name, each, times in (("numba", function, 5), ("ship", shipped, 1000)):
        data, took = cloudpickle.dumps(each), []
        for _ in range(times):
            start = time.perf_counter()
            pickle.loads(data)
            took.append(time.perf_counter() - start)
        found[name] = statistics.median(took) * 1e3
    return found


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    console = Console(width=120, highlight=False)
    table = Table("", "seconds", "compiled: closure", "its argument", "numba and dask /", title=machine())
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as store, console.status("measuring") as status:
        for name in options.only:
            status.update(name)
            with cluster() as client:
                rows[name] = CASES[name](client, options.tasks, store)
                numba_cache.uninstall(client)
            seconds, *compiled = rows[name]
            ratio = f"{rows[options.only[0]][0] / seconds:.1f} ×"
            table.add_row(name, f"{seconds:.2f}", *map(str, compiled), ratio)
        status.update("first call")
        first = first_call(store)
        status.update("unpickling")
        arriving = unpickling()
    table.caption = f"{options.tasks} tasks on 2 workers whose compilers are warm; load {os.getloadavg()[0]:.1f}"
    console.print(table)
    console.print("first call on a fresh worker: " + ", ".join(f"{took:.1f} ms {name}" for name, took in first.items()))
    console.print("unpickling a ufunc: " + ", ".join(f"{took:.3f} ms by {name}" for name, took in arriving.items()))
    if options.json:
        told = {"machine": machine(), "tasks": rows, "first call, ms": first, "unpickling, ms": arriving}
        options.json.write_text(json.dumps(told, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
