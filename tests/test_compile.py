"""``compile``: what it takes and returns, what it counts, what it holds, and how it stops.

Most functions here are compiled with ``exact=True``, which leaves out the loops that numba compiles: those have tests of their
own, and take seconds to compile.
"""

from __future__ import annotations

import gc
import operator
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
import scipy.sparse
import threadpoolctl
from oracle import close, same

import graphopt as go
from graphopt import fingerprint as fingerprint_module
from graphopt.execute.team import Team

pytestmark = pytest.mark.timeout(60)

A = np.random.default_rng(0).normal(size=(12, 3))
TWO = go.Policy(parallelism=2)


def exact(fn: Callable[..., Any], **options: Any) -> Any:
    return go.compile(fn, exact=True, **options)


def held(array: Any, chunks: Any = (4, 3), **options: Any) -> Any:
    """Return a dask array with its blocks in memory."""
    return da.from_array(array, chunks=chunks, **options).persist(scheduler="sync")


def plain(value: Any) -> Any:
    """Let dask compute what it can, in any nesting."""
    return dask.compute(value, scheduler="sync", optimize_graph=False)[0]


def agree(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Assert that a call of the compiled function, and another one, give what dask gives; return the compiled function."""
    step = exact(fn)
    expected = plain(fn(*args, **kwargs))
    for _ in range(2):
        found = plain(step(*args, **kwargs))
        assert same(found, expected), f"{found!r} instead of {expected!r}"
    assert step.stats.traces == 1
    return step


def counts(step: Any) -> tuple[int, int, int]:
    return step.stats.calls, step.stats.traces, step.stats.rebinds


# -- arguments and results ---------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "left right")


class Named(NamedTuple):
    X: Any
    scale: Any = 2.0


@dataclass
class State:
    X: Any
    beta: Any
    step: float = 0.5
    names: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    value: Any


def test_containers_go_in_and_come_out() -> None:
    @exact
    def step(state: Any) -> Any:
        X, beta = state["X"], state["rest"][0]
        return {"loss": (X @ beta).sum(), "rest": [beta * 2, (X.sum(axis=0), None, "text")], "pair": Pair(X.sum(), 3)}

    X = held(A)
    for factor in (1.0, 2.0):
        beta = np.arange(3.0) * factor
        found = step({"X": X, "rest": (beta, 1.5)})
        assert list(found) == ["loss", "rest", "pair"]
        assert close(found["loss"], (A @ beta).sum())
        assert same(found["rest"][0], beta * 2)
        assert type(found["rest"]) is list
        assert found["rest"][1][1:] == (None, "text")
        assert type(found["pair"]) is Pair
        assert found["pair"].right == 3
    assert counts(step) == (2, 1, 0)


def test_dataclasses_and_named_tuples_go_in_and_come_out() -> None:
    @exact
    def step(state: State, named: Named) -> Any:
        X = state.X * named.scale
        return State(X, state.beta - state.step * X.sum(axis=0), state.step, state.names), Frozen(Named(named.X + 1))

    X = held(A)
    state, frozen = step(State(X, np.ones(3), names=["a"]), Named(held(A)))
    assert type(state) is State
    assert type(frozen) is Frozen
    assert type(frozen.value) is Named
    np.testing.assert_allclose(state.beta, 1 - 0.5 * 2 * A.sum(axis=0))
    assert (state.step, state.names, frozen.value.scale) == (0.5, ["a"], 2.0)
    state, frozen = step(state, frozen.value)
    assert step.stats.traces == 1
    np.testing.assert_allclose(plain(state.X), 4 * A)
    np.testing.assert_allclose(plain(frozen.value.X), A + 2)


def test_the_structure_is_part_of_the_signature() -> None:
    step = exact(lambda x: x[0] + 1)
    X = held(A)
    for traces, given in enumerate(((X,), [X], {0: X}, (X, X), (X, (X,)), Pair(X, X), {0: X, 1: 2}), 1):
        np.testing.assert_array_equal(plain(step(given)), A + 1)
        step(given)
        assert step.stats.traces == traces


def test_keys_of_other_types_are_another_structure() -> None:
    """``1 == True == 1.0``, and a function may well look at the keys."""
    step = exact(lambda named: {name: x * name for name, x in named.items()})
    x = np.arange(4)
    for name in (1, True, 1.0):
        ((key, value),) = step({name: x}).items()
        assert type(key) is type(name)
        assert value.dtype == (x * name).dtype
    assert step.stats.traces == 3


def test_arguments_by_place_by_name_and_by_default_are_one_signature() -> None:
    @exact
    def step(X: Any, beta: Any = 2.0, /, *, scale: Any = 3.0) -> Any:
        return (X * beta * scale).sum()

    @exact
    def other(X: Any, beta: Any = 2.0, scale: Any = 3.0) -> Any:
        return (X * beta * scale).sum()

    X = held(A)
    for found in (step(X), step(X, 2.0), step(X, 2.0, scale=3.0), other(scale=3.0, X=X), other(X, 2.0, 3.0), other(X)):
        assert close(found, 6 * A.sum())
    assert step.stats.traces == other.stats.traces == 1
    with pytest.raises(TypeError, match=r"beta|positional"):
        step(X, beta=2.0)
    with pytest.raises(TypeError, match="missing"):
        step()


def test_star_arguments() -> None:
    @exact
    def step(*arrays: Any, **factors: Any) -> Any:
        return {name: sum(arrays) * factor for name, factor in factors.items()}

    x, y = np.arange(3.0), np.ones(3)
    assert same(step(x, y, a=2.0, b=3), {"a": (x + y) * 2.0, "b": (x + y) * 3})
    assert same(step(y, y, a=5.0, b=4), {"a": (y + y) * 5.0, "b": (y + y) * 4})
    assert step.stats.traces == 1
    assert same(step(x, a=2.0), {"a": x * 2.0})
    assert step.stats.traces == 2


def test_methods() -> None:
    class Model:
        def __init__(self, scale: float) -> None:
            self.scale = scale

        @exact
        def loss(self, X: Any) -> Any:
            return (X * self.scale).sum()

        @staticmethod
        @exact
        def twice(X: Any) -> Any:
            return X.sum() * 2

    X, one, two = held(A), Model(1.0), Model(2.0)
    assert close(one.loss(X), A.sum())
    assert close(two.loss(X), 2 * A.sum())
    one.scale = 3.0
    assert close(one.loss(X), 3 * A.sum()), "an attribute was exchanged"
    assert close(two.loss(X), 2 * A.sum())
    assert Model.loss.stats.traces == 3
    assert close(Model.twice(X), 2 * A.sum())
    bound = exact(two.loss.func)
    assert close(bound(two, X), 2 * A.sum())
    method = exact(Plus(5.0).add)
    assert close(method(X), A.sum() + 5)


class Plus:
    def __init__(self, by: float) -> None:
        self.by = by

    def add(self, X: Any) -> Any:
        return X.sum() + self.by

    def __call__(self, X: Any) -> Any:
        return self.add(X)


def test_a_callable_object_may_change() -> None:
    plus = Plus(1.0)
    steps = exact(plus), exact(plus.add)
    X = held(A)
    for by in (1.0, 2.0, 1.0):
        plus.by = by
        for step in steps:
            assert close(step(X), A.sum() + by)


def test_forms_of_the_decorator() -> None:
    @go.compile
    def bare(X: Any) -> Any:
        """Say what it is."""
        return X

    @go.compile(static=("n",), policy=TWO, exact=True)
    def full(X: Any, n: int) -> Any:
        return X[:n]

    assert (bare.__name__, bare.__doc__) == ("bare", "Say what it is.")
    assert "bare" in repr(bare)
    assert full(np.arange(5.0), n=2).tolist() == [0, 1]
    with pytest.raises(TypeError, match=r"must be a tuple of names, such as \('n',\)"):
        go.compile(bare, static="n")
    with pytest.raises(TypeError, match="no such argument"):
        go.compile(lambda x: x, static=("n",))
    with pytest.raises(go.PolicyError):
        go.compile(lambda x: x, policy=2)


def test_static_arguments_are_traced_for_each_value() -> None:
    step = exact(lambda X, n: X[:n] * n, static=("n",))
    X = held(A)
    for n in (2, 5, 2, 5):
        np.testing.assert_array_equal(plain(step(X, n)), A[:n] * n)
    assert step.stats.traces == 2


@pytest.mark.parametrize(
    "values",
    [
        (1, 1.0, True, np.int8(1)),
        (0.0, -0.0),
        ((1, 2), (1.0, 2.0), [1, 2]),
        (np.array([1.0, 2.0]), np.array([1.0, 3.0]), np.array([1, 2])),
        (Frozen(1), Frozen(1.0)),
        ({"a": 1}, {"a": 2}, {"b": 1}),
    ],
    ids=["numbers", "zeros", "sequences", "arrays", "dataclasses", "dicts"],
)
def test_static_arguments_that_look_equal_are_told_apart(values: tuple[Any, ...]) -> None:
    step = exact(lambda X, what: (X.sum(), repr(what)), static=("what",))
    X = held(A)
    for _ in range(2):
        assert [step(X, value)[1] for value in values] == list(map(repr, values))
    assert step.stats.traces == len(values)


def test_a_static_array_that_is_changed_in_place_is_traced_anew() -> None:
    step = exact(lambda X, w: X * float(w.sum()), static=("w",))
    x, w = np.ones(3), np.zeros(1000)
    for total in (0.0, 5.0, 7.0):
        w[0] = total
        assert step(x, w).tolist() == [total] * 3


def test_static_things_that_die_do_not_come_back_as_others() -> None:
    """An ``id`` is given again to the next object in the same place."""

    class Config:
        __slots__ = ("by",)

        def __init__(self, by: float) -> None:
            self.by = by

    step = exact(lambda X, config: X * config.by)
    for by in range(20):
        assert step(np.ones(2), Config(by)).tolist() == [by, by]


def test_strings_bools_and_enumerations_are_static_anyway() -> None:
    def fn(X: Any, how: str, negate: bool, axis: Any) -> Any:
        out = X.sum(axis=axis) if how == "sum" else X.mean(axis=axis)
        return -out if negate else out

    step = exact(fn)
    X = held(A)
    for how in ("sum", "mean"):
        for negate in (False, True, np.bool_(True)):
            for axis in (None, slice(None).start):
                assert close(step(X, how, negate, axis), plain(fn(X, how, negate, axis)))
    assert step.stats.traces == 6


# -- what is counted ---------------------------------------------------------------------------------------------------


def test_the_same_arrays_are_bound_once() -> None:
    step = exact(lambda X, beta: X @ beta)
    X, Y = held(A), held(2 * A)
    for beta in np.eye(3):
        step(X, beta)
    assert counts(step) == (3, 1, 0)
    for array, expected in ((Y, 2 * A), (X, A), (X, A), (Y, 2 * A)):
        np.testing.assert_array_equal(plain(step(array, np.eye(3)[0])), expected[:, 0])
    assert counts(step) == (7, 1, 3)


def test_another_structure_is_another_trace() -> None:
    step = exact(lambda X: X * 2)
    X = held(A)
    others = [
        X,
        held(A.astype("f4")),
        held(A.astype(">f8")),
        held(A[:8]),
        held(A, chunks=(6, 3)),
        held(A, chunks=(4, 1)),
        held(A[:, 0], chunks=4),
        held(np.ma.masked_greater(A, 1), asarray=False),
        held(A.astype(int)),
        held(A > 0),
    ]
    for other in others:
        assert same(plain(step(other)), plain(other * 2))
    assert counts(step) == (len(others), len(others), 0)
    for other in others:
        assert same(plain(step(other)), plain(other * 2))
    assert counts(step) == (2 * len(others), len(others), 0)


NUMBERS = [3, 0.3, 0.3j, np.float32(0.3), np.float64(0.3), np.int8(3), np.uint64(3), np.complex64(3j), np.array(0.3, "f4")]


@pytest.mark.parametrize("dtype", ["f4", "f8", "i1", "u8", "c8", "?"])
def test_numbers_promote_as_they_do_in_numpy(dtype: str) -> None:
    x = np.arange(6).astype(dtype)

    def fn(X: Any, number: Any) -> Any:
        return X * number, number + X, (X + 1) / (number + 1), number * 2, np.multiply(X, number)

    step = exact(fn)
    for number in NUMBERS:
        for factor in (1, 2):
            scaled = number * factor
            given = np.array(scaled, number.dtype) if isinstance(number, np.ndarray) else type(number)(scaled)
            found, expected = plain(step(held(x, chunks=2), given)), plain(fn(held(x, chunks=2), given))
            for one, other in zip(found, expected, strict=True):
                assert same(one, other), (one, other)
            assert found[0].dtype == (x * given).dtype
    assert step.stats.traces == len(NUMBERS), "one for each type of number"


def test_a_python_number_does_not_widen_single_precision() -> None:
    step = exact(lambda X, number: X * number + number**2 - abs(-number))
    X = held(A.astype("f4"))
    assert step(X, 0.1).dtype == plain(step(X, 0.3)).dtype == np.float32
    assert plain(step(X, np.float64(0.1))).dtype == np.float64
    assert plain(step(X, np.array(0.1))).dtype == np.float64
    assert step.stats.traces == 3


def test_numbers_alone_are_computed_with() -> None:
    def fn(a: Any, b: Any, n: Any) -> Any:
        return (a + 1) * b - a**2 / 3, -a, abs(b), np.exp(a), np.maximum(a, b), a > b, round(a, 1), n // 2, n & 1, n << 2, ~n, a

    step = exact(fn)
    for args in ((0.5, -2.0, 7), (1.25, 3.0, 10)):
        assert same(step(*args), fn(*args))
    assert step.stats.traces == 1


def test_a_type_that_depends_on_values_is_refused() -> None:
    """``2 ** 3`` is an int and ``2 ** -3`` a float; the dtype of the result was settled before."""
    step = exact(lambda X, n: X * 2**n)
    X = held(np.arange(4), chunks=2)
    assert plain(step(X, 3)).dtype == int
    with pytest.raises(go.TraceError, match="depends on values"):
        step(X, -3)
    assert exact(lambda X, n: X * 2**n, static=("n",))(X, -3).dtype == float


def test_small_arrays_of_any_kind_are_bound_anew() -> None:
    step = exact(lambda x: x[:1])
    kinds = [
        np.arange(3.0),
        np.array(["a", "b"]),
        np.array(["2020-01-01", "2021-01-01"], "M8[s]"),
        np.array([True, False]),
        np.array([{}, None], object),
        np.array([(1, 2.0), (3, 4.0)], [("a", int), ("b", float)]),
        np.zeros((3, 0)),
        np.zeros((2, 3, 4), "f2"),
    ]
    for traces, x in enumerate(kinds, 1):
        for y in (x, x[::-1]):
            assert same(step(y), y[:1])
        assert step.stats.traces == traces


def test_numbers_with_units_and_bools_of_no_dimensions() -> None:
    step = exact(lambda X, what: what == X)
    dates = np.array(["2020-01-01", "2021-01-01"], "M8[D]")
    for what in (*dates, np.array(dates[0])):
        assert step(dates, what).tolist() == (dates == what).tolist()
    assert step(np.diff(dates), np.timedelta64(366, "D")).tolist() == [True]
    assert step(np.array([True, False]), np.array(True)).tolist() == [True, False]


# -- arrays of every kind ----------------------------------------------------------------------------------------------


def test_chunked_results_are_fed_back() -> None:
    step = exact(lambda X, by: X + by)
    X = held(A)
    for i in range(5):
        X = step(X, 1.0 + i)
        assert isinstance(X, da.Array)
        assert X.npartitions == 3
        assert all(isinstance(block.compute(scheduler="sync"), np.ndarray) for block in X.to_delayed().ravel())
    np.testing.assert_allclose(plain(X), A + 15)
    assert counts(step) == (5, 1, 4)


def test_results_may_be_arguments_constants_or_nothing() -> None:
    @exact
    def step(X: Any, x: Any, n: Any) -> Any:
        return X, x, n, 1, "text", None, X, [], {}, da.zeros(2), np.ones(2)

    X, x = held(A), np.arange(3.0)
    for factor in (1, 2):
        found = step(X, x * factor, 5 * factor)
        assert same(plain(found[0]), A)
        assert same(found[1:6], (x * factor, 5 * factor, 1, "text", None))
        assert same(plain(found[6]), A)
        assert found[7:9] == ([], {})
        assert [array.tolist() for array in found[9:]] == [[0, 0], [1, 1]]
    assert exact(lambda X: None)(X) is None
    assert exact(lambda: 3)() == 3
    assert exact(lambda: da.arange(4, chunks=2).sum())() == 6


def test_what_is_returned_belongs_to_the_caller() -> None:
    constant = np.arange(3.0)
    step = exact(lambda X, x: (X[0], x, da.from_array(constant), X.sum(axis=0)))
    X, x = held(A.copy(), chunks=12), np.arange(3.0)
    for _ in range(3):
        for found, expected in zip(step(X, x), (A[0], np.arange(3.0), np.arange(3.0), A.sum(axis=0)), strict=True):
            assert close(found, expected)
            found += 100


def test_unknown_chunks() -> None:
    def fn(X: Any) -> Any:
        Y = X[X > 0]
        return Y * 2, Y.sum()

    X = held(A[:, 0], chunks=4)
    step = agree(fn, X)
    Y = step(X)[0]
    assert np.isnan(Y.shape[0])
    again = agree(lambda Y: Y + 1, Y)
    Z = step(held(-A[:, 0], chunks=4))[0]
    assert same(plain(again(Z)), plain(Z) + 1)
    assert again.stats.traces == 1


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (0,), (1, 1), ()])
def test_empty_and_tiny_arrays(shape: tuple[int, ...]) -> None:
    agree(lambda X: (X + 1, X.sum(), X.T), held(np.ones(shape), chunks=shape))
    if shape:  # else it is a number
        agree(lambda X: (X + 1, X.sum(), X.T), np.ones(shape, "f4"))


def test_empty_chunks() -> None:
    X = held(np.arange(6.0), chunks=((2, 0, 3, 0, 1),))
    agree(lambda X: (X * 2, X.sum(), X.max()), X)


def test_one_chunk() -> None:
    big = np.random.default_rng(0).normal(size=(400, 400))
    X = held(big, chunks=-1)
    step = agree(lambda X: (X + 1, X.sum(axis=0)), X)
    whole, small = step(X)
    assert isinstance(whole, da.Array), "larger than what comes back as NumPy"
    assert isinstance(small, np.ndarray)


def test_structured_chunks() -> None:
    x = np.zeros(6, dtype=[("a", "f8"), ("b", "i4")])
    x["a"] = range(6)
    agree(lambda X: (X["a"] * 2, X[["a", "b"]], X), held(x, chunks=2))


def test_masked_chunks() -> None:
    X = held(np.ma.masked_greater(A, 0.5), asarray=False)
    agree(lambda X: (X * 2, X.sum(axis=0), da.ma.filled(X, 0)), X)


def test_sparse_chunks() -> None:
    dense = np.where(A > 0, A, 0)

    def make(array: Any) -> Any:
        return held(array).map_blocks(scipy.sparse.csr_matrix).persist(scheduler="sync")

    step = exact(lambda X, v: X.dot(v))
    for factor in (1, 2):
        for v in np.eye(3).reshape(3, 3, 1):
            found = plain(step(make(dense * factor), v))
            np.testing.assert_allclose(found, factor * dense @ v)
    assert step.stats.traces == 1
    step(held(dense), v)
    assert step.stats.traces == 2


def test_masks_pick_rows() -> None:
    X, mask = held(A), held(A[:, 0] > 0, chunks=4)
    agree(lambda X, mask: (X[mask].sum(axis=0), da.where(mask[:, None], X, 0)), X, mask)


def test_delayed_goes_in_and_comes_out() -> None:
    X = held(A)
    two = dask.delayed(2.0)

    def fn(X: Any, number: Any, factor: Any) -> Any:
        total = dask.delayed(np.sum)(X * factor)
        return total * number, dask.delayed([number, total, factor]), (X * factor).sum(), X + 1

    step = exact(fn)
    for factor in (0.5, 3.0):
        assert same(plain(step(X, two, factor)), plain(fn(X, two, factor)))
    assert step.stats.traces == 1
    assert same(plain(step(X, dask.delayed(5.0), 0.5))[0], np.sum(A * 0.5) * 5.0), "another Delayed"


def test_delayed_of_one_name_with_other_values_are_told_apart() -> None:
    step = exact(lambda number: number + 1)
    for value in range(10):
        assert step(dask.delayed(float(value), name="x")) == value + 1
        assert step(dask.delayed(operator.neg)(value, dask_key_name="y")) == 1 - value


def test_bags_come_out() -> None:
    def fn(n: Any) -> Any:
        bag = db.from_sequence(range(6), npartitions=3).map(operator.add, n)
        return bag, bag.sum(), db.from_sequence([1, 2], npartitions=1)

    step = exact(fn)
    for n in (1, 5):
        assert step(n) == (list(range(n, n + 6)), 15 + 6 * n, [1, 2])


@pytest.mark.parametrize(
    "make",
    [
        lambda: da.ones((6, 2), chunks=2),
        lambda: da.from_array(A, chunks=4),
        lambda: da.from_array(A, chunks=4, name="mine"),
        lambda: da.random.default_rng(3).normal(size=(6, 2), chunks=2),
        lambda: da.concatenate([da.from_delayed(dask.delayed(np.full)(3, i), (3,), float) for i in (1, 2)]),
        lambda: (da.ones((6, 2), chunks=2) + 1).T,
        lambda: held(A) * 2,
    ],
)
def test_lazy_arrays(make: Callable[[], Any]) -> None:
    X = make()
    agree(lambda X, n: ((X * n).sum(axis=0), X + n), X, 2.0)


def test_lazy_arrays_of_one_name_with_other_data_are_told_apart() -> None:
    step = exact(lambda X: X.sum())
    for value in range(10):
        delayed = dask.delayed(np.full)(2, float(value), dask_key_name="y")
        assert step(da.from_delayed(delayed, (2,), float, name="x")) == 2 * value
        assert step(da.from_array(np.full(4, float(value)), chunks=2, name="x")) == 4 * value


def test_equal_lazy_arrays_are_traced_once() -> None:
    step = exact(lambda X: X.sum())
    for _ in range(3):
        assert step(da.ones(4, chunks=2)) == 4
        assert step(da.from_array(A, chunks=4) + 1) == (A + 1).sum()
    assert step.stats.traces == 2


def test_one_array_twice() -> None:
    step = agree(lambda X, Y: (X * Y).sum(), held(A), held(A))
    X = held(2 * A)
    assert close(step(X, X), (4 * A * A).sum())
    assert close(step(X, held(A)), (2 * A * A).sum())


# -- nothing is stale --------------------------------------------------------------------------------------------------


def test_assignment_to_an_array_between_calls() -> None:
    """``X[...] = value`` changes the object ``X``, not what was computed from it before."""
    step = exact(lambda X: X.sum())
    X = held(A)
    assert close(step(X), A.sum())
    X[0] = 100.0
    changed = A.copy()
    changed[0] = 100
    assert close(step(X), changed.sum())
    X = X.persist(scheduler="sync")
    assert close(step(X), changed.sum())
    X[1] = 0.0
    changed[1] = 0
    assert close(step(X), changed.sum())


def test_small_arrays_and_chunks_that_change_in_place() -> None:
    step = exact(lambda X, beta: X @ beta)
    beta, data = np.ones(3), A.copy()
    blocks = [data[:6], data[6:]]
    X = da.concatenate([da.from_delayed(dask.delayed(block), block.shape, block.dtype) for block in blocks])
    X = X.persist(scheduler="sync", optimize_graph=False)
    for i in range(4):
        beta[:] = i
        np.testing.assert_allclose(plain(step(X, beta)), A @ beta)


FACTOR: Any = 1.0
WEIGHTS: Any = np.ones(3)
OPTIONS: dict[str, Any] = {"by": 1.0, "deep": [1.0]}
HELD: Any = None


def scaled(X: Any) -> Any:
    return X * FACTOR


def test_globals_that_are_exchanged_between_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    @exact
    def step(X: Any) -> Any:
        return scaled(X) @ WEIGHTS * OPTIONS["by"] * OPTIONS["deep"][0]

    module, x = sys.modules[__name__], np.ones((2, 3))

    def check() -> None:
        assert step(x).tolist() == (x * FACTOR @ WEIGHTS * OPTIONS["by"] * OPTIONS["deep"][0]).tolist()

    check()
    for factor in (2.0, 3, 2.0):
        monkeypatch.setattr(module, "FACTOR", factor)  # read by a function that the function calls
        check()
    for i in range(20):  # each in the place in memory of the one before last
        monkeypatch.setattr(module, "WEIGHTS", np.full(3, float(i)))
        check()
    WEIGHTS[1] = 100
    check()
    monkeypatch.setitem(OPTIONS, "by", 5.0)
    check()
    OPTIONS["deep"][0] = 7.0
    check()
    monkeypatch.setattr(module, "scaled", lambda X: X + 1)
    assert step(x).tolist() == ((x + 1) @ WEIGHTS * 5 * 7).tolist()
    traces = step.stats.traces
    step(x)
    assert step.stats.traces == traces


def test_large_captured_arrays_that_are_exchanged() -> None:
    weights = np.zeros(10_000)

    @exact
    def step(x: Any) -> Any:
        return x * weights.sum()

    for i in range(20):
        weights = np.full(10_000, i / 10_000)
        assert close(step(np.ones(2)), np.ones(2) * i)


def test_captured_dask_arrays_that_are_exchanged_or_assigned_to() -> None:
    W = held(A)

    @exact
    def step(n: Any) -> Any:
        return (W * n).sum()

    assert close(step(2.0), 2 * A.sum())
    W[0] = 0.0
    assert close(step(2.0), 2 * A[1:].sum())
    W = held(A * 3)
    assert close(step(2.0), 6 * A.sum())


def test_old_plans_are_forgotten_in_time() -> None:
    step = exact(lambda X, n: X * n, static=("n",))
    for n in range(100):
        step(np.ones(2), n)
    assert step.stats.traces == 100
    step(np.ones(2), 99)
    assert step.stats.traces == 100
    step(np.ones(2), 0)
    assert step.stats.traces == 101


# -- threads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [go.Policy(parallelism=1), TWO, go.Policy(parallelism=4)])
def test_several_threads_replay_one_plan_at_once(policy: go.Policy) -> None:
    """Law 5: with other data each, and none ever sees that of another."""
    step = exact(lambda X, beta, n: ((X @ beta) * n, X.sum(axis=0) + beta), policy=policy)
    arrays = [held(A * (i + 1), chunks=(1, 3)) for i in range(4)]
    step(arrays[0], A[0], 1.0)
    wrong: list[Any] = []

    def work(who: int) -> None:
        for turn in range(60):
            factor = 1 + (who + turn) % 4
            beta, n = A[turn % 12] * (who + 1), float(who * 100 + turn)
            rows, columns = step(arrays[factor - 1], beta, n)
            if not (close(plain(rows), factor * A @ beta * n) and close(columns, factor * A.sum(axis=0) + beta)):
                wrong.append((who, turn))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not wrong
    assert step.stats.calls == 241
    assert step.stats.traces == 1


def test_several_threads_trace_at_once() -> None:
    step = exact(lambda X, n: X.sum() * n, static=("n",))
    X = held(A)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: step(X, n % 5), range(40)))
    assert [close(value, A.sum() * (i % 5)) for i, value in enumerate(found)] == [True] * 40
    assert step.stats.traces == 5


def test_threads_are_kept_between_calls() -> None:
    step = exact(lambda X: X.map_blocks(name_of_thread, dtype=object), policy=TWO)
    X = held(A, chunks=(1, 3))
    names = {name for _ in range(20) for name in plain(step(X)).ravel()}
    before = threading.active_count()
    for _ in range(20):
        names |= set(plain(step(X)).ravel())
    assert threading.active_count() == before
    assert names == {threading.current_thread().name, "graphopt-1"}


def name_of_thread(block: Any) -> Any:
    return np.array([[threading.current_thread().name]], dtype=object)


def test_compiled_functions_within_chunk_functions() -> None:
    inner = exact(lambda x: (x * 2).sum(axis=1, keepdims=True), policy=TWO)

    def chunk(block: Any) -> Any:
        return plain(inner(held(block, chunks=(1, 3))))

    step = exact(lambda X: X.map_blocks(chunk, dtype=float, chunks=(2, 1)), policy=TWO)
    X = held(A, chunks=(2, 3))
    for _ in range(10):
        np.testing.assert_allclose(plain(step(X)), 2 * A.sum(axis=1, keepdims=True))
    assert inner.stats.traces == 1


def test_a_compiled_function_calls_another() -> None:
    inner = exact(lambda X, n: (X * n).sum(axis=0))
    step = exact(lambda X, n: inner(X, n) * 2 + inner(X, 1.0))
    X = held(A)
    for n in (1.0, 2.0):
        assert close(step(X, n), A.sum(axis=0) * (2 * n + 1))
    assert (step.stats.traces, inner.stats.calls) == (1, 0)


@pytest.fixture
def several_blas_threads() -> Iterator[None]:
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        yield


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.usefixtures("several_blas_threads")
def test_blas_is_held_to_one_thread_and_given_back() -> None:
    seen: list[set[int]] = []

    def look(block: Any) -> Any:
        seen.append(blas_threads())
        if block[0, 0] > 100:
            raise ValueError("no")
        return block

    step = exact(lambda X: X.map_blocks(look, dtype=float, meta=np.empty((0, 0))), policy=TWO)
    before = blas_threads()
    X = held(A, chunks=(1, 3))
    step(X)
    assert seen
    assert all(found == {1} for found in seen)
    assert blas_threads() == before == {2}
    with pytest.raises(ValueError, match="no"):
        step(held(A + 1000, chunks=(1, 3)))
    assert blas_threads() == before
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: step(X), range(40)))
    assert all(found == {1} for found in seen)
    assert blas_threads() == before


# -- errors and Ctrl-C -------------------------------------------------------------------------------------------------


def picky(block: Any) -> Any:
    if block.size and block.max() > 50:
        raise ValueError("too large")
    return block


@pytest.mark.parametrize("parallelism", [1, 2])
def test_an_error_names_the_users_key_and_the_step_works_again(parallelism: int) -> None:
    def fn(X: Any) -> Any:
        return (X + 1).map_blocks(picky, dtype=float).sum()

    step = exact(fn, policy=go.Policy(parallelism=parallelism))
    good = held(A, chunks=(1, 3))
    bad = A.copy()
    bad[7] = 99
    assert close(step(good), (A + 1).sum())
    for _ in range(10):
        with pytest.raises(ValueError, match="too large") as caught:
            step(held(bad, chunks=(1, 3)))
        (note,) = caught.value.__notes__
        assert "picky" in note
        assert "while computing key" in note
        assert ", 7, 0)" in note
        assert "picky" in [frame.name for frame in caught.traceback]
        assert close(step(good), (A + 1).sum())
    assert step.stats.traces == 1


def test_an_error_while_tracing_says_that_it_was() -> None:
    step = exact(lambda X, n: da.repeat(X, [n], axis=0))
    with pytest.raises(NotImplementedError, match="integer") as caught:
        step(held(A), 2)
    assert "static=" in caught.value.__notes__[0]
    assert (step.stats.traces, step.stats.calls) == (0, 0)


@pytest.mark.parametrize("lane", [0, 5, 11])
def test_ctrl_c_in_one_lane_stops_all(lane: int) -> None:
    """The others finish the lane they are in; when the call returns, nothing runs any more."""
    armed, started = [False], []

    def slow(block: Any) -> Any:
        if armed[0]:
            started.append(block[0, 0])
            if block[0, 0] == lane:
                raise KeyboardInterrupt
            time.sleep(0.002)
        return block

    step = exact(lambda X: X.map_blocks(slow, dtype=float, meta=np.empty((0, 0))), policy=TWO)
    X = held(np.repeat(np.arange(12.0), 3).reshape(12, 3), chunks=(1, 3))
    for _ in range(8):
        step(X)
    for _ in range(4):
        armed[0] = True
        with pytest.raises(KeyboardInterrupt):
            step(X)
        count = len(started)
        time.sleep(0.01)
        assert len(started) == count, "a lane ran after the call had returned"
        assert count < 12 or lane == 11
        armed[0] = False
        started.clear()
        assert same(plain(step(X)), plain(X))


def test_ctrl_c_while_waiting_for_a_helper_waits_for_its_lane() -> None:
    """A signal reaches the main thread, which may have done its part."""
    running, stop = [0], [False]

    def helper() -> None:
        running[0] += 1
        while not stop[0]:
            time.sleep(0.001)
        running[0] -= 1

    team = Team(2)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        team.run([lambda: None, helper], lambda: operator.setitem(stop, 0, True))
    assert running == [0]
    stop[0] = False
    done: list[int] = []
    team.run([lambda: done.append(0), lambda: done.append(1)])
    assert sorted(done) == [0, 1]


def test_ctrl_c_from_outside(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time
            import dask.array as da, numpy as np
            import graphopt as go

            ran = []

            def slow(block):
                if block.size:
                    ran.append(1)
                    time.sleep(0.02)
                return block

            @go.compile(exact=True, policy=go.Policy(parallelism=2))
            def step(X):
                return X.map_blocks(slow, dtype=float)

            X = da.ones((1000, 2), chunks=(1, 2)).persist()
            print("ready", flush=True)
            try:
                while True:
                    step(X)
            except KeyboardInterrupt:
                count = len(ran)
                time.sleep(0.1)
                print("stopped", len(ran) - count, flush=True)
            """
        )
    )
    job = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        time.sleep(0.5)
        job.send_signal(signal.SIGINT)
        out, err = job.communicate(timeout=20)
    finally:
        job.kill()
        job.wait()
    assert out == "stopped 0\n", err
    assert job.returncode == 0, err


