"""Bound plans as dask collections: values, schedulers, other code around them, rebinding, and what is refused."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import dask.bag as db
import distributed
import numpy as np
import pytest

import graphopt as go


def held(array: np.ndarray, chunks: Any) -> da.Array:
    """Return an array whose blocks are in memory."""
    return da.from_array(array, chunks=chunks).persist(scheduler="sync")


DATA = np.random.default_rng(0).random((100, 3))
LABELS = (DATA[:, 0] > 0.5).astype(float)


def logistic(X: Any, y: Any, beta: Any, ridge: Any) -> dict[str, Any]:
    """Return loss, gradient, probabilities, and a number that is no array."""
    eta = X.dot(beta)
    p = 1 / (1 + da.exp(-eta))
    loss = (da.log1p(da.exp(-eta)) + (1 - y) * eta).sum() + ridge * (beta**2).sum()
    return {"loss": loss, "gradient": X.T.dot(p - y), "p": p, "twice": 2 * ridge, "name": "logistic"}


@pytest.fixture
def bound() -> tuple[Any, go.Plan]:
    step = go.compile(logistic)
    X, y = held(DATA, (25, 3)), held(LABELS, 25)
    return step, step.plan(X, y, np.ones(3), 0.1)


def same(found: Any, wanted: Any) -> bool:
    """Compare two results of the function."""
    return all(np.allclose(np.asarray(found[k]), np.asarray(wanted[k])) for k in ("loss", "gradient", "p", "twice"))


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_it_gives_what_a_call_gives(bound: tuple[Any, go.Plan], scheduler: str) -> None:
    step, plan = bound
    X, y = held(DATA, (25, 3)), held(LABELS, 25)
    found = plan.lazy()
    assert isinstance(found["loss"], da.Array)
    assert found["p"].chunks == ((25,) * 4,)
    assert found["name"] == "logistic"
    (values,) = dask.compute(found, scheduler=scheduler)
    assert same(values, step(X, y, np.ones(3), 0.1))
    (values,) = dask.compute(plan.lazy(np.zeros(3), 3.0), scheduler=scheduler)
    assert same(values, step(X, y, np.zeros(3), 3.0))
    (values,) = dask.compute(plan.lazy(ridge=5.0, X=held(DATA[::-1].copy(), (25, 3))), scheduler=scheduler)
    assert same(values, step(held(DATA[::-1].copy(), (25, 3)), y, np.ones(3), 5.0))


def test_it_goes_with_other_dask_code(bound: tuple[Any, go.Plan]) -> None:
    _, plan = bound
    found = plan.lazy()
    more = (found["p"] + found["gradient"].sum()).rechunk(10).max() + found["loss"]
    wanted = found["p"].compute() + found["gradient"].compute().sum()
    assert np.isclose(more.compute(scheduler="sync"), wanted.max() + found["loss"].compute())
    with go.optimized():
        assert np.isclose(more.compute(scheduler="threads"), wanted.max() + found["loss"].compute())
    assert (dask.delayed(float)(found["loss"])).compute() == float(found["loss"].compute())
    assert found["p"].persist().sum().compute() == pytest.approx(found["p"].compute().sum())
    assert (found["p"][10:20].compute() == found["p"].compute()[10:20]).all()


def test_its_graph_is_the_plan_and_refers_to_the_data(bound: tuple[Any, go.Plan]) -> None:
    _, plan = bound
    found = plan.lazy()
    layers = found["p"].dask.layers
    own = [name for name in layers if str(name).startswith("plan-")]
    assert len(own) == 1
    tasks = [task for key, task in layers[own[0]].items() if len(key) == 2]
    assert len(tasks) == plan.lanes
    assert any(layer is plan.given[0].value.dask.layers[plan.given[0].value.name] for layer in layers.values())
    assert found["loss"].dask.layers[own[0]] is layers[own[0]], "results share it"


def test_each_binding_has_keys_of_its_own(bound: tuple[Any, go.Plan]) -> None:
    """A scheduler that holds results of one binding must never take them for another's."""
    _, plan = bound
    first, second = plan.lazy(np.ones(3)), plan.lazy(np.zeros(3))
    kept = set(plan.given[0].value.dask) | set(plan.given[1].value.dask)
    assert (set(first["p"].dask) & set(second["p"].dask)) <= kept
    both = dask.compute(first["p"], second["p"])
    assert not np.allclose(*both)


