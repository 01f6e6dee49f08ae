"""Lower: dask's general chunk functions become the lean call with the same result.

::

    Compose(partial(sum, axis=0), partial(_concatenate2, axes=[0]))   ->   partial(reduce_blocks, sum_, axes=[0], axis=0)
    partial(arg_chunk, min, argmin), getter                           ->   partial(lean.arg_chunk, min, argmin), lean.getter
    _tensordot                                                        ->   lean.tensordot
    _execute_subgraph({...}, x)                                       ->   Program(...)(x)

The last one is what dask's own fusion leaves behind: a task that carries a graph, and sorts and interprets it at each run.
It becomes a program, which later floors can look into; blocks of one array share one.

Functions that are not known stay untouched. Which arrays flow through a graph is known only when it runs, so the lean
functions look at their arguments and fall back to dask's own. Which of dask's functions are lean as they are, and what they
cost, is said in `graphopt.lean`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from dask.array import chunk
from dask.array.core import _concatenate2, concatenate_axes, concatenate_shaped, getter, getter_inline, getter_nofancy
from dask.array.reductions import arg_agg, arg_chunk, arg_combine, chunk_max, chunk_min, mean_agg, mean_chunk, mean_combine
from dask.array.routines import _chunk_sum, _matmul, _tensordot
from toolz.functoolz import Compose

from graphopt import lean
from graphopt.blockwise import derive
from graphopt.functions import is_fresh
from graphopt.program import Program, is_subgraph, program_of
from graphopt.spec import Task
from graphopt.types import Graph, Key, Node

EXACT = True


def lower(graph: Graph) -> Graph:
    """Return the graph with known functions replaced; the same object if none is known."""
    # Thousands of tasks share a handful of function objects; each is looked at once.
    known: dict[int, Any] = {}
    programs = _Programs(graph)
    new: dict[Key, Node] = {}
    for key, node in graph.items():
        if type(node) is Task:
            func = node.func
            ours = known.get(id(func))
            if ours is None:
                ours = known[id(func)] = _lean(func)
            if ours is not func:
                new[key] = derive(node, key, ours, node.args, node.dependencies)
            elif is_subgraph(node):
                program = programs.lower(node)
                if program is not node:
                    new[key] = program
            elif Task in map(type, node.args) and any([type(arg) is Task and id(arg.func) in _PLAIN for arg in node.args]):
                args = tuple([_inside(arg) if type(arg) is Task else arg for arg in node.args])
                new[key] = derive(node, key, func, args, node.dependencies)
    return {**graph, **new} if new else graph


#: By identity: a task's function need not be hashable.
_PLAIN: dict[int, Any] = {
    id(theirs): ours
    for theirs, ours in (
        (_tensordot, lean.tensordot),
        (_matmul, lean.matmul),
        (_chunk_sum, lean.chunk_sum),
        (concatenate_shaped, lean.grid),
        (concatenate_axes, lean.join),
        (chunk_max, lean.max_),
        (chunk_min, lean.min_),
        (mean_chunk, lean.mean_chunk),
        (mean_combine, lean.mean_combine),
        (mean_agg, lean.mean_agg),
        (getter, lean.getter),
        (getter_nofancy, lean.getter),
        (getter_inline, lean.getter),
    )
}

#: The same for functions with options bound to them: what takes their place, and the options that it knows.
_BOUND: dict[int, tuple[Callable[..., Any], frozenset[str]]] = {
    id(theirs): (ours, frozenset(options))
    for theirs, ours, options in (
        (np.sum, lean.sum_, ("axis", "dtype", "keepdims")),
        (chunk_max, lean.max_, ("axis", "keepdims")),
        (chunk_min, lean.min_, ("axis", "keepdims")),
        (_concatenate2, lean.concatenate, ("axes",)),
        (_chunk_sum, lean.chunk_sum, ("axis", "dtype", "keepdims")),
        (mean_chunk, lean.mean_chunk, ("axis", "dtype", "keepdims")),
        (mean_combine, lean.mean_combine, ("axis", "keepdims")),
        (mean_agg, lean.mean_agg, ("axis", "dtype", "keepdims")),
    )
}

#: What finds arguments, with the functions bound to it by place; and what does so on blocks that are joined first.
_ARGUMENTS = ((np.min, chunk.argmin), (np.max, chunk.argmax))
_OF_JOINED: dict[int, Callable[..., Any]] = {id(arg_combine): lean.arg_combine, id(arg_agg): lean.arg_agg}


def _lean(func: Any) -> Any:
    """Return the lean equivalent of a function, or the function itself."""
    if (known := _PLAIN.get(id(func))) is not None:
        return known
    if type(func) is functools.partial:
        return _lean_bound(func)
    if type(func) is Compose and len(func.funcs) == 1:
        join = func.first
        if (
            type(join) is functools.partial
            and join.func is _concatenate2
            and not join.args
            and join.keywords.keys() == {"axes"}
        ):
            return _lean_joined(func.funcs[0], join.keywords["axes"]) or func
    return func


def _lean_bound(func: functools.partial[Any]) -> Any:
    """Return the lean equivalent of a function with options bound to it, or the function itself."""
    if not func.args:
        ours, options = _BOUND.get(id(func.func), (None, frozenset()))
        if ours is not None and func.keywords and options.issuperset(func.keywords):
            return functools.partial(ours, **func.keywords)
    elif func.func is arg_chunk and func.args in _ARGUMENTS and not func.keywords:
        return functools.partial(lean.arg_chunk, *func.args)
    return func


def _lean_joined(func: Any, axes: Any) -> Any:
    """Return what joins blocks and then calls a function, or None."""
    if (
        type(func) is functools.partial
        and id(func.func) in _OF_JOINED
        and len(func.args) == 1
        and any([func.args[0] is known for _, known in _ARGUMENTS])
        and func.keywords.keys() == {"axis", "keepdims"}
    ):
        return functools.partial(_OF_JOINED[id(func.func)], *func.args, axes=axes, **func.keywords)
    reduce: Any = _lean(func)
    options: dict[str, Any] = {}
    if isinstance(reduce, functools.partial) and not reduce.args and "axes" not in reduce.keywords:
        reduce, options = reduce.func, reduce.keywords
    # A function that somebody wrote may write to what it gets, or hand it on; joined blocks are its own, a single one is not.
    if not any([reduce is ours for ours in (lean.sum_, lean.max_, lean.min_)]) and not is_fresh(func):
        return None
    return functools.partial(lean.reduce_blocks, reduce, axes=axes, **options)


def _inside(task: Task) -> Task:
    """Return a task that is an argument of another with a lean function."""
    func = _PLAIN.get(id(task.func))
    return task if func is None else derive(task, task.key, func, task.args, task.dependencies)


def _is_known(func: Any) -> bool:
    return _lean(func) is not func


class _Programs:
    """The programs inside tasks that dask fused, each made once: by identity of the inner graph, then by what it does."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._uses: Counter[int] | None = None
        self._by_graph: dict[tuple[int, int, Key], tuple[Program, list[int], list[Any]] | None] = {}
        self._by_signature: dict[Hashable, Program] = {}

    def lower(self, task: Task) -> Task:
        """Return the task with a program in place of its graph, or the task itself where that cannot be."""
        inner, outkey, inkeys = task.args[:3]
        name = (id(inner), id(inkeys), outkey)
        if name not in self._by_graph:
            self._by_graph[name] = self._make(inner, outkey, inkeys)
        found = self._by_graph[name]
        if found is None:
            return task
        program, places, literals = found
        args = (*[task.args[3 + place] for place in places], *literals)
        return derive(task, task.key, program, args, task.dependencies)

    def _make(self, inner: Any, outkey: Key, inkeys: Any) -> tuple[Program, list[int], list[Any]] | None:
        if self._uses is None:
            tasks = self._graph.values()
            self._uses = Counter([id(t.args[0]) for t in tasks if type(t) is Task and is_subgraph(t)])
        found = program_of(lower(inner), outkey, inkeys, shared=self._uses[id(inner)] > 1)  # type: ignore[arg-type]
        if found is None:
            return None
        program, places, literals = found
        return self._by_signature.setdefault(program.signature, program), places, literals