# -- memory ------------------------------------------------------------------------------------------------------------


def blocks_of(X: Any) -> list[Any]:
    """Return weak references to the blocks of an array that is held."""
    return [weakref.ref(block) for block in dask.get(dict(X.dask), list(dask.core.flatten(X.__dask_keys__())))]


def alive(refs: list[Any]) -> int:
    gc.collect()
    return sum(ref() is not None for ref in refs)


def fresh(factor: float = 1.0, chunks: Any = (4, 3)) -> Any:
    return held(A, chunks=chunks).map_blocks(operator.mul, factor).persist(scheduler="sync")


def test_no_chunk_is_kept_once_the_caller_has_let_go() -> None:
    step = exact(lambda X, beta: (X * 2, X @ beta), policy=TWO)
    X, beta = fresh(), np.ones(3)
    found = step(X, beta)
    found = step(X, beta)
    refs = [*blocks_of(X), *blocks_of(found[0]), *map(weakref.ref, (found[1], beta))]
    assert alive(refs) == len(refs)
    del found
    assert alive(refs) == 4
    del X, beta
    assert alive(refs) == 0
    assert plain(step(fresh(), np.ones(3))[0]).shape == (12, 3)
    assert step.stats.traces == 1


def test_no_chunk_is_kept_where_arrays_of_several_kinds_alternate() -> None:
    step = exact(lambda X: X.sum())
    arrays = [fresh(), fresh(2.0, (6, 3)), fresh(3.0)]
    refs = [ref for X in arrays for ref in blocks_of(X)]
    for X in arrays:
        step(X)
    del X
    arrays.clear()
    assert alive(refs) == 0


