"""Lean functions: each gives what dask's own gives, bit for bit, on arrays of any kind."""

from __future__ import annotations

import functools
import itertools
import random
import threading
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import scipy.sparse
from dask.array import chunk, reductions
from dask.array import core as dask_core
from dask.array.core import _concatenate2, concatenate_axes, concatenate_shaped
from dask.array.reductions import chunk_max, chunk_min
from dask.array.routines import _chunk_sum, _matmul, _tensordot
from hypothesis import example, given
from hypothesis import strategies as st
from odd_arrays import array, arrays, assert_alike, outcome, shape_of
from toolz.functoolz import Compose
from twins import examples

from graphopt import lean
from graphopt.lean import joins, products
from graphopt.passes.lower import lower
from graphopt.spec import Task

seeds = st.integers(0, 2**32 - 1)


@given(seeds)
@examples(600)
def test_lean_sum(seed: int) -> None:
    rng = random.Random(seed)
    (a,) = arrays(rng, shape_of(rng, rng.randint(0, 3), large=True))
    options: dict[str, Any] = {}
    if rng.random() < 0.9:
        options["axis"] = rng.choice((None, 0, 1, -1, (0,), (1,), (-1,), (0, 1), (), (5,)))
    if rng.random() < 0.7:
        options["dtype"] = rng.choice((None, a.dtype, a.dtype, np.dtype("f8"), np.dtype("f4"), float, "f8"))
    if rng.random() < 0.7:
        options["keepdims"] = rng.choice((True, False))
    assert_alike(outcome(lean.sum_, a, **options), outcome(np.sum, a, **options))


@given(seeds)
@examples(600)
def test_lean_concatenate(seed: int) -> None:
    rng = random.Random(seed)
    shape = shape_of(rng, rng.randint(0, 3))
    blocks: Any = arrays(rng, shape, rng.randint(1, 4))
    axes: Any = rng.choice(([0], [1], (0,), [-1]))
    if rng.random() < 0.3:
        blocks, axes = [blocks, list(blocks)], rng.choice(([0, 1], [1, 0], (0, 1)))
    blocks = rng.choice((list, list, list, tuple, iter))(blocks) if rng.random() < 0.9 else blocks[0]
    if rng.random() < 0.05:
        axes = rng.choice(([], ()))
    given_twice = list(blocks) if not isinstance(blocks, (list, tuple, np.ndarray)) else blocks
    assert_alike(outcome(lean.concatenate, given_twice, axes), outcome(_concatenate2, given_twice, axes=axes))


REDUCTIONS = (np.sum, np.max, np.min, np.prod, np.any, np.argmax, np.mean, np.nansum, np.std)


@given(seeds)
@examples(600)
def test_lean_reduce_blocks(seed: int) -> None:
    rng = random.Random(seed)
    dims = rng.randint(0, 3)
    blocks: Any = arrays(rng, shape_of(rng, dims, large=True), rng.choice((1, 1, 1, 2, 3)))
    axes = rng.choice(([0], [1], [0], [5]))
    if rng.random() < 0.15:
        blocks, axes = [blocks, list(blocks)], [0, 1]
    reduce = rng.choice(REDUCTIONS)
    options: dict[str, Any] = {"axis": rng.choice((0, 1, None) if reduce is np.argmax else ((0,), (1,), (0, 1), None))}
    if reduce is not np.argmax and rng.random() < 0.8:
        options["keepdims"] = rng.choice((True, False))
    (plain,) = [functools.partial(reduce, **options)]
    theirs = Compose((plain, functools.partial(_concatenate2, axes=axes))[::-1][::-1])
    (ours,) = {lower({"t": Task("t", theirs, blocks)})["t"].func}  # type: ignore[union-attr]
    assert ours.func is lean.reduce_blocks
    assert_alike(outcome(ours, blocks), outcome(theirs, blocks))


