"""Every kind of graph comes to one form; the questions asked of graphs; and errors that name the key and the remedy."""

from __future__ import annotations

import pickle
from operator import add, neg
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.task_spec import Alias, DataNode, GraphNode, List, Task, TaskRef
from oracle import differences, evaluate, outline, same, snapshot

import graphopt as go
from graphopt.graph import (
    check_graph,
    dependencies,
    dependents,
    flatten_keys,
    is_constant,
    key_name,
    normalise,
    read,
    toposort,
)

# -- one form ----------------------------------------------------------------------------------------------------------


class Future:
    """What a scheduler other than distributed may hand out as a future."""

    __dask_future__ = True

    def __init__(self, key: Any) -> None:
        self.key = key


def test_nodes_are_kept_as_they_are() -> None:
    graph = {"x": DataNode("x", 1), "a": Task("a", neg, TaskRef("x")), "b": Alias("b", "a"), "f": TaskRef("f")}
    made = normalise(graph)
    assert made == graph
    assert made is not graph
    assert all(made[key] is node for key, node in graph.items())


def test_legacy_tuples_become_tasks() -> None:
    made = normalise({"x": 1, ("y", 0): (add, "x", 2), "z": (sum, ["x", ("y", 0), (neg, "x")]), "w": ("y", 0)})
    assert outline(made) == outline(
        {
            "x": DataNode("x", 1),
            ("y", 0): Task(("y", 0), add, TaskRef("x"), 2),
            "z": Task("z", sum, normalise({"l": ["x", ("y", 0), (neg, "x")], "x": 1, ("y", 0): 2})["l"]),
            "w": Alias("w", ("y", 0)),
        }
    )
    assert evaluate(made, ["z", "w"]) == {"z": 3, "w": 3}


def test_plain_data_becomes_data() -> None:
    for value in (1, "text", None, np.arange(3), [1, 2], {"a": 1}, (1, 2), b"x"):
        node = normalise({"x": value})["x"]
        assert type(node) is DataNode
        assert same(node.value, value)


def test_nodes_under_another_key_are_renamed() -> None:
    task = Task("old", neg, 1)
    made = normalise({"new": task, "alias": Alias("other", "new"), "data": DataNode("d", 5)})
    assert [node.key for node in made.values()] == ["new", "alias", "data"]  # type: ignore[union-attr]
    assert task.key == "old"


def test_futures_of_all_kinds_are_references() -> None:
    made = normalise(
        {"a": TaskRef("a"), "b": Future("held"), "c": Alias("c", "c"), "d": Task("d", add, TaskRef("a"), Alias("b"))}
    )
    assert made["a"] == TaskRef("a")
    assert made["b"] == TaskRef("held")
    assert made["c"] == TaskRef("c"), "an alias of itself is how dask writes a key that a cluster holds"
    assert dependencies(made["d"]) == {"a", "b"}
    assert dependencies(made["b"]) == frozenset()
    assert evaluate(made, ["d"], {"a": 1, "held": 2, "c": 3}) == {"d": 3}


@pytest.mark.parametrize("make", [lambda: da.ones((4, 4), chunks=2).sum(axis=0) + 1, lambda: dask.delayed(add)(1, 2),
                                  lambda: db.from_sequence(range(6), npartitions=3).map(neg)])  # fmt: skip
@pytest.mark.parametrize("merge", [True, False])
def test_collections_come_down_to_tasks(make: Any, merge: bool) -> None:
    collection = make()
    keys = flatten_keys(collection.__dask_keys__())
    for given in (collection, collection.__dask_graph__(), dict(collection.__dask_graph__())):
        made = normalise(given, keys, merge_layers=merge)
        assert all(isinstance(node, GraphNode) and node.key == key for key, node in made.items())
        check_graph(made, keys)
        found = evaluate(made, keys)
        assert not differences(found, evaluate(normalise(collection), keys))
    assert same(list(found.values()), list(dask.get(dict(collection.__dask_graph__()), keys)))


def test_of_a_high_level_graph_only_what_is_needed_is_materialised() -> None:
    x = da.ones((100,), chunks=1)
    y = (x + 1)[:3]
    made = normalise(y, flatten_keys(y.__dask_keys__()))
    assert len(made) <= 3 * 4
    touched = []

    class Layer(MaterializedLayer):  # type: ignore[misc]
        def __getitem__(self, key: Any) -> Any:
            touched.append(key)
            return super().__getitem__(key)

    layers = {"l": Layer({f"k{i}": DataNode(f"k{i}", i) for i in range(50)})}
    assert list(normalise(HighLevelGraph(layers, {"l": set()}), ["k7"])) == ["k7"]


