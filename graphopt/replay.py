"""Replay: the graphs of a loop, each run by the schedule that was made for the first.

A loop that computes the same expressions with new small arrays in each iteration hands dask a new graph each time: other keys,
other data, the same structure. Its outline says whether a schedule exists; if so, the graph that goes to dask is one task that
runs it.
"""

from __future__ import annotations

import operator
import threading
import uuid
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.execute import blas
from graphopt.execute.local import run
from graphopt.execute.team import team_of
from graphopt.execute.threads import Threads
from graphopt.graph import check_graph, dependencies, flatten_keys, read
from graphopt.outline import outline, with_holes
from graphopt.passes.lower import lower
from graphopt.pipeline import Optimizer, Policy, active_client, guarded, no_garbage
from graphopt.schedule import Schedule, lay_out
from graphopt.spec import Task, TaskRef
from graphopt.types import Graph, Key, Refusal, TraceError

__all__ = ["Replayer"]

#: How many schedules one context keeps, and after how many new ones without a single use it stops making more.
_SCHEDULES, _PATIENCE = 32, 8

#: Bytes of an array that is taken for an argument of all lanes rather than a chunk.
_SMALL = 2**14


@dataclass(frozen=True, slots=True)
class _Entry:
    """A schedule, the slots of its data and of what is asked for, and the graph: it holds what is compared by identity."""

    schedule: Schedule
    given: tuple[tuple[int, int], ...]
    results: tuple[int, ...]
    threads: Threads
    graph: Graph

    def __reduce__(self) -> tuple[Any, ...]:  # what was learned about threads stays here
        return _restored, (self.schedule, self.given, self.results)


def _restored(schedule: Schedule, given: Any, results: Any) -> _Entry:
    return _Entry(schedule, given, results, Threads(len(schedule.levels)), {})


class _Run:
    """Runs a schedule on the data of one graph; returns what was asked for, in order, or the only thing that was."""

    __slots__ = ("data", "entry", "single", "threads")
    __name__ = "replay"

    def __init__(self, entry: _Entry, data: Sequence[Any], threads: int, *, single: bool) -> None:
        self.entry, self.data, self.threads, self.single = entry, data, threads, single

    def __call__(self) -> Any:
        values = list(self.entry.schedule.template)
        for slot, place in self.entry.given:
            values[slot] = self.data[place]
        with blas.one_thread():
            run(self.entry.schedule, values, team_of(self.threads), self.entry.threads)
        out = tuple([values[slot] for slot in self.entry.results])
        return out[0] if self.single else out


@dataclass
class _Cache:
    """The schedules of one context, by signature; the least recently used goes first."""

    entries: OrderedDict[Hashable, _Entry] = field(default_factory=OrderedDict)
    made: int = 0
    used: int = 0
    guard: Any = field(default_factory=threading.Lock)

    def get(self, signature: Hashable) -> _Entry | None:
        with self.guard:
            entry = self.entries.get(signature)
            if entry is not None:
                self.used += 1
                self.entries.move_to_end(signature)
            return entry

    def add(self, signature: Hashable, entry: _Entry) -> None:
        with self.guard:
            self.made += 1
            self.entries[signature] = entry
            while len(self.entries) > _SCHEDULES:
                self.entries.popitem(last=False)

    def gives_up(self) -> bool:
        """Say whether graphs here are too different for schedules to pay."""
        return self.made >= _PATIENCE and self.used == 0


@dataclass(frozen=True, slots=True)
class Replayer(Optimizer):
    """An `Optimizer` that remembers. What it remembers stays in this process: it pickles as a plain `Optimizer`."""

    cache: _Cache = field(default_factory=_Cache, compare=False, repr=False)

    def __call__(self, dsk: Any, keys: Any, **options: Any) -> Any:
        """Return a graph of one task where a schedule fits, else do as the `Optimizer` does."""
        from dask import config

        off = config.get("optimization.fuse.active", None) is False
        if off or active_client() is not None or self.cache.gives_up():
            return Optimizer(self.policy)(dsk, keys, **options)
        with no_garbage():
            made = guarded(lambda: self._replayed(dsk, flatten_keys(keys)), self.policy, lambda: None)
        return made if made is not None else Optimizer(self.policy)(dsk, keys, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return Optimizer, (self.policy,)

    def _replayed(self, dsk: Any, keys: list[Key]) -> dict[Key, Task] | None:
        """Return the graph of one task that runs a schedule, and of the picks of what is asked for; None if there is none."""
        nodes, notes = read(dsk, keys)
        check_graph(nodes, complete=False)
        if notes or not _is_complete(nodes):
            return None
        graph = lower(nodes)
        found = outline(graph, keys)
        policy = self.policy.resolve()
        entry = self.cache.get((found.signature, policy))
        if entry is None:
            try:
                entry = _entry(graph, keys, policy, found.data)
            except TraceError:  # a task that only a cluster can run
                return None
            self.cache.add((found.signature, policy), entry)
        work = _Run(entry, found.data, policy.parallelism or 1, single=len(keys) == 1)
        if work.single:
            return {keys[0]: Task(keys[0], work)}
        name = f"graphopt-replay-{uuid.uuid4().hex}"
        picks = {key: Task(key, operator.getitem, TaskRef(name), place) for place, key in enumerate(keys)}
        return {name: Task(name, work), **picks}


def _entry(graph: Graph, keys: Sequence[Key], policy: Policy, data: Sequence[Any]) -> _Entry:
    holes, places = with_holes(graph, keys)
    refusals: list[Refusal] = []
    small = [key for key, place in places.items() if getattr(data[place], "nbytes", 0) <= _SMALL]
    schedule = lay_out(holes, keys, policy, exact=True, refusals=refusals, small=small)
    given = tuple([(schedule.slots[key], place) for key, place in places.items() if key in schedule.slots])
    return _Entry(schedule, given, tuple([schedule.slots[key] for key in keys]), Threads(len(schedule.levels)), graph)


def _is_complete(graph: Graph) -> bool:
    """Say whether a graph can be run here: it reads no futures, and nothing that it does not hold."""
    return not any(
        isinstance(node, TaskRef) or any([dep not in graph for dep in dependencies(node)]) for node in graph.values()
    )