def contraction(rng: random.Random) -> tuple[Any, Any, Any, bool]:
    """Make operands, axes and ``is_sparse`` of a contraction: mostly a plain matrix product, but anything goes."""
    left, right = rng.choice((1, 2, 2, 2, 3)), rng.choice((1, 2, 2, 2))
    i, j = rng.randrange(left), rng.randrange(right)
    axes = rng.choice((((1,), (0,)), ((i,), (j,)), ((left - 1,), (0,)), ((left - 1,), (-right,)), ([left - 1], [0])))
    if rng.random() < 0.1 and left > 1 and right > 1:
        axes = ((0, 1), (0, 1))
    one, other = shape_of(rng, left), list(shape_of(rng, right))
    for k, m in zip(*axes, strict=True):
        if k < left and m < right and rng.random() < 0.95:
            other[m] = one[k]
    (a,), (b,) = arrays(rng, one), arrays(rng, tuple(other))
    plain = type(a) is type(b) is np.ndarray and a.dtype.isnative and b.dtype.isnative
    if rng.random() < 0.3 and left == right == 2 and plain:
        a = scipy.sparse.csr_array(a) if a.dtype.char in "fdFD" and rng.random() < 0.5 else a
        b = scipy.sparse.csr_array(b) if b.dtype.char in "fdFD" and rng.random() < 0.5 else b
    return a, b, axes, rng.random() < 0.15


@given(seeds)
@examples(500)
@example(0)
def test_lean_tensordot(seed: int) -> None:
    a, b, axes, is_sparse = contraction(random.Random(seed))
    assert_alike(outcome(lean.tensordot, a, b, axes, is_sparse), outcome(_tensordot, a, b, axes=axes, is_sparse=is_sparse))


@given(seeds)
@examples(500)
def test_lean_contract(seed: int) -> None:
    """A contraction with the sums that dask writes after it, as one call and as the three that it stands for."""
    rng = random.Random(seed)
    a, b, axes, is_sparse = contraction(rng)
    dtype = rng.choice((getattr(a, "dtype", None), np.dtype("f8"), np.dtype("f8"), np.dtype("f4"), None))
    keep, joined = rng.random() < 0.5, rng.random() < 0.5
    total = {"axis": (1,), "dtype": dtype}

    def theirs() -> Any:
        first = np.sum(_tensordot(a, b, axes=axes, is_sparse=is_sparse), keepdims=keep or joined, **total)
        return np.sum(_concatenate2([first], axes=[1]), keepdims=keep, **total) if joined else first

    options = {"axes": axes, "is_sparse": is_sparse, "dtype": dtype, "keepdims": keep, "joined": joined}
    assert_alike(outcome(lean.contract, a, b, **options), outcome(theirs))


@given(seeds)
@examples(300)
def test_lean_matmul_max_and_min(seed: int) -> None:
    rng = random.Random(seed)
    (a,) = arrays(rng, shape_of(rng, rng.randint(0, 3), large=True))
    (b,) = arrays(rng, shape_of(rng, rng.randint(0, 3)))
    assert_alike(outcome(lean.matmul, a, b), outcome(_matmul, a, b))
    options: dict[str, Any] = {"axis": rng.choice((None, 0, 1, (0,), (0, 1), (5,)))}
    if rng.random() < 0.8:
        options["keepdims"] = rng.choice((True, False))
    for ours, theirs in ((lean.max_, chunk_max), (lean.min_, chunk_min)):
        assert_alike(outcome(ours, a, **options), outcome(theirs, a, **options))