def test_merged_layers_share_one_inner_graph() -> None:
    x = da.ones((40,), chunks=10)
    y = da.exp(x + 1) * 2
    merged = normalise(y, flatten_keys(y.__dask_keys__()))
    apart = normalise(y, flatten_keys(y.__dask_keys__()), merge_layers=False)
    assert len(merged) == 4
    assert len(apart) == 16
    assert len({id(node.args[0]) for node in merged.values() if isinstance(node, Task)}) == 1


def test_a_thousand_layers_are_read_without_recursion() -> None:
    x = da.ones((4,), chunks=2)
    for _ in range(1200):
        x = x + 1
    keys = flatten_keys(x.__dask_keys__())
    made = normalise(x, keys)
    assert same(list(evaluate(made, keys).values()), [np.full(2, 1201.0)] * 2)


def test_annotations_are_read_beside_the_graph() -> None:
    x = da.from_array(np.zeros(4), chunks=2)
    with dask.annotate(priority=lambda key: key[1], retries=3):
        y = x + 1
    z = y * 2
    nodes, notes = read(z, flatten_keys(z.__dask_keys__()), merge_layers=False)
    assert notes == {(y.name, i): {"priority": i, "retries": 3} for i in range(2)}
    assert notes.keys() < nodes.keys()


def test_what_is_no_graph_is_an_error() -> None:
    for wrong in (5, "text", [1], None, np.ones(3)):
        with pytest.raises(go.GraphError, match=f"Cannot read a graph from a {type(wrong).__name__}: pass a dask collection"):
            normalise(wrong)


def test_reading_changes_nothing() -> None:
    graph = {"x": 1, "a": (add, "x", [1, ("x",)]), "b": Task("other", neg, TaskRef("a"))}
    was = snapshot(graph)
    normalise(graph)
    assert snapshot(graph) == was


# -- questions ---------------------------------------------------------------------------------------------------------


def test_flatten_keys_lists_each_once_in_order() -> None:
    assert flatten_keys([["a", ("x", 0)], "b", "a"]) == ["a", ("x", 0), "b"]
    assert flatten_keys("a") == ["a"]
    assert flatten_keys(("x", 0)) == [("x", 0)], "a tuple is a key"
    assert flatten_keys([]) == []
    deep: Any = "a"
    for _ in range(5000):
        deep = [deep]
    assert flatten_keys(deep) == ["a"]
    assert set(flatten_keys([{"a", "b"}, frozenset("c")])) == {"a", "b", "c"}


def test_dependents_are_in_the_order_of_the_graph() -> None:
    graph = normalise({"z": (neg, "a"), "b": (add, "a", "z"), "a": 1, "gone": Task("gone", neg, TaskRef("elsewhere"))})
    assert dependents(graph) == {"z": ["b"], "b": [], "a": ["z", "b"], "gone": []}


def test_constants() -> None:
    assert is_constant(DataNode("x", 1))
    assert is_constant(TaskRef("f"))
    assert not is_constant(Task("t", neg, 1))
    assert not is_constant(Alias("a", "b"))


@pytest.mark.parametrize(
    ("key", "name"),
    [("exp-0123456789abcdef", "exp"), (("sum-1", 0), "sum"), ("x", "x"), ((), "x"), (b"\xff", "x"), (5, "Other")],
)
def test_keys_have_names(key: Any, name: str) -> None:
    assert key_name(key) == name


def test_toposort_of_a_graph_in_order_is_the_graphs_order() -> None:
    graph = normalise({"x": 1, "b": (neg, "x"), "a": (neg, "x"), "c": (add, "a", "b")})
    assert toposort(graph) == list(graph)


def test_toposort_of_a_graph_out_of_order_follows_it_where_it_can() -> None:
    graph = normalise({"c": (add, "a", "b"), "b": (neg, "x"), "a": (neg, "x"), "x": 1, "e": (neg, "c")})
    assert toposort(graph) == ["x", "b", "a", "c", "e"]


def test_toposort_does_not_depend_on_names() -> None:
    """A counterexample: sets of names are in another order for other names, and of two equal tasks the first is kept."""
    said = set()
    for shift in range(40):
        names = [f"k{i * 37 + shift}" for i in range(4)]
        a, b, c, x = names
        graph = normalise({c: (add, a, b), b: (np.exp, x), a: (np.exp, x), x: 1})
        said.add(tuple(names.index(str(key)) for key in toposort(graph)))
    assert said == {(3, 1, 0, 2)}


def test_toposort_of_a_long_chain_needs_no_recursion() -> None:
    count = 50_000
    graph = {i: Task(i, neg, TaskRef(i + 1)) for i in range(count)}
    assert toposort(graph) == list(range(count))[::-1]


