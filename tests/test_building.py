"""Building: what dask builds with fewer questions is what it builds with all of them; what may change is asked each time."""

from __future__ import annotations

import functools
import inspect
import pickle
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import dask.array as da
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import graphopt as go
from graphopt import building as module
from graphopt.building import building

ADDRESS = re.compile(" at 0x[0-9a-f]+")
ASKING = [sys.modules[name] for name in module._ASKING]
THEIRS = {(asking.__name__, name): vars(asking).get(name) for asking in ASKING for _, name, _ in module._REPLACED}


@pytest.fixture(autouse=True)
def dask_as_it_was() -> Iterator[None]:
    """Whatever a test does, dask is as it was after it."""
    yield
    assert {(asking.__name__, name): vars(asking).get(name) for asking in ASKING for _, name, _ in module._REPLACED} == THEIRS


def leaves(value: Any) -> list[Any]:
    """Return the arrays of what an operation returns."""
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, (tuple, list)) else [value]


def described(value: Any) -> Any:
    """Say all there is to say about an array: names, tasks, chunks, type."""
    if not isinstance(value, da.Array):
        return type(value), repr(value)
    graph, meta = value.dask, value._meta
    tasks = {key: ADDRESS.sub("", str(task)) for key, task in dict(graph).items()}
    layers = {name: (type(layer), str(layer.collection_annotations)) for name, layer in graph.layers.items()}
    return (
        *(value.name, str(value.chunks), value.dtype, value.dtype.metadata, tasks, layers, dict(graph.dependencies)),
        *(type(meta), meta.dtype.char, meta.shape, getattr(meta, "strides", None)),
    )


def outcome(build: Callable[[], Any]) -> Any:
    """Build, and describe what came of it, with errors and warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = [described(leaf) for leaf in leaves(build())]
        except Exception as error:
            found = [type(error), str(error).partition("Traceback")[0]]
    return found, [(warning.category, str(warning.message)) for warning in said]


def added(block: Any, by: Any = 1, block_info: Any = None) -> Any:
    """A user's function."""
    return block + by


class Adder:
    """A user's function that is an object."""

    def __call__(self, block: Any) -> Any:
        return block + 1


