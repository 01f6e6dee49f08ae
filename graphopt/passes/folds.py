"""Folds: a tree of reductions becomes one reduction over all leaves.

::

    {p: sum([a, b]), q: sum([c, d]), s: sum([p, q])}, keys=[s]   ->   {s: sum([a, b, c, d])}

A tree lets a scheduler reduce while leaves are still being made, in tasks of bounded size. A replay holds the leaves, which
are small, and a tree costs it a call for every few of them.

The result may round differently: additions are done in another order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from graphopt import lean
from graphopt.graph import dependents, toposort
from graphopt.program import LIST, container
from graphopt.spec import GraphNode, List, Task, TaskRef
from graphopt.types import Graph, Key, Node, Substitutions

EXACT = False

#: Reductions that may be done in any grouping.
_ASSOCIATIVE: frozenset[Callable[..., Any]] = frozenset({lean.sum_, np.sum, np.prod, np.max, np.min, np.any, np.all})


class Fold(Task):
    """A task that reduces the blocks in a list along one or more axes: ``lean.reduce_blocks`` on what it reads, in order."""

    __slots__ = ()

    @property
    def blocks(self) -> list[Key]:
        """The keys of the blocks, in order."""
        return [ref.key for ref in self.args[0].args]

    def substitute(self, subs: Substitutions, key: Key | None = None) -> Fold:
        """Return the task with other keys."""
        blocks = [TaskRef(subs.get(name, name)) for name in self.blocks]  # type: ignore[arg-type]
        return Fold(self.key if key is None else key, self.func, List(*blocks))


def folds(graph: Graph, keys: Collection[Key]) -> Graph:
    """Return the graph with trees of reductions folded; the same object if there are none.

    Parameters
    ----------
    graph, keys
        The graph, after `lower`, and what is asked for.
    """
    if not any(type(node) is Task and _reduction(node) for node in graph.values()):
        return graph
    readers = dependents(graph)
    wanted = set(keys)
    blocks: dict[Key, list[Key]] = {}
    dropped: set[Key] = set()
    for key in toposort(graph):
        node = graph[key]
        what = _reduction(node) if type(node) is Task else None
        if what is None:
            continue
        assert isinstance(node, Task)
        mine: list[Key] = []
        for ref in node.args[0].args:
            below = graph.get(ref.key)
            inner = _reduction(below) if ref.key in blocks and isinstance(below, Task) else None
            if inner is None or ref.key in wanted or len(readers[ref.key]) > 1 or not _same(inner, what):
                mine.append(ref.key)
            else:
                mine += blocks[ref.key]
                dropped.add(ref.key)
        if len(mine) > 1:  # of one block there is nothing to fold: it may join the lane that makes it
            blocks[key] = mine
    if not blocks:
        return graph
    out: dict[Key, Node] = {}
    for key, node in graph.items():
        if key in blocks and key not in dropped:
            out[key] = Fold(key, node.func, List(*map(TaskRef, blocks[key])))  # type: ignore[union-attr]
        elif key not in dropped:
            out[key] = node
    return out


def _reduction(node: Node | None) -> dict[str, Any] | None:
    """Return the options of a task that reduces a flat list of blocks along the axes they are joined by."""
    if not isinstance(node, Task) or type(node.func) is not functools.partial or node.func.func is not lean.reduce_blocks:
        return None
    func = node.func
    if len(func.args) != 1 or func.args[0] not in _ASSOCIATIVE or len(node.args) != 1 or node.kwargs:
        return None
    options = {**func.keywords, "reduce": func.args[0]}
    if tuple(options.get("axes", ())) != options.get("axis") or len(options["axes"]) != 1:
        return None
    listed = node.args[0]
    if not isinstance(listed, GraphNode) or not _is_flat_list(listed):
        return None
    return options


def _is_flat_list(listed: Any) -> bool:
    return container(listed) == LIST and bool(listed.args) and all([type(arg) is TaskRef for arg in listed.args])


def _same(inner: dict[str, Any], outer: dict[str, Any]) -> bool:
    """Say whether a reduction may be done by the one that reads it: the same one, with its axes kept."""
    others = [name for name in {*inner, *outer} if name != "keepdims"]
    return inner.get("keepdims") is True and all([inner.get(name) == outer.get(name) for name in others])
