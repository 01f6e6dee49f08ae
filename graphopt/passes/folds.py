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
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.array.reductions import moment_agg, moment_combine

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

#: Steps that hand on sums with counts, and the last of them; and the sum of products block by block.
_MERGED: dict[Any, tuple[str, bool]] = {
    lean.mean_combine: ("mean", True),
    lean.mean_agg: ("mean", False),
    moment_combine: ("moment", True),
    moment_agg: ("moment", False),
    lean.chunk_sum: ("add", True),
}


#: The same for what finds arguments. Along one axis the first of equal ones is the first in any grouping, but not along more.
_FOUND: dict[Any, bool] = {lean.arg_combine: True, lean.arg_agg: False}


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
    steps = {key: step for key, node in graph.items() if type(node) is Task and (step := _step(node)) is not None}
    if not steps:
        return graph
    readers = dependents(graph)
    wanted = set(keys)
    blocks: dict[Key, list[Key]] = {}
    dropped: set[Key] = set()
    for key in toposort(graph):
        if key not in steps:
            continue
        mine: list[Key] = []
        for block in _listed(graph[key].args[0]):  # type: ignore[union-attr]
            if block in steps and block not in wanted and len(readers[block]) == 1 and steps[block].feeds(steps[key]):
                mine += blocks[block]
                dropped.add(block)
            else:
                mine.append(block)
        blocks[key] = mine
    # Of one block there is nothing to fold: such a task may join the lane that makes the block.
    made = {key for key, mine in blocks.items() if len(mine) > 1 and key not in dropped}
    if not made:
        return graph
    out: dict[Key, Node] = {}
    folding: dict[int, functools.partial[Any]] = {}  # by id: the trees of many columns share a function, and stay alike
    for key, node in graph.items():
        if key in made:
            func: Any = node.func  # type: ignore[union-attr]
            out[key] = Fold(key, folding.setdefault(id(func), _folding(func)), List(*map(TaskRef, blocks[key])))
        elif key not in dropped:
            out[key] = node
    return out


@dataclass(frozen=True)
class _Step:
    """A task of a tree: what it reduces with, whether another step may take its result, and along which axes it goes."""

    kind: Any
    inner: bool
    options: dict[str, Any]

    def feeds(self, outer: _Step) -> bool:
        """Say whether the step that reads this one can do its work as well."""
        kinds = (outer.kind, _CHUNKED.get(outer.kind))
        return self.inner and self.kind in kinds and self.options == outer.options


def _step(node: Task) -> _Step | None:
    """Return what a task of a tree of reductions does; None for any other."""
    func = node.func
    if type(func) is not functools.partial or len(node.args) != 1 or node.kwargs:
        return None
    options = dict(func.keywords)
    keepdims, axis = options.pop("keepdims", False), options.get("axis")
    if func.func is lean.reduce_blocks and len(func.args) == 1 and func.args[0] in _ASSOCIATIVE:
        step = _Step(func.args[0], keepdims is True, options)
        known = type(axis) is tuple and tuple(options.get("axes", ())) == axis
    elif func.func in _FOUND and len(func.args) == 1:
        step = _Step(("arg", func.args[0]), _FOUND[func.func] and keepdims is True, options)
        known = type(axis) is tuple and len(axis) == 1 and tuple(options.get("axes", ())) == axis
    else:
        kind, inner = _MERGED.get(func.func, (None, False))
        step = _Step(kind, inner and keepdims is True, {name: options[name] for name in ("axis", "order") if name in options})
        known = kind is not None and not func.args and type(axis) is tuple
    depth = 1 if step.kind == "add" or not isinstance(axis, tuple) else len(axis)
    return step if known and _is_list(node.args[0], depth) else None


def _folding(func: functools.partial[Any]) -> functools.partial[Any]:
    """Return what reduces the blocks of a tree, given as one list."""
    return functools.partial(lean.fold, *func.args, **func.keywords) if func.func is lean.reduce_blocks else func


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
