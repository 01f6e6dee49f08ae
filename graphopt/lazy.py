"""Lazy: a plan bound to arguments, as ordinary dask collections.

::

    loss, gradient = plan.lazy(beta)                 # nothing runs
    dask.compute(loss + penalty, gradient)           # with any other dask code, on any scheduler

Their graph has a layer with a task for each kernel call of the plan, on top of the graphs of the chunked arguments. Keys are
new at each binding, because a key must never stand for another task than before.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Protocol

import dask.array as da
from dask.core import flatten as flatten_keys
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from graphopt.kernel import Fused, Kernel
from graphopt.schedule import Group, Lane, Schedule
from graphopt.spec import Alias, DataNode, GraphNode, Task, TaskRef
from graphopt.trace import Argument, Result, Trace
from graphopt.tree import unflatten
from graphopt.types import Key

__all__ = ["Bindable", "lazy"]


class Bindable(Protocol):
    """What is needed of a plan."""

    @property
    def schedule(self) -> Schedule:
        """Kernels and lanes."""

    @property
    def trace(self) -> Trace:
        """The function as it was traced."""

    @property
    def blocks(self) -> tuple[tuple[int, int, int], ...]:
        """The slots of the blocks of the arguments."""

    @property
    def results(self) -> tuple[tuple[int, ...], ...]:
        """The slots of the blocks of the results."""

    def bind_numbers(self, values: list[Any], arguments: Sequence[Argument]) -> None:
        """Fill in the slots of numbers."""


def lazy(plan: Bindable, arguments: Sequence[Argument]) -> Any:
    """Return what the function returns, with dask collections in the places of arrays."""
    binding = _Binding(plan, arguments)
    out: list[Any] = []
    for result, slots in zip(plan.trace.results, plan.results, strict=True):
        if result.kind == "number":
            out.append(result.value.value(plan.trace.given(arguments)))
        elif result.kind == "constant":
            out.append(result.value)
        else:
            out.append(binding.collection(result, slots))
    return unflatten(plan.trace.structure, out)


class _Binding:
    """The tasks of a plan for some arguments, and where each slot's value comes from."""

    def __init__(self, plan: Bindable, arguments: Sequence[Argument]) -> None:
        self.name = f"plan-{uuid.uuid4().hex}"
        self.source: list[Any] = list(plan.schedule.template)  # of each slot: a reference, or the value itself
        chunked = {place: argument.value for place, argument in enumerate(arguments) if argument.kind == "chunked"}
        keys = {place: list(flatten_keys(array.__dask_keys__())) for place, array in chunked.items()}
        for slot, place, block in plan.blocks:
            self.source[slot] = TaskRef(keys[place][block]) if place in keys else arguments[place].value
        plan.bind_numbers(self.source, arguments)
        self.tasks: dict[Key, GraphNode] = {}
        for level in plan.schedule.levels:
            for group in level.groups:
                for lane in group.lanes:
                    self._add(group, lane)
        self.graph = HighLevelGraph.from_collections(self.name, self.tasks, dependencies=list(chunked.values()))

    def _add(self, group: Group, lane: Lane) -> None:
        key = (f"{group.name}-{self.name}", len(self.tasks))
        args = [self.source[slot] for slot in lane.reads]
        if isinstance(group.kernel, Kernel):
            self.tasks[key] = Fused(key, group.kernel, *args, labels=lane.labels)
        else:
            self.tasks[key] = Task(key, group.kernel, *args)
        if len(lane.writes) == 1:
            self.source[lane.writes[0]] = TaskRef(key)
            return
        for place, slot in enumerate(lane.writes):
            pick = (*key, place)
            self.tasks[pick] = Task(pick, itemgetter(place), TaskRef(key))
            self.source[slot] = TaskRef(pick)

    def collection(self, result: Result, slots: Sequence[int]) -> Any:
        """Return a result as a collection: its own keys refer to what the plan's tasks give."""
        name = f"graphopt-{uuid.uuid4().hex}"
        like = result.value
        sources = [self.source[slot] for slot in slots]
        if result.kind == "delayed":
            finish, extra = like.__dask_postcompute__()
            return Delayed(name, self._over(name, {name: Task(name, partial(_finished, finish, extra), *sources)}))
        keys: list[Key] = [(name, *old[1:]) for old in result.keys]  # type: ignore[index]
        own: dict[Key, GraphNode] = {
            key: Alias(key, source.key) if isinstance(source, TaskRef) else DataNode(key, source)
            for key, source in zip(keys, sources, strict=True)
        }
        return da.Array(self._over(name, own), name, like.chunks, meta=like._meta, dtype=like.dtype)

    def _over(self, name: str, own: dict[Key, GraphNode]) -> HighLevelGraph:
        layers = {**self.graph.layers, name: MaterializedLayer(own)}
        return HighLevelGraph(layers, {**self.graph.dependencies, name: {self.name}})


def _finished(finish: Callable[..., Any], extra: tuple[Any, ...], *blocks: Any) -> Any:
    return finish(list(blocks), *extra)
