"""Loops: the groups of a schedule that run as one compiled loop over their lanes, without the interpreter's lock.

Whether a group can is known when it first runs, from the types of what its lanes read. What cannot, runs by its kernel, and
`reasons` says why.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from graphopt.loops import Arg, Bound, Loop, loop_of
from graphopt.schedule import Group, Schedule, Stack

__all__ = ["LoopRun", "Loops"]

#: Compiled code does not hear Ctrl-C: it comes back after this many seconds, as far as whole lanes allow.
_PATIENCE = 0.05

#: The chunks that loops are bound to, by level and group, for as long as the same chunks are given.
Bounds = dict[tuple[int, int], Bound]


class Loops:
    """The loops of a schedule.

    Parameters
    ----------
    schedule
        What is run.
    chunks
        The slots of the blocks of chunked arguments: what reads nothing else of its own is bound once.
    shared
        The slots of small arguments and literals, which are the same for all lanes.
    kept
        The slots of results that are asked for.
    """

    def __init__(self, schedule: Schedule, chunks: Collection[int], shared: Collection[int], kept: Collection[int]) -> None:
        self.schedule = schedule
        self.chunks, self.shared = frozenset(chunks), _spread(schedule, shared)
        self.found: dict[tuple[int, int], _Looped | str] = {}
        self._folded = _folded(schedule, kept)

    @property
    def reasons(self) -> dict[str, str]:
        """Why kernels, by name, run without a loop."""
        groups = {place: self.schedule.levels[place[0]].groups[place[1]] for place in self.found}
        return {groups[place].name: why for place, why in self.found.items() if isinstance(why, str)}

    @property
    def sources(self) -> dict[str, str]:
        """The texts of the loops, by the names of the kernels."""
        groups = {place: self.schedule.levels[place[0]].groups[place[1]] for place in self.found}
        return {groups[place].name: found.loop.source for place, found in self.found.items() if not isinstance(found, str)}

    def bind(self, number: int, values: list[Any], bounds: Bounds) -> dict[int, LoopRun]:
        """Return what runs the groups of a level as loops, by their places; the rest run by their kernels."""
        out: dict[int, LoopRun] = {}
        for place, group in enumerate(self.schedule.levels[number].groups):
            at = (number, place)
            looped = self.found.get(at)
            if looped is None:
                looped = self.found[at] = self._make(group, values)
            if isinstance(looped, str):
                continue
            bound = bounds.get(at)
            if bound is None:
                try:
                    bound = looped.loop.bind([[values[lane.reads[i]] for i in looped.own] for lane in group.lanes])
                except ValueError:  # chunks of another kind than those that it was made for
                    continue
                if all(lane.reads[i] in self.chunks for lane in group.lanes for i in looped.own):
                    bounds[at] = bound
            first = group.lanes[0].reads
            folded = self._folded.get(at, frozenset())
            out[place] = LoopRun(looped, bound, group, [values[first[i]] for i in looped.common], folded, values)
        return out

    def _make(self, group: Group, values: list[Any]) -> _Looped | str:
        traced = group.traced
        if traced is None:
            return "it is not one of our kernels"
        count = len(traced.inputs)
        slots = dict(zip(traced.slots, range(count, count + len(traced.slots)), strict=True))
        fixed = dict(traced.fixed)
        order = list(range(count))
        for literal in range(traced.program.literals):
            if literal in slots:
                order.append(slots[literal])
            else:
                fixed.setdefault(literal, None)  # nothing reads it any more
        own: list[int] = []
        common: list[int] = []
        args = []
        first = group.lanes[0].reads
        for place in order:
            alike = all([lane.reads[place] == first[place] for lane in group.lanes])
            value = values[first[place]]
            lane = not alike or (len(group.lanes) == 1 and first[place] not in self.shared and np.ndim(value) > 0)
            if not isinstance(value, (np.ndarray, np.generic, bool, int, float)):
                return f"it reads a {type(value).__name__}"
            args.append(Arg.of(value, lane=lane))
            (own if lane else common).append(place)
        if not own:
            return "its lanes have nothing of their own"
        whole = any(
            [
                arg.dtype is not None and (arg.dtype.kind == "u" or (arg.dtype.kind == "i" and arg.dtype.itemsize < 8))
                for arg in args
            ]
        )
        if whole and any([arg.kind is int for arg in args]):
            return "NumPy checks whether a Python number fits short integers"
        made = loop_of(traced.program, fixed, args)
        return made if isinstance(made, str) else _Looped(made, tuple(own), tuple(common))


class _Looped:
    """A loop, and which places of what a lane reads are the lane's own, and which are common."""

    __slots__ = ("common", "loop", "own", "pace")

    def __init__(self, loop: Loop, own: tuple[int, ...], common: tuple[int, ...]) -> None:
        self.loop, self.own, self.common = loop, own, common
        self.pace = 0.0  # seconds a lane


