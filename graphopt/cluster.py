"""Cluster: which calls of compiled functions are replayed on a cluster, and what becomes of those that cannot be."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dask.base import compute, persist

from graphopt.context import optimized
from graphopt.pipeline import Policy
from graphopt.trace import Argument, is_future, result_of
from graphopt.tree import flatten, unflatten

__all__ = ["by_dask", "is_remote", "resolved", "say_once", "why_not"]

logger = logging.getLogger("graphopt")


def is_remote(argument: Argument) -> bool:
    """Say whether an argument is on a cluster, or reads what is."""
    if argument.kind == "lazy":
        return any(map(is_future, argument.value.__dask_graph__().values()))
    return argument.remote


def why_not(client: Any) -> str | None:
    """Say why a call cannot be replayed on a cluster; None if it can."""
    if client is None:
        return "its data is on a cluster whose client is not dask's scheduler here"
    if getattr(client, "asynchronous", True):
        return "the client is asynchronous"
    if _in_task():
        return "it is called by a task, which would wait for the thread that it holds"
    return None


def _in_task() -> bool:
    """Say whether this thread runs a task of a worker."""
    from distributed import worker

    state: Any = vars(worker)["thread_state"]
    return hasattr(state, "execution_state")


_said: set[str] = set()


def say_once(reason: str) -> None:
    """Log why dask runs a call, once for each reason."""
    if reason not in _said:
        _said.add(reason)
        logger.warning("graphopt: dask runs a compiled function: %s", reason)


def resolved(policy: Policy, client: Any) -> Policy:
    """Settle the parallelism once for each client: to ask the scheduler costs more than a replay."""
    if policy.parallelism is not None:
        return policy
    known = _threads.get(client)
    if known is None:
        known = _threads[client] = policy.resolve().parallelism or 1
    return replace(policy, parallelism=known)


_threads: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def by_dask(fn: Callable[..., Any], args: Any, kwargs: Any, policy: Policy) -> Any:
    """Let dask run a call, on the cluster that holds its data."""
    leaves, structure = flatten(fn(*args, **kwargs))
    found = [result_of(path, value) for path, value in leaves]
    with optimized(policy):
        small = [result.value for result in found if result.keys and (result.small or result.kind == "delayed")]
        large = [result.value for result in found if result.keys and not result.small and result.kind == "array"]
        computed, persisted = iter(compute(*small)), iter(persist(*large))
    out = []
    for result in found:
        if not result.keys:
            out.append(result.value)
        else:
            out.append(next(persisted) if result.kind == "array" and not result.small else next(computed))
    return unflatten(structure, out)
