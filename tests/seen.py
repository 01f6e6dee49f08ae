"""What a scheduler was given to run, and what it complained of: how the tests see that the optimiser was at work.

`run_here` counts the tasks that dask's own schedulers run; `run_there` those that a cluster computed, by asking its
scheduler; `complaints` collects the scheduler's warnings; `fetched` counts the results that workers sent each other.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import distributed
from dask.callbacks import Callback

STRICT = {"strict": True}  # what would be a warning and dask's own graph is an error in the tests


@contextlib.contextmanager
def run_here() -> Iterator[list[Any]]:
    """Yield a list that fills with the keys of the tasks that a local scheduler runs."""
    keys: list[Any] = []

    def note(key: Any, graph: Any, state: Any) -> None:
        keys.append(key)

    with Callback(pretask=note):
        yield keys


@contextlib.contextmanager
def run_there(client: distributed.Client) -> Iterator[list[Any]]:
    """Yield a list that holds, once the block is left, the keys of the tasks that the cluster computed meanwhile."""
    keys: list[Any] = []
    start = client.run_on_scheduler(time.time)
    yield keys
    keys.extend(client.run_on_scheduler(_computed_since, start))


def _computed_since(start: float, dask_scheduler: distributed.Scheduler) -> list[Any]:
    log = list(dask_scheduler.transition_log)
    return [key for key, old, new, *_, when in log if old == "processing" and new == "memory" and when >= start]


@contextlib.contextmanager
def complaints() -> Iterator[list[str]]:
    """Yield a list that fills with the scheduler's warnings that a key's task was changed. It must run in this process."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "run_spec" in record.getMessage():
                said.append(record.getMessage())

    logger, listener = logging.getLogger("distributed.scheduler"), Listener()
    logger.addHandler(listener)
    try:
        yield said
    finally:
        logger.removeHandler(listener)


@contextlib.contextmanager
def fetched(client: distributed.Client) -> Iterator[list[Any]]:
    """Yield a list that holds, once the block is left, the keys that workers fetched from each other meanwhile."""
    keys: list[Any] = []
    before = client.run(_incoming)
    yield keys
    for worker, transfers in client.run(_incoming).items():
        keys.extend(key for transfer in transfers[len(before[worker]) :] for key in transfer)


def _incoming(dask_worker: distributed.Worker) -> list[list[Any]]:
    return [list(transfer["keys"]) for transfer in dask_worker.transfer_incoming_log]


def known_tasks(client: distributed.Client) -> set[Any]:
    """Return the keys of the tasks that the scheduler knows."""
    return set(client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks)))
