"""Symmetry: where all blocks are treated alike, a plan for a few of them is a plan for all.

dask's layers say what they do to all blocks of an array at once. Where every layer does the same to each block along one axis,
or reduces all of them in a tree, the graph is cut down to a few blocks here. That is optimised and laid out like any other, and
every lane is then repeated for the other blocks (`widen.py`). A plan costs the same for ten chunks and, but for writing down
the lanes, for ten thousand.

Nothing is taken on trust: each task of a layer that is no Blockwise is compared with the first, and each step of a tree must
read the next few blocks. Where that does not hold there is no sample, and the whole graph is worked on as it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

from dask.blockwise import Blockwise
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from graphopt.blockwise import block_counts, blocks
from graphopt.functions import is_simple
from graphopt.graph import as_node, layer_order
from graphopt.spec import Alias, GraphNode, Task, TaskRef
from graphopt.types import Key, Node

__all__ = ["AllSeries", "Sample", "Series", "sample"]


class Series:
    """The keys of blocks that differ in one place only."""

    __slots__ = ("_after", "_before", "count")

    def __init__(self, first: Any, axis: int, count: int) -> None:
        self._before, self._after, self.count = first[:axis], first[axis + 1 :], count

    def __getitem__(self, place: int) -> Key:
        return (*self._before, place, *self._after)

    def keys(self, places: Iterable[int] | None = None) -> list[Key]:
        """List the keys, of all blocks or of some."""
        before, after = self._before, self._after
        places = range(self.count) if places is None else places
        if len(before) == 1 and not after:  # what most arrays are, in half the time
            (name,) = before
            return [(name, place) for place in places]
        return [(*before, place, *after) for place in places]


class AllSeries:
    """The series of a graph: an array that has chunks along other axes too is several."""

    __slots__ = ("_axes", "_series")

    def __init__(self) -> None:
        self._axes: dict[str, int] = {}  # by name, which place of a key says which of the series a block is
        self._series: dict[Key, Series] = {}  # by first key

    def add(self, name: str, axis: int, firsts: Iterable[Key], count: int) -> None:
        """Take in an array, by the first keys of its series."""
        self._axes[name] = axis
        self._series.update({first: Series(first, axis, count) for first in firsts})

    def of(self, key: Any) -> Series | None:
        """Return the series that a block belongs to; None if it belongs to none, or the key is no block's."""
        axis = self._axes.get(key[0]) if type(key) is tuple and key and type(key[0]) is str else None
        return None if axis is None else self._series.get((*key[:axis], 0, *key[axis + 1 :]))

    def place(self, key: Any) -> int:
        """Return which of its series a block is."""
        return cast("int", key[self._axes[key[0]]])


@dataclass(frozen=True, slots=True)
class Sample:
    """The part of a graph that a few blocks of each array make, and what they stand for.

    Attributes
    ----------
    nodes : dict
        The graph of the few.
    keys : list
        What is asked for of it.
    few, count : int
        How many blocks there are in a series of it, and how many in truth.
    series : AllSeries
        The blocks that are treated alike.
    inner : collection
        The keys of what trees of reductions make on the way.
    """

    nodes: dict[Key, Node]
    keys: list[Key]
    few: int
    count: int
    series: AllSeries
    inner: Collection[Key]


def sample(graph: HighLevelGraph, keys: Sequence[Key], given: Collection[Key], few: int) -> Sample | None:
    """Cut a graph down to a few blocks; None where its blocks are not treated alike, or are too few to be worth it.

    Parameters
    ----------
    graph
        A high-level graph.
    keys
        What is asked for.
    given
        The keys of blocks that are given later.
    few
        How many blocks to keep, at least as many as there are threads: as many lanes as that are to stay apart.
    """
    sampler = _Sampler(graph, given, few)
    return sampler.sample if sampler.count >= 3 * few and sampler.run(keys) and sampler.cut(keys) else None


