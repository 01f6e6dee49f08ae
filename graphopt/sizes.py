"""How many bytes a task's result may take, guessed from what the graph itself says.

A low-level graph carries no shapes. Data that is in the graph has a size; a task without inputs often names its shape or
its slices among its arguments; and the result of most chunk functions is no larger than their largest input. The guess
bounds what a fused region holds. Nothing else depends on it, so a wrong guess costs time or memory, never a wrong answer.
"""

from __future__ import annotations

import math
from typing import Any

from dask.sizeof import sizeof
from dask.task_spec import DataNode, Task

from graphopt.graph import dependencies
from graphopt.region import Region
from graphopt.types import Graph, Key, Node

__all__ = ["brought_bytes", "estimate_bytes"]

_ITEM = 8  # bytes of a float64, the usual case


def estimate_bytes(graph: Graph, order: list[Key]) -> dict[Key, int]:
    """Guess the bytes of every node's result; 0 where the graph says nothing.

    Parameters
    ----------
    graph
        A normalised graph.
    order
        Its keys, inputs first.
    """
    out: dict[Key, int] = {}
    get = out.get
    for key in order:
        node = graph[key]
        if deps := dependencies(node):
            out[key] = size = max([get(dep, 0) for dep in deps])
            if size and isinstance(node, Task) and all([isinstance(graph.get(dep), DataNode) for dep in deps]):
                # A getter on data of the graph: the slices say how much of it is read.
                out[key] = min(size, max(map(_named_bytes, node.args), default=0) or size)
        elif isinstance(node, DataNode):
            value = node.value
            nbytes = getattr(value, "nbytes", None)
            out[key] = nbytes if isinstance(nbytes, int) else sizeof(value)
        elif isinstance(node, Task):
            out[key] = max(map(_named_bytes, (*node.args, *node.kwargs.values())), default=0)
        else:
            out[key] = 0
    return out


def brought_bytes(node: Node, sizes: dict[Key, int], graph: Graph) -> int:
    """Guess the bytes of chunk data that a node brings in: stored data it reads, and what its inner roots make."""
    stored = sum(sizes[dep] for dep in dependencies(node) if isinstance(graph.get(dep), DataNode))
    made, stack = 0, [node]
    while stack:
        item = stack.pop()
        if isinstance(item, Region):
            stack.extend(item.members)
        elif isinstance(item, Task) and not item.dependencies:
            made += max(map(_named_bytes, (*item.args, *item.kwargs.values())), default=0)
    return stored + made


def _named_bytes(value: Any) -> int:
    """Read a shape, slices or data out of an argument."""
    if isinstance(value, DataNode):
        value = value.value
    if type(value) is tuple and value and len(value) <= 8:
        sides = [_side(item) for item in value]
        if None not in sides:
            return _ITEM * math.prod(side for side in sides if side is not None)
        return 0
    nbytes = getattr(value, "nbytes", 0)
    return nbytes if isinstance(nbytes, int) else 0


def _side(item: Any) -> int | None:
    if type(item) is int:
        return max(item, 0)
    if type(item) is slice and type(item.start) is int and type(item.stop) is int:
        return max(item.stop - item.start, 0)
    return None
