"""Lower: dask's general chunk functions become the lean call with the same result.

::

    Compose(partial(sum, axis=0), partial(_concatenate2, axes=[0]))(blocks)   ->   reduce_blocks(sum_, blocks, [0], axis=0)
    partial(f, 1, k=2)(x)                                                     ->   f(1, x, k=2)
    _execute_subgraph({...}, x)                                               ->   Program(...)(x)

The last one is what dask's own fusion leaves behind: a task that carries a graph, and sorts and interprets it at each run.
It becomes a program, which later floors can look into; blocks of one array share one.

Functions that are not known stay untouched. Which arrays flow through a graph is known only when it runs, so the lean
functions look at their arguments and fall back to dask's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from dask.array.core import _concatenate2
from dask.array.routines import _tensordot
from dask.task_spec import Task
from toolz.functoolz import Compose

from graphopt import lean
from graphopt.program import Program, is_subgraph, program_of
from graphopt.types import Graph, Key, Node

EXACT = True


def lower(graph: Graph) -> Graph:
    """Return the graph with known functions replaced; the same object if none is known."""
    # Thousands of tasks share a handful of function objects; each is looked at once.
    known: dict[int, Callable[[Task], Task] | None] = {}
    programs = _Programs()
    out: dict[Key, Node] = {}
    changed = False
    for key, node in graph.items():
        if type(node) is Task:
            func = node.func
            if is_subgraph(node):
                new = programs.lower(node)
                changed |= new is not node
                out[key] = new
                continue
            if id(func) not in known:
                known[id(func)] = _rewriter(func)
            rewrite = known[id(func)]
            if rewrite is not None:
                node = rewrite(node)
                changed = True
        out[key] = node
    return out if changed else graph


def _rewriter(func: Any) -> Callable[[Task], Task] | None:
    """Return what to do with a task that calls this function, or None to leave it."""
    lowered = _lean(func)
    if type(lowered) is functools.partial:
        partial: functools.partial[Any] = lowered
        head, args, kwargs = _lean(partial.func), partial.args, partial.keywords
        return lambda t: _task(t, head, (*args, *t.args), {**kwargs, **t.kwargs})
    if lowered is not func:
        return lambda t: _task(t, lowered, t.args, t.kwargs)
    return None


def _lean(func: Any) -> Any:
    """Return the lean equivalent of a function, or the function itself."""
    if func is _tensordot:
        return lean.tensordot
    if type(func) is functools.partial:
        if func.func is np.sum and not func.args and func.keywords.keys() <= {"axis", "dtype", "keepdims"}:
            return functools.partial(lean.sum_, **func.keywords)
        if func.func is _concatenate2 and not func.args and func.keywords.keys() == {"axes"}:
            return functools.partial(lean.concatenate, **func.keywords)
    if type(func) is Compose and len(func.funcs) == 1:
        join = func.first
        if type(join) is functools.partial and join.func is _concatenate2 and join.keywords.keys() == {"axes"}:
            reduce: Any = _lean(func.funcs[0])
            options: dict[str, Any] = {}
            if isinstance(reduce, functools.partial) and not reduce.args and "axes" not in reduce.keywords:
                reduce, options = reduce.func, reduce.keywords
            return functools.partial(lean.reduce_blocks, reduce, axes=join.keywords["axes"], **options)
    return func


def _task(old: Task, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Task:
    return Task(old.key, func, *args, _data_producer=old.data_producer, **kwargs)


class _Programs:
    """The programs inside tasks that dask fused, each made once: by identity of the inner graph, then by what it does."""

    def __init__(self) -> None:
        self._by_graph: dict[tuple[int, int, Key], tuple[Program, list[Any]] | None] = {}
        self._by_signature: dict[Hashable, Program] = {}

    def lower(self, task: Task) -> Task:
        inner, outkey, inkeys = task.args[:3]
        name = (id(inner), id(inkeys), outkey)
        if name not in self._by_graph:
            self._by_graph[name] = self._make(inner, outkey, inkeys)
        found = self._by_graph[name]
        if found is None:
            return task
        program, literals = found
        return _task(task, program, (*task.args[3:], *literals), {})

    def _make(self, inner: Any, outkey: Key, inkeys: Any) -> tuple[Program, list[Any]] | None:
        lowered = lower(inner)
        found = program_of(lowered, outkey, inkeys)  # type: ignore[arg-type]  # no futures inside
        if found is None:
            return None
        program, literals = found
        return self._by_signature.setdefault(program.signature, program), literals
