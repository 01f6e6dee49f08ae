"""Schedule: an optimised graph laid out to be run again and again without a scheduler.

Every value has a *slot*: data that is given, literals, the results of kernels. A lane reads some slots and writes others. A
level is what may run at once; within it, lanes that run the same kernel are a *group*, in chunk order. To run a schedule is to
fill the slots of what is given and go through the levels (`execute/local.py`).

A schedule never changes and holds no data but literals, so that several threads may run it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np

from graphopt.graph import dependencies, is_constant, toposort
from graphopt.kernel import Kernel, Traced, trace_regions
from graphopt.passes.folds import Fold, folds
from graphopt.pipeline import Policy, run_passes
from graphopt.program import container
from graphopt.prologue import prologue
from graphopt.region import Region, barrier, is_pick
from graphopt.spec import DataNode, GraphNode, Task, TaskRef
from graphopt.standins import Scalar, with_scalars
from graphopt.types import Graph, GraphError, Key, Node, Refusal, TraceError

__all__ = ["Group", "Lane", "Level", "Row", "Schedule", "Stack", "as_group", "fold_with", "folded_by", "lay_out"]


@dataclass(frozen=True, slots=True)
class Lane:
    """One call of a kernel: the slots it reads and writes, and the user's keys of its steps, for messages."""

    key: Key
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    labels: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Lanes that run the same kernel, in chunk order.

    ``fetch`` makes of the values of all slots the arguments of each lane; ``traced`` is the first lane as it was written down,
    None where the kernel is not ours: a fold, or a node that dask runs by rules of its own.
    """

    kernel: Callable[..., Any]
    lanes: tuple[Lane, ...]
    traced: Traced | None = None
    fetch: tuple[Callable[[Sequence[Any]], tuple[Any, ...]], ...] = field(default=(), repr=False, compare=False)

    def __reduce__(self) -> Any:
        return _grouped, (self.kernel, self.lanes, self.traced)

    @property
    def is_fold(self) -> bool:
        """Whether its lanes reduce lists of blocks."""
        return isinstance(self.kernel, _Reduce)

    @property
    def name(self) -> str:
        """What the kernel is called."""
        return str(getattr(self.kernel, "__name__", type(self.kernel).__name__))


@dataclass(frozen=True, slots=True)
class Level:
    """Groups that may run at once, and the slots that nothing reads after them."""

    groups: tuple[Group, ...]
    drop: tuple[int, ...] = ()

    @property
    def lanes(self) -> int:
        """How many lanes run at this level."""
        return sum(len(group.lanes) for group in self.groups)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Levels of lanes, and where the values they read come from.

    Attributes
    ----------
    levels : tuple of Level
        What runs, in order.
    template : tuple
        The values of all slots before a run: literals, and None elsewhere.
    slots : dict
        The slots of keys: of what is given, of what is asked for, and of all results between.
    scalars : tuple
        The slots that hold numbers computed from those that are given.
    """

    levels: tuple[Level, ...]
    template: tuple[Any, ...]
    slots: Mapping[Key, int]
    scalars: tuple[tuple[int, Scalar], ...] = ()

    @property
    def lanes(self) -> int:
        """How many kernel calls a run makes."""
        return sum(level.lanes for level in self.levels)

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The generated functions, in the order in which they run."""
        found = [group.kernel for level in self.levels for group in level.groups if isinstance(group.kernel, Kernel)]
        return tuple(dict.fromkeys(found))

    def _check(self, given: Collection[int], kept: Collection[int]) -> None:
        """Assert what must hold: nothing is read before it is there or after it was dropped, or written twice, or lost."""
        written = {slot for level in self.levels for group in level.groups for lane in group.lanes for slot in lane.writes}
        literals = {slot for slot, value in enumerate(self.template) if value is not None}
        ready = literals.union(given, [slot for slot, _ in self.scalars], set(range(len(self.template))) - written)
        assert not ready & written, "a lane writes to what is given"
        for level in self.levels:
            lanes = [lane for group in level.groups for lane in group.lanes]
            for lane in lanes:
                late = set(lane.reads) - ready
                assert not late, f"{lane.key!r} reads {late}, which are not there yet, or not any more"
            writes = [slot for lane in lanes for slot in lane.writes]
            assert len(set(writes)) == len(writes), "two lanes write to one slot"
            assert not ready.intersection(writes), "a slot is written twice"
            ready.update(writes)
            assert ready.issuperset(level.drop), "what is not there is dropped"
            assert not set(level.drop) & set(kept), "what is asked for is dropped"
            ready.difference_update(level.drop)
        assert ready.issuperset(kept), "what is asked for is never made"


def lay_out(
    graph: Graph,
    keys: Sequence[Key],
    policy: Policy,
    *,
    exact: bool,
    refusals: list[Refusal],
    small: Collection[Key] = (),
) -> Schedule:
    """Optimise a graph and lay its kernels out in levels.

    Parameters
    ----------
    graph
        A normalised graph. Keys that stand for a reference to themselves are given at each run.
    keys
        What is asked for.
    policy
        How far to go; ``parallelism`` must be settled.
    exact
        Whether results must be the same bit for bit as dask's.
    refusals
        What was left apart is added to it.
    small
        The keys of small arguments, which all lanes share.

    Raises
    ------
    TraceError
        If the graph does what cannot be run here.
    """
    _check(graph)

    def run(names: tuple[str, ...], graph: Graph, keys: Sequence[Key]) -> Graph:
        some = Policy(policy.parallelism, policy.spare, policy.max_bytes, names, policy.strict)
        return run_passes(graph, list(keys), some, {}, refusals)

    graph = run(("cull", "aliases", "common", "lower"), graph, keys)
    if not exact:
        graph = folds(graph, keys)
    first, handed = prologue(graph, small)
    if first:
        before = set(first)
        wanted = set(keys)
        asked = list(dict.fromkeys([*handed, *(key for key in first if key in wanted)]))
        constants = {key: node for key, node in graph.items() if is_constant(node)}
        early = run(("diamond",), {**constants, **{key: graph[key] for key in first}}, asked)
        rest = {key: TaskRef(key) if key in before else node for key, node in graph.items()}
        graph = {**run(("diamond",), rest, keys), **early}
    else:
        graph = run(("diamond",), graph, keys)
    builder = _Builder(graph, keys)
    builder.build()
    return Schedule(builder.levels(), tuple(builder.template), builder.slot_of, tuple(builder.scalars))


def _check(graph: Graph) -> None:
    """Raise for tasks that a replay would run otherwise than dask does each time."""
    for key, node in graph.items():
        reason = barrier(node) if type(node) is Task else None
        if reason is not None and "coroutine" in reason:
            raise TraceError(
                f"The task {key!r} is a coroutine, which only a distributed worker can run: leave it out of compile."
            )
        if isinstance(node, TaskRef) and node.key != key:
            raise TraceError(
                f"{key!r} is a future of a cluster, which this replay cannot read: persist it locally, or compute it."
            )


class _Builder:
    """Gives every value a slot, and every node of an optimised graph its place among the levels."""

    def __init__(self, graph: Graph, keys: Sequence[Key]) -> None:
        self.graph, self.keys = graph, set(keys)
        self.template: list[Any] = []
        self.slot_of: dict[Key, int] = {}
        self.literal_slots: dict[int, int] = {}
        self.scalars: list[tuple[int, Scalar]] = []
        self.folds: dict[int, _Reduce] = {}  # by id of what they call
        self.level_of: dict[int, int] = {}  # of the lane that writes a slot
        self.rows: list[tuple[int, Any, Lane, Traced | None]] = []  # level, kernel, lane

    def slot(self, value: Any = None) -> int:
        self.template.append(value)
        return len(self.template) - 1

    def of_key(self, key: Key) -> int:
        if key not in self.slot_of:
            self.slot_of[key] = self.slot()
        return self.slot_of[key]

    def of_literal(self, value: Any) -> int:
        slot = self.literal_slots.get(id(value))
        if slot is None:
            held = with_scalars(value)
            slot = self.literal_slots[id(value)] = self.slot(value if held is None else None)
            if held is not None:
                self.scalars.append((slot, held))
        return slot

    def build(self) -> None:
        graph = self.graph
        order = toposort(graph)
        regions = {key: region for key in order if (region := _as_region(key, graph)) is not None}
        traced = dict(zip(regions, trace_regions(regions.values()), strict=True))
        for key in order:
            node = graph[key]
            if key in traced:
                found = traced[key]
                reads = (*map(self.of_key, found.inputs), *map(self.of_literal, found.literals))
                self.add(found.kernel, Lane(key, reads, tuple(map(self.of_key, found.outputs)), found.labels), found)
            elif isinstance(node, DataNode):
                self.slot_of[key] = self.of_literal(node.value)
            elif is_pick(node, graph) or isinstance(node, TaskRef):
                self.of_key(key)
            elif isinstance(node, Fold):
                fold = self.folds.setdefault(id(node.func), _Reduce(node.func))
                self.add(fold, Lane(key, tuple(map(self.of_key, node.blocks)), (self.of_key(key),)), None)
            else:
                inputs = sorted(dependencies(node), key=str)
                lane = Lane(key, tuple(map(self.of_key, inputs)), (self.of_key(key),))
                self.add(_Node(node, inputs), lane, None)

    def add(self, kernel: Any, lane: Lane, traced: Traced | None) -> None:
        level = 1 + max([self.level_of.get(slot, -1) for slot in lane.reads], default=-1)
        self.level_of.update(dict.fromkeys(lane.writes, level))
        self.rows.append((level, kernel, lane, traced))

    def levels(self) -> tuple[Level, ...]:
        """Sort the lanes into levels and groups, and say after which level a value is not needed any more."""
        groups: dict[int, dict[int, list[tuple[Any, Lane, Traced | None]]]] = {}
        last: dict[int, int] = {}
        for level, kernel, lane, traced in self.rows:
            groups.setdefault(level, {}).setdefault(id(kernel), []).append((kernel, lane, traced))
            for slot in lane.writes:
                last[slot] = max(last.get(slot, 0), level)
            for slot in lane.reads:
                if slot in self.level_of:  # what is given stays with whoever gave it
                    last[slot] = max(last.get(slot, 0), level)
        kept = {self.slot_of[key] for key in self.keys if key in self.slot_of}
        drop: dict[int, list[int]] = {}
        for slot, level in last.items():
            if slot not in kept:
                drop.setdefault(level, []).append(slot)
        return tuple(
            Level(tuple(map(as_group, groups[level].values())), tuple(drop.get(level, ()))) for level in range(len(groups))
        )


#: A kernel, one of its calls, and how that was written down.
Row = tuple[Any, Lane, Traced | None]


def as_group(rows: Sequence[Row]) -> Group:
    """Return the group of these lanes, which run the same kernel."""
    return _grouped(rows[0][0], tuple([lane for _, lane, _ in rows]), rows[0][2])


def _grouped(kernel: Any, lanes: tuple[Lane, ...], traced: Traced | None) -> Group:
    return Group(kernel, lanes, traced, tuple([_fetcher(lane.reads) for lane in lanes]))


def _fetcher(reads: tuple[int, ...]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    if len(reads) > 1:
        return itemgetter(*reads)
    if reads:
        (slot,) = reads
        return lambda values: (values[slot],)
    return lambda values: ()


def _as_region(key: Key, graph: Graph) -> Region | None:
    """Return the region to write a kernel for: the node itself, or a task alone; None for nodes with rules of their own."""
    node = graph[key]
    if isinstance(node, Region):
        return node
    if type(node) is Task and not is_pick(node, graph):
        return Region(key, [node], [key])
    if isinstance(node, Task) and container(node) is not None and _has_scalars(node):
        return Region(key, [Task(key, _itself, node)], [key])
    return None


class Stack:
    """The blocks of all lanes of a group, stacked along a new first axis, in pieces that threads add."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: list[tuple[int, np.ndarray]] = []

    def add(self, first: int, blocks: np.ndarray) -> None:
        """Add the blocks of the lanes from this one on."""
        self._pieces.append((first, blocks))

    @property
    def nbytes(self) -> int:
        """The bytes of all blocks."""
        return sum(blocks.nbytes for _, blocks in self._pieces)

    def whole(self) -> np.ndarray:
        """Return all blocks, in the order of their lanes."""
        pieces = [blocks for _, blocks in sorted(self._pieces, key=itemgetter(0))]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _has_scalars(value: Any) -> bool:
    if isinstance(value, Task):
        return any(map(_has_scalars, (*value.args, *value.kwargs.values())))
    return with_scalars(value) is not None


