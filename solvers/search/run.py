"""Run: a graph, by whatever scheduler dask has, with a bar; and hold BLAS to the threads that are left to each task."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dask
import threadpoolctl
from dask.base import get_scheduler
from dask.callbacks import Callback
from dask.system import CPU_COUNT

import graphopt as go
from solvers.search.graph import policy
from solvers.search.values import busy

__all__ = ["Place", "held", "run"]


class Place:
    """Where a search runs, how many tasks it runs at once, and whether it holds BLAS to a part of the processors here.

    Parameters
    ----------
    jobs : int, optional
        What ``n_jobs`` says: threads or processes for local schedulers; a cluster has those that it has.
    """

    def __init__(self, jobs: int | None) -> None:
        if busy():
            from dask.local import get_sync

            self.get: Any = get_sync
        else:
            self.get = get_scheduler() or _threaded()
        self.client = getattr(self.get, "__self__", None) if hasattr(getattr(self.get, "__self__", None), "scatter") else None
        self.kind = getattr(self.get, "__module__", "") if self.client is None else "distributed"
        self.options: dict[str, Any] = {}
        self.threads = self._threads(jobs)
        self.holds = self.kind == "dask.threaded" and self.threads > 1

    def _threads(self, jobs: int | None) -> int:
        if self.client is not None:
            return max(1, int(sum(self.client.nthreads().values())))
        if self.kind not in ("dask.threaded", "dask.multiprocessing"):
            return 1
        if self.kind == "dask.multiprocessing":
            self.options["chunksize"] = 1  # fits are long; by sixes they would not even out
        if jobs is not None:
            from joblib import effective_n_jobs

            threads = int(effective_n_jobs(jobs))
            self.options["num_workers"] = threads
            return threads
        return int(dask.config.get("num_workers", None) or int(CPU_COUNT))

    def put(self, value: Any) -> Any:
        """Bring to the workers what all tasks read, once."""
        return value if self.client is None else self.client.scatter(value, broadcast=True, hash=False)


def _threaded() -> Any:
    from dask.threaded import get

    return get


def run(place: Place, graph: Mapping[Any, Any], keys: Sequence[Any], weights: Mapping[Any, int], progress: bool) -> list[Any]:
    """Optimise a graph and run it; return the values of the keys.

    Parameters
    ----------
    place
        Where.
    graph, keys
        What, and what is asked for.
    weights
        How many fits the keys stand for that a bar is to count.
    progress
        Whether to show it.
    """
    made = go.optimize(graph, list(keys), policy(place.threads, len(weights)))
    with _bar(progress, weights) as told:
        if place.client is not None:
            futures = place.client.get(made, list(keys), sync=False)
            return _collected(place.client, futures, keys, told)
        with told:
            return list(place.get(made, list(keys), **place.options))


def _collected(client: Any, futures: Sequence[Any], keys: Sequence[Any], told: Any) -> list[Any]:
    """Wait for futures, telling of each."""
    from distributed import as_completed

    if told.active_bar:
        for future in as_completed([future for future in futures if future.status != "error"], raise_errors=False):
            told.done(future.key)
    try:
        return list(client.gather(list(futures)))
    except BaseException:
        client.cancel(list(futures))
        raise


class _Told(Callback):
    """Moves a bar as tasks end."""

    def __init__(self, bar: Any, task: Any, weights: Mapping[Any, int]) -> None:
        super().__init__(posttask=lambda key, *_: self.done(key))  # type: ignore[no-untyped-call]
        self.active_bar, self.task, self.weights = bar, task, weights

    def done(self, key: Any) -> None:
        """Count what a task stands for."""
        if self.active_bar is not None and key in self.weights:
            self.active_bar.advance(self.task, self.weights[key])


@contextlib.contextmanager
def _bar(progress: bool, weights: Mapping[Any, int]) -> Iterator[_Told]:
    if not progress:
        yield _Told(None, None, {})
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Told(bar, bar.add_task("fits", total=sum(weights.values())), weights)


@contextlib.contextmanager
def held(place: Place) -> Iterator[None]:
    """Leave each task its part of the processors: two threads that both start two threads of BLAS get in each other's way."""
    if place.kind == "dask.multiprocessing":
        place.options.setdefault("initializer", _hold_here)
    if not place.holds:
        yield
        return
    found = threadpoolctl.ThreadpoolController().select(user_api="blas")
    before = max((library["num_threads"] for library in found.info()), default=1)
    with found.limit(limits=min(before, max(1, (os.cpu_count() or 1) // place.threads))):
        yield


def _hold_here() -> None:
    threadpoolctl.threadpool_limits(1, user_api="blas")
