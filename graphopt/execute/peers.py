"""Peers: what a worker sends to others in a run: over lines where there are, else over comms; both stay open."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from distributed.comm.core import connect

from graphopt.execute.line import GREETING, Line, can_take
from graphopt.execute.packing import LARGE, flat, nbytes, packed

__all__ = ["HEAR", "LINE", "PATIENCE", "PeerLost", "Peers", "open_comm", "open_line"]

#: What the operations are called that a worker learns: to hear peers over a comm, and to take a comm as a line.
HEAR, LINE = "graphopt-hear", "graphopt-line"

#: For how many seconds a task thread tries to send to an end that does not read.
PATIENCE = 60.0


class PeerLost(Exception):
    """A worker that had a share in a run cannot be reached."""


class Peers:
    """The connections of a worker to those that it sends to.

    Parameters
    ----------
    worker
        Whose.
    here
        Returns what takes values for a worker in this very process; None for others.
    """

    def __init__(self, worker: Any, here: Callable[[str], Callable[..., None] | None]) -> None:
        self.worker, self.here = worker, here
        self.comms: dict[str, Any] = {}  # address -> comm, or the future of one
        self.lines: dict[str, Line | None] = {}
        self.opening: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def open(self, addresses: Iterable[str]) -> None:
        """Open lines to peers; where that cannot be, messages will go through comms."""
        await asyncio.gather(*map(self.open_to, addresses))

    async def open_to(self, address: str) -> None:
        """Open a line to a peer."""
        if self.here(address) is not None:
            return
        async with self.opening[address]:
            known = self.lines.get(address)
            if address not in self.lines or (known is not None and known.closed):
                with contextlib.suppress(OSError, asyncio.TimeoutError):  # another time, perhaps
                    self.lines[address] = await open_line(self.worker.rpc, address, {"peer": self.worker.address})

    def send(self, to: str, plan: str, run: int, slots: Sequence[int], values: list[Any]) -> Future[None] | None:
        """Send values, on a task thread; if that takes the event loop, return the future of its being done.

        Raises
        ------
        PeerLost
            If the peer does not take them.
        """
        if (deliver := self.here(to)) is not None:
            deliver(plan, run, slots, values)
            return None
        line = self.lines.get(to)
        if line is None or nbytes(values) > LARGE:
            loop: Any = self.worker.loop.asyncio_loop
            return asyncio.run_coroutine_threadsafe(self.send_by_comm(to, plan, run, slots, values), loop)
        try:
            line.send((plan, run, slots, [flat(value) for value in values]), PATIENCE)
        except OSError as error:
            raise PeerLost(f"{to}: {error}") from error
        return None

    async def send_by_comm(self, to: str, plan: str, run: int, slots: Sequence[int], values: list[Any]) -> None:
        """Send values over a comm.

        Raises
        ------
        PeerLost
            If the peer does not take them.
        """
        message = {"plan": plan, "run": run, "slots": list(slots), "values": packed(values, nbytes(values))}
        try:
            comm = await self.comm(to)
            comm.allow_offload = not isinstance(message["values"], bytes)  # to find out how large it is takes longer
            await comm.write(message)
        except (OSError, asyncio.TimeoutError) as error:
            self.comms.pop(to, None)
            raise PeerLost(f"{to}: {error}") from error

    async def over(self, to: str, plan: str, run: int) -> None:
        """Tell a peer that there will be no such run of a loop, and none after it."""
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await (await self.comm(to)).write({"plan": plan, "run": run})

    async def comm(self, address: str) -> Any:
        """Return the comm to a peer, opened where there is none."""
        comm = self.comms.get(address)
        if isinstance(comm, asyncio.Future):
            comm = await asyncio.shield(comm)
        if comm is None or comm.closed():
            task = self.comms[address] = asyncio.ensure_future(self.connect(address))
            comm = self.comms[address] = await task
        return comm

    async def connect(self, address: str) -> Any:
        """Open a comm that the other end will hear."""
        comm = await open_comm(self.worker.rpc, address)
        await comm.write({"op": HEAR, "peer": self.worker.address, "reply": False})
        return comm

    def close(self) -> None:
        """Close all connections."""
        for comm in self.comms.values():
            if hasattr(comm, "abort"):
                comm.abort()
        for line in self.lines.values():
            if line is not None:
                line.close()
        self.comms.clear()
        self.lines.clear()


async def open_comm(rpc: Any, address: str, timeout: float | None = None) -> Any:
    """Open a comm as a pool of comms does, with its certificates, which closes when the pool does.

    It does not count there: a pool lets everybody wait who asks for more than it may have, and ours are never given back.
    """
    comm = await connect(address, timeout=timeout, deserialize=rpc.deserialize, **rpc.connection_args)
    rpc.occupied[address].add(comm)
    return comm


async def open_line(rpc: Any, address: str, who: dict[str, str], timeout: float = 2.0) -> Line | None:
    """Open a line to a worker from a pool of comms; return None if there can be none.

    Raises
    ------
    OSError
        If the worker does not answer in time.
    """
    comm = await open_comm(rpc, address, timeout)
    if not can_take(comm):
        comm.abort()
        return None
    await comm.write({"op": LINE, **who, "reply": False})
    line = Line(comm, None, lambda: None)
    greeted = asyncio.get_running_loop().time() + timeout
    while not line.closed:
        for message in line.receive():
            if message == GREETING:
                return line
        if asyncio.get_running_loop().time() > greeted:
            line.close()
            raise OSError(f"{address} does not answer")
        await asyncio.sleep(0.001)
    return None
