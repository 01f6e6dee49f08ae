"""Prewarming: `prewarm`, which has one worker compile a function and sends the machine code to all others.

Machine code is for one kind of processor. Workers say what theirs is; of each kind one compiles. Workers that join later get
what there is from the scheduler, and compile for themselves where nothing is for their processor.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import inspect
import pickle
import threading
from dataclasses import dataclass
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from dask.utils import format_bytes

from graphopt.numba_cache.plugin import NAME, ObjectsPlugin
from graphopt.numba_cache.process import here
from graphopt.numba_cache.shipping import Shipped

__all__ = ["Prewarmed", "prewarm"]

_LOCK = threading.Lock()  # one collects at a time


@dataclass(frozen=True, slots=True)
class Prewarmed:
    """What `prewarm` did.

    Attributes
    ----------
    workers : int
        How many workers got the machine code.
    processors : int
        How many kinds of processors they have; one worker of each compiled.
    functions : int
        How many functions were compiled for each kind, with those that they call.
    bytes : int
        How many bytes went to each worker.
    """

    workers: int
    processors: int
    functions: int
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.functions} functions for {self.processors} kinds of processors, "
            f"{format_bytes(self.bytes)} to each of {self.workers} workers"
        )


def prewarm(client: Any, function: Any, *example_args: Any) -> Any:
    """Compile a function on one worker and give the machine code to all others, and to those that join later.

    Parameters
    ----------
    client : distributed.Client
        One that `install` was called with. An asynchronous client returns an awaitable.
    function
        What `numba.njit`, `numba.vectorize` or `numba.guvectorize` made, or `ship` of it.
    *example_args
        Arguments of the types that tasks will call it with. A function that `njit` made is compiled and not called; ufuncs
        are called. They travel, so let arrays be small. A function with given signatures needs none.

    Returns
    -------
    Prewarmed
        What was compiled, and how much was sent.

    Raises
    ------
    RuntimeError
        If the cache is not installed, or nothing of the function can be sent; the message says why.

    Examples
    --------
    >>> prewarm(client, total, np.empty(1))  # doctest: +SKIP
    Prewarmed(workers=2, processors=1, functions=1, bytes=34567)
    """
    return client.sync(_prewarm, client, function, example_args)


async def _prewarm(client: Any, function: Any, args: tuple[Any, ...]) -> Prewarmed:
    if not here.on:
        raise RuntimeError("prewarm: call graphopt.numba_cache.install(client) first")
    payload = cloudpickle.dumps((function, args))
    kinds: dict[str, list[str]] = {}
    for worker, kind in (await client.run(_processor)).items():
        kinds.setdefault(kind, []).append(worker)
    if not kinds:
        raise RuntimeError("prewarm: the cluster has no workers")
    found = await client.run(_exported, payload, workers=[workers[0] for workers in kinds.values()])
    objects = {name: content for each in found.values() for name, content in each}
    if not objects:
        raise RuntimeError(
            f"prewarm: machine code of {function} cannot be sent; numba_cache.info(client) counts what is refused"
        )
    name = hashlib.blake2b("".join(sorted(objects)).encode(), digest_size=8).hexdigest()
    await client.register_plugin(ObjectsPlugin(f"{NAME}-objects-{name}", sorted(objects.items())))
    functions = max(len({name for name, _ in each}) for each in found.values())
    return Prewarmed(sum(map(len, kinds.values())), len(kinds), functions, sum(map(len, objects.values())))


async def _processor() -> str:
    """Return what machine code is for on this worker."""
    if not here.on:
        raise RuntimeError(f"prewarm: the cache is not installed on a worker: {here.failed or 'install it first'}")
    from graphopt.numba_cache.compiling import processor

    return await asyncio.to_thread(processor)


async def _exported(payload: bytes) -> list[tuple[str, bytes]]:
    return await asyncio.to_thread(_compiled, payload)


def _compiled(payload: bytes) -> list[tuple[str, bytes]]:
    """Compile a function for its arguments and return all machine code that came of it. Not on the event loop."""
    with _LOCK:
        collected: list[tuple[str, bytes]] = []
        here.collected = collected
        try:
            function, args = pickle.loads(payload)
            _compile(function, args)
        finally:
            here.collected = None
        return collected


def _compile(function: Any, args: tuple[Any, ...]) -> None:
    from graphopt.numba_cache.private import Dispatcher

    if isinstance(function, Shipped):
        function = pickle.loads(function.payload)
    if not isinstance(function, Dispatcher):
        if args:  # what it had compiled before is there, made when it was unpickled just now
            function(*copy.deepcopy(args))
        return
    fresh: Any = type(function)(function.py_func, function.locals, function.targetoptions)
    if not function._can_compile:
        for result in function.overloads.values():
            fresh.compile(result.signature)
        return
    given = folded(function, args)
    types = tuple(map(function.typeof_pyval, given))
    (fresh if types in function.overloads else function)._compile_for_args(*given)


def folded(function: Any, args: tuple[Any, ...]) -> list[Any]:
    """Return arguments as numba's dispatcher sees them: with its marks for what was left out, the rest as one tuple."""
    from graphopt.numba_cache.private import OmittedArg

    bound = inspect.signature(function.py_func).bind(*args).arguments
    out: list[Any] = []
    for name, parameter in inspect.signature(function.py_func).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            out.append(tuple(bound.get(name, ())))
        else:
            out.append(bound[name] if name in bound else OmittedArg(parameter.default))
    return out
