"""Lower: which functions get a lean equivalent, and that it gives what dask's own gives, bit for bit, on arrays of any kind."""

from __future__ import annotations

import functools
import operator
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask.array.core import _concatenate2
from dask.array.routines import _tensordot
from oracle import evaluate, outline, same
from toolz.functoolz import Compose

import graphopt as go
from graphopt import lean
from graphopt.graph import normalise, toposort
from graphopt.passes.lower import lower
from graphopt.program import Program, is_subgraph
from graphopt.spec import Task, TaskRef

# -- which functions ---------------------------------------------------------------------------------------------------

JOIN = functools.partial(_concatenate2, axes=[0])


@pytest.mark.parametrize(
    ("func", "becomes"),
    [
        (functools.partial(np.sum, axis=0), functools.partial(lean.sum_, axis=0)),
        (functools.partial(np.sum, axis=0, dtype="f8", keepdims=True), None),
        (JOIN, functools.partial(lean.concatenate, axes=[0])),
        (_tensordot, lean.tensordot),
        (
            Compose((functools.partial(np.sum, axis=0), JOIN)),
            functools.partial(lean.reduce_blocks, lean.sum_, axes=[0], axis=0),
        ),
        (
            Compose((functools.partial(np.max, axis=0), JOIN)),
            functools.partial(lean.reduce_blocks, np.max, axes=[0], axis=0),
        ),
    ],
)
def test_known_functions_become_lean(func: Any, becomes: Any) -> None:
    made = lower({"t": Task("t", func, TaskRef("x"), 1, k=2, _data_producer=True)})["t"]
    assert isinstance(made, Task)
    if becomes is None:
        assert made.func.func is lean.sum_
        return
    assert outline({"t": made}) == outline({"t": Task("t", becomes, TaskRef("x"), 1, k=2)})
    assert made.data_producer
    assert made.dependencies == {"x"}


def users_own(x: Any, axis: Any = None) -> Any:
    x -= 1
    return x.max(axis=axis)


@pytest.mark.parametrize(
    "func",
    [
        np.sum,
        users_own,
        functools.partial(np.sum, axis=0, out=np.zeros(2)),
        functools.partial(np.sum, 1),
        functools.partial(np.max, axis=0),
        functools.partial(_concatenate2, [1]),
        Compose((functools.partial(users_own, axis=0), JOIN)),
        Compose((np.max, users_own)),
        Compose((np.max, np.abs, JOIN)),
    ],
)
def test_unknown_functions_stay_untouched(func: Any) -> None:
    graph = {"t": Task("t", func, TaskRef("x"))}
    assert lower(graph) is graph


def test_a_users_reduction_may_write_to_what_it_gets() -> None:
    """Joined blocks are a copy; a single block that is not joined is somebody's data."""
    x = da.from_array(np.arange(6.0).reshape(3, 2), chunks=(3, 2)).map_blocks(np.copy)
    least = da.reduction(x, chunk=lambda b, axis, keepdims: b, aggregate=_spoil, axis=0, dtype="f8", concatenate=True)
    with go.optimized(parallelism=1, strict=True):
        _, kept = dask.compute(least, x, scheduler="sync")
    assert same(kept, np.arange(6.0).reshape(3, 2))


def _spoil(block: Any, axis: Any, keepdims: Any) -> Any:
    block -= 1
    return block.max(axis=axis, keepdims=keepdims)


def test_nothing_known_returns_the_graph() -> None:
    graph = normalise({"x": 1, "a": (operator.neg, "x"), "f": TaskRef("f"), "b": "a"})
    assert lower(graph) is graph


# -- what dask fused ---------------------------------------------------------------------------------------------------


def fused_by_dask() -> tuple[da.Array, Any]:
    x = da.arange(40, chunks=10, dtype="f8")
    y = da.sin(x + 1) * 2 - x
    return y, normalise(y, y.__dask_keys__())


def test_what_dask_fused_becomes_one_program_for_all_blocks() -> None:
    y, graph = fused_by_dask()
    inner = [node for node in graph.values() if is_subgraph(node)]
    assert len(inner) == 4, "dask no longer fuses this"
    made = lower(graph)
    programs = [node.func for node in made.values() if isinstance(node, Task) and isinstance(node.func, Program)]
    assert len(programs) == 4
    assert len(set(map(id, programs))) == 1
    keys = y.__dask_keys__()
    assert same(evaluate(made, keys), evaluate(graph, keys))
    assert [key for key in graph if graph[key] is not made[key]] == [node.key for node in inner]


def test_a_program_inside_a_program() -> None:
    one = Task.fuse(Task("a", operator.neg, TaskRef("x")), Task("b", abs, TaskRef("a")))
    two = Task.fuse(Task("c", operator.add, TaskRef("b"), TaskRef("y")), one.substitute({}, key="b"), key="d")
    made = lower({"d": two})
    program = made["d"].func  # type: ignore[union-attr]
    assert isinstance(program, Program)
    assert same(evaluate(made, ["d"], {"x": 3, "y": 4}), {"d": 7})
    assert repr(program) == f"<Program of {len(program.steps)} steps, 2 in, 1 out>"


def test_a_graph_inside_a_task_that_has_rules_of_its_own_stays() -> None:
    class Strange(Task):
        pass

    task = Task.fuse(Task("a", operator.neg, TaskRef("x")), Strange("b", abs, TaskRef("a")))
    graph = {"b": task}
    assert lower(graph) is graph
    assert toposort(graph) == ["b"]


def test_programs_run_step_by_step_and_pickle() -> None:
    import cloudpickle

    _, graph = fused_by_dask()
    for task in lower(graph).values():
        if isinstance(task, Task) and isinstance(task.func, Program):
            again = cloudpickle.loads(cloudpickle.dumps(task.func))
            assert again.signature == task.func.signature
            assert len(again.steps) == len(task.func.steps)
