"""Peephole: which neighbouring steps become one call, and that the kernel still gives what the graph gave, bit for bit."""

from __future__ import annotations

import functools
from typing import Any

import dask.array as da
import numpy as np
import pytest
from dask.array import chunk
from dask.array.core import _concatenate2, concatenate_shaped
from dask.array.reductions import arg_agg, arg_chunk, arg_combine, mean_agg, mean_chunk
from dask.array.routines import _matmul, _tensordot
from oracle import differences, evaluate
from toolz import compose

import graphopt as go
from graphopt.graph import normalise
from graphopt.kernel import Fused
from graphopt.spec import List, Task, TaskRef

A, B = np.linspace(-1, 1, 12).reshape(4, 3), np.linspace(2, 3, 6).reshape(3, 2)
F8 = np.dtype(float)


def optimise(*tasks: Task, keys: tuple[str, ...] = ()) -> str:
    """Optimise tasks, check that they give what they gave, and return the text of their one kernel."""
    graph = {task.key: task for task in tasks}
    wanted = list(keys or (tasks[-1].key,))
    made = go.optimize(graph, wanted, go.Policy(parallelism=1, strict=True))
    assert not differences(evaluate(made, wanted), evaluate(graph, wanted))
    (text,) = [node.func.source for node in made.values() if isinstance(node, Fused)]
    return text


def product(axes: Any = ((1,), (0,))) -> Task:
    return Task("t", _tensordot, A, B, axes=axes, is_sparse=False)


def total(key: str, of: str, **changes: Any) -> Task:
    options = {"axis": (1,), "dtype": F8, "keepdims": True, **changes}
    return Task(key, functools.partial(np.sum, **options), TaskRef(of))


def joined(key: str, *of: str, axes: Any = (1,), **changes: Any) -> Task:
    options = {"axis": (1,), "dtype": F8, "keepdims": False, **changes}
    func = compose(functools.partial(np.sum, **options), functools.partial(_concatenate2, axes=list(axes)))
    return Task(key, func, List(*map(TaskRef, of)))


def test_a_block_that_is_contracted_and_summed_is_one_call() -> None:
    text = optimise(product(), total("s", "t"))
    assert text.count("lean.") == text.count("lean.contract(") == 1
    assert "2 tasks" in text, "it still stands for two"


def test_a_block_that_is_summed_twice_is_one_call() -> None:
    text = optimise(product(), total("s", "t"), joined("r", "s"))
    assert text.count("lean.") == text.count("lean.contract(") == 1
    assert "3 tasks" in text


@pytest.mark.parametrize(
    "tasks",
    [
        (product(), total("s", "t", axis=(0,))),
        (product(), total("s", "t", axis=None)),
        (product(), total("s", "t", axis=1)),
        (product(), Task("s", functools.partial(np.sum, axis=(1,)), TaskRef("t"))),
        (product(), Task("u", np.negative, TaskRef("t")), total("s", "u")),
    ],
    ids=["another axis", "all axes", "the axis as a number", "options left to NumPy", "something in between"],
)
def test_other_sums_stay_as_they_are(tasks: tuple[Task, ...]) -> None:
    text = optimise(*tasks)
    assert "lean.tensordot(" in text
    assert "contract" not in text


def test_a_product_that_is_read_elsewhere_too_stays() -> None:
    text = optimise(
        product(), total("s", "t"), Task("u", np.sum, TaskRef("t")), Task("v", np.multiply, TaskRef("s"), TaskRef("u"))
    )
    assert "contract" not in text
    text = optimise(product(), total("s", "t"), keys=("t", "s"))
    assert "contract" not in text


@pytest.mark.parametrize(
    "last",
    [
        joined("r", "s", dtype=np.dtype("f4")),
        joined("r", "s", axis=(0,)),
        joined("r", "s", axes=(0,)),
        joined("r", "s", "s"),
    ],
    ids=["another dtype", "another axis", "joined along another", "two blocks"],
)
def test_a_second_sum_that_differs_stays(last: Task) -> None:
    assert "lean.reduce_blocks(" in optimise(product(), total("s", "t"), last)


