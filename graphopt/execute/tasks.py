"""Tasks: replays a plan on workers that the client cannot talk to, or that refuse: by ordinary tasks of dask's.

Each worker gets a task for each phase of its part, and dask carries what goes between them. It costs what tasks cost, but of
those there are a few for each worker, not one for each chunk. What dask does when a worker is lost, it does for these too.
"""

from __future__ import annotations

import functools
import threading
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distributed.protocol import pickle

from graphopt.execute import blas
from graphopt.execute.channel import Network
from graphopt.execute.resident import Binding, Resident, pickled
from graphopt.execute.shares import Shares
from graphopt.parts import Partition
from graphopt.trace import Argument

__all__ = ["Tasks"]

#: How many sets of blocks workers hold for a plan.
_HELD = 4


class Tasks:
    """A plan on the workers of a client, by ordinary tasks.

    Parameters
    ----------
    shares
        How the plan is divided.
    network
        Of the client.
    """

    def __init__(self, shares: Shares, network: Network) -> None:
        self.shares, self.network = shares, network
        self.held: OrderedDict[Any, tuple[Partition, dict[Any, Any]]] = OrderedDict()

    async def hold(self, arguments: Sequence[Argument]) -> tuple[Partition, dict[Any, Any]]:
        """Return the parts of all workers, and the futures of what they hold: their part and their blocks."""
        homes: dict[int, tuple[str, ...]] = {}
        blocks: dict[int, Sequence[Any]] = {}
        for place, argument in enumerate(arguments):
            if argument.kind == "chunked":
                homes[place], _ = await self.network.places.locate(argument, direct=False)
                blocks[place] = await self.network.places.futures(argument)
        what = (*homes.values(), *[arguments[place].value.name for place in homes])
        if what not in self.held:
            parts = await self.shares.divide(homes, arguments, self.network.places, everywhere=False)
            held = {}
            for worker, part in parts.parts.items():
                futures = []
                for slot in part.chunks:
                    if slot in self.shares.fixed:
                        futures.append(self.shares.fixed[slot])
                    else:
                        place, number = self.shares.chunks[slot]
                        futures.append(blocks[place][number])
                held[worker] = self.submit(_Held, worker, pickled(self.shares.of(parts, str(worker))), futures)
            self.held[what] = parts, held
            while len(self.held) > _HELD:
                self.held.popitem(last=False)
        self.held.move_to_end(what)
        return self.held[what]

    def submit(self, work: Any, worker: Any, *args: Any, key: Any = None) -> Any:
        """Have a worker run a task; another does it if that one leaves."""
        key = key or f"graphopt-{self.shares.name}-{work.__name__.strip('_').lower()}-{uuid.uuid4().hex}"
        return self.network.client.submit(work, *args, key=key, workers=[str(worker)], allow_other_workers=True, pure=False)

    async def call(
        self, arguments: Sequence[Argument], numbers: Mapping[int, Any]
    ) -> tuple[Partition, list[Any], list[Any], list[Any]]:
        """Run the plan once.

        Return the parts, the values of all slots that are handed back, and of results that stay the names and the futures.
        """
        parts, held = await self.hold(arguments)
        small = self.shares.given(arguments, numbers)
        last: dict[Any, Any] = dict.fromkeys(parts.parts)
        sent: dict[tuple[Any, int], Any] = {}
        left = {worker: list(enumerate(part.phases)) for worker, part in parts.parts.items()}
        while any(left.values()):
            for worker, phases in left.items():
                while phases and all([(worker, slot) in sent for slot in phases[0][1].needs]):
                    number, phase = phases.pop(0)
                    mine = {slot: small[slot] for slot in parts.parts[worker].small}
                    come = list({id(found): found for found in [sent[worker, slot] for slot in phase.needs]}.values())
                    last[worker] = self.submit(_phase, worker, held[worker], number, last[worker], mine, come)
                    for to, slots in phase.sends:
                        picked = self.submit(_pick, worker, held[worker], last[worker], mine, slots)
                        sent.update(dict.fromkeys([(to, slot) for slot in slots], picked))
        made = [f"graphopt-{uuid.uuid4().hex}" if result.stays else None for result in self.shares.plan.trace.results]
        values: list[Any] = [None] * len(self.shares.plan.schedule.template)
        given, kept = {}, []
        for worker, part in parts.parts.items():
            mine = {slot: small[slot] for slot in part.small}
            if part.gives:
                given[worker] = self.submit(_pick, worker, held[worker], last[worker], mine, part.gives)
            for slot in part.keeps:
                for result, place in self.shares.keeps[slot]:
                    key = (made[result], *self.shares.result_index(result)[place])
                    kept.append(self.submit(_one, worker, held[worker], last[worker], mine, slot, key=key))
        for found in await self.network.client.gather(list(given.values()), asynchronous=True, direct=False):
            for slot, value in found.items():
                values[slot] = value
        for future in kept:
            await future
        return parts, values, made, kept

    def close(self) -> None:
        """Let the workers let go."""
        self.held.clear()

    async def info(self) -> dict[str, Any]:
        """Ask the workers what they hold."""
        asked = {
            worker: self.submit(_info, worker, future)
            for _, held in list(self.held.values())
            for worker, future in held.items()
        }
        found = await self.network.client.gather(list(asked.values()), asynchronous=True, direct=False)
        return dict(zip(map(str, asked), found, strict=True))


