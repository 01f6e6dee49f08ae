"""Worker: what a worker of a cluster does in a replay: it holds parts of plans, runs them, and passes values to its peers.

A client opens a comm to each worker and keeps it open; what the client has bound is gone when that comm closes. Peers keep
comms to each other likewise. All comms are dask's own, so they are as secret and as trusted as everything else between these
processes. What is small and often goes over lines (`line.py`), which are comms too.

Events are handled on the worker's event loop, which waits for messages. Work is done by its task threads. They take a run as
far as they can, and wait for a message for some milliseconds at most: two runs cannot hold all threads and wait for each other.

The file is a little long: all that can happen to a run is here, because any of it may happen while any other is awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distributed.core import Status, error_message
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol import pickle
from distributed.protocol.serialize import Serialize

from graphopt.execute import allocator, blas
from graphopt.execute.ears import Ears
from graphopt.execute.events import Events
from graphopt.execute.line import GREETING, Line, can_take
from graphopt.execute.looping import Disagreement, Loop
from graphopt.execute.packing import flat, nbytes, packed, round_again, unpacked
from graphopt.execute.peers import HEAR, LINE, PATIENCE, PeerLost, Peers
from graphopt.execute.resident import Binding, Missing, Resident
from graphopt.execute.runs import BITS, Held, Pass, Stopped
from graphopt.execute.shelf import Shelf

__all__ = ["SERVE", "ReplayPlugin"]

logger = logging.getLogger("distributed.graphopt")

#: What the operation is called that a worker learns for clients.
SERVE = "graphopt-serve"

#: A plan that has not run for so many seconds does not hold on to chunks.
_IDLE = 2.0

#: What the scheduler's message is called that a worker is to leave, say.
_STATUS = "worker-status-change"


class ReplayPlugin(WorkerPlugin):
    """Teaches a worker to hold and run parts of plans."""

    name = "graphopt-replay"
    idempotent = True

    def setup(self, worker: Any) -> None:
        """Add the operations."""
        self.replayer = Replayer(worker)
        worker.handlers[SERVE] = self.replayer.serve
        worker.handlers[HEAR] = self.replayer.hear
        worker.handlers[LINE] = self.replayer.line
        self.changes = worker.stream_handlers.get(_STATUS)
        if self.changes is not None:
            worker.stream_handlers[_STATUS] = self.changed

    def changed(self, **about: Any) -> None:
        """Pass on what the scheduler says about the worker's status; it may be about to leave."""
        self.changes(**about)
        self.replayer.shelf.warn()

    def teardown(self, worker: Any) -> None:
        """Remove them, and let go of everything."""
        for name in (SERVE, HEAR, LINE):
            worker.handlers.pop(name, None)
        if self.changes is not None:
            worker.stream_handlers[_STATUS] = self.changes
        self.replayer.close()

    def transition(self, key: Any, start: Any, finish: Any, **_: Any) -> None:
        """Let go of blocks that dask takes away from the worker."""
        if start == "memory" and finish != "memory":
            self.replayer.gone(key)

    def __reduce__(self) -> Any:
        return ReplayPlugin, ()


