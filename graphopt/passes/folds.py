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
_ASSOCIATIVE: frozenset[Callable[..., Any]] = frozenset(
    {lean.sum_, lean.max_, lean.min_, np.sum, np.prod, np.max, np.min, np.any, np.all}
)

#: What dask calls for a chunk where it calls this for the last step.
_CHUNKED: dict[Callable[..., Any], Callable[..., Any]] = {np.max: lean.max_, np.min: lean.min_}


class Fold(Task):
    """A task that reduces the blocks in a list along one or more axes: ``lean.reduce_blocks`` on what it reads, in order."""

    __slots__ = ()

    @property
    def blocks(self) -> list[Key]:
        """The keys of the blocks, in order."""
        return _listed(self.args[0])

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
        for block in _listed(node.args[0]):
            below = graph.get(block)
            inner = _reduction(below) if block in blocks and isinstance(below, Task) else None
            if inner is None or block in wanted or len(readers[block]) > 1 or not _same(inner, what):
                mine.append(block)
            else:
                mine += blocks[block]
                dropped.add(block)
        blocks[key] = mine
    # Of one block there is nothing to fold: such a task may join the lane that makes the block.
    made = {key for key, mine in blocks.items() if len(mine) > 1 and key not in dropped}
    if not made:
        return graph
    out: dict[Key, Node] = {}
    for key, node in graph.items():
        if key in made:
            out[key] = Fold(key, _folding(node.func), List(*map(TaskRef, blocks[key])))  # type: ignore[union-attr]
        elif key not in dropped:
            out[key] = node
    return out


def _folding(func: functools.partial[Any]) -> functools.partial[Any]:
    """Return what reduces the blocks of a tree, given as one list."""
    return functools.partial(lean.fold, *func.args, **func.keywords)


def _reduction(node: Node | None) -> dict[str, Any] | None:
    """Return the options of a task that reduces a (nested) list of blocks along the axes they are joined by."""
    if not isinstance(node, Task) or type(node.func) is not functools.partial or node.func.func is not lean.reduce_blocks:
        return None
    func = node.func
    if len(func.args) != 1 or func.args[0] not in _ASSOCIATIVE or len(node.args) != 1 or node.kwargs:
        return None
    options = {**func.keywords, "reduce": func.args[0]}
    if tuple(options.get("axes", ())) != options.get("axis") or not _is_list(node.args[0], len(options["axes"])):
        return None
    return options


def _is_list(value: Any, depth: int) -> bool:
    """Say whether a value is a list of references, nested this deep."""
    if not isinstance(value, GraphNode) or not isinstance(value, Task) or container(value) != LIST or not value.args:
        return False
    return all([type(arg) is TaskRef if depth == 1 else _is_list(arg, depth - 1) for arg in value.args])


def _listed(value: Any) -> list[Key]:
    """List the keys in a nested list, in order."""
    out: list[Key] = []
    for arg in value.args:
        out += [arg.key] if type(arg) is TaskRef else _listed(arg)
    return out


def _same(inner: dict[str, Any], outer: dict[str, Any]) -> bool:
    """Say whether a reduction may be done by the one that reads it: the same one, with its axes kept."""
    others = [name for name in {*inner, *outer} if name not in ("keepdims", "reduce")]
    reduce = {outer["reduce"], _CHUNKED.get(outer["reduce"])}
    return inner.get("keepdims") is True and inner["reduce"] in reduce and all([inner.get(n) == outer.get(n) for n in others])
