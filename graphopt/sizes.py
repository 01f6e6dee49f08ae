"""How many bytes of chunk data a task brings in, guessed from what the graph itself says.

A low-level graph carries no shapes. But data that is in the graph has a size, and a task without inputs often names its
shape or its slices among its arguments. The guess bounds what goes into one region. Nothing else depends on it, so a wrong
guess costs time or memory, never a wrong answer.
"""

from __future__ import annotations

import math
from typing import Any

from dask.sizeof import sizeof

from graphopt.graph import dependencies
from graphopt.region import Region
from graphopt.spec import DataNode, Task
from graphopt.types import Graph, Node

__all__ = ["at_most_bytes", "brought_bytes"]

_ITEM = 8  # bytes of a float64, the usual case


def brought_bytes(node: Node, graph: Graph, known: dict[int, int] | None = None) -> int:
    """Guess the bytes that a task or region brings in: the stored data it reads, and what its inner roots make.

    A root that only cuts slices out of stored data brings in what the slices name.

    Parameters
    ----------
    node, graph
        The node, and the graph that holds the data it reads.
    known
        A place to keep the answers, by ``id`` of the node; who keeps it keeps the nodes.
    """
    if known is not None and id(node) in known:
        return known[id(node)]
    if isinstance(node, Region):
        size = sum([brought_bytes(member, graph, known) for member in node.members])
    else:
        size, root = 0, True
        for dep in dependencies(node):
            data = graph.get(dep)
            if type(data) is DataNode:
                size += _bytes(data.value)
            else:
                root = False
        if root and isinstance(node, Task):
            named = max(map(_named_bytes, (*node.args, *node.kwargs.values())), default=0)
            size = min(size, named) if size and named else size or named
    if known is not None:
        known[id(node)] = size
    return size


def at_most_bytes(node: Node, graph: Graph, known: dict[int, tuple[int, int]]) -> int:
    """Guess like `brought_bytes`, at a fraction of its cost but of whole arrays, whatever is cut out of them.

    ``known`` keeps beside the answers what the inner roots make: regions are looked at again within others.
    """
    if id(node) not in known:
        stored = [data.value for dep in dependencies(node) if type(data := graph.get(dep)) is DataNode]
        made = _made_bytes(node, known)
        known[id(node)] = sum(map(_bytes, stored)) + made, made
    return known[id(node)][0]


def _made_bytes(node: Node, known: dict[int, tuple[int, int]]) -> int:
    """Guess the bytes that the inner roots of a task or region make."""
    if isinstance(node, Region):
        if id(node) in known:
            return known[id(node)][1]
        return sum([_made_bytes(item, known) for item in node.members if not item.dependencies or type(item) is Region])
    if isinstance(node, Task) and not node.dependencies:
        return max(map(_named_bytes, (*node.args, *node.kwargs.values())), default=0)
    return 0


def _bytes(value: Any) -> int:
    nbytes = getattr(value, "nbytes", None)
    return nbytes if isinstance(nbytes, int) else int(sizeof(value))


def _named_bytes(value: Any) -> int:
    """Read a shape, slices or data out of an argument."""
    if isinstance(value, DataNode):
        value = value.value
    if type(value) is tuple and value and len(value) <= 8:
        sides = [_side(item) for item in value]
        return 0 if None in sides else _ITEM * math.prod(side for side in sides if side is not None)
    nbytes = getattr(value, "nbytes", 0)
    return nbytes if isinstance(nbytes, int) else 0


def _side(item: Any) -> int | None:
    if type(item) is int:
        return max(item, 0)
    if type(item) is slice and type(item.start) is int and type(item.stop) is int:
        return max(item.stop - item.start, 0)
    return None
