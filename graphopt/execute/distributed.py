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
import operator
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distributed import Future
from distributed.client import FutureCancelledError

from graphopt.execute.channel import Unreachable, network_of
from graphopt.execute.packing import LARGE, flat, nbytes, packed, unpacked
from graphopt.execute.places import Lost, deadline
from graphopt.execute.resident import pickled
from graphopt.execute.shares import Shares
from graphopt.execute.tasks import Tasks
from graphopt.parts import Partition
from graphopt.plan import Plan
from graphopt.trace import Argument
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
    name
        What it is called on the dashboard.
    exact, memory, threads
        As in `compile`; the last two are for each worker.
    """

    def __init__(self, plan: Plan, client: Any, *, name: str, exact: bool, memory: int | None, threads: int | None) -> None:
        self.plan, self.network = plan, network_of(client)
        self.shares = Shares(plan, name=name, exact=exact, memory=memory, threads=threads)
        self.tasks = Tasks(self.shares, self.network)
        self.bounds: OrderedDict[Any, _Bound] = OrderedDict()
        self.last: tuple[list[tuple[str, ...]], _Bound] | None = None  # the binding of the last call over lines, and its places
        self.held: dict[str, list[str]] = {}  # worker -> names of what is bound there
        self.binding = asyncio.Lock()
        self.retries = 0
        self.large = False  # whether results were too large for lines
        self.seconds: dict[str, float] = {}  # of the last call, by worker
        self.paces: list[float] = []  # of the slowest worker, in the last iterations of a loop
        weakref.finalize(self, self.network.drop, self.held)

    def __call__(self, arguments: Sequence[Argument], numbers: Mapping[int, Any]) -> list[Any]:
        """Run the plan once; return the values of all slots that are asked for, blocks that stay on workers as futures.

        Raises
        ------
        ClusterError
            If an input is lost for good.
        """
        network = self.network
        network.install()
        try:
            if not network.refused and network.calling.acquire(blocking=False):
                try:
                    values = self.at_once(arguments, numbers)
                finally:
                    network.calling.release()
                if values is not None:
                    return values
            if not network.refused:
                return network.client.sync(self.call, arguments, numbers, asynchronous=False)  # type: ignore[no-any-return]
        except Unreachable as error:
            network.refuse(str(error))
        return network.client.sync(self.by_tasks, arguments, numbers, asynchronous=False)  # type: ignore[no-any-return]

    def at_once(self, arguments: Sequence[Argument], numbers: Mapping[int, Any]) -> list[Any] | None:
        """Run the plan over lines, on the thread of the caller; return None if that cannot be, or was lost.

        Only what everything is ready for can be done so: all is bound, and all is small. Dask is not told of results that stay.
        """
        ledger = self.network.ledger
        ready = not self.large and (not self.shares.keeps or ledger.room(self.shares.nbytes))
        found = self.known(arguments) if ready else None
        lines = None if found is None else self.network.lines(found[0].workers)
        if found is None or lines is None:
            return None
        bound, names = found
        given = self.shares.given(arguments, numbers)
        if nbytes(given.values()) > LARGE:
            return None
        called = names if all([type(name) is str for name in names.values()]) else packed(names)
        made = self.made() if self.shares.keeps else []
        message = (called, {slot: flat(value) for slot, value in given.items()}, made)
        number, patience, bound.calling = next(bound.runs), deadline(), True
        try:
            for line, address in lines.items():
                dropped = ledger.gone(address)
                try:
                    line.send((bound.name, number, *message, dropped), patience)
                except OSError as error:
                    for name in dropped:
                        ledger.let_go(name, [address])
                    raise Lost(f"the connection to the worker {address} was lost: {error}") from error
            values = self.collect(bound, self.network.replies(lines, bound.name, number))
        except BaseException as error:
            for name in filter(None, made):
                ledger.let_go(name, bound.workers)
            if isinstance(error, Lost):
                self.network.client.sync(self.recover, bound, error, 0, asynchronous=False)
                return None
            if not isinstance(error, Exception):  # half a message may have been written or read
                for line in lines:
                    line.close()
            self.network.client.sync(self.give_up, bound, number, (), asynchronous=False)
            raise
        finally:
            bound.calling = False
        self.take(bound.partition, made, values, registered=False)
        return values

    def made(self) -> list[str | None]:
        """Return new names for the results that stay; the others have none."""
        return [f"graphopt-{uuid.uuid4().hex}" if result.stays else None for result in self.plan.trace.results]

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

    async def by_tasks(self, arguments: Sequence[Argument], numbers: Mapping[int, Any]) -> list[Any]:
        """Run the plan once by ordinary tasks, on the event loop of the client."""
        for attempt in range(_TRIES):
            try:
                parts, values, made, kept = await self.tasks.call(arguments, numbers)
            except FutureCancelledError as error:
                why = Lost(str(error))
            else:
                self.plan.observed.places = parts.lanes
                self.take(parts, made, values, kept)
                return values
            self.tasks.close()
            await self.recover(None, why, attempt)
        raise ClusterError(f"The call was begun {_TRIES} times and never finished. The last time: {why}") from why

    async def recover(self, bound: _Bound | None, lost: Exception, attempt: int) -> None:
        """Forget where things were, before the next attempt."""
        logger.info("graphopt: what was begun starts over: %s", lost)
        self.retries += 1
        self.unbind(bound)
        self.network.places.known.clear()
        await asyncio.sleep(min(0.02 * 2**attempt, 1.0))

    # -- binding -------------------------------------------------------------------------------------------------------

    def known(self, arguments: Sequence[Argument]) -> tuple[_Bound, dict[int, Any]] | None:
        """Return what `bind` does if the plan is bound already; None if it is not. May be called on any thread."""
        homes: list[tuple[str, ...]] = []
        names: dict[int, Any] = {}
        for place, argument in enumerate(arguments):
            if argument.kind == "chunked":
                found = self.network.places.located(argument.value)
                if found is None:
                    return None
                homes.append(found[0])
                names[place] = argument.value.name if found[1] is None else found[1]
        last = self.last  # to compare a thousand places one by one takes a while
        if last is None or len(last[0]) != len(homes) or not all(map(operator.is_, last[0], homes)):
            bound = self.bounds.get((False, *homes))
            if bound is None:
                return None
            last = self.last = homes, bound
        return last[1], self.by_slot(names)

    async def bind(self, arguments: Sequence[Argument], everywhere: bool = False) -> tuple[_Bound, dict[int, Any]]:
        """Return the plan bound to where the arguments are, and what their blocks are called.

        ``everywhere`` says whether all workers need the results.
        """
        homes: dict[int, tuple[str, ...]] = {}
        names: dict[int, Any] = {}
        if not all([argument.remote for argument in arguments if argument.kind == "chunked"]):
            for worker in await self.network.places.running():  # they are about to be sent blocks
                await self.network.channel(worker)
        for place, argument in enumerate(arguments):
            if argument.kind == "chunked":
                homes[place], keys = await self.network.places.locate(argument)
                names[place] = argument.value.name if keys is None else keys
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
                names[place] = {slot: name[block] for slot, (at, block) in self.shares.chunks.items() if at == place}
        return names

    async def bind_to(self, homes: Mapping[int, tuple[str, ...]], arguments: Sequence[Argument], everywhere: bool) -> _Bound:
        """Divide the plan among the workers by where the blocks are, and send each its part."""
        parts = await self.shares.divide(homes, arguments, self.network.places, everywhere)
        bound = _Bound(uuid.uuid4().hex, parts)
        asked = {}
        try:
            channels = await asyncio.gather(*map(self.network.channel, bound.workers))  # all, before any looks for its peers
            for worker, channel in zip(bound.workers, channels, strict=True):
                self.held.setdefault(worker, []).append(bound.name)
                asked[worker] = await channel.ask("bind", plan=bound.name, part=pickled(self.shares.of(parts, worker)))
            await self.network.answers(asked)
        except BaseException:
            self.unbind(bound)
            raise
        self.plan.observed.places = parts.lanes
        return bound

    def unbind(self, bound: _Bound | None) -> None:
        """Let workers drop a binding."""
        if bound is None:
            return
        self.last = None
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
        self.tasks.close()

    def info(self) -> dict[str, Any]:
        """Ask the workers what they hold of this plan."""
        names = [bound.name for bound in self.bounds.values()]
        client = self.network.client
        if client is not None and client.status == "running" and self.tasks.held:
            return client.sync(self.tasks.info, asynchronous=False)  # type: ignore[no-any-return]
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
        made = self.made()
        small = self.shares.given(arguments, numbers)
        given = packed((dict(names), small, made if self.shares.keeps else None), nbytes(small.values()))
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
        self.take(bound.partition, made, values)
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
        keys = [(name, *index) for n, name in enumerate(made) if name is not None for index in self.shares.result_index(n)]
        if keys and client.status == "running":
            client._send_to_scheduler({"op": "client-releases-keys", "keys": keys, "client": client.id})

    def take(
        self,
        parts: Partition,
        made: Sequence[str | None],
        values: list[Any],
        futures: Sequence[Any] = (),
        registered: bool = True,
    ) -> None:
        """Put the names of results that stay on the workers, and where their blocks are, in the slots of their blocks.

        ``futures`` are what keeps the blocks there until there are others; ``registered`` says whether dask knows the blocks.
        """
        for slot, results in self.shares.keeps.items():
            names = {number: made[number] for number, _ in results}
            values[slot] = _Kept(values[slot], str(parts.places[slot]), names, futures, registered)

    def value(self, values: Sequence[Any], slot: int) -> Any:
        """Return a small result."""
        found = values[slot]
        return found.small if isinstance(found, _Kept) else found

    def array(self, values: Sequence[Any], number: int, make: Any) -> Any:
        """Return a result that stayed on the workers, as a dask array over futures."""
        client, result = self.network.client, self.plan.trace.results[number]
        kept = [values[slot] for slot in self.plan.results[number]]
        name = kept[0].names[number]
        found = self.shares.result_index(number)
        homes = tuple([each.worker for each in kept])
        blocks: Any
        if kept[0].registered:
            blocks = [Future((name, *index), client, state="memory") for index in found]  # type: ignore[arg-type]
        else:
            blocks = self.network.ledger.note(name, found, homes, result.value.nbytes)
        array = make(result, blocks, name)
        self.network.places.note(array, homes)
        return array


class _Kept:
    """What is known of a block that stayed where it was made."""

    __slots__ = ("futures", "names", "registered", "small", "worker")

    def __init__(self, small: Any, worker: str, names: dict[int, str | None], futures: Sequence[Any], registered: bool) -> None:
        self.small, self.worker, self.names, self.futures, self.registered = small, worker, names, futures, registered
