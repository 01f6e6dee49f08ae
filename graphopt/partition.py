"""Partition: a schedule divided among workers, each of which keeps the blocks it has.

Every worker gets a *part*: its own lanes, what it sends to whom after which level, and what must have come before which. All
parts number their levels alike, and what is sent after a level is read at a later one or passed on, so no two parts ever wait
for each other in a circle.

::

    {p0: f(x0), p1: f(x1), s: sum([p0, p1]), t: s + 1}, x0 on a, x1 on b, t for a
        ->  a: p0, q0 = sum([p0]) | q1 from b | s = sum([q0, q1]), t        b: p1, q1 = sum([p1]), q1 to a

Where lanes go:

- A lane goes where most of its chunks are. What makes chunks from nothing is dealt out in chunk order.
- What reads only small things (arguments, sums, and what is made of those) is done by each worker that needs the result: that
  is cheaper than a message.
- A fold over blocks of several workers is split. Each folds its own blocks, and whoever needs the result folds the partials,
  in the order of the workers. Beyond `TREE` workers the partials meet in a tree instead, and one worker has the result.
- What many need is passed on: nobody sends it to more than `TREE` others.

Only the places of blocks go in, so equal places give equal parts, and sums are added in the same order at each run.

The file is a little long: who runs what, who needs what and what is sent are decided on one set of books.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dask.array.reductions import moment_agg, moment_combine

from graphopt import lean
from graphopt.kernel import Traced
from graphopt.parts import Part, Partition, Phase, Worker
from graphopt.program import CONST, LITERAL, Program
from graphopt.schedule import Group, Lane, Level, Row, Schedule, as_group, fold_with, folded_by

__all__ = ["TREE", "partition"]

#: Partial results of up to so many workers are folded at once.
TREE = 8


def partition(
    schedule: Schedule,
    home: Mapping[int, Worker],
    workers: Sequence[Worker],
    *,
    small: Collection[int],
    results: Collection[int],
    keeps: Collection[int] = (),
    everywhere: bool = False,
    sizes: Mapping[int, int] | None = None,
) -> Partition:
    """Divide a schedule among workers.

    Parameters
    ----------
    schedule
        What is to be run.
    home
        Where the blocks of chunked arguments are, by slot.
    workers
        All that may take part. The first of them collects the results.
    small
        The slots of small arguments and of numbers, which every worker is sent.
    results
        The slots that are handed back.
    keeps
        The slots of chunked results, which stay where they were made.
    everywhere
        Whether every worker needs all results, to go on by itself.
    sizes
        The bytes of blocks, as far as they are known.
    """
    return _Divider(schedule, home, workers, small, results, keeps, everywhere, sizes or {}).run()


@dataclass(slots=True)
class _Placed:
    """A lane and what has been decided about it: who runs it, or that whoever needs it does."""

    kernel: Any
    lane: Lane
    traced: Traced | None
    owner: Worker | None = None  # None: whoever needs what it writes
    shares: dict[Worker, list[int]] | None = None  # of a fold that is split: whose blocks are whose


class _Divider:
    def __init__(
        self,
        schedule: Schedule,
        home: Mapping[int, Worker],
        workers: Sequence[Worker],
        small: Collection[int],
        results: Collection[int],
        keeps: Collection[int],
        everywhere: bool,
        sizes: Mapping[int, int],
    ) -> None:
        self.schedule, self.workers, self.everywhere = schedule, list(workers), everywhere
        self.order = {worker: i for i, worker in enumerate(self.workers)}
        self.home, self.small, self.results, self.keeps = dict(home), set(small), set(results), set(keeps)
        self.owner: dict[int, Worker] = dict(home)  # of slots; those that anybody can have are not in it
        self.bulk: dict[int, int] = {slot: sizes.get(slot, 1) or 1 for slot in home}  # what a chunk weighs
        self.load = dict.fromkeys(self.workers, 0)
        self.size = len(schedule.template)
        self.made = {slot for group, number in self.lanes() for slot in group.lanes[number].writes}
        self.needs: dict[int, set[Worker]] = {}
        self.level: dict[int, int] = {}
        self.rows: dict[Worker, list[tuple[int, Any, Lane, Traced | None]]] = {worker: [] for worker in self.workers}
        self.sends: dict[tuple[int, Worker, Worker], list[int]] = {}  # after which level, by whom, to whom

    def run(self) -> Partition:
        rows = [self.place(*found) for found in self.lanes()]
        root = self.workers[0]
        for slot in self.results:
            self.needs.setdefault(slot, set()).update(self.workers if self.everywhere else [root])
        places: dict[int, Worker] = dict.fromkeys(self.results, root)
        for slot in self.keeps:
            places[slot] = at = self.owner.get(slot, root)
            self.needs.setdefault(slot, set()).add(at)
        for row in reversed(rows):
            self.ask(row)
        for row in rows:
            self.write(row)
        for slot in [*self.home]:  # blocks that others read
            self.hand_on(slot)
        parts = {worker: self.part(worker, places) for worker in self.workers}
        idle = [w for w, part in parts.items() if not (part.phases or part.gives or part.keeps)]
        return Partition({worker: part for worker, part in parts.items() if worker not in idle}, places)

    # -- who runs what -------------------------------------------------------------------------------------------------

    def lanes(self) -> Iterator[tuple[Group, int]]:
        for level in self.schedule.levels:
            for group in level.groups:
                for number in range(len(group.lanes)):
                    yield group, number

    def place(self, group: Group, number: int) -> _Placed:
        """Decide who runs a lane."""
        lane = group.lanes[number]
        row = _Placed(group.kernel, lane, group.traced)
        owned = [slot for slot in lane.reads if slot in self.owner]
        if not owned and self.makes_chunks(group, lane):
            row.owner = self.workers[number * len(self.workers) // len(group.lanes)]
            self.written(row, 1)
        elif not owned:
            pass
        elif group.is_fold:
            self.place_fold(row, owned)
        elif all([slot not in self.bulk for slot in owned]) or self.gathers(lane, owned):
            pass
        else:
            row.owner = self.heaviest(owned)
            self.written(row, max(self.bulk.get(slot, 0) for slot in owned))
        return row

    def place_fold(self, row: _Placed, owned: list[int]) -> None:
        owners = sorted({self.owner[slot] for slot in owned}, key=self.order.__getitem__)
        if len(owners) > 1 and fold_of_partials(folded_by(row.kernel)) is not None:
            row.shares = {owner: [] for owner in owners}
            for slot in row.lane.reads:
                row.shares[self.owner.get(slot, owners[0])].append(slot)
        elif len(owners) == 1:
            row.owner = owners[0]
            self.written(row, 0)
        else:
            row.owner = self.heaviest(owned)
            self.written(row, 0)

    def makes_chunks(self, group: Group, lane: Lane) -> bool:
        """Say whether a lane that reads no chunk makes one, as a loader does, rather than works on small arguments alone."""
        if not any([slot in self.small or slot in self.made for slot in lane.reads]):
            return True
        return group.traced is not None and _has_source(group.traced.program)

    def gathers(self, lane: Lane, owned: list[int]) -> bool:
        """Say whether a lane brings blocks of several workers together into small results."""
        small = all([slot in self.results and slot not in self.keeps for slot in lane.writes])
        return small and len({self.owner[slot] for slot in owned}) > 1

    def heaviest(self, slots: list[int]) -> Worker:
        """Return where most of the chunks are; of equals, who has less to do."""
        weight: dict[Worker, int] = {}
        for slot in slots:
            weight[self.owner[slot]] = weight.get(self.owner[slot], 0) + self.bulk.get(slot, 0)
        return min(weight, key=lambda worker: (-weight[worker], self.load[worker], self.order[worker]))

    def written(self, row: _Placed, bulk: int) -> None:
        assert row.owner is not None
        self.load[row.owner] += 1
        for slot in row.lane.writes:
            self.owner[slot] = row.owner
            if bulk:
                self.bulk[slot] = bulk

    # -- who needs what ------------------------------------------------------------------------------------------------

    def ask(self, row: _Placed) -> None:
        """Note who needs what a lane reads."""
        if row.shares is not None:
            for worker, slots in row.shares.items():
                for slot in slots:
                    self.needs.setdefault(slot, set()).add(worker)
            return
        who = {row.owner} if row.owner is not None else self.readers(row)
        for slot in row.lane.reads:
            self.needs.setdefault(slot, set()).update(who)

    def readers(self, row: _Placed) -> set[Worker]:
        return set().union(*[self.needs.get(slot, set()) for slot in row.lane.writes])

    def sorted_readers(self, row: _Placed) -> list[Worker]:
        return sorted(self.readers(row), key=self.order.__getitem__)

    # -- writing it down -----------------------------------------------------------------------------------------------

    def write(self, row: _Placed) -> None:
        if row.shares is not None:
            self.write_fold(row, row.shares)
            return
        for worker in [row.owner] if row.owner is not None else self.sorted_readers(row):
            self.add(worker, row.kernel, row.lane, row.traced)
        if row.owner is not None:
            for slot in row.lane.writes:
                self.hand_on(slot)

    def write_fold(self, row: _Placed, shares: Mapping[Worker, list[int]]) -> None:
        """Let each worker fold its own blocks, and those who need the result the partials."""
        part, last = fold_of_partials(folded_by(row.kernel)), row.kernel
        assert part is not None
        (out,), partial = row.lane.writes, fold_with(part)
        found: list[tuple[int, Worker]] = []
        for worker, slots in shares.items():
            found.append((self.fold(worker, partial, row.lane.key, tuple(slots)), worker))
        readers = self.sorted_readers(row)
        if not readers:
            return
        tree = len(found) > TREE
        while len(found) > TREE:
            found = [self.meet(partial, row.lane.key, found[i : i + TREE]) for i in range(0, len(found), TREE)]
        if tree:  # one of them folds, and hands it on
            first = readers[:1]
            self.owner[out] = first[0]
        else:
            first = readers
        for worker in first:
            for slot, owner in found:
                self.send(slot, owner, worker)
            self.add(worker, last, Lane(row.lane.key, tuple([slot for slot, _ in found]), (out,)), None)
        if tree:
            self.spread(out, readers)

    def meet(self, partial: Any, key: Any, found: list[tuple[int, Worker]]) -> tuple[int, Worker]:
        worker = found[0][1]
        for slot, owner in found:
            self.send(slot, owner, worker)
        return (self.fold(worker, partial, key, tuple([slot for slot, _ in found])), worker) if len(found) > 1 else found[0]

    def fold(self, worker: Worker, kernel: Any, key: Any, reads: tuple[int, ...]) -> int:
        slot, self.size = self.size, self.size + 1
        self.add(worker, kernel, Lane(key, reads, (slot,)), None)
        return slot

    def add(self, worker: Worker, kernel: Any, lane: Lane, traced: Traced | None) -> None:
        level = 1 + max([self.level.get(slot, -1) for slot in lane.reads], default=-1)
        for slot in lane.writes:
            self.level[slot] = level
        self.rows[worker].append((level, kernel, lane, traced))

    def hand_on(self, slot: int) -> None:
        """Send a slot to all who need it and are not its owner."""
        owner = self.owner[slot]
        self.spread(slot, [owner, *sorted(self.needs.get(slot, set()) - {owner}, key=self.order.__getitem__)])

    def spread(self, slot: int, workers: list[Worker]) -> None:
        """Send a slot from the first to all others, each of which passes it on."""
        for number, worker in enumerate(workers[1:]):
            self.send(slot, workers[number // TREE], worker)

    def send(self, slot: int, owner: Worker, to: Worker) -> None:
        if owner != to:
            self.sends.setdefault((self.level.get(slot, -1), owner, to), []).append(slot)

    # -- the part of one worker ----------------------------------------------------------------------------------------

    def part(self, worker: Worker, places: Mapping[int, Worker]) -> Part:
        groups: dict[int, dict[int, list[Row]]] = {}
        for level, kernel, lane, traced in self.rows[worker]:
            groups.setdefault(level, {}).setdefault(id(kernel), []).append((kernel, lane, traced))
        comes = {slot: level for (level, _, to), slots in self.sends.items() if to == worker for slot in slots}
        goes: dict[int, list[tuple[Worker, tuple[int, ...]]]] = {}
        for (level, owner, to), slots in sorted(self.sends.items(), key=lambda s: (s[0][0], self.order[s[0][2]])):
            if owner == worker:
                goes.setdefault(level, []).append((to, tuple(slots)))
        gives = tuple([s for s in sorted(self.results) if self.everywhere or places[s] == worker])
        keeps = tuple([slot for slot in sorted(self.keeps) if places[slot] == worker])
        last = self.last_reads(worker, {*gives, *keeps}, goes)
        phases = list(_phases(groups, goes, comes, last))
        lanes = [lane for found in groups.values() for group in found.values() for _, lane, _ in group]
        reads = {slot for lane in lanes for slot in lane.reads}.union(gives, keeps)
        reads.update(slot for sent in goes.values() for _, slots in sent for slot in slots)
        template = self.schedule.template
        return Part(
            worker,
            tuple(phases),
            self.size,
            {slot: template[slot] for slot in sorted(reads) if slot < len(template) and template[slot] is not None},
            tuple([slot for slot in sorted(reads) if self.home.get(slot) == worker]),
            tuple(sorted(reads & self.small)),
            gives,
            keeps,
        )

    def last_reads(self, worker: Worker, kept: set[int], goes: Mapping[int, Any]) -> dict[int, int]:
        """Say after which level the worker does not need a value any more, for all that it makes or is sent."""
        last: dict[int, int] = {}
        for level, _, lane, _ in self.rows[worker]:
            for slot in lane.writes:
                last[slot] = max(last.get(slot, level), level)
            for slot in lane.reads:
                if slot in self.level or self.home.get(slot, worker) != worker:
                    last[slot] = max(last.get(slot, level), level)
        for level, sent in goes.items():
            for _, slots in sent:
                for slot in slots:
                    if slot in last:
                        last[slot] = max(last[slot], level)
        return {slot: level for slot, level in last.items() if slot not in kept}


def _phases(
    groups: Mapping[int, Mapping[int, Any]],
    goes: Mapping[int, list[tuple[Worker, tuple[int, ...]]]],
    comes: Mapping[int, int],
    last: Mapping[int, int],
) -> Iterator[Phase]:
    """Cut levels where something must come before, or goes out after."""
    waiting = set(comes)
    levels: list[Level] = []
    needs: tuple[int, ...] = ()
    drop: dict[int, list[int]] = {}
    for slot, level in last.items():
        drop.setdefault(level, []).append(slot)
    for number in sorted({*groups, *goes}):
        found = groups.get(number, {})
        reads = {slot for rows in found.values() for _, lane, _ in rows for slot in lane.reads}
        sent = {slot for _, slots in goes.get(number, ()) for slot in slots}
        now = sorted(waiting & (reads | sent))
        if now:
            if levels or needs:
                yield Phase(needs, tuple(levels), ())
            waiting.difference_update(now)
            needs, levels = tuple(now), []
        gone = drop.get(number, [])
        late = tuple([slot for slot in gone if slot in sent])
        if found:
            early = tuple([slot for slot in gone if slot not in sent])
            levels.append(Level(tuple([as_group(_without_data(rows)) for rows in found.values()]), early))
        if number in goes:
            yield Phase(needs, tuple(levels), tuple(goes[number]), late)
            needs, levels = (), []
    if levels or needs or waiting:  # what is only handed back may come at the very end
        if waiting:
            if levels or needs:
                yield Phase(needs, tuple(levels), ())
            needs, levels = tuple(sorted(waiting)), []
        yield Phase(needs, tuple(levels), ())


def _without_data(rows: list[Row]) -> list[Row]:
    """Leave out the literals of the lane that stands for its group: it may be another worker's."""
    out = []
    for kernel, lane, traced in rows:
        out.append((kernel, lane, None if traced is None else replace(traced, literals=(), labels=())))
    return out


def _has_source(program: Program) -> bool:
    """Say whether a step reads nothing but literals: it loads or makes something."""

    def constant(spec: Any) -> bool:
        kind = spec[0]
        if kind in (LITERAL, CONST):
            return True
        if kind in ("list", "tuple", "set", "dict"):
            return all(map(constant, spec[1:]))
        return False

    return any([all(map(constant, args)) and all([constant(v) for _, v in kwargs]) for _, args, kwargs in program.steps])


#: What makes a partial result of blocks where this makes the last one. What finds arguments is not here: of equal ones it takes
#: the first, and blocks of one worker need not be neighbours.
_PARTIAL: dict[Any, Callable[..., Any]] = {
    lean.fold: lean.fold,
    lean.chunk_sum: lean.chunk_sum,
    lean.mean_agg: lean.mean_combine,
    lean.mean_combine: lean.mean_combine,
    moment_agg: moment_combine,
    moment_combine: moment_combine,
}


def fold_of_partials(func: Any) -> Any:
    """Return what folds some of the blocks so that folding the results gives the same; None if there is nothing that does."""
    if type(func) is not functools.partial or func.func not in _PARTIAL:
        return None
    return functools.partial(_PARTIAL[func.func], *func.args, **{**func.keywords, "keepdims": True})