ADDER = Adder()


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    **{f.__name__: (lambda x, v, f=f: f(x)) for f in (da.exp, da.sin, da.isnan, da.sign, da.conj, da.angle, da.modf, da.frexp)},
    **{f.__name__: (lambda x, v, f=f: f(x, v)) for f in (da.add, da.hypot, da.maximum, da.fmin, da.divmod, da.logaddexp)},
    **{
        name: (lambda x, v, name=name: getattr(x, name)())
        for name in (
            "sum",
            "prod",
            "min",
            "max",
            "mean",
            "std",
            "var",
            "any",
            "all",
            "argmin",
            "argmax",
            "ravel",
            "conj",
            "round",
        )
    },
    **{
        f"{f.__name__} of nan": (lambda x, v, f=f: f(x, axis=0))
        for f in (da.nansum, da.nanmean, da.nanmin, da.nanstd, da.nanargmax)
    },
    "arithmetic": lambda x, v: [-x, abs(x), +x, x + 1, 1 - x, x * 2.5, 2 / (x + 3), x // 2, x % 3, x**2, x - v, x / v],
    "comparisons": lambda x, v: [x > 0, x >= v, x == 1, x != v, x < 2.0, x <= v],
    "bits": lambda x, v: [da.invert(x.astype("i4")), x.astype("i4") ^ 3, ~(x > 0)],
    "bits of numbers": lambda x, v: [~x, x & 1, x | x, x ^ 3, x << 1, x >> 1],
    "literals": lambda x, v: [
        x * 1,
        x * True,
        x * 1.0,
        x * np.float32(1),
        x * np.int8(1),
        x * -0.0,
        x * 0.0,
        x * float("nan"),
        x * 1j,
    ],
    "large literals": lambda x, v: [x + 2**40, x + 2**70],
    "casts": lambda x, v: [x.astype(t) for t in ("f4", "i8", float, np.int16, "?", "c16", "S5", "O")],
    "where": lambda x, v: [da.where(x > 0, x, 0), da.where(v, x, v), da.exp(x, where=x > 0, out=da.zeros_like(x))],
    "clip": lambda x, v: [da.clip(x, 0, 1), x.clip(0)],
    "keepdims": lambda x, v: [x.sum(axis=1, keepdims=True), x.max(axis=(0, 1), keepdims=True), x.mean(0, keepdims=True)],
    "dtypes of sums": lambda x, v: [
        x.sum(dtype="f4"),
        x.sum(dtype=float),
        x.mean(dtype="f4"),
        x.var(ddof=1, axis=0),
        x.cumsum(0),
    ],
    "split every": lambda x, v: [
        x.sum(split_every=2),
        x.max(axis=0, split_every={0: 3}),
        x.mean(split_every=2),
        x.sum(0, split_every=1),
    ],
    "moments": lambda x, v: [x.moment(3), da.cov(x), da.average(x, axis=0, weights=x)],
    "products": lambda x, v: [
        x.T.dot(x),
        x.dot(v),
        x @ x.T,
        da.tensordot(x, x, axes=2),
        da.einsum("ij,kj->ik", x, x),
        da.outer(v, v),
    ],
    "shapes": lambda x, v: [x.T, x.reshape(-1), x[None], x.squeeze(), da.broadcast_to(v, (3, 5)), da.flip(x, 0), da.roll(x, 1)],
    "slices": lambda x, v: [x[::2], x[1], x[:, 0], x[[0, 2]], x[x > 0], x[..., 1:], x.vindex[[0, 1], [1, 2]], x.blocks[0]],
    "joins": lambda x, v: [da.concatenate([x, x]), da.stack([x, x]), da.vstack([x, v]), da.block([[x], [x]])],
    "new chunks": lambda x, v: [
        x.rechunk(2),
        x.rechunk((12, 5)),
        x + da.ones((12, 5), chunks=(12, 1)),
        da.overlap.overlap(x, 1, "none"),
    ],
    "user functions": lambda x, v: [
        x.map_blocks(added),
        x.map_blocks(added, 2, dtype="f8"),
        x.map_blocks(np.exp),
        x.map_blocks(ADDER),
    ],
    "user lambdas": lambda x, v: [
        x.map_blocks(lambda b: b + 1),
        x.map_blocks(functools.partial(added, by=2)),
        x.map_overlap(added, 1),
    ],
    "user reductions": lambda x, v: da.reduction(
        x, np.sum, lambda b, axis, keepdims: np.sum(b, axis, keepdims=keepdims), dtype="f8"
    ),
    "gufuncs": lambda x, v: da.apply_gufunc(lambda a: a.mean(-1), "(i)->()", x.rechunk((4, 5)), output_dtypes=float),
    "along an axis": lambda x, v: [da.apply_along_axis(np.sum, 0, x), da.apply_over_axes(np.sum, x, [0])],
    "blockwise": lambda x, v: [
        da.blockwise(np.add, "ij", x, "ij", 1.5, None, dtype="f4"),
        da.blockwise(np.add, "ij", x, "ij", x, "ij"),
    ],
    "a wrong argument": lambda x, v: x.map_blocks(np.exp, wrong=1),
    "wrong shapes": lambda x, v: x + da.ones((7, 7)),
    "like": lambda x, v: [da.zeros_like(x), da.full_like(x, 3), da.ones_like(x, dtype="i1")],
    "counts": lambda x, v: [
        da.histogram(x, bins=3, range=(0, 9)),
        da.bincount(v.astype("i8"), minlength=9),
        da.digitize(v, np.arange(3)),
    ],
    "sorted": lambda x, v: [da.topk(v, 2), da.median(x, axis=1), da.percentile(v, [50]), da.unique(v), da.searchsorted(v, v)],
    "linear algebra": lambda x, v: [
        da.linalg.norm(x),
        *da.linalg.qr(x.rechunk((6, 5))),
        da.linalg.lstsq(x.rechunk((6, 5)), x[:, 0].rechunk(6)),
    ],
    "differences": lambda x, v: [
        da.diff(x, axis=0),
        da.gradient(x),
        da.isclose(x, 1),
        da.tril(x),
        x.trace(),
        da.select([x > 0], [x]),
    ],
    "no dimensions": lambda x, v: [x.sum() * 2, x.sum() + x, da.exp(x.sum()), x.sum().astype("i4"), x.max() - x.min()],
    "assignment": lambda x, v: assigned(x),
    "fft": lambda x, v: da.fft.fft(x.rechunk((4, 5))),
    "a deprecated function": lambda x, v: x.map_blocks(deprecated),
    "complex to real": lambda x, v: da.blockwise(np.positive, "ij", x * 1j, "ij", dtype="f8"),
}