# -- errors ------------------------------------------------------------------------------------------------------------

CYCLES: dict[str, tuple[dict[Any, Any], str]] = {
    "itself": ({"a": Task("a", neg, TaskRef("a"))}, "'a' <- 'a'"),
    "two": ({"a": Task("a", neg, TaskRef("b")), "b": Task("b", neg, TaskRef("a"))}, "'a' <- 'b' <- 'a'"),
    "through an alias": ({"a": Task("a", neg, TaskRef("b")), "b": Alias("b", "a")}, "'a' <- 'b' <- 'a'"),
    "in a list": ({"a": Task("a", sum, List(TaskRef("b"), 1)), "b": Task("b", neg, TaskRef("a"))}, "'a' <- 'b' <- 'a'"),
}


@pytest.mark.parametrize("name", CYCLES)
def test_a_cycle_is_named(name: str) -> None:
    graph, shown = CYCLES[name]
    with pytest.raises(go.CycleError) as caught:
        go.optimize({"ok": DataNode("ok", 1), **graph}, ["a"])
    assert shown in str(caught.value)
    assert "A task cannot wait for its own result: give the task behind 'a' another key, or remove" in str(caught.value)
    assert caught.value.key == "a"


def test_a_long_cycle_is_shown_in_part() -> None:
    graph = {i: Task(i, neg, TaskRef((i + 1) % 1000)) for i in range(1000)}
    with pytest.raises(go.CycleError) as caught:
        toposort(graph)
    assert len(str(caught.value)) < 300
    assert "'...'" in str(caught.value)


def test_a_missing_key_is_named_with_who_reads_it_and_what_was_meant() -> None:
    graph = {"beta": DataNode("beta", 1), "a": Task("a", neg, TaskRef("bета"))}
    with pytest.raises(go.MissingKeyError) as caught:
        go.optimize({**graph, "a": Task("a", neg, TaskRef("bet"))}, ["a"])
    assert str(caught.value) == (
        "The task 'a' reads 'bet', which is not in the graph. Did you mean 'beta'? "
        "Add it, or name it in futures=[...] if a cluster holds its result."
    )
    assert caught.value.key == "bet"
    assert isinstance(caught.value, KeyError)


def test_a_missing_request_is_named() -> None:
    with pytest.raises(go.MissingKeyError, match=r"^You asked for 'nothing', which is not in the graph. Add it"):
        go.optimize({"x": 1, "a": (neg, "x")}, ["a", "nothing"])
    with pytest.raises(go.MissingKeyError, match=r"You asked for \('x', 3\)"):
        go.optimize({("x", i): i for i in range(3)}, [[("x", 0)], [("x", 3)]])
    with pytest.raises(go.MissingKeyError, match="You asked for"):
        go.explain({"x": 1}, "y")


def test_futures_are_not_missing() -> None:
    graph = {"a": Task("a", neg, TaskRef("held")), "b": Task("b", neg, TaskRef("a"))}
    made = go.optimize(graph, ["b"], go.Policy(strict=True), futures=["held"])
    assert evaluate(made, ["b"], {"held": 5}) == {"b": 5}
    assert go.explain(graph, ["b"], futures=["held"]).tasks_before == 2


def test_what_cannot_be_called_is_named() -> None:
    with pytest.raises(go.GraphError, match=r"^The task 'a' calls 5, which is not callable. A task is Task"):
        go.optimize({"a": Task("a", 5, 1)}, ["a"])  # type: ignore[arg-type]
    with pytest.raises(go.GraphError, match="stands for a int, not a node; pass the graph through normalise") as caught:
        check_graph({"a": 5})  # type: ignore[dict-item]
    assert caught.value.key == "a"


def test_a_graph_that_no_one_would_run_may_hold_nonsense_elsewhere() -> None:
    """What is asked for decides in dask; here the whole graph is checked, and the error says which task it is."""
    with pytest.raises(go.MissingKeyError, match="The task 'other' reads 'nowhere'"):
        go.optimize({"a": (neg, 1), "other": Task("other", neg, TaskRef("nowhere"))}, ["a"])


@pytest.mark.parametrize("kind", [go.GraphError, go.CycleError, go.MissingKeyError])
def test_errors_keep_their_key_through_pickling(kind: Any) -> None:
    error = pickle.loads(pickle.dumps(kind("what to do", ("x", 1))))
    assert type(error) is kind
    assert error.key == ("x", 1)
    assert str(error) == "what to do"
    assert isinstance(error, go.GraphoptError)
    assert isinstance(error, ValueError)
