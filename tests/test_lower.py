"""Lower: which functions get a lean equivalent, and that it gives what dask's own gives, bit for bit, on arrays of any kind."""

from __future__ import annotations

import functools
import operator
import random
import warnings
from fractions import Fraction
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse
from dask.array.core import _concatenate2, concatenate_axes, concatenate_shaped
from dask.array.reductions import chunk_max, chunk_min
from dask.array.routines import _matmul, _tensordot
from hypothesis import example, given
from hypothesis import strategies as st
from oracle import evaluate, outline, same
from toolz.functoolz import Compose
from twins import examples

import graphopt as go
from graphopt import lean
from graphopt.graph import normalise, toposort
from graphopt.passes.lower import lower
from graphopt.program import Program, is_subgraph
from graphopt.spec import Task, TaskRef

# -- arrays of any kind ------------------------------------------------------------------------------------------------

DTYPES = (
    *("f8", "f8", "f8", "f4", "f2", "g", ">f8", "i8", "i1", "u2", "?", "c16", "c8", "G", "O", "m8[s]"),
    *("V12", "fractions"),
)
LAYOUTS = ("C", "C", "F", "strided", "backwards", "broadcast", "readonly", "transposed", "permuted")
CLASSES = ("plain", "plain", "plain", "masked", "matrix", "subclass")


class Mine(np.ndarray[Any, Any]):
    """An array class of a user."""


def array(rng: random.Random, shape: tuple[int, ...], dtype: str, layout: str, kind: str) -> Any:
    """Make an array of this kind, with special values where its dtype has them."""
    draw = np.random.default_rng(rng.getrandbits(32))
    if dtype == "V12":
        out = np.zeros(shape, [("a", "f8"), ("b", "i4")])
        out["a"] = draw.normal(size=shape)
    elif dtype in ("O", "fractions"):
        make = (lambda: Fraction(rng.randint(-9, 9), 7)) if dtype == "fractions" else lambda: rng.choice((1, 2.5, True, -0.0))
        out = np.empty(shape, object)
        out[...] = np.reshape([make() for _ in range(out.size)] or np.zeros(0), shape)
    else:
        out = np.asarray(draw.normal(size=shape) * 50).astype("i8").astype(dtype)
        if np.dtype(dtype).kind in "fc":
            out = np.asarray(draw.normal(size=shape) * 3).astype(dtype)
            out.flat[::3] = rng.choice((np.nan, -0.0, 0.0, np.inf, -np.inf, 1.0))
    if layout == "permuted" and out.ndim == 3:  # neither C nor F
        out = np.moveaxis(np.ascontiguousarray(np.moveaxis(out, 0, 1)), 1, 0)
    if layout == "F":
        out = np.asfortranarray(out)
    elif layout == "strided":
        out = np.repeat(out, 2, axis=-1)[..., ::2] if out.ndim else out
    elif layout == "backwards":
        out = out[::-1] if out.ndim else out
    elif layout == "broadcast":
        out = np.broadcast_to(out[:1], out.shape) if out.ndim and len(out) else out
    elif layout == "transposed":
        out = np.ascontiguousarray(out.T).T
    elif layout == "readonly":
        out.flags.writeable = False
    if kind == "masked":
        return np.ma.MaskedArray(out, mask=draw.random(out.shape) < 0.3)
    if kind == "matrix" and out.ndim == 2:
        return out.view(np.matrix)
    return out.view(Mine) if kind == "subclass" else out


def arrays(rng: random.Random, shape: tuple[int, ...], count: int = 1) -> list[Any]:
    dtype, layout, kind = rng.choice(DTYPES), rng.choice(LAYOUTS), rng.choice(CLASSES)
    mixed = rng.random() < 0.2
    return [
        array(rng, shape, rng.choice(DTYPES) if mixed else dtype, rng.choice(LAYOUTS) if mixed else layout, kind)
        for _ in range(count)
    ]


def shape_of(rng: random.Random, dims: int, *, large: bool = False) -> tuple[int, ...]:
    if large and dims == 2 and rng.random() < 0.2:  # large enough for sums to depend on the order of addition
        return rng.choice(((40, 9), (9, 40), (200, 1), (1, 200)))
    if large and dims == 3 and rng.random() < 0.2:
        return (9, 30, 7)
    return tuple(rng.choice((0, 1, 1, 2, 3, 5)) for _ in range(dims))


