"""The timers of a cluster, as `low_latency` sets them: the part that runs on the scheduler and on the workers.

The scheduler knows who has a context open. It sets its own streams, to clients and to workers, and tells each worker to set
its stream back. What a worker was told is noted, and it is told again until that is what counts: so it does not matter in
which order contexts open and close while workers join, hang or die. That bookkeeping is a plugin of the scheduler, which is
there while it is needed. Workers get none: a plugin on its way to a worker that is joining cannot be called back.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from distributed import SchedulerPlugin
from distributed.protocol.pickle import dumps

from graphopt.execute.low_latency import set_timer, shortest, timed

__all__ = ["NAME", "ClusterTimers", "close_timers", "open_timers"]

logger = logging.getLogger("graphopt")

NAME = "graphopt-low-latency"
#: Seconds that a client is kept waiting for workers that do not answer; they are told in the background.
PATIENCE = 5.0
RETRY = 0.2


async def open_timers(token: str, client: str, seconds: float, dask_scheduler: Any = None) -> dict[str, str] | None:
    """Add a context of a client, or nothing if that is there already. Runs on the scheduler.

    Returns
    -------
    dict of str to str, or None
        The workers that refused, and why; None if there are no timers to set.
    """
    streams = _streams(dask_scheduler)
    if streams is None or not all(timed(stream) for stream in streams):
        return None
    if client not in dask_scheduler.clients:  # it went while it asked: nobody would ever close this
        return {}
    timers = dask_scheduler.plugins.get(NAME)
    if timers is None:
        timers = ClusterTimers(dask_scheduler)
        dask_scheduler.add_plugin(timers, name=NAME)
    timers.contexts[token] = client, seconds
    await timers.settle()
    return dict(timers.refused)


async def close_timers(token: str, dask_scheduler: Any = None) -> None:
    """Take a context away. Runs on the scheduler."""
    timers = dask_scheduler.plugins.get(NAME)
    if timers is not None and timers.contexts.pop(token, None):
        await timers.settle()


def time_worker(seconds: float | None, dask_worker: Any = None) -> None:
    """Set the timer of a worker's stream to the scheduler. Runs on the worker."""
    stream = getattr(dask_worker, "batched_stream", None)
    if stream is None or not timed(stream):
        logger.warning("low_latency: this worker's distributed keeps its timers elsewhere; they stay as they are.")
    else:
        set_timer(stream, seconds)


class ClusterTimers(SchedulerPlugin):
    """The contexts that are open on a cluster, and which worker knows what. All of it runs in the scheduler's event loop."""

    name = NAME

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.contexts: dict[str, tuple[str, float]] = {}
        self.told: dict[str, float] = {}  # by the worker's id: another worker may come to have its address
        self.telling: dict[str, asyncio.Task[None]] = {}
        self.refused: dict[str, str] = {}
        self.closing = False

    @property
    def seconds(self) -> float | None:
        """What counts now; None for dask's own."""
        return shortest(seconds for _, seconds in self.contexts.values())

    async def settle(self) -> None:
        """Bring everybody to what counts, and wait for those who answer."""
        self.begin()
        if self.telling:
            await asyncio.wait(list(self.telling.values()), timeout=PATIENCE)

    def begin(self) -> None:
        """Set the scheduler's streams, and start to tell those workers that know something else."""
        for stream in _streams(self.scheduler) or ():
            set_timer(stream, self.seconds)
        here = {worker.server_id for worker in self.scheduler.workers.values()}
        self.told = {worker: seconds for worker, seconds in self.told.items() if worker in here}
        for worker in self.scheduler.workers.values():
            self.begin_to_tell(worker)
        self.end()

    def begin_to_tell(self, worker: Any) -> None:
        """Start to tell a worker, unless it knows or is being told."""
        identity = worker.server_id
        if not self.closing and identity not in self.telling and self.told.get(identity) != self.seconds:
            self.telling[identity] = asyncio.ensure_future(self.tell(worker))

    async def tell(self, worker: Any) -> None:
        """Tell a worker until it knows what counts, or is gone."""
        try:
            while self.scheduler.workers.get(worker.address) is worker and self.told.get(worker.server_id) != self.seconds:
                seconds = self.seconds
                try:
                    await self.order(worker, seconds)
                except OSError:  # it is dying, and will be out of the list, or the network had a moment
                    await asyncio.sleep(RETRY)
                    continue
                if seconds is None:
                    self.told.pop(worker.server_id, None)
                else:
                    self.told[worker.server_id] = seconds
        finally:
            del self.telling[worker.server_id]
            self.end()

    async def order(self, worker: Any, seconds: float | None) -> None:
        """Send a worker the order to set its timer."""
        try:
            answer = await self.scheduler.rpc(worker.address).run(
                function=dumps(time_worker), args=dumps((seconds,)), kwargs=dumps({})
            )
        except OSError:
            raise
        except Exception as error:  # it does not run functions, or graphopt is not installed there
            self.refused[worker.address] = repr(error)
        else:
            if answer["status"] != "OK":
                self.refused[worker.address] = str(answer.get("exception_text", answer))

    def end(self) -> None:
        """Leave the scheduler if nothing is open and every worker knows."""
        if not self.contexts and not self.telling and self.scheduler.plugins.get(NAME) is self:
            self.scheduler.remove_plugin(NAME)

    # -- what the scheduler calls --------------------------------------------------------------------------------------

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """Let a worker that joins take part."""
        set_timer(scheduler.stream_comms[worker], self.seconds)
        self.begin_to_tell(scheduler.workers[worker])

    def add_client(self, scheduler: Any, client: str) -> None:
        """Let a client that joins take part, as soon as there is a stream to it: right after this call."""
        asyncio.get_running_loop().call_soon(self.time_client, client)

    def time_client(self, client: str) -> None:
        """Set the timer of the stream to a client."""
        stream = self.scheduler.client_comms.get(client)
        if stream is not None:
            set_timer(stream, self.seconds)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Close the contexts of a client that is gone, whether it said so or not."""
        gone = [token for token, (owner, _) in self.contexts.items() if owner == client]
        for token in gone:
            del self.contexts[token]
        if gone and not self.closing:
            self.begin()

    async def close(self) -> None:
        """Tell nobody any more: the scheduler ends."""
        self.closing = True
        for task in self.telling.values():
            task.cancel()


def _streams(scheduler: Any) -> list[Any] | None:
    """Return the scheduler's streams to clients and workers; None where they are not to be found."""
    try:
        return [*scheduler.client_comms.values(), *scheduler.stream_comms.values()]
    except AttributeError:
        return None
