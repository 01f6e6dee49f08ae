"""Executor: what would run a call now, how many workers it has, and a run of a call on it.

A compiled function is replayed, here or on a cluster; anything else goes to the scheduler that dask would use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
from dask.base import annotate, compute, get_scheduler, is_dask_collection, persist

from graphopt.makespan import Model
from graphopt.pipeline import Policy, active_client
from graphopt.tree import flatten

__all__ = ["Executor", "cache_sizes", "executor_of", "prior", "put", "run"]

#: Seconds of a call, and of a chunk of a step of some six operations, where nothing is measured: see docs/performance.md.
_PRIORS = {
    "compiled": (1e-4, 3e-6),
    "compiled on a cluster": (1e-3, 5e-6),
    "sync": (5e-3, 1e-4),
    "threads": (5e-3, 9e-4),
    "processes": (5e-2, 5e-3),
    "cluster": (3e-2, 1.2e-2),
}

#: Bytes a second that a worker gets through, where nothing is measured, and how much less beyond its second-level cache.
_PACE, _SLOWER = 5e9, 1.3


@dataclass(frozen=True, slots=True)
class Executor:
    """What runs a call.

    Attributes
    ----------
    kind : str
        ``compiled``, ``compiled on a cluster``, or dask's ``threads``, ``sync``, ``processes``, ``cluster``.
    workers : int
        How many chunks are worked on at once.
    together : int
        How many of those in one process.
    memory : float
        Bytes that such a process has left.
    client : object
        The cluster's client, if it is one.
    """

    kind: str
    workers: int
    together: int
    memory: float
    client: Any = None

    @property
    def compiled(self) -> bool:
        """Whether calls are replayed."""
        return self.kind.startswith("compiled")

    def __str__(self) -> str:
        each = "worker" if self.client else "process" if self.kind == "processes" else "thread"
        plural = "es" if each == "process" else "s"
        return f"{'compiled' if self.compiled else 'dask'}, {self.workers} {each}{plural * (self.workers != 1)}"


def executor_of(step: Callable[..., Any]) -> Executor:
    """Return what would run a call of the step now."""
    compiled = hasattr(step, "twin")
    policy = getattr(step, "policy", None) or Policy()
    workers = policy.resolve().parallelism or 1
    client = active_client()
    if client is not None:
        infos = list(client.scheduler_info(n_workers=-1)["workers"].values())
        together = max([int(info["nthreads"]) for info in infos], default=1)
        memory = min([float(info.get("memory_limit") or 0) or _available() for info in infos], default=_available())
        total = sum(int(info["nthreads"]) for info in infos) or workers
        return Executor("compiled on a cluster" if compiled else "cluster", total, together, memory, client)
    if compiled:
        return Executor("compiled", workers, workers, _available())
    get = get_scheduler() or dask.threaded.get
    module = getattr(get, "__module__", "")
    if get is dask.local.get_sync:
        return Executor("sync", 1, 1, _available())
    if module == "dask.multiprocessing":
        return Executor("processes", workers, 1, _available() / workers)
    return Executor("threads", workers, workers, _available())


def _available() -> float:
    """Return how many bytes this machine has left, or this process may take."""
    import psutil  # type: ignore[import-untyped, unused-ignore]  # which distributed needs

    return float(psutil.virtual_memory().available)


def cache_sizes() -> tuple[int, int]:
    """Return the bytes of the second-level and of the last cache of this machine, or a usual guess."""
    found: dict[int, int] = {}
    folder = "/sys/devices/system/cpu/cpu0/cache"
    try:
        for index in os.listdir(folder):
            with open(f"{folder}/{index}/level") as level, open(f"{folder}/{index}/size") as size:
                found[int(level.read())] = int(size.read().strip().rstrip("K")) * 1024
    except (OSError, ValueError):
        pass
    second = found.get(2, 1 << 20)
    return second, max([second, *found.values()] if found else [second, 16 << 20])


def prior(executor: Executor, row_bytes: float) -> Model:
    """Return a model of a call where nothing can be measured: usual overheads, and the pace of memory."""
    call, lane = _PRIORS[executor.kind]
    row = max(row_bytes, 1e-9) / _PACE
    knee = cache_sizes()[0] / max(row_bytes, 1e-9)
    return Model(executor.workers, call, lane, row, knee, row * (_SLOWER - 1))


def run(executor: Executor, step: Callable[..., Any], args: Sequence[Any]) -> Any:
    """Run a call as its user would, and wait for it: small results are computed, chunked ones stay where they are made."""
    result = step(*args)
    if executor.compiled:
        return result
    found = [value for _, value in flatten(result)[0] if is_dask_collection(value)]
    if not any(isinstance(value, da.Array) and value.npartitions > 1 for value in found):
        return compute(*found)
    kept = persist(*found)
    _wait(executor, kept)
    return kept


def put(executor: Executor, arrays: Sequence[da.Array]) -> list[da.Array]:
    """Persist arrays where the executor works; on a cluster each worker gets a run of neighbouring chunks of each."""
    if not arrays:
        return []
    if executor.client is None:
        return list(persist(*arrays))
    infos = executor.client.scheduler_info(n_workers=-1)["workers"]
    seats = [address for address in sorted(infos) for _ in range(int(infos[address]["nthreads"]))]
    places: dict[Any, Any] = {}
    for array in arrays:
        keys = list(dask.core.flatten(array.__dask_keys__()))
        places.update((key, [seats[number * len(seats) // len(keys)]]) for number, key in enumerate(keys))
    everywhere = sorted(infos)
    with annotate(workers=lambda key: places.get(key, everywhere), allow_other_workers=True):
        kept = executor.client.persist(list(arrays), optimize_graph=False)
    _wait(executor, kept)
    return list(kept)


def _wait(executor: Executor, arrays: Any) -> None:
    if executor.client is not None:
        from distributed import wait

        wait(arrays)
