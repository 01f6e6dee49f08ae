"""What could surprise whoever compiles a function, silent surprises first.

A function is traced with stand-ins for arrays and numbers. Whatever it does with them must come out as dask would have it, or
be an error that says what to do instead; never a wrong answer. The length of this file is that of a list.
"""

from __future__ import annotations

import functools
import math
import random
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from dask import delayed
from dask.utils import SerializableLock
from oracle import close, same
from seen import run_here

import graphopt as go

pytestmark = pytest.mark.timeout(60)

A = np.random.default_rng(0).normal(size=(8, 3))
B = np.array([1.0, 2.0, 3.0])


def exact(fn: Callable[..., Any], **options: Any) -> Any:
    return go.compile(fn, exact=True, **options)


def held(array: Any = A, chunks: Any = (3, 3)) -> Any:
    return da.from_array(array, chunks=chunks).persist(scheduler="sync")


def plain(value: Any) -> Any:
    return dask.compute(value, scheduler="sync", optimize_graph=False)[0]


def times(block: Any, factor: Any) -> Any:
    return block * factor


# -- silent: a stand-in that gets where nobody can put the value in its place -------------------------------------------


@pytest.mark.parametrize(
    "fn",
    [
        lambda X, a, b: X.map_blocks(lambda block: block * a),
        lambda X, a, b: X.map_blocks(lambda block: block * (a + 1)),
        lambda X, a, b: X.map_blocks(lambda block, by=a: block * by),
        lambda X, a, b: X.map_blocks(functools.partial(times, factor=a)),
        lambda X, a, b: X.map_blocks(lambda block: block * b, dtype=float),
        lambda X, a, b: X.map_blocks(lambda block: block * b, dtype=float, meta=np.empty((0, 0))),
        lambda X, a, b: X.map_blocks(functools.partial(times, factor=b * 2), dtype=float, meta=np.empty((0, 0))),
        lambda X, a, b: X.map_overlap(lambda block: block * a, depth=1),
        lambda X, a, b: da.reduction(X, lambda x, axis, keepdims: x.sum(axis, keepdims=keepdims) * a, np.sum, dtype=float),
        lambda X, a, b: X.map_blocks((lambda f: lambda block: f(block))(lambda block: block * a)),
    ],
)
def test_chunk_functions_that_capture_arguments_are_refused(fn: Any) -> None:
    with pytest.raises(go.TraceError, match=r"x\.map_blocks\(f, value\)"):
        exact(fn)(held(), 0.5, B)


@pytest.mark.parametrize(
    "fn",
    [
        lambda X, a, b: X.map_blocks(times, a),
        lambda X, a, b: X.map_blocks(times, factor=a),
        lambda X, a, b: X.map_blocks(times, b, dtype=float),
        lambda X, a, b: X.map_blocks(lambda x, options: x * options["by"][0], {"by": [a, 1]}, dtype=float),
        lambda X, a, b: X.map_blocks(lambda x, options=None: x * options["by"][0], options={"by": [a, 1]}, dtype=float),
        lambda X, a, b: X.map_blocks(lambda x, options: x * options[1], (1, a + 1), dtype=float),
        lambda X, a, b: da.blockwise(times, "ij", X, "ij", a, None, dtype=float),
        lambda X, a, b: delayed(times)(X, a),
        lambda X, a, b: delayed(sum)([a, X.sum(), b[0]]),
        lambda X, a, b: delayed({"a": [a, b], "x": X}),
        lambda X, a, b: delayed(a) + 1,
        lambda X, a, b: da.from_delayed(delayed(np.full)(3, a), (3,), float),
    ],
)
def test_chunk_functions_are_passed_arguments(fn: Any) -> None:
    step, X = exact(fn), held()
    for a, b in ((0.5, B), (3.0, B * 2)):
        assert same(plain(step(X, a, b)), plain(fn(X, a, b)))
    assert step.stats.traces == 1


def test_a_stand_in_that_escapes_is_of_no_use_later() -> None:
    kept: list[Any] = []
    step = exact(lambda X, a: (kept.append(a), X * a)[1])
    assert same(plain(step(held(), 2.0)), A * 2)
    with pytest.raises(go.TraceError, match="after the function was traced"):
        kept[0] + 1
    with pytest.raises(go.TraceError, match="after the function was traced"):
        np.arange(3) * kept[0]


# -- silent: what looks at a value and has an answer anyway ---------------------------------------------------------------