# -- products that leave a place for an axis ---------------------------------------------------------------------------

ALL = slice(None)


def matmul(a: Any = A, b: Any = B) -> Task:
    return Task("m", _matmul, a, b)


def taken(key: str, of: str, index: Any) -> Task:
    return Task(key, chunk.getitem, TaskRef(of), index)


def test_a_product_of_matrices_without_a_place_for_an_axis() -> None:
    text = optimise(matmul(), taken("g", "m", (ALL, 0, ALL)))
    assert text.count("lean.") == text.count("lean.times(") == 1
    assert "axis=1" in text
    assert "2 tasks" in text
    stacked = optimise(matmul(np.ones((2, 4, 3)), np.ones((2, 3, 2))), taken("g", "m", (ALL, ALL, 0, ALL)))
    assert "lean.times(" in stacked
    assert "axis=2" in stacked


@pytest.mark.parametrize(
    "index",
    [
        (ALL, 0),
        (0, ALL, ALL),
        (ALL, 0, slice(0, 1)),
        (slice(1, 3), 0, ALL),
        (ALL, -1, ALL),
        (ALL, False, ALL),
        (ALL, [0], ALL),
        0,
    ],
)
def test_other_parts_of_a_product_stay(index: Any) -> None:
    text = optimise(matmul(), taken("g", "m", index))
    assert "lean.matmul(" in text
    assert "times" not in text


def test_a_product_with_a_place_that_is_read_elsewhere_too_stays() -> None:
    assert "times" not in optimise(matmul(), taken("g", "m", (ALL, 0, ALL)), keys=("m", "g"))


def test_products_as_dask_writes_them() -> None:
    x, w = da.from_array(A, chunks=(2, 3)), da.from_array(B, chunks=(3, 2))
    y = np.exp(x @ w)
    graph = go.optimize(y, y.__dask_keys__(), go.Policy(parallelism=1, strict=True))
    assert any("lean.times(" in node.func.source for node in graph.values() if isinstance(node, Fused))
    assert np.array_equal(y.compute(), np.exp(A @ B))


# -- places where there is one block -----------------------------------------------------------------------------------


def place(func: Any = np.min, argfunc: Any = chunk.argmin, axis: Any = (1,), offset: Any = 0, key: str = "p") -> Task:
    return Task(key, functools.partial(arg_chunk, func, argfunc), A, axis, offset)


def best(
    *of: Any, argfunc: Any = chunk.argmin, axis: Any = (1,), axes: Any = None, agg: Any = arg_agg, keep: bool = False
) -> Task:
    func = functools.partial(agg, argfunc, axis=axis, keepdims=keep)
    return Task("b", compose(func, functools.partial(_concatenate2, axes=sorted(axis) if axes is None else axes)), List(*of))


def ref(name: str) -> TaskRef:
    return TaskRef(name)


@pytest.mark.parametrize("keep", [False, True])
def test_the_place_of_one_block_is_one_call(keep: bool) -> None:
    text = optimise(place(), best(ref("p"), keep=keep))
    assert text.count("lean.") == text.count("lean.argmin(") == 1
    text = optimise(place(np.max, chunk.argmax, offset=5), best(ref("p"), argfunc=chunk.argmax, keep=keep))
    assert text.count("lean.") == text.count("lean.argmax(") == 1
    whole = place(axis=(0, 1), offset=((0, 0), (4, 3)))
    text = optimise(whole, best(List(ref("p")), axis=(0, 1), keep=keep))
    assert text.count("lean.") == text.count("lean.argmin(") == 1


