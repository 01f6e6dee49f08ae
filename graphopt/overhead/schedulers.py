"""Schedulers: empty tasks for dask's own schedulers and for clusters.

Tasks call functions of the standard library and NumPy only, so that workers need nothing of ours. Graphs go to the scheduler as
they are: what building and optimising cost is measured apart.
"""

from __future__ import annotations

import math
import multiprocessing
import operator
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.base import get_scheduler, optimize
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.system import CPU_COUNT

from graphopt.overhead.probe import Probe, empty_tasks
from graphopt.spec import List, Task, TaskRef
from graphopt.types import ClusterError

__all__ = ["FIRST", "Scheduler", "expression", "on_client", "on_processes", "on_threads", "open_client"]

_MIB = 1 << 20
_NUMBER = 6  # what empty tasks hand on: the greatest common divisor of any number of sixes
FIRST = "a first task"  # a probe that takes long and needs no trial

Get = Callable[[Any, list[Any]], Any]


class Scheduler:
    """A scheduler of dask's, given by its ``get``.

    ``first`` is another ``get``, whose calls start what those of the other find running. ``across`` are the addresses of two
    workers for bytes to move between, or of one for bytes to move to the client; none where tasks share nothing but what moves.
    """

    def __init__(
        self,
        target: str,
        get: Get,
        *,
        workers: int,
        threads: int,
        sizes: tuple[int, ...],
        first: Get | None = None,
        across: tuple[str, ...] = (),
    ) -> None:
        self.target, self.workers, self.threads = target, workers, threads
        self.get, self.sizes, self.first, self.across = get, sizes, first, across
        self.least, self.most, self.warm = 16, 1024, 1

    def probes(self, tasks: int) -> list[Probe]:
        """Return what to time, in graphs of so many tasks."""
        other = {"iterations": 0, "calls": 1}
        kinds = {"iterations": 1} if self.first is None else other
        found = [self._empty(self.get, name, number, degree, kinds) for name, number, degree in empty_tasks(tasks)]
        if self.first is not None:
            found.append(self._empty(self.first, FIRST, 1, 0, {"iterations": 1}))
        for size in self.sizes:
            found.append(self._bytes("made", size, _made, {"tasks": 1, **other}))
            if len(self.across) == 1:
                found.append(self._bytes("fetched", size, _fetched, {"tasks": 1, "moved": size, **other}))
            else:
                found.append(self._bytes("moved", size, _moved, {"tasks": 2, "edges": 1, "moved": size, **other}))
        return found

    def _empty(self, get: Get, name: str, tasks: int, degree: int, kinds: Mapping[str, int]) -> Probe:
        width = max(8, tasks // 4) if degree else tasks

        def prepare() -> Callable[[], Any]:
            graph, key = layers_of(tasks, width, degree)
            return partial(get, graph, [key])

        alone = width == 1
        edges = (tasks - width) * degree + width * (not alone)
        return Probe(name, prepare, partial(_is, width * _NUMBER), tasks=tasks + (not alone), edges=edges, **kinds)

    def _bytes(self, what: str, size: int, make: Callable[[int], Mapping[str, Task]], counts: Mapping[str, int]) -> Probe:
        def prepare() -> Callable[[], Any]:
            tasks = make(size)
            return partial(self.get, _placed(tasks, self.across), [list(tasks)[-1]])

        return Probe(f"{size} bytes {what}", prepare, partial(_has_size, size), made=size, **counts)

    def phases(self, tasks: int) -> tuple[float, float]:
        """Build and optimise a graph of dask.array's; return seconds a task for each."""
        x = da.ones(tasks, chunks=1)
        start = time.perf_counter()
        total = expression(x)
        graph = total.__dask_graph__()
        built = time.perf_counter()
        (optimized,) = optimize(total)
        run = dict(optimized.__dask_graph__())
        done = time.perf_counter()
        if not run:
            raise RuntimeError("dask's optimisation left nothing to run")
        number = len(dict(graph))
        return (built - start) / number, (done - built) / number


def expression(x: Any) -> Any:
    """Return what is built and optimised: element-wise operations and a sum, as most dask.array code has them."""
    return (2 * (x + 1) - x).sum()


def layers_of(tasks: int, width: int, degree: int) -> tuple[dict[Any, Task], Any]:
    """Return layers of empty tasks, all but the first with so many dependencies each, and the key of what adds up the last."""
    name = f"empty-{uuid.uuid4().hex}"  # never the name of a task that a scheduler still remembers
    graph = {}
    for i in range(tasks):
        row, column = divmod(i, width)
        inputs = [TaskRef((name, (row - 1) * width + (column + j) % width)) for j in range(degree)] if row else [_NUMBER]
        graph[name, i] = Task((name, i), math.gcd, *inputs)
    last = (name, tasks if width > 1 else 0)
    if width > 1:
        graph[last] = Task(last, sum, List(*[TaskRef((name, i)) for i in range(tasks - width, tasks)]))
    return graph, last


def _made(size: int) -> dict[str, Task]:
    """An array that is made and read in one task."""
    read = f"read-{uuid.uuid4().hex}"
    return {read: Task(read, len, Task(None, np.ones, size, "u1"))}


def _fetched(size: int) -> dict[str, Task]:
    """An array that is the result."""
    make = f"make-{uuid.uuid4().hex}"
    return {make: Task(make, np.ones, size, "u1")}


def _moved(size: int) -> dict[str, Task]:
    """An array that is made in one task and read in another."""
    make, read = (f"{what}-{uuid.uuid4().hex}" for what in ("make", "read"))
    return {make: Task(make, np.ones, size, "u1"), read: Task(read, len, TaskRef(make))}


def _placed(tasks: Mapping[str, Task], places: tuple[str, ...]) -> Any:
    """Pin each task to a worker, if places are given."""
    if not places:
        return dict(tasks)
    layers = {
        key: MaterializedLayer({key: task}, annotations={"workers": [place], "allow_other_workers": False})
        for (key, task), place in zip(tasks.items(), places, strict=False)
    }
    return HighLevelGraph(layers, {key: {str(dep) for dep in task.dependencies} for key, task in tasks.items()})


def _is(value: Any, results: Any) -> bool:
    return list(results) == [value]


def _has_size(size: int, results: Any) -> bool:
    (found,) = results
    return (len(found) if isinstance(found, np.ndarray) else found) == size


# -- the schedulers ----------------------------------------------------------------------------------------------------


@contextmanager
def on_threads(name: str) -> Iterator[Scheduler]:
    """The schedulers of this process: ``sync`` and ``threads``."""
    threads = 1 if name == "sync" else _workers()
    yield Scheduler(name, get_scheduler(scheduler=name), workers=1, threads=threads, sizes=(_MIB, 4 * _MIB))


@contextmanager
def on_processes() -> Iterator[Scheduler]:
    """The multiprocessing scheduler of dask.

    Unless a pool is configured it starts one for each compute. That is what a call costs; everything else is measured in a pool
    that stays.
    """
    get = partial(get_scheduler(scheduler="processes"), optimize_graph=False)  # it would fuse the tasks
    make = partial(Scheduler, "processes", sizes=(_MIB, 16 * _MIB))
    pool = dask.config.get("pool", None)
    if pool is not None:
        given = int(getattr(pool, "_max_workers", 0) or getattr(pool, "_processes", 1))  # of an executor; of a Pool
        yield make(get, workers=given, threads=given)
        return
    workers = _workers()
    if os.environ.get("PYTHONHASHSEED") in (None, "0"):
        os.environ["PYTHONHASHSEED"] = "6640"  # dask does so, and leaves it so: equal strings hash alike in all processes
    context = multiprocessing.get_context(dask.config.get("multiprocessing.context", "spawn"))
    with ProcessPoolExecutor(workers, mp_context=context) as own:
        yield make(partial(get, pool=own), workers=workers, threads=workers, first=get)


@contextmanager
def on_client(client: Any) -> Iterator[Scheduler]:
    """A cluster, through a client of it."""
    workers = open_client(client)
    threads = sum(worker["nthreads"] for worker in workers.values())
    yield Scheduler(
        "distributed",
        client.get,
        workers=len(workers),
        threads=threads,
        sizes=(_MIB, 16 * _MIB),
        across=tuple(sorted(workers))[:2],
    )


def open_client(client: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the workers of a client, by address.

    Raises
    ------
    ClusterError
        If it is closed, or has no workers.
    ValueError
        If it is asynchronous.
    """
    if client.status != "running":
        raise ClusterError(f"measure_overhead: the client is {client.status}. Give one that is connected.")
    if client.asynchronous:
        raise ValueError(
            "measure_overhead: the client is asynchronous and cannot be waited for. Give distributed.Client(address)."
        )
    workers: Mapping[str, Mapping[str, Any]] = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise ClusterError("measure_overhead: the cluster has no workers. Start some, or wait: client.wait_for_workers(1).")
    return workers


def _workers() -> int:
    """How many threads or processes dask would use."""
    return operator.index(dask.config.get("num_workers", None) or CPU_COUNT)