@pytest.mark.parametrize(
    "fn",
    [
        lambda X, a, n, b: X * (1 if a in {0.5} else 2),
        lambda X, a, n, b: X * {0.5: 3}.get(a, 1),
        lambda X, a, n, b: X * {a: 3}[a],
        lambda X, a, n, b: X * functools.lru_cache(lambda x: 2)(a),
        lambda X, a, n, b: X if a > 0 else X * 2,
        lambda X, a, n, b: X * (0 < a < 1),
        lambda X, a, n, b: X * (not a),
        lambda X, a, n, b: X * (a and 2),
        lambda X, a, n, b: X * (1 if a in [0.5] else 2),
        lambda X, a, n, b: X * (1 if a == 0.5 else 2),
        lambda X, a, n, b: X * (1 if a != 0.5 else 2),
        lambda X, a, n, b: X * sorted([a, 1])[0],
        lambda X, a, n, b: X * min(a, 1),
        lambda X, a, n, b: X * float(a),
        lambda X, a, n, b: X * complex(a),
        lambda X, a, n, b: X * int(n),
        lambda X, a, n, b: X * math.exp(a),
        lambda X, a, n, b: X * math.floor(a),
        lambda X, a, n, b: X * np.asarray(a),
        lambda X, a, n, b: X * np.array([a, a, a]),
        lambda X, a, n, b: X * da.asarray(a),
        lambda X, a, n, b: X if np.isfinite(a) else X * 2,
        lambda X, a, n, b: X * divmod(a, 1)[0],
        lambda X, a, n, b: X * [1, 2, 3][n],
        lambda X, a, n, b: sum(X for _ in range(n)),
        lambda X, a, n, b: (X.sum(), f"{a:.2f}"),
        lambda X, a, n, b: X * (1 if b[0] > 0 else 2),
        lambda X, a, n, b: X * (1 if 2.0 in b else 2),
        lambda X, a, n, b: X * float(b[0]),
        lambda X, a, n, b: X * int(b.sum()),
        lambda X, a, n, b: X * math.sqrt(b @ b),
        lambda X, a, n, b: X * max(b),
        lambda X, a, n, b: X * np.asarray(b),
        lambda X, a, n, b: X * b.compute(scheduler="sync"),
        lambda X, a, n, b: X * float(X.sum()),
        lambda X, a, n, b: X if X.sum() > 0 else X * 2,
        lambda X, a, n, b: X * X.sum().compute(scheduler="sync"),
        lambda X, a, n, b: X * dask.compute(X.sum(), scheduler="threads")[0],
        lambda X, a, n, b: X.persist(scheduler="sync") if bool((X > 0).all()) else X,
        lambda X, a, n, b: list(np.asarray(X)),
    ],
)
def test_a_function_that_looks_at_values_is_refused(fn: Any) -> None:
    step = exact(fn)
    with pytest.raises(go.TraceError, match=r"static="):
        step(held(), 0.5, 2, B)
    assert (step.stats.calls, step.stats.traces) == (0, 0)


@pytest.mark.parametrize(
    "fn",
    [
        lambda X, n: X[:n],
        lambda X, n: X[n],
        lambda X, n: X[::n],
        lambda X, n: da.zeros(n),
        lambda X, n: da.ones((n, 2)),
        lambda X, n: np.zeros(n),
        lambda X, n: da.arange(n),
        lambda X, n: da.linspace(0, 1, n),
        lambda X, n: X.rechunk(-1).reshape(n, -1),
        lambda X, n: X.sum(axis=n - 1),
        lambda X, n: X.rechunk(n),
        lambda X, n: X.rechunk((n, 3)),
        lambda X, n: da.repeat(X, n, axis=0),
        lambda X, n: da.roll(X, n, axis=0),
        lambda X, n: da.pad(X, n, "constant"),
        lambda X, n: da.diag(X[:, 0], n),
        lambda X, n: da.random.default_rng(n).random(4),
        lambda X, n: da.full(n, 3.0),
        lambda X, n: "ab" * n,
        lambda X, n: [1, 2, 3][:n],
    ],
)
def test_a_number_that_is_a_size_or_a_place_must_be_static(fn: Any) -> None:
    """Whoever complains, be it dask or NumPy, the message or a note says what to do."""
    with pytest.raises(Exception) as caught:
        exact(fn)(held(), 2)
    notes = getattr(caught.value, "__notes__", [])
    assert "static=" in "".join([str(caught.value), *notes])
    assert same(plain(exact(fn, static=("n",))(held(), 2)), plain(fn(held(), 2)))


