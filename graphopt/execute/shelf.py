"""Shelf: what a worker keeps for clients that dask does not know (`unregistered.py`), and how it comes to know it."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dask.sizeof import sizeof
from distributed.core import Status

from graphopt.execute.packing import unpacked
from graphopt.execute.resident import Missing
from graphopt.execute.runs import Stopped

__all__ = ["Shelf"]

#: For how many seconds what a client has here waits for it, should its connection be lost.
_GRACE = 30.0

#: Of how many results it is remembered that nobody wants them, should they be made later.
_REFUSED = 1000


class Shelf:
    """Results by their keys, of which the first part is the name of the result.

    Parameters
    ----------
    worker
        Whose.
    gone
        Called with each key that is taken away, on the event loop.

    Notes
    -----
    Task threads put results here and the event loop takes them away; anybody may read.
    """

    def __init__(self, worker: Any, gone: Callable[[Any], None]) -> None:
        self.worker, self.gone = worker, gone
        self.blocks: dict[str, dict[Any, Any]] = {}
        self.owners: dict[str, str] = {}  # name -> client
        self.refused: deque[str] = deque(maxlen=_REFUSED)
        self.guard = threading.Lock()
        self.comms: defaultdict[str, set[Any]] = defaultdict(set)  # of clients

    def put(self, client: str, data: Mapping[Any, Any]) -> None:
        """Keep results of a client, but for those that nobody wants any more.

        Raises
        ------
        Stopped
            If the worker is about to leave: what is put here now would be lost.
        """
        if data and self.worker.status not in (Status.running, Status.paused):
            raise Stopped("the worker is leaving")
        with self.guard:
            unwanted = {name for name in {key[0] for key in data} if name in self.refused}
            for key, value in data.items():
                if key[0] not in unwanted:
                    self.blocks.setdefault(key[0], {})[key] = value
                    self.owners[key[0]] = client

    def get(self, key: Any) -> Any:
        """Return a block; None if it is not here."""
        found = self.blocks.get(key[0]) if type(key) is tuple else None
        return None if found is None else found.get(key)

    def take(self, names: Iterable[str]) -> None:
        """Let go of results. What is not there yet is not to be put there."""
        keys: list[Any] = []
        with self.guard:
            for name in names:
                self.owners.pop(name, None)
                found = self.blocks.pop(name, None)
                if found is None:
                    self.refused.append(name)
                else:
                    keys += found
        for key in keys:
            self.gone(key)

    # -- clients -----------------------------------------------------------------------------------------------------

    def come(self, client: str, comm: Any) -> None:
        """Note that a client is there."""
        self.comms[client].add(comm)

    def go(self, client: str, comm: Any) -> None:
        """Note that a connection of a client has closed; if it does not come back, what it has here goes."""
        self.comms[client].discard(comm)
        self.worker.loop.call_later(_GRACE, self.leave, client)

    def leave(self, client: str) -> None:
        """Let go of what a client has here, unless it is there."""
        if not self.comms[client]:
            del self.comms[client]
            self.take([name for name, owner in list(self.owners.items()) if owner == client])

    def warn(self) -> None:
        """If the worker is to leave, tell the clients that have something here: dask takes along only what it knows."""
        if self.worker.status is not Status.running:
            for client in set(self.owners.values()):
                for comm in self.comms[client]:
                    self.worker.loop.add_callback(_say, comm, {"id": None, "status": "leaving"})

    # -- dask --------------------------------------------------------------------------------------------------------

    async def register(self, client: str, keys: Any) -> dict[str, Any]:
        """Make blocks data that dask knows.

        Raises
        ------
        Missing
            If some are not here.
        """
        wanted = unpacked(keys)
        found = {key: self.get(key) for key in wanted}
        if missing := [key for key, block in found.items() if block is None]:
            raise Missing(missing)
        await self.keep(client, found)
        with self.guard:  # blocks are the same as before, so plans need not let go of them
            for name in {key[0] for key in found}:
                self.blocks.pop(name, None)
                self.owners.pop(name, None)
        return {"status": "OK"}

    async def keep(self, client: str, data: Mapping[Any, Any]) -> None:
        """Make results data that dask knows, wanted by the client."""
        # The scheduler first: told by the worker of a key that it does not know, it would have it deleted.
        sizes = {key: sizeof(value) for key, value in data.items()}
        who_has = {key: [self.worker.address] for key in data}
        try:
            await self.worker.scheduler.update_data(who_has=who_has, nbytes=sizes, client=client)
        except OSError as error:
            raise Stopped(f"the scheduler does not answer: {error}") from error
        self.worker.update_data(data=dict(data))


async def _say(comm: Any, message: dict[str, Any]) -> None:
    """Tell a client something that it may miss."""
    with contextlib.suppress(OSError):
        await comm.write(message)
