"""Loops against the programs they are compiled from: values, dtypes, shapes, refusals, threads."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from by_hand import ROW_COUNTS, Build, K, check, close, data, looped, reason, x
from dask.array import chunk

from graphopt import lean
from graphopt.loops import Arg, Bound, Loop, blocks, loop_of
from graphopt.native import counts
from graphopt.program import INPUT, LIST, LITERAL, VALUE, Program, Spec

# -- what is typed -----------------------------------------------------------------------------------------------------


def logistic(b: Build) -> tuple[Spec, Spec]:
    """Write down loss and gradient of X, y and beta as dask has them."""
    one = functools.partial(lean.reduce_blocks, lean.sum_, axes=[1], dtype=np.dtype("f8"), axis=(1,), keepdims=False)
    t = b(lean.tensordot, x(0), x(2), axes=((1,), (-1,)), is_sparse=False)
    kept = b(functools.partial(lean.sum_, dtype=np.dtype("f8")), t, axis=(1,), keepdims=True)
    eta = b(one, (LIST, kept))
    e = b(np.exp, b(operator.neg, eta))
    p = b(operator.truediv, 1, b(operator.add, 1, e))
    loss = b(operator.add, b(np.log1p, e), b(operator.mul, b(operator.sub, 1, x(1)), eta))
    grad = b(
        *(lean.contract, b(np.transpose, x(0), axes=(1, 0)), b(operator.sub, p, x(1))),
        axes=((1,), (-1,)),
        is_sparse=False,
        dtype=np.dtype("f8"),
        keepdims=True,
        joined=False,
    )
    return b(lean.sum_, loss, axis=(0,), keepdims=True), grad


def logistic_arguments(rows: Sequence[int], k: int = 15) -> list[list[Any]]:
    beta = data((k,), "f8", 1)
    return [[data((n, k), "f8", n), (data((n,), "f8", n) > 0).astype(float), beta] for n in rows]


def test_logistic_lane() -> None:
    b = Build()
    loop = check(b.program(3, *logistic(b)), logistic_arguments(ROW_COUNTS), (True, True, False))
    assert [(out.kind, out.trailing) for out in loop.outputs] == [("fold", (1,)), ("fold", (15, 1))]
    assert loop.source.count("for i in range") == 1, "the steps between the two products share a loop"
    assert "exp(" in loop.source
    assert "sub" not in loop.source.split("for i in range")[0], "names come from labels, and there are none"


def test_sums_are_sums_of_blocks() -> None:
    """A running sum of a million small numbers would be off by far more."""
    b = Build()
    loop = looped(b.program(1, b(np.sum, x(0))), [np.ones(3)], [True])
    values = np.full(1_000_000, 0.1)
    ((found,),) = loop([[values]], [])
    assert abs(found - 100_000.0) < 1e-7


@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_blocks_of_every_width(dtype: str) -> None:
    """Rows that fill registers and rows that do not; what comes right after them in memory must not get into the sums."""
    atol = 1e-4 if dtype == "f4" else 1e-13
    for k in (*range(1, 18), 40):
        for n in (0, 1, 3, 4, 5, 7, 8, 9, 31, 33):
            full = data((n + 1, k), dtype, n)
            full[n] = np.nan
            rows, block, v, b = full[:n], full.ravel(), data((n,), dtype, 3), data((k,), dtype, 5)
            out, folded, square = np.empty(n, dtype), np.ones(k, dtype), np.zeros(k * 2, dtype)
            blocks.dots(block, n, k, b, 1, out)
            assert np.allclose(out, rows @ b, rtol=1e-3, atol=atol)
            blocks.row_sums(block, n, k, out)
            assert np.allclose(out, rows.sum(axis=1), rtol=1e-3, atol=atol)
            blocks.add_products(block, n, k, v, 1, folded)
            assert np.allclose(folded, 1 + rows.T @ v, rtol=1e-3, atol=atol)
            blocks.add_products(block, n, k, np.stack([v, -v], axis=1).ravel(), 2, square)
            assert np.allclose(square[::2], -square[1::2])
            assert np.allclose(square[::2], folded - 1, rtol=1e-3, atol=atol)
            assert np.isclose(blocks.add_up(block, n * k), rows.sum(), rtol=1e-3, atol=atol)
            if n:
                assert blocks.greatest(block, n * k, 1, rows.dtype.type(-np.inf)) == rows.max()
                assert blocks.greatest(block, n * k, -1, rows.dtype.type(np.inf)) == rows.min()


@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_products_of_blocks_of_every_width(dtype: str) -> None:
    """Tiles that fit and tiles that do not: each sum is there once, and nothing but the sums is written."""
    atol = 1e-4 if dtype == "f4" else 1e-13
    for k in (*range(1, 26), 40):
        for n in (0, 1, 5, 33):
            full = data((n + 1, k), dtype, n)
            full[n] = np.nan
            rows, block, h = full[:n], full.ravel(), data((n,), dtype, 3)
            out = np.ones(k * k + 1, dtype)
            blocks.add_square(block, n, k, h, out)
            blocks.mirror(out, k)
            assert out[-1] == 1
            assert np.allclose(out[:-1].reshape(k, k), 1 + (rows * h[:, None]).T @ rows, rtol=1e-3, atol=atol)
            for m in (2, 7, 8, 9, 17, 24):
                wide = data((n + 1, m), dtype, n + 1)
                wide[n] = np.nan
                out = np.ones(k * m + 1, dtype)
                blocks.add_products(block, n, k, wide.ravel(), m, out)
                assert out[-1] == 1
                assert np.allclose(out[:-1].reshape(k, m), 1 + rows.T @ wide[:n], rtol=1e-3, atol=atol)


@pytest.mark.parametrize("k", [1, 3, 7, 8, 15, 16, 20])
def test_single_precision_is_read_into_sums_of_double_precision(k: int) -> None:
    b = Build()
    turned = b(np.transpose, x(0))
    program = b.program(3, b(np.dot, x(0), x(2)), b(np.dot, turned, x(1)))
    rows = [[data((n, k), "f4", n), data((n,), "f8", n), data((k,), "f8", 1)] for n in (1, 9, 300)]
    loop = check(program, rows, (True, True, False))
    assert k == 1 or "np.float64(" not in loop.source, "no block is made in double precision"
    for X, y, w in rows:
        ((eta, product),) = loop([[X, y]], [w])
        assert np.allclose(eta, X.astype(float) @ w, rtol=1e-13, atol=1e-13)
        assert np.allclose(product, X.astype(float).T @ y, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_rows_times_themselves_with_weights(dtype: str) -> None:
    """What rows are weighted to is not written down, and the sums are symmetric to the last bit."""
    b = Build()
    weighted = b(operator.mul, x(0), b(operator.getitem, x(1), (slice(None), None)))
    turned = b(np.transpose, x(0))
    rows = [[data((n, K), dtype, n), data((n,), "f8", n)] for n in (1, 9, 300)]
    loop = check(b.program(2, b(np.dot, turned, weighted)), rows, (True, True))
    assert "add_square" in loop.source
    assert "spread" not in loop.source
    ((square,),) = loop([rows[-1]], [])
    assert (square == square.T).all()
    assert np.allclose(square, (rows[-1][0].astype(float).T * rows[-1][1]) @ rows[-1][0].astype(float), rtol=1e-12, atol=1e-12)
    first = check(b.program(2, b(np.dot, b(operator.mul, turned, x(1)), x(0))), rows, (True, True))
    assert "add_square" in first.source, "weighted on the left"
    read = check(b.program(2, b(np.dot, turned, weighted), b(np.sum, weighted, axis=0)), rows, (True, True))
    assert "add_square" in read.source, "what others read is made for them"
    other = check(b.program(3, b(np.dot, b(np.transpose, x(2)), weighted)), [[*row, row[0] + 1] for row in rows], (True,) * 3)
    assert "add_square" not in other.source, "other rows than those that were weighted"


def test_several_products_with_a_matrix() -> None:
    b = Build()
    z = b(operator.matmul, x(0), x(1))
    e = b(np.exp, z)
    s = b(np.sum, e, axis=1, keepdims=True)
    p = b(operator.truediv, e, s)
    turned = b(np.dot, b(np.transpose, x(1)), b(np.transpose, x(0)))  # (m, n)
    program = b.program(2, b(np.sum, b(np.log, s)), b(np.dot, b(np.transpose, x(0)), p), p, b(np.transpose, turned))
    B = data((K, 3), "f8", 3)
    check(program, [[data((n, K), "f8", n), B] for n in (1, 300)], (True, False))


def test_integers_and_truth_values() -> None:
    b = Build()
    some = b(operator.gt, x(0), 2)
    both = b(operator.and_, some, b(np.not_equal, x(1), 0))
    less = b(operator.sub, x(0), x(1))
    program = b.program(
        2,
        *(both, b(operator.invert, both), less, b(operator.mul, less, x(0)), b(operator.truediv, less, x(1))),
        *(b(np.sum, both), b(np.sum, x(0)), b(np.max, less), b(np.max, both), b(np.min, x(1)), b(chunk.astype, x(0), "f4")),
        *(
            b(operator.add, some, both),
            b(operator.add, x(0), some),
            b(np.abs, x(0)),
            b(np.square, x(1)),
            b(np.maximum, x(0), 3),
        ),
    )
    rng = np.random.default_rng(0)
    ints = [[rng.integers(-128, 127, n).astype("i1"), rng.integers(0, 255, n).astype("u1")] for n in (1, 300)]
    with np.errstate(all="ignore"):
        check(program, ints, (True, True))
    with np.errstate(all="ignore"):
        check(program, [[a.astype("i4"), c.astype("i8")] for a, c in ints], (True, True))


def test_promotion_is_numpys() -> None:
    """Single with double precision, with integers, with Python's and NumPy's numbers."""
    b = Build()
    program = b.program(
        5,
        *(b(operator.mul, x(0), x(2)), b(operator.mul, x(0), x(3)), b(operator.add, x(0), x(1)), b(np.exp, x(0))),
        *(b(operator.add, x(0), x(4)), b(operator.sub, x(0), 0.1), b(np.where, b(operator.lt, x(0), x(2)), x(0), x(3))),
        *(b(np.sum, x(0), dtype="f8"), b(np.mean, x(0)), b(np.power, x(0), 3), b(operator.pow, x(0), 0.5)),
        *(b(operator.pow, b(np.abs, x(0)), x(2)), b(np.clip, x(0), -0.5, None), b(np.reciprocal, x(0))),
    )
    arguments = [[data((n,), "f4", 1), data((n,), "f8", 2), 0.1, np.float64(0.1), np.int32(7)] for n in (1, 70)]
    loop = check(program, arguments, (True, True, False, False, False))
    assert {str(out.dtype) for out in loop.outputs} == {"float32", "float64"}


def test_steps_on_shared_arguments_run_once_before_the_loop() -> None:
    b = Build()
    scaled = b(operator.mul, x(1), x(2))
    turned = b(operator.getitem, scaled, slice(None, None, -1))
    program = b.program(3, b(np.sum, b(operator.mul, x(0), turned), axis=0), b(operator.add, x(0), b(np.sum, scaled)))
    check(program, [[data((n, K), "f8", n), data((K,), "f8", 1), 3.0] for n in (4, 300)], (True, False, False))


@pytest.mark.parametrize("kind", ["f8", "f4", "i4", "u1", "?"])
def test_places_along_rows(kind: str) -> None:
    """Of equal numbers the first, of NaNs the first, whatever comes after."""
    b = Build()
    least, most = b(lean.argmin, x(0), (1,), 0), b(lean.argmax, x(0), (1,), 3, keepdims=True)
    kept = b(np.argmax, x(0), axis=-1, keepdims=True)
    chosen = b(operator.eq, b(operator.getitem, least, (slice(None), None)), x(1))
    program = b.program(
        2, least, most, kept, b(chunk.astype, chosen, astype_dtype=np.dtype("f8")), b(np.sum, least), b(np.argmin, x(0), axis=1)
    )
    rng = np.random.default_rng(0)
    arguments = []
    for n in (0, 1, 300):
        rows = rng.integers(0, 4, (n, 6)).astype(kind)  # ties
        if np.dtype(kind).kind == "f" and n > 1:
            rows[::3, 2:] = np.nan
            rows[::7, 1] = rng.choice((np.inf, -np.inf, -0.0, np.nan))
            rows[5] = np.nan
        arguments.append([rows, np.arange(6)])
    loop = check(program, arguments, (True, False))
    assert "blocks.row_places(" in loop.source


def test_places_of_distances_as_in_k_means() -> None:
    """What dask writes for it comes down to one search, as in the kernel."""
    b = Build()
    far = b(operator.sub, x(1), b(operator.mul, 2, b(lean.tensordot, x(0), x(2), axes=((1,), (1,)), is_sparse=False)))
    flat = b(lean.sum_, far, axis=(1,), dtype=np.dtype("f8"), keepdims=False)
    found = b(lean.arg_chunk, np.min, chunk.argmin, flat, (1,), 0)
    nearest = b(lean.arg_agg, chunk.argmin, (LIST, found), axes=[1], axis=(1,), keepdims=False)
    program = b.program(3, nearest)
    rows = [[data((n, K), "f8", n), data((3,), "f8", 1), data((3, K), "f8", 2)] for n in (1, 300)]
    assert "row_places" in check(program, rows, (True, False, False)).source


def test_means_of_rows_as_dask_writes_them() -> None:
    b = Build()
    f8 = np.dtype("f8")
    sums = b(lean.mean_chunk, x(0), dtype=f8, axis=(1,), keepdims=True)
    mean = b(lean.mean_agg, (LIST, sums), dtype=f8, axis=(1,), keepdims=True)
    program = b.program(1, b(operator.sub, x(0), mean), b(lean.mean, x(0), axis=(1,), dtype=f8, keepdims=False))
    check(program, [[data((n, K), "f8", n)] for n in (1, 300)], (True,))
    check(program, [[np.arange(n * K).reshape(n, K).astype("i4")] for n in (1, 300)], (True,))


def test_products_with_a_place_for_an_axis() -> None:
    b = Build()
    product = b(chunk.getitem, b(lean.matmul, x(0), x(1)), (slice(None), 0, slice(None)))
    parts = b(lean.matmul, x(0), b(operator.getitem, x(1), (slice(None), slice(0, 1))))
    program = b.program(2, product, b(operator.getitem, parts, (slice(None), 0, 0)), b(lean.times, x(0), x(1), 1))
    check(program, [[data((n, K), "f8", n), data((K, 3), "f8", 1)] for n in (1, 300)], (True, False))


def test_three_axes() -> None:
    """The distance of each row to each of several centres, as in k-means."""
    b = Build()
    apart = b(operator.sub, b(operator.getitem, x(0), (slice(None), None)), b(operator.getitem, x(1), None))
    far = b(np.sum, b(operator.pow, apart, 2), axis=2)
    most = b(np.max, b(np.abs, apart), axis=-1)
    program = b.program(2, far, most, b(np.min, far, axis=1), b(np.sum, b(np.mean, apart, axis=(1, 2))), b(np.sum, far, axis=0))
    check(program, [[data((n, K), "f8", n), data((3, K), "f8", 1)] for n in (1, 70, 600)], (True, False))


def test_short_rows_with_columns_and_vectors_of_any_type() -> None:
    b = Build()
    column = b(operator.getitem, x(1), (slice(None), None))
    double = b(operator.mul, x(0), 2)
    program = b.program(
        3,
        *(b(operator.add, x(0), x(2)), b(operator.mul, x(0), column), b(operator.gt, double, column)),
        *(b(np.where, b(operator.gt, column, 1), x(0), x(2)), b(operator.sub, x(0), b(np.mean, double, axis=0))),
        *(b(np.any, b(operator.gt, x(0), x(2)), axis=1), b(np.all, b(operator.gt, x(0), -5), axis=0), b(np.any, x(0))),
    )
    for kind, m in (("i4", 3), ("f8", 17)):
        rng = np.random.default_rng(0)
        rows = [[rng.integers(-9, 9, shape).astype(kind) for shape in ((n, m), (n,), (m,))] for n in (0, 1, 300)]
        for values in rows:
            values[2] = rows[0][2]
        check(program, rows, (True, True, False))


def test_nested_programs_and_literals() -> None:
    inner = Build()
    square = inner.program(1, inner(operator.mul, x(0), x(0)), inner(operator.neg, x(0)))
    steps = [
        (square, ((INPUT, 0),), ()),
        (operator.add, (("item", (VALUE, 0), 0), (LITERAL, 0)), ()),
        (operator.sub, ((VALUE, 1), (LITERAL, 1)), ()),
    ]
    program = Program(steps, 1, 2, [(VALUE, 2), ("item", (VALUE, 0), 1)])
    chunks = data((9,), "f8", 1)
    loop = loop_of(program, {0: 2.0}, [Arg.of(chunks, lane=True), Arg.of(0.5, lane=False)])
    assert isinstance(loop, Loop)
    ((a, negative),) = loop([[chunks]], [4.0])
    assert np.array_equal(a, chunks * chunks + 2.0 - 4.0)
    assert np.array_equal(negative, -chunks)


# -- what is not -------------------------------------------------------------------------------------------------------


def mine(a: Any) -> Any:
    raise AssertionError("a function that is not known must not be called")


@pytest.mark.parametrize(
    ("func", "options", "says"),
    [
        (mine, {}, "mine"),
        (np.cumsum, {"axis": 0}, "np.cumsum"),
        (np.sort, {"axis": 0}, "np.sort"),
        (np.sum, {"axis": 0, "initial": 3.0}, "np.sum"),
        (np.exp, {"where": True}, "np.exp with where"),
        (np.floor_divide, None, "floor_divide"),
        (np.any, {"axis": 0, "where": True}, "np.any"),
        (np.argmin, {"axis": 0}, "along the rows"),
        (np.argmax, {}, "along the rows"),
        (operator.mod, None, "mod"),
        (np.arctan2, None, "arctan2"),
        (np.outer, None, "np.outer"),
        (operator.getitem, slice(1, None), "rows"),
        (operator.getitem, (slice(None), slice(None, None, 2)), "side by side"),
        (operator.getitem, (slice(None), slice(None, None, -1)), "side by side"),
        (operator.getitem, (None,), "first axis"),
        (np.transpose, {}, "first axis"),
        (np.reshape, (-1,), "rows"),
        (chunk.astype, "i8", "fraction"),
        (chunk.astype, "c16", "complex128"),
    ],
)
def test_refusals_say_what_is_in_the_way(func: Any, options: Any, says: str) -> None:
    b = Build()
    if isinstance(options, dict):
        step = b(func, x(0), **options)
    else:
        step = b(func, x(0), x(0) if options is None else options)
    found = reason(b.program(1, step), [data((6, 4), "f8", 1)], [True])
    assert says in found
    assert not found.endswith(".")


def test_other_refusals() -> None:
    b = Build()
    both = b.program(2, b(operator.add, x(0), x(1)))
    wide = np.ones((3, 2))
    assert "complex" in reason(both, [wide.astype(complex), wide], [True, True])
    assert "object" in reason(both, [wide.astype(object), wide], [True, True])
    assert ">f8" in reason(both, [wide.astype(">f8"), wide], [True, True])
    assert "number of its own" in reason(both, [wide, 2.0], [True, True])
    assert "chunk" in reason(both, [wide, 2.0], [False, False])
    assert "each other" in reason(both, [np.ones((3, 1)), np.ones(3)], [True, True])
    assert "int8" in reason(both, [np.ones(3, "i1"), 2], [True, False])
    b = Build()
    assert "joined" in reason(
        b.program(2, b(lean.reduce_blocks, lean.sum_, (LIST, x(0), x(1)), [0])), [wide, wide], [True, True]
    )


# -- running -----------------------------------------------------------------------------------------------------------


def bound_logistic() -> tuple[Bound, np.ndarray, list[list[Any]], Program]:
    b = Build()
    program = b.program(3, *logistic(b), x(1))
    arguments = logistic_arguments([10 * i for i in range(60)], 4)
    loop = looped(program, arguments[1], (True, True, False))
    return loop.bind([values[:2] for values in arguments]), arguments[0][2], arguments, program


def test_equal_lanes_are_compiled_once() -> None:
    bound_logistic()
    before = counts()
    bound_logistic()
    assert counts() == before
    b = Build()
    looped(b.program(1, b(operator.mul, x(0), 7.25)), [np.ones(3)], [True])
    assert counts().built + counts().loaded == before.built + before.loaded + 1


def test_two_threads_share_a_bound() -> None:
    bound, beta, arguments, program = bound_logistic()
    wanted = [program(*values[:2], beta) for values in arguments]

    def part(job: int) -> bool:
        start, stop = (0, 30) if job % 2 else (30, 60)
        found = bound([beta * (1 + job % 3)], start, stop)
        if job % 3:
            return len(found) == stop - start
        return all(
            close(a, b)
            for ours, theirs in zip(found, wanted[start:stop], strict=True)
            for a, b in zip(ours, theirs, strict=True)
        )

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(part, range(60)))


def test_stacked_outputs() -> None:
    bound, beta, arguments, _ = bound_logistic()
    assert len(bound) == 60
    losses, gradients, labels = bound.stacked([beta], 3, 7)
    assert losses.shape == (4, 1)
    assert gradients.shape == (4, 4, 1)
    assert np.array_equal(labels, np.concatenate([values[1] for values in arguments[3:7]]))
    assert bound([beta], 5, 5) == []
    with pytest.raises(IndexError, match="60 lanes"):
        bound([beta], 3, 61)


def test_chunks_that_do_not_fit_are_refused_when_bound() -> None:
    bound, beta, arguments, _ = bound_logistic()
    X, y, _ = arguments[2]
    wrong = [[np.asfortranarray(X), y], [X, y[:-1]], [X.astype("f4"), y], [X[:, :3], y], [X, y[:, None]], [X], [X.tolist(), y]]
    wrong.append([X, np.repeat(y, 2)[::2]])
    for lane in wrong:
        with pytest.raises(ValueError, match="chunk"):
            bound.loop.bind([[X, y], lane])
    for shared in ([], [beta[:3]], [beta.astype("f4")], [1.0]):
        with pytest.raises(ValueError, match="shared argument"):
            bound(shared)


def test_a_maximum_needs_rows() -> None:
    b = Build()
    loop = looped(b.program(1, b(np.max, x(0))), [np.ones(3)], [True])
    with pytest.raises(ValueError, match="greatest"):
        loop.bind([[np.ones(3)], [np.ones(0)]])
    assert loop.bind([])([]) == []


def test_a_bound_holds_its_chunks_and_results_are_fresh() -> None:
    b = Build()
    loop = looped(b.program(1, b(operator.add, x(0), 0.5), x(0)), [np.ones(3)], [True])
    bound = loop.bind([[np.arange(1000.0)] for _ in range(50)])
    first, second = bound([]), bound([])
    for lane in first:
        lane[0][:] = lane[1][:] = -1
    assert all(np.array_equal(lane[0], np.arange(1000.0) + 0.5) for lane in second)
    assert all(np.array_equal(lane[1], np.arange(1000.0)) for lane in bound([]))


def test_read_only_and_strided_arguments() -> None:
    b = Build()
    loop = looped(b.program(2, b(operator.mul, x(0), x(1))), [np.ones((3, 2)), np.ones(2)], [True, False])
    chunk_, beta = np.arange(8.0).reshape(4, 2), np.arange(6.0)[::3]
    chunk_.flags.writeable = beta.flags.writeable = False
    ((found,),) = loop([[chunk_]], [beta])
    assert np.array_equal(found, chunk_ * beta)
