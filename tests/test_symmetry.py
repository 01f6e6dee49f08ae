"""Plans made from a few blocks: the same as those made from all, and none where blocks are not treated alike."""

from __future__ import annotations

import functools
import operator
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt as go
from graphopt import plan as planning
from graphopt import symmetry
from graphopt import widen as widening

BLOCKS = 24


def data(blocks: int = BLOCKS, *, uneven: bool = False) -> tuple[da.Array, da.Array, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = tuple((7, 3)[place % 2] if uneven else 5 for place in range(blocks))
    X = da.from_array(rng.random((sum(rows), 4)), chunks=(rows, (4,))).persist(scheduler="sync")
    y = da.from_array(rng.integers(0, 3, sum(rows)).astype(float), chunks=(rows,)).persist(scheduler="sync")
    return X, y, rng.random(4)


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """List what was planned from a few blocks: a schedule, or None where the whole graph was planned."""
    found: list[Any] = []
    real_sample, real_widen = symmetry.sample, widening.widen

    def sample(*args: Any) -> Any:
        few = real_sample(*args)
        if few is None:
            found.append(None)
        return few

    def widen(*args: Any) -> Any:
        found.append(real_widen(*args))
        return found[-1]

    monkeypatch.setattr(planning, "sample", sample)
    monkeypatch.setattr(planning, "widen", widen)
    return found


@pytest.fixture
def same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the stand-ins of all plans the same names, by which the layers of a graph are ordered."""
    monkeypatch.setattr(planning, "uuid", types.SimpleNamespace(uuid4=lambda: uuid.UUID(int=7)))


def plan_of_all(fn: Callable[..., Any], *args: Any, policy: go.Policy | None = None) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "sample", lambda *_: None)
        return go.compile(fn, policy=policy).plan(*args)


def close(found: Any, wanted: Any) -> None:
    if isinstance(wanted, (tuple, list)):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            close(one, other)
        return
    found, wanted = dask.compute(found, wanted, scheduler="sync")
    assert np.asarray(found).dtype == np.asarray(wanted).dtype
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def wanted(fn: Callable[..., Any], *args: Any) -> Any:
    def stood_in(value: Any) -> Any:
        return da.from_array(value, chunks=-1) if isinstance(value, np.ndarray) else value

    return fn(*map(stood_in, args))


def logistic(X: Any, y: Any, b: Any) -> Any:
    eta = X.dot(b)
    p = 1 / (1 + da.exp(-eta))
    return (da.log1p(da.exp(eta)) - y * eta).sum(), X.T.dot(p - y)


def nearest(X: Any, y: Any, b: Any) -> Any:
    centres = b[None, :] * np.arange(3)[:, None]
    labels = (-2 * X.dot(centres.T) + (centres**2).sum(axis=1)).argmin(axis=1)
    return labels, [da.where((labels == k)[:, None], X, 0).sum(axis=0) for k in range(3)]


def in_columns(X: Any, y: Any) -> Any:
    return X.sum(axis=1), X - X.mean(axis=0), X.T.dot(y)


ALIKE: dict[str, Callable[..., Any]] = {
    "logistic": logistic,
    "one chunked result": lambda X, y, b: da.exp(X) - y[:, None],
    "a result on the way": lambda X, y, b: ((z := X * 2), z.sum(), (z + 1).max(axis=0)),
    "gram": lambda X, y, b: (X.T @ X, X.T @ y),
    "standardised": lambda X, y, b: (X - X.mean(axis=0)) / X.std(axis=0),
    "columns": lambda X, y, b: X[:, 1:3] * X[:, :1],
    "nearest": nearest,
    "transposed": lambda X, y, b: (X.T * y, (X.T * y).sum(axis=1)),
    "norm": lambda X, y, b: y / da.linalg.norm(y),
    "all axes": lambda X, y, b: (X.sum(), X.mean(), X.min(axis=1).max()),
    "keepdims": lambda X, y, b: X / X.max(axis=0, keepdims=True),
    "numbers": lambda X, y, b: X * 0.5 + 1,
    "a function of the user's": lambda X, y, b: X.map_blocks(lambda block, k: block**k, 2).sum(axis=0),
    "small work": lambda X, y, b: X.dot(b / da.sqrt((b**2).sum())),
    "the same twice": lambda X, y, b: (X.sum(axis=0), X.sum(axis=0)),
    "stacked": lambda X, y, b: da.stack([y, y * 2], axis=1).sum(axis=0),
    "columns joined": lambda X, y, b: da.concatenate([X, X * 2], axis=1).sum(axis=0),
    "any and all": lambda X, y, b: ((X > 0.5).any(axis=0), (X >= 0).all()),
}

OTHERWISE: dict[str, Callable[..., Any]] = {
    "some rows": lambda X, y, b: X[3:40].sum(axis=0),
    "one block": lambda X, y, b: X.blocks[2] * 2,
    "the first argument": lambda X, y, b: y.argmax(),
    "running sums": lambda X, y, b: da.cumsum(X, axis=0),
    "neighbours": lambda X, y, b: X.map_overlap(lambda block: block, depth=1, boundary="none"),
    "where blocks are": lambda X, y, b: y.map_blocks(
        lambda block, block_info=None: block * block_info[0]["num-chunks"][0], dtype=float
    ),
    "random": lambda X, y, b: X + da.random.default_rng(3).random(X.shape, chunks=X.chunks),
    "rows joined": lambda X, y, b: da.concatenate([X, X]).sum(axis=0),
    "other chunks": lambda X, y, b: X.rechunk((10, 2)).sum(axis=1),
    "all pairs": lambda X, y, b: (y[:, None] - y[None, :]).max(),
    "sums of some, then the greatest": lambda X, y, b: da.reduction(
        y, np.sum, np.max, combine=_sum, axis=0, dtype=float, concatenate=True, split_every=4
    ),
    "a median": lambda X, y, b: da.median(X.rechunk((-1, 1)), axis=0),
    "a number for each block": lambda X, y, b: X * da.arange(X.shape[0], chunks=X.chunks[0])[:, None],
}


def _sum(block: Any, axis: Any, keepdims: bool) -> Any:
    return np.sum(block, axis=axis, keepdims=keepdims)


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("name", ALIKE)
def test_the_plan_is_that_of_all_blocks(name: str, uneven: bool, samples: list[Any], same_names: None) -> None:
    arguments = data(uneven=uneven)
    step = go.compile(ALIKE[name])
    plan = step.plan(*arguments)
    assert samples[0] is not None
    plan._check()
    whole = plan_of_all(ALIKE[name], *arguments)
    assert plan.explain() == whole.explain()
    assert sorted(map(repr, plan.refusals)) == sorted(map(repr, whole.refusals))
    assert labels_of(plan) == labels_of(whole)
    close(plan.lazy(), wanted(ALIKE[name], *arguments))  # kernel by kernel; compiled loops are not the matter here
    if name == "logistic":
        close(step(*arguments), wanted(ALIKE[name], *arguments))


@pytest.mark.parametrize("blocks", [3, BLOCKS])
def test_the_text_of_kernels_does_not_depend_on_names(blocks: int) -> None:
    """It is kept on disk, compiled: another process, whose stand-ins have other names, must find it."""
    plans = [go.compile(logistic).plan(*data(blocks)) for _ in range(8)]
    assert len({frozenset(plan.trace.graph.layers) for plan in plans}) == len(plans)
    assert len({plan.source for plan in plans}) == 1


def test_columns_in_several_chunks(samples: list[Any], same_names: None) -> None:
    X, y, _ = data()
    X = X.rechunk({1: 2}).persist(scheduler="sync")
    plan = go.compile(in_columns).plan(X, y)
    assert samples[0] is not None
    plan._check()
    assert plan.explain() == plan_of_all(in_columns, X, y).explain()
    close(plan.lazy(), in_columns(X, y))


@pytest.mark.parametrize("name", ALIKE)
def test_anything_on_columns_in_several_chunks(name: str, same_names: None) -> None:
    X, y, b = data()
    X = X.rechunk({1: 2}).persist(scheduler="sync")
    plan = go.compile(ALIKE[name]).plan(X, y, b)
    assert plan.explain() == plan_of_all(ALIKE[name], X, y, b).explain()
    close(plan.lazy(), wanted(ALIKE[name], X, y, b))


def labels_of(plan: Any) -> list[list[tuple[str, ...]]]:
    """List the keys of all lanes, with the keys of their inputs and outputs and of their steps."""
    key_of = {slot: repr(key) for key, slot in plan.schedule.slots.items()}

    def said(lane: Any) -> tuple[str, ...]:
        slots = [[key_of.get(slot, "a literal") for slot in slots] for slots in (lane.reads, lane.writes)]
        return (repr(lane.key), repr(slots), repr(lane.labels))

    return [sorted(map(said, group.lanes)) for level in plan.levels for group in level.groups]


@pytest.mark.filterwarnings("ignore:Increasing number of chunks")
@pytest.mark.parametrize("name", OTHERWISE)
def test_blocks_that_are_not_alike_are_planned_one_by_one(name: str, samples: list[Any]) -> None:
    arguments = data()
    step = go.compile(OTHERWISE[name])
    found = step(*arguments)
    assert samples == [None]
    close(found, wanted(OTHERWISE[name], *arguments))


@pytest.mark.parametrize("parallelism", [1, 2, 5, 64])
def test_as_many_lanes_stay_apart(parallelism: int, samples: list[Any], same_names: None) -> None:
    policy = go.Policy(parallelism=parallelism)
    arguments = data()
    plan = go.compile(logistic, policy=policy).plan(*arguments)
    assert plan.explain() == plan_of_all(logistic, *arguments, policy=policy).explain()
    assert (samples[0] is None) == (parallelism == 64)  # more than there are blocks


def test_few_blocks_are_planned_as_they_are(samples: list[Any]) -> None:
    arguments = data(6)
    close(go.compile(logistic)(*arguments), wanted(logistic, *arguments))
    assert samples == [None]


def test_exact_keeps_the_trees_of_sums(samples: list[Any]) -> None:
    arguments = data()
    found = go.compile(logistic, exact=True)(*arguments)
    assert samples == []
    for one, other in zip(found, dask.compute(*wanted(logistic, *arguments), scheduler="sync"), strict=True):
        assert np.array_equal(one, other)


def test_what_is_planned_does_not_grow_with_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[int] = []
    lay_out = planning.lay_out

    def counted(graph: Any, *args: Any, **kwargs: Any) -> Any:
        planned.append(len(graph))
        return lay_out(graph, *args, **kwargs)

    monkeypatch.setattr(planning, "lay_out", counted)
    steps = [go.compile(logistic) for _ in range(2)]
    plans = [step.plan(*data(blocks)) for step, blocks in zip(steps, (40, 400), strict=True)]
    assert plans[1].lanes > 9 * plans[0].lanes
    assert planned[1] <= planned[0] + 4  # two more steps in each tree


# -- graphs that somebody wrote -------------------------------------------------------------------------------------------


def block_of(block: Any, number: Any = 0) -> Any:
    return block * 2 + number


def doubled(block: Any, number: Any = 0) -> Any:
    return block * 2.5 + number


DIFFERENT: dict[str, Callable[[str, int], Any]] = {
    "nothing": lambda name, i: (block_of, (name, i)),
    "the function": lambda name, i: (doubled if i == 20 else block_of, (name, i)),
    "the block": lambda name, i: (block_of, (name, (i + 1) % BLOCKS if i in (20, 21) else i)),
    "the order": lambda name, i: (block_of, (name, BLOCKS - 1 - i)),
    "a number": lambda name, i: (block_of, (name, i), 2 if i == 20 else 1),
    "a type": lambda name, i: (block_of, (name, i), np.float32(1) if i == 20 else 1),
    "how many": lambda name, i: (block_of, (name, i), (name, i)) if i == 20 else (block_of, (name, i)),
    "a list": lambda name, i: (sum, [(name, i), (name, 0)]) if i == 20 else (sum, [(name, i), (name, i)]),
    "a task": lambda name, i: Task(("made", i), block_of, TaskRef((name, i)), number=i // 20),
    "a constant": lambda name, i: (block_of, (name, 0) if i == 20 else (name, i)),
    "data": lambda name, i: np.full(5, float(i)),
    "an alias": lambda name, i: (name, i),
}


@pytest.mark.parametrize("what", DIFFERENT)
@pytest.mark.parametrize("total", [False, True])
def test_one_task_of_a_layer_is_different(what: str, total: bool, samples: list[Any]) -> None:
    made = DIFFERENT[what]

    def fn(y: Any) -> Any:
        layer = {("made", i): made(y.name, i) for i in range(BLOCKS)}
        out = da.Array(HighLevelGraph.from_collections("made", layer, [y]), "made", y.chunks, dtype=float, meta=y._meta)
        return out.sum() if total else out + 0.5

    _, y, _ = data()
    close(go.compile(fn)(y), fn(y))
    assert (samples[0] is not None) == (what in ("nothing", "an alias"))


TREES: dict[str, Callable[[str], dict[Any, Any]]] = {
    "in order": lambda name: tree(name, [list(range(i, i + 4)) for i in range(0, BLOCKS, 4)]),
    "of uneven steps": lambda name: tree(name, [list(range(20)), [20], [21, 22, 23]]),
    "not in order": lambda name: tree(name, [list(range(i, i + 4)) for i in range(BLOCKS - 4, -1, -4)]),
    "one block missing": lambda name: tree(name, [list(range(i, i + 4)) for i in range(0, BLOCKS - 4, 4)]),
    "one block twice": lambda name: tree(name, [list(range(i, i + 4)) for i in range(0, BLOCKS, 4)] + [[3]]),
}


def tree(name: str, steps: list[list[int]]) -> dict[Any, Any]:
    inner, last = (functools.partial(np.sum, axis=(0,), keepdims=keepdims, dtype=np.dtype(float)) for keepdims in (True, False))
    join = da.core.partial(da.core._concatenate2, axes=[0])
    compose = __import__("toolz").compose
    inner, last = compose(inner, join), compose(last, join)
    layer: dict[Any, Any] = {("made-step", i): (inner, [(name, j) for j in places]) for i, places in enumerate(steps)}
    return {**layer, ("made",): (last, [("made-step", i) for i in range(len(steps))])}


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("what", TREES)
def test_trees_that_somebody_wrote(what: str, apart: bool, samples: list[Any]) -> None:
    def fn(y: Any) -> Any:
        layer = TREES[what](y.name)
        if apart:
            last = {("made",): layer.pop(("made",))}
            below = HighLevelGraph.from_collections("made-step", layer, [y])
            graph = HighLevelGraph({**below.layers, "made": last}, {**below.dependencies, "made": {"made-step"}})
        else:
            graph = HighLevelGraph.from_collections("made", layer, [y])
        return da.Array(graph, "made", (), dtype=float, meta=np.empty(()))

    _, y, _ = data()
    close(go.compile(fn)(y), fn(y))
    assert (samples[0] is not None) == (apart and what in ("in order", "of uneven steps"))


def test_a_step_of_a_tree_may_be_asked_for(samples: list[Any]) -> None:
    def fn(y: Any) -> Any:
        total = y.sum(split_every=4)
        name = next(name for name in total.dask.layers if "partial" in name)
        size = len(total.dask.layers[name])
        return total, da.Array(total.dask, name, ((1,) * size,), dtype=float, meta=y._meta)

    _, y, _ = data()
    close(go.compile(fn)(y), fn(y))
    assert samples == [None]


# -- at random -----------------------------------------------------------------------------------------------------------

ONE: list[Callable[[Any], Any]] = [
    lambda v: v * 2,
    da.exp,
    lambda v: v - v.mean(),
    lambda v: v / (1 + abs(v).max()),
    lambda v: v - v.sum(axis=0),
    lambda v: da.where(v > 0.5, v, -v),
    lambda v: v.map_blocks(np.tanh),
    lambda v: v[..., None][..., 0],
    lambda v: v.astype("f4").astype(float),
    lambda v: -v,
]
TWO: list[Callable[[Any, Any], Any]] = [operator.add, operator.mul, lambda v, w: da.where(v < w, v, w), da.maximum]
LAST: list[Callable[[Any], Any]] = [
    lambda v: v,
    lambda v: v.sum(axis=0),
    lambda v: v.std(),
    lambda v: v.max(),
    lambda v: v.mean(),
]


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[int, ...]]:
    steps = draw(st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=1, max_size=7))
    return steps


def run(steps: list[tuple[int, ...]], y: Any, z: Any) -> Iterator[Any]:
    values = [y, z]
    for kind, which, left, right in steps:
        first, second = values[left % len(values)], values[right % len(values)]
        values.append(ONE[which % len(ONE)](first) if kind < 6 else TWO[which % len(TWO)](first, second))
    for place, (kind, *_) in enumerate(steps):
        yield LAST[kind % len(LAST)](values[2 + place])


@settings(max_examples=40, deadline=None)
@given(programs(), st.sampled_from([9, 10, 17, 33]))
def test_programs_at_random(steps: list[tuple[int, ...]], blocks: int) -> None:
    rng = np.random.default_rng(1)
    y, z = (da.from_array(rng.random(4 * blocks), chunks=4).persist(scheduler="sync") for _ in range(2))
    fn = lambda y, z: list(run(steps, y, z))  # noqa: E731
    plan = go.compile(fn).plan(y, z)
    plan._check()
    close(plan.lazy(), fn(y, z))