class _Held:
    """A part with its blocks, as the result of a task."""

    def __init__(self, binding: bytes, blocks: list[Any]) -> None:
        self.binding, self.blocks = binding, blocks
        self.guard = threading.Lock()

    @functools.cached_property
    def bound(self) -> tuple[Resident, list[Any], Any]:
        """What runs the part, the values of all slots before a run, and what loops are bound to."""
        from distributed import get_worker

        binding: Binding = pickle.loads(self.binding)
        chunks = binding.part.chunks
        binding = replace(binding, fixed={slot: slot for slot in binding.fixed})
        worker: Any = get_worker()
        data = dict(zip(chunks, self.blocks, strict=True))
        resident = Resident(binding, data, worker.executors["default"], worker.state.nthreads)
        blas.refresh()
        names: dict[int, dict[int, int]] = {}
        for slot, (place, _) in binding.blocks.items():
            names.setdefault(place, {})[slot] = slot
        return resident, *resident.fill(names, dict.fromkeys(resident.part.small))

    def begin(self, before: Mapping[int, Any] | None, small: Mapping[int, Any]) -> tuple[Resident, list[Any], Any]:
        """Return what runs a phase, on what values."""
        with self.guard:  # two tasks may be the first
            resident, base, bounds = self.bound
        values = list(base)
        for slot, value in (*small.items(), *(before or {}).items()):
            values[slot] = value
        return resident, values, bounds

    def __reduce__(self) -> Any:
        return _Held, (self.binding, self.blocks)


def _phase(
    held: _Held, number: int, before: Any, small: Mapping[int, Any], come: Sequence[Mapping[int, Any]]
) -> dict[int, Any]:
    """Run a phase; return what was there before and is still needed, and what it made."""
    resident, values, bounds = held.begin(before, small)
    phase = resident.part.phases[number]
    mine = set(before or ())
    for slot in resident.part.phases[number - 1].drop if number else ():
        values[slot] = None
    for found in come:
        for slot, value in found.items():
            if slot in phase.needs:
                values[slot] = value
    if phase.levels:
        resident.run(number, values, bounds)
    mine.update(phase.needs)
    mine.update(slot for level in phase.levels for group in level.groups for lane in group.lanes for slot in lane.writes)
    return {slot: values[slot] for slot in mine if values[slot] is not None}


def _pick(held: _Held, after: Any, small: Mapping[int, Any], slots: Sequence[int]) -> dict[int, Any]:
    """Return some of what a worker has after a phase."""
    _, values, _ = held.begin(after, small)
    return {slot: values[slot] for slot in slots}


def _one(held: _Held, after: Any, small: Mapping[int, Any], slot: int) -> Any:
    """Return a block of a result."""
    _, values, _ = held.begin(after, small)
    return values[slot]


def _info(held: _Held) -> dict[str, Any]:
    """Say what is held."""
    return held.bound[0].info()
