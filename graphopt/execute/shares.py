"""Shares: how a plan is divided among the workers of a cluster, by where the blocks of its arguments are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from numpy import ndarray

from graphopt.execute.places import Places, indices
from graphopt.execute.resident import Binding
from graphopt.partition import partition
from graphopt.parts import Partition
from graphopt.plan import Plan
from graphopt.trace import Argument, is_future

__all__ = ["Shares"]


class Shares:
    """What a plan reads and leaves, and what of it is whose.

    Parameters
    ----------
    plan
        What is divided.
    name
        Of the function.
    exact, memory, threads
        As in `compile`; the last two are for each worker.

    Attributes
    ----------
    small : tuple
        The slots of small arguments, with the places of the arguments.
    chunks : dict
        The slots of blocks of chunked arguments: the place of the argument, and the number of the block.
    fixed : dict
        The futures that the function itself refers to, by slot.
    keeps : dict
        The slots of results that stay on workers: the results, and the places in them.
    nbytes : float
        How large those are together; infinite if that is not known.
    results : set of int
        The slots of results that the client wants.
    """

    def __init__(self, plan: Plan, *, name: str, exact: bool, memory: int | None, threads: int | None) -> None:
        self.plan, self.options = plan, (exact, memory, threads)
        self.name = name.rpartition(".")[2].strip("<>")
        kinds = plan.trace.kinds
        self.small = tuple([(slot, place) for slot, place, _ in plan.blocks if kinds[place] == "array"])
        self.chunks = {slot: (place, block) for slot, place, block in plan.blocks if kinds[place] == "chunked"}
        self.fixed = _fixed(plan)
        self.index: dict[int, list[tuple[int, ...]]] = {}  # of the blocks of an argument, by its place
        self.keeps: dict[int, list[tuple[int, int]]] = {}  # slot -> results, and places in them
        self.nbytes = 0.0
        self.results: set[int] = set()
        for number, (result, slots) in enumerate(zip(plan.trace.results, plan.results, strict=True)):
            if result.kind == "array" and not result.small:
                self.nbytes += _size(result.value)
                for place, slot in enumerate(slots):
                    self.keeps.setdefault(slot, []).append((number, place))
            elif result.keys:
                self.results.update(slots)

    def given(self, arguments: Sequence[Argument], numbers: Mapping[int, Any]) -> dict[int, Any]:
        """Return the values of small arguments and numbers, by slot."""
        return {**{slot: arguments[place].value for slot, place in self.small}, **numbers}

    async def divide(
        self, homes: Mapping[int, tuple[str, ...]], arguments: Sequence[Argument], places: Places, everywhere: bool
    ) -> Partition:
        """Divide the plan among the workers by where the blocks are."""
        for place in homes:
            if place not in self.index:
                self.index[place] = indices(arguments[place].value)
        home: dict[int, Any] = {slot: homes[place][block] for slot, (place, block) in self.chunks.items()}
        if self.fixed:
            found = await places.find("what the function refers to", list(self.fixed.values()))
            home.update(zip(self.fixed, found, strict=True))
        # Workers without blocks have nothing to do in a loop, but to make what is still to be made.
        there = set(home.values())
        workers = sorted(there if everywhere and there else {*there, *await places.running()})
        first = min(workers, key=lambda worker: (-sum(at == worker for at in home.values()), worker))
        workers.remove(first)
        return partition(
            self.plan.schedule,
            home,
            [first, *workers],
            small=[*[slot for slot, _ in self.small], *[slot for slot, _ in self.plan.schedule.scalars]],
            results=self.results,
            keeps=self.keeps.keys(),
            everywhere=everywhere,
            sizes={slot: _nbytes(arguments[place].value, index) for slot, (place, index) in self.chunks.items()},
        )

    def of(self, parts: Partition, worker: str) -> Binding:
        """Return the share of a worker, as it is sent it."""
        part, chunks = parts.parts[worker], self.chunks
        return Binding(
            part,
            {slot: (chunks[slot][0], self.index[chunks[slot][0]][chunks[slot][1]]) for slot in part.chunks if slot in chunks},
            {slot: self.fixed[slot].key for slot in part.chunks if slot in self.fixed},
            {slot: tuple([(n, self.result_index(n)[i]) for n, i in self.keeps[slot]]) for slot in part.keeps},
            tuple([str(other) for other in parts.parts if other != worker]),
            *self.options,
            self.name,
        )

    def result_index(self, number: int) -> list[tuple[int, ...]]:
        """Return the places of the blocks of a result, in order."""
        return indices(self.plan.trace.results[number].value)


def _fixed(plan: Plan) -> dict[int, Any]:
    """Return the futures that the function itself refers to, or that are part of lazy arguments, by slot."""
    given = {slot for slot, _, _ in plan.blocks}
    written = {slot for level in plan.levels for group in level.groups for lane in group.lanes for slot in lane.writes}
    template = plan.schedule.template
    out = {}
    for key, slot in plan.schedule.slots.items():
        if slot not in given and slot not in written and template[slot] is None and key in plan.trace.graph:
            value: Any = plan.trace.graph[key]
            if is_future(value):
                out[slot] = value
    return out


def _size(array: Any) -> float:
    """Return how many bytes an array has; infinity if that is not known."""
    plain = type(array._meta) is ndarray and not array.dtype.hasobject
    return float(array.nbytes) if plain and array.nbytes == array.nbytes else inf


def _nbytes(array: Any, block: int) -> int:
    """Return about how large a block is."""
    from numpy import unravel_index

    index = unravel_index(block, array.numblocks) if array.ndim else ()
    size = array.dtype.itemsize
    for sizes, i in zip(array.chunks, index, strict=True):
        size *= sizes[i]
    return int(size) if size == size else 1
