"""Region: several tasks that will run as one.

Passes decide which tasks belong together and write that down as a `Region`, a node of the graph like any other; the kernel
floor turns regions into straight-line Python. A region can be run as it is, by evaluating its members one by one, which
is what the tests of the passes do.

A region with one output stands under that output's key. One with several outputs is worth a tuple, stands under a key of
its own, and each output's key picks its place from it.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeGuard

import numpy as np

from graphopt.functions import is_lock
from graphopt.graph import dependencies
from graphopt.spec import Alias, DataNode, GraphNode, List, Task, TaskRef
from graphopt.types import Graph, Key, Node, Substitutions

__all__ = ["Region", "barrier", "barriers", "first_output", "group", "group_tasks", "is_pick", "pick", "region_key"]

_REGION = "graphopt-region"

#: Types of arguments that need no second look.
_NO_LOCKS = frozenset((TaskRef, Alias, List, np.ndarray, int, float, bool, str, bytes, tuple, list, dict, slice, type(None)))


class Region(GraphNode):
    """Tasks that run as one.

    Parameters
    ----------
    key
        The key of the single output, or `region_key` of the first of several.
    members
        Tasks, picks and other regions, each after those it reads.
    outputs
        The keys of the members whose values leave the region.
    """

    __slots__ = ("members", "outputs")

    members: tuple[GraphNode, ...]
    outputs: tuple[Key, ...]

    def __init__(self, key: Key, members: Iterable[GraphNode], outputs: Iterable[Key]) -> None:
        self.key = key
        self.members = tuple(members)
        self.outputs = tuple(outputs)
        reads = [member.dependencies for member in self.members]
        inside = [member.key for member in self.members]
        self._dependencies = frozenset().union(*reads).difference(inside) if len(reads) > 1 else reads[0]

    def __call__(self, values: Any = ()) -> Any:
        """Run the members one by one on the values of the keys they read from outside."""
        scope = {key: values[key] for key in self._dependencies}
        for member in self.members:
            scope[member.key] = member(scope)
        out = tuple(scope[key] for key in self.outputs)
        return out if len(out) > 1 else out[0]

    def substitute(self, subs: Substitutions, key: Key | None = None) -> Region:
        """Return the region with outside keys renamed; keys inside it are its own."""
        outside = {old: new for old, new in subs.items() if old in self._dependencies and new != old}
        if not outside and key in (None, self.key):
            return self
        members = [member.substitute(outside) for member in self.members]
        return Region(self.key if key is None else key, members, self.outputs)

    def copy(self) -> Region:
        """Return an equal region."""
        return Region(self.key, self.members, self.outputs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Region, (self.key, self.members, self.outputs)

    def __repr__(self) -> str:
        return f"<Region {self.key!r} of {len(self.members)} tasks, {len(self.outputs)} out>"

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.members, self.outputs)

    def _check(self) -> None:
        """Assert what must hold of a region: members in order, outputs inside, nothing read that is not there."""
        seen: set[Key] = set()
        inside = {member.key for member in self.members}
        assert len(inside) == len(self.members), "two members share a key"
        for member in self.members:
            late = (member.dependencies & inside) - seen
            assert not late, f"{member.key!r} comes before {late}, which it reads"
            seen.add(member.key)
            if isinstance(member, Region):
                member._check()
        assert set(self.outputs) <= inside, "an output is not a member"
        assert self.outputs, "a region without outputs"
        assert len(self.outputs) > 1 or self.key == self.outputs[0], "a single output is the region's key"


def region_key(output: Key) -> Key:
    """Name the region of several outputs of which this is the first."""
    return (_REGION, output)


def first_output(key: Key) -> Key:
    """Undo `region_key`; any other key is returned as it is."""
    return key[1] if isinstance(key, tuple) and len(key) == 2 and key[0] == _REGION else key


def pick(key: Key, region: Key, place: int) -> Task:
    """Make the node that takes one output of a region of several."""
    return Task(key, operator.getitem, TaskRef(region), place)


def is_pick(node: Node | None, graph: Mapping[Any, Node]) -> TypeGuard[Task]:
    """Say whether a node takes one output of a region of several."""
    return (
        type(node) is Task
        and node.func is operator.getitem
        and len(node.args) == 2
        and isinstance(node.args[0], (TaskRef, Alias))  # an Alias with dask before 2025.5
        and type(node.args[1]) is int
        and isinstance(region := graph.get(node.args[0].key), Region)
        and len(region.outputs) > 1
    )


def barrier(node: Node) -> str | None:
    """Return why nothing may be fused with this node, or None."""
    if type(node) is not Task:
        if isinstance(node, Region):
            return "it is a region already"
        if isinstance(node, GraphNode) and node.block_fusion:
            return "it asks not to be fused (block_fusion)"
        return f"it is a {type(node).__name__}, which has rules of its own"
    if _is_coroutine(node.func):
        return "it is a coroutine and runs on the event loop"
    for arg in (*node.args, *node.kwargs.values()) if node.kwargs else node.args:
        if type(arg) is DataNode:
            arg = arg.value
        if type(arg) not in _NO_LOCKS and is_lock(arg):
            return "it holds a lock, which would hold up everything fused with it"
    return None


def barriers(nodes: Sequence[Node]) -> dict[int, str]:
    """Return why nothing may be fused with a node, by its place, for the nodes with which nothing may."""
    harmless: set[int] = set()  # by id, functions that were asked about: many tasks share few
    out: dict[int, str] = {}
    for place, node in enumerate(nodes):
        if type(node) is Task and id(node.func) in harmless and not node.kwargs and _NO_LOCKS.issuperset(map(type, node.args)):
            continue
        why = barrier(node)
        if why is not None:
            out[place] = why
        else:
            harmless.add(id(node.func))  # type: ignore[union-attr]  # all others have rules of their own
    return out


def _is_coroutine(func: Callable[..., Any]) -> bool:
    try:
        return _is_coroutine_cached(func)
    except TypeError:  # not hashable
        return _is_coroutine_cached.__wrapped__(func)


@lru_cache(maxsize=1024)
def _is_coroutine_cached(func: Callable[..., Any]) -> bool:
    # The first is the older way to write one, which distributed runs as well.
    return bool(getattr(func, "__tornado_coroutine__", False)) or inspect.iscoroutinefunction(func)


def group(graph: Graph, keys: Collection[Key], groups: Iterable[Collection[Key]]) -> Graph:
    """Put regions in place of groups of tasks; the same object if there are no groups.

    Anything that was read from outside a group, or asked for, stays in the graph under its key.

    Parameters
    ----------
    graph, keys
        The graph and what is asked for.
    groups
        Disjoint groups of keys, inputs first within each.
    """
    return group_tasks(graph, keys, [[graph[key] for key in tasks] for tasks in groups])


def group_tasks(graph: Graph, keys: Collection[Key], groups: Iterable[Sequence[Any]]) -> Graph:
    """Do as `group` does, with groups of tasks: who has them at hand spares a look into the graph for each."""
    regions = [Region(members[-1].key, members, ()) for members in groups]
    if not regions:
        return graph
    alone: set[Key] = set()
    if sum([len(region.members) for region in regions]) < len(graph):  # in most large graphs every task is in a group
        alone = graph.keys() - {member.key for region in regions for member in region.members}
    # What is asked for, and what is read from outside.
    leaving = set(keys).union(*[region.dependencies for region in regions], *[dependencies(graph[key]) for key in alone])
    swap = {region.key: region for region in regions}  # by the last member: that is where a region stands
    out: dict[Key, Node] = {}
    for key, node in graph.items():
        if key in swap:
            region = swap[key]
            members = region.members
            # Where nobody reads any of it, nobody ran `cull`.
            region.outputs = tuple([member.key for member in members if member.key in leaving]) or (key,)
            region.key = region.outputs[0] if len(region.outputs) == 1 else region_key(region.outputs[0])
            out[region.key] = region
            if len(region.outputs) > 1:
                out.update([(output, pick(output, region.key, place)) for place, output in enumerate(region.outputs)])
        elif key in alone:
            out[key] = node
    return out
