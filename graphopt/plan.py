"""Plan: what a compiled function does, frozen: kernels, and the lanes that run them, in levels.

Every value has a *slot*: the blocks of the arguments, the literals, the results of kernels. A lane reads some slots and
writes others. A level is what may run at once; within it, lanes that run the same kernel are a *group*, in chunk order. To
run a plan is to fill the slots of the arguments and go through the levels (`execute/local.py`).

A plan never changes and holds no data of the arguments, so that several threads may run it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from graphopt.graph import dependencies, is_constant, read, toposort
from graphopt.kernel import Kernel, Traced, trace_regions
from graphopt.passes.folds import Fold, folds
from graphopt.pipeline import Policy, run_passes
from graphopt.region import Region, barrier, is_pick
from graphopt.spec import DataNode, GraphNode, Task, TaskRef
from graphopt.standins import Scalar
from graphopt.trace import Argument, Trace
from graphopt.types import Graph, GraphError, Key, Node, Refusal, TraceError

__all__ = ["Group", "Lane", "Level", "Plan", "make_plan"]


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


@dataclass(frozen=True)
class Plan:
    """What a compiled function does: print it to see the kernels and how often each runs.

    Attributes
    ----------
    levels : tuple of Level
        What runs, in order.
    template : tuple
        The values of all slots before a call: literals, and None elsewhere.
    slots : dict
        The slots of the blocks of the arguments.
    scalars : tuple
        The slots that hold numbers computed from those of the arguments.
    trace : Trace
        The function as it was traced.
    refusals : tuple of Refusal
        What was left apart and why.
    results : tuple
        For each result that is computed, the slots of its blocks.
    tasks : int
        How many tasks dask would have run, at most: those of the graph as it was built.
    """

    levels: tuple[Level, ...]
    template: tuple[Any, ...]
    slots: Mapping[Key, int]
    scalars: tuple[tuple[int, Scalar], ...]
    trace: Trace
    refusals: tuple[Refusal, ...]
    results: tuple[tuple[int, ...], ...]
    tasks: int

    @property
    def lanes(self) -> int:
        """How many kernel calls a replay makes."""
        return sum(level.lanes for level in self.levels)

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The generated functions, in the order in which they run."""
        found = [group.kernel for level in self.levels for group in level.groups if isinstance(group.kernel, Kernel)]
        return tuple(dict.fromkeys(found))

    @property
    def source(self) -> str:
        """The Python that a replay runs."""
        return "\n\n".join(kernel.source for kernel in self.kernels)

    def explain(self) -> str:
        """Say what was fused, how often each kernel runs, and what was left apart and why."""
        lines = [str(self)]
        for number, level in enumerate(self.levels):
            for group in level.groups:
                lines += ["", f"level {number}: {len(group.lanes)} x {group.name}"]
                if isinstance(group.kernel, Kernel):
                    lines += [f"    {line}" for line in group.kernel.source.splitlines()]
        reasons: dict[tuple[str, str], list[Key]] = {}
        for refusal in self.refusals:
            reasons.setdefault((refusal.rewrite, refusal.reason), []).append(refusal.key)
        if reasons:
            lines += ["", "Left apart:"]
        for (rewrite, reason), keys in reasons.items():
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            lines.append(f"    {rewrite}: {keys[0]!r}{more}: {reason}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return (
            f"Plan: {self.tasks} tasks in {self.lanes} calls of {len(self.kernels)} kernels, on {len(self.levels)} levels; "
            f"{len(self.slots)} blocks and {len(self.trace.numbers)} numbers to bind"
        )

    __repr__ = __str__

    def bind_numbers(self, values: list[Any], arguments: Sequence[Argument]) -> None:
        """Fill in the slots of numbers."""
        if self.scalars:
            given = {token: arguments[place].value for token, place in self.trace.numbers.items()}
            for slot, scalar in self.scalars:
                values[slot] = scalar.value(given)


def make_plan(trace: Trace, policy: Policy, *, exact: bool) -> Plan:
    """Optimise a traced function and lay its kernels out in levels.

    Parameters
    ----------
    trace
        The function.
    policy
        How far to go; ``parallelism`` must be settled.
    exact
        Whether results must be the same bit for bit as dask's.

    Raises
    ------
    TraceError
        If the graph does what a replay cannot do again.
    """
    keys = list(dict.fromkeys(key for result in trace.results for key in result.keys))
    whole, _ = read(trace.graph, keys, merge_layers=False)
    nodes, _ = read(trace.graph, keys)
    graph: Graph = {key: TaskRef(key) if key in trace.slots else node for key, node in nodes.items()}
    _check(graph)
    refusals: list[Refusal] = []

    def run(names: tuple[str, ...], graph: Graph) -> Graph:
        some = Policy(policy.parallelism, policy.spare, policy.max_bytes, names, policy.strict)
        return run_passes(graph, keys, some, {}, refusals)

    graph = run(("cull", "aliases", "common", "lower"), graph)
    if not exact:
        graph = folds(graph, keys)
    graph = run(("diamond",), graph)
    builder = _Builder(graph, keys)
    builder.build()
    slots = {key: slot for key, slot in builder.slot_of.items() if key in trace.slots}
    tasks = sum(not is_constant(node) and key not in trace.slots for key, node in whole.items())
    results = tuple([tuple([builder.slot_of[key] for key in result.keys]) for result in trace.results])
    levels, template = builder.levels(), tuple(builder.template)
    return Plan(levels, template, slots, tuple(builder.scalars), trace, tuple(refusals), results, tasks)


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
            held = isinstance(value, Scalar)
            slot = self.literal_slots[id(value)] = self.slot(None if held else value)
            if held:
                self.scalars.append((slot, value))
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
                self.slot_of[key] = self.slot(node.value)
            elif is_pick(node, graph) or isinstance(node, TaskRef):
                self.of_key(key)
            elif isinstance(node, Fold):
                self.add(_Reduce(node.func), Lane(key, tuple(map(self.of_key, node.blocks)), (self.of_key(key),)), None)
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
            for slot in (*lane.writes, *lane.reads):
                last[slot] = max(last.get(slot, 0), level)
        kept = {self.slot_of[key] for key in self.keys if key in self.slot_of}
        drop: dict[int, list[int]] = {}
        for slot, level in last.items():
            if slot not in kept:
                drop.setdefault(level, []).append(slot)
        return tuple(
            Level(tuple(map(_group, groups[level].values())), tuple(drop.get(level, ()))) for level in range(len(groups))
        )


def _group(rows: list[tuple[Any, Lane, Traced | None]]) -> Group:
    lanes = tuple([lane for _, lane, _ in rows])
    return Group(rows[0][0], lanes, rows[0][2], tuple([_fetcher(lane.reads) for lane in lanes]))


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
    return None


class _Reduce:
    """Calls a reduction on what it is passed, as one list."""

    __slots__ = ("func",)
    __name__ = "fold"

    def __init__(self, func: Callable[[list[Any]], Any]) -> None:
        self.func = func

    def __call__(self, *blocks: Any) -> Any:
        return self.func(list(blocks))


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