def _itself(value: Any) -> Any:
    return value


class _Reduce:
    """Reduces the blocks that it is passed, or the stack of all that comes in place of the first."""

    __slots__ = ("func",)
    __name__ = "fold"

    def __init__(self, func: Any) -> None:
        self.func = func

    def __call__(self, *blocks: Any) -> Any:
        if type(blocks[0]) is not Stack:
            return self.func(list(blocks))
        whole = blocks[0].whole()
        (reduce,), options = self.func.args, dict(self.func.keywords)
        axes, keepdims = options.pop("axes"), options.pop("keepdims", False)
        if any([whole.shape[1 + axis] != 1 for axis in axes]):
            return self.func(list(whole))
        options["axis"] = (0,)
        out = reduce(whole, keepdims=False, **options)
        if not keepdims:
            out = out.reshape([size for axis, size in enumerate(out.shape) if axis not in axes])
        return out if out.ndim else out[()]  # a number where NumPy gives one


def fold_with(func: Any) -> Callable[..., Any]:
    """Return a kernel that folds the blocks it is passed with a function of their list."""
    return _Reduce(func)


def folded_by(kernel: Any) -> Any:
    """Return the function that a fold calls with a list of blocks; None for other kernels."""
    return kernel.func if isinstance(kernel, _Reduce) else None


class _Node:
    """Runs a node of dask's by its own rules."""

    __slots__ = ("inputs", "node")
    __name__ = "node"

    def __init__(self, node: Node, inputs: Sequence[Key]) -> None:
        if not isinstance(node, GraphNode):
            raise GraphError(f"a {type(node).__name__} cannot be run")
        self.node, self.inputs = node, tuple(inputs)

    def __call__(self, *values: Any) -> Any:
        return self.node(dict(zip(self.inputs, values, strict=True)))
