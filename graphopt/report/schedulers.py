"""The ways of running dask that the commands know, each a context manager that sets dask up and cleans up.

Every one holds BLAS to one thread wherever tasks run, because NumPy's own threads would otherwise compete with dask's
and blur what is compared. A cluster that is not ours is left as it is.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import dask
from threadpoolctl import threadpool_limits

from graphopt.report.errors import CommandError

__all__ = ["SCHEDULERS", "client_of", "running"]

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
            scheduler_kwargs={"dashboard": False},  # it would change dask's configuration
            silence_logs=logging.ERROR,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(_limit_blas)
        yield f"distributed, {workers} processes of 1 thread"


@contextmanager
def _at(address: str) -> Iterator[str]:
    """Use a cluster that is already there."""
    import distributed

    try:
        client = distributed.Client(address, timeout="10s", set_as_default=False)
    except (OSError, TypeError, ValueError) as error:
        raise CommandError(f"no dask scheduler answers at {address}: {error}") from error
    with client, client.as_current(), dask.config.set(scheduler="dask.distributed"):
        workers = client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            raise CommandError(f"the cluster at {address} has no workers")
        try:
            client.run_on_scheduler(_import_graphopt)
            client.run(_import_graphopt)
        except ImportError as error:
            raise CommandError(
                f"the cluster at {address} cannot import graphopt: install it on scheduler and workers"
            ) from error
        threads = sum(worker["nthreads"] for worker in workers.values())
        yield f"the cluster at {address}, {len(workers)} workers with {threads} threads"


def _import_graphopt() -> None:
    importlib.import_module("graphopt")


SCHEDULERS: dict[str, Callable[[int | None], AbstractContextManager[str]]] = {
    "threads": _threads,
    "sync": _sync,
    "processes": _processes,
    "distributed": _distributed,
}


@contextmanager
def running(name: str, workers: int | None, address: str = "") -> Iterator[str]:
    """Make a scheduler dask's own for a while, that at an address if there is one; the value says what it is, in words."""
    if workers is not None and workers < 1:
        raise CommandError("--workers must be at least 1")
    with threadpool_limits(1), _at(address) if address else SCHEDULERS[name](workers) as description:
        yield description


@contextmanager
def client_of(workers: int | None, address: str = "") -> Iterator[Any]:
    """Give the client of a cluster, of its own or at an address, which is dask's scheduler meanwhile."""
    with running("distributed", workers, address):
        import distributed

        yield distributed.Client.current()
