"""``optimized(replay=True)``: graphs of equal outline run by one schedule, with the same results bit for bit; and no others do.

Reusing a schedule where it does not fit would be a wrong answer without a word, so the longer half is about what must not be
taken for the same.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from array_twins import arrays
from hypothesis import given
from hypothesis import strategies as st
from twins import examples

import graphopt as go
from graphopt.pipeline import Optimizer
from graphopt.replay import Replayer

pytestmark = pytest.mark.timeout(60)

RNG = np.random.default_rng(7)
A, V = RNG.random((24, 6)), RNG.random(24)


def matrix(data: np.ndarray = A, chunks: Any = (5, 6)) -> Any:
    return da.from_array(data, chunks=chunks)


def compute(*collections: Any, **options: Any) -> list[Any]:
    return [np.asarray(value) for value in dask.compute(*collections, scheduler="threads", **options)]


def cache() -> Any:
    hook = dask.config.get("array_optimize")
    assert isinstance(hook, Replayer)
    return hook.cache


def same(one: list[Any], other: list[Any]) -> bool:
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


Step = Callable[[Any, Any, Any, float], Any]

STEPS: dict[str, Step] = {
    "gradient": lambda X, y, b, c: (X.T.dot(1 / (1 + da.exp(-X.dot(b))) - y), (X**2).sum() * c),
    "elementwise": lambda X, y, b, c: (da.where(c < X, X * b, X - b),),
    "reductions": lambda X, y, b, c: (X.mean(axis=0) + b, X.std(), X.max(axis=1), da.linalg.norm(y - c)),
    "slices": lambda X, y, b, c: (X[2:19:3] * c, X[:, ::2] @ b[::2]),
    "overlap": lambda X, y, b, c: (y.map_overlap(smooth, depth=1, boundary=0.0, dtype=float) * c,),
    "rechunk": lambda X, y, b, c: (X.rechunk((7, 4)) @ b, X.T.rechunk(3)),
    "map_blocks": lambda X, y, b, c: (X.map_blocks(lambda block, by: block * by, c, dtype=float),),
    "several": lambda X, y, b, c: (y.sum(), y.mean(), y * c, b.sum() + y),
}


def smooth(block: Any) -> Any:
    return np.convolve(block, [0.25, 0.5, 0.25], mode="same")


@pytest.mark.parametrize("name", STEPS)
def test_iterations_with_new_small_arrays_and_numbers_share_one_schedule(name: str) -> None:
    X, y = matrix().persist(), da.from_array(V, chunks=5).persist()
    with go.optimized(replay=True, strict=True):
        for k in range(4):
            b, c = RNG.random(6), float(RNG.random())
            found = compute(*STEPS[name](X, y, b, c))
            with dask.config.set(array_optimize=None):
                assert same(found, compute(*STEPS[name](X, y, b, c))), k
        assert (cache().made, cache().used) == (1, 3)


def test_other_chunked_data_of_the_same_structure_is_used_not_the_old() -> None:
    with go.optimized(replay=True, strict=True):
        for k in range(4):
            x = matrix(A + k).persist()
            assert same(compute(x.sum(axis=0), x + 1), compute(x.sum(axis=0), x + 1))
            assert np.array_equal(compute(x + 1)[0], A + k + 1)
        assert cache().made == 3  # of persist, of the pair, and of x + 1 alone


@given(st.integers(0, 2**32 - 1))
@examples(60)
def test_any_program_gives_what_dask_gives(seed: int) -> None:
    made = arrays(seed, 8)
    theirs = compute(*made.lazy)
    with go.optimized(replay=True, strict=True):
        for _ in range(2):
            assert same(compute(*made.lazy), theirs)
        assert cache().made <= 1


DIFFERENT: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "function": (lambda: da.sin(matrix()), lambda: da.cos(matrix())),
    "axis": (lambda: matrix(chunks=3).sum(axis=0), lambda: matrix(chunks=3).sum(axis=1)),
    "slice": (lambda: matrix()[1:], lambda: matrix()[2:]),
    "step": (lambda: matrix()[::2], lambda: matrix()[::3]),
    "integer": (lambda: matrix() ** 2, lambda: matrix() ** 3),
    "type of a number": (lambda: matrix().astype("f4") * 2.0, lambda: matrix().astype("f4") * np.float64(2.0)),
    "dtype": (lambda: matrix() + 1, lambda: matrix(A.astype("f4")) + 1),
    "chunks": (lambda: matrix() + 1, lambda: matrix(chunks=(8, 6)) + 1),
    "order of operands": (lambda: matrix() - V[:6], lambda: V[:6] - matrix()),
    "which is read twice": (lambda: _pair(0), lambda: _pair(1)),
    "what a lambda captures": (lambda: _captured(1), lambda: _captured(2)),
    "code of a lambda": (lambda: matrix().map_blocks(lambda b: b + 1), lambda: matrix().map_blocks(lambda b: b + 2)),
    "default of a lambda": (
        lambda: matrix().map_blocks(lambda b, k=1: b + k),
        lambda: matrix().map_blocks(lambda b, k=2: b + k),
    ),
    "keyword": (lambda: matrix().map_blocks(np.clip, a_min=0, a_max=1), lambda: matrix().map_blocks(np.clip, a_min=0, a_max=2)),
    "text": (lambda: da.einsum("ij->i", matrix()), lambda: da.einsum("ij->j", matrix())),
    "negative zero as an integer": (lambda: da.maximum(matrix(), 0), lambda: da.maximum(matrix(), -1)),
}


def _pair(which: int) -> Any:
    x, y = matrix(), matrix(A * 2)
    return (x, y)[which] * 2 + x + y


def _captured(k: int) -> Any:
    return matrix().map_blocks(lambda block: block + k)


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_is_never_taken_for_the_same(what: str) -> None:
    with go.optimized(replay=True, strict=True):
        for make in DIFFERENT[what] * 2:
            with dask.config.set(array_optimize=None):
                theirs = compute(make())
            assert same(compute(make()), theirs)


def test_results_asked_for_in_another_order_are_not_mixed_up() -> None:
    x = matrix()
    with go.optimized(replay=True, strict=True):
        a, b = compute(x.sum(), x.max())
        c, d = compute(x.max(), x.sum())
        assert (a, b) == (d, c)
        assert a != b


def test_a_result_asked_for_twice_comes_twice() -> None:
    with go.optimized(replay=True, strict=True):
        for _ in range(2):
            s = matrix().sum()
            a, b = compute(s, s)
            assert a == b == s.compute(scheduler="sync")


def test_new_draws_are_new() -> None:
    rng = da.random.default_rng(3)
    with go.optimized(replay=True, strict=True):
        found = [compute(rng.random((20, 2), chunks=5).sum())[0] for _ in range(3)]
    rng = da.random.default_rng(3)
    assert found == [compute(rng.random((20, 2), chunks=5).sum())[0] for _ in range(3)]
    assert len(set(map(float, found))) == 3


def test_in_place_changes_of_an_argument_show() -> None:
    b = np.ones(6)
    x = matrix().persist()
    with go.optimized(replay=True, strict=True):
        first = compute(x.dot(b))[0]
        b *= 2
        assert np.array_equal(compute(x.dot(b))[0], 2 * first)


def test_delayed_bags_and_persisted_chunks() -> None:
    with go.optimized(replay=True, strict=True):
        for k in (1.0, 2.0):
            value = dask.delayed(np.add)(dask.delayed(np.exp)(k), k)
            assert value.compute(scheduler="threads") == np.exp(k) + k
            bag = db.from_sequence([1, 2, 3], npartitions=2).map(lambda v, by: v * by, by=k)
            assert bag.compute(scheduler="threads") == [k, 2 * k, 3 * k]
            y = (matrix() * k).persist(scheduler="threads")
            assert np.array_equal(y.compute(scheduler="sync"), A * k)


def test_annotated_graphs_are_optimised_one_by_one() -> None:
    with go.optimized(replay=True, strict=True):
        for _ in range(2):
            with dask.annotate(priority=1):
                x = matrix() + 1
            compute(x)
        assert cache().made == 0


def test_graphs_that_are_always_new_are_not_scheduled_for_ever() -> None:
    x = matrix().persist()
    with go.optimized(replay=True, strict=True):
        for k in range(12):
            assert np.array_equal(compute(x**k)[0], compute(x**k, optimize_graph=False)[0])
        assert cache().made == 8


def test_the_cache_is_bounded() -> None:
    x = matrix().persist()
    with go.optimized(replay=True, strict=True):
        compute(x + 1)
        compute(x + 1)
        for k in range(40):
            compute(x**k)
        assert len(cache().entries) == 32


def test_errors_name_the_key_and_later_runs_work() -> None:
    def fails(block: Any, by: float) -> Any:
        if by > 1:
            raise ValueError("too large")
        return block * by

    x = matrix().persist()
    with go.optimized(replay=True, strict=True):
        for by in (1.0, 2.0, 0.5):
            y = x.map_blocks(fails, by, dtype=float)
            if by > 1:
                with pytest.raises(ValueError, match="too large") as caught:
                    compute(y)
                assert any("fails" in note for note in caught.value.__notes__)
            else:
                assert np.array_equal(compute(y)[0], A * by)
        assert cache().made == 1


def test_other_schedulers_and_contexts() -> None:
    x = matrix()
    with go.optimized(replay=True, strict=True):
        for scheduler in ("sync", "processes", "threads"):
            assert np.array_equal((x + 1).compute(scheduler=scheduler), A + 1)
        with go.optimized(strict=True):
            assert not isinstance(dask.config.get("array_optimize"), Replayer)
        assert isinstance(dask.config.get("array_optimize"), Replayer)
        with dask.config.set({"optimization.fuse.active": False}):
            assert np.array_equal(compute(x + 1)[0], A + 1)
    with go.optimized(replay=True, strict=True):
        assert cache().made == 0, "each context has schedules of its own"


def test_it_travels_as_a_plain_optimizer() -> None:
    with go.optimized(replay=True, parallelism=3):
        hook = dask.config.get("array_optimize")
    again = pickle.loads(pickle.dumps(hook))
    assert type(again) is Optimizer
    assert again.policy == hook.policy
    assert hash(hook) == hash(hook)


def test_several_threads_compute_at_once() -> None:
    x = matrix().persist()
    wrong: list[Any] = []

    def loop(k: int) -> None:
        for i in range(20):
            found = (x * float(k) + float(i)).compute(scheduler="threads")
            if not np.array_equal(found, A * k + i):
                wrong.append((k, i))

    with go.optimized(replay=True, strict=True):
        threads = [threading.Thread(target=loop, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
