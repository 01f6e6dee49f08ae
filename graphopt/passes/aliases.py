"""Aliases: let readers of an alias read what it stands for.

::

    {a: f(), b: Alias(a), c: g(b)}, keys=[c]   ->   {a: f(), c: g(a)}
    {a: f(), b: Alias(a)},          keys=[b]   ->   {b: f()}

A requested alias takes over the task it stands for, under its own key, unless that task is requested too, is a future, or is
annotated otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from graphopt.graph import dependencies, holds
from graphopt.spec import Alias, GraphNode, TaskRef
from graphopt.types import CycleError, Graph, Key, Node, Substitutions

EXACT = True


def aliases(graph: Graph, keys: Collection[Key], *, classes: Mapping[Key, int] | None = None) -> Graph:
    """Return the graph without aliases that need not be there; the same object if there are none.

    Parameters
    ----------
    graph, keys
        The graph and what is asked for.
    classes
        The annotation class of each annotated key; an alias never merges two classes.
    """
    if not holds(graph, Alias):
        return graph
    found = {key: node.target for key, node in graph.items() if isinstance(node, Alias)}
    classes = classes or {}
    keys = set(keys)
    ends = {key: _end(key, found) for key in found}
    taken: dict[Any, Key] = {}  # a task's old key -> the requested alias that takes it over
    for key in graph:
        if key not in ends or key not in keys:
            continue
        target = ends[key]
        if (
            target in graph
            and target not in keys
            and target not in taken
            and not isinstance(graph[target], TaskRef)
            and classes.get(key, 0) == classes.get(target, 0)
        ):
            taken[target] = key
    subs: Substitutions = {key: taken.get(target, target) for key, target in ends.items()}
    subs.update(taken)
    out: dict[Key, Node] = {}
    for key, node in graph.items():
        if key in found:
            if key in keys and taken.get(found[key]) != key and subs[key] != key:
                target = taken.get(ends[key], ends[key])
                out[key] = node if found[key] == target else Alias(key, target)
        elif isinstance(node, GraphNode):
            node = node if dependencies(node).isdisjoint(subs) else node.substitute(subs)
            new: Any = taken.get(key, key)
            out[new] = node if new == key else node.substitute({}, key=new)
        else:
            out[key] = node
    changed = len(out) < len(graph) or any(out.get(key) is not node for key, node in graph.items())
    return out if changed else graph


def _end(key: Key, found: Mapping[Key, Key]) -> Key:
    """Follow a chain of aliases to what it stands for."""
    start, steps = key, 0
    while key in found:
        key, steps = found[key], steps + 1
        if steps > len(found):
            raise CycleError(f"The alias {start!r} stands for itself, through others. Point one of them at a task.", start)
    return key
