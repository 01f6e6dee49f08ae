"""Worker: what a worker of a cluster does in a replay: it holds parts of plans, runs them, and passes values to its peers.

A client opens a comm to each worker and keeps it open; what the client has bound is gone when that comm closes. Peers keep
comms to each other likewise. All comms are dask's own, so they are as secret and as trusted as everything else between these
processes.

Events are handled on the worker's event loop, which waits for messages. Work is done by its task threads, a phase at a time,
and a task thread never waits for a message: two runs cannot hold all threads and wait for each other.

The file is a little long: all that can happen to a run is here, because any of it may happen while any other is awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dask.sizeof import sizeof
from distributed.core import Status, error_message
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol import pickle
from distributed.protocol.serialize import ToPickle

from graphopt.execute import blas
from graphopt.execute.looping import BITS, Disagreement, Loop
from graphopt.execute.resident import Binding, Missing, Resident

__all__ = ["HEAR", "SERVE", "ReplayPlugin", "packed", "unpacked"]

logger = logging.getLogger("distributed.graphopt")

#: What the two operations are called that a worker learns.
SERVE, HEAR = "graphopt-serve", "graphopt-hear"

#: Values of more bytes go into messages as buffers of their own, without a copy.
_LARGE = 2**16

#: A plan that has not run for so many seconds does not hold on to chunks.
_IDLE = 2.0


def packed(value: Any, nbytes: int = 0) -> Any:
    """Return a value as it goes into a message."""
    return ToPickle(value) if nbytes > _LARGE else pickle.dumps(value)


def unpacked(value: Any) -> Any:
    """Return what was packed."""
    return pickle.loads(value) if isinstance(value, (bytes, bytearray, memoryview)) else value


class ReplayPlugin(WorkerPlugin):
    """Teaches a worker to hold and run parts of plans."""

    name = "graphopt-replay"
    idempotent = True

    def setup(self, worker: Any) -> None:
        """Add the operations."""
        self.replayer = Replayer(worker)
        worker.handlers[SERVE] = self.replayer.serve
        worker.handlers[HEAR] = self.replayer.hear

    def teardown(self, worker: Any) -> None:
        """Remove them, and let go of everything."""
        worker.handlers.pop(SERVE, None)
        worker.handlers.pop(HEAR, None)
        self.replayer.close()

    def transition(self, key: Any, start: Any, finish: Any, **_: Any) -> None:
        """Let go of blocks that dask takes away from the worker."""
        if start == "memory" and finish != "memory":
            self.replayer.gone(key)

    def __reduce__(self) -> Any:
        return ReplayPlugin, ()


class Stopped(Exception):
    """A run was given up."""


class PeerLost(Exception):
    """A worker that had a share in a run cannot be reached."""


class _Mailbox:
    """What has come from peers for a run, and who waits for it."""

    __slots__ = ("error", "slots", "waiter")

    def __init__(self) -> None:
        self.slots: dict[int, Any] = {}
        self.waiter: asyncio.Future[None] | None = None
        self.error: Exception | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def get(self, needs: Sequence[int]) -> dict[int, Any]:
        while True:
            if self.error is not None:
                raise self.error
            if all([slot in self.slots for slot in needs]):
                return {slot: self.slots.pop(slot) for slot in needs}
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter


class _Plan:
    """A part that is bound: what it runs, and its runs."""

    def __init__(self, resident: Resident, client: str) -> None:
        self.resident, self.client = resident, client
        self.mail: dict[int, _Mailbox] = {}
        self.over: set[int] = set()  # runs that were given up: what still comes for them is not for anybody
        self.ended: dict[int, tuple[int, Exception]] = {}  # loops of which no run from this on will be: why
        self.used = time.monotonic()

    def mailbox(self, run: int) -> _Mailbox:
        return self.mail.setdefault(run, _Mailbox())

    def stop(self, run: int, error: Exception) -> None:
        """Make a run give up where it next waits for others."""
        self.over.add(run)
        box = self.mail.get(run)
        if box is not None:
            box.error = error
            box.wake()

    def end(self, loop: int, first: int, error: Exception) -> None:
        """Make the runs of a loop from this on give up."""
        self.ended[loop] = (first, error)
        for run, box in self.mail.items():
            if run >> BITS == loop and run >= (loop << BITS) + first:
                box.error = error
                box.wake()

    def given_up(self, run: int) -> Exception | None:
        """Return why there will be no such run; None if there may be."""
        first, error = self.ended.get(run >> BITS, (0, None))
        if error is not None and run >= (run >> BITS << BITS) + first:
            return error
        return Stopped("the run was given up before it began") if run in self.over else None

    def check(self, run: int) -> None:
        """Raise if a run was given up."""
        if (error := self.given_up(run)) is not None:
            raise error

    def close(self) -> None:
        for run in list(self.mail):
            self.stop(run, Stopped("the plan was dropped"))
            self.end(run >> BITS, 0, Stopped("the plan was dropped"))
        self.resident.release()


class Replayer:
    """All that a worker does for replays; one for each worker."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.plans: dict[str, _Plan] = {}
        self.peers: dict[str, Any] = {}  # address -> comm, or the future of one
        self.logged, self.quiet = 0.0, 0
        self.closed = False

    # -- events ------------------------------------------------------------------------------------------------------

    async def serve(self, comm: Any, client: str) -> Any:
        """Do what a client asks for, until it goes away; then let go of all that it bound."""
        mine: set[str] = set()
        running: set[asyncio.Task[Any]] = set()
        try:
            comm.allow_offload = False
            await comm.write({"hello": self.worker.address})
            while True:
                message = await comm.read()
                what = message.pop("do")
                if what == "stop":
                    if (plan := self.plans.get(message["plan"])) is not None:
                        run, why = message["run"], Stopped("the client gave the run up")
                        if run >> BITS:
                            plan.end(run >> BITS, 0, why)
                        else:
                            plan.stop(run, why)
                elif what == "drop":
                    mine.discard(message["plan"])
                    self.drop(message["plan"])
                elif what == "close":
                    break
                else:
                    if what == "bind":
                        mine.add(message["plan"])
                    task = asyncio.ensure_future(self.answer(comm, client, what, **message))
                    running.add(task)
                    task.add_done_callback(running.discard)
        except OSError:
            pass  # the client is gone
        finally:
            for name in mine:
                self.drop(name)
            for task in running:
                task.cancel()
        return Status.dont_reply

    async def hear(self, comm: Any, peer: str) -> Any:
        """Take what a peer sends, until it goes away: then no run can wait for it any more."""
        try:
            while True:
                message = await comm.read()
                plan = self.plans.get(message["plan"])
                run = message["run"]
                if plan is not None and "values" not in message:
                    plan.end(
                        run >> BITS, run % (1 << BITS), Disagreement("the rule `until` ended the loop on some workers only")
                    )
                    continue
                if plan is None or plan.given_up(run) is not None:
                    continue  # a peer may say that the loop has ended before another's share in its last run is here
                box = plan.mailbox(run)
                box.slots.update(zip(message["slots"], unpacked(message["values"]), strict=True))
                box.wake()
        except OSError:
            pass
        finally:
            for plan in self.plans.values():
                if peer in plan.resident.peers:
                    for run in list(plan.mail):
                        plan.stop(run, PeerLost(peer))
        return Status.dont_reply

    def gone(self, key: Any) -> None:
        """Let go of a block."""
        for plan in self.plans.values():
            plan.resident.forget(key)

    def drop(self, name: str) -> None:
        plan = self.plans.pop(name, None)
        if plan is not None:
            plan.close()

    def close(self) -> None:
        """Let go of everything."""
        self.closed = True
        for name in list(self.plans):
            self.drop(name)
        for comm in self.peers.values():
            if hasattr(comm, "abort"):
                comm.abort()
        self.peers.clear()

    # -- requests ----------------------------------------------------------------------------------------------------

    async def answer(self, comm: Any, client: str, what: str, id: int, **message: Any) -> None:
        """Do one thing and send back what came of it."""
        requests: dict[str, Callable[..., Any]] = {
            "bind": self.bind,
            "run": self.run,
            "loop": functools.partial(self.loop, functools.partial(_tell, comm, id)),
            "info": self.info,
            "ping": self.ping,
        }
        try:
            reply = await requests[what](client=client, **message)
        except Missing as missing:
            reply = {"status": "missing", "keys": pickle.dumps(missing.keys)}
        except (PeerLost, Stopped) as lost:
            reply = {"status": "lost", "why": f"{type(lost).__name__}: {lost}"}
        except asyncio.CancelledError:
            return
        except Exception as error:
            if self.leaves:  # task threads end and blocks go: what fails because of that is nobody's mistake
                reply = {"status": "lost", "why": f"the worker is closing: {error}"}
            else:
                reply = {"status": "error", **_without_status(error_message(error))}
        with contextlib.suppress(OSError):  # the client is gone; `serve` notices too
            await comm.write({"id": id, **reply})

    async def ping(self, client: str) -> dict[str, Any]:
        return {"status": "OK"}

    async def info(self, client: str, plan: str | None = None) -> dict[str, Any]:
        """Say what is held, of one plan or of all."""
        found = self.plans if plan is None else {plan: self.plans[plan]} if plan in self.plans else {}
        return {"status": "OK", "plans": {name: each.resident.info() for name, each in found.items()}}

    async def bind(self, client: str, plan: str, part: Any) -> dict[str, Any]:
        """Take a part of a plan."""
        binding: Binding = unpacked(part)
        resident = Resident(binding, self.worker.data, self.executor, self.worker.state.nthreads)
        await asyncio.wrap_future(self.executor.submit(blas.refresh))
        self.plans[plan] = _Plan(resident, client)
        return {"status": "OK"}

    @property
    def leaves(self) -> bool:
        """Whether the worker is about to close."""
        return self.closed or self.worker.status not in (Status.running, Status.paused, Status.closing_gracefully)

    @property
    def executor(self) -> Any:
        return self.worker.executors["default"]

    async def run(self, client: str, plan: str, run: int, given: Any) -> dict[str, Any]:
        """Run a part once: return the results that the client wants, keep those that stay."""
        held = self.plans.get(plan)
        if held is None:
            raise Stopped("the plan is not bound here")
        held.check(run)
        box = held.mailbox(run)
        try:
            names, small, kept = unpacked(given)
            resident = held.resident
            values, bounds = resident.fill(names, small)
            seconds = 0.0
            for number, phase in enumerate(resident.part.phases):
                if phase.needs:
                    for slot, value in (await box.get(phase.needs)).items():
                        values[slot] = value
                if phase.levels:
                    seconds += await asyncio.wrap_future(self.executor.submit(resident.run, number, values, bounds))
                if box.error is not None:
                    raise box.error
                for to, slots in phase.sends:
                    await self.send(str(to), plan, run, slots, [values[slot] for slot in slots])
                for slot in phase.drop:
                    values[slot] = None
            out = [values[slot] for slot in resident.part.gives]
            if kept:
                await self.keep(client, resident.kept(kept, values))
            held.used = time.monotonic()
            self.wind_down(held)
            self.log(plan, seconds)
            return {"status": "OK", "values": packed(out, sum(map(_nbytes, out))), "seconds": seconds}
        except BaseException:
            held.over.add(run)
            raise
        finally:
            held.mail.pop(run, None)

    async def loop(self, tell: Callable[..., Any], client: str, plan: str, run: int, course: Any) -> dict[str, Any]:
        """Run a part again and again, until the end."""
        held = self.plans.get(plan)
        if held is None:
            raise Stopped("the plan is not bound here")
        what, leaves, first, speaks = unpacked(course)
        loop = Loop(held.resident, what, leaves, first)
        try:
            await loop.run(self, held, plan, run >> BITS, tell if speaks else _silence)
        except BaseException as error:
            held.end(run >> BITS, 0, error if isinstance(error, Exception) else Stopped("it was cancelled"))
            raise
        held.used = time.monotonic()
        self.wind_down(held)
        return {"status": "OK", "number": loop.number, "values": packed(loop.leaves), "seconds": list(loop.each)}

    async def over(self, to: str, plan: str, loop: int, number: int) -> None:
        """Tell a peer that a loop has ended here."""
        try:
            await (await self.peer(to)).write({"plan": plan, "run": (loop << BITS) + number})
        except (OSError, asyncio.TimeoutError):
            self.peers.pop(to, None)

    async def keep(self, client: str, data: Mapping[Any, Any]) -> None:
        """Make results data that dask knows, wanted by the client."""
        # The scheduler first: told by the worker of a key that it does not know, it would have it deleted.
        nbytes = {key: sizeof(value) for key, value in data.items()}
        who_has = {key: [self.worker.address] for key in data}
        await self.worker.scheduler.update_data(who_has=who_has, nbytes=nbytes, client=client)
        self.worker.update_data(data=dict(data))

    def wind_down(self, plan: _Plan) -> None:
        """See to it that a plan that is not used any more lets go of chunks, so that dask may spill or move them."""
        if not plan.resident.watched:
            plan.resident.watched = True
            self.worker.loop.call_later(_IDLE, self._look, plan)

    def _look(self, plan: _Plan) -> None:
        left = plan.used + _IDLE - time.monotonic()
        if left > 0 or plan.mail:
            self.worker.loop.call_later(max(left, 0.1), self._look, plan)
        else:
            plan.resident.watched = False
            plan.resident.release()

    def log(self, plan: str, seconds: float) -> None:
        """Let the dashboard know, at a bounded rate."""
        self.quiet += 1
        now = time.monotonic()
        if now - self.logged > 0.5:
            self.worker.log_event("graphopt", {"plan": plan, "runs": self.quiet, "seconds": seconds})
            self.logged, self.quiet = now, 0

    # -- peers ---------------------------------------------------------------------------------------------------------

    async def send(self, to: str, plan: str, run: int, slots: Sequence[int], values: list[Any]) -> None:
        """Send values to a peer over a comm that stays open."""
        message = {"plan": plan, "run": run, "slots": list(slots), "values": packed(values, sum(map(_nbytes, values)))}
        try:
            comm = await self.peer(to)
            comm.allow_offload = not isinstance(message["values"], bytes)  # to find out how large it is takes longer
            await comm.write(message)
        except (OSError, asyncio.TimeoutError) as error:
            self.peers.pop(to, None)
            raise PeerLost(f"{to}: {error}") from error

    async def peer(self, address: str) -> Any:
        comm = self.peers.get(address)
        if isinstance(comm, asyncio.Future):
            comm = await asyncio.shield(comm)
        if comm is None or comm.closed():
            task = self.peers[address] = asyncio.ensure_future(self.connect(address))
            comm = self.peers[address] = await task
        return comm

    async def connect(self, address: str) -> Any:
        comm = await self.worker.rpc.connect(address)
        await comm.write({"op": HEAR, "peer": self.worker.address, "reply": False})
        return comm


async def _tell(comm: Any, id: int, number: int, leaves: list[Any]) -> None:
    """Tell the client how far a loop is."""
    await comm.write({"id": id, "status": "progress", "number": number, "values": packed(leaves)})


async def _silence(number: int, leaves: list[Any]) -> None:
    pass


def _nbytes(value: Any) -> int:
    return int(getattr(value, "nbytes", 0) or 0)


def _without_status(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "status"}