class _Sampler:
    """Goes through the layers, inputs first. The series are along the axis that has the most blocks of all that is given."""

    def __init__(self, graph: HighLevelGraph, given: Collection[Key], few: int) -> None:
        self.graph, self.given, self.few = graph, given, few
        self.layers = dict(graph.layers.items())
        names = {key[0] for key in given if isinstance(key, tuple)}
        sizes = [_sizes(name, self.layers[name]) or (0,) for name in names if name in self.layers]
        self.count = max(map(max, sizes), default=0)
        self.nodes: dict[Key, Node] = {}
        self.keys: list[Key] = []
        self.single: set[Key] = set()  # what belongs to no series
        self.series = AllSeries()
        self.inner: dict[Key, list[Key]] = {}  # by what a tree of reductions makes on the way, all that it makes at that step

    @property
    def sample(self) -> Sample:
        return Sample(self.nodes, self.keys, self.few, self.count, self.series, self.inner)

    def run(self, keys: Sequence[Key]) -> bool:
        return all(self.layer(name, self.layers[name]) for name in layer_order(self.graph, keys))

    def cut(self, keys: Sequence[Key]) -> bool:
        """Ask for the few of what is asked for; say whether of each series all is."""
        wanted: dict[Series, set[Key]] = {}
        for key in keys:
            if key in self.single:
                self.keys.append(key)
            elif (series := self.series.of(key)) is not None:
                wanted.setdefault(series, set()).add(key)
            else:
                return False
        for series, found in wanted.items():
            if len(found) != series.count:
                return False
            self.keys += series.keys(range(self.few))
        return True

    def layer(self, name: str, layer: Any) -> bool:
        """Take the few of a layer; say whether they stand for all of it."""
        if type(layer) is Blockwise and not layer.is_materialized():
            return layer.output == name and layer.output_blocks is None and self.blockwise(name, layer)
        if type(layer) is not MaterializedLayer:
            return False
        values: Mapping[Key, Any] = layer.mapping
        sizes = _sizes(name, values)
        if sizes is not None and self.count in sizes:
            return sizes.count(self.count) == 1 and self.alike(name, 1 + sizes.index(self.count), values)
        return self.tree(values) or all(self.one(key, value) for key, value in values.items())

    def blockwise(self, name: str, layer: Any) -> bool:
        counts = block_counts(layer)
        sizes = [counts[index] for index in layer.output_indices]
        if sizes.count(self.count) > 1:
            return False
        grid = [range(self.few if size == self.count else size) for size in sizes]
        wanted: list[Key] = [(name, *place) for place in product(*grid)]
        made = blocks(layer, set(wanted))
        if made is None:
            return False
        if self.count in sizes:
            axis = 1 + sizes.index(self.count)
            self.series.add(name, axis, [key for key in wanted if not key[axis]], self.count)  # type: ignore[index]
        else:
            self.single.update(wanted)
        self.nodes.update(made)
        return all(map(self.knows, made.values()))

    def knows(self, node: Any) -> bool:
        """Say whether a node reads only what belongs to no series, or is the block of one."""
        return all(dep in self.single or self.series.of(dep) is not None for dep in node.dependencies)

    def one(self, key: Key, value: Any) -> bool:
        """Take what belongs to no series, and is made of nothing that does."""
        self.single.add(key)
        if key in self.given:
            self.nodes[key] = TaskRef(key)
            return True
        node = self.nodes[key] = as_node(key, value, self.nodes)
        return isinstance(node, GraphNode) and node.dependencies <= self.single

    def alike(self, name: str, axis: int, values: Mapping[Key, Any]) -> bool:
        """Take the few of a layer with a block for each of the others, if they do the same to each."""
        firsts: list[Any] = [key for key in values if not key[axis]]  # type: ignore[index]
        given = all([key in self.given for key in values])
        for first in firsts:
            series = Series(first, axis, self.count)
            if given:
                self.nodes.update({key: TaskRef(key) for key in series.keys(range(self.few))})
                continue
            like = _Like(values[first], self.series)
            if not all([like(values[key], place) for place, key in enumerate(series.keys())]):
                return False
            for key in series.keys(range(self.few)):
                node = self.nodes[key] = as_node(key, values[key], self.nodes)
                if not isinstance(node, (Task, Alias)) or not self.knows(node):
                    return False
        self.series.add(name, axis, firsts, self.count)
        return True

    def tree(self, values: Mapping[Key, Any]) -> bool:
        """Take a step of trees of reductions: a task for each few of the blocks of a series, in order, until none is left."""
        done: Counter[Key] = Counter()
        made: dict[Key, list[Key]] = {}  # by first key of what is read
        whole: dict[Key, list[Key]] = {}
        func: Any = None
        for key, value in values.items():
            if type(value) is not tuple or len(value) != 2 or not callable(value[0]) or func not in (None, value[0]):
                return False
            func, listed = value
            depth, read = _nested(listed)
            series = self.series.of(read)
            source = self.inner.get(read) if series is None else whole.get(series[0]) or series.keys()
            if source is None:
                return False
            start = source[0]
            size = _length(listed, depth)
            if listed != _listed(source[done[start] : done[start] + size], listed, depth):
                return False
            done[start] += size
            whole[start] = source
            if start not in made:
                few: list[Key] = [start] if series is None else series.keys(range(self.few))
                self.nodes[key] = as_node(key, (func, _listed(few, listed, depth)), self.nodes)
            made.setdefault(start, []).append(key)
        if not made or any([done[start] != len(source) for start, source in whole.items()]):
            return False
        if all([len(keys) == 1 for keys in made.values()]):
            self.single.update(values)
        else:
            self.inner.update({key: keys for keys in made.values() for key in keys})
        return True


