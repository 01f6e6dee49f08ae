"""Places: where the blocks of arguments are: on which workers, and under what keys."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from dask import config
from dask.utils import parse_timedelta
from numpy import ndindex

from graphopt.trace import Argument, Futures
from graphopt.types import ClusterError

__all__ = ["Lost", "Places", "deadline", "indices"]


logger = logging.getLogger("distributed.graphopt")

#: How often it is said, in seconds, that something is waited for.
_SAY = 10.0


class Lost(Exception):
    """A run that cannot go on as it was bound: a worker, a peer or a block is gone."""


def deadline() -> float:
    """Return how many seconds a worker may be silent."""
    return float(parse_timedelta(config.get("graphopt.deadline", "5 minutes")))


def indices(array: Any) -> list[tuple[int, ...]]:
    """Return the places of the blocks of an array, in the order of its blocks."""
    return list(ndindex(*array.numblocks))


class Places:
    """What is known of where the blocks of arrays are; one for each client, used on its event loop but for `known`."""

    def __init__(self, client: Any) -> None:
        self.client = weakref.ref(client)
        #: By the name of an array its graph, the workers, and the keys of its blocks unless they are dask's own.
        self.known: dict[str, tuple[Any, tuple[str, ...], Any]] = {}
        #: Arrays whose blocks were in this process: their graphs, and the names and futures of the blocks on the workers.
        self.copies: dict[str, tuple[Any, str, list[Any]]] = {}

    def located(self, array: Any) -> tuple[tuple[str, ...], Any] | None:
        """Return what `locate` does if it is known; None if it is not."""
        known = self.known.get(array.name)
        return known[1:] if known is not None and known[0]() is array.dask else None

    async def locate(self, argument: Argument, direct: bool = True) -> tuple[tuple[str, ...], Any]:
        """Return the workers that have the blocks of an argument, in order, and their keys unless those are dask's own.

        Instead of the keys it may be a name that takes the place of the array's in them.
        """
        array = argument.value
        if (known := self.located(array)) is not None:
            return known
        if not argument.remote:
            name, futures = await self.sent(array, argument.blocks, direct)
            homes = await self.find(argument.name, futures)
            self.note(array, homes, name)
            return homes, name
        await self.register(argument)
        homes = await self.find(argument.name, argument.blocks)
        keys = [future.key for future in argument.blocks]
        explicit = None if keys == [(array.name, *index) for index in indices(array)] else keys
        self.note(array, homes, explicit)
        return homes, explicit

    async def register(self, argument: Argument) -> None:
        """See to it that dask knows the blocks of an argument."""
        if isinstance(argument.blocks, Futures):
            try:
                await argument.blocks.graph.register()
            except ClusterError as error:
                raise ClusterError(f"The input {argument.name!r} is lost. {error}") from error

    async def futures(self, argument: Argument) -> Sequence[Any]:
        """Return the futures of the blocks of an argument that was located."""
        await self.register(argument)
        return argument.blocks if argument.remote else self.copies[argument.value.name][2]

    async def find(self, name: str, futures: Sequence[Any]) -> tuple[str, ...]:
        """Wait for futures and say where they are.

        Raises
        ------
        ClusterError
            If one is lost for good.
        """
        client: Any = self.client()
        until, patient = time.monotonic() + deadline(), time.monotonic() + _SAY
        keys = [future.key for future in futures]
        while True:
            for future in futures:
                if future.status == "cancelled" and client.status != "running":
                    raise _no_scheduler(f"The input {name!r} is lost: ")
                if future.status == "cancelled":
                    raise ClusterError(
                        f"The input {name!r} is lost: its block {future.key!r} was cancelled, or was on a worker that is gone "
                        "and dask does not know how to compute it again. Persist it anew."
                    )
                if future.status == "error":
                    raise await future.exception()
            if any([future.status == "pending" for future in futures]):  # dask is at it
                await asyncio.sleep(0.02)
                until = time.monotonic() + deadline()
                if time.monotonic() > patient:
                    there = await self.ask("ncores_running", name)
                    logger.warning("graphopt: waits for dask to compute the input %r, on %d workers", name, len(there))
                    patient = time.monotonic() + _SAY
                continue
            has = await self.ask("who_has", name, keys=keys)
            there = await self.ask("ncores_running", name)
            homes = [_chosen(has[key], there) for key in keys]
            if all(homes):
                return tuple(homes)
            gone = [key for key, home in zip(keys, homes, strict=True) if not home]
            states = await self.ask("get_task_status", name, keys=gone)
            for key in gone:
                if states[key] in (None, "forgotten"):
                    raise ClusterError(
                        f"The input {name!r} is lost: no worker has its block {key!r}, and dask does not know how to compute "
                        "it again. Persist it anew."
                    )
            if time.monotonic() > until:
                raise ClusterError(
                    f"The input {name!r} is lost: no worker has its block {gone[0]!r}, and dask did not compute it again "
                    "within the deadline (graphopt.deadline in dask's configuration). Persist it anew."
                )
            if any([states[key] == "processing" for key in gone]):
                until = time.monotonic() + deadline()
            await asyncio.sleep(0.05)

    async def ask(self, what: str, name: str = "", **about: Any) -> Any:
        """Ask the scheduler, for the sake of an input of this name.

        Raises
        ------
        ClusterError
            If there is no scheduler any more.
        """
        client: Any = self.client()
        why = f"The input {name!r} is lost: " if name else ""
        asked = asyncio.ensure_future(getattr(client.scheduler, what)(**about))
        try:
            while not asked.done():
                if client.status != "running":  # it would try to connect for half a minute
                    raise _no_scheduler(why)
                await asyncio.wait({asked}, timeout=0.5)
            return asked.result()
        except OSError as error:
            raise _no_scheduler(why) from error
        finally:
            asked.cancel()

    async def running(self) -> list[str]:
        """Wait for workers, and return those that take work."""
        until = time.monotonic() + deadline()
        while not (there := await self.ask("ncores_running")):
            if time.monotonic() > until:
                raise ClusterError("The cluster has no workers.")
            await asyncio.sleep(0.1)
        return list(there)

    def note(self, array: Any, homes: tuple[str, ...], keys: Any = None) -> None:
        """Remember where the blocks of an array are, for as long as it lives. May be called from any thread."""
        places, name = self.known, array.name

        def forget(gone: Any) -> None:
            known = places.get(name)
            if known is not None and known[0] is gone:
                places.pop(name, None)

        places[name] = (weakref.ref(array.dask, forget), homes, keys)

    async def sent(self, array: Any, blocks: Sequence[Any], direct: bool) -> tuple[str, list[Any]]:
        """Send the blocks of an array that is in this process to the workers, once, neighbours to the same.

        They stay there for as long as the array lives.
        """
        known = self.copies.get(array.name)
        if known is not None and known[0]() is array.dask and all([future.status == "finished" for future in known[2]]):
            return known[1], known[2]
        name, copies, mine = f"graphopt-copy-{uuid.uuid4().hex}", self.copies, array.name
        client: Any = self.client()
        futures: list[Any] = []
        places = indices(array)
        workers = sorted(await self.running())
        for number, worker in enumerate(workers):
            first, last = (len(blocks) * i // len(workers) for i in (number, number + 1))
            data = {(name, *index): block for index, block in zip(places[first:last], blocks[first:last], strict=True)}
            if data:
                found = await client.scatter(data, workers=[worker], direct=direct)
                futures += [found[key] for key in data]

        def forget(gone: Any) -> None:
            known = copies.get(mine)
            if known is not None and known[0] is gone:
                copies.pop(mine, None)

        copies[mine] = (weakref.ref(array.dask, forget), name, futures)
        return name, futures


def _no_scheduler(why: str) -> ClusterError:
    text = (
        f"{why}the connection to the scheduler is gone, and what it knew with it. Connect to a cluster and persist data anew."
    )
    return ClusterError(text[0].upper() + text[1:])


def _chosen(workers: Iterable[str], there: Iterable[str]) -> str:
    """Return one of the workers that have a block, such as are running first; "" if nobody has it."""
    mine = sorted(workers)
    return next((worker for worker in mine if worker in there), mine[0] if mine else "")
