"""Unregistered: small blocks that a call leaves on workers, and that dask does not know for as long as nobody asks.

A step with a chunked state makes new blocks in each call and has no use for the old ones. To make each known to the scheduler,
and to have it forgotten again, takes several times as long as the rest of such a call. So small blocks stay on a *shelf* of
the worker, under the keys that they will have. Calls find them there. They become data that dask knows, futures and all, when
somebody looks into the graph of the array (to compute it, to pickle it, to hand it to dask in any way), or when they have been
held for a while: dask then counts, spills and moves them. Which ones nobody holds any more the next call says in passing.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from distributed import Future

from graphopt.execute.packing import packed
from graphopt.trace import Futures
from graphopt.types import ClusterError

__all__ = ["Ledger", "Unregistered"]

logger = logging.getLogger("distributed.graphopt")

#: How many bytes of a client's blocks may be unknown to dask, and for how many seconds, up to twice that.
_BYTES, _SECONDS = 2**26, 0.25

#: How often who waits looks whether the client is still there, in seconds.
_LOOK = 0.5


class Unregistered(Mapping[Any, Any]):
    """The graph of a result that stays on workers: its futures, by their keys. They are made when the first is asked for.

    Parameters
    ----------
    ledger
        Of the client that it belongs to.
    name
        What its keys begin with.
    places, homes
        What they end with, and the worker of each.
    nbytes
        How large it is.
    """

    def __init__(self, ledger: Ledger, name: str, places: Iterable[tuple[int, ...]], homes: Sequence[str], nbytes: int) -> None:
        self.ledger, self.name, self.nbytes = ledger, name, nbytes
        self.homes = {(name, *place): home for place, home in zip(places, homes, strict=True)}
        self.seen = False  # by the ledger, when it last looked
        self.futures: dict[Any, Any] | None = None
        self.asking: asyncio.Future[None] | None = None
        self.end = weakref.finalize(self, ledger.let_go, name, tuple(dict.fromkeys(homes)))
        self.end.atexit = False

    def __getitem__(self, key: Any) -> Any:
        if key not in self.homes:
            raise KeyError(key)
        if self.futures is None:
            self.wait()
            assert self.futures is not None
        return self.futures[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.homes)

    def __len__(self) -> int:
        return len(self.homes)

    def __contains__(self, key: object) -> bool:
        return key in self.homes

    def __reduce__(self) -> Any:
        try:
            return dict, (dict(self),)
        except ClusterError as error:  # who pickles would hide it: dask says that keys are lost which it does not know
            logger.warning("graphopt: %s", error)
            return dict, ({key: Future(key) for key in self.homes},)  # type: ignore[arg-type]

    @property
    def blocks(self) -> Futures:
        """Its futures in order, to be given to a call, which may not need them."""
        return Futures(self)

    def client(self) -> Any:
        """Return the client that it belongs to.

        Raises
        ------
        ClusterError
            If there is none any more.
        """
        client = self.ledger.network.client
        if client is None or client.status != "running":
            raise ClusterError(f"The blocks of {self.name!r} are lost: the client that had them is closed.")
        return client

    def wait(self) -> None:
        """Wait for `register`, on any thread but the event loop's.

        Raises
        ------
        ClusterError
            If blocks are gone, or this is the event loop's thread.
        """
        client = self.client()
        loop = client.loop.asyncio_loop
        registered = asyncio.run_coroutine_threadsafe(self.register(), loop)
        if _running() is loop:
            raise ClusterError(
                f"The blocks of {self.name!r} are not registered with dask yet, and its event loop cannot wait for that: "
                "persist the array before."
            )
        # Who looks may be handing a graph to dask, and have locked what the event loop needs: a Condition unlocks it meanwhile.
        turn = threading.Condition(getattr(client, "_refcount_lock", None))

        def done(_: Any) -> None:
            with turn:
                turn.notify_all()

        registered.add_done_callback(done)
        with turn:
            while not registered.done():
                self.client()
                turn.wait(_LOOK)
        registered.result()

    async def register(self) -> None:
        """Make the blocks data that dask knows, wanted by the client.

        Raises
        ------
        ClusterError
            If some are gone.
        """
        loop = self.client().loop.asyncio_loop
        if loop is not _running():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.register(), loop))
            return
        await asyncio.shield(self.begin())

    def begin(self) -> asyncio.Future[None]:
        """Begin to register, on the client's event loop; who wants blocks that are lost will hear so."""
        if self.asking is None:
            self.asking = asyncio.ensure_future(self._register())
            self.asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        return self.asking

    async def _register(self) -> None:
        network, client = self.ledger.network, self.client()
        asked: dict[str, asyncio.Future[Any]] = {}

        def release(_: Any = None) -> None:
            if client.status == "running":
                client._send_to_scheduler({"op": "client-releases-keys", "keys": list(self.homes), "client": client.id})

        try:
            for home in dict.fromkeys(self.homes.values()):
                keys = [key for key, other in self.homes.items() if other == home]
                channel = await network.channel(home)
                asked[home] = await channel.ask("register", keys=packed(keys))
            await network.answers(asked)
        except Exception as error:  # whatever it is, dask does not have all of them, and is to have none
            release()
            for answer in asked.values():  # some may come to it still
                answer.add_done_callback(release)
            raise ClusterError(
                f"The blocks of {self.name!r} are lost, which a call left on the workers: {error}. Call the function that made "
                "them again."
            ) from error
        self.futures = {key: Future(key, client, state="memory") for key in self.homes}  # type: ignore[arg-type]
        self.end.detach()
        self.ledger.held.pop(self.name, None)


