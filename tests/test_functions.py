"""What may stand for what, what is pure, what is a lock, what reads well as a literal."""

from __future__ import annotations

import functools
import operator
import threading
import warnings
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
import scipy.special
from dask.array import chunk
from dask.utils import SerializableLock
from hypothesis import given
from hypothesis import strategies as st
from oracle import same
from toolz.functoolz import Compose
from twins import examples

from graphopt import functions
from graphopt.functions import bindable, is_fresh, is_lock, is_pure, is_simple, token, writes


class Thing:
    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing)

    def __hash__(self) -> int:
        return 1

    def method(self) -> int:
        return self.value


def user(x: Any) -> Any:
    return x


def name_of(value: Any) -> str:
    """Name a parameter of a test without its address: the names must be the same in all processes that run tests."""
    text = str(getattr(value, "__name__", value))
    return text if "0x" not in text else type(value).__name__


# -- tokens ------------------------------------------------------------------------------------------------------------

DIFFERENT = [
    *(1, 1.0, True, "1", b"1", 1j, np.int64(1), np.float64(1), None),
    *(0, 0.0, -0.0, False, 0j, -0j, complex(-0.0, 0.0), ""),
    *(float("nan"), np.copysign(float("nan"), -1).item(), float("inf")),
    *([], (), {}, [1], (1,), [1.0], (True,), [[1]], ((1,),), {"a": 1}, {"a": 1.0}, {"b": 1}),
    *(slice(1), slice(1.0), slice(0, 1), slice(None, None, 1), slice(True)),
    *(np.dtype("f8"), np.dtype("f4"), np.dtype(">f8"), np.dtype("f8", metadata={"a": 1}), np.dtype("f8", metadata={"a": 1})),
    *(user, functools.partial(user), functools.partial(user, 1), functools.partial(user, 1.0), functools.partial(user, x=1)),
    *(Thing(1), Thing(1), Thing(1).method, np.zeros(2), np.zeros(2), {1}, frozenset({1})),
    *(namedtuple("P", "a")(1), OrderedDict(a=1)),
]


def test_different_things_have_different_tokens() -> None:
    tokens = [token(value) for value in DIFFERENT]
    for i, one in enumerate(tokens):
        for j, other in enumerate(tokens):
            assert (one == other) == (i == j), f"{DIFFERENT[i]!r} and {DIFFERENT[j]!r}"
    assert len(set(tokens)) == len(tokens), "and they hash"


def test_equal_things_have_equal_tokens() -> None:
    for make in (
        lambda: (1, "a", None, slice(1, 2), [2.5, (True,)]),
        lambda: {"a": [1], "b": {"c": (2,)}},
        lambda: functools.partial(functools.partial(user, 1), x=(2, slice(None))),
        lambda: Compose((functools.partial(np.sum, axis=0), np.exp)),
        lambda: complex(1, -0.0),
        lambda: np.dtype("f8"),
    ):
        assert token(make()) == token(make())
    thing = Thing(1)
    assert token(thing.method) == token(thing.method), "bound anew each time, to the same object"
    assert token(thing) == token(thing)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0, 1.5]) | st.sampled_from([0j, -0j, 1 + 0j])
    | st.sampled_from(["", "a", "1"]) | st.sampled_from([b"", b"a"]),
    lambda inner: st.lists(inner, max_size=2) | st.tuples(inner) | st.builds(slice, inner, inner)
    | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


def alike(a: Any, b: Any) -> bool:
    if isinstance(a, slice) and isinstance(b, slice):
        return all(map(alike, (a.start, a.stop, a.step), (b.start, b.stop, b.step)))
    if isinstance(a, (list, tuple)) and type(a) is type(b):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(alike(a[key], b[key]) for key in a)
    return same(a, b)


@given(values, values)
@examples(400)
def test_tokens_are_equal_exactly_if_the_values_are_the_same(one: Any, other: Any) -> None:
    assert (token(one) == token(other)) == alike(one, other)


# -- purity ------------------------------------------------------------------------------------------------------------

FRESH = [
    *(np.exp, np.add, np.sum, np.concatenate, np.where, np.dot, operator.add, operator.neg, operator.matmul),
    *(functools.partial(np.sum, axis=0), Compose((np.sum, np.transpose))),
]
VIEWS = [
    *(operator.getitem, operator.pos, np.transpose, np.reshape, np.einsum, np.diff, np.histogram, np.broadcast_to),
    *(chunk.getitem, chunk.astype, Compose((np.transpose, np.exp)), functools.partial(np.reshape, newshape=3)),
]
IMPURE = [
    *(user, lambda x: x, print, list, sum, max, open, [].append, operator.methodcaller("sort"), Thing(1), Thing(1).method),
    *(np.random.default_rng(0).normal, np.vectorize(user), np.frompyfunc(user, 1, 1), scipy.special.expit),
    *(functools.partial(user), Compose((np.sum, user)), Compose((user, np.sum))),
    *(operator.iadd, operator.setitem, np.copyto, np.put),
]


@pytest.mark.parametrize("func", FRESH, ids=name_of)
def test_fresh_functions(func: Any) -> None:
    assert is_pure(func)
    assert is_fresh(func)


@pytest.mark.parametrize("func", VIEWS, ids=name_of)
def test_functions_whose_result_may_be_a_view(func: Any) -> None:
    assert is_pure(func)
    assert not is_fresh(func)


