"""Runs: the runs of a part on a worker: what has come for them from peers, how far they are, and which were given up."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from graphopt.execute.peers import Peers
from graphopt.execute.resident import Resident

__all__ = ["BITS", "Held", "Mailbox", "Pass", "Stopped"]

#: Runs of a loop are numbered from ``loop << BITS`` on; the runs of calls are below the first.
BITS = 40

#: How many seconds a task thread waits for peers before it gives itself back, and how often it looks whether it must.
_PATIENCE, _LOOK = 0.02, 0.001


class Stopped(Exception):
    """A run was given up."""


class Mailbox:
    """What has come from peers for a run, and who waits for it. May be filled by any thread."""

    __slots__ = ("error", "gates", "slots")

    def __init__(self) -> None:
        self.slots: dict[int, Any] = {}
        self.gates: deque[Callable[[], Any]] = deque()  # what lets those go on who wait
        self.error: Exception | None = None

    def wake(self) -> None:
        """Let who waits look again."""
        while self.gates:
            with contextlib.suppress(IndexError):  # another thread was faster
                self.gates.pop()()

    def found(self, needs: Sequence[int]) -> dict[int, Any] | None:
        """Return the values of slots; None if some have not come.

        Raises
        ------
        Exception
            If the run was given up: why.
        """
        if self.error is not None:
            raise self.error
        slots = self.slots
        return {slot: slots.pop(slot) for slot in needs} if all([slot in slots for slot in needs]) else None

    async def get(self, needs: Sequence[int]) -> dict[int, Any]:
        """Wait for slots, on the event loop."""
        loop = asyncio.get_running_loop()
        while (found := self.found(needs)) is None:
            came = asyncio.Event()
            self.gates.append(functools.partial(loop.call_soon_threadsafe, came.set))
            if (found := self.found(needs)) is not None:  # it came before there was a gate to open
                break
            await came.wait()
        return found

    def wait(
        self, needs: Sequence[int], wanted: Callable[[], bool], listen: Callable[[float], bool] = lambda _: False
    ) -> dict[int, Any] | None:
        """Wait a little for slots, on a task thread; return None if they do not come, or the thread is wanted elsewhere.

        A thread that waited for as long as it takes could be waited for by the very peer that it waits for. ``listen`` reads
        messages, if that is for this thread to do.
        """
        until = time.monotonic() + _PATIENCE
        while (found := self.found(needs)) is None:
            if listen(_LOOK):
                if wanted() or time.monotonic() > until:
                    return self.found(needs)
                continue
            gate = threading.Lock()
            gate.acquire()
            self.gates.append(gate.release)
            if (found := self.found(needs)) is not None:  # it came before there was a gate to open
                break
            while not gate.acquire(timeout=_LOOK):
                if wanted() or time.monotonic() > until:
                    return None
        return found


class Held:
    """A part that is bound, and its runs."""

    def __init__(self, resident: Resident) -> None:
        self.resident = resident
        self.mail: dict[int, Mailbox] = {}
        self.over: set[int] = set()  # runs that were given up: what still comes for them is not for anybody
        self.ended: dict[int, tuple[int, Exception]] = {}  # loops of which no run from this on will be: why
        self.used = time.monotonic()

    def mailbox(self, run: int) -> Mailbox:
        """Return the mailbox of a run."""
        return self.mail.setdefault(run, Mailbox())

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
        for run, box in list(self.mail.items()):
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

    def deliver(self, run: int, values: Mapping[int, Any]) -> None:
        """Take what a peer sent for a run."""
        if self.given_up(run) is None:  # a peer may say that a loop has ended before another's share in its last run is here
            box = self.mailbox(run)
            box.slots.update(values)
            box.wake()

    def lose(self, peer: str, error: Exception) -> None:
        """Make all runs give up that a peer has a share in."""
        if peer in self.resident.peers:
            for run in list(self.mail):
                self.stop(run, error)

    def close(self) -> None:
        """Let go of everything."""
        for run in list(self.mail):
            self.stop(run, Stopped("the plan was dropped"))
            self.end(run >> BITS, 0, Stopped("the plan was dropped"))
        self.resident.release()


class Pass:
    """One pass through the phases of a part.

    A task thread takes it as far as it can, and waits for peers only a little. Then the event loop waits, and a thread goes on.
    """

    def __init__(self, held: Held, plan: str, run: int, values: list[Any], bounds: Any, peers: Peers) -> None:
        held.check(run)
        self.held, self.plan, self.run, self.peers = held, plan, run, peers
        self.values, self.bounds = values, bounds
        self.box = held.mailbox(run)
        self.phases = held.resident.part.phases
        self.at = 0
        self.arrived = False
        self.sending: list[Future[None]] = []
        self.seconds = 0.0

    def go(self, wanted: Callable[[], bool], listen: Callable[[float], bool] = lambda _: False) -> bool:
        """Go on, on a task thread; return whether the end was reached. ``wanted`` says whether others need the thread."""
        values = self.values
        while self.at < len(self.phases):
            phase = self.phases[self.at]
            if phase.needs and not self.arrived:
                found = self.box.wait(phase.needs, wanted, listen)
                if found is None:
                    return False
                self.take(found)
            if phase.levels:
                self.seconds += self.held.resident.run(self.at, values, self.bounds)
            if self.box.error is not None:
                raise self.box.error
            for to, slots in phase.sends:
                sending = self.peers.send(str(to), self.plan, self.run, slots, [values[slot] for slot in slots])
                if sending is not None:
                    self.sending.append(sending)
            for slot in phase.drop:
                values[slot] = None
            self.at += 1
            self.arrived = False
        return all([sending.done() and sending.result() is None for sending in self.sending])

    async def wait(self) -> None:
        """Wait for what kept the thread, on the event loop."""
        if self.at < len(self.phases):
            self.take(await self.box.get(self.phases[self.at].needs))
        else:
            for sending in self.sending:
                await asyncio.wrap_future(sending)

    def take(self, found: Mapping[int, Any]) -> None:
        """Put what has come in its slots."""
        for slot, value in found.items():
            self.values[slot] = value
        self.arrived = True

    def close(self) -> None:
        """Throw the mailbox away."""
        self.held.mail.pop(self.run, None)
