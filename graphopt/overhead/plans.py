"""Plans: compiled functions of empty kernels, replayed on the threads of this process or on the workers of a cluster."""

from __future__ import annotations

import inspect
import operator
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.array import chunk

from graphopt.compiled import Compiled, compile
from graphopt.overhead.probe import Probe, empty_tasks
from graphopt.overhead.schedulers import expression, open_client
from graphopt.pipeline import Policy, active_client
from graphopt.plan import Plan, make_plan
from graphopt.trace import arguments_of, trace
from graphopt.types import ClusterError

__all__ = ["on_plans"]

_SIZES = (1 << 17, 1 << 20)  # bytes; larger results stay where they are


class Plans:
    """What replays compiled functions; on the cluster of a client if there is one."""

    def __init__(self, client: Any, policy: Policy, *, exact: bool) -> None:
        self.client, self.policy, self.exact = client, policy, exact
        self.target = "compiled plans"
        self.addresses: tuple[str, ...] = ()
        self.workers, self.threads = 1, policy.resolve().parallelism or 1
        self.least, self.most = 256, 1024
        if client is not None:
            workers = open_client(client)
            self.addresses = tuple(sorted(workers))
            self.target += " on a cluster"
            self.workers, self.threads = len(workers), sum(worker["nthreads"] for worker in workers.values())
            self.least, self.most = 64, 256  # chunks on workers, of which each is a key for the scheduler
        self.fewest = max(2, self.threads)  # lanes: a call of a plan starts all threads, and asks all workers
        self.least = max(self.least, 8 * self.fewest)
        self.warm = 8  # first calls compile, and try threads
        self.steps: list[Compiled] = []

    def probes(self, tasks: int) -> list[Probe]:
        """Return what to time, in plans of about so many kernel calls."""
        self.close()
        shapes = empty_tasks(tasks, self.fewest)
        arrays: dict[int, list[da.Array]] = {}
        for _, number, degree in shapes:
            have = arrays.setdefault(number, [])
            have += [self._array(number) for _ in range(max(1, degree) - len(have))]
        found = [self._empty(name, arrays[number][: max(1, degree)]) for name, number, degree in shapes]
        return [*found, *[self._bytes(size) for size in _SIZES]]

    def _empty(self, name: str, arrays: list[da.Array]) -> Probe:
        step = self._compiled(_summed)
        plan = step.plan(*arrays)
        edges = sum(len(lane.reads) for level in plan.levels for group in level.groups for lane in group.lanes)
        right = partial(operator.eq, float(arrays[0].size))
        return Probe(name, self._calling(step, arrays), right, tasks=plan.lanes, edges=edges)

    def _bytes(self, size: int) -> Probe:
        step, array = self._compiled(_handed_on), self._array(1, size // 8)
        plan = step.plan(array)
        counts = {"iterations": 0, "tasks": plan.lanes, "edges": 1, "moved": size, "calls": 1}
        return Probe(f"{size} bytes", self._calling(step, [array]), _has_bytes(size), **counts)

    def _compiled(self, fn: Callable[..., Any]) -> Compiled:
        step: Compiled = compile(fn, exact=self.exact, policy=self.policy)
        self.steps.append(step)
        return step

    def _calling(self, step: Compiled, arrays: list[da.Array]) -> Callable[[], Callable[[], Any]]:
        def prepare() -> Callable[[], Any]:
            if step.stats.by_dask:
                raise ClusterError("measure_overhead: the workers cannot be asked to replay a plan; dask runs the calls.")
            return partial(step, *arrays)

        return prepare

    def _array(self, chunks: int, length: int = 1) -> da.Array:
        """Return an array of ones in so many chunks, each of that length, in memory; the same places for each array."""
        name = f"ones-{uuid.uuid4().hex}"
        graph: dict[Any, Any] = {(name, i): np.ones(length) for i in range(chunks)}
        if self.client is not None:  # with the names that blocks have for dask, each worker's in one message
            share = -(-chunks // len(self.addresses))
            for place, address in enumerate(self.addresses):
                part = {key: block for key, block in graph.items() if key[1] // share == place}
                graph.update(self.client.scatter(part, workers=[address]) if part else {})
        return da.Array(graph, name, ((length,) * chunks,), dtype=float)

    def phases(self, tasks: int) -> tuple[float, float]:
        """Trace and plan a function; return seconds a task for each."""
        x = da.Array({("ones", i): _ONE for i in range(tasks)}, "ones", ((1,) * tasks,), dtype=float)
        parameters = inspect.signature(expression)
        arguments, structure = arguments_of(parameters, (x,), {})
        took = 0.0

        def traced(token: str) -> Any:
            nonlocal took
            start = time.perf_counter()
            found = trace(expression, arguments, structure, parameters, token)
            took = time.perf_counter() - start
            return found

        start = time.perf_counter()
        plan = make_plan(traced, self.policy.resolve(), exact=self.exact)
        whole = time.perf_counter() - start
        return took / plan.tasks, (whole - took) / plan.tasks

    def close(self) -> None:
        """Let workers let go."""
        for step in self.steps:
            step.close()
        self.steps.clear()


_ONE = np.ones(1)


def _empty_kernel(first: Any, *others: Any) -> Any:
    """Do nothing, as a task that no compiled loop is written for."""
    return first


def _part(block: Any, axis: Any, keepdims: Any) -> Any:
    return block


def _summed(*arrays: Any) -> Any:
    """Run an empty kernel on each chunk, and add up what comes out: the shape of most steps, without their work."""
    handed = da.map_blocks(_empty_kernel, *arrays, dtype=float, meta=np.empty(0))
    return da.reduction(handed, chunk=_part, aggregate=chunk.sum, dtype=float)


def _handed_on(array: Any) -> Any:
    return da.map_blocks(_empty_kernel, array, dtype=float, meta=np.empty(0))


def _has_bytes(size: int) -> Callable[[Any], bool]:
    return lambda result: isinstance(result, np.ndarray) and result.nbytes == size


@contextmanager
def on_plans(target: Any) -> Iterator[Plans]:
    """What would run a plan now: the active client's workers, or the threads here."""
    client = active_client()
    policy, exact = (target._policy, target._exact) if isinstance(target, Compiled) else (Policy(), False)
    if client is None and isinstance(target, Plan) and any(argument.remote for argument in target.given):
        raise ClusterError(
            "measure_overhead: the data of the plan is on a cluster whose client is not active: with client.as_current():"
        )
    plans = Plans(client, policy, exact=exact)
    with nullcontext() if client is None else client.as_current():
        try:
            yield plans
        finally:
            plans.close()
