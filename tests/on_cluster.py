"""What the tests of `compile` on a cluster share: data on workers, and what a compiled function counts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
from oracle import close

import graphopt as go

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
from iterative import SMALL

A = np.random.default_rng(0).normal(size=(24, 3))
PATIENCE = 20


def exact(fn: Callable[..., Any], **options: Any) -> Any:
    """Compile without loops, which take a moment to compile."""
    return go.compile(fn, exact=True, **options)


def there(client: distributed.Client, array: Any) -> Any:
    """Put the blocks of an array on the workers by turns."""
    workers = sorted(client.scheduler_info()["workers"])
    turn = {key: i for i, key in enumerate(dask.core.flatten(array.__dask_keys__()))}
    with dask.annotate(workers=lambda key: [workers[turn.get(key, 0) % len(workers)]], allow_other_workers=False):
        array = client.persist(array, optimize_graph=False)
    distributed.wait(array, timeout=PATIENCE)
    return array


def on_workers(client: distributed.Client, value: Any) -> Any:
    """Put a chunked array on the workers; leave the rest."""
    if not isinstance(value, da.Array):
        return value
    with dask.config.set(scheduler="sync"):
        whole = value.compute() if value._meta is None or isinstance(value._meta, np.ndarray) else None
    if whole is not None:
        return there(client, da.from_array(whole, chunks=value.chunks))
    return there(client, value)


def runs_as_here(client: distributed.Client, name: str, *, exact: bool) -> Any:
    """Assert that three iterations of a problem come out on a cluster as they do here; return the compiled step."""
    problem = SMALL[name](6)
    here = go.compile(problem.step, exact=exact)
    with dask.config.set(scheduler="threads"):
        expected = problem.run(3, lambda step, *args: here(*args))
        expected = tuple(value.compute(scheduler="sync") if isinstance(value, da.Array) else value for value in expected)
    step = go.compile(problem.step, exact=exact)
    data = tuple(on_workers(client, value) for value in problem.data)
    state = tuple(on_workers(client, value) for value in problem.state)
    for _ in range(3):
        state = problem.update(state, step(*data, *state))
    for one, other in zip(state, expected, strict=True):
        one = one.compute() if isinstance(one, da.Array) else one
        assert np.shape(one) == np.shape(other)
        assert close(one, other)
    return step


def remote(step: Any) -> Any:
    """Return the plan on the cluster of a compiled function that has one."""
    (ready,) = step._ready.values()
    (found,) = ready.remotes.values()
    return found


def counts(step: Any) -> tuple[int, int, int]:
    return step.stats.on_cluster, step.stats.by_dask, step.stats.retries


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)