def assigned(x: Any) -> Any:
    """Assign to a copy, which changes it in place."""
    x = x.copy()
    x[x > 1] = 0
    x[0] = np.ma.masked
    return x


def deprecated(block: Any) -> Any:
    """A function that warns."""
    warnings.warn("do not use this", DeprecationWarning, stacklevel=2)
    return block


KINDS: dict[str, Callable[[Any], Any]] = {
    **{
        dtype: (lambda a, dtype=dtype: a.astype(dtype))
        for dtype in ("f8", "f4", "i4", "q", "l", "u1", "?", "c16", ">f8", "O", "m8[s]")
    },
    "masked": lambda a: np.ma.masked_less(a, 2.0),
    "with metadata": lambda a: a.astype(np.dtype("f8", metadata={"unit": "m"})),
    "fortran": np.asfortranarray,
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_dask_builds(kind: str) -> None:
    """Everything there is to say about arrays is the same: when it is asked for the first time, and when it is remembered."""
    x = da.from_array(KINDS[kind](np.arange(60.0).reshape(12, 5) % 7), chunks=(4, 3))
    v = x[0]
    for name, operation in OPERATIONS.items():
        plain = outcome(lambda operation=operation: operation(x, v))
        for _ in range(2):
            with building():
                assert outcome(lambda operation=operation: operation(x, v)) == plain, name


def test_the_values_are_the_same() -> None:
    x = da.from_array(np.arange(60.0).reshape(12, 5), chunks=(2, 3))
    plain = [x.sum(), x.T.dot(x), x.max(axis=0), da.exp(x).mean(axis=1, split_every=2)]
    with building():
        built = [x.sum(), x.T.dot(x), x.max(axis=0), da.exp(x).mean(axis=1, split_every=2)]
    for some, other in zip(plain, built, strict=True):
        assert (some.compute(scheduler="sync") == other.compute(scheduler="sync")).all()
        assert pickle.loads(pickle.dumps(other)).name == some.name


numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.booleans(),
    st.floats(),
    st.complex_numbers(),
    st.sampled_from(
        [0, 1, 0.0, -0.0, 1.0, True, False, 1j, np.float32(1), np.int8(1), np.bool_(True), np.longlong(1), np.int64(1)]
    ),
)


@given(
    numbers,
    st.sampled_from(["f8", "f4", "i8", "i1", "u1", "?", "q"]),
    st.sampled_from([np.add, np.multiply, np.power, np.hypot]),
)
def test_any_literal(number: Any, dtype: str, func: Any) -> None:
    x = da.Array({}, "x", ((2, 2),), dtype=dtype)
    plain = outcome(lambda: [func(x, number), func(number, x)])
    with building():
        assert outcome(lambda: [func(x, number), func(number, x)]) == plain


def test_nothing_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: the second time, no signature is read, nothing is pickled and NumPy's functions are not called on nothing."""
    x = da.ones((10, 5), chunks=(1, 5))

    def expression() -> Any:
        eta = x.dot(x[0])
        return (da.log1p(da.exp(eta)) - x[:, 0] * eta).sum(), x.T.dot(eta)

    asked = []
    for where, name in ((inspect, "signature"), (inspect, "getfullargspec"), (pickle, "dumps"), (np, "errstate")):
        theirs = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *a, name=name, theirs=theirs, **k: asked.append(name) or theirs(*a, **k))
    expression()
    assert {"signature", "getfullargspec", "dumps", "errstate"} <= {*asked}
    with building():
        expression()
    asked.clear()
    with building():
        expression()
    assert asked == []


def test_what_users_wrote_is_asked_each_time() -> None:
    kinds: list[str] = []

    def fickle(block: Any) -> Any:
        kinds.append(kind)
        return block.astype(kind)

    x = da.ones(4, chunks=2)
    for func in (fickle, functools.partial(fickle)):
        kind = "f8"
        assert x.map_blocks(func).dtype == "f8"
        plain = len(kinds)
        for kind in ("f8", "f4", "i4"):
            kinds.clear()
            with building():
                assert x.map_blocks(func).dtype == kind
            assert len(kinds) == plain
        kinds.clear()