def test_no_chunk_is_kept_after_an_error() -> None:
    step = exact(lambda X: (X + 1).map_blocks(picky, dtype=float), policy=TWO)
    X = fresh(1000.0, (1, 3))
    refs = blocks_of(X)
    with pytest.raises(ValueError, match="too large"):
        step(X)
    del X
    assert alive(refs) == 0


def test_values_are_dropped_after_their_last_use() -> None:
    made: list[Any] = []
    seen: list[int] = []

    def first(block: Any) -> Any:
        out = block + 1
        made.append(weakref.ref(out))
        return out

    def last(block: Any) -> Any:
        if block.size:
            seen.append(sum(ref() is not None for ref in made))
        return block

    def fn(X: Any) -> Any:
        Y = X.map_blocks(first, dtype=float, meta=np.empty((0, 0)))
        total = (Y - Y.sum(axis=0)).map_blocks(np.exp, dtype=float, meta=np.empty((0, 0)))  # reads Y for the last time
        return (total / total.sum(axis=0)).map_blocks(last, dtype=float, meta=np.empty((0, 0)))

    step = exact(fn, policy=go.Policy(parallelism=1))
    X = held(A)
    step(X)
    made.clear()
    seen.clear()
    step(X)
    assert len(made) == 3
    assert seen == [0, 0, 0]


