"""Channel: a client's open comm to one worker, and the network of all of them.

Requests are numbered, so that several may be under way at once. The comms are made with the client's certificates and close
when it closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

from dask import config
from dask.utils import parse_timedelta
from distributed.core import clean_exception, send_recv
from distributed.protocol import pickle

from graphopt.execute.line import Line
from graphopt.execute.packing import round_again
from graphopt.execute.peers import open_comm, open_line
from graphopt.execute.places import Lost, Places, deadline
from graphopt.execute.unregistered import Ledger
from graphopt.execute.worker import SERVE, ReplayPlugin

__all__ = ["Channel", "Network", "Unreachable", "network_of"]

logger = logging.getLogger("distributed.graphopt")
_warnings = logging.getLogger("graphopt")

#: How many seconds an attempt to connect may take before the scheduler is asked whether the worker is still there.
_ATTEMPT = 1.0


class Unreachable(Exception):
    """A worker that is there, but that the client may not talk to."""


class Channel:
    """An open comm to a worker.

    Attributes
    ----------
    line
        A line to the same worker, for calls; None where there can be none.
    ping, pinged
        The answer to whether it is alive, and when it was asked for that.
    leaving
        Called when the worker says that it will leave.
    """

    def __init__(self, address: str, comm: Any, leaving: Callable[[], Any]) -> None:
        self.address, self.comm, self.leaving = address, comm, leaving
        self.line: Line | None = None
        self.ping: asyncio.Future[Any] | None = None
        self.pinged = 0.0
        self.numbers = itertools.count()
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.hearing: dict[int, Callable[[Any], None]] = {}
        self.reader = asyncio.ensure_future(self.read())

    @property
    def closed(self) -> bool:
        """Whether nothing can be asked any more."""
        return bool(self.comm.closed()) or self.reader.done()

    async def read(self) -> None:
        """Hand answers to those who asked, until the comm closes."""
        try:
            while True:
                message = await self.comm.read()
                number = message.pop("id")
                if message["status"] == "progress":
                    if (hear := self.hearing.get(number)) is not None:
                        hear(message)
                    continue
                if message["status"] == "leaving":
                    self.leaving()
                    continue
                self.hearing.pop(number, None)
                future = self.waiting.pop(number, None)
                if future is not None and not future.done():
                    future.set_result(message)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self.close(f"the connection to the worker {self.address} was lost")

    def close(self, why: str) -> None:
        """Close the comm; who waits for an answer is told why there will be none."""
        self.comm.abort()
        if self.line is not None:
            self.line.close()
        waiting, self.waiting = self.waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(Lost(why))
                future.exception()  # who asked may be gone: no complaint about that

    async def ask(self, do: str, hear: Callable[[Any], None] | None = None, **message: Any) -> asyncio.Future[Any]:
        """Send a request; return the future of its answer. What comes before the answer is for ``hear``.

        Raises
        ------
        Lost
            If the worker is gone.
        """
        number = next(self.numbers)
        future = asyncio.get_running_loop().create_future()
        if self.closed:
            raise Lost(f"the connection to the worker {self.address} was lost")
        self.waiting[number] = future
        if hear is not None:
            self.hearing[number] = hear
        try:
            await self.comm.write({"do": do, "id": number, **message})
        except OSError as error:
            self.waiting.pop(number, None)
            raise Lost(f"the connection to the worker {self.address} was lost: {error}") from error
        return future

    async def tell(self, do: str, **message: Any) -> None:
        """Send what needs no answer; a worker that is gone need not be told."""
        try:
            if not self.closed:
                await self.comm.write({"do": do, **message})
        except OSError:
            pass


class Network:
    """The channels of one client; used on its event loop only, but for what says otherwise."""

    def __init__(self, client: Any) -> None:
        self._client = weakref.ref(client)
        self.channels: dict[str, Channel] = {}
        self.opening: dict[str, asyncio.Future[Channel]] = {}
        self.known: set[str] = set()  # workers that have answered
        self.installed = False
        self.calling = threading.Lock()  # held by the thread that reads the lines
        self.places = Places(client)
        self.ledger = Ledger(self)
        self.refused = ""  # why the workers cannot be talked to, should that be so

    @property
    def client(self) -> Any:
        """The client; None when it is gone."""
        return self._client()

    def install(self) -> None:
        """Teach all workers to replay, those to come too. May be called from any thread but the event loop's."""
        if not self.installed:
            try:
                self.client.register_plugin(ReplayPlugin())
            except OSError:  # a worker is just dying; the others are taught when they are first asked
                pass
            except ValueError as error:
                self.refuse(f"the scheduler does not take plugins: {error}")
            self.installed = True

    def refuse(self, why: str) -> None:
        """Note that the workers cannot be talked to."""
        if not self.refused:
            self.refused = why
            _warnings.warning("graphopt: calls go to the workers as ordinary tasks, which takes longer: %s", why)

    async def channel(self, address: str) -> Channel:
        """Return the channel to a worker, opened where there is none.

        Raises
        ------
        Lost
            If nobody answers.
        Unreachable
            If the worker answers, and will not do it.
        """
        found = self.channels.get(address)
        if found is not None and not found.closed:
            if found.line is not None and found.line.closed:
                await self.open_line(found)
            return found
        if self.refused:
            raise Unreachable(self.refused)
        if address not in self.opening:
            self.opening[address] = asyncio.ensure_future(self.open(address))
            self.opening[address].add_done_callback(lambda _: self.opening.pop(address, None))
        return await asyncio.shield(self.opening[address])

    async def open(self, address: str) -> Channel:
        """Connect to a worker, and make sure that it knows what is wanted."""
        client, start = self.client, time.monotonic()
        comm = hello = None
        while True:
            try:
                comm = await open_comm(client.rpc, address, _ATTEMPT)
                hello = await asyncio.wait_for(self.greet(comm), deadline())
                break
            except (OSError, asyncio.TimeoutError) as error:
                if comm is not None:
                    comm.abort()
                why = f"the worker {address} does not answer: {error}"
            if address not in await self.places.ask("ncores"):
                raise Lost(why)
            silent = time.monotonic() - start
            if address in self.known:
                if silent > deadline():
                    await self.part_from(address, why)
                    raise Lost(why)
            elif silent > parse_timedelta(config.get("distributed.comm.timeouts.connect")):
                raise Unreachable(why)  # it may be well, and only out of our reach
        if not isinstance(hello, dict) or "hello" not in hello:
            comm.abort()
            said = hello.get("exception_text", hello) if isinstance(hello, dict) else hello
            raise Unreachable(f"the worker {address} does not take part: {said}")
        self.known.add(address)
        comm.allow_offload = False  # to find out how large a message is takes longer than most of them
        channel = self.channels[address] = Channel(address, comm, self.ledger.hurry)
        await self.open_line(channel)
        return channel

    async def open_line(self, channel: Channel) -> None:
        """Open a line beside a channel; where there is none, calls go through the channel."""
        channel.line = None
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            channel.line = await open_line(self.client.rpc, channel.address, {"client": self.client.id})

    async def greet(self, comm: Any) -> Any:
        """Ask a worker to take part, and teach it how if it does not know yet; return what it says."""
        hello = None
        for _ in range(2):
            await comm.write({"op": SERVE, "client": self.client.id, "reply": True})
            if (hello := await comm.read()) is not None:
                break
            await send_recv(comm, op="plugin-add", plugin=pickle.dumps(ReplayPlugin()), name=ReplayPlugin.name)
        return hello

    async def part_from(self, address: str, why: str) -> None:
        """Take a worker off the cluster that we knew and that does not answer any more, so that dask looks for another."""
        logger.warning("graphopt: %s; it is taken off the cluster", why)
        await self.client.scheduler.unregister(address=address, stimulus_id=f"graphopt-silent-{time.time()}")

    async def answers(self, asked: dict[str, asyncio.Future[Any]]) -> dict[str, Any]:
        """Wait for answers; raise the first that is none.

        Raises
        ------
        Lost
            If a worker is gone, says that something is missing, or is silent for longer than the deadline.
        """
        pending = set(asked.values())
        limit = deadline()
        while pending:
            done, pending = await asyncio.wait(pending, timeout=min(limit / 4, 5.0), return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                _checked(future.result())
            if not done:
                await self.look_after([address for address, future in asked.items() if future in pending], limit)
        return {address: future.result() for address, future in asked.items()}

    def lines(self, addresses: Sequence[str]) -> dict[Line, str] | None:
        """Return open lines to workers; None if there is one without."""
        channels = [self.channels.get(address) for address in addresses]
        found = [(channel.line, channel.address) for channel in channels if channel is not None and channel.line is not None]
        lines = {line: address for line, address in found if not line.closed}
        return lines if len(lines) == len(addresses) else None

    def replies(self, lines: dict[Line, str], plan: str, run: int) -> dict[str, Any]:
        """Wait for the answers to a run that was asked for over lines; raise the first that is none. For who holds `calling`.

        Raises
        ------
        Lost
            As from `answers`.
        """
        answers: dict[str, Any] = {}
        waiting, limit = dict(lines), deadline()
        while waiting:
            for line, address in lines.items():
                if line.closed and line in waiting:
                    raise Lost(f"the connection to the worker {address} was lost")
            try:
                ready = wait([line.socket for line in waiting], min(limit / 4, 5.0))
            except (OSError, ValueError):  # one of them is just being closed
                continue
            if not ready:
                self.client.sync(self.look_after, list(waiting.values()), limit, asynchronous=False)
            for line in [line for line in waiting if line.socket in ready]:
                for message in line.receive():
                    if message[:2] == (plan, run):  # else it is of a run that was given up
                        answer = answers[waiting.pop(line)] = _checked(message[2])
                        answer["values"] = [round_again(value) for value in answer["values"]]
        return answers

    async def look_after(self, addresses: list[str], limit: float) -> None:
        """Ask workers that have not answered yet whether they are alive; part from those that do not answer that either."""
        for address in addresses:
            channel = self.channels.get(address)
            if channel is None or channel.closed:
                continue
            if channel.ping is None or channel.ping.done():
                channel.ping, channel.pinged = await channel.ask("ping"), time.monotonic()
            silent = time.monotonic() - channel.pinged
            if silent > limit:
                why = f"the worker {address} was silent for {silent:.1f} s"
                channel.close(why)
                await self.part_from(address, why)

    async def info(self, plans: list[str]) -> dict[str, Any]:
        """Ask all workers what they hold of some plans."""
        asked = {address: await channel.ask("info") for address, channel in self.channels.items() if not channel.closed}
        found = await self.answers(asked)
        return {
            address: [about for name, about in answer["plans"].items() if name in plans] for address, answer in found.items()
        }

    def drop(self, bound: dict[str, list[str]]) -> None:
        """Let workers drop plans, from any thread. ``bound`` says which plans are where."""
        client = self.client
        if client is None or client.status in ("closed", "closing") or not bound:
            return

        async def tell() -> None:
            for address, plans in bound.items():
                channel = self.channels.get(address)
                for plan in plans:
                    if channel is not None:
                        await channel.tell("drop", plan=plan)

        client.loop.add_callback(tell)


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    status = answer["status"]
    if status == "OK":
        return answer
    if status == "missing":
        keys = pickle.loads(answer["keys"])
        raise Lost(f"{len(keys)} blocks have moved, such as {keys[0]!r}")
    if status == "lost":
        raise Lost(answer["why"])
    _, error, traceback = clean_exception(**{name: value for name, value in answer.items() if name != "status"})
    assert error is not None
    raise error.with_traceback(traceback)


_networks: weakref.WeakKeyDictionary[Any, Network] = weakref.WeakKeyDictionary()
_GUARD = threading.Lock()


def network_of(client: Any) -> Network:
    """Return the network of a client."""
    with _GUARD:
        found = _networks.get(client)
        if found is None:
            found = _networks[client] = Network(client)
        return found