def _sizes(name: str, keys: Iterable[Any]) -> tuple[int, ...] | None:
    """Return how many blocks there are along each axis, if all blocks of an array are there and nothing else is."""
    keys = list(keys)
    if not all([type(key) is tuple and key for key in keys]) or len({len(key) for key in keys}) != 1:
        return None
    names, *places = zip(*keys, strict=True)
    if set(names) != {name} or any([not set(map(type, axis)) <= {int} or min(axis) < 0 for axis in places]):
        return None
    sizes = tuple([max(axis) + 1 for axis in places])
    return sizes if math.prod(sizes) == len(keys) else None


class _Like:
    """Compares tasks with the first of their layer: as that one, but for the blocks that they read."""

    def __init__(self, first: Any, series: AllSeries) -> None:
        self.first, self.series = first, series
        # What most of such layers hold is a function and a list of blocks: that is compared as a whole.
        self.listed = type(first) is tuple and len(first) == 2 and callable(first[0]) and type(first[1]) is list

    def __call__(self, value: Any, place: int) -> bool:
        first = self.first
        if self.listed and type(value) is tuple and len(value) == 2 and value[0] is first[0] and type(value[1]) is list:
            moved = self.moved(first[1], place)
            if moved is not None:
                return bool(value[1] == moved)
        return self.same(first, value, place)

    def moved(self, value: list[Any], place: int) -> list[Any] | None:
        """Return a nested list of blocks with those of another place in it; None if it holds anything else."""
        out: list[Any] = []
        for item in value:
            if type(item) is list:
                inner = self.moved(item, place)
                if inner is None:
                    return None
                out.append(inner)
                continue
            series = self.series.of(item)
            if series is None or item != series[0]:
                return None
            out.append(series[place])
        return out

    def same(self, one: Any, other: Any, place: int) -> bool:
        """Say whether something is the same, but for the blocks that it reads."""
        if one is other and not isinstance(one, (GraphNode, TaskRef, tuple, list, dict)):
            return True
        if type(one) is not type(other):
            return False
        if isinstance(one, TaskRef):
            return self.same(one.key, other.key, place)
        if isinstance(one, Task):
            if not (self.same(one.func, other.func, place) and one.kwargs.keys() == other.kwargs.keys()):
                return False
            kwargs = all(self.same(value, other.kwargs[name], place) for name, value in one.kwargs.items())
            return kwargs and self.same(one.args, other.args, place)
        if (series := self.series.of(one)) is not None:
            return bool(one == series[0] and other == series[place])
        if type(one) in (tuple, list):
            return len(one) == len(other) and all(self.same(a, b, place) for a, b in zip(one, other, strict=True))
        if type(one) is slice:
            return self.same((one.start, one.stop, one.step), (other.start, other.stop, other.step), place)
        return is_simple(one) and bool(one == other)


def _nested(value: Any) -> tuple[int, Any]:
    """Return how deep the list of several is in nested lists, and the first key in them; no key if there is none."""
    deep = depth = 0
    while type(value) is list and value:
        if len(value) > 1:
            depth = deep
        deep, value = deep + 1, value[0]
    return depth, value if deep else None


def _length(value: Any, depth: int) -> int:
    for _ in range(depth):
        value = value[0] if type(value) is list and value else None
    return len(value) if type(value) is list else 0


def _listed(keys: Sequence[Key], like: Any, depth: int) -> Any:
    """Return keys in lists that are nested as others are, several at this depth."""
    inner, deep = like, 0
    while type(inner) is list and inner:
        inner, deep = inner[0], deep + 1
    out: Any = list(keys)
    for _ in range(deep - depth - 1):
        out = [[item] for item in out]
    for _ in range(depth):
        out = [out]
    return out
