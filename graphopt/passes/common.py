"""Common: equal pure tasks on equal inputs run once.

::

    {a: exp(x), b: exp(x), c: a + b}, keys=[c]   ->   {a: exp(x), c: a + a}

A task is merged into an earlier one only where nobody could tell: its function is known to be pure, it is not asked for,
and all its readers are known neither to write to what they read nor to hand it on. (A user's function may write to its
argument; while each task has a result of its own, that is harmless.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

from graphopt.functions import is_fresh, is_pure, token, writes
from graphopt.graph import dependencies, dependents, toposort
from graphopt.spec import DataNode, GraphNode, Task, TaskRef
from graphopt.types import Graph, Key, Node, Substitutions

EXACT = True


def common(graph: Graph, keys: Collection[Key], *, classes: Mapping[Key, int] | None = None) -> Graph:
    """Return the graph with equal pure tasks merged; the same object if there are none.

    Parameters
    ----------
    graph, keys
        The graph and what is asked for.
    classes
        The annotation class of each annotated key; tasks of two classes are never merged.
    """
    classes = classes or {}
    keys = set(keys)
    pure = _Memo(is_pure)
    if not _share_reads(graph, pure):
        return graph
    readers: dict[Key, list[Key]] | None = None
    # Equal tasks read equal things, so a task is compared only with others that read the same.
    first: dict[frozenset[Key], Key | dict[Hashable, Key]] = {}
    subs: Substitutions = {}
    for key in toposort(graph):
        node = graph[key]
        if type(node) is not Task or not node.dependencies or not pure(node.func):
            continue
        reads = node.dependencies
        if subs and not reads.isdisjoint(subs):
            reads = frozenset([subs.get(dep, dep) for dep in reads])
        before = first.setdefault(reads, key)
        if before is key:
            continue
        if not isinstance(before, dict):
            before = first[reads] = {_what(graph[before], classes, subs): before}
        other = before.setdefault(_what(node, classes, subs), key)
        if other is key or key in keys:
            continue
        if readers is None:
            readers = dependents(graph)
        if all(_only_reads(graph[reader]) for k in (key, other) for reader in readers[k]):
            subs[key] = other
    if not subs:
        return graph
    out: dict[Key, Node] = {}
    for key, node in graph.items():
        if key not in subs:
            changed = isinstance(node, GraphNode) and not dependencies(node).isdisjoint(subs)
            out[key] = node.substitute(subs) if changed else node
    return out


def _share_reads(graph: Graph, pure: Callable[[Any], bool]) -> bool:
    """Say whether any two pure tasks read the same, which costs less to see than the order of the graph."""
    seen: set[frozenset[Key]] = set()
    for node in graph.values():
        if type(node) is Task and (reads := node.dependencies) and pure(node.func):
            if reads in seen:
                return True
            seen.add(reads)
    return False


class _Memo:
    """A question about functions, asked once for each function object."""

    def __init__(self, ask: Callable[[Any], bool]) -> None:
        self._ask = ask
        self._known: dict[int, bool] = {}

    def __call__(self, func: Callable[..., Any]) -> bool:
        known = self._known.get(id(func))
        if known is None:
            known = self._known[id(func)] = self._ask(func)
        return known


def _what(node: Any, classes: Mapping[Key, int], subs: Mapping[Key, Any]) -> Hashable:
    """Return what a task does and to what."""
    if not _calls_only_pure(node):
        return (node.key,)  # like no other
    return (classes.get(node.key, 0), token(node.func), _arguments(node, subs))


def _only_reads(node: Node) -> bool:
    return type(node) is Task and is_fresh(node.func) and _calls_only_pure(node)


def _calls_only_pure(node: Task) -> bool:
    """Say whether this call of a pure function writes nowhere, and whether the calls nested in it are pure."""
    if writes(node.func, len(node.args), node.kwargs):
        return False
    for value in (*node.args, *node.kwargs.values()):
        if type(value) is Task and not is_pure(value.func):  # the other types are containers
            return False
        if isinstance(value, Task) and not _calls_only_pure(value):
            return False
    return True


def _arguments(node: Task, subs: Mapping[Key, Any]) -> Hashable:
    args = tuple([_argument(arg, subs) for arg in node.args])
    return (args, *((name, _argument(arg, subs)) for name, arg in node.kwargs.items())) if node.kwargs else args


def _argument(value: Any, subs: Mapping[Key, Any]) -> Hashable:
    if isinstance(value, TaskRef):
        return (TaskRef, subs.get(value.key, value.key))
    if isinstance(value, DataNode):
        return token(value.value)
    if isinstance(value, Task):  # nested: a List, a Dict, a task within a task
        return (type(value), token(value.func), _arguments(value, subs))
    if isinstance(value, GraphNode):
        return (TaskRef, *(subs.get(key, key) for key in value.dependencies))
    return token(value)
