"""Peephole: which neighbouring steps become one call, and that the kernel still gives what the graph gave, bit for bit."""

from __future__ import annotations

import functools
from typing import Any

import dask.array as da
import numpy as np
import pytest
from dask.array.core import _concatenate2
from dask.array.routines import _tensordot
from oracle import differences, evaluate
from toolz import compose

import graphopt as go
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


def test_an_error_names_the_product() -> None:
    x = da.from_array(np.ones((4, 3)), chunks=(2, 3))
    bad = x.map_blocks(lambda block: block[:, :2], dtype=float)
    y = da.exp(bad.dot(np.ones(3)))
    with go.optimized(strict=True), pytest.raises(ValueError, match="shape") as caught:
        y.compute(scheduler="sync")
    assert any("tensordot" in note for note in caught.value.__notes__)
