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

Around a node that blocks fusion only chains form. Of a shuffle over a cluster, each task that reads the barrier must run on
the worker that the barrier names for it (two in one region could never both have their way), and each that feeds the barrier
must be able to run again on its own.

What stops it is the policy. Tasks at equal depth could run at once. At every depth at least ``parallelism`` of them, or all
there are, stay in regions of equal rank, which never wait for each other. Where a depth cannot afford more, a task joins
only a region that nothing else is waiting for: that keeps all its tasks apart, though at different ranks, and so its
regions are united afterwards only with regions that read nothing and that nothing else reads.

Finished regions are sealed, and where anything was fused, a task that stayed alone becomes a region of one, so that a second
run finds nothing to do.

Legality (`region.barrier`), choice (`partition`) and rewriting (`region.group`) are three functions; all is linear in tasks
and edges. The file is a little long: a choice is one state, which all rules read and every placement changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.graph import holds, is_constant, toposort
from graphopt.region import Region, barriers, group_tasks, is_pick
from graphopt.sizes import brought_bytes
from graphopt.spec import DataNode, GraphNode, Task, TaskRef
from graphopt.types import Graph, Key, Refusal

EXACT = True
NAME = "diamond"


@dataclass(frozen=True, slots=True)
class Partition:
    """Which tasks go together, inputs first, and why others do not."""

    regions: tuple[list[GraphNode], ...]
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
    return group_tasks(graph, keys, found.regions)


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
    """The state of one choice. Tasks and regions are numbers; ``parent`` lets united regions find each other.

    This runs once for each task of each graph, so the common case, a task that reads one region, is kept free of calls.
    """

    def __init__(
        self, graph: Graph, keys: Collection[Key], parallelism: int, max_bytes: int, classes: Mapping[Key, int]
    ) -> None:
        self.graph, self.classes, self.max_bytes = graph, classes, max_bytes
        self.parallelism = parallelism
        # Of each task:
        self.key: list[Key]
        self.node: list[Any]
        self.inputs: list[tuple[int, ...]] = []
        self.readers: list[int]  # how many tasks read it, and one more if it is asked for
        self.barrier: dict[int, str]  # why nothing may join it, or it nothing
        self.blocking: set[int]  # it blocks fusion, as the barrier of a shuffle does
        self.feeding: set[int]  # a node that blocks fusion reads it
        self.levels: list[list[int]] = []
        self.region: list[int]  # before `find`
        # Of each region:
        self.parent: list[int] = []
        self.rank: list[int] = []
        self.sealed: set[int] = set()  # regions of a barrier: nothing may join
        self.pinned: set[int] = set()  # regions of a task that reads a node that blocks fusion
        self.open: list[int] = []  # edges from the region to tasks outside it
        self.depths: list[set[int]] = []  # the depths at which the region has tasks
        self.bytes: list[int] = []
        self.annotation: list[int] = []
        self.alone: list[list[int]] = []  # the list of it, shared by all that read nothing else
        self.mixed: set[int] = set()  # regions with a task at a mixed depth
        # Of each depth: how many regions of each rank have tasks there; and those where the ranks do not tell who waits.
        self.census: list[Counter[int]] = []
        self.mixed_depths: set[int] = set()
        self.refusals: list[Refusal] = []
        self._number(set(keys))

    def _number(self, keys: set[Key]) -> None:
        """Number the tasks in the graph's own order, and sort them by depth: the longest path from one that reads no other."""
        graph, levels = self.graph, self.levels
        constant = {key for key, node in graph.items() if is_constant(node)} if holds(graph, (DataNode, TaskRef)) else set()
        self.key = [key for key in graph if key not in constant] if constant else list(graph)
        self.node = [graph[key] for key in self.key] if constant else list(graph.values())
        number: dict[Key, int] = {}
        inputs = self.inputs
        in_order = True  # numbering as we go, we see whether each task comes after all it reads, which nearly always is so
        for task, (key, node) in enumerate(zip(self.key, self.node, strict=True)):
            try:
                inputs.append(tuple([number[dep] for dep in node.dependencies]))
            except KeyError:  # of data, of futures, or of a task that comes later
                in_order = in_order and all([dep in number or dep in constant or dep not in graph for dep in node.dependencies])
                inputs.append(tuple([number[dep] for dep in node.dependencies if dep in number]))
            number[key] = task
        order: Iterable[int] = range(len(inputs))
        if not in_order:
            inputs[:] = [tuple([number[dep] for dep in node.dependencies if dep in number]) for node in self.node]
            order = [number[key] for key in toposort(graph) if key in number]
        readers = self.readers = [0] * len(inputs)
        for key in keys & number.keys():
            readers[number[key]] = 1
        depth = [0] * len(inputs)
        for task in order:
            at = 0
            for dep in inputs[task]:
                readers[dep] += 1
                if depth[dep] >= at:
                    at = depth[dep] + 1
            if at == len(levels):
                levels.append([])
            depth[task] = at
            levels[at].append(task)
        for level in levels:  # the graph's own order, alike for all blocks of an array
            level.sort()
        self.region = [-1] * len(inputs)
        self.barrier = barriers(self.node)
        if any([isinstance(self.node[task], Region) for task in self.barrier]):
            picks = [task for task, node in enumerate(self.node) if is_pick(node, graph)]
            self.barrier.update(dict.fromkeys(picks, "it takes one output of a region"))
        self.blocking = {task for task in self.barrier if self.node[task].block_fusion}
        self.feeding = {dep for task in self.blocking for dep in inputs[task]}

    def run(self) -> Partition:
        for at, level in enumerate(self.levels):
            self._level(at, level)
        members: list[list[int]] = [[] for _ in self.parent]
        region, parent, find = self.region, self.parent, self.find
        for level in self.levels:
            for task in level:
                r = region[task]
                members[r if parent[r] == r else find(r)].append(task)
        found = [tasks for tasks in members if tasks]
        if len(found) == len(region):
            return Partition((), tuple(self.refusals))
        node, barred = self.node, self.barrier
        regions = tuple([[node[task] for task in tasks] for tasks in found if len(tasks) > 1 or tasks[0] not in barred])
        return Partition(regions, tuple(self.refusals))

    def find(self, region: int) -> int:
        parent = self.parent
        while parent[region] != region:
            parent[region] = parent[parent[region]]
            region = parent[region]
        return region

    # -- one depth at a time -------------------------------------------------------------------------------------

    def _level(self, at: int, level: list[int]) -> None:
        """Place the tasks of one depth: all by the rule if enough regions remain apart, else only where it is free."""
        wanted = self._wanted(level)
        if any(wanted) and not self._affordable(level, wanted):
            for place, (task, regions) in enumerate(zip(level, wanted, strict=True)):
                if regions and not (len(regions) == 1 and self._is_free(task, regions[0])):
                    wanted[place] = []
                    self._refuse(task, self._too_few())
        rank = self._new_rank(level, wanted) if not all(wanted) else -1
        if any([len(regions) > 1 for regions in wanted]):
            touched = {self._place(at, task, regions, rank) for task, regions in zip(level, wanted, strict=True)}
            touched = {self.find(r) for r in touched}
        else:
            touched = self._place_apart(at, level, wanted, rank)
        self.census.append(Counter([self.rank[r] for r in touched]))
        if max(self.census[at].values()) < min(self.parallelism, len(level)):
            self.mixed |= touched
            self.mixed_depths.add(at)

    def _wanted(self, level: list[int]) -> list[list[int]]:
        """List for each task the regions that it would make one by joining them; none if it has to start its own."""
        if self.barrier or self.classes:
            return [self._candidates(task) if self.inputs[task] else [] for task in level]
        inputs, region, parent, alone, wanted = self.inputs, self.region, self.parent, self.alone, []
        for task in level:
            reads = inputs[task]
            if len(reads) == 1:
                r = region[reads[0]]
                wanted.append(alone[r if parent[r] == r else self.find(r)])
            elif reads:
                found = self._found(task)
                wanted.append(found if len(found) == 1 else self._unions(task, found))
            else:
                wanted.append([])
        return wanted

    def _place_apart(self, at: int, level: list[int], wanted: list[list[int]], rank: int) -> set[int]:
        """Place the tasks of a depth at which no regions are united; return the regions that have tasks there."""
        inputs, region, readers, edges, depths = self.inputs, self.region, self.readers, self.open, self.depths
        touched = set()
        for task, regions in zip(level, wanted, strict=True):
            if regions:
                (r,) = regions
                region[task] = r
                edges[r] += readers[task] - len(inputs[task])  # all that it reads is in there
                depths[r].add(at)
            else:
                r = self._place(at, task, regions, rank)
            touched.add(r)
        return touched

    def _new_rank(self, level: list[int], wanted: list[list[int]]) -> int:
        """Return the rank of the regions that start at a depth: one for all, above all that any of them reads."""
        alone = [task for task, regions in zip(level, wanted, strict=True) if not regions]
        read = {self.find(self.region[dep]) for task in alone for dep in self.inputs[task]}
        return 1 + max([self.rank[r] for r in read], default=-1)

    def _found(self, task: int) -> list[int]:
        """List the regions that a task reads, each once; in the order of their numbers, whatever the keys hash to."""
        region, find = self.region, self.find
        inputs = self.inputs[task]
        if len(inputs) == 1:
            return [find(region[inputs[0]])]
        return sorted({find(region[dep]) for dep in inputs})

    def _candidates(self, task: int) -> list[int]:
        """List the regions that this task would make one by joining them; none if it has to start its own."""
        if task in self.barrier:
            if not isinstance(self.node[task], Region):
                self._refuse(task, self.barrier[task])
            return []
        found = self._found(task)
        if self.sealed and not self.sealed.isdisjoint(found):
            return []
        if self.classes:
            kind = self.classes.get(self.key[task], 0)
            if any(self.annotation[r] != kind for r in found):
                self._refuse(task, "its annotations differ from its inputs'")
                return []
        if task in self.feeding and not all(self._is_free(task, r) for r in found):
            self._refuse(task, "a barrier reads it, and something else reads its inputs")
            return []
        return found if len(found) == 1 else self._unions(task, found)

    def _unions(self, task: int, found: list[int]) -> list[int]:
        """Return the regions that a task would unite, or none if it may not."""
        if self.pinned and not self.pinned.isdisjoint(found):
            self._refuse(task, "one of its inputs runs where a barrier says")
            return []
        top = max([self.rank[r] for r in found])
        if any(self.rank[r] != top and (self.rank[r] or not self._is_free(task, r)) for r in found):
            self._refuse(task, "its inputs become ready at different times, in different regions")
            return []
        if self._siblings(task):
            return []
        if not self.mixed.isdisjoint(found):
            others = [r for r in found if r not in self.mixed]
            if len(others) < len(found) - 1 or any(self.rank[r] or not self._is_free(task, r) for r in others):
                self._refuse(task, self._too_few())
                return []
        if sum([self.bytes[r] for r in found]) > self.max_bytes:
            self._refuse(task, f"its inputs would bring more than {self.max_bytes} bytes into one region")
            return []
        return found

    def _siblings(self, task: int) -> bool:
        """Say whether a task reads several blocks of one array: those are lanes, to be kept apart here."""
        names = set()
        for dep in self.inputs[task]:
            key, node = self.key[dep], self.node[dep]
            names.add(key[0] if isinstance(key, tuple) and key else id(node.func) if isinstance(node, Task) else dep)
        return len(names) < len(self.inputs[task])

    def _affordable(self, level: list[int], wanted: list[list[int]]) -> bool:
        """Say whether enough regions of equal rank would remain, at this depth and at those that the unions touch."""
        united: dict[int, int] = {}

        def root(r: int) -> int:
            while (up := united.get(r, r)) != r:
                united[r] = united.get(up, up)
                r = up
            return r

        census: dict[int, Counter[int]] = {}  # as it would be, at the depths of the regions that lose their number
        gained: dict[int, set[int]] = {}  # the depths that united regions gain
        for regions in wanted:
            if len(regions) > 1:
                head, *others = sorted(set(map(root, regions)), key=self._head, reverse=True)
                new = gained.setdefault(head, set())
                for other in others:
                    united[other] = head
                    for depth in self.depths[other] | gained.get(other, set()):
                        counts = census.setdefault(depth, self.census[depth].copy())
                        counts[self.rank[other]] -= 1
                        if depth not in self.depths[head] and depth not in new:
                            counts[self.rank[head]] += 1
                            new.add(depth)
        joined = {root(regions[0]) if united else regions[0] for regions in wanted if regions}
        ranks = Counter([self.rank[r] for r in joined])
        if not all(wanted):
            ranks[self._new_rank(level, wanted)] += sum([not regions for regions in wanted])
        if max(ranks.values()) < min(self.parallelism, len(level)):
            return False
        return all(
            depth in self.mixed_depths or max(counts.values()) >= min(self.parallelism, len(self.levels[depth]))
            for depth, counts in census.items()
        )

    def _is_free(self, task: int, region: int) -> bool:
        """Say whether nothing but this task waits for a region."""
        return self.open[region] == self._edges(task, region)

    def _edges(self, task: int, region: int) -> int:
        """Count the edges from a region to a task."""
        inputs = self.inputs[task]
        return 1 if len(inputs) == 1 else sum([self.find(self.region[dep]) == region for dep in inputs])

    def _place(self, at: int, task: int, regions: list[int], rank: int) -> int:
        """Put a task into the regions that it unites, or into one of its own of this rank; return which."""
        if regions:
            r = self._unite(regions) if len(regions) > 1 else self.find(regions[0])
            self.region[task] = r
            self.open[r] += self.readers[task] - self._edges(task, r)
            self.depths[r].add(at)
            return r
        r = self.region[task] = len(self.parent)
        self.parent.append(r)
        self.alone.append([r])
        self.rank.append(rank)
        if task in self.barrier:
            self.sealed.add(r)
        if self.blocking and not self.blocking.isdisjoint(self.inputs[task]):
            self.pinned.add(r)
        self.open.append(self.readers[task])
        self.depths.append({at})
        self.bytes.append(0 if self.inputs[task] else brought_bytes(self.node[task], self.graph))
        self.annotation.append(self.classes.get(self.key[task], 0) if self.classes else 0)
        return r

    def _unite(self, regions: list[int]) -> int:
        regions = list(dict.fromkeys(map(self.find, regions)))
        head = max(regions, key=self._head)
        here = self.depths[head]  # most of the depths: merging the smaller sets keeps this linear, but for a logarithm
        for other in regions:
            if other == head:
                continue
            self.parent[other] = head
            self.open[head] += self.open[other]
            self.bytes[head] += self.bytes[other]
            for depth in self.depths[other]:
                if depth < len(self.census):  # the depth that is being placed is counted when it is done
                    self.census[depth][self.rank[other]] -= 1
                    self.census[depth][self.rank[head]] += depth not in here
                here.add(depth)
            if other in self.mixed:
                self.mixed.add(head)
        return head

    def _head(self, region: int) -> tuple[int, int, int]:
        """Compare regions by this: the greatest of those that are united gives the others its number and rank."""
        return self.rank[region], len(self.depths[region]), -region

    def _too_few(self) -> str:
        return f"fewer than {self.parallelism} independent regions would remain beside it"

    def _refuse(self, task: int, why: str) -> None:
        self.refusals.append(Refusal(self.key[task], NAME, why))
