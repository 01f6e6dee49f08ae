"""Laws 4 and 5 for ``compile``: a replay computes what dask computes, from the data it is given and no other.

A program is a function written from one seed; it decides by shapes alone, as a function that is compiled must. Each failure is
one seed and the smallest size that fails.
"""

from __future__ import annotations

import operator
import random
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from array_twins import arrays, wobble
from hypothesis import given
from hypothesis import strategies as st
from oracle import close, differences, evaluate, outline, same, snapshot
from twins import examples

import graphopt as go
from graphopt.graph import check_graph, flatten_keys, normalise
from graphopt.passes.cull import cull
from graphopt.passes.folds import Fold, folds
from graphopt.passes.lower import lower
from graphopt.spec import GraphNode

pytestmark = pytest.mark.timeout(100)

ROWS, COLS = 12, 3


def program(seed: int, size: int) -> Callable[..., Any]:
    """Write a function of two chunked arrays, a small one, a float and an int; a longer one starts with the shorter one."""

    def fn(X: Any, Y: Any, b: Any, a: Any, n: Any) -> Any:
        rng = random.Random(seed)
        have = [X, Y]

        def step() -> None:
            x = have[rng.randrange(max(0, len(have) - 5), len(have))]
            y = rng.choice([other for other in have if other.shape == x.shape])
            kind = rng.randrange(15)
            if kind == 0:
                have.append(rng.choice((np.sin, np.tanh, np.negative, np.arctan, np.abs))(x))
            elif kind == 1:
                have.append(rng.choice((operator.add, operator.sub, np.maximum, np.hypot))(x, y))
            elif kind == 2:
                have.append(rng.choice((operator.add, operator.mul, operator.sub))(*rng.choice(((x, a), (a, x)))))
            elif kind == 3:
                have.append((x + n) / (abs(a) + abs(n) + 1))
            elif kind == 4:
                row = b * rng.choice((a, n, 2)) + b[0]
                have.append(x * row[: x.shape[1]] if x.shape[1] <= COLS else x - row.sum())
            elif kind == 5:
                have.append(getattr(x, rng.choice(("sum", "mean", "max", "min")))(axis=rng.choice((0, 1, None)), keepdims=True))
            elif kind == 6:
                have.append(x[rng.randint(0, 1) if x.shape[0] > 1 else 0 :: rng.choice((1, 2))])
            elif kind == 7:
                have.append(x.T)
            elif kind == 8:
                have.append((x @ y.T) / x.shape[1])
            elif kind == 9:
                have.append(da.concatenate([x, y], axis=0))
            elif kind == 10:
                have.append(x.rechunk((max(1, x.shape[0] // 2), x.shape[1])))
            elif kind == 11:
                have.append(x.map_blocks(wobble, by=a, dtype=np.result_type(x.dtype, np.float32)))
            elif kind == 12:
                have.append(da.where(x > y, x, a))
            elif kind == 13:
                have.append(x - x.mean(axis=0))
            else:
                have.append(np.clip(x, -abs(a), n + 1))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", da.PerformanceWarning)
            for _ in range(size):
                step()
        return have[-1], {"before": have[-2], "total": have[-1].sum()}, (b * a, a + n)

    return fn


def arguments(seed: int, structure: int) -> tuple[Any, ...]:
    """Make arguments: of equal structure for equal second seeds, with values of the first."""
    rng, kinds = np.random.default_rng(seed), random.Random(structure)
    dtype = kinds.choice(("f8", "f8", "f4", "i8"))
    number: Any = kinds.choice((float, np.float32, np.float64))

    def chunked() -> Any:
        chunks = kinds.choice(((5, COLS), (4, 1), (ROWS, COLS), ((1, 7, 4), (2, 1)), (3, COLS)))
        return da.from_array(rng.normal(scale=2, size=(ROWS, COLS)).astype(dtype), chunks=chunks).persist(scheduler="sync")

    return chunked(), chunked(), rng.normal(size=COLS), number(rng.normal()), int(rng.integers(1, 9))


def plain(value: Any) -> Any:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", da.PerformanceWarning)
        return dask.compute(value, scheduler="sync", optimize_graph=False)[0]


def run(step: Any, args: Any) -> Any:
    with np.errstate(all="ignore"):
        return plain(step(*args))


def all_close(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(all_close(found[name], expected[name]) for name in expected)
    if isinstance(expected, tuple):
        return len(found) == len(expected) and all(map(all_close, found, expected))
    return np.result_type(found) == np.result_type(expected) and close(found, expected)


seeds = st.integers(0, 10_000)
programs = st.builds(program, seeds, st.integers(1, 10))
policies = st.builds(go.Policy, parallelism=st.sampled_from((1, 2)), max_bytes=st.sampled_from((1, 1000, 2**30)))


@given(programs, seeds, seeds, policies)
@examples(60)
def test_replays_are_bit_for_bit_what_dask_computes(fn: Any, seed: int, structure: int, policy: go.Policy) -> None:
    """Each call has other data, in the first and second half of them twice the same."""
    step = go.compile(fn, exact=True, policy=policy)
    several = [arguments(seed, structure), arguments(seed + 1, structure)]
    for args in (several[0], several[1], several[0], several[0][:2] + several[1][2:]):
        assert same(run(step, args), plain(fn(*args)))
    assert (step.stats.calls, step.stats.traces, step.stats.rebinds) == (4, 1, 2)


@given(programs, seeds, policies)
@examples(8)
def test_replays_are_to_rounding_what_dask_computes(fn: Any, seed: int, policy: go.Policy) -> None:
    """With folds, and with loops compiled by numba."""
    step = go.compile(fn, policy=policy)
    for args in (arguments(seed, 0), arguments(seed + 1, 0)):
        for _ in range(2):
            assert all_close(run(step, args), plain(fn(*args)))
    assert step.stats.traces == 1


@given(programs, st.lists(seeds, min_size=2, max_size=4), seeds)
@examples(15)
def test_traces_are_as_many_as_there_are_structures(fn: Any, structures: list[int], seed: int) -> None:
    step = go.compile(fn, exact=True)
    known = set()
    for structure in structures * 2:
        X, Y, b, a, n = arguments(seed, structure)
        known.add((X.chunks, Y.chunks, X.dtype, type(a)))
        assert same(run(step, (X, Y, b, a, n)), plain(fn(X, Y, b, a, n)))
        assert step.stats.traces == len(known)


@given(programs, seeds)
@examples(10)
def test_threads_do_not_see_each_others_data(fn: Any, seed: int) -> None:
    step = go.compile(fn, exact=True, policy=go.Policy(parallelism=2))
    several = [arguments(seed + i, seed) for i in range(4)]
    expected = [plain(fn(*args)) for args in several]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: run(step, several[i % 4]), range(24)))
    assert all(same(value, expected[i % 4]) for i, value in enumerate(found))
    assert step.stats.traces == 1


@given(programs, seeds, policies, st.booleans())
@examples(60)
def test_schedules_read_what_is_there(fn: Any, structure: int, policy: go.Policy, exact: bool) -> None:
    plan = go.compile(fn, exact=exact, policy=policy).plan(*arguments(0, structure))
    plan._check()
    assert plan.lanes <= plan.tasks + 1


@given(programs, seeds)
@examples(20)
def test_arguments_and_plans_do_not_change(fn: Any, seed: int) -> None:
    step = go.compile(fn, exact=True)
    args = arguments(seed, 0)
    was = [snapshot(dict(array.dask)) for array in args[:2]], args[2].copy()
    template = step.plan(*args).schedule.template
    kept = [np.array(value, copy=True) if isinstance(value, np.ndarray) else value for value in template]
    for _ in range(2):
        run(step, args)
    assert [snapshot(dict(array.dask)) for array in args[:2]] == was[0]
    assert same(args[2], was[1])
    assert all(one is other or same(one, other) for one, other in zip(kept, step.plan(*args).schedule.template, strict=True))


# -- folds -------------------------------------------------------------------------------------------------------------


def reduced(seed: int, size: int) -> Any:
    """Return a dask array program that ends in trees of reductions."""
    x = arrays(seed, size).lazy[-1].rechunk((1, 1))
    with dask.config.set(split_every=random.Random(seed).choice((2, 3))):
        return da.concatenate([da.atleast_1d(getattr(x, name)()) for name in ("sum", "max", "mean")])


def fold(graph: Any, keys: Any) -> tuple[Any, Any]:
    given_graph = lower(cull(graph, keys))
    return given_graph, folds(given_graph, keys)


@given(seeds, st.integers(1, 6))
@examples(25)
def test_folds_keep_values_to_rounding_and_are_idempotent(seed: int, size: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", da.PerformanceWarning)
        x = reduced(seed, size)
    keys = flatten_keys(x.__dask_keys__())
    before, made = fold(normalise(x, keys), keys)
    check_graph(made, keys)
    found, expected = evaluate(made, keys), evaluate(before, keys)
    assert all(close(found[key], expected[key]) for key in keys)
    assert folds(made, keys) is made
    assert any(isinstance(node, Fold) for node in made.values()) == (made is not before)


@given(seeds, st.integers(1, 6))
@examples(15)
def test_folds_do_not_depend_on_names(seed: int, size: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", da.PerformanceWarning)
        x = reduced(seed, size)
    keys = flatten_keys(x.__dask_keys__())
    graph = normalise(x, keys)
    names = {key: f"{abs(hash((seed, key)))}" for key in graph}
    back = {new: old for old, new in names.items()}
    other = {
        names[key]: node.substitute(names, key=names[key]) if isinstance(node, GraphNode) else node
        for key, node in graph.items()
    }
    _, mine = fold(graph, keys)
    _, theirs = fold(other, [names[key] for key in keys])
    assert outline(theirs, back.__getitem__) == outline(mine)


@pytest.mark.parametrize("name", ["argmin", "argmax"])
@pytest.mark.parametrize("keepdims", [False, True])
def test_places_fold_along_one_axis(name: str, keepdims: bool) -> None:
    """Bit for bit: the first of equal numbers, and the first NaN, is the first in any grouping."""
    values = np.random.default_rng(0).integers(0, 3, (40, 6)).astype(float)
    values[30:, 2] = values[7:9, 3] = np.nan
    for x, axis in ((da.from_array(values, chunks=(2, 3)), 0), (da.from_array(values[:, 3], chunks=3), 0)):
        y = getattr(x, name)(axis=axis, keepdims=keepdims, split_every=2)
        keys = flatten_keys(y.__dask_keys__())
        before, made = fold(normalise(y, keys), keys)
        assert sum(isinstance(node, Fold) for node in made.values()) == len(keys)
        assert len(made) < len(before)
        assert not differences(evaluate(made, keys), evaluate(before, keys))


def test_places_along_two_axes_do_not_fold() -> None:
    """Of equal numbers dask takes that of the first block, so it depends on how blocks are grouped."""
    x = da.ones((8, 8), chunks=2).argmin(split_every=2)
    keys = flatten_keys(x.__dask_keys__())
    before, made = fold(normalise(x, keys), keys)
    assert made is before


def test_folds_of_nothing_are_the_graph_itself() -> None:
    for x in (da.ones((4, 4), chunks=2) + 1, da.ones(3, chunks=3).sum(), da.arange(4, chunks=2).cumsum(axis=0)):
        keys = flatten_keys(x.__dask_keys__())
        before, made = fold(normalise(x, keys), keys)
        assert made is before


def test_what_is_asked_for_and_read_twice_is_not_folded() -> None:
    x = da.ones((8, 2), chunks=(1, 2))
    half = x.sum(axis=0, split_every=2)
    both = half + 1, half
    keys = flatten_keys([y.__dask_keys__() for y in both])
    graph = {**normalise(both[0], flatten_keys(both[0].__dask_keys__())), **normalise(half, flatten_keys(half.__dask_keys__()))}
    before, made = fold(graph, keys)
    assert len(made) < len(before)
    assert evaluate(made, keys).keys() == set(keys)
    assert all(close(value, evaluate(before, keys)[key]) for key, value in evaluate(made, keys).items())