# -- pickling ----------------------------------------------------------------------------------------------------------


@go.compile(exact=True)
def by_name(X: Any) -> Any:
    return X.sum()


def test_compiled_functions_pickle_as_functions_do() -> None:
    assert pickle.loads(pickle.dumps(by_name)) is by_name
    factor = 3.0
    step = exact(lambda X, n: (X * n * factor).sum(), static=("n",), policy=TWO)
    X = held(A)
    step(X, 2)
    copied = cloudpickle.loads(cloudpickle.dumps(step))
    assert close(copied(X, 2), 6 * A.sum())
    assert (copied.stats.calls, step.stats.calls) == (1, 1)
    assert copied.plan(X, 2).tasks == step.plan(X, 2).tasks


def test_a_plan_is_printed() -> None:
    step = exact(lambda X, n: (X * n).sum(axis=0))
    plan = step.plan(held(A), 2.0)
    assert step.stats.calls == 0
    assert "3 blocks and 1 number to bind" in str(plan)
    assert "def " in plan.source
    assert "level 0" in plan.explain()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile(plan.source, "plan", "exec")


def test_numba_is_not_loaded_not_even_to_compile_loops() -> None:
    """It takes more memory than most iterations do: another process compiles."""
    code = """if True:
        import sys
        import dask.array as da
        import graphopt as go
        x = da.ones(4, chunks=2).persist(scheduler="sync")
        with go.optimized():
            (x + 1).sum().compute(scheduler="threads")
        assert "numba" not in sys.modules
        step = go.compile(lambda x: (x + 1).sum())
        step(x)
        assert step.plan(x).observed.loops
        assert "numba" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_value_that_changes_its_shape_from_call_to_call_is_no_trouble_to_loops() -> None:
    """What a Delayed task returns dask cannot know: here one number where it was promised a row."""
    X = held(A)
    columns = X.shape[1]
    whole = np.exp(X.compute())
    for_each_call = [np.arange(columns) + 1.0, np.arange(columns) + 2.0, np.array([5.0]), np.arange(columns) + 3.0]
    rest = iter(for_each_call)

    row = da.from_delayed(dask.delayed(lambda: next(rest))(), (columns,), float)
    step = go.compile(lambda X: (np.exp(X) * row).sum(axis=0))
    for given in for_each_call:
        np.testing.assert_allclose(step(X), (whole * given).sum(axis=0))
    assert step.plan(X).observed.loops


def test_large_captured_containers_cost_nothing_at_each_call_and_are_told_apart() -> None:
    X = held(A)
    table = list(range(100_000))

    def step(X: Any) -> Any:
        return X * table[7]

    compiled = go.compile(step)
    assert np.array_equal(compiled(X).compute(), A * 7)
    looked: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint_module, "_Same", lambda value: looked.append(len(value)) or id(value))
        assert len(str(fingerprint_module.fingerprint(table))) < 100
    assert looked == [100_000]
    table = [value + 1 for value in table]
    assert np.array_equal(compiled(X).compute(), A * 8)
    assert compiled.stats.traces == 2
