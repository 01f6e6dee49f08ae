"""Blockwise layers, materialised quickly.

A Blockwise layer says once what every block does. dask makes each block's task by substituting one input after the other,
a new task each time; most of the time before an optimiser starts goes there. Where every input is a plain block of an array,
the tasks of a layer differ in keys and coordinates only, so here one is made and the others are copies with other references.

Layers that do more (contractions that concatenate, inputs that read files, nested references) are left to dask.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from typing import Any

from dask.blockwise import Blockwise

from graphopt.spec import DataNode, GraphNode, Task, TaskRef
from graphopt.types import Key

__all__ = ["block_counts", "blocks", "derive"]

#: Slots that this version of dask has beside those that `derive` copies by name.
_OTHER_SLOTS = tuple(
    set(Task.get_all_slots())
    - {"key", "func", "args", "kwargs", "_dependencies", "_data_producer", "_is_coro", "_token", "_repr"}
)


def derive(task: Task, key: Key, func: Any, args: tuple[Any, ...], reads: frozenset[Key]) -> Task:
    """Make a task like another one, without looking through its arguments again; ``reads`` is what they refer to."""
    new = Task.__new__(Task)
    new.key, new.func, new.args, new.kwargs = key, func, args, task.kwargs
    new._dependencies = reads
    new._data_producer, new._is_coro = task._data_producer, task._is_coro if func is task.func else None
    new._token = new._repr = None
    for slot in _OTHER_SLOTS:
        setattr(new, slot, getattr(task, slot))
    return new


def blocks(layer: Any, wanted: Collection[Key]) -> dict[Key, Task] | None:
    """Make the tasks of a Blockwise layer; None where that is better left to dask.

    Parameters
    ----------
    layer
        A layer of a high-level graph.
    wanted
        The keys that are needed; keys of other layers among them are passed over.
    """
    if type(layer) is not Blockwise or layer.io_deps or layer.is_materialized():
        return None
    inside = set(layer.output_indices)
    if any(ind is not None and not inside.issuperset(ind) for _, ind in layer.indices):
        return None
    holes = [f"__dask_blockwise__{i}" for i in range(len(layer.indices))]
    template = _fill_constants(layer, holes)
    if template is None:
        return None
    dims = block_counts(layer)
    ranges = [range(dims[i]) for i in layer.output_indices]
    places: Any = layer.output_blocks or itertools.product(*ranges)
    inputs = _inputs(layer, holes)
    fixed = [dep for dep in template.dependencies if dep not in inputs]
    out: dict[Key, Task] = {}
    for at in places:
        key: Key = (layer.output, *at)
        if key not in wanted:
            continue
        keys = {hole: where(at) for hole, where in inputs.items()}
        args = tuple([TaskRef(keys[a.key]) if type(a) is TaskRef and a.key in keys else a for a in template.args])
        read = frozenset([*keys.values(), *fixed])
        out[key] = derive(template, key, template.func, args, read)
    return out


def block_counts(layer: Any) -> dict[Any, int]:
    """Return how many blocks there are along each index; dask's own way of counting takes longer than all the rest."""
    if layer.new_axes:
        return dict(layer.dims)
    out: dict[Any, int] = {}
    for name, ind in layer.indices:
        if ind is not None:
            for i, count in zip(ind, layer.numblocks[name], strict=True):
                if out.setdefault(i, count) != count:
                    if 1 not in (count, out[i]):
                        return dict(layer.dims)  # which says what is wrong
                    out[i] = max(count, out[i])
    return out


def _fill_constants(layer: Any, holes: list[str]) -> Task | None:
    """Put the inputs that are alike for all blocks into the layer's task; None if it refers to blocks in other ways."""
    constant: dict[Any, Any] = {}
    for hole, (arg, ind) in zip(holes, layer.indices, strict=True):
        if ind is None and hole in layer.task.dependencies:
            constant[hole] = arg if isinstance(arg, (GraphNode, TaskRef)) else DataNode(None, arg)
    template = layer.task.substitute(constant) if constant else layer.task
    if type(template) is not Task:
        return None
    direct = {arg.key for arg in template.args if type(arg) is TaskRef}
    through = {arg.key for arg in template.kwargs.values() if isinstance(arg, TaskRef)}
    for arg in (*template.args, *template.kwargs.values()):
        if isinstance(arg, GraphNode):
            through |= arg.dependencies
    moving = set(holes) - constant.keys()
    return template if moving.isdisjoint(through) and moving & template.dependencies <= direct else None


def _inputs(layer: Any, holes: list[str]) -> dict[str, Callable[[tuple[int, ...]], Key]]:
    """For each input that differs from block to block, say which block of it belongs to a block of the output."""
    position = {index: i for i, index in enumerate(layer.output_indices)}
    out: dict[str, Callable[[tuple[int, ...]], Key]] = {}
    for hole, (name, ind) in zip(holes, layer.indices, strict=True):
        if ind is None or hole not in layer.task.dependencies:
            continue
        # An axis of one block is broadcast along all blocks of the output.
        axes = [None if count == 1 else position[i] for i, count in zip(ind, layer.numblocks[name], strict=True)]
        out[hole] = _Where(name, axes)
    return out


class _Where:
    """Which block of an input belongs to a block of the output."""

    __slots__ = ("_axes", "_name")

    def __init__(self, name: str, axes: list[int | None]) -> None:
        self._name, self._axes = name, axes

    def __call__(self, at: tuple[int, ...]) -> Key:
        return (self._name, *[0 if axis is None else at[axis] for axis in self._axes])