@pytest.mark.parametrize("func", IMPURE, ids=name_of)
def test_functions_that_nobody_vouches_for(func: Any) -> None:
    assert not is_pure(func)
    assert not is_fresh(func)


ARRAYS = [np.arange(1.0, 13).reshape(3, 4), np.arange(1.0, 10).reshape(3, 3), np.ones((1, 1)), np.arange(4.0), np.ones((0, 3))]
MORE: dict[str, tuple[Any, ...]] = {
    "repeat": (1,),
    "roll": (0,),
    "tile": (1,),
    "take": ([0],),
    "clip": (0, 99),
    "round": (0,),
    "searchsorted": (1,),
    "where": (1, 2),
}


def results_of(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Call a function; no results where it does not take these arguments."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            results = func(*args)
        except Exception:  # whatever a function has against these arguments
            return ()
    return results if isinstance(results, tuple) else (results,)


def test_what_is_called_fresh_shares_no_memory_with_its_arguments() -> None:
    """Tried on many arrays; this is what lets two tasks share one result."""
    tried = 0
    for func in functions._FRESH_NUMPY | functions._FRESH_OPERATORS:
        for a in ARRAYS:
            for args in ((a, *MORE.get(func.__name__, ())), (a, a), ([a, a],), ([a],), (a, 0), (a, a.T)):
                before = a.tobytes()
                for result in results_of(func, args):
                    tried += 1
                    assert not (isinstance(result, np.ndarray) and np.shares_memory(result, a)), f"{func}{args}"
                assert a.tobytes() == before, f"{func} wrote to its argument"
    assert tried > 300


@pytest.mark.parametrize(
    ("func", "places", "names", "answer"),
    [
        (np.add, 2, (), False),
        (np.add, 3, (), True),
        (np.add, 2, ("out",), True),
        (np.exp, 1, ("where",), False),
        (np.exp, 2, (), True),
        (np.sum, 3, ("keepdims",), False),
        (np.sum, 4, (), True),
        (np.dot, 2, (), False),
        (np.dot, 3, (), True),
        (np.concatenate, 2, (), False),
        (np.concatenate, 3, (), True),
        (np.median, 1, ("overwrite_input",), True),
        (np.where, 3, (), False),
        (np.einsum, 4, (), False),
        (operator.add, 2, (), False),
        (functools.partial(np.add, 1), 1, (), False),
        (functools.partial(np.add, 1), 2, (), True),
        (functools.partial(np.exp, out=1), 1, (), True),
        (Compose((np.sum, np.exp)), 1, (), False),
        (Compose((functools.partial(np.sum, out=1), np.exp)), 1, (), True),
        (Compose((np.sum, np.exp)), 2, (), True),
    ],
    ids=name_of,
)
def test_calls_that_write_to_what_they_are_given(func: Any, places: int, names: tuple[str, ...], answer: bool) -> None:
    assert writes(func, places, names) is answer


# -- locks and literals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lock",
    [threading.Lock(), threading.RLock(), threading.Condition(), SerializableLock()],
    ids=lambda lock: type(lock).__name__,
)
def test_locks(lock: Any) -> None:
    assert is_lock(lock)


def test_other_literals_are_no_locks() -> None:
    assert not any(map(is_lock, [1, "acquire", None, np.zeros(2), Thing(1), [threading.Lock()], {"acquire": 1}]))


@pytest.mark.parametrize(
    "value",
    [1, -5, 2**63, True, None, 0.5, -0.0, "text", slice(1, None, -1), (1, (2.5, "a")), [1, [None]], (), []],
)
def test_simple_literals_print_as_themselves(value: Any) -> None:
    assert is_simple(value)
    assert token(eval(repr(value))) == token(value)


@pytest.mark.parametrize(
    "value",
    [
        *(float("nan"), float("inf"), 2**65, 10**5000, "x" * 41, tuple(range(9)), [2**65], (float("nan"),), slice(10**5000)),
        *(1j, b"x", {1}, {"a": 1}, np.float64(1), np.int64(1), np.zeros(1), user, namedtuple("P", "a")(1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_literals_are_not_simple(value: Any) -> None:
    assert not is_simple(value)


def test_what_may_be_bound_to_a_name() -> None:
    assert all(map(bindable, [user, int, np.dtype("f8"), np.exp, functools.partial(user)]))
    assert not any(map(bindable, [1, "int", np.zeros(1), None]))


def _adder(by: Any) -> Any:
    def add_it(x: Any) -> Any:
        return x + by

    return add_it


def test_functions_written_in_place_are_alike_by_code_and_by_what_they_capture() -> None:
    assert token(_adder(1)) == token(_adder(1))
    assert token(_adder(1)) != token(_adder(1.0))
    assert token(lambda x: x + 1) != token(lambda x: x + 2)
    by_name = [lambda x, *, k=k: x + k for k in (1, 1, 2)]
    assert token(by_name[0]) == token(by_name[1]) != token(by_name[2])
    big = np.arange(3)
    assert token(_adder(big)) == token(_adder(big)), "an array by identity, whatever it says to =="
    assert token(_adder(big)) != token(_adder(big.copy()))
    named = _adder(1)
    named.note = "its own"
    assert token(named) != token(_adder(1))

    def itself(n: int) -> int:
        return n and itself(n - 1)

    assert token(itself) == token(itself)

    def even(n: int) -> Any:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> Any:
        return n != 0 and even(n - 1)

    assert token(even) == token(even) != token(odd)