class Replayer:
    """All that a worker does for replays; one for each worker."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.plans: dict[str, Held] = {}
        self.shelf = Shelf(worker, self.gone)
        self.peers = Peers(worker, _here)
        _HERE[worker.address] = self
        self.ears = Ears()
        self.lines: set[Line] = set()
        self.events = Events(worker)
        self.closed = False

    # -- events ------------------------------------------------------------------------------------------------------

    async def serve(self, comm: Any, client: str) -> Any:
        """Do what a client asks for, until it goes away; then let go of all that it bound."""
        mine: set[str] = set()
        running: set[asyncio.Task[Any]] = set()
        self.shelf.come(client, comm)
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
                elif what == "forget":
                    self.shelf.take(message["names"])
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
            self.shelf.go(client, comm)
        return Status.dont_reply

    async def hear(self, comm: Any, peer: str) -> Any:
        """Take what a peer sends, until it goes away: then no run can wait for it any more."""
        try:
            while True:
                message = await comm.read()
                plan, run = message["plan"], message["run"]
                if "values" in message:
                    self.deliver(plan, run, message["slots"], unpacked(message["values"]))
                elif (held := self.plans.get(plan)) is not None:
                    why = Disagreement("the rule `until` ended the loop on some workers only")
                    held.end(run >> BITS, run % (1 << BITS), why)
        except OSError:
            pass
        finally:
            self.lose(peer)
        return Status.dont_reply

    async def line(self, comm: Any, client: str = "", peer: str = "") -> Any:
        """Take a comm over as a line of a client, or of a peer, until it goes away."""
        if not can_take(comm):
            comm.abort()
            return Status.dont_reply
        ended = asyncio.Event()

        def asked(message: Any) -> None:
            self.asked(client, line, *message)

        def delivered(message: Any) -> None:
            plan, run, slots, values = message
            self.deliver(plan, run, slots, [round_again(value) for value in values])

        line = Line(comm, asked if client else delivered, ended.set)
        self.lines.add(line)
        if peer:
            self.ears.add(line)
        try:
            line.send(GREETING)
            await ended.wait()
        finally:
            self.lines.discard(line)
            self.ears.discard(line)
            line.close()
            self.lose(peer)
        return Status.dont_reply

    def deliver(self, plan: str, run: int, slots: Sequence[int], values: Sequence[Any]) -> None:
        """Take what a peer sent."""
        held = self.plans.get(plan)
        if held is not None:
            held.deliver(run, dict(zip(slots, values, strict=True)))

    def lose(self, peer: str) -> None:
        """Make runs give up that wait for a peer that has gone away."""
        for held in self.plans.values():
            held.lose(peer, PeerLost(peer))

    def gone(self, key: Any) -> None:
        """Let go of a block."""
        for plan in self.plans.values():
            plan.resident.forget(key)

    def drop(self, name: str) -> None:
        plan = self.plans.pop(name, None)
        if plan is not None:
            plan.close()
            allocator.give_back()

    def close(self) -> None:
        """Let go of everything."""
        self.closed = True
        for name in list(self.plans):
            self.drop(name)
        self.peers.close()
        _HERE.pop(self.worker.address, None)
        for other in list(_HERE.values()):
            other.worker.loop.add_callback(other.lose, self.worker.address)
        for line in list(self.lines):
            line.close()

    # -- requests ----------------------------------------------------------------------------------------------------

    async def answer(self, comm: Any, client: str, what: str, id: int, **message: Any) -> None:
        """Do one thing and send back what came of it."""
        requests: dict[str, Callable[..., Any]] = {
            "bind": self.bind,
            "run": self.run,
            "loop": functools.partial(self.loop, functools.partial(_tell, comm, id)),
            "register": self.shelf.register,
            "info": self.info,
            "ping": self.ping,
        }
        try:
            reply = await requests[what](client=client, **message)
        except asyncio.CancelledError:
            return
        except Exception as error:
            reply = self.excuse(error)
        try:
            await comm.write({"id": id, **reply})
        except OSError:
            pass  # the client is gone; `serve` notices too
        except Exception as error:  # a result that cannot be sent
            await comm.write({"id": id, **self.excuse(error)})

    def excuse(self, error: BaseException) -> dict[str, Any]:
        """Return the answer where an error kept the worker from doing what was asked."""
        if isinstance(error, Missing):
            return {"status": "missing", "keys": pickle.dumps(error.keys)}
        if isinstance(error, (PeerLost, Stopped)):
            return {"status": "lost", "why": f"{type(error).__name__}: {error}"}
        if self.leaves:  # task threads end and blocks go: what fails because of that is nobody's mistake
            return {"status": "lost", "why": f"the worker is closing: {error}"}
        return {"status": "error", **_without_status(error_message(error))}

    async def ping(self, client: str) -> dict[str, Any]:
        return {"status": "OK"}

    async def info(self, client: str, plan: str | None = None) -> dict[str, Any]:
        """Say what is held, of one plan or of all."""
        found = self.plans if plan is None else {plan: self.plans[plan]} if plan in self.plans else {}
        return {"status": "OK", "plans": {name: each.resident.info() for name, each in found.items()}}

    async def bind(self, client: str, plan: str, part: Any) -> dict[str, Any]:
        """Take a part of a plan."""
        binding: Binding = unpacked(part)
        resident = Resident(binding, self.worker.data, self.executor, self.worker.state.nthreads, self.shelf)
        await self.job(blas.refresh)
        await self.peers.open({str(to) for phase in binding.part.phases for to, _ in phase.sends})
        if plan not in self.plans:
            allocator.keep()
        self.plans[plan] = Held(resident)
        return {"status": "OK"}

    @property
    def leaves(self) -> bool:
        """Whether the worker is about to close."""
        return self.closed or self.worker.status not in (Status.running, Status.paused, Status.closing_gracefully)

    @property
    def executor(self) -> Any:
        return self.worker.executors["default"]

    async def job(self, work: Callable[..., Any], *args: Any) -> Any:
        """Have a task thread do something, and wait for it."""
        return await asyncio.wrap_future(self.executor.submit(work, *args))

    def wanted(self) -> bool:
        """Say whether something waits for a task thread."""
        waiting = getattr(self.executor, "_work_queue", None)
        return waiting is None or not waiting.empty()

    # -- calls -------------------------------------------------------------------------------------------------------

    def begin(self, plan: str, run: int, names: Mapping[int, Any], small: Mapping[int, Any]) -> Pass:
        """Return the run that a client asks for."""
        held = self.held(plan)
        values, bounds = held.resident.fill(names, small)
        self.wind_down(held)
        return Pass(held, plan, run, values, bounds, self.peers)

    def held(self, plan: str) -> Held:
        """Return a plan that is bound here."""
        if (held := self.plans.get(plan)) is None:
            raise Stopped("the plan is not bound here")
        return held

    async def run(self, client: str, plan: str, run: int, given: Any) -> dict[str, Any]:
        """Run a part once: return the results that the client wants, keep those that stay."""
        names, small, kept = unpacked(given)
        reply = await self.finish(self.begin(plan, run, names, small), client, kept)
        reply["values"] = packed(reply["values"], nbytes(reply["values"]))
        return reply

    async def finish(self, call: Pass, client: str, kept: Any = None, begun: bool = False) -> dict[str, Any]:
        """Take a run to its end; ``begun`` says that a task thread has got stuck with it."""
        try:
            while begun or not await self.job(call.go, self.wanted):
                await call.wait()
                begun = False
            if kept:
                await self.shelf.keep(client, call.held.resident.kept(kept, call.values))
            return self.result(call)
        except BaseException:
            call.held.over.add(call.run)
            raise
        finally:
            call.close()

    def result(self, call: Pass) -> dict[str, Any]:
        """Return the answer to a run that has come to its end."""
        out = [call.values[slot] for slot in call.held.resident.part.gives]
        call.held.used = time.monotonic()
        self.events.log(call.held.resident.binding.name, 1, call.seconds)
        return {"status": "OK", "values": out, "seconds": call.seconds}

    def asked(
        self,
        client: str,
        line: Line,
        plan: str,
        run: int,
        names: Any,
        small: Mapping[int, Any],
        made: Sequence[str | None],
        dropped: Sequence[str],
    ) -> None:
        """Begin a run that a client asks for over a line. Results that stay go on the shelf, and what was dropped leaves it."""

        def answer(reply: dict[str, Any], patience: float = 0.0) -> None:
            try:
                if "values" in reply:
                    if made:
                        self.shelf.put(client, call.held.resident.kept(made, call.values))
                    reply["values"] = [flat(value) for value in reply["values"]]
            except Exception as error:  # a result that cannot be sent
                reply = self.excuse(error)
            plain = {name: part.data if isinstance(part, Serialize) else part for name, part in reply.items()}
            with contextlib.suppress(OSError):  # the client is gone; `serve` notices too
                line.send((plan, run, plain), patience)

        def straight() -> None:  # a task thread does all of it if it can
            try:
                if not call.go(self.wanted):
                    self.worker.loop.add_callback(rest)
                    return
                reply = self.result(call)
            except BaseException as error:
                call.held.over.add(run)
                reply = self.excuse(error)
            call.close()
            answer(reply, PATIENCE)

        async def rest() -> None:
            try:
                reply = await self.finish(call, client, begun=True)
            except Exception as error:
                reply = self.excuse(error)
            answer(reply)

        if dropped:
            self.shelf.take(dropped)
        try:
            call = self.begin(plan, run, unpacked(names), {slot: round_again(value) for slot, value in small.items()})
            self.executor.submit(straight)
        except Exception as error:
            answer(self.excuse(error))

    # -- loops -------------------------------------------------------------------------------------------------------

    async def loop(self, tell: Callable[..., Any], client: str, plan: str, run: int, course: Any) -> dict[str, Any]:
        """Run a part again and again, until the end."""
        held = self.held(plan)
        what, leaves, first, speaks = unpacked(course)
        loop = Loop(held, what, leaves, first, plan, run >> BITS, self.peers, self.ears)
        said = first, 0.0

        def log() -> None:
            nonlocal said
            self.events.log(held.resident.binding.name, loop.number - said[0], loop.worked - said[1])
            said = loop.number, loop.worked

        async def say(number: int, leaves: list[Any]) -> None:
            log()
            if speaks:
                await tell(number, leaves)

        try:
            await loop.run(self.job, self.wanted, say)
        except BaseException as error:
            held.end(run >> BITS, 0, error if isinstance(error, Exception) else Stopped("it was cancelled"))
            raise
        held.used = time.monotonic()
        self.wind_down(held)
        log()
        return {"status": "OK", "number": loop.number, "values": packed(loop.leaves), "seconds": list(loop.each)}

    def wind_down(self, plan: Held) -> None:
        """See to it that a plan that is not used any more lets go of chunks, so that dask may spill or move them."""
        if not plan.resident.watched:
            plan.resident.watched = True
            self.worker.loop.call_later(_IDLE, self._look, plan)

    def _look(self, plan: Held) -> None:
        left = plan.used + _IDLE - time.monotonic()
        if left > 0 or plan.mail:
            self.worker.loop.call_later(max(left, 0.1), self._look, plan)
        else:
            plan.resident.watched = False
            self.events.log(plan.resident.binding.name, 0, 0.0, rate=0.0)
            plan.resident.release()


#: The workers of this process, by address.
_HERE: weakref.WeakValueDictionary[str, Replayer] = weakref.WeakValueDictionary()


def _here(address: str) -> Callable[..., None] | None:
    """Return what takes values for a worker of this process; None for others."""
    found = _HERE.get(address)
    return None if found is None else found.deliver


async def _tell(comm: Any, id: int, number: int, leaves: list[Any]) -> None:
    """Tell the client how far a loop is."""
    await comm.write({"id": id, "status": "progress", "number": number, "values": packed(leaves)})


def _without_status(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "status"}
