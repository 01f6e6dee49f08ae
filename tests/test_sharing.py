"""Sharing: dask operations that refer to the layers before them. Results, history, threads, and what becomes of dask."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import distributed
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph

import graphopt as go
from graphopt import SharedGraph, sharing


def module() -> Any:
    """Return the module, which the function of its name hides."""
    return sys.modules["graphopt.sharing"]


THEIRS = HighLevelGraph.__dict__["from_collections"]


@pytest.fixture(autouse=True)
def dask_as_it_was() -> Iterator[None]:
    """Whatever a test does, dask is as it was after it."""
    yield
    assert HighLevelGraph.__dict__["from_collections"] is THEIRS


def history(length: int) -> da.Array:
    """Return an array with so many operations behind it."""
    x = da.ones(4, chunks=2)
    for _ in range(length):
        x = x + 1
    return x


def test_layers_are_shared_and_results_are_dask() -> None:
    with sharing():
        x = history(50)
        y = (x.sum() + da.arange(4, chunks=2)).reshape(2, 2)
        z = da.concatenate([x, x[::-1]]).rechunk(3)
    assert isinstance(x.dask.layers, SharedGraph)
    assert len(x.dask.layers) == 51
    assert isinstance(y.dask.layers, SharedGraph)
    assert y.dask.validate() is None
    assert (y.compute(scheduler="sync") == 204 + np.arange(4).reshape(2, 2)).all()
    assert (z.compute(scheduler="sync") == 51).all()
    assert y.dask.keys() == dict(y.dask).keys()


def test_it_is_the_graph_that_dask_makes() -> None:
    plain = (history(5) * 2).sum()
    with sharing():
        shared = (history(5) * 2).sum()
    assert dict(shared.dask.layers).keys() == dict(plain.dask.layers).keys()
    assert dict(shared.dask.dependencies) == dict(plain.dask.dependencies)
    assert set(shared.dask) == set(plain.dask)
    assert shared.name == plain.name
    assert [layer.collection_annotations for layer in shared.dask.layers.values()] == [
        layer.collection_annotations for layer in plain.dask.layers.values()
    ]


def test_an_operation_holds_its_own_layer_only() -> None:
    """Counted: the new dictionary has one entry, whatever the history; the old ones are the same objects."""
    with sharing():
        for length in (1, 100, 1_000):
            x = history(length)
            y = x + 1
            assert len(y.dask.layers.own) == len(y.dask.dependencies.own) == 1
            assert y.dask.layers.parents == (x.dask.layers,)
            assert y.dask.layers.parents[0] is x.dask.layers


def test_what_was_built_outside_is_shared_too() -> None:
    x = history(10)
    with sharing():
        y = x + 1
    assert y.dask.layers.own.keys() == {y.name}
    z = y + 1  # outside again: dask's own way
    assert type(z.dask.layers) is dict
    assert (z.compute(scheduler="sync") == 13).all()


def test_bags_and_delayed() -> None:
    with sharing():
        bag = db.from_sequence(range(10), npartitions=3).map(abs).filter(bool)
        total = dask.delayed(sum)([bag.sum(), dask.delayed(3), da.ones(2, chunks=1).sum()])
        both = dask.delayed(lambda a, b: a + b)(total, bag.max())
    assert both.compute(scheduler="sync") == 45 + 3 + 2 + 9


def test_dask_optimises_pickles_merges_and_culls_it() -> None:
    with sharing():
        x = history(20)
        y = x.sum()
    (again,) = dask.optimize(y)
    assert again.compute(scheduler="sync") == 84
    assert pickle.loads(pickle.dumps(y)).compute(scheduler="sync") == 84
    merged = HighLevelGraph.merge(x.dask, y.dask)
    assert len(merged.layers) == len(y.dask.layers)
    assert len(y.dask.cull(x.__dask_keys__()).layers) == 21
    assert y.dask.copy().layers.keys() == y.dask.layers.keys()
    assert dask.compute(x.max(), y, scheduler="threads") == (21, 84)


def test_contexts_nest_and_end_in_any_order() -> None:
    first, second = sharing(), sharing()
    first.__enter__()
    second.__enter__()
    assert HighLevelGraph.__dict__["from_collections"] is not THEIRS
    second.__exit__(None, None, None)
    assert isinstance(history(2).dask.layers, SharedGraph)
    first.__exit__(None, None, None)
    with pytest.raises(ZeroDivisionError), sharing():
        raise ZeroDivisionError
    assert type(history(2).dask.layers) is dict


def test_other_threads_and_tasks_are_not_affected() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with sharing():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    assert HighLevelGraph.__dict__["from_collections"] is not THEIRS
    assert type(history(2).dask.layers) is dict
    with sharing():
        assert isinstance(history(2).dask.layers, SharedGraph)
    assert type(history(2).dask.layers) is dict
    leave.set()
    thread.join()

    async def both() -> tuple[type, type]:
        async def shares() -> type:
            with sharing():
                await asyncio.sleep(0.01)
                return type(history(1).dask.layers)

        async def plain() -> type:
            await asyncio.sleep(0.005)
            return type(history(1).dask.layers)

        some, others = await asyncio.gather(shares(), plain())
        return some, others

    assert asyncio.run(both()) == (SharedGraph, dict)


def test_optimized_shares() -> None:
    with go.optimized():
        x = history(30)
        assert isinstance(x.dask.layers, SharedGraph)
        assert (x.compute(scheduler="sync") == 31).all()
    with go.optimized(replay=True):
        assert (history(30).compute(scheduler="threads") == 31).all()


def test_where_dask_has_changed_it_goes_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module(), "_unknown", lambda: "its layers differ")
    context = sharing()
    with pytest.warns(go.GraphoptWarning, match="its layers differ"):
        context.__enter__()
    assert HighLevelGraph.__dict__["from_collections"] is THEIRS
    assert type(history(3).dask.layers) is dict
    context.__exit__(None, None, None)


def test_what_has_changed_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module()._unknown() is None
    theirs = HighLevelGraph.__init__

    def other(self: Any, *args: Any) -> None:
        theirs(self, *args)
        self.something_new = 1

    with monkeypatch.context() as patch:
        patch.setattr(HighLevelGraph, "__init__", other)
        assert "holds other things" in module()._unknown()
    with monkeypatch.context() as patch:
        patch.setattr(HighLevelGraph, "from_collections", classmethod(lambda cls, name, layer: None))
        assert "takes other arguments" in module()._unknown()


def test_no_collection_is_still_no_collection() -> None:
    with sharing(), pytest.raises(TypeError):
        HighLevelGraph.from_collections("a", {}, dependencies=[1])  # type: ignore[list-item]


def test_persisted_results_cut_their_history() -> None:
    """A loop that persists each step holds a bounded graph."""
    with sharing():
        x = da.ones(4, chunks=2)
        for _ in range(20):
            x = (x + 1).persist(scheduler="sync")
            assert len(x.dask.layers) == 1
            assert len(x.dask) == 2
    assert (x.compute(scheduler="sync") == 21).all()


def test_it_crosses_the_wire(client: distributed.Client) -> None:
    with sharing():
        x = history(30)
        assert (x.compute() == 31).all()
        assert (x.persist() + 1).sum().compute() == 128
    assert x.sum().compute() == 124


def test_a_long_history_is_optimised() -> None:
    with sharing():
        x = history(3_000)
    key = x.__dask_keys__()[0]
    graph = go.optimize(x, [key])
    assert len(graph) == 1
    assert (dask.get(graph, key) == 3_001).all()