class LoopRun:
    """One run of a group as a loop; its ranges may run in several threads at once."""

    def __init__(
        self, looped: _Looped, bound: Bound, group: Group, shared: Sequence[Any], folded: frozenset[int], values: list[Any]
    ) -> None:
        self.looped, self.bound, self.group, self.shared, self.folded = looped, bound, group, shared, folded
        for place in folded:
            values[group.lanes[0].writes[place]] = Stack()

    def run(self, first: int, last: int, values: list[Any], stop: Sequence[bool]) -> None:
        """Run a range of lanes and put the results in their slots."""
        while first < last and not stop[0]:
            upto = last if not self.looped.pace else min(last, first + max(1, int(_PATIENCE / self.looped.pace)))
            if not self.looped.pace and last - first > 1:
                upto = first + 1  # to learn how long one takes
            start = time.perf_counter()
            self._run(first, upto, values)
            self.looped.pace = max((time.perf_counter() - start) / (upto - first), 1e-9)
            first = upto

    def _run(self, first: int, last: int, values: list[Any]) -> None:
        lanes = self.group.lanes
        if len(self.folded) == len(self.looped.loop.outputs):
            for place, stacked in enumerate(self.bound.stacked(self.shared, first, last)):
                values[lanes[0].writes[place]].add(first, stacked)
            return
        found = list(zip(*self.bound(self.shared, first, last), strict=True))
        for place, blocks in enumerate(found):
            if place in self.folded:
                values[lanes[0].writes[place]].add(first, np.stack(blocks))
                continue
            for lane, block in zip(lanes[first:last], blocks, strict=True):
                values[lane.writes[place]] = block


def _spread(schedule: Schedule, shared: Collection[int]) -> frozenset[int]:
    """Return the shared slots and those of what is made of them alone, in a prologue."""
    out = set(shared)
    for level in schedule.levels:
        for group in level.groups:
            for lane in group.lanes:
                if lane.reads and out.issuperset(lane.reads):
                    out.update(lane.writes)
    return frozenset(out)


def _folded(schedule: Schedule, kept: Collection[int]) -> dict[tuple[int, int], frozenset[int]]:
    """Find the outputs, by group, that only a fold over all its lanes reads: their blocks need not be taken apart."""
    readers: dict[int, int] = dict.fromkeys(kept, 1)
    folds: set[tuple[int, ...]] = set()
    for level in schedule.levels:
        for group in level.groups:
            for lane in group.lanes:
                for slot in lane.reads:
                    readers[slot] = readers.get(slot, 0) + 1
                if group.is_fold:
                    folds.add(lane.reads)
    out = {}
    for number, level in enumerate(schedule.levels):
        for place, group in enumerate(level.groups):
            columns = list(zip(*[lane.writes for lane in group.lanes], strict=True))
            folded = [i for i, slots in enumerate(columns) if slots in folds and all(readers[slot] == 1 for slot in slots)]
            if folded:
                out[number, place] = frozenset(folded)
    return out
