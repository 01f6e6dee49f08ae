"""Widen: a schedule for a few blocks becomes the schedule for all, each lane repeated for the others.

The lanes of the few must be each other's copies, and trees of reductions must have become folds, which read any number of
blocks. Where that does not hold there is no wider schedule.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace
from itertools import repeat
from typing import Any

from graphopt.region import first_output, region_key
from graphopt.schedule import Group, Lane, Level, Schedule, as_group
from graphopt.symmetry import Sample, Series
from graphopt.types import Key, Refusal

__all__ = ["widen"]


def widen(schedule: Schedule, few: Sample, refusals: list[Refusal]) -> Schedule | None:
    """Return the schedule for all blocks; None if the lanes of the few are not each other's copies.

    Parameters
    ----------
    schedule
        The schedule of a sample.
    few
        The sample.
    refusals
        What was left apart there; becomes what is left apart of all.
    """
    if any(key in schedule.slots for key in few.inner):
        return None  # a tree that is no fold
    widener = _Widener(schedule, few)
    levels = widener.levels()
    if levels is None:
        return None
    refusals[:] = [replace(refusal, key=key) for refusal in refusals for key in widener.keys_of(refusal.key)]
    scalars = tuple([(widener.start[slot], scalar) for slot, scalar in schedule.scalars])
    return Schedule(levels, tuple(widener.template), widener.slots, scalars)


def _across(columns: Iterable[Iterable[Any]], count: int) -> Iterable[tuple[Any, ...]]:
    """Turn what several things are at each block into what each block has of them."""
    columns = list(columns)
    return zip(*columns, strict=True) if columns else repeat((), count)


class _Widener:
    """Gives each block of a series a slot of its own, one after the other; all other slots are there once."""

    def __init__(self, schedule: Schedule, few: Sample) -> None:
        self.schedule, self.few = schedule, few
        self.template: list[Any] = []
        self.slots: dict[Key, int] = {}
        self.start: dict[int, int] = {}  # for the slots of the sample, the first block's, here
        self.place: dict[int, int] = {}  # for the slots of blocks, which one in the sample
        key_of = {slot: key for key, slot in schedule.slots.items()}
        starts: dict[Series, int] = {}
        for slot, value in enumerate(schedule.template):
            key = key_of.get(slot)
            series = few.series.of(key)
            if series is None:
                self.start[slot] = len(self.template)
                self.template.append(value)
                continue
            if series not in starts:
                start = starts[series] = len(self.template)
                self.slots.update(zip(series.keys(), range(start, start + series.count), strict=True))
                self.template += [None] * series.count
            self.start[slot], self.place[slot] = starts[series], few.series.place(key)
        for key, slot in schedule.slots.items():
            if slot not in self.place:
                self.slots[key] = self.start[slot]

    def levels(self) -> tuple[Level, ...] | None:
        out = []
        for level in self.schedule.levels:
            groups = []
            for group in level.groups:
                wide = self.group(group)
                if wide is None:
                    return None
                groups.append(wide)
            out.append(Level(tuple(groups), self.all_of(level.drop)))
        return tuple(out)

    def all_of(self, slots: Iterable[int]) -> tuple[int, ...]:
        """List the slots of all blocks, where those of the sample's are listed."""
        out: list[int] = []
        for slot in slots:
            if slot not in self.place:
                out.append(self.start[slot])
            elif not self.place[slot]:
                out += self.blocks_of(slot)
        return tuple(out)

    def group(self, group: Group) -> Group | None:
        """Repeat the lanes of a group."""
        kinds: dict[Hashable, list[Lane]] = {}
        for lane in group.lanes:
            what = (self.first(lane.key), repr(self.first(list(lane.labels))), self.once(lane.reads), self.once(lane.writes))
            kinds.setdefault(what, []).append(lane)
        lanes: list[Lane] = []
        for found in kinds.values():
            places = [{self.place[slot] for slot in (*lane.reads, *lane.writes) if slot in self.place} for lane in found]
            if not any(places):
                lanes += [replace(lane, reads=self.once(lane.reads), writes=self.once(lane.writes)) for lane in found]
            elif places == [{place} for place in range(self.few.few)]:
                lanes += self.repeated(found[0])
            elif group.is_fold and all(map(self.reads_all, found)):
                lanes += [replace(lane, reads=self.all_of(lane.reads), writes=self.once(lane.writes)) for lane in found]
            else:
                return None
        return as_group([(group.kernel, lane, group.traced) for lane in lanes])

    def reads_all(self, lane: Lane) -> bool:
        """Say whether a fold reads all blocks of one array, in order."""
        return (
            len(set(self.once(lane.reads))) == 1
            and [self.place.get(slot) for slot in lane.reads] == list(range(self.few.few))
            and not any(slot in self.place for slot in lane.writes)
        )

    def once(self, slots: Iterable[int]) -> tuple[int, ...]:
        """Return slots here for slots of the sample, of the first block for any."""
        return tuple([self.start[slot] for slot in slots])

    def repeated(self, lane: Lane) -> Iterator[Lane]:
        """Return the lane of each block, by that of the first."""
        count = self.few.count
        reads, writes = (_across(map(self.blocks_of, slots), count) for slots in (lane.reads, lane.writes))
        labels = _across([self.everywhere(label, count) for label in lane.labels], count)
        return map(Lane, self.everywhere(lane.key, count), reads, writes, labels)

    def blocks_of(self, slot: int) -> Iterable[int]:
        """Return the slot that stands for one of the first block at each block."""
        start = self.start[slot]
        return range(start, start + self.few.count) if slot in self.place else repeat(start, self.few.count)

    def everywhere(self, label: Any, count: int) -> Iterable[Any]:
        """Return a key, or a nested list of keys, as it is at each of so many blocks."""
        if type(label) is list:
            return map(list, _across([self.everywhere(item, count) for item in label], count))
        if (inner := first_output(label)) is not label:
            return map(region_key, self.everywhere(inner, count))
        series = self.few.series.of(label)
        return repeat(label, count) if series is None else series.keys(range(count))

    def first(self, label: Any) -> Any:
        """Return a key, or a nested list of keys, as it is at the first block."""
        return next(iter(self.everywhere(label, 1)))

    def keys_of(self, key: Key) -> list[Key]:
        """List the keys that a key of the sample stands for: none for all blocks but the first."""
        series = self.few.series.of(key)
        return [key] if series is None else series.keys() if key == series[0] else []
