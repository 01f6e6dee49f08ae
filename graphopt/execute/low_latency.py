"""Low latency: `low_latency`, which makes dask's messages leave at once instead of in batches.

Every stream between a client, the scheduler and the workers of a cluster holds a message back until some milliseconds have
passed since the one before it. For thousands of tasks at once that saves work; in a chain, where each task waits for the one
before, the timers are nearly all of the time. Here they are shortened on all parties, and put back.

This module is the surface and the client's side: it sets the timer of the client's own stream and asks the scheduler, which
sets its own and asks the workers (`graphopt.execute.cluster_timers`). The client's side is asked again after a lost
connection, because then its stream, and maybe the scheduler, is another.

The timers have no public name. Where `distributed` has changed so that they are not found, nothing is done, with a warning.
Nothing here imports `distributed`: a client comes in, and with it all that is needed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
import warnings
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from dask.utils import parse_timedelta

from graphopt.types import GraphoptWarning

__all__ = ["ClientSide", "LowLatency", "low_latency", "set_timer", "shortest", "timed"]

logger = logging.getLogger("graphopt")

#: Seconds between two looks at whether the client has a new connection; that costs a comparison.
WATCH = 0.5
#: Seconds that leaving waits for a scheduler that is there and does not answer. What was asked of it still holds.
PATIENCE = 20.0

_LOCK = threading.Lock()
#: The intervals that streams had before; a stream that is in here is shortened. Streams that are gone take their entry along.
_OWN: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()
#: The clients on which contexts are open.
_SIDES: dict[Any, ClientSide] = {}


def timed(stream: Any) -> bool:
    """Return whether a stream has the timer that we know how to set."""
    return isinstance(getattr(stream, "interval", None), (int, float))


def set_timer(stream: Any, seconds: float | None, *, large: bool = False) -> None:
    """Let a stream wait no longer than so many seconds between messages; None for as long as it used to.

    A stream is never made to wait longer than it would by itself. ``large`` says that some of its messages are.
    """
    with _LOCK:
        if seconds is None:
            own = _OWN.pop(stream, None)
            if own is not None:
                stream.interval = own
                _sleep_on(stream, False)
                _linger(stream, None)
                _weigh(stream, True)
        elif timed(stream):
            own = _OWN.setdefault(stream, stream.interval)
            stream.interval = min(own, seconds)
            _sleep_on(stream, not stream.interval)
            _linger(stream, None if stream.interval else own)
            _weigh(stream, bool(stream.interval) or large)


def _sleep_on(stream: Any, on: bool) -> None:
    """Let a stream not wake up once more after a message only to see that its timer has run out; or let it do so again.

    By itself it waits with a time limit that is already past. At 0 that is every time, for CPU time that a chain could use.
    """
    event: Any = getattr(stream, "waker", None)
    if not all(hasattr(event, name) for name in ("wait", "is_set", "__dict__")):
        return  # that is a pity, but does no harm
    vars(event).pop("wait", None)
    if on:
        from distributed.metrics import time
        from tornado.util import TimeoutError

        wait = event.wait

        def wait_if_there_is_time(timeout: float | None = None) -> Any:
            if timeout is not None and timeout <= time() and not event.is_set():
                raise TimeoutError
            return wait(timeout)

        event.wait = wait_if_there_is_time


def _weigh(stream: Any, on: bool) -> None:
    """Let a stream find out before it writes a message how large it is, or not.

    Messages of megabytes are written by another thread. To know, dask looks through each: longer than it takes to write most.
    """
    comm: Any = getattr(stream, "comm", None)
    if hasattr(comm, "allow_offload"):
        comm.allow_offload = on


#: Messages that nobody waits for.
_CAN_WAIT = frozenset(["release-worker-data"])


def _linger(stream: Any, own: float | None) -> None:
    """Let a stream keep what nobody waits for until there is more to send, or as long as it would by itself; None undoes that.

    In a chain a worker says with each task that it has thrown away what came before: half of all its messages.
    """
    vars(stream).pop("send", None)
    if own is None or not all(
        hasattr(stream, name) for name in ("send", "buffer", "message_count", "batch_count", "waker", "loop", "comm")
    ):
        return
    send, wake = stream.send, stream.waker.set

    def send_in_time(*messages: Any) -> None:
        can_wait = all([type(message) is dict and message.get("op") in _CAN_WAIT for message in messages])
        if not can_wait or stream.buffer or stream.comm is None or stream.comm.closed():
            send(*messages)
            return
        stream.message_count += len(messages)
        stream.buffer.extend(messages)
        stream.loop.call_later(own, lambda batch: batch == stream.batch_count and wake(), stream.batch_count)

    stream.send = send_in_time


def shortest(intervals: Iterable[float]) -> float | None:
    """Return what counts where several contexts are open; None where none is."""
    return min(intervals, default=None)


def low_latency(client: Any, interval: float | str = 0) -> LowLatency:
    """Let the messages between a client, its scheduler and the workers leave at once, for the life of a context.

    For code that stays with ordinary futures and waits for them one after another, as asynchronous algorithms do. Dask holds
    messages back in order to send many at once: 10 ms from client to scheduler, 5 ms from scheduler to worker, 2 ms the
    other ways. A task that depends on the one before pays for most of these.

    Parameters
    ----------
    client
        A `distributed.Client`.
    interval
        How long a stream waits after a message before it sends the next: seconds, or a text such as ``"1ms"``. At 0 messages
        leave as soon as the one before is written; nothing polls. Streams that wait less by themselves are left alone.

    Returns
    -------
    LowLatency
        To be entered by ``with``, or by ``async with`` for an asynchronous client; that gives the client.

    Warns
    -----
    GraphoptWarning
        If this version of `distributed` keeps its timers elsewhere. Then nothing is changed.

    Notes
    -----
    What it may cost is throughput: thousands of independent tasks at once are sent in more and smaller messages. With two local
    workers that was a gain, with eight a loss of at most a tenth; the page on performance has the figures. It has not been
    measured with hundreds of workers, where messages add up: keep the context around what waits.

    The scheduler and the workers belong to all clients of a cluster, so all of them notice; a stream from a client to the
    scheduler is shortened for this client only. Contexts nest and clients may hold one each: the shortest interval counts,
    and the last to leave restores. Workers that join or are restarted meanwhile take part. A client that goes away without
    leaving has left. Graphopt must be installed where the scheduler and the workers run: where it is not, or where the
    scheduler refuses to run functions, a line in the log says so, and only the client's own messages leave sooner.

    Examples
    --------
    >>> from distributed import Client
    >>> with Client(processes=False, n_workers=1, dashboard_address=None) as client:  # doctest: +SKIP
    ...     with low_latency(client):
    ...         x = client.submit(int, 0)
    ...         for _ in range(100):
    ...             x = client.submit(abs, x)
    ...         x.result()
    0
    """
    return LowLatency(client, _seconds(interval))


def _seconds(interval: float | str) -> float:
    try:
        seconds = float(parse_timedelta(interval) if isinstance(interval, str) else interval)
        if seconds >= 0:
            return seconds
    except (ValueError, KeyError):  # dask's words for a text that it cannot read
        pass
    raise ValueError(f"low_latency(interval={interval!r}): not a time that a message can wait; try 0, or '1ms'.")


class LowLatency:
    """What `low_latency` returns: short timers while it is entered. It may be entered again, also while it is."""

    def __init__(self, client: Any, seconds: float) -> None:
        self.client = client
        self.seconds = seconds
        self._entered: list[tuple[ClientSide, str]] = []

    def __enter__(self) -> Any:
        if self.client.asynchronous:
            raise TypeError("low_latency: this client is asynchronous here; use `async with`.")
        _warn(self.client.sync(self._open))
        return self.client

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        side, token = self._entered.pop()
        if self.client.status != "closed":
            try:
                self.client.sync(side.close, token)
                return
            except RuntimeError:  # its loop ended just now
                pass
        side.drop(token)  # the scheduler has noticed by itself

    async def __aenter__(self) -> Any:
        if not self.client.asynchronous:
            raise TypeError("low_latency: this client does not run in this event loop; use `with`.")
        _warn(await self._open())
        return self.client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        side, token = self._entered.pop()
        await side.close(token)

    async def _open(self) -> str:
        """Enter, and return who has no timers that we know, or nothing."""
        with _LOCK:
            side = _SIDES.setdefault(self.client, ClientSide(self.client))
        token = uuid.uuid4().hex
        missing = await side.open(token, self.seconds)
        self._entered.append((side, token))
        return missing


def _warn(missing: str) -> None:
    if missing:
        text = f"low_latency does nothing: this version of distributed keeps the timers of the {missing}'s messages elsewhere."
        warnings.warn(text, GraphoptWarning, stacklevel=3)


class ClientSide:
    """The contexts that are open on one client. What waits runs in the client's event loop."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.contexts: dict[str, float] = {}
        self.stream: Any = None  # the one that was shortened; the scheduler knows us by it
        self.watch: Any = None
        self.order = asyncio.Lock()  # the scheduler is asked for one thing at a time, and in order
        self.background: set[asyncio.Task[None]] = set()

    def connected(self) -> bool:
        """Return whether there is a scheduler to ask."""
        stream = self.client.scheduler_comm
        return self.client.status == "running" and stream is not None and not stream.closed()

    async def open(self, token: str, seconds: float) -> str:
        """Add a context, on the client and then on the cluster; return who has no timers that we know, or nothing."""
        self.contexts[token] = seconds
        try:
            if not self.connected():
                raise ConnectionError("low_latency: the client is not connected to a scheduler.")
            if not timed(self.client.scheduler_comm):
                self.drop(token)
                return "client"
            if self.stream is None:
                self.stream = self.client.scheduler_comm
            self.shorten()
            known = await self.ask_to_open(token, seconds)
        except BaseException:  # the scheduler is gone, or somebody lost patience
            await self.close(token)
            raise
        if not known:
            await self.close(token)
            return "scheduler"
        return ""

    async def close(self, token: str) -> None:
        """Take a context away, here and on the cluster, which is waited for. One that is gone is no error."""
        if not self.drop(token):
            return
        task = asyncio.ensure_future(self.ask_to_close(token))
        self.background.add(task)
        task.add_done_callback(self.background.discard)
        clock = asyncio.get_running_loop().time
        deadline = clock() + PATIENCE
        while self.connected() and not task.done() and clock() < deadline:
            await asyncio.wait({task}, timeout=0.1)
        if not self.connected():
            task.cancel()

    def drop(self, token: str) -> bool:
        """Take a context away on the client, and return whether there was one."""
        if self.contexts.pop(token, None) is None:
            return False
        self.shorten()
        if not self.contexts:
            with _LOCK:
                _SIDES.pop(self.client, None)
        return True

    def shorten(self) -> None:
        """Set the client's own timer to what counts now, and watch for other connections while it is short."""
        if self.stream is not None:
            set_timer(self.stream, shortest(self.contexts.values()), large=True)  # graphs
        if self.contexts and self.watch is None:
            from tornado.ioloop import PeriodicCallback

            self.watch = PeriodicCallback(self.look, WATCH * 1e3)
            self.watch.start()
        elif not self.contexts and self.watch is not None:
            self.watch.stop()
            self.watch = None

    async def look(self) -> None:
        """Ask for all that is open again if the connection is a new one."""
        if not self.connected() or self.client.scheduler_comm is self.stream:
            return
        self.stream = self.client.scheduler_comm
        self.shorten()
        try:
            for token, seconds in list(self.contexts.items()):
                await self.ask_to_open(token, seconds)
        except OSError:
            self.stream = None  # lost once more: the next look sees the next connection

    async def ask_to_open(self, token: str, seconds: float) -> bool:
        """Have the cluster's timers set, and return whether it has those that we know."""
        from graphopt.execute.cluster_timers import open_timers

        async with self.order:
            if token not in self.contexts:  # closed meanwhile
                return True
            try:
                refused = await self.client.run_on_scheduler(open_timers, token, self.client.id, seconds)
            except OSError:
                raise
            except Exception as error:
                logger.warning("low_latency: only the client's messages leave sooner, the scheduler refused: %r", error)
                return True
        if refused:
            logger.warning("low_latency: %s workers keep their timers; one says %s", len(refused), next(iter(refused.values())))
        return refused is not None

    async def ask_to_close(self, token: str) -> None:
        """Have the cluster's timers restored."""
        from graphopt.execute.cluster_timers import close_timers

        async with self.order:
            try:
                await self.client.run_on_scheduler(close_timers, token)
            except Exception as error:  # it refused to open too, or it is gone
                logger.debug("low_latency: the scheduler was not told of the end: %r", error)