def test_what_a_function_passes_through() -> None:
    x = held(np.arange(6.0), 2)
    step = go.compile(lambda x, b: (x, b, x + b, None))
    found = step.plan(x, np.ones(1)).lazy(np.full(1, 2.0))
    (values,) = dask.compute(found)
    assert [np.asarray(value).tolist() for value in values[:3]] == [[0, 1, 2, 3, 4, 5], [2], [2, 3, 4, 5, 6, 7]]
    assert values[3] is None


def test_bags_and_delayed() -> None:
    bag = db.from_sequence(range(6), npartitions=2)
    step = go.compile(lambda bag, n: (bag.map(lambda i: i * 2).sum(), dask.delayed(lambda i: [i, i])(n)))
    total, pair = step.plan(bag, 3).lazy(4)
    assert dask.compute(total, pair, scheduler="sync") == (30, [4, 4])


def test_chunks_that_are_still_to_be_loaded() -> None:
    x = da.from_array(np.arange(12.0), chunks=4)
    step = go.compile(lambda x, a: (x * a).sum())
    assert float(step.plan(x, 2.0).lazy(3.0).compute()) == 198.0


def test_an_error_has_the_users_key(bound: tuple[Any, go.Plan]) -> None:
    def bad(block: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("no")

    x = held(np.arange(4.0), 2)
    step = go.compile(lambda x: x.map_blocks(bad, dtype=float, meta=np.ones(0)) + 1)
    with pytest.raises(ZeroDivisionError) as info:
        step.plan(x).lazy().compute(scheduler="sync")
    assert "bad" in "".join(getattr(info.value, "__notes__", []))


@pytest.mark.parametrize(
    ("small", "named", "why"),
    [
        ((1, 2, 3), {}, r"3 small arguments are given; there are \['beta', 'ridge'\]"),
        ((), {"gamma": 1}, "no argument 'gamma', only"),
        ((np.ones(4),), {}, r"'beta' is array .*\(4,\), and the plan is made for array .*\(3,\)"),
        ((np.ones(3, "f4"),), {}, "float32 .*, and the plan is made for array ndarray float64"),
        ((), {"ridge": "much"}, "'ridge'"),
        ((), {"X": held(DATA, (50, 3))}, "'X' is chunked"),
    ],
)
def test_what_does_not_fit_is_refused(bound: tuple[Any, go.Plan], small: Any, named: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        bound[1].lazy(*small, **named)


def test_a_plan_that_is_kept_holds_no_data() -> None:
    step = go.compile(logistic)
    step(held(DATA, (25, 3)), held(LABELS, 25), np.ones(3), 0.1)
    assert all(ready.plan.given == () for ready in step._ready.values())
    with pytest.raises(TypeError, match="knows no arguments"):
        next(iter(step._ready.values())).plan.lazy()


def test_on_a_cluster(client: distributed.Client) -> None:
    X, y = client.persist([da.from_array(DATA, chunks=(25, 3)), da.from_array(LABELS, chunks=25)])
    step = go.compile(logistic)
    plan = step.plan(X, y, np.ones(3), 0.1)
    with dask.config.set(scheduler="sync"):
        wanted = dask.compute(logistic(da.from_array(DATA), da.from_array(LABELS), np.zeros(3), 2.0))[0]
    found = plan.lazy(np.zeros(3), 2.0)
    assert same(dask.compute(found)[0], wanted)
    assert np.isclose(client.compute(found["p"].sum() + found["loss"]).result(), wanted["p"].sum() + wanted["loss"])