def test_attributes_of_stand_ins() -> None:
    def fn(X: Any, a: Any) -> Any:
        return X.astype(a.dtype) * a.real + a.imag

    step = exact(fn)
    for a in (np.float32(2), np.float32(3)):
        assert same(plain(step(held(), a)), plain(fn(held(), a)))
    assert step.stats.traces == 1
    for bad in (lambda X, a: X * a.item(), lambda X, a: X * a.astype("f4"), lambda X, a: X * a.is_integer()):
        with pytest.raises(AttributeError, match="static="):
            exact(bad)(held(), np.float64(2))


def test_comparing_with_none_has_an_answer() -> None:
    step = exact(lambda X, a=None, b=None: X * (1 if a is None else a) + (0 if b is None else b))
    assert same(plain(step(held())), A * 1 + 0)
    assert same(plain(step(held(), 2.0)), A * 2.0 + 0)
    assert same(plain(step(held(), 2.0, B)), A * 2.0 + B)
    assert step.stats.traces == 3
    equal = exact(lambda X, a: X * (1 if a == None else 2))  # noqa: E711
    assert same(plain(equal(held(), 1.0)), A * 2)


def test_printing_a_stand_in_says_what_it_is() -> None:
    said: list[str] = []
    step = exact(lambda X, a: (said.append(f"{a} {a!r} {X}"), X * a)[1])
    step(held(), 0.5)
    assert "stand-in for the argument 'a'" in said[0]
    assert "0.5" not in said[0]


class Mode(IntEnum):
    ADD = 1
    MULTIPLY = 2


def test_members_of_enumerations_are_looked_at() -> None:
    step = exact(lambda X, mode: X + 1 if mode == Mode.ADD else X * 2)
    assert same(plain(step(held(), Mode.ADD)), A + 1)
    assert same(plain(step(held(), Mode.MULTIPLY)), A * 2)


# -- NumPy on stand-ins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fn",
    [
        lambda X, a, b: np.where(a < X, X, a),
        lambda X, a, b: da.where(a > 0, X, b),
        lambda X, a, b: np.where(a > 1, X, -X),
        lambda X, a, b: X * np.where(a > 1, 1.0, 2.0),
        lambda X, a, b: np.clip(X, -a, a),
        lambda X, a, b: X.clip(0, a),
        lambda X, a, b: X * np.clip(a, 0, 1),
        lambda X, a, b: X * np.exp(-a) + np.maximum(X, a) + np.hypot(a, X),
        lambda X, a, b: X * np.linalg.norm(b) / np.sqrt(a),
        lambda X, a, b: X @ np.diag(b) + np.outer(b, b).sum(),
        lambda X, a, b: np.linalg.solve((X.T @ X).rechunk(-1), b),
        lambda X, a, b: X @ np.concatenate([b[:1], b[1:]]),
        lambda X, a, b: np.stack([b, b * a]).sum(axis=0) + X,
        lambda X, a, b: X + np.arange(3) * a + np.ones(3) * b,
        lambda X, a, b: X * np.add(a, a) * np.abs(-a) * np.isnan(a),
        lambda X, a, b: np.round(X, 2) * round(a) * b.shape[0] * len(b) * b.size,
        lambda X, a, b: da.isclose(X, a) & np.isclose(X, a),
        lambda X, a, b: X * sum(list(b)) + b[-1] * b[[0, 2]].sum(),
        lambda X, a, b: np.einsum("ij,j->i", X, b) * a,
        lambda X, a, b: a**X + abs(X) ** a + a // (X + 9) + a % (X + 9) + (a < X) + (a - X) + a / (X + 9),
    ],
)
def test_numpy_on_stand_ins_is_what_dask_does(fn: Any) -> None:
    step, X = exact(fn), held()
    for a, b in ((0.5, B), (2.0, B[::-1])):
        found, expected = plain(step(X, a, b)), plain(fn(X, a, b))
        assert np.result_type(found) == np.result_type(expected)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert step.stats.traces == 1


def test_in_place_operators_do_not_reach_the_caller() -> None:
    """A dask array is never changed in place by ``+=``, and here neither is a NumPy array."""

    @exact
    def step(X: Any, b: Any) -> Any:
        b += 1
        b[0] = 5
        return X * b

    b = B.copy()
    for _ in range(2):
        assert same(plain(step(held(), b)), A * np.array([5.0, 3, 4]))
        assert same(b, B)