class Ledger:
    """What dask does not know of what a client has on workers. Used on any thread, but for `look`."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.held: dict[str, tuple[int, weakref.ref[Unregistered]]] = {}
        self.dropped: dict[str, deque[str]] = {}  # by worker the names that it may forget
        self.looking = False

    def room(self, nbytes: float) -> bool:
        """Say whether a result of this size may stay without dask's knowing."""
        return nbytes <= _BYTES and nbytes + sum([size for size, _ in list(self.held.values())]) <= _BYTES

    def note(self, name: str, places: Iterable[tuple[int, ...]], homes: Sequence[str], nbytes: int) -> Unregistered:
        """Return the graph of a result that stayed."""
        made = Unregistered(self, name, places, homes, nbytes)
        self.held[name] = nbytes, weakref.ref(made)
        self.attend()
        return made

    def let_go(self, name: str, workers: Iterable[str]) -> None:
        """Note that nobody wants a result any more."""
        self.held.pop(name, None)
        for worker in workers:
            self.dropped.setdefault(worker, deque()).append(name)
        self.attend()

    def gone(self, worker: str) -> list[str]:
        """Return what a worker may forget; it is told once."""
        names, found = self.dropped.get(worker), []
        while names:
            found.append(names.popleft())
        return found

    def attend(self) -> None:
        """Have a look in a while."""
        client = self.network.client
        if not self.looking and client is not None and client.status == "running":
            self.looking = True
            client.loop.add_callback(client.loop.call_later, _SECONDS, self.look)

    async def look(self) -> None:
        """Tell workers what no call has told them, and register what has been held for a while."""
        self.looking = False
        for worker in list(self.dropped):
            channel = self.network.channels.get(worker)
            names = self.gone(worker)
            if names and channel is not None:
                await channel.tell("forget", names=names)
        left = self.left()
        for kept in left:
            if kept.seen:
                kept.begin()
            kept.seen = True
        if left or any(self.dropped.values()):
            self.attend()

    def hurry(self) -> None:
        """Register all, on the event loop."""
        for kept in self.left():
            kept.begin()

    def left(self) -> list[Unregistered]:
        """Return what nobody has begun to register."""
        return [kept for _, ref in list(self.held.values()) if (kept := ref()) is not None and kept.asking is None]


def _running() -> Any:
    """Return the event loop of this thread, if it is in one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