@given(seeds)
@examples(300)
def test_lean_grid_and_join(seed: int) -> None:
    rng = random.Random(seed)
    dims = rng.randint(1, 3)
    count = rng.randint(1, 3)
    blocks = arrays(rng, shape_of(rng, dims), count)
    shape = [1] * dims
    shape[rng.randrange(dims)] = count
    assert_alike(outcome(lean.grid, list(blocks), shape), outcome(concatenate_shaped, list(blocks), shape))
    axes = rng.choice(([0], [dims - 1], list(range(dims))))
    nested: Any = blocks[0] if count == 1 else list(blocks)
    for _ in axes[: len(axes) - (count > 1)]:
        nested = [nested]
    assert_alike(outcome(lean.join, nested, axes), outcome(concatenate_axes, nested, axes))
    one: Any = blocks[0]
    for _ in axes:
        one = [one]
    if type(blocks[0]) is np.ndarray:
        assert not np.shares_memory(lean.join(one, axes), blocks[0])


def test_a_single_sparse_block_is_joined_by_copying() -> None:
    block = scipy.sparse.random_array((5, 4), density=0.5, rng=np.random.default_rng(0), format="csr")
    ours, theirs = lean.join([block], [1]), concatenate_axes([block], [1])
    assert type(ours) is type(theirs)
    assert (ours != theirs).nnz == 0
    assert not np.shares_memory(ours.data, block.data)


@given(seeds)
@examples(200)
def test_folding_a_grid_gives_what_reducing_it_gives(seed: int) -> None:
    """To rounding, whatever the shapes of the blocks."""
    rng = random.Random(seed)
    rows = [rng.randint(1, 3) for _ in range(rng.randint(1, 3))]
    columns = [rng.randint(1, 3) for _ in range(rng.randint(1, 3))]
    blocks = [[np.random.default_rng(rng.getrandbits(16)).random((r, c)) for c in columns] for r in rows]
    whole = np.block(blocks)
    reduce, theirs = rng.choice(((lean.sum_, np.sum), (lean.max_, np.max), (np.prod, np.prod)))
    keep = rng.random() < 0.5
    flat = [block for row in blocks for block in row]
    found = lean.fold(reduce, flat, [0, 1], axis=(0, 1), keepdims=keep)
    np.testing.assert_allclose(found, theirs(whole, axis=(0, 1), keepdims=keep), rtol=1e-12)
    one_row = np.concatenate(blocks[0], axis=1)
    found = lean.fold(reduce, blocks[0], [1], axis=(1,), keepdims=keep)
    np.testing.assert_allclose(found, theirs(one_row, axis=(1,), keepdims=keep), rtol=1e-12)


def test_lean_functions_give_arrays_of_their_own() -> None:
    """What comes out may be written to without anybody's input changing."""
    for shape in ((3, 1), (1, 3), (1, 1), (3, 3)):
        a = np.ones(shape)
        for out in (
            *(lean.sum_(a, axis=(axis,), dtype=a.dtype, keepdims=keep) for axis in (0, 1) for keep in (True, False)),
            lean.concatenate([a], [0]),
            lean.reduce_blocks(lean.sum_, [a], [0], axis=(0,), dtype=a.dtype, keepdims=True),
            lean.reduce_blocks(np.max, [a], [0], axis=(0,), keepdims=True),
            lean.tensordot(a, a.T, ((1,), (0,)), False),
            lean.contract(a, a.T, ((1,), (0,)), False, a.dtype, True, False),
        ):
            assert not np.shares_memory(out, a)