# -- the function itself ------------------------------------------------------------------------------------------------


def test_side_effects_happen_while_tracing_only() -> None:
    """Twice: the second trace, before the first replay, is to see whether the function does the same each time."""
    ran: list[int] = []
    step = exact(lambda X: (ran.append(1), X + 1)[1])
    for _ in range(5):
        step(held())
    assert len(ran) == 2


@pytest.mark.parametrize("draw", [random.random, time.perf_counter, lambda: np.random.default_rng().random()])
def test_values_made_anew_are_refused(draw: Any) -> None:
    step, X = exact(lambda X: X * draw()), held()
    plain(step(X))  # as dask would do it
    for _ in range(2):
        with pytest.raises(go.TraceError, match="something else each time"):
            step(X)
    with pytest.raises(go.TraceError, match="something else each time"):
        exact(lambda X: X * draw()).plan(X)  # which may be used at once and again


def test_values_made_anew_do_not_reach_a_loop() -> None:
    with pytest.raises(go.TraceError, match="something else each time"):
        go.iterate(lambda b, X: b + X.sum() * random.random(), np.zeros(()), held(), max_iter=5)


def test_seeded_draws_are_repeated_as_dask_repeats_them() -> None:
    noise = da.random.default_rng(5).normal(size=(8, 3), chunks=3)

    def fn(X: Any) -> Any:
        return X + noise, X + da.random.default_rng(7).normal(size=(8, 3), chunks=3)

    step, X = exact(fn), held(chunks=3)
    for _ in range(3):
        assert same(plain(step(X)), plain(fn(X)))


def test_generators_are_not_arrays() -> None:
    step = exact(lambda X: (X + i for i in range(2)))
    with pytest.raises((TypeError, go.GraphoptError)):
        plain(next(step(held())))


def test_results_of_numpy_on_captured_arrays_are_constants() -> None:
    step = exact(lambda X: (np.sum(A, axis=0), X.sum()))
    for _ in range(2):
        assert same(step(held())[0], A.sum(axis=0))


def test_block_info_and_block_id_are_those_of_dask() -> None:
    def by_id(block: Any, block_id: Any = None) -> Any:
        return block * block_id[0]

    def by_info(block: Any, a: Any, block_info: Any = None) -> Any:
        return block * a + block_info[0]["array-location"][0][0] if block_info else block * a

    def fn(X: Any, a: Any) -> Any:
        return X.map_blocks(by_id, dtype=float), X.map_blocks(by_info, a, dtype=float)

    step, X = exact(fn), held()
    for a in (1.0, 2.0):
        assert same(plain(step(X, a)), plain(fn(X, a)))
    assert step.stats.traces == 1


class Slow:
    """An array that can be read by one thread at a time, and notes how many did."""

    shape, dtype, ndim = A.shape, A.dtype, 2

    def __init__(self) -> None:
        self.readers, self.most = 0, 0

    def __getitem__(self, where: Any) -> Any:
        self.readers += 1
        self.most = max(self.most, self.readers)
        time.sleep(0.001)
        self.readers -= 1
        return A[where]


@pytest.mark.parametrize("lock", [True, threading.Lock(), SerializableLock()])
def test_locks_are_kept(lock: Any) -> None:
    source = Slow()
    X = da.from_array(source, chunks=(1, 3), lock=lock)
    step = exact(lambda X, a: X * a, policy=go.Policy(parallelism=2))
    for a in (1.0, 2.0, 3.0):
        assert same(plain(step(X, a)), A * a)
    assert source.most == 1


def test_chunk_functions_may_keep_count() -> None:
    """What they capture is theirs: it is not part of what the function does."""
    ran: list[int] = []

    def note(block: Any) -> Any:
        ran.append(len(block))
        return block

    step = exact(lambda X: X.map_blocks(note, dtype=float, meta=np.empty((0, 0))))
    X = held()
    for _ in range(3):
        step(X)
    assert len(ran) == 9
    assert step.stats.traces == 1


def by_factor(block: Any) -> Any:
    return block * FACTOR


FACTOR = 1.0


def test_a_chunk_function_may_be_called_while_tracing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    step = exact(lambda X: by_factor(X) + X.map_blocks(by_factor, dtype=float))
    for factor in (1.0, 2.0, 1.0):
        monkeypatch.setitem(globals(), "FACTOR", factor)
        assert same(plain(step(held())), A * factor * 2)


