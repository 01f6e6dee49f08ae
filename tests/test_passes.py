"""What cull, aliases and common do: a graph literal in, a graph literal out; and what they leave alone.

Graphs are written in dask's tuple notation where it can say them. Fusion has files of its own: test_diamond, test_lanes.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from operator import add, getitem, mul, neg
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from oracle import evaluate, outline, same

import graphopt as go
from graphopt.graph import normalise as graph_of
from graphopt.passes.aliases import aliases
from graphopt.passes.common import common
from graphopt.passes.cull import cull
from graphopt.spec import Alias, DataNode, Task, TaskRef

X = np.arange(6.0).reshape(3, 2)


def assert_same(found: Mapping[Any, Any], expected: Any) -> None:
    """Compare graphs by what they do; the order of their keys is part of it."""
    expected = graph_of(expected)
    assert outline(found) == outline(expected)
    assert list(found) == list(expected)


def user(x: Any) -> Any:
    return x


def shout(x: Any) -> Any:
    x *= 2
    return x


# -- cull --------------------------------------------------------------------------------------------------------------


def test_cull_keeps_what_the_keys_need() -> None:
    graph = graph_of({"a": 1, "b": (neg, "a"), "c": (neg, "b"), "other": (neg, "a"), "more": (neg, "other")})
    assert_same(cull(graph, ["b"]), {"a": 1, "b": (neg, "a")})
    assert_same(cull(graph, ["c", "other"]), {"a": 1, "b": (neg, "a"), "c": (neg, "b"), "other": (neg, "a")})


def test_cull_of_a_graph_that_is_needed_returns_it() -> None:
    graph = graph_of({"a": 1, "b": (neg, "a")})
    assert cull(graph, ["b"]) is graph


def test_cull_passes_over_keys_that_a_cluster_holds() -> None:
    graph = {"a": Task("a", neg, TaskRef("elsewhere")), "b": Task("b", neg, 1)}
    assert list(cull(graph, ["a", "elsewhere"])) == ["a"]


def test_cull_of_no_keys_keeps_nothing() -> None:
    assert cull(graph_of({"a": 1}), []) == {}


# -- aliases -----------------------------------------------------------------------------------------------------------


def test_readers_of_an_alias_read_what_it_stands_for() -> None:
    graph = graph_of({"a": (neg, 1), "b": "a", "c": (neg, "b")})
    assert_same(aliases(graph, ["c"]), {"a": (neg, 1), "c": (neg, "a")})


def test_a_requested_alias_takes_over_its_task() -> None:
    graph = graph_of({"a": (neg, 1), "b": "a"})
    assert_same(aliases(graph, ["b"]), {"b": (neg, 1)})


def test_a_chain_of_aliases_is_one_step() -> None:
    graph = graph_of({"a": (neg, 1), "b": "a", "c": "b", "d": "c", "e": (add, "d", "b")})
    assert_same(aliases(graph, ["e"]), {"a": (neg, 1), "e": (add, "a", "a")})
    assert_same(aliases(graph, ["d", "e"]), {"d": (neg, 1), "e": (add, "d", "d")})


def test_aliases_inside_containers_and_keywords() -> None:
    graph = graph_of({"a": (neg, 1), "b": "a", "c": (sum, ["b", ["b"]])})
    assert_same(aliases(graph, ["c"]), {"a": (neg, 1), "c": (sum, ["a", ["a"]])})
    graph = {"a": Task("a", neg, 1), "b": Alias("b", "a"), "c": Task("c", dict, k=TaskRef("b"))}
    assert_same(aliases(graph, ["c"]), {"a": Task("a", neg, 1), "c": Task("c", dict, k=TaskRef("a"))})


def test_where_both_are_requested_one_stays_an_alias() -> None:
    graph = graph_of({"a": (neg, 1), "b": "a", "c": "a"})
    assert aliases(graph, ["a", "b"]) == {"a": graph["a"], "b": Alias("b", "a")}
    # Two aliases of one task that nobody asked for: the first takes it over.
    assert_same(aliases(graph, ["b", "c"]), {"b": (neg, 1), "c": Alias("c", "b")})


def test_an_alias_of_a_future_stays() -> None:
    graph = {"f": TaskRef("f"), "b": Alias("b", "f"), "c": Task("c", neg, TaskRef("b"))}
    assert_same(aliases(graph, ["b"]), {"f": TaskRef("f"), "b": Alias("b", "f"), "c": Task("c", neg, TaskRef("f"))})
    graph = {"b": Alias("b", "held elsewhere")}
    assert aliases(graph, ["b"]) == {"b": Alias("b", "held elsewhere")}


def test_an_alias_of_data_takes_the_data_over() -> None:
    assert_same(aliases(graph_of({"a": 5, "b": "a"}), ["b"]), {"b": DataNode("b", 5)})


def test_annotations_are_not_mixed_by_an_alias() -> None:
    graph = graph_of({"a": (neg, 1), "b": "a"})
    assert_same(aliases(graph, ["b"], classes={"a": 1}), {"a": (neg, 1), "b": "a"})
    assert_same(aliases(graph, ["b"], classes={"a": 1, "b": 1}), {"b": (neg, 1)})


def test_without_aliases_the_graph_is_returned() -> None:
    graph = graph_of({"a": (neg, 1), "b": (neg, "a")})
    assert aliases(graph, ["b"]) is graph
    kept = {"a": Task("a", neg, 1), "b": Alias("b", "a")}
    assert aliases(kept, ["a", "b"]) is kept


def test_aliases_in_a_circle_are_an_error_that_names_one() -> None:
    with pytest.raises(go.CycleError, match=r"'[ab]' stands for itself"):
        aliases({"a": Alias("a", "b"), "b": Alias("b", "a")}, ["a"])


# -- common ------------------------------------------------------------------------------------------------------------


def test_equal_tasks_on_equal_inputs_run_once() -> None:
    graph = graph_of({"x": X, "a": (np.exp, "x"), "b": (np.exp, "x"), "c": (add, "a", "b")})
    assert_same(common(graph, ["c"]), {"x": X, "a": (np.exp, "x"), "c": (add, "a", "a")})


def test_equal_chains_become_one_from_the_bottom_up() -> None:
    graph = graph_of(
        {
            "x": X,
            "a": (np.exp, "x"),
            "b": (np.exp, "x"),
            "c": (mul, "a", 2),
            "d": (mul, "b", 2),
            "e": (add, "c", "d"),
        }
    )
    assert_same(common(graph, ["e"]), {"x": X, "a": (np.exp, "x"), "c": (mul, "a", 2), "e": (add, "c", "c")})


def test_a_graph_out_of_order_is_looked_at_in_order() -> None:
    graph = graph_of({"c": (add, "a", "b"), "b": (np.exp, "x"), "a": (np.exp, "x"), "x": X})
    made = common(graph, ["c"])
    assert len(made) == 3
    assert same(evaluate(made, ["c"])["c"], np.exp(X) * 2)


def test_numbers_that_compare_equal_are_told_apart() -> None:
    for one, other in [(1, 1.0), (1, True), (0.0, -0.0), (0j, complex(0.0, -0.0)), ([1], (1,)), ("1", b"1")]:
        graph = {
            "x": DataNode("x", X),
            "a": Task("a", np.multiply, TaskRef("x"), one),
            "b": Task("b", np.multiply, TaskRef("x"), other),
            "c": Task("c", add, TaskRef("a"), TaskRef("b")),
        }
        assert common(graph, ["c"]) is graph, f"{one!r} and {other!r} were taken for one"


def test_complex_zeros_of_other_signs_give_other_results() -> None:
    """What the case above is about, seen from outside: the two products differ in a bit."""
    x = DataNode("x", np.array([1.0 + 0j]))
    graph: dict[Any, Any] = {"x": x}
    for key, zero in (("a", 0j), ("b", -0j), ("c", complex(-0.0, 0.0))):
        graph[key] = Task(key, np.multiply, TaskRef("x"), zero)
        graph[key + "'"] = Task(key + "'", np.angle, TaskRef(key))
    keys = ["a'", "b'", "c'"]
    assert same(evaluate(go.optimize(graph, keys), keys), evaluate(graph, keys))
    for key in keys:
        graph[key] = Task(key, np.negative, TaskRef(key[0]))
    assert same(evaluate(go.optimize(graph, keys), keys), evaluate(graph, keys))


def test_keywords_count() -> None:
    graph = {
        "x": DataNode("x", X),
        "a": Task("a", np.sum, TaskRef("x"), axis=0),
        "b": Task("b", np.sum, TaskRef("x"), axis=1),
        "c": Task("c", np.sum, TaskRef("x"), axis=0),
        "d": Task("d", np.concatenate, [1]),
        "e": Task("e", add, Task(None, add, TaskRef("a"), TaskRef("b")), TaskRef("c")),
    }
    assert [key for key in graph if key not in common(graph, ["e"])] == ["c"]


def test_partials_and_compositions_of_known_functions_are_known() -> None:
    x = da.ones((4, 4), chunks=2)
    first, second = x.sum(axis=0).dask, x.sum(axis=0, keepdims=False).dask
    assert set(first) == set(second), "dask itself gives equal work one name"
    halves = {
        "x": DataNode("x", X),
        "a": Task("a", functools.partial(np.sum, axis=0), TaskRef("x")),
        "b": Task("b", functools.partial(np.sum, axis=0), TaskRef("x")),
        "c": Task("c", add, TaskRef("a"), TaskRef("b")),
    }
    assert "b" not in common(halves, ["c"])


@pytest.mark.parametrize("func", [user, lambda x: x, functools.partial(user), np.vectorize(user), np.frompyfunc(user, 1, 1)])
def test_what_a_user_wrote_runs_as_often_as_it_was_written(func: Any) -> None:
    graph = {
        "x": DataNode("x", X),
        "a": Task("a", func, TaskRef("x")),
        "b": Task("b", func, TaskRef("x")),
        "c": Task("c", add, TaskRef("a"), TaskRef("b")),
    }
    assert common(graph, ["c"]) is graph


def test_a_users_function_inside_a_known_call_is_still_the_users() -> None:
    graph = graph_of({"x": X, "a": (add, (user, "x"), 1), "b": (add, (user, "x"), 1), "c": (add, "a", "b")})
    assert common(graph, ["c"]) is graph
    graph = graph_of({"x": X, "a": (add, (neg, "x"), 1), "b": (add, (neg, "x"), 1), "c": (add, "a", "b")})
    assert "b" not in common(graph, ["c"])


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, x: Any) -> Any:
        return x


def test_functions_need_not_be_hashable() -> None:
    """Nested ones neither."""
    func = Unhashable()
    graph = {
        "x": DataNode("x", X),
        "c": Task("c", add, TaskRef("a"), TaskRef("b")),
        **{key: Task(key, add, Task(None, func, TaskRef("x")), 1) for key in "ab"},
        **{key: Task(key, func, TaskRef("x")) for key in "de"},
    }
    assert common(graph, ["c", "d", "e"]) is graph


def test_random_draws_are_never_merged() -> None:
    one = da.random.default_rng(7).normal(size=4, chunks=2)
    graph = graph_of((one + one).dask)
    draws = {key: node for key, node in graph.items() if "normal" in str(key)}
    doubled = {**graph, **{(f"{key[0]}-again", *key[1:]): node for key, node in draws.items()}}
    made = common(graph_of(doubled), list(doubled))
    assert made is not None
    assert len(made) == len(doubled)


def test_tasks_without_inputs_are_left_alone() -> None:
    graph = graph_of({"a": (np.sum, 1), "b": (np.sum, 1), "c": (add, "a", "b")})
    assert common(graph, ["c"]) is graph, "nothing says that two of them mean the same thing"


def test_what_is_asked_for_is_kept() -> None:
    graph = graph_of({"x": X, "a": (np.exp, "x"), "b": (np.exp, "x"), "c": (add, "a", "b")})
    assert common(graph, ["a", "b", "c"]) is graph, "two results that were asked for are two arrays"
    assert_same(common(graph, ["a", "c"]), {"x": X, "a": (np.exp, "x"), "c": (add, "a", "a")})


def test_annotations_tell_tasks_apart() -> None:
    graph = graph_of({"x": X, "a": (np.exp, "x"), "b": (np.exp, "x"), "c": (add, "a", "b")})
    assert common(graph, ["c"], classes={"b": 1}) is graph
    assert "b" not in common(graph, ["c"], classes={"a": 1, "b": 1})


def twice(**readers: Task) -> dict[Any, Any]:
    """Write ``exp(x)`` down twice, with these readers."""
    graph = {"x": DataNode("x", X), "a": Task("a", np.exp, TaskRef("x")), "b": Task("b", np.exp, TaskRef("x"))}
    return {**graph, **readers, "sum": Task("sum", np.sum, TaskRef("b")), "max": Task("max", np.max, TaskRef("a"))}


READS_ONLY = [
    Task("r", np.negative, TaskRef("a")),
    Task("r", mul, TaskRef("a"), TaskRef("a")),
    Task("r", np.concatenate, [TaskRef("a")]),
    Task("r", np.sum, TaskRef("a"), 0, keepdims=True),
    Task("r", np.clip, TaskRef("a"), 1, 2),
    Task("r", functools.partial(np.sum, axis=0), TaskRef("a")),
]
MAY_WRITE = [
    Task("r", shout, TaskRef("a")),
    Task("r", add, Task(None, shout, TaskRef("a")), 1),
    Task("r", np.add, TaskRef("a"), 1, TaskRef("a")),
    Task("r", np.negative, TaskRef("a"), out=TaskRef("a")),
    Task("r", functools.partial(np.negative, out=X), TaskRef("a")),
    Task("r", functools.partial(np.add, 1), TaskRef("a"), TaskRef("a")),
    Task("r", np.clip, TaskRef("a"), 1, 2, TaskRef("a")),
    Task("r", np.median, TaskRef("a"), overwrite_input=True),
    Task("r", operator.iadd, TaskRef("a"), 1),
    Task("r", np.copyto, TaskRef("a"), 1.0),
]
HANDS_ON = [
    Task("r", getitem, TaskRef("a"), slice(0, 2)),
    Task("r", np.transpose, TaskRef("a")),
    Task("r", np.einsum, "ij->ji", TaskRef("a")),
    Task("r", np.diff, TaskRef("a"), 0),
    Task("r", np.histogram, X, TaskRef("a")),
    Task("r", operator.pos, TaskRef("a")),
    Alias("r", "a"),
]


@pytest.mark.parametrize("reader", READS_ONLY, ids=str)
def test_readers_that_only_read_do_not_mind(reader: Task) -> None:
    assert "b" not in common(twice(r=reader), ["r", "sum", "max"])


@pytest.mark.parametrize("reader", [*MAY_WRITE, *HANDS_ON], ids=str)
def test_while_a_reader_may_write_each_task_keeps_a_result_of_its_own(reader: Task) -> None:
    """The second half hand on a view, which whoever gets it may write to."""
    graph = twice(r=reader)
    assert common(graph, ["r", "sum", "max"]) is graph


@pytest.mark.parametrize("reader", MAY_WRITE[:4], ids=str)
def test_a_write_does_not_reach_the_twin(reader: Task) -> None:
    keys = ["r", "sum"]
    found = dask.get(go.optimize(twice(r=reader), keys, go.Policy(strict=True)), keys)
    assert same(found[1], np.exp(X).sum())


def test_calls_that_write_are_not_merged_themselves() -> None:
    out = np.zeros_like(X)
    graph = {
        "x": DataNode("x", X),
        "a": Task("a", np.exp, TaskRef("x"), out),
        "b": Task("b", np.exp, TaskRef("x"), out),
        "c": Task("c", add, TaskRef("a"), TaskRef("b")),
    }
    assert common(graph, ["c"]) is graph
