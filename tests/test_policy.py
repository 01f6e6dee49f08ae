"""Policies; what `explain` says; and that nothing is ever half-optimised, whatever goes wrong inside."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import FrozenInstanceError, replace
from operator import add, neg
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.task_spec import Alias, DataNode, Task, TaskRef
from oracle import evaluate, outline, same

import graphopt as go
from graphopt import pipeline
from graphopt.graph import normalise, read
from graphopt.pipeline import PASSES


def lanes(count: int) -> dict[Any, Any]:
    graph: dict[Any, Any] = {("x", i): (np.full, 3, float(i)) for i in range(count)}
    graph.update({("y", i): (neg, ("x", i)) for i in range(count)})
    return {**graph, "sum": (sum, [("y", i) for i in range(count)])}


# -- policies ----------------------------------------------------------------------------------------------------------


def test_a_policy_is_a_value() -> None:
    one = go.Policy(parallelism=4, passes=["cull", "diamond"])  # type: ignore[arg-type]
    assert one == go.Policy(parallelism=4, passes=("cull", "diamond"))
    assert one.passes == ("cull", "diamond")
    assert hash(one) == hash(replace(one))
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(FrozenInstanceError):
        one.parallelism = 5  # type: ignore[misc]
    assert go.Policy().passes == PASSES


@pytest.mark.parametrize("name", ["parallelism", "spare", "max_bytes"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, [1], np.float64(2)], ids=repr)
def test_sizes_are_whole_numbers_of_at_least_one(name: str, value: Any) -> None:
    with pytest.raises(go.PolicyError, match=rf"^Policy\({name}=.*\): must be a whole number of at least 1") as caught:
        go.Policy(**{name: value})
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, go.GraphoptError)
    assert ("or None for all threads" in str(caught.value)) == (name == "parallelism")


def test_only_parallelism_may_be_left_open() -> None:
    assert go.Policy(parallelism=None).resolve().parallelism >= 1  # type: ignore[operator]
    for name in ("spare", "max_bytes"):
        with pytest.raises(go.PolicyError, match=f"Policy\\({name}=None"):
            go.Policy(**{name: None})  # type: ignore[arg-type]


@pytest.mark.parametrize("passes", ["cull", 5, None])
def test_passes_are_a_tuple_of_names(passes: Any) -> None:
    with pytest.raises(go.PolicyError, match="must be a tuple of names out of cull, aliases, common, lower, diamond, lanes"):
        go.Policy(passes=passes)


def test_unknown_passes_and_other_strictness_are_named() -> None:
    with pytest.raises(go.PolicyError, match="there is no pass 'fuse'; there are cull, aliases"):
        go.Policy(passes=("cull", "fuse"))
    with pytest.raises(go.PolicyError, match=r"Policy\(strict='yes'\): must be True or False"):
        go.Policy(strict="yes")  # type: ignore[arg-type]


def test_what_is_no_policy_is_named() -> None:
    for wrong in ("fast", 4, {"parallelism": 4}, go.Policy):
        with pytest.raises(go.PolicyError, match=r"policy must be a graphopt\.Policy, not"):
            go.optimize({"a": 1}, "a", wrong)  # type: ignore[arg-type]
        with pytest.raises(go.PolicyError, match=r"policy must be a graphopt\.Policy, not"):
            go.explain({"a": 1}, "a", wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "threads"),
    [({"scheduler": "sync"}, 1), ({"scheduler": "threads", "num_workers": 3}, 3), ({"num_workers": 5}, 5)],
)
def test_parallelism_is_that_of_the_scheduler_in_use(config: dict[str, Any], threads: int) -> None:
    with dask.config.set(config):
        assert go.Policy().resolve().parallelism == threads
        assert go.Policy(parallelism=7).resolve().parallelism == 7


def test_passes_run_in_their_own_order_whatever_the_policy_lists_first() -> None:
    seen: list[str] = []
    policy = go.Policy(parallelism=1, passes=("lanes", "diamond", "cull"), strict=True)
    pipeline.run_passes(normalise(lanes(4)), ["sum"], policy, {}, None, lambda name, graph: seen.append(name))
    assert seen == ["cull", "diamond", "lanes"]


def test_without_passes_nothing_is_done() -> None:
    graph = normalise({**lanes(2), "dead": 1, "alias": "sum"})
    made = go.optimize(graph, ["sum", "alias"], go.Policy(passes=(), strict=True))
    assert outline(made) == outline(graph)


def test_parallelism_decides_how_much_is_fused() -> None:
    graph = {("x", i): (np.full, 3, float(i)) for i in range(64)}
    graph.update({("s", i): (add, ("x", 2 * i), ("x", 2 * i + 1)) for i in range(32)})
    graph.update({("t", i): (add, ("s", 2 * i), ("s", 2 * i + 1)) for i in range(16)})
    keys = [("t", i) for i in range(16)]
    counts = [len(go.optimize(graph, keys, go.Policy(parallelism=n, spare=1, strict=True))) for n in (1, 16, 17, 32, 33, 64)]
    assert counts == [16, 16, 48, 48, 112, 112]


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_keys_may_be_one_or_nested() -> None:
    graph = lanes(4)
    for keys in ("sum", ["sum"], [["sum"], [("y", 0), ["sum"]]], ("y", 2), [[[("y", 1)]]]):
        wanted = pipeline.flatten_keys(keys)
        made = go.optimize(graph, keys, go.Policy(parallelism=1, strict=True))
        assert same(evaluate(made, wanted), evaluate(normalise(graph), wanted))


def test_data_futures_and_aliases_may_be_asked_for() -> None:
    graph: dict[Any, Any] = {"d": DataNode("d", 5), "f": TaskRef("f"), "a": Alias("a", "d"), "b": Alias("b", "f")}
    graph["t"] = Task("t", add, TaskRef("d"), 1)
    made = go.optimize(graph, list(graph), go.Policy(parallelism=1, strict=True))
    assert evaluate(made, list(graph), {"f": 7}) == {"d": 5, "f": 7, "a": 5, "b": 7, "t": 6}


def test_an_empty_graph_stays_empty() -> None:
    assert go.optimize({}, [], go.Policy(strict=True)) == {}
    assert go.explain({}, []).tasks_after == 0


def test_a_literal_that_looks_like_a_key_stays_a_literal() -> None:
    graph = {
        "a": Task("a", str.upper, "b"),
        "b": Task("b", "{}{}".format, TaskRef("a"), "a"),
        "c": Task("c", len, TaskRef("b")),
    }
    for parallelism in (1, 4):
        made = go.optimize(graph, ["b", "c"], go.Policy(parallelism=parallelism, strict=True))
        assert evaluate(made, ["b", "c"]) == {"b": "Ba", "c": 2}


# -- explain -----------------------------------------------------------------------------------------------------------


def test_explain_counts_shows_and_gives_reasons() -> None:
    graph = normalise({**lanes(4), "mixed": Task("mixed", add, TaskRef("sum"), 1)})
    said = go.explain(graph, ["mixed"], go.Policy(parallelism=4, spare=1))
    assert (said.tasks_before, said.tasks_after) == (10, 5)
    kernel, other = said.kernels
    assert (kernel.name, kernel.regions, kernel.tasks) == ("full_neg", 4, 2)
    assert (other.regions, other.tasks) == (1, 2)
    assert "return -np.full(3, " in kernel.source
    assert said.refusals
    text = str(said)
    assert text.splitlines()[0] == "10 tasks before, 5 after, 2 kernels"
    assert "full_neg: 2 tasks in one, in 4 places" in text
    assert "    def full_neg(" in text
    assert "Left apart:" in text
    assert f"    lanes: {said.refusals[-1].key!r}" in text


def test_explain_agrees_with_optimize() -> None:
    x = da.from_array(np.arange(64.0).reshape(8, 8), chunks=4)
    y = (da.exp(x) - 1 / (x + 1)).sum(axis=0)
    for policy in (go.Policy(parallelism=1), go.Policy(parallelism=2), go.Policy(parallelism=8)):
        made = go.optimize(y, y.__dask_keys__(), policy)
        said = go.explain(y, y.__dask_keys__(), policy)
        assert said.tasks_after == sum(not isinstance(node, DataNode) for node in made.values())
        assert said.tasks_before == sum(isinstance(node, Task) for node in normalise(y, merge_layers=False).values())
        sources = {node.func.source for node in made.values() if hasattr(node, "labels")}
        assert all(any(kernel.source.endswith(source) for kernel in said.kernels) for source in sources)


def test_explain_changes_nothing_and_says_when_there_is_nothing_to_say() -> None:
    said = go.explain({"a": (neg, 1)}, "a")
    assert str(said) == "1 tasks before, 1 after, 0 kernels"
    assert said.refusals == ()


# -- when it is our fault ----------------------------------------------------------------------------------------------


def broken(*args: Any, **kwargs: Any) -> Any:
    raise ZeroDivisionError("a defect of ours")


@pytest.mark.parametrize("where", [*PASSES, "generate", "classes_of"])
def test_a_defect_costs_speed_and_gives_one_warning(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, where, broken)
    graph = normalise({**lanes(4), "alias": "sum", "dead": (neg, 1)})
    with pytest.warns(go.GraphoptWarning, match="left it as it was .ZeroDivisionError: a defect of ours") as caught:
        made = go.optimize(graph, ["alias"], go.Policy(parallelism=1))
    assert len(caught) == 1
    assert outline(made) == outline(graph), "all of the original graph, and nothing else"
    assert all(made[key] is node for key, node in graph.items())


@pytest.mark.parametrize("where", [*PASSES, "generate"])
def test_under_strict_it_is_an_error(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, where, broken)
    with pytest.raises(ZeroDivisionError, match="a defect of ours"):
        go.optimize(lanes(4), ["sum"], go.Policy(parallelism=1, strict=True))


def test_a_pass_that_is_not_asked_for_cannot_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "lanes", broken)
    go.optimize(lanes(4), ["sum"], go.Policy(parallelism=1, strict=True, passes=("cull", "diamond")))


def test_a_graph_error_out_of_a_pass_is_our_fault_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's graph was checked before."""

    def circular(graph: Any, *args: Any, **kwargs: Any) -> Any:
        raise go.CycleError("The graph has a cycle", "x")

    monkeypatch.setattr(pipeline, "diamond", circular)
    with pytest.warns(go.GraphoptWarning, match="a pass made a graph that could not run"):
        made = go.optimize(lanes(2), ["sum"], go.Policy(parallelism=1))
    assert same(evaluate(made, ["sum"]), evaluate(normalise(lanes(2)), ["sum"]))