def test_the_lean_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """On plain arrays none of dask's general functions runs: without this the properties above could hold in vain."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the general function was called")

    for module in (joins, products):
        for name in ("_concatenate2", "concatenate_shaped", "concatenate_axes", "_tensordot", "_matmul", "_chunk_sum"):
            monkeypatch.setattr(module, name, fail, raising=False)
    for module, name in itertools.product((reductions, dask_core), ("mean_chunk", "mean_combine", "mean_agg", "getter")):
        monkeypatch.setattr(module, name, fail, raising=False)
    for name in ("arg_chunk", "arg_combine", "arg_agg"):
        monkeypatch.setattr(reductions, name, fail)
    a, b = np.ones((4, 3)), np.ones((3, 2))
    assert lean.concatenate([a, a], [0]).shape == (8, 3)
    assert lean.reduce_blocks(np.max, [a], [0], axis=(0,)).shape == (3,)
    assert lean.tensordot(a, b, ((1,), (0,)), False).shape == (4, 1, 2)
    assert lean.tensordot(a, b[:, 0], ((1,), (0,)), False).shape == (4, 1)
    assert lean.grid([a, a, a, a], (2, 2)).shape == (8, 6)
    assert lean.times(a, b, 1).shape == (4, 2)
    large = np.ones((100, 1, 100))
    assert lean.chunk_sum([large] * 3, axis=(1,), dtype=a.dtype, keepdims=False).max() == 3
    assert lean.getter(a, (slice(1, 3), slice(None))).base is a
    assert lean.piece(a, (slice(1, 2),)).base is a
    one = lean.mean_chunk(a, dtype=a.dtype, axis=(0,), keepdims=True)
    assert lean.mean_combine([one, one], axis=(0,), keepdims=True)["n"].tolist() == [[8.0] * 3]
    assert lean.mean(a, (0,), a.dtype).shape == (3,)
    assert lean.mean_agg([one, one], dtype=a.dtype, axis=(0,), keepdims=False).shape == (3,)
    found = lean.arg_chunk(np.min, chunk.argmin, a, (0,), 4)
    assert lean.arg_combine(chunk.argmin, [found, found], axes=[0], axis=(0,)).shape == (1, 3)
    assert lean.arg_agg(chunk.argmin, [found, found], axes=[0], axis=(0,)).tolist() == [4, 4, 4]
    assert lean.argmax(a, (0,), 0).tolist() == [0, 0, 0]
    assert lean.argmin(a, (0, 1), ((0, 0), (4, 3))) == 0
    monkeypatch.setattr(np, "sum", fail)
    monkeypatch.setattr(products, "tensordot", fail)
    assert lean.contract(a, b, ((1,), (0,)), False, a.dtype, False, True).shape == (4, 2)
    assert lean.contract(a, b[:, 0], ((1,), (0,)), False, a.dtype, True, False).shape == (4, 1)
    assert lean.sum_(a, axis=(0,), dtype=a.dtype).shape == (3,)
    assert lean.sum_(a[:, :1], axis=(1,), dtype=a.dtype, keepdims=True).shape == (4, 1)


# -- means, arguments, products and stores -----------------------------------------------------------------------------


@given(seeds)
@examples(500)
def test_lean_means(seed: int) -> None:
    """The sums of a block with their counts, those of several, and the mean of all."""
    rng = random.Random(seed)
    dims = rng.randint(0, 3)
    blocks: Any = arrays(rng, shape_of(rng, dims, large=True), rng.randint(1, 4))
    axis: Any = rng.choice(((0,), (1,), (0, 1), tuple(range(dims)), None, 0))
    dtype = rng.choice(
        (np.dtype("f8"), np.dtype("f8"), np.dtype("f4"), np.dtype("c16"), getattr(blocks[0], "dtype", "f8"), "f8")
    )
    options = {"axis": axis, "keepdims": rng.random() < 0.9}
    found = [outcome(lean.mean_chunk, block, dtype=dtype, **options) for block in blocks]
    wanted = [outcome(reductions.mean_chunk, block, dtype=dtype, **options) for block in blocks]
    for one, other in zip(found, wanted, strict=True):
        assert_alike(one, other)
    pairs: Any = [value for kind, value in wanted if kind == "value"]
    if axis == (0, 1):
        pairs = [pairs]
    if rng.random() < 0.1:
        pairs = pairs[0] if pairs else []
    assert_alike(outcome(lean.mean_combine, pairs, **options), outcome(reductions.mean_combine, pairs, **options))
    options["keepdims"] = rng.random() < 0.5
    assert_alike(
        outcome(lean.mean_agg, pairs, dtype=dtype, **options), outcome(reductions.mean_agg, pairs, dtype=dtype, **options)
    )


def of_joined(func: Any, axes: Any, **options: Any) -> Any:
    """Return what dask calls on the blocks of an arg-reduction."""
    return Compose((functools.partial(func, **options), functools.partial(_concatenate2, axes=axes)))


@given(seeds)
@examples(800)
def test_lean_arguments(seed: int) -> None:
    """Blocks one after the other along an axis, or a grid of them; ties and NaN among them."""
    rng = random.Random(seed)
    dims = rng.randint(0, 3)
    shape = shape_of(rng, dims, large=True)
    axis: Any = rng.choice(((0,), (dims - 1,), tuple(range(dims)))) if dims else ()
    count = rng.randint(1, 3)
    blocks = arrays(rng, shape, count)
    which = rng.choice(((np.min, chunk.argmin), (np.max, chunk.argmax)))
    whole = len(axis) == dims or dims == 1
    total = tuple(3 * size for size in shape)
    offsets: Any = [((i * shape[0], *(0,) * (dims - 1)), total) if whole and dims else i * 2 for i in range(count)]
    if count == 1 and rng.random() < 0.5:
        offsets = [((0,) * dims, shape) if whole else 0]
    found = [outcome(lean.arg_chunk, *which, block, axis, at) for block, at in zip(blocks, offsets, strict=True)]
    wanted = [outcome(reductions.arg_chunk, *which, block, axis, at) for block, at in zip(blocks, offsets, strict=True)]
    for one, other in zip(found, wanted, strict=True):
        assert_alike(one, other)
    nested: Any = [value for kind, value in wanted if kind == "value"]
    for _ in axis[1:]:
        nested = [nested]
    keep = rng.random() < 0.5
    axes, of = sorted(axis), which[1]
    given_ = {"axis": axis, "keepdims": keep}
    theirs: Any = of_joined(functools.partial(reductions.arg_agg, of), axes, **given_)
    assert_alike(outcome(lean.arg_agg, of, nested, axes=axes, **given_), outcome(theirs, nested))
    alone = lean.argmin if of is chunk.argmin else lean.argmax

    def all_of_it() -> Any:
        block: Any = reductions.arg_chunk(*which, blocks[0], axis, offsets[0])
        for _ in axis:
            block = [block]
        return theirs(block)

    assert_alike(outcome(alone, blocks[0], axis, offsets[0], keepdims=keep), outcome(all_of_it))
    given_["keepdims"] = True
    theirs = of_joined(functools.partial(reductions.arg_combine, of), axes, **given_)
    assert_alike(outcome(lean.arg_combine, of, nested, axes=axes, **given_), outcome(theirs, nested))


@given(seeds)
@examples(300)
def test_lean_times_and_chunk_sum(seed: int) -> None:
    rng = random.Random(seed)
    dims = rng.randint(1, 4)
    (a,) = arrays(rng, shape_of(rng, dims, large=True))
    (b,) = arrays(rng, shape_of(rng, rng.choice((dims, rng.randint(1, 3)))))
    if rng.random() < 0.7 and a.ndim > 1:
        (b,) = arrays(rng, (*a.shape[:-2], a.shape[-1], rng.randint(0, 3)))
    axis = rng.choice((dims - 1, dims - 1, 1, 0))
    index = (slice(None),) * axis + (0, slice(None))
    assert_alike(outcome(lean.times, a, b, axis), outcome(lambda: chunk.getitem(_matmul(a, b), index)))
    blocks: Any = arrays(rng, shape_of(rng, dims), rng.randint(1, 5))
    if rng.random() < 0.2:
        blocks += arrays(rng, shape_of(rng, dims))
    dtype = rng.choice((blocks[0].dtype, blocks[0].dtype, np.dtype("f8"), None))
    options = {"axis": (rng.randrange(dims),), "dtype": dtype, "keepdims": rng.choice((True, True, False, None))}
    before = [np.array(block) for block in blocks]
    assert_alike(outcome(lean.chunk_sum, blocks[0], **options), outcome(_chunk_sum, blocks[0], **options))
    with patch.object(products, "_LARGE", rng.choice((0, 0, products._LARGE))):
        assert_alike(outcome(lean.chunk_sum, blocks, **options), outcome(_chunk_sum, blocks, **options))
    for block, kept in zip(blocks, before, strict=True):
        assert_alike(("value", np.array(block)), ("value", kept))


@given(seeds)
@examples(300)
def test_lean_grids(seed: int) -> None:
    """Grids of more than one axis, with blocks that do not fit now and then."""
    rng = random.Random(seed)
    dims = rng.randint(1, 3)
    sizes = [[rng.choice((0, 1, 2, 3)) for _ in range(rng.randint(1, 3))] for _ in range(dims)]
    shape = [len(along) for along in sizes]
    blocks = [arrays(rng, of)[0] for of in itertools.product(*sizes)]
    if rng.random() < 0.7:
        kind = (rng.choice(("f8", "O", "i4", "c8", "M8[D]", ">f8")), rng.choice(("C", "F", "permuted", "strided")), "plain")
        blocks = [array(rng, of, *kind) for of in itertools.product(*sizes)]
    if rng.random() < 0.1:
        blocks[rng.randrange(len(blocks))] = arrays(rng, tuple(rng.choice((1, 2)) for _ in range(dims)))[0]
    if rng.random() < 0.1:
        blocks = blocks[: rng.randrange(len(blocks))]
    found, wanted = (outcome(func, list(blocks), shape) for func in (lean.grid, concatenate_shaped))
    assert_alike(found, wanted)
    if found[0] == "value" and type(found[1]) is np.ndarray and found[1].dtype.isnative:
        assert found[1].flags.c_contiguous or not wanted[1].flags.c_contiguous, "sums of it would be added up in another order"


INDICES = (
    *((slice(0, 2), slice(None)), (slice(None), slice(1, None)), (slice(None, None, 2), slice(0, 0)), (slice(1, None),)),
    *((0, slice(None)), (None, slice(0, 1)), (slice(None), None), ([0, 0], slice(None)), (7, 0), (0, 0), (0, 0, 0), slice(1)),
)


class Lock:
    """Notes what is done to it."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._lock = threading.Lock()

    def acquire(self) -> None:
        self.seen.append("acquire")

    def release(self) -> None:
        self.seen.append("release")