def test_a_chunk_function_that_captures_what_changes_sees_it() -> None:
    options = {"by": 1.0}
    step = exact(lambda X: X.map_blocks(lambda block: block * options["by"], dtype=float))
    for by in (1.0, 2.0):
        options["by"] = by
        assert same(plain(step(held())), A * by)


# -- side effects of dask ------------------------------------------------------------------------------------------------


def test_storing_within_a_function_happens_at_each_call() -> None:
    target = np.zeros((8, 3))
    step = exact(lambda X, a: da.store(X * a, target, compute=False, lock=False))
    for a in (1.0, 2.0):
        step(held(), a)
        assert same(target, A * a)
    with pytest.raises(go.TraceError, match="asked for"):
        exact(lambda X, a: da.store(X * a, target))(held(), 1.0)


def test_writing_files_within_a_function(tmp_path: Path) -> None:
    with pytest.raises(go.TraceError, match="asked for"):
        exact(lambda X: da.to_npy_stack(str(tmp_path / "out"), X))(held())
    saved = exact(lambda X: delayed(np.save)(str(tmp_path / "x.npy"), X))
    for factor in (1, 2):
        saved(held(A * factor))
        assert same(np.load(tmp_path / "x.npy"), A * factor)


# -- schedulers ----------------------------------------------------------------------------------------------------------


def thread_of(block: Any) -> Any:
    return np.array([[threading.current_thread().name]], dtype=object)


def test_the_synchronous_scheduler_means_one_thread() -> None:
    step = exact(lambda X: X.map_blocks(thread_of, dtype=object, meta=np.empty((0, 0), object)))
    X = held(np.ones((40, 3)), chunks=(1, 3))
    with dask.config.set(scheduler="sync"):
        for _ in range(12):
            assert set(plain(step(X)).ravel()) == {threading.current_thread().name}


def test_other_schedulers_do_not_matter() -> None:
    """Nothing of dask's runs."""
    step = exact(lambda X, a: (X * a).sum())
    X = held()
    for scheduler in ("processes", "threads", "sync", None):
        with dask.config.set(scheduler=scheduler), run_here() as ran:
            assert close(step(X, 2.0), 2 * A.sum())
        assert not ran
    with go.optimized():
        assert close(step(X, 3.0), 3 * A.sum())
        assert close(plain(exact(lambda X: delayed(np.sum)(X * 2))(X)), 2 * A.sum())
    assert step.stats.by_dask == 0


def test_a_client_runs_the_calls(client: distributed.Client) -> None:
    """Where a cluster is the default, its data stays there."""
    step = exact(lambda X, a, b: (X * a, (X @ b).sum(), delayed(sum)([a, X.sum()]), a + 1, "text"))
    X = client.persist(da.from_array(A, chunks=(3, 3)))
    for calls, a in enumerate((2.0, 3.0), 1):
        whole, total, other, number, text = step(X, a, B)
        assert close(plain_there(whole), A * a)
        assert close(total, (A @ B).sum())
        assert close(other, A.sum() + a)
        assert (number, text) == (a + 1, "text")
        assert (step.stats.calls, step.stats.on_cluster, step.stats.by_dask, step.stats.traces) == (calls, calls, 0, 1)


def plain_there(X: Any) -> Any:
    return X.compute()


def test_futures_are_left_to_their_cluster(client: distributed.Client) -> None:
    """Threads cannot read them; dask says so, or asks the cluster."""
    step = exact(lambda X: X.sum())
    X = client.persist(da.from_array(A, chunks=(3, 3)))
    with dask.config.set(scheduler="threads"):
        assert outcome(lambda: step(X)) == outcome(lambda: X.sum().compute())
    assert step.stats.by_dask == 1


def outcome(work: Callable[[], Any]) -> Any:
    """Return the result to a few digits, or the type of the error."""
    try:
        return round(float(work()), 6)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize(
    "fn",
    [
        lambda X, s: X * s if isinstance(s, float) else X * 0,
        lambda X, s: X * s if np.isscalar(s) else X * 0,
        lambda X, s: X * s if isinstance(s, (int, float)) and not isinstance(s, np.ndarray) else X * 0,
    ],
)
def test_asking_what_a_number_is_gets_the_right_answer(fn: Any) -> None:
    X = held()
    assert np.array_equal(plain(exact(fn)(X, 2.5)), plain(X * 2.5))