def test_arguments_of_a_users_function() -> None:
    """They are read from its code, where nothing else can say what they are."""

    def all_kinds(a: Any, /, b: Any, *c: Any, d: Any, **e: Any) -> Any:
        f = a
        return f

    @functools.wraps(all_kinds)
    def wrapped(x: Any) -> Any:
        return x

    signed: Any = lambda x: x  # noqa: E731
    signed.__signature__ = inspect.signature(all_kinds)
    theirs = THEIRS["dask.array.core", "has_keyword"]
    with building():
        ours = vars(da.core)["has_keyword"]
        assert ours is not theirs
        for func in (all_kinds, wrapped, signed, functools.partial(all_kinds, 1), Adder(), Adder, np.add, len, 3, "a", np.sum):
            for name in "abcdefgx":
                assert ours(func, name) == theirs(func, name), (func, name)


def test_what_is_handed_out_can_be_spoilt() -> None:
    x = da.ones((4, 4), chunks=2)
    for _ in range(3):
        with building():
            y, z = x + 1, x.sum()
        assert y._meta.shape == (0, 0)
        assert (z._meta.shape, z._meta.dtype, z._meta.tolist()) == ((), "f8", 0.0)
        y._meta.shape = (0, 7)
        z._meta[...] = 3
        z._meta.flags.writeable = False


def test_contexts_nest_and_end_in_any_order() -> None:
    first, second = building(), building()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert vars(da.core)["compute_meta"] is not THEIRS["dask.array.core", "compute_meta"]
    second.__exit__(None, None, None)
    assert vars(da.core)["compute_meta"] is THEIRS["dask.array.core", "compute_meta"]
    with pytest.raises(ZeroDivisionError), go.sharing(), building():
        raise ZeroDivisionError


def test_other_threads_ask_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    x = da.ones(4, chunks=2)
    with building():
        _ = x + 1
    calls = []
    theirs = np.errstate
    monkeypatch.setattr(np, "errstate", lambda **k: calls.append(threading.current_thread().name) or theirs(**k))
    with building():
        thread = threading.Thread(target=lambda: x + 1, name="another")
        thread.start()
        thread.join()
        _ = x + 1
    assert {*calls} == {"another"}


def test_many_threads_build_at_once() -> None:
    x = da.ones((8, 4), chunks=2)
    names, wanted = [], [(x.T.dot(x + i)).sum().name for i in range(20)]

    def build() -> None:
        for i in range(20):
            with building():
                names.append((i, x.T.dot(x + i).sum().name))

    threads = [threading.Thread(target=build) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == sorted([(i, name) for i, name in enumerate(wanted)] * 8)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 4)
    x = da.ones(4, chunks=2)
    with building():
        assert [(x + i).dtype for i in range(20)] == [x.dtype] * 20


def test_what_dask_has_changed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute_meta(func: Any, dtype: Any, *args: Any, **more: Any) -> Any:
        return np.empty((0,), dtype)

    with monkeypatch.context() as patch:
        patch.setattr(da.utils, "compute_meta", compute_meta)
        patch.delattr(sys.modules["dask.tokenize"], "_normalize_pickle")
        with building():
            assert da.utils.compute_meta is compute_meta
            assert da.ones(3).sum().dtype == "f8"


def test_what_others_put_in_place_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        with building():
            ours = vars(da.core)["compute_meta"]
            patch.setattr(da.core, "compute_meta", lambda *args, **kwargs: ours(*args, **kwargs))
            theirs = da.core.compute_meta
        assert da.core.compute_meta is theirs
        assert da.ones(3).map_blocks(np.exp).dtype == "f8"
        patch.setattr(da.core, "compute_meta", THEIRS["dask.array.core", "compute_meta"])
    da.core.compute_meta = THEIRS["dask.array.core", "compute_meta"]


def test_compiled_functions_and_sharing_build_so() -> None:
    found = []

    def step(x: Any, a: float) -> Any:
        found.append(vars(da.core)["compute_meta"])
        return (x * a).sum()

    compiled = go.compile(step)
    x = da.ones(4, chunks=2).persist(scheduler="sync")
    assert float(compiled(x, 2.0)) == 8.0
    assert float(compiled(x, 3.0)) == 12.0
    with go.sharing():
        found.append(vars(da.core)["compute_meta"])
    assert len({*found, THEIRS["dask.array.core", "compute_meta"]}) == 2