@given(seeds)
@examples(300)
def test_lean_getter_and_piece(seed: int) -> None:
    rng = random.Random(seed)
    (a,) = arrays(rng, shape_of(rng, rng.randint(0, 3)))
    if rng.random() < 0.2 and type(a) is np.ndarray and a.ndim == 2 and a.dtype.char in "fd" and a.dtype.isnative:
        a = scipy.sparse.csr_array(a)
    index = rng.choice(INDICES)
    options: dict[str, Any] = {"asarray": rng.random() < 0.7} if rng.random() < 0.5 else {}
    wanted = outcome(dask_core.getter, a, index, **options)
    assert_alike(outcome(lean.getter, a, index, **options), wanted)
    locks = Lock(), Lock()
    assert_alike(
        outcome(lean.getter, a, index, lock=locks[0], **options), outcome(dask_core.getter, a, index, lock=locks[1], **options)
    )
    assert locks[0].seen == locks[1].seen
    if type(index) is tuple and None not in [part if part is None else 0 for part in index]:
        assert locks[0].seen[:2] == ["acquire", "release"]
    assert_alike(outcome(lean.piece, a, index), outcome(chunk.getitem, a, index))


def test_what_lies_in_a_file_is_cut_without_being_read(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(4, 3))
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = lean.getter(stored, (slice(1, 3), slice(None)))
    assert type(found) is np.memmap
    assert np.shares_memory(found, stored)
