"""Diamond: a task whose inputs all come from one region joins that region.

::

    {x: f(), e: exp(x), r: 1 / x, d: e - r}, keys=[d]   ->   {d: Region(x, e, r, d)}

One rule, applied in order of depth, gives chains, diamonds, fans and whole lanes. Data that is already there (literals,
stored chunks, futures) does not count as an input. Two additions make lanes whole: a task that joins several regions which
nothing else sets apart joins them into one (``x`` and ``y`` of one block), and chunks of one array never count as that (a
tree of sums stays a tree; batching lanes is another rewrite).

Why regions stay convex and the graph acyclic. Every region has a rank; a region reads only regions of lower rank. A task
joins a region of the highest rank it reads; regions are united only at equal rank, or at rank 0, where nothing is read. So
every edge between regions goes up in rank, and no path leaves a region and comes back.

What stops it is the policy. Tasks at equal depth could run at once. At every depth at least ``parallelism`` of them, or all
there are, stay in regions of equal rank, which never wait for each other. Where a depth cannot afford more, a task joins
only a region that nothing else is waiting for. Finished regions are sealed, and a task that was held back and stayed alone
becomes a region of one, so that a second run finds nothing to do.

Legality (`region.barrier`), choice (`partition`) and rewriting (`region.group`) are three functions. All is linear in tasks and edges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from dask.task_spec import Task

from graphopt.graph import dependencies, dependents, is_constant, toposort
from graphopt.region import Region, barrier, group, is_pick
from graphopt.sizes import estimate_bytes
from graphopt.types import Graph, Key, Node, Refusal

EXACT = True
NAME = "diamond"


@dataclass(frozen=True, slots=True)
class Partition:
    """Which tasks go together: lists of keys, inputs first, and why others do not."""

    regions: tuple[tuple[Key, ...], ...]
    refusals: tuple[Refusal, ...]


def diamond(
    graph: Graph,
    keys: Collection[Key],
    *,
    parallelism: int = 1,
    max_bytes: int = 2**62,
    classes: Mapping[Key, int] | None = None,
) -> Graph:
    """Return the graph with regions in place of the tasks that go together; the same object if there are none.

    Parameters
    ----------
    graph, keys
        The graph and what is asked for.
    parallelism
        How many independent regions to keep at every depth that has as many tasks.
    max_bytes
        The most bytes of chunk data that uniting regions may bring into one.
    classes
        The annotation class of each annotated key; regions never span two classes.
    """
    found = partition(graph, keys, parallelism=parallelism, max_bytes=max_bytes, classes=classes)
    return group(graph, keys, found.regions)


def partition(
    graph: Graph,
    keys: Collection[Key],
    *,
    parallelism: int = 1,
    max_bytes: int = 2**62,
    classes: Mapping[Key, int] | None = None,
) -> Partition:
    """Choose the regions. See `diamond` for the parameters."""
    return _Partitioner(graph, keys, parallelism, max_bytes, classes or {}).run()


class _Partitioner:
    """The state of one choice. Regions are numbers; ``parent`` makes united ones find each other."""

    def __init__(
        self, graph: Graph, keys: Collection[Key], parallelism: int, max_bytes: int, classes: Mapping[Key, int]
    ) -> None:
        self.graph, self.keys, self.classes = graph, set(keys), classes
        self.parallelism, self.max_bytes = parallelism, max_bytes
        self.order = toposort(graph)
        self.readers = dependents(graph)
        self.region: dict[Key, int] = {}  # task -> region, before `find`
        self.parent: list[int] = []
        self.rank: list[int] = []
        self.sealed: list[bool] = []  # nothing may join: a barrier
        self.held: set[int] = set()  # regions started because the policy held their first task back
        self.open: list[int] = []  # edges from the region to tasks outside it
        self.depths: list[set[int]] = []  # the depths at which the region has tasks
        self.bytes: list[int] = []
        self.annotation: list[int] = []
        self.census: dict[int, Counter[int]] = {}  # depth -> rank -> how many regions
        self.tasks_at: dict[int, int] = {}
        self.refusals: list[Refusal] = []

    def run(self) -> Partition:
        self.sizes = estimate_bytes(self.graph, self.order)
        levels: list[list[Key]] = []
        depth: dict[Key, int] = {}
        self.inputs: dict[Key, list[Key]] = {}
        place = {key: i for i, key in enumerate(self.graph)}
        for key in self.order:
            node = self.graph[key]
            if is_constant(node):
                continue
            deps = self.inputs[key] = [dep for dep in dependencies(node) if dep in depth]
            depth[key] = at = 1 + max([depth[dep] for dep in deps], default=-1)
            if at == len(levels):
                levels.append([])
            levels[at].append(key)
        for at, level in enumerate(levels):
            level.sort(key=place.__getitem__)  # the graph's own order, alike for all blocks of an array
            self.tasks_at[at] = len(level)
            self.census[at] = Counter()
            self._level(at, level)
        members: dict[int, list[Key]] = {}
        for level in levels:
            for key in level:
                members.setdefault(self.find(self.region[key]), []).append(key)
        regions = tuple(tuple(tasks) for r, tasks in members.items() if len(tasks) > 1 or r in self.held)
        return Partition(regions, tuple(self.refusals))

    def find(self, region: int) -> int:
        parent = self.parent
        while parent[region] != region:
            parent[region] = parent[parent[region]]
            region = parent[region]
        return region

    # -- one depth at a time -------------------------------------------------------------------------------------

    def _level(self, at: int, level: list[Key]) -> None:
        """Place the tasks of one depth: all by the rule if enough regions remain apart, else only where it is free."""
        wanted = [self._candidates(key) for key in level]
        held: set[Key] = set()
        if any(wanted) and not self._affordable(level, wanted):
            for place, (key, regions) in enumerate(zip(level, wanted, strict=True)):
                if regions and not (len(regions) == 1 and self.open[regions[0]] == self._edges(key, regions[0])):
                    wanted[place] = []
                    held.add(key)
                    self._refuse(key, f"fewer than {self.parallelism} independent regions would remain beside it")
        for key, regions in zip(level, wanted, strict=True):
            self._place(at, key, regions)
            if key in held:
                self.held.add(self.region[key])

    def _found(self, key: Key) -> list[int]:
        return list(dict.fromkeys([self.find(self.region[dep]) for dep in self.inputs[key]]))

    def _candidates(self, key: Key) -> list[int]:
        """List the regions that this task would make one by joining them; none if it has to start its own."""
        node = self.graph[key]
        why = self._barrier(node)
        if why is not None:
            if not isinstance(node, Region):
                self._refuse(key, why)
            return []
        found = self._found(key)
        if not found or any(self.sealed[r] for r in found):
            return []
        kind = self.classes.get(key, 0)
        if any(self.annotation[r] != kind for r in found):
            self._refuse(key, "its annotations differ from its inputs'")
            return []
        if len(found) == 1:
            return found
        top = max(self.rank[r] for r in found)
        if any(self.rank[r] != top and (self.rank[r] or self.open[r] != self._edges(key, r)) for r in found):
            self._refuse(key, "its inputs become ready at different times, in different regions")
            return []
        if self._siblings(key):
            return []
        if sum(self.bytes[r] for r in found) > self.max_bytes:
            self._refuse(key, f"its inputs would bring more than {self.max_bytes} bytes into one region")
            return []
        return found

    def _siblings(self, key: Key) -> bool:
        """Say whether a task reads several blocks of one array: those are lanes, to be kept apart here."""
        names = [dep[0] if isinstance(dep, tuple) and dep else self._func(dep) for dep in self.inputs[key]]
        return len(set(names)) < len(names)

    def _func(self, key: Key) -> Any:
        node = self.graph[key]
        return id(node.func) if isinstance(node, Task) else key

    def _affordable(self, level: list[Key], wanted: list[list[int]]) -> bool:
        """Say whether enough regions of equal rank would remain, at this depth and at those that the unions touch."""
        united: dict[int, int] = {}

        def root(r: int) -> int:
            while (up := united.get(r, r)) != r:
                united[r] = united.get(up, up)
                r = up
            return r

        lost: dict[int, Counter[int]] = {}
        for regions in wanted:
            if len(regions) > 1:
                head, *others = sorted(dict.fromkeys(map(root, regions)), key=lambda r: -self.rank[r])
                for other in others:
                    united[other] = head
                    for depth in self.depths[other]:
                        # A region fewer of this rank. The head may be new at this depth, with a rank of its own; not
                        # counting that only makes the test stricter.
                        lost.setdefault(depth, Counter())[self.rank[other]] += 1
        ranks = Counter(self.rank[r] for r in {root(regions[0]) for regions in wanted if regions})
        alone = [key for key, regions in zip(level, wanted, strict=True) if not regions]
        ranks.update(1 + max([self.rank[r] for r in self._found(key)], default=-1) for key in alone)
        if max(*ranks.values(), len(alone), 0) < min(self.parallelism, len(level)):
            return False
        return all(
            max((self.census[depth] - counts).values(), default=0) >= min(self.parallelism, self.tasks_at[depth])
            for depth, counts in lost.items()
        )

    def _edges(self, key: Key, region: int) -> int:
        return sum(self.find(self.region[dep]) == region for dep in self.inputs[key])

    def _place(self, at: int, key: Key, regions: list[int]) -> None:
        out = len(self.readers[key]) + (key in self.keys)
        if not regions:
            r = self.region[key] = len(self.parent)
            self.parent.append(r)
            self.rank.append(1 + max([self.rank[q] for q in self._found(key)], default=-1))
            self.sealed.append(self._barrier(self.graph[key]) is not None)
            self.open.append(out)
            self.depths.append({at})
            self.bytes.append(0 if self.inputs[key] else self.sizes[key])
            self.annotation.append(self.classes.get(key, 0))
        else:
            r = self.region[key] = self._unite(list(dict.fromkeys(map(self.find, regions))))
            self.open[r] += out - sum(self.find(self.region[dep]) == r for dep in self.inputs[key])
            if at in self.depths[r]:
                return
            self.depths[r].add(at)
        self.census[at][self.rank[r]] += 1

    def _unite(self, regions: list[int]) -> int:
        head = max(regions, key=lambda r: (self.rank[r], len(self.depths[r])))
        for other in regions:
            if other == head:
                continue
            self.parent[other] = head
            self.open[head] += self.open[other]
            self.bytes[head] += self.bytes[other]
            for depth in self.depths[other]:
                self.census[depth][self.rank[other]] -= 1
                if depth not in self.depths[head]:
                    self.depths[head].add(depth)
                    self.census[depth][self.rank[head]] += 1
        return head

    def _barrier(self, node: Node) -> str | None:
        return "it takes one output of a region" if is_pick(node, self.graph) else barrier(node)

    def _refuse(self, key: Key, why: str) -> None:
        self.refusals.append(Refusal(key, NAME, why))
