"""What METG is measured of: ways to run a grid of tasks, on dask's schedulers and by compiled plans.

All run the same tasks. Values that no task reads are collected in the end, so that nothing is left out, and compared with
what plain Python makes of them.
"""

from __future__ import annotations

import importlib
import multiprocessing
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import Any

import dask
import dask.array as da
import dask.local
import dask.multiprocessing
import dask.threaded
import numpy as np
from dask import annotate  # type: ignore[attr-defined]
from dask.highlevelgraph import HighLevelGraph

from graphopt.compiled import compile as compile_
from graphopt.granularity.patterns import Pattern
from graphopt.iterate import iterate
from graphopt.pipeline import Policy
from graphopt.spec import Task, TaskRef

__all__ = ["TARGETS", "Target", "opened", "reference"]

#: The targets that go by a name; the others are clients.
TARGETS = ("sync", "threads", "processes", "compiled")

#: After how many runs a plan knows where threads pay.
_LEARNS = 13

#: How often a grid is run by one loop on a cluster. The first run is a call, the others are what is measured of `iterate`.
_LOOP = 4


#: Runs what was built, and returns the values that no task reads.
Run = Callable[[], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Target:
    """A way to run a grid.

    Attributes
    ----------
    words : str
        What it is.
    cores : int
        The threads or processes that run tasks.
    build : callable
        Gets ready to run grids of tasks of so many turns of the kernel. What it returns runs them, once, and returns the values
        that no task reads.
    grids : int
        How many grids that is, each starting from the values of the one before.
    pace : callable
        Runs so many turns of the kernel on all cores at once, and returns the seconds that a turn takes.
    prepare : callable
        Called before the first run of tasks of so many turns that is measured.
    """

    words: str
    cores: int
    build: Callable[[int], Run]
    pace: Callable[[int], float]
    grids: int = 1
    prepare: Callable[[int], object] = lambda turns: None

    def run(self, turns: int) -> Sequence[int]:
        """Build and run."""
        return self.build(turns)()


def reference(pattern: Pattern, grids: int = 1) -> list[int]:
    """Return the values that no task reads, computed in plain Python, after so many grids one after the other."""
    from graphopt.granularity.kernel import value

    values = [0] * len(pattern.unread)
    for _ in range(grids):
        rows = [[value(point, [values[-1 - point]]) for point in range(pattern.points(0))]]
        for step in range(1, pattern.steps):
            rows.append(
                [
                    value(step * pattern.width + point, [rows[-1][other] for other in pattern.reads(step, point)])
                    for point in range(pattern.points(step))
                ]
            )
        values = [rows[step][point] for step, point in pattern.unread]
    return values


def tasks(pattern: Pattern, name: str, turns: Any, start: Any, blocks: Sequence[Any]) -> dict[Any, Any]:
    """Return the tasks of a grid, and one that collects their values.

    Parameters
    ----------
    pattern
        What reads what.
    name
        The first part of the keys; the task that collects is ``(name, 0)``.
    turns
        How long each task is busy.
    start
        The vector that everything starts from.
    blocks
        For each point what its tasks read beside others' values.
    """
    from graphopt.granularity.kernel import collect, enter, work

    graph: dict[Any, Any] = {}
    inner = f"{name}-task"
    for step in range(pattern.steps):
        for point in range(pattern.points(step)):
            key, number = (inner, step, point), step * pattern.width + point
            if step:
                inputs = [TaskRef((inner, step - 1, other)) for other in pattern.reads(step, point)]
                graph[key] = Task(key, work, turns, number, blocks[point], *inputs)
            else:
                graph[key] = Task(key, enter, turns, number, blocks[point], start, -1 - point)
    graph[name, 0] = Task((name, 0), collect, *[TaskRef((inner, step, point)) for step, point in pattern.unread])
    return graph


@contextmanager
def opened(target: Any, pattern: Pattern, client: Any = None) -> Iterator[Target]:
    """Make a target ready to run a pattern, and put everything away in the end.

    Parameters
    ----------
    target
        The name of a target, or a distributed client.
    pattern
        What to run.
    client
        The client of the cluster to run compiled plans on, instead of threads of this process.

    Raises
    ------
    ValueError
        If there is no such target, or it does not go with a client.
    """
    if isinstance(target, str) and target not in TARGETS:
        raise ValueError(f"There is no target {target!r}: give one of {', '.join(TARGETS)}, or a distributed client.")
    if client is not None and target != "compiled":
        raise ValueError('client= goes with target="compiled"; for dask\'s own scheduler give the client as target.')
    importlib.import_module("graphopt.granularity.kernel")  # is compiled here, and not in the first run
    if target == "compiled":
        with _compiled_there(pattern, client) if client is not None else _compiled_here(pattern) as ready:
            yield ready
    elif target in ("sync", "threads", "processes"):
        with _here(target, pattern) as ready:
            yield ready
    elif hasattr(target, "scheduler_info"):
        yield Target(_words("dask", target), _threads(target), _by_dask(pattern, target.get), _pace_there(target))
    else:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, or a distributed client, not {target!r}.")


@contextmanager
def _here(name: str, pattern: Pattern) -> Iterator[Target]:
    """Run by a scheduler of dask's on this machine, with a pool of our own: dask would start new processes for each run."""
    cores = 1 if name == "sync" else _cores()
    with _processes(cores) if name == "processes" else ThreadPoolExecutor(cores) as pool:
        if name == "sync":
            yield Target("dask, sync", 1, _by_dask(pattern, dask.local.get_sync), _pace_here(pool, 1))
        else:
            get: Any = {"threads": dask.threaded.get, "processes": dask.multiprocessing.get}[name]
            options = {"pool": pool, "num_workers": cores}
            yield Target(f"dask, {cores} {name}", cores, _by_dask(pattern, get, options), _pace_here(pool, cores), grids=1)


def _processes(cores: int) -> ProcessPoolExecutor:
    """Return a pool of processes that have started."""
    pool = ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn"))
    for future in [pool.submit(_started) for _ in range(cores)]:
        future.result()
    return pool


def _started() -> None:
    importlib.import_module("graphopt.granularity.kernel")


def _by_dask(pattern: Pattern, get: Any, options: dict[str, Any] | None = None) -> Callable[[int], Run]:
    """Return what builds grids for a scheduler of dask's. A cluster may know the values of keys it has seen, so all are new."""

    def build(turns: int) -> Run:
        name = f"metg-{uuid.uuid4().hex}"
        start = np.zeros(len(pattern.unread), np.int64)
        graph = tasks(pattern, name, turns, start, [None] * pattern.width)

        def run() -> Sequence[int]:
            (found,) = get(graph, [(name, 0)], **(options or {}))
            return found.tolist()  # type: ignore[no-any-return]

        return run

    return build


def _step(pattern: Pattern) -> Callable[[Any, Any, Any], Any]:
    """Return the grid as a function of dask arrays: of the vector it starts from, of a block for each point, of the turns."""

    def grid(start: Any, blocks: Any, turns: Any) -> Any:
        name = f"metg-{pattern.name}"
        places = [TaskRef((blocks.name, point)) for point in range(pattern.width)]
        layer = tasks(pattern, name, turns, TaskRef((start.name, 0)), places)
        below = {*start.__dask_layers__(), *blocks.__dask_layers__()}
        graph = HighLevelGraph(
            {**start.dask.layers, **blocks.dask.layers, name: layer},
            {**start.dask.dependencies, **blocks.dask.dependencies, name: below},
        )
        return da.Array(graph, name, ((len(pattern.unread),),), dtype=np.int64, meta=np.empty(0, np.int64))

    return grid


@contextmanager
def _compiled_here(pattern: Pattern) -> Iterator[Target]:
    """Run by compiled plans on threads of this process, even while a client is active.

    There is a plan for each duration. A plan finds out for each level whether several threads pay there, and looks again only
    after hundreds of runs: what it learned from long tasks is not true of short ones.
    """
    step, start = compile_(_step(pattern), static=("turns",)), np.zeros(len(pattern.unread), np.int64)
    cores = Policy().resolve().parallelism or 1
    with dask.config.set(scheduler="threads"), ThreadPoolExecutor(cores) as pool:
        blocks = da.arange(pattern.width, chunks=1).persist()

        def run(turns: int) -> Sequence[int]:
            return step(start, blocks, turns).tolist()  # type: ignore[no-any-return]

        def prepare(turns: int) -> None:
            for _ in range(_LEARNS):
                run(turns)

        try:
            yield Target(
                f"compiled, {cores} threads", cores, lambda turns: partial(run, turns), _pace_here(pool, cores), prepare=prepare
            )
        finally:
            step.close()


@contextmanager
def _compiled_there(pattern: Pattern, client: Any) -> Iterator[Target]:
    """Run by a loop on the workers of a cluster, each iteration a whole grid. The points are dealt out in order."""
    import distributed

    step, start = compile_(_step(pattern)), np.zeros(len(pattern.unread), np.int64)
    workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
    with client.as_current(), dask.config.set(scheduler="dask.distributed"):

        def place(key: Any) -> list[str]:
            return [workers[key[1] * len(workers) // pattern.width]]

        with annotate(workers=place, allow_other_workers=False):
            blocks = client.persist(da.arange(pattern.width, chunks=1), optimize_graph=False)
        distributed.wait(blocks)

        def run(turns: int) -> Sequence[int]:
            return iterate(step, start, blocks, turns, max_iter=_LOOP).tolist()  # type: ignore[no-any-return]

        try:
            yield Target(
                _words("compiled", client), _threads(client), lambda turns: partial(run, turns), _pace_there(client), _LOOP
            )
        finally:
            step.close()


# -- the machine --------------------------------------------------------------------------------------------------------


def _cores() -> int:
    """Return how many cores this process may use."""
    return int(dask.system.CPU_COUNT)


def _threads(client: Any) -> int:
    return sum(worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())


def _words(what: str, client: Any) -> str:
    workers = len(client.scheduler_info(n_workers=-1)["workers"])
    return f"{what}, {workers} worker{'s' * (workers != 1)}"


def _pace_here(pool: Executor, cores: int) -> Callable[[int], float]:
    from graphopt.granularity.kernel import pace

    def everywhere(turns: int) -> float:
        return mean([future.result() for future in [pool.submit(pace, turns) for _ in range(cores)]])

    return everywhere


def _pace_there(client: Any) -> Callable[[int], float]:
    def everywhere(turns: int) -> float:
        return float(mean([seconds for found in client.run(_pace_of_worker, turns).values() for seconds in found]))

    return everywhere


def _pace_of_worker(turns: int, dask_worker: Any) -> list[float]:
    """Return the pace of all threads of a worker at once; runs on its event loop."""
    from graphopt.granularity.kernel import pace

    found: list[float] = []
    threads = [threading.Thread(target=lambda: found.append(pace(turns))) for _ in range(dask_worker.state.nthreads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