def outcome(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a function; return its value, or the type of the error."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "value", func(*args, **kwargs)
        except Exception as error:
            return "error", type(error)


def assert_alike(one: Any, other: Any) -> None:
    assert one[0] == other[0], f"{one} instead of {other}"
    assert one[1] is other[1] if one[0] == "error" else same(one[1], other[1]), f"{one} instead of {other}"


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

    monkeypatch.setattr(lean, "_concatenate2", fail)
    monkeypatch.setattr(lean, "_tensordot", fail)
    a, b = np.ones((4, 3)), np.ones((3, 2))
    assert lean.concatenate([a, a], [0]).shape == (8, 3)
    assert lean.reduce_blocks(np.max, [a], [0], axis=(0,)).shape == (3,)
    assert lean.tensordot(a, b, ((1,), (0,)), False).shape == (4, 1, 2)
    assert lean.tensordot(a, b[:, 0], ((1,), (0,)), False).shape == (4, 1)
    monkeypatch.setattr(np, "sum", fail)
    monkeypatch.setattr(lean, "tensordot", fail)
    assert lean.contract(a, b, ((1,), (0,)), False, a.dtype, False, True).shape == (4, 2)
    assert lean.contract(a, b[:, 0], ((1,), (0,)), False, a.dtype, True, False).shape == (4, 1)
    assert lean.sum_(a, axis=(0,), dtype=a.dtype).shape == (3,)
    assert lean.sum_(a[:, :1], axis=(1,), dtype=a.dtype, keepdims=True).shape == (4, 1)


# -- which functions ---------------------------------------------------------------------------------------------------

JOIN = functools.partial(_concatenate2, axes=[0])


@pytest.mark.parametrize(
    ("func", "becomes"),
    [
        (functools.partial(np.sum, axis=0), functools.partial(lean.sum_, axis=0)),
        (functools.partial(np.sum, axis=0, dtype="f8", keepdims=True), None),
        (JOIN, functools.partial(lean.concatenate, axes=[0])),
        (_tensordot, lean.tensordot),
        (
            Compose((functools.partial(np.sum, axis=0), JOIN)),
            functools.partial(lean.reduce_blocks, lean.sum_, axes=[0], axis=0),
        ),
        (
            Compose((functools.partial(np.max, axis=0), JOIN)),
            functools.partial(lean.reduce_blocks, np.max, axes=[0], axis=0),
        ),
    ],
)
def test_known_functions_become_lean(func: Any, becomes: Any) -> None:
    made = lower({"t": Task("t", func, TaskRef("x"), 1, k=2, _data_producer=True)})["t"]
    assert isinstance(made, Task)
    if becomes is None:
        assert made.func.func is lean.sum_
        return
    assert outline({"t": made}) == outline({"t": Task("t", becomes, TaskRef("x"), 1, k=2)})
    assert made.data_producer
    assert made.dependencies == {"x"}


def users_own(x: Any, axis: Any = None) -> Any:
    x -= 1
    return x.max(axis=axis)


@pytest.mark.parametrize(
    "func",
    [
        np.sum,
        users_own,
        functools.partial(np.sum, axis=0, out=np.zeros(2)),
        functools.partial(np.sum, 1),
        functools.partial(np.max, axis=0),
        functools.partial(_concatenate2, [1]),
        Compose((functools.partial(users_own, axis=0), JOIN)),
        Compose((np.max, users_own)),
        Compose((np.max, np.abs, JOIN)),
    ],
)
def test_unknown_functions_stay_untouched(func: Any) -> None:
    graph = {"t": Task("t", func, TaskRef("x"))}
    assert lower(graph) is graph


def test_a_users_reduction_may_write_to_what_it_gets() -> None:
    """Joined blocks are a copy; a single block that is not joined is somebody's data."""
    x = da.from_array(np.arange(6.0).reshape(3, 2), chunks=(3, 2)).map_blocks(np.copy)
    least = da.reduction(x, chunk=lambda b, axis, keepdims: b, aggregate=_spoil, axis=0, dtype="f8", concatenate=True)
    with go.optimized(parallelism=1, strict=True):
        _, kept = dask.compute(least, x, scheduler="sync")
    assert same(kept, np.arange(6.0).reshape(3, 2))


def _spoil(block: Any, axis: Any, keepdims: Any) -> Any:
    block -= 1
    return block.max(axis=axis, keepdims=keepdims)


def test_nothing_known_returns_the_graph() -> None:
    graph = normalise({"x": 1, "a": (operator.neg, "x"), "f": TaskRef("f"), "b": "a"})
    assert lower(graph) is graph


# -- what dask fused ---------------------------------------------------------------------------------------------------


def fused_by_dask() -> tuple[da.Array, Any]:
    x = da.arange(40, chunks=10, dtype="f8")
    y = da.sin(x + 1) * 2 - x
    return y, normalise(y, y.__dask_keys__())


def test_what_dask_fused_becomes_one_program_for_all_blocks() -> None:
    y, graph = fused_by_dask()
    inner = [node for node in graph.values() if is_subgraph(node)]
    assert len(inner) == 4, "dask no longer fuses this"
    made = lower(graph)
    programs = [node.func for node in made.values() if isinstance(node, Task) and isinstance(node.func, Program)]
    assert len(programs) == 4
    assert len(set(map(id, programs))) == 1
    keys = y.__dask_keys__()
    assert same(evaluate(made, keys), evaluate(graph, keys))
    assert [key for key in graph if graph[key] is not made[key]] == [node.key for node in inner]


def test_a_program_inside_a_program() -> None:
    one = Task.fuse(Task("a", operator.neg, TaskRef("x")), Task("b", abs, TaskRef("a")))
    two = Task.fuse(Task("c", operator.add, TaskRef("b"), TaskRef("y")), one.substitute({}, key="b"), key="d")
    made = lower({"d": two})
    program = made["d"].func  # type: ignore[union-attr]
    assert isinstance(program, Program)
    assert same(evaluate(made, ["d"], {"x": 3, "y": 4}), {"d": 7})
    assert repr(program) == f"<Program of {len(program.steps)} steps, 2 in, 1 out>"


def test_a_graph_inside_a_task_that_has_rules_of_its_own_stays() -> None:
    class Strange(Task):
        pass

    task = Task.fuse(Task("a", operator.neg, TaskRef("x")), Strange("b", abs, TaskRef("a")))
    graph = {"b": task}
    assert lower(graph) is graph
    assert toposort(graph) == ["b"]


def test_programs_run_step_by_step_and_pickle() -> None:
    import cloudpickle

    _, graph = fused_by_dask()
    for task in lower(graph).values():
        if isinstance(task, Task) and isinstance(task.func, Program):
            again = cloudpickle.loads(cloudpickle.dumps(task.func))
            assert again.signature == task.func.signature
            assert len(again.steps) == len(task.func.steps)
