"""SharedGraph against the dictionary it stands for, on every scheduler, over long histories."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Mapping
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from dask.delayed import Delayed
from hypothesis import given
from hypothesis import strategies as st

import graphopt as go
from graphopt import SharedGraph
from graphopt.spec import Alias, DataNode, Task, TaskRef
from graphopt.types import MissingKeyError


def inc(x: int) -> int:
    """Return one more."""
    return x + 1


def chain(length: int, step: int = 1) -> SharedGraph:
    """Return a chain of tasks, so many to a graph."""
    graph = SharedGraph({("x", 0): Task(("x", 0), int, 0)})
    for start in range(1, length, step):
        tasks = {("x", i): Task(("x", i), inc, TaskRef(("x", i - 1))) for i in range(start, min(start + step, length))}
        graph = SharedGraph(tasks, [graph])
    return graph


class Collides:
    """A key that hashes like all others."""

    def __init__(self, name: int) -> None:
        self.name = name

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Collides) and other.name == self.name

    def __repr__(self) -> str:
        return f"Collides({self.name})"


KEYS: st.SearchStrategy[Any] = st.one_of(
    st.integers(-2, 2),
    st.sampled_from(["a", "b", b"a", "", 0.5]),
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 2)),
    st.tuples(st.tuples(st.just("a"), st.integers(0, 1)), st.just(1)),
    st.builds(Collides, st.integers(0, 3)),
)
OWN = st.dictionaries(KEYS, st.integers(), max_size=4)


@st.composite
def twins(draw: st.DrawFn) -> tuple[list[SharedGraph], list[dict[Any, Any]]]:
    """Draw graphs that grow from one another, and the dictionaries they stand for."""
    graphs: list[SharedGraph] = []
    plain: list[dict[Any, Any]] = []
    for _ in range(draw(st.integers(1, 8))):
        own = draw(OWN)
        above = draw(st.lists(st.integers(0, len(graphs) - 1), max_size=3)) if graphs else []
        whole: dict[Any, Any] = {}
        for i in above:
            whole.update(plain[i])
        whole.update(own)
        graphs.append(SharedGraph(own, [graphs[i] for i in above]))
        plain.append(whole)
    return graphs, plain


@given(twins(), st.lists(KEYS, max_size=5), st.integers(0, 600))
def test_it_is_the_dictionary_it_stands_for(found: tuple[list[SharedGraph], list[Any]], keys: list[Any], times: int) -> None:
    graphs, plain = found
    for graph, twin in zip(graphs, plain, strict=True):
        for _ in range(times):  # until there is an index
            assert graph.get("a") == twin.get("a")
        assert len(graph) == len(twin)
        assert bool(graph) == bool(twin)
        assert list(graph) == list(twin)
        assert list(graph.items()) == list(twin.items())
        assert list(graph.values()) == list(twin.values())
        assert graph == twin
        assert twin == graph
        assert dict(graph) == twin
        assert graph.flatten() == twin
        assert not graph.flatten().parents
        for key in [*keys, *twin]:
            assert (key in graph) == (key in twin)
            assert graph.get(key, "none") == twin.get(key, "none")
            assert ((key, 1) in graph.items()) == ((key, 1) in twin.items())
        assert graph != {**twin, "more": 1}
        assert graph.merge({"more": 1}) == {**twin, "more": 1}
        assert graph.merge(*graphs) == {key: value for each in [twin, *plain] for key, value in each.items()}
        assert pickle.loads(pickle.dumps(graph)) == twin
        assert graph.copy() == twin
        assert type(graph.copy()) is dict
        assert copy.copy(graph) is copy.deepcopy(graph) is graph


@given(twins())
def test_old_versions_never_change(found: tuple[list[SharedGraph], list[Any]]) -> None:
    graphs, plain = found
    for graph in graphs:
        graph.merge({"more": 1}).cull("more")
        with pytest.raises(TypeError):
            graph["more"] = 1  # type: ignore[index]
        with pytest.raises(TypeError):
            graph.own["more"] = 1  # type: ignore[index]
    assert [graph.to_dict() for graph in graphs] == plain


def test_a_dictionary_that_changes_later_does_not_change_the_graph() -> None:
    own: dict[Any, Any] = {"a": 1}
    parent: dict[Any, Any] = {"b": 2}
    graph = SharedGraph(own, [parent])
    own["a"] = parent["b"] = 3
    graph.to_dict()["a"] = 4
    assert graph == {"a": 1, "b": 2}


def test_what_does_nothing_returns_the_same_object() -> None:
    graph = chain(10)
    assert SharedGraph({}, [graph]) is graph
    assert SharedGraph({}, [graph, graph]) is graph
    assert SharedGraph(graph) is graph
    assert graph.merge() is graph
    assert graph.merge({}, graph, SharedGraph()) is graph
    assert graph.cull(("x", 9)) is graph
    assert graph.cull([[("x", 9)], ("x", 3)]) is graph
    flat = graph.flatten()
    assert flat.flatten() is flat
    assert flat is not graph


def test_cull_keeps_what_is_needed_and_touches_no_more() -> None:
    class Guarded(dict[Any, Any]):
        def __getitem__(self, key: Any) -> Any:
            raise AssertionError(f"{key} was looked at")

    old = SharedGraph({"old": 1})
    old._own = Guarded(old=1)
    graph = SharedGraph({"a": Task("a", inc, 1), "b": Task("b", inc, TaskRef("a")), "c": Task("c", inc, TaskRef("b"))}, [old])
    small = graph.cull("b")
    assert list(small) == ["a", "b"]
    assert graph.cull([]) == {}
    with pytest.raises(MissingKeyError, match="'nothing'"):
        chain(3).cull("nothing")


def test_cull_reads_legacy_tasks_and_aliases() -> None:
    graph = SharedGraph({"a": 1, "b": (inc, "a"), "c": Alias("c", "b"), "d": (sum, ["a", "c"]), "e": DataNode("e", 5)})
    assert set(graph.cull("d")) == {"a", "b", "c", "d"}
    assert dask.get(graph, "d") == 3
    graph._check()


@pytest.mark.slow
def test_a_history_of_100_000() -> None:
    graph = chain(100_000)
    assert len(graph) == 100_000
    assert len(graph.cull(("x", 10))) == 11
    assert graph[("x", 0)] is not None
    assert graph.cull(("x", 99_999)) is graph
    again = pickle.loads(pickle.dumps(graph))
    assert again == graph
    assert next(iter(again)) == ("x", 0)
    assert again.merge(graph) == graph
    graph._check()
    repr(graph)
    del graph, again


def test_building_costs_what_is_new() -> None:
    """Counted in what is touched: a graph that may not be read can be built upon."""

    class Sealed(SharedGraph):
        __slots__ = ()

        def __getitem__(self, key: Any) -> Any:
            raise AssertionError

        __iter__ = __len__ = __contains__ = __bool__ = items = values = __getitem__  # type: ignore[assignment]

    sealed = chain(5)
    object.__setattr__(sealed, "__class__", Sealed)
    graph = SharedGraph({"new": 1}, [sealed])
    assert graph.parents[0] is sealed
    assert graph.own == {"new": 1}


def test_shared_ancestors_are_walked_once() -> None:
    """Each level doubles the paths to the ground; there are two to the sixtieth of them."""
    graph: Any = SharedGraph({"ground": 1})
    for i in range(60):
        graph = SharedGraph({}, [SharedGraph({f"left {i}": 1}, [graph]), SharedGraph({f"right {i}": 1}, [graph])])
    assert len(graph) == 121
    assert "ground" in graph
    assert "nothing" not in graph
    assert len(pickle.dumps(graph)) < 10_000


def test_lookups_in_a_long_history_get_an_index() -> None:
    graph = chain(2_000)
    assert [graph[("x", i)].key for i in range(2_000)] == [("x", i) for i in range(2_000)]
    assert graph._index is not None
    above = SharedGraph({"y": Task("y", inc, TaskRef(("x", 0)))}, [graph])
    assert len(list(above._inwards(indexed=True))) == 2, "the index below serves"
    assert len(above.cull("y")) == 2


def test_threads_may_look_up_at_once() -> None:
    graph = chain(3_000)
    found: list[int] = []

    def look() -> None:
        found.append(sum(graph[("x", i)].key == ("x", i) for i in range(0, 3_000, 3)))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1_000] * 4


class Number(dask.base.DaskMethodsMixin):  # type: ignore[misc]
    """A collection of one number over any mapping."""

    __dask_scheduler__ = staticmethod(dask.threaded.get)
    __dask_optimize__ = None

    def __init__(self, graph: Mapping[Any, Any], key: Any) -> None:
        self.graph, self.key = graph, key

    def __dask_graph__(self) -> Mapping[Any, Any]:
        return self.graph

    def __dask_keys__(self) -> list[Any]:
        return [self.key]

    def __dask_postcompute__(self) -> Any:
        return _first, ()

    def __dask_postpersist__(self) -> Any:
        return _rebuild, (self.key,)

    def __dask_tokenize__(self) -> Any:
        return "number", self.key


def _first(results: Any) -> Any:
    return results[0]


def _rebuild(graph: Mapping[Any, Any], key: Any, rename: Any = None) -> Number:
    return Number(graph, key)


@pytest.mark.parametrize("scheduler", ["sync", "threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_it_is_a_graph_on_local_schedulers(scheduler: str) -> None:
    graph = chain(50, step=7)
    collection = Number(graph, ("x", 49))
    assert collection.compute(scheduler=scheduler) == 49
    assert collection.persist(scheduler=scheduler).compute(scheduler=scheduler) == 49
    delayed = Delayed(("x", 49), graph)
    assert (delayed + 1).compute(scheduler=scheduler) == 50
    assert dask.compute(collection, delayed, scheduler=scheduler) == (49, 49)
    with go.optimized():
        assert dask.compute(collection, delayed, scheduler=scheduler) == (49, 49)


@pytest.mark.parametrize("get", [dask.get, dask.threaded.get], ids=["sync", "threads"])
def test_it_is_what_get_takes(get: Any) -> None:
    assert get(chain(20), [("x", 19), ("x", 3)]) == (19, 3)


def test_it_is_a_graph_on_a_cluster(client: distributed.Client) -> None:
    graph = chain(50, step=7)
    collection = Number(graph, ("x", 49))
    assert collection.compute() == 49
    assert client.compute(collection).result() == 49
    assert collection.persist().compute() == 49
    assert (Delayed(("x", 49), graph) + 1).compute() == 50
    assert client.get(graph.to_dict(), ("x", 49)) == 49


def test_an_array_over_it() -> None:
    data = np.arange(12.0)
    own: dict[Any, Any] = {("x", i): DataNode(("x", i), data[3 * i : 3 * i + 3]) for i in range(4)}
    x = da.Array(SharedGraph(own), "x", ((3, 3, 3, 3),), dtype=float)
    assert float((x + 1).sum().compute(scheduler="sync")) == 78.0
    assert x.dask.copy() is not None


def test_shared_parts_cross_the_wire_once() -> None:
    heavy = SharedGraph({("x", i): DataNode(("x", i), bytes([i]) * 10_000) for i in range(10)})
    some = [SharedGraph({f"y{i}": Alias(f"y{i}", ("x", i))}, [heavy]) for i in range(10)]
    together = len(pickle.dumps(SharedGraph({}, some)))
    apart = len(pickle.dumps(some))
    alone = len(pickle.dumps(heavy))
    assert together < 1.1 * alone
    assert apart < 1.1 * alone


def test_it_can_be_drawn(tmp_path: Any) -> None:
    pytest.importorskip("graphviz")
    Number(chain(4), ("x", 3)).visualize(filename=str(tmp_path / "graph.svg"))


def test_optimize_takes_it() -> None:
    graph = chain(20, step=3)
    assert len(go.optimize(graph, [("x", 19)])) == 1
    assert dask.get(go.optimize(graph, [("x", 19)]), ("x", 19)) == 19
