"""The benchmarks' iterative problems, compiled: the same values as dask's, one trace, and as many kernels as it takes."""

from __future__ import annotations

import copy
import gc
import sys
import weakref
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask.array import Array

import graphopt as go

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
from iterative import SMALL, Problem, blocks_of, small
from test_iterative import close


def iterate(problem: Problem, step: Any, times: int) -> Any:
    return problem.run(times, lambda _, *args: step(*args))


@pytest.mark.parametrize("chunks", [1, 3, 8])
@pytest.mark.parametrize("name", SMALL)
def test_compiled_computes_what_dask_computes(name: str, chunks: int) -> None:
    problem = SMALL[name](chunks)
    step = go.compile(problem.step)
    close(iterate(problem, step, 5), problem.run(5, problem.with_dask("sync")))
    assert step.stats.calls == 5


@pytest.mark.parametrize("chunks", [3, 8])
@pytest.mark.parametrize("name", SMALL)
def test_a_loop_is_traced_once(name: str, chunks: int) -> None:
    problem = SMALL[name](chunks)
    step = go.compile(problem.step)
    iterate(problem, step, 5)
    assert step.stats.traces == 1


@pytest.mark.parametrize("name", SMALL)
def test_exact_is_bit_for_bit(name: str) -> None:
    problem = SMALL[name](5)
    step = go.compile(problem.step, exact=True)
    close(iterate(problem, step, 3), problem.run(3, problem.with_dask("sync")), rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_results_are_chunked_where_the_step_leaves_them_so(name: str) -> None:
    problem = SMALL[name](3)
    results = go.compile(problem.step)(*problem.data, *problem.state)
    for i, result in enumerate(results):
        assert isinstance(result, Array) == (i in problem.chunked)
        if i in problem.chunked:
            assert len(blocks_of(result)) == 3  # in memory, one by one


@pytest.mark.parametrize("name", SMALL)
def test_other_data_of_the_same_shape_is_not_traced_again(name: str) -> None:
    problem = SMALL[name](3)
    step = go.compile(problem.step)
    iterate(problem, step, 2)
    data = tuple((array * 2).persist(scheduler="sync") for array in problem.data)
    state = tuple(value * 0.5 if i in problem.chunked else value for i, value in enumerate(problem.state))
    state = tuple(value.persist(scheduler="sync") if isinstance(value, Array) else value for value in state)
    other = Problem(name, problem.step, data, state, problem.floor, problem.update, problem.chunked)
    close(iterate(other, step, 2), other.run(2, other.with_dask("sync")))
    close(iterate(problem, step, 2), problem.run(2, problem.with_dask("sync")))
    assert step.stats.traces == 1


@pytest.mark.parametrize("name", SMALL)
def test_other_chunks_are_traced_again(name: str) -> None:
    step = go.compile(SMALL[name](3).step)
    for count, chunks in enumerate((3, 4), start=1):
        problem = SMALL[name](chunks)
        close(iterate(problem, step, 2), problem.run(2, problem.with_dask("sync")))
        assert step.stats.traces == count


def test_changing_the_state_does_not_change_the_data() -> None:
    for make in SMALL.values():
        problem = make(3)
        before = [copy.deepcopy(small(value)) for value in (*problem.data, *problem.state)]
        iterate(problem, go.compile(problem.step), 3)
        after = [small(value) for value in (*problem.data, *problem.state)]
        for one, other in zip(before, after, strict=True):
            assert np.sum(one != other) == 0


@pytest.mark.parametrize(
    ("name", "kernels", "calls"),
    [
        ("logistic", 1, lambda chunks: chunks + 2),
        ("conjugate gradient", 4, lambda chunks: chunks + 4),
        ("power iteration", 4, lambda chunks: 2 * chunks + 3),
        ("jacobi", 5, lambda chunks: 4 * chunks),
        ("heat", 5, lambda chunks: 9 * chunks),
        ("k-means", 5, lambda chunks: 2 * chunks + 5),
        ("pagerank", 4, lambda chunks: 3 * chunks + 3),
    ],
)
def test_a_plan_has_few_kernels_and_a_few_calls_a_chunk(name: str, kernels: int, calls: Any) -> None:
    for chunks in (8, 64):
        problem = SMALL[name](chunks)
        plan = go.compile(problem.step, policy=go.Policy(parallelism=2)).plan(*problem.data, *problem.state)
        assert len(plan.kernels) <= kernels
        assert plan.lanes <= calls(chunks)
        assert plan.tasks > plan.lanes


@pytest.mark.parametrize("name", ["jacobi", "heat", "power iteration"])
def test_a_state_that_became_small_is_traced_as_such(name: str) -> None:
    """One small block comes back as NumPy: the second call is another signature, the third is not."""
    problem = SMALL[name](1)
    step = go.compile(problem.step)
    iterate(problem, step, 5)
    assert step.stats.traces == 2


@pytest.mark.parametrize("name", ["jacobi", "heat", "power iteration"])
def test_states_that_nobody_holds_are_given_back_at_once(name: str) -> None:
    """Not at the next collection of garbage: a state may be most of the memory there is."""
    problem = SMALL[name](8)
    step = go.compile(problem.step)
    states: list[weakref.ref[Any]] = []
    alive: list[int] = []
    gc.collect()
    gc.disable()
    try:
        for state in islice(problem.loop(lambda _, *args: step(*args)), 8):
            states.append(weakref.ref(blocks_of(state[0])[-1][0]))
            alive.append(sum(block() is not None for block in states))
    finally:
        gc.enable()
    assert max(alive) <= 3  # the loop's own two, and the one that the plan is bound to


def test_results_belong_to_the_caller() -> None:
    for make in SMALL.values():
        problem = make(3)
        step = go.compile(problem.step)
        first = step(*problem.data, *problem.state)
        before = [copy.deepcopy(small(value)) for value in first]
        for value in first:
            if isinstance(value, np.ndarray):
                value[...] = np.nan
        for one, other in zip(step(*problem.data, *problem.state), before, strict=True):
            np.testing.assert_array_equal(small(one), other)
