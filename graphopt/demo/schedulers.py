"""The four ways of running dask that the demonstration knows, each a context manager that sets dask up and cleans up.

Every one holds BLAS to one thread wherever tasks run, because NumPy's own threads would otherwise compete with dask's
and blur what is compared.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import dask
from threadpoolctl import threadpool_limits

from graphopt.report.errors import CommandError

__all__ = ["SCHEDULERS", "running"]

PROCESSES = 2  # worker processes unless the user says how many


def _limit_blas() -> None:
    """Runs in each worker process when it starts."""
    threadpool_limits(1)


@contextmanager
def _sync(workers: int | None) -> Iterator[str]:
    with dask.config.set(scheduler="sync"):
        yield "sync, 1 thread"


@contextmanager
def _threads(workers: int | None) -> Iterator[str]:
    workers = workers or os.cpu_count() or 1
    with dask.config.set(scheduler="threads", num_workers=workers):
        yield f"threads, {workers} threads"


@contextmanager
def _processes(workers: int | None) -> Iterator[str]:
    """One pool for the whole run: dask would start new processes for every compute, which takes seconds each time."""
    workers = workers or PROCESSES
    # dask does the same for its own pools: equal strings must hash alike in all processes
    with _environment("PYTHONHASHSEED", "6640"):
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_limit_blas)
        for future in [pool.submit(_limit_blas) for _ in range(workers)]:
            future.result()
    with pool, dask.config.set(scheduler="processes", pool=pool, num_workers=workers):
        yield f"processes, {workers} processes"


@contextmanager
def _environment(name: str, default: str) -> Iterator[None]:
    """Set an environment variable for processes started meanwhile, if it is not set."""
    before = os.environ.get(name)
    os.environ.setdefault(name, default)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


@contextmanager
def _distributed(workers: int | None) -> Iterator[str]:
    import distributed  # not above: only this scheduler needs it, and it takes half a second to import

    workers = workers or PROCESSES
    with (
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",  # any free port; the default one may be taken, which would be a warning
            silence_logs=logging.ERROR,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(_limit_blas)
        yield f"distributed, {workers} processes of 1 thread"


SCHEDULERS: dict[str, Callable[[int | None], AbstractContextManager[str]]] = {
    "threads": _threads,
    "sync": _sync,
    "processes": _processes,
    "distributed": _distributed,
}


@contextmanager
def running(name: str, workers: int | None) -> Iterator[str]:
    """Make a scheduler dask's own for a while; the value says what it is, in words."""
    if workers is not None and workers < 1:
        raise CommandError("--workers must be at least 1")
    with threadpool_limits(1), SCHEDULERS[name](workers) as description:
        yield description
