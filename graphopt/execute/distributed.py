"""Distributed: replays a plan on the workers of a cluster, with one message to each for a call.

The first call with given places of blocks *binds*: each worker gets its part of the plan. Each call then sends every worker the
small arguments and gets the small results from one of them; the rest is between the workers (`execute/worker.py`). Chunked
results stay where they were made, as futures that dask knows.

What may go wrong ends in one of two ways. *Lost*: a worker, a peer or a block is not where it was. Kernels are pure and no
result was handed out, so the call waits until dask has everything again, binds to the new places and starts over. Or an error:
of the user's own kernels as it is, or a `ClusterError` that names what dask cannot compute again.

The file is a little long: to find blocks, to bind and to run are the steps that a call goes back over when something is lost.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distributed import Future

from graphopt.execute.channel import Lost, Unreachable, deadline, network_of
from graphopt.execute.packing import LARGE, flat, nbytes, packed, unpacked
from graphopt.execute.resident import Binding, pickled
from graphopt.partition import partition
from graphopt.parts import Partition
from graphopt.plan import Plan
from graphopt.trace import Argument, is_future
from graphopt.types import ClusterError

__all__ = ["Remote", "Unreachable"]

logger = logging.getLogger("distributed.graphopt")

#: How many bindings of a plan are kept: calls may alternate between data in different places.
_BINDINGS = 4

#: How often a call starts over before it gives up, however good the reasons.
_TRIES = 20


class _Bound:
    """A plan bound to places."""

    def __init__(self, name: str, partition: Partition) -> None:
        self.name, self.partition = name, partition
        self.runs = itertools.count()
        self.users = 0  # on the event loop
        self.calling = False  # on the thread of a caller

    @property
    def workers(self) -> list[str]:
        return [str(worker) for worker in self.partition.parts]


class Remote:
    """A plan on the cluster of one client.

    Parameters
    ----------
    plan
        What is replayed.
    client
        Whose cluster.
    exact, memory, threads
        As in `compile`; the last two are for each worker.
    """

    def __init__(self, plan: Plan, client: Any, *, exact: bool, memory: int | None, threads: int | None) -> None:
        self.plan, self.network = plan, network_of(client)
        self.exact, self.memory, self.threads = exact, memory, threads
        self.bounds: OrderedDict[Any, _Bound] = OrderedDict()
        self.held: dict[str, list[str]] = {}  # worker -> names of what is bound there
        self.binding = asyncio.Lock()
        self.retries = 0
        self.large = False  # whether results were too large for lines
        self.seconds: dict[str, float] = {}  # of the last call, by worker
        self.paces: list[float] = []  # of the slowest worker, in the last iterations of a loop
        weakref.finalize(self, self.network.drop, self.held)
        kinds = plan.trace.kinds
        self.small = tuple([(slot, place) for slot, place, _ in plan.blocks if kinds[place] == "array"])
        self.chunks = {slot: (place, block) for slot, place, block in plan.blocks if kinds[place] == "chunked"}
        self.fixed = _fixed(plan)
        self.index: dict[int, list[tuple[int, ...]]] = {}  # of the blocks of an argument, by its place
        self.keeps: dict[int, list[tuple[int, int]]] = {}  # slot -> results, and places in them
        self.results: set[int] = set()
        for number, (result, slots) in enumerate(zip(plan.trace.results, plan.results, strict=True)):
            if result.kind == "array" and not result.small:
                for place, slot in enumerate(slots):
                    self.keeps.setdefault(slot, []).append((number, place))
            elif result.keys:
                self.results.update(slots)

    def __call__(self, arguments: Sequence[Argument], numbers: Mapping[int, Any]) -> list[Any]:
        """Run the plan once; return the values of all slots that are asked for, blocks that stay on workers as futures.

        Raises
        ------
        ClusterError
            If an input is lost for good.
        Unreachable
            If the workers cannot be talked to.
        """
        self.network.install()
        if self.network.calling.acquire(blocking=False):
            try:
                values = self.at_once(arguments, numbers)
            finally:
                self.network.calling.release()
            if values is not None:
                return values
        return self.network.client.sync(self.call, arguments, numbers, asynchronous=False)  # type: ignore[no-any-return]

    def at_once(self, arguments: Sequence[Argument], numbers: Mapping[int, Any]) -> list[Any] | None:
        """Run the plan over lines, on the thread of the caller; return None if that cannot be, or was lost.

        Only what everything is ready for can be done so: no result stays, all is bound, and all is small.
        """
        found = None if self.keeps or self.large else self.known(arguments)
        lines = None if found is None else self.network.lines(found[0].workers)
        if found is None or lines is None:
            return None
        bound, names = found
        given = {**{slot: arguments[place].value for slot, place in self.small}, **numbers}
        if nbytes(given.values()) > LARGE:
            return None
        called = names if all([type(name) is str for name in names.values()]) else packed(names)
        message = (called, {slot: flat(value) for slot, value in given.items()})
        number, patience, bound.calling = next(bound.runs), deadline(), True
        try:
            for line in lines:
                line.send((bound.name, number, *message), patience)
            return self.collect(bound, self.network.replies(lines, bound.name, number))
        except (Lost, OSError) as lost:
            self.network.client.sync(self.recover, bound, lost, 0, asynchronous=False)
            return None
        except BaseException:
            self.network.client.sync(self.give_up, bound, number, (), asynchronous=False)
            raise
        finally:
            bound.calling = False

    async def call(self, arguments: Sequence[Argument], numbers: Mapping[int, Any]) -> list[Any]:
        """Run the plan once, on the event loop of the client."""
        for attempt in range(_TRIES):
            bound = None
            try:
                bound, names = await self.bind(arguments)
                return await self.run(bound, names, arguments, numbers)
            except Lost as lost:
                why = lost
            finally:
                if bound is not None:
                    bound.users -= 1
            await self.recover(bound, why, attempt)
        raise ClusterError(f"The call was begun {_TRIES} times and never finished. The last time: {why}") from why

    async def recover(self, bound: _Bound | None, lost: Exception, attempt: int) -> None:
        """Forget where things were, before the next attempt."""
        logger.info("graphopt: what was begun starts over: %s", lost)
        self.retries += 1
        self.unbind(bound)
        self.network.places.clear()
        await asyncio.sleep(min(0.02 * 2**attempt, 1.0))

    # -- where things are ----------------------------------------------------------------------------------------------

    def located(self, array: Any) -> tuple[tuple[str, ...], Any] | None:
        """Return what `locate` does if it is known; None if it is not."""
        known = self.network.places.get(array.name)
        return known[1:] if known is not None and known[0]() is array.dask else None

    async def locate(self, argument: Argument) -> tuple[tuple[str, ...], Any]:
        """Return the workers that have the blocks of an argument, in order, and their keys unless those are dask's own.

        Instead of the keys it may be a name that takes the place of the array's in them.
        """
        array = argument.value
        if (known := self.located(array)) is not None:
            return known
        if not argument.remote:
            name, futures = await self.network.sent(array, _indices(array), argument.blocks, await self.running())
            homes = await self.find(argument.name, futures)
            self.network.note(array, homes, name)
            return homes, name
        homes = await self.find(argument.name, argument.blocks)
        keys = [future.key for future in argument.blocks]
        explicit = None if keys == [(array.name, *index) for index in _indices(array)] else keys
        self.network.note(array, homes, explicit)
        return homes, explicit

    async def find(self, name: str, futures: Sequence[Any]) -> tuple[str, ...]:
        """Wait for futures and say where they are.

        Raises
        ------
        ClusterError
            If one is lost for good.
        """
        client = self.network.client
        until = time.monotonic() + deadline()
        keys = [future.key for future in futures]
        while True:
            for future in futures:
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
                continue
            has: Any = await client.scheduler.who_has(keys=keys)
            there = await client.scheduler.ncores_running()
            homes = [_chosen(has[key], there) for key in keys]
            if all(homes):
                return tuple(homes)
            gone = [key for key, home in zip(keys, homes, strict=True) if not home]
            states: Any = await client.scheduler.get_task_status(keys=gone)
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

    # -- binding -------------------------------------------------------------------------------------------------------

    def known(self, arguments: Sequence[Argument]) -> tuple[_Bound, dict[int, Any]] | None:
        """Return what `bind` does if the plan is bound already; None if it is not. May be called on any thread."""
        homes: list[tuple[str, ...]] = []
        names: dict[int, Any] = {}
        for place, argument in enumerate(arguments):
            if argument.kind == "chunked":
                found = self.located(argument.value)
                if found is None:
                    return None
                homes.append(found[0])
                names[place] = argument.value.name if found[1] is None else found[1]
        bound = self.bounds.get((False, *homes))
        return None if bound is None else (bound, self.by_slot(names))

    async def bind(self, arguments: Sequence[Argument], everywhere: bool = False) -> tuple[_Bound, dict[int, Any]]:
        """Return the plan bound to where the arguments are, and what their blocks are called.

        ``everywhere`` says whether all workers need the results.
        """
        homes: dict[int, tuple[str, ...]] = {}
        names: dict[int, Any] = {}
        for place, argument in enumerate(arguments):
            if argument.kind == "chunked":
                homes[place], keys = await self.locate(argument)
                names[place] = argument.value.name if keys is None else keys
                if place not in self.index:
                    self.index[place] = _indices(argument.value)
        what = (everywhere, *homes.values())
        bound = self.bounds.get(what)
        if bound is None:
            async with self.binding:
                bound = self.bounds.get(what)
                if bound is None:
                    bound = self.bounds[what] = await self.bind_to(homes, arguments, everywhere)
        self.bounds.move_to_end(what)
        bound.users += 1
        idle = [other for other in self.bounds.values() if not other.users and not other.calling]
        for old in idle[: max(0, len(self.bounds) - _BINDINGS)]:
            self.unbind(old)
        return bound, self.by_slot(names)

    def by_slot(self, names: dict[int, Any]) -> dict[int, Any]:
        """Return names, or where keys have none, the keys by slot."""
        for place, name in names.items():
            if not isinstance(name, str):
                names[place] = {slot: name[block] for slot, (at, block) in self.chunks.items() if at == place}
        return names

    async def bind_to(self, homes: Mapping[int, tuple[str, ...]], arguments: Sequence[Argument], everywhere: bool) -> _Bound:
        """Divide the plan among the workers by where the blocks are, and send each its part."""
        home: dict[int, Any] = {slot: homes[place][block] for slot, (place, block) in self.chunks.items()}
        if self.fixed:
            found = await self.find("what the function refers to", list(self.fixed.values()))
            home.update(zip(self.fixed, found, strict=True))
        # Workers without blocks have nothing to do in a loop, but to make what is still to be made.
        there = set(home.values())
        workers = sorted(there if everywhere and there else {*there, *await self.running()})
        first = min(workers, key=lambda worker: (-sum(at == worker for at in home.values()), worker))
        workers.remove(first)
        parts = partition(
            self.plan.schedule,
            home,
            [first, *workers],
            small=[*[slot for slot, _ in self.small], *[slot for slot, _ in self.plan.schedule.scalars]],
            results=self.results,
            keeps=self.keeps.keys(),
            everywhere=everywhere,
            sizes={slot: _nbytes(arguments[place].value, index) for slot, (place, index) in self.chunks.items()},
        )
        bound = _Bound(uuid.uuid4().hex, parts)
        asked = {}
        try:
            for worker in bound.workers:
                channel = await self.network.channel(worker)
                self.held.setdefault(worker, []).append(bound.name)
                asked[worker] = await channel.ask("bind", plan=bound.name, part=pickled(self.for_worker(parts, worker)))
            await self.network.answers(asked)
        except BaseException:
            self.unbind(bound)
            raise
        self.plan.observed.places = {str(worker): part.lanes for worker, part in parts.parts.items()}
        return bound

    async def running(self) -> list[str]:
        """Wait for workers, and return those that take work."""
        until = time.monotonic() + deadline()
        while not (there := await self.network.client.scheduler.ncores_running()):
            if time.monotonic() > until:
                raise ClusterError("The cluster has no workers.")
            await asyncio.sleep(0.1)
        return list(there)

    def for_worker(self, parts: Partition, worker: str) -> Binding:
        """Return what a worker is sent."""
        part, chunks = parts.parts[worker], self.chunks
        return Binding(
            part,
            {slot: (chunks[slot][0], self.index[chunks[slot][0]][chunks[slot][1]]) for slot in part.chunks if slot in chunks},
            {slot: self.fixed[slot].key for slot in part.chunks if slot in self.fixed},
            {slot: tuple([(n, self.result_index(n)[i]) for n, i in self.keeps[slot]]) for slot in part.keeps},
            tuple([str(other) for other in parts.parts if other != worker]),
            self.exact,
            self.memory,
            self.threads,
        )

    def result_index(self, number: int) -> list[tuple[int, ...]]:
        """Return the places of the blocks of a result, in order."""
        return _indices(self.plan.trace.results[number].value)

    def unbind(self, bound: _Bound | None) -> None:
        """Let workers drop a binding."""
        if bound is None:
            return
        for what in [what for what, other in self.bounds.items() if other is bound]:
            del self.bounds[what]
        self.network.drop({worker: [bound.name] for worker in bound.workers})
        for names in self.held.values():
            if bound.name in names:
                names.remove(bound.name)

    def close(self) -> None:
        """Let workers drop all bindings."""
        for bound in list(self.bounds.values()):
            self.unbind(bound)

    def info(self) -> dict[str, Any]:
        """Ask the workers what they hold of this plan."""
        names = [bound.name for bound in self.bounds.values()]
        client = self.network.client
        if client is None or client.status != "running" or not names:
            return {}
        found = client.sync(self.network.info, names, asynchronous=False)
        return {address: held[0] for address, held in found.items() if held}

    # -- running -------------------------------------------------------------------------------------------------------

    async def run(
        self, bound: _Bound, names: Mapping[int, Any], arguments: Sequence[Argument], numbers: Mapping[int, Any]
    ) -> list[Any]:
        """Send the small arguments, and collect the small results."""
        number = next(bound.runs)
        made = [f"graphopt-{uuid.uuid4().hex}" if _stays(result) else None for result in self.plan.trace.results]
        small = {**{slot: arguments[place].value for slot, place in self.small}, **numbers}
        given = packed((dict(names), small, made if self.keeps else None), nbytes(small.values()))
        asked: dict[str, Any] = {}
        try:
            for worker in bound.workers:
                channel = await self.network.channel(worker)
                asked[worker] = await channel.ask("run", plan=bound.name, run=number, given=given)
            answers = await self.network.answers(asked)
        except BaseException:
            await self.give_up(bound, number, made)
            raise
        values = self.collect(bound, answers)
        self.take(bound, made, values)
        return values

    def collect(self, bound: _Bound, answers: Mapping[str, Any]) -> list[Any]:
        """Return the values of all slots that workers have handed back."""
        values: list[Any] = [None] * len(self.plan.schedule.template)
        for worker, answer in answers.items():
            self.seconds[worker] = answer["seconds"]
            part = bound.partition.parts[worker]
            if part.gives:
                given = unpacked(answer["values"])
                for slot, value in zip(part.gives, given, strict=True):
                    values[slot] = value
                self.large = self.large or nbytes(given) > LARGE
        return values

    async def give_up(self, bound: _Bound, number: int, made: Iterable[str | None]) -> None:
        """Let the workers stop waiting for each other, and forget results that some have registered already."""
        for worker in bound.workers:
            channel = self.network.channels.get(worker)
            if channel is not None:
                await channel.tell("stop", plan=bound.name, run=number)
        client = self.network.client
        keys = [(name, *index) for n, name in enumerate(made) if name is not None for index in self.result_index(n)]
        if keys and client.status == "running":
            client._send_to_scheduler({"op": "client-releases-keys", "keys": keys, "client": client.id})

    def take(self, bound: _Bound, made: Sequence[str | None], values: list[Any]) -> None:
        """Put the names of results that stay on the workers, and where their blocks are, in the slots of their blocks."""
        for slot, results in self.keeps.items():
            small = values[slot]
            values[slot] = _Kept(small, str(bound.partition.places[slot]), {number: made[number] for number, _ in results})

    def value(self, values: Sequence[Any], slot: int) -> Any:
        """Return a small result."""
        found = values[slot]
        return found.small if isinstance(found, _Kept) else found

    def array(self, values: Sequence[Any], number: int, make: Any) -> Any:
        """Return a result that stayed on the workers, as a dask array over futures."""
        client, result = self.network.client, self.plan.trace.results[number]
        kept = [values[slot] for slot in self.plan.results[number]]
        name = kept[0].names[number]
        indices = self.result_index(number)
        blocks: list[Any] = [Future((name, *index), client, state="memory") for index in indices]  # type: ignore[arg-type]
        array = make(result, blocks, name)
        homes = tuple([each.worker for each in kept])
        self.network.note(array, homes)
        return array


class _Kept:
    """What is known of a block that stayed where it was made."""

    __slots__ = ("names", "small", "worker")

    def __init__(self, small: Any, worker: str, names: dict[int, str | None]) -> None:
        self.small, self.worker, self.names = small, worker, names


def _stays(result: Any) -> bool:
    return result.kind == "array" and not result.small


def _fixed(plan: Plan) -> dict[int, Any]:
    """Return the futures that the function itself refers to, or that are part of lazy arguments, by slot."""
    given = {slot for slot, _, _ in plan.blocks}
    written = {slot for level in plan.levels for group in level.groups for lane in group.lanes for slot in lane.writes}
    template = plan.schedule.template
    out = {}
    for key, slot in plan.schedule.slots.items():
        if slot not in given and slot not in written and template[slot] is None and key in plan.trace.graph:
            value: Any = plan.trace.graph[key]
            if is_future(value):
                out[slot] = value
    return out


def _indices(array: Any) -> list[tuple[int, ...]]:
    from numpy import ndindex

    return list(ndindex(*array.numblocks))


def _nbytes(array: Any, block: int) -> int:
    """Return about how large a block is."""
    from numpy import unravel_index

    index = unravel_index(block, array.numblocks) if array.ndim else ()
    size = array.dtype.itemsize
    for sizes, i in zip(array.chunks, index, strict=True):
        size *= sizes[i]
    return int(size) if size == size else 1


def _chosen(workers: Iterable[str], there: Iterable[str]) -> str:
    """Return one of the workers that have a block, such as are running first; "" if nobody has it."""
    mine = sorted(workers)
    return next((worker for worker in mine if worker in there), mine[0] if mine else "")
