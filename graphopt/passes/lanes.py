"""Lanes: regions that feed one reader are batched with it, and readers of the same inputs become one.

::

    {l0: R, l1: R, l2: R, l3: R, s: sum(l0, l1), t: sum(l2, l3)}   ->   {s: Region(l0, l1, s), t: Region(l2, l3, t)}
    {p: f(a, b), q: g(a, b)}                                       ->   {(p, q): Region(p, q)}

A tree of sums over many chunks costs a task for each chunk and each node of the tree; batched, a handful. The lanes of a
batch run one after the other, in chunk order, and are folded there, so a batch holds no more than the sum itself would.

Legality: the lanes' results go to that reader (or readers with the same inputs) alone, so nothing outside can come
between; nobody asked for them; annotations agree; and no lane reads a future, because a scheduler places such a task where
its data is, and a batch would have to fetch it. Policy: at least ``spare * parallelism`` batches remain at each rank, as many
batches as that even out between threads, and a batch brings in no more than ``max_bytes``.

The pass repeats until nothing changes: a tree is batched from its leaves up, as far as the policy allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from graphopt.graph import dependencies, is_constant, toposort
from graphopt.region import Region, barrier, group, is_pick, region_key
from graphopt.sizes import at_most_bytes, brought_bytes
from graphopt.spec import GraphNode, TaskRef
from graphopt.types import Graph, Key, Refusal

EXACT = True
NAME = "lanes"


def lanes(
    graph: Graph,
    keys: Collection[Key],
    *,
    parallelism: int = 1,
    spare: int = 4,
    max_bytes: int = 2**62,
    classes: Mapping[Key, int] | None = None,
    refusals: list[Refusal] | None = None,
) -> Graph:
    """Return the graph with lanes batched; the same object if there are none.

    Parameters
    ----------
    graph, keys
        The graph and what is asked for.
    parallelism, spare
        Keep at least ``parallelism * spare`` batches at a rank, and ``parallelism`` readers.
    max_bytes
        The most bytes of chunk data in one batch.
    classes
        The annotation class of each annotated key.
    refusals
        Where given, what was refused in the last round is added to it.
    """
    wanted = set(keys)
    known = _Known()
    view = _View.of(graph, wanted, classes or {})
    while True:
        refused: list[Refusal] = []
        batches = _batches(view, parallelism * spare, known, max_bytes, refused)
        taken = {key for batch in batches for key in batch}
        pairs = [pair for pair in _pairs(view, parallelism) if taken.isdisjoint(pair)]
        if not batches and not pairs:
            if refusals is not None:
                refusals.extend(refused)
            return graph
        members = [view.members(batch) for batch in batches + pairs]
        graph = group(graph, wanted, members)
        view = view.contracted(graph, batches + pairs, [_stands(keys, graph) for keys in members])


@dataclass(frozen=True, slots=True)
class _Known:
    """What we found out about bytes, by ``id`` of the node; the nodes live on as members of regions."""

    bounds: dict[int, tuple[int, int]] = field(default_factory=dict)
    guesses: dict[int, int] = field(default_factory=dict)


def _stands(members: list[Key], graph: Graph) -> list[Key]:
    """List what stands in a graph in place of a group of its tasks: the region, and its picks if it has several outputs."""
    picks = [key for key in members if is_pick(graph.get(key), graph)]
    # By the picks first: the new region may have the key of a member that was a region too.
    return [region_key(picks[0]), *picks] if picks else [key for key in members if key in graph]


@dataclass
class _View:
    """The graph as lanes see it: regions and tasks only, each standing for its picks, with ranks."""

    graph: Graph
    keys: set[Key]
    classes: Mapping[Key, int]
    inputs: dict[Key, frozenset[Key]]  # in order: each after those it reads
    picks: dict[Key, list[Key]]
    place: dict[Key, int]
    readers: dict[Key, set[Key]] = field(init=False)
    rank: dict[Key, int] = field(init=False)
    blocking: set[Key] = field(init=False)

    @classmethod
    def of(cls, graph: Graph, keys: set[Key], classes: Mapping[Key, int]) -> _View:
        """Look at a graph for the first time."""
        inputs: dict[Key, frozenset[Key]] = {}
        picks: dict[Key, list[Key]] = {}
        owner: dict[Key, Key] = {}
        for key in toposort(graph):
            node = graph[key]
            if is_constant(node):
                continue
            if is_pick(node, graph):
                owner[key] = region = node.args[0].key
                picks.setdefault(region, []).append(key)
                continue
            owner[key] = key
            inputs[key] = frozenset([owner[dep] for dep in dependencies(node) if dep in owner])
        return cls(graph, keys, classes, inputs, picks, {key: i for i, key in enumerate(graph)})

    def __post_init__(self) -> None:
        readers = self.readers = {key: set() for key in self.inputs}
        ranks = self.rank = {}
        self.blocking = set()
        for key, found in self.inputs.items():
            rank = 0
            for dep in found:
                readers[dep].add(key)
                if ranks[dep] >= rank:
                    rank = ranks[dep] + 1
            ranks[key] = rank
            node = self.graph[key]
            if type(node) is not Region and isinstance(node, GraphNode) and node.block_fusion:
                self.blocking.add(key)

    def contracted(self, graph: Graph, batches: list[list[Key]], stands: list[list[Key]]) -> _View:
        """Look at the graph again after these batches have become what now stands for them."""
        home = {key: new[0] for batch, new in zip(batches, stands, strict=True) for key in batch}
        inputs: dict[Key, set[Key]] = {}
        # In order of rank: what reads a batch has a higher rank than all of it.
        for key in sorted(self.inputs, key=lambda k: self.rank[k]):
            inputs.setdefault(home.get(key, key), set()).update([home.get(dep, dep) for dep in self.inputs[key]])
        last = {home.get(key, key): self.rank[key] for key in sorted(self.inputs, key=lambda k: self.rank[k])}
        found = {key: frozenset(inputs[key] - {key}) for key in sorted(inputs, key=last.__getitem__)}
        picks = {key: names for key, names in self.picks.items() if key not in home}
        picks.update({key: names for key, *names in stands if names})
        place = {home.get(key, key): self.place[key] for key in self.inputs}
        return _View(graph, self.keys, self.classes, found, picks, place)

    def siblings(self) -> list[tuple[frozenset[Key], list[Key]]]:
        """Group the tasks that read exactly the same two or more others, and may be fused."""
        out: dict[tuple[frozenset[Key], int], list[Key]] = {}
        for key, found in self.inputs.items():
            if len(found) > 1 and self.fusible(key):
                out.setdefault((found, self.kind(key)), []).append(key)
        return [(found, tasks) for (found, _), tasks in out.items()]

    def fusible(self, key: Key) -> bool:
        """Say whether a node may be fused; around one that blocks fusion nothing is batched (see `diamond`)."""
        node = self.graph[key]
        if not isinstance(node, Region) and barrier(node) is not None:
            return False
        return not self.blocking or self.blocking.isdisjoint(self.inputs[key] | self.readers[key])

    def kind(self, key: Key) -> int:
        """Return the annotation class of a task, or of the tasks in a region: those never differ."""
        node = self.graph[key]
        return self.classes.get(node.outputs[0] if isinstance(node, Region) else key, 0)

    def why_not(self, lane: Key, readers: list[Key]) -> str | None:
        """Return why a lane may not be batched with its readers, or None."""
        if not self.fusible(lane):
            return "one of its inputs may not be fused"
        if self.keys.intersection((lane, *self.picks.get(lane, ()))):
            return "one of its inputs is asked for"
        if self.kind(lane) != self.kind(readers[0]):
            return "its annotations differ from its inputs'"
        if not self.readers[lane] <= set(readers):
            return "one of its inputs is read elsewhere too"
        for dep in dependencies(self.graph[lane]):
            if isinstance(self.graph.get(dep), TaskRef) or dep not in self.graph:
                return "one of its inputs reads a future, and should run where that is"
        return None

    def brings_more(self, found: Collection[Key], max_bytes: int, known: _Known) -> bool:
        """Say whether a batch of these lanes would bring in too much; cheaply where they are far from that."""
        nodes = [self.graph[key] for key in found]
        if sum([at_most_bytes(node, self.graph, known.bounds) for node in nodes]) <= max_bytes:
            return False
        return sum([brought_bytes(node, self.graph, known.guesses) for node in nodes]) > max_bytes

    def members(self, batch: Collection[Key]) -> list[Key]:
        """List the keys of a batch, inputs first and in chunk order, each region with its picks."""
        out: list[Key] = []
        for key in sorted(batch, key=lambda k: (self.rank[k], self.place[k])):
            out += (key, *self.picks.get(key, ()))
        return out


def _batches(view: _View, keep: int, known: _Known, max_bytes: int, refused: list[Refusal]) -> list[list[Key]]:
    """Choose lanes to batch with their readers, rank by rank: all that are legal at a rank, if enough remain, or none."""
    by_rank: dict[int, list[list[Key]]] = {}
    for found, readers in view.siblings():
        ranks = {view.rank[lane] for lane in found}
        why = "its inputs become ready at different times" if len(ranks) > 1 else None
        in_order = sorted(found, key=view.place.__getitem__)  # so that the reason given is the same in every process
        why = why or next(filter(None, (view.why_not(lane, readers) for lane in in_order)), None)
        if why is None and view.brings_more(found, max_bytes, known):
            why = f"the batch would bring in more than {max_bytes} bytes"
        if why is None:
            by_rank.setdefault(min(ranks), []).append([*found, *readers])
        else:
            refused += [Refusal(key, NAME, why) for key in readers]
    population = Counter(view.rank.values())
    chosen: list[list[Key]] = []
    taken: set[Key] = set()
    for rank, batches in sorted(by_rank.items()):
        lanes_in = sum(view.rank[key] == rank for batch in batches for key in batch)
        remain = population[rank] - lanes_in + len(batches)
        if remain < keep:
            readers = [key for batch in batches for key in batch if view.rank[key] > rank]
            refused += [Refusal(key, NAME, f"only {remain} batches would remain, fewer than {keep}") for key in readers]
        elif not any(key in taken for batch in batches for key in batch):
            chosen += batches
            taken.update(key for batch in batches for key in batch)
    return chosen


def _pairs(view: _View, parallelism: int) -> list[list[Key]]:
    """Choose readers of the same inputs to become one, at the ranks that can spare them."""
    by_rank: dict[int, list[list[Key]]] = {}
    for _, readers in view.siblings():
        if len(readers) > 1:
            by_rank.setdefault(view.rank[readers[0]], []).append(readers)
    population = Counter(view.rank.values())
    chosen: list[list[Key]] = []
    for rank, groups in by_rank.items():
        remain = population[rank] - sum(len(readers) - 1 for readers in groups)
        if remain >= min(parallelism, population[rank]):
            chosen += groups
    return chosen