@pytest.mark.parametrize(
    "tasks",
    [
        (place(), place(offset=3, key="q"), best(ref("p"), ref("q"))),
        (place(), best(ref("p"), argfunc=chunk.argmax)),
        (place(), best(ref("p"), axis=(0,))),
        (place(), best(ref("p"), axes=[0])),
        (place(), best(ref("p"), agg=arg_combine, keep=True)),
    ],
    ids=["two blocks", "another function", "another axis", "joined along another", "in the middle of a tree"],
)
def test_other_places_stay(tasks: tuple[Task, ...]) -> None:
    text = optimise(*tasks)
    assert "lean.arg_chunk(" in text
    assert "lean.argmin(" not in text


def test_places_that_are_read_elsewhere_too_stay() -> None:
    assert "lean.arg_chunk(" in optimise(place(), best(ref("p")), keys=("p", "b"))


def test_an_error_of_a_place_is_dasks() -> None:
    x = da.from_array(np.ones((3, 0)), chunks=(3, 1))
    with go.optimized(strict=True), pytest.raises(ValueError, match="zero-size array"):
        x.argmin(axis=1).compute(scheduler="sync")


# -- means where there is one block ------------------------------------------------------------------------------------


def summed(**changes: Any) -> Task:
    return Task("c", functools.partial(mean_chunk, dtype=F8), A, **{"axis": (1,), "keepdims": True, **changes})


def divided(*of: Any, **changes: Any) -> Task:
    return Task("d", functools.partial(mean_agg, **{"dtype": F8, "axis": (1,), "keepdims": False, **changes}), List(*of))


@pytest.mark.parametrize("keepdims", [False, True])
def test_the_mean_of_one_block_is_one_call(keepdims: bool) -> None:
    text = optimise(summed(), divided(ref("c"), keepdims=keepdims))
    assert text.count("lean.") == text.count("lean.mean(") == 1
    text = optimise(summed(axis=(0, 1)), divided(List(ref("c")), axis=(0, 1), keepdims=keepdims))
    assert text.count("lean.") == text.count("lean.mean(") == 1


@pytest.mark.parametrize(
    "tasks",
    [
        (summed(), divided(ref("c"), ref("c"))),
        (summed(), divided(ref("c"), axis=(0,))),
        (summed(), divided(ref("c"), dtype=np.dtype("f4"))),
        (summed(dtype=np.dtype("f4")), divided(ref("c"))),
    ],
    ids=["two blocks", "another axis", "another dtype", "another dtype of the sums"],
)
def test_other_means_stay(tasks: tuple[Task, ...]) -> None:
    text = optimise(*tasks)
    assert "lean.mean_chunk(" in text
    assert "lean.mean(" not in text


# -- parts of blocks that are joined -----------------------------------------------------------------------------------


def test_parts_are_copied_once() -> None:
    x = da.from_array(np.arange(60.0).reshape(20, 3), chunks=(5, 3))
    y = x.rechunk((4, 3))
    keys = [key for row in y.__dask_keys__() for key in row]
    raw = normalise(y, keys)
    graph = go.optimize(raw, keys, go.Policy(parallelism=1, strict=True))
    assert "lean.piece(" in "".join(node.func.source for node in graph.values() if isinstance(node, Fused))
    assert not differences(evaluate(graph, keys), evaluate(raw, keys))


def test_parts_that_leave_are_copied() -> None:
    """Else a small part would keep a large block in memory."""
    cut = taken("g", "u", (slice(0, 1),))
    made = Task("u", np.negative, A)
    grid = Task("j", concatenate_shaped, List(TaskRef("g"), TaskRef("g")), (2, 1))
    assert "piece" not in optimise(made, cut, grid, keys=("g", "j"))
    assert "piece" not in optimise(made, cut, Task("n", np.add, TaskRef("g"), TaskRef("g")))


def test_an_error_names_the_product() -> None:
    x = da.from_array(np.ones((4, 3)), chunks=(2, 3))
    bad = x.map_blocks(lambda block: block[:, :2], dtype=float)
    y = da.exp(bad.dot(np.ones(3)))
    with go.optimized(strict=True), pytest.raises(ValueError, match="shape") as caught:
        y.compute(scheduler="sync")
    assert any("tensordot" in note for note in caught.value.__notes__)