def test_annotations_survive_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = MaterializedLayer({"a": Task("a", neg, 1), "b": Task("b", neg, TaskRef("a"))})
    layer.annotations = {"retries": 5}
    graph = HighLevelGraph({"l": layer}, {"l": set()})
    monkeypatch.setattr(pipeline, "diamond", broken)
    with pytest.warns(go.GraphoptWarning):
        made = go.optimize(graph, ["b"])
    nodes, notes = read(made)
    assert evaluate(nodes, ["b"]) == {"b": 1}
    assert notes == {"a": {"retries": 5}, "b": {"retries": 5}}


@pytest.mark.parametrize("where", [*PASSES, "generate", "check_graph", "read", "held"])
def test_inside_dask_a_defect_costs_speed_and_gives_one_warning(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, where, broken)
    x = da.ones((8,), chunks=2)
    y = (da.exp(x) - 1 / x).sum()
    with go.optimized(parallelism=2), pytest.warns(go.GraphoptWarning, match="a defect of ours") as caught:
        found = y.compute(scheduler="sync")
    assert len(caught) == 1
    assert same(found, y.compute(scheduler="sync"))
    with go.optimized(parallelism=2, strict=True), pytest.raises(ZeroDivisionError):
        y.compute(scheduler="sync")


def test_a_users_error_is_no_defect_and_is_raised_whatever_the_policy() -> None:
    for strict in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(go.MissingKeyError):
                go.optimize({"a": Task("a", neg, TaskRef("b"))}, "a", go.Policy(strict=strict))
            with pytest.raises(go.CycleError), go.optimized(strict=strict):
                pipeline.Optimizer(go.Policy(strict=strict))({"a": Task("a", neg, TaskRef("a"))}, ["a"])


def test_garbage_is_collected_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import gc

    assert gc.isenabled()
    monkeypatch.setattr(pipeline, "generate", broken)
    with pytest.raises(ZeroDivisionError):
        go.optimize(lanes(2), "sum", go.Policy(strict=True))
    assert gc.isenabled()
