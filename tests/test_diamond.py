"""Diamond: which tasks become one region, and each reason why others do not.

Graphs are written in dask's tuple notation; what comes out is the key of each region with the tasks in it.
"""

from __future__ import annotations

import threading
import time
from operator import add, getitem, neg, sub
from typing import Any

import dask
import numpy as np
import pytest
from dask.utils import SerializableLock
from oracle import evaluate, outline, regions

from graphopt.graph import normalise as graph_of
from graphopt.graph import toposort
from graphopt.passes.diamond import diamond, partition
from graphopt.region import Region, barrier, first_output, group, is_pick, pick, region_key
from graphopt.spec import Alias, DataNode, List, Task, TaskRef

THREADS = "fewer than {} independent regions would remain beside it"


def make(*args: Any) -> Any:
    return float(len(args))


def fused(graph: dict[Any, Any], keys: list[Any], **size: Any) -> dict[Any, list[Any]]:
    """Run diamond; return the regions of more than one task."""
    return {key: tasks for key, tasks in regions(diamond(graph_of(graph), keys, **size)).items() if len(tasks) > 1}


def refused(graph: dict[Any, Any], keys: list[Any], **size: Any) -> dict[Any, str]:
    """Return the reason for each task that was left apart."""
    found = partition(graph_of(graph), keys, **size)
    assert all(refusal.rewrite == "diamond" for refusal in found.refusals)
    return {refusal.key: refusal.reason for refusal in found.refusals}


def lanes(count: int) -> dict[Any, Any]:
    """So many chunks, three steps on each."""
    out: dict[Any, Any] = {}
    for i in range(count):
        out.update({("x", i): (make, i), ("y", i): (neg, ("x", i)), ("z", i): (abs, ("y", i))})
    return out


# -- what goes together ------------------------------------------------------------------------------------------------


def test_a_chain_is_one_region() -> None:
    assert fused({"a": (make,), "b": (neg, "a"), "c": (neg, "b")}, ["c"]) == {"c": ["a", "b", "c"]}


def test_a_diamond_is_one_region() -> None:
    graph = {"x": (make,), "e": (neg, "x"), "r": (abs, "x"), "d": (sub, "e", "r")}
    assert fused(graph, ["d"]) == {"d": ["x", "e", "r", "d"]}


def test_data_and_futures_are_no_inputs() -> None:
    graph = {"x": 1.0, "f": TaskRef("f"), "a": (add, "x", "f"), "b": (add, "a", "x"), "c": Task("c", add, TaskRef("b"), 1)}
    assert fused(graph, ["c"]) == {"c": ["a", "b", "c"]}
    graph = {"b": Task("b", neg, TaskRef("held elsewhere")), "c": (neg, "b")}
    assert fused(graph, ["c"]) == {"c": ["b", "c"]}


def test_a_fan_is_one_region_of_several_outputs() -> None:
    graph = graph_of({"a": (make,), "b": (neg, "a"), "c": (abs, "a"), "d": (float, "a")})
    made = diamond(graph, ["b", "c", "d"])
    name = region_key("b")
    assert regions(made) == {name: ["a", "b", "c", "d"]}
    assert made[name].outputs == ("b", "c", "d")
    assert {key: made[key].args for key in "bcd"} == {key: (TaskRef(name), place) for place, key in enumerate("bcd")}
    assert evaluate(made, "bcd") == evaluate(graph, "bcd")


def test_what_is_read_from_outside_leaves_the_region_too() -> None:
    graph = graph_of({"a": (make,), "b": (neg, "a"), "c": (abs, "b"), "s": Task("s", neg, TaskRef("a"), _data_producer=True)})
    made = diamond({**graph, "l": Task("l", make, TaskRef("a"), threading.Lock())}, ["c", "l"])
    assert [node.outputs for node in made.values() if isinstance(node, Region)] == [("a", "c")]


def test_a_lane_is_one_region_whatever_the_threads() -> None:
    for threads in (1, 2, 8):
        assert fused(lanes(4), [("z", i) for i in range(4)], parallelism=threads) == {
            ("z", i): [("x", i), ("y", i), ("z", i)] for i in range(4)
        }


def test_the_blocks_that_a_task_reads_become_one_lane() -> None:
    graph = {"x": (make,), "y": (abs, 1), "z": (add, "x", "y")}
    assert fused(graph, ["z"]) == {"z": ["x", "y", "z"]}


def test_a_tree_of_sums_stays_a_tree() -> None:
    graph = {**lanes(4), ("s", 0): (sum, [("z", 0), ("z", 1)]), ("s", 1): (sum, [("z", 2), ("z", 3)])}
    graph["t"] = (sum, [("s", 0), ("s", 1)])
    made = regions(diamond(graph_of(graph), ["t"]))
    assert made["t"] == ["t"]
    assert made[("s", 0)] == [("s", 0)]
    assert sorted(len(tasks) for tasks in made.values()) == [1, 1, 1, 3, 3, 3, 3]
    assert fused({"a": (make, 1), "b": (make, 2), "c": (add, "a", "b")}, ["c"]) == {}, "nor with keys of other kinds"


def test_lanes_that_share_a_task_with_enough_beside_it() -> None:
    """The shared task stays apart: joining it would join all lanes into one."""
    graph = {"beta": (make,), **{("x", i): (make, i) for i in range(4)}}
    for i in range(4):
        graph.update({("y", i): (add, ("x", i), "beta"), ("z", i): (neg, ("y", i))})
    keys = [("z", i) for i in range(4)]
    assert fused(graph, keys, parallelism=2) == {("z", i): [("y", i), ("z", i)] for i in range(4)}
    assert set(refused(graph, keys, parallelism=2).values()) == {THREADS.format(2)}
    assert len(fused(graph, keys, parallelism=1)) == 1


def test_nothing_to_fuse_returns_the_graph() -> None:
    for graph in ({}, {"a": DataNode("a", 1)}, graph_of({"a": (make,), "b": (make,)}), {"f": TaskRef("f")}):
        assert diamond(graph, list(graph)) is graph


def test_where_something_is_fused_what_stayed_alone_is_a_region_of_one() -> None:
    """So that a second run finds nothing to do."""
    graph = graph_of({**lanes(2), "s": (sum, [("z", 0), ("z", 1)])})
    made = diamond(graph, ["s"])
    assert regions(made)["s"] == ["s"]
    assert diamond(made, ["s"]) is made


def test_tasks_nobody_reads_are_kept_if_nobody_culled() -> None:
    made = diamond(graph_of({"a": (make,), "b": (neg, "a"), "dead": (make, 1), "end": (neg, "dead")}), ["b"])
    assert regions(made) == {"b": ["a", "b"], "end": ["dead", "end"]}


def test_the_order_of_members_is_that_of_the_graph() -> None:
    graph = {"a": (make,), "z": (neg, "a"), "b": (abs, "a"), "m": (float, "a"), "out": (sum, ["m", "b", "z"])}
    assert fused(graph, ["out"]) == {"out": ["a", "z", "b", "m", "out"]} or fused(graph, ["z", "b", "m"])
    made = diamond(graph_of(graph), ["z", "b", "m"])
    assert regions(made)[region_key("z")] == ["a", "z", "b", "m", "out"]


# -- what does not, and why --------------------------------------------------------------------------------------------


def test_refusal_too_few_would_remain() -> None:
    graph = {"a": (make,), "b": (neg, "a"), "c": (abs, "a"), "d": (add, "b", "c")}
    assert fused(graph, ["d"], parallelism=2) == {}
    assert refused(graph, ["d"], parallelism=2) == dict.fromkeys("bcd", THREADS.format(2))
    assert refused(graph, ["d"], parallelism=1) == {}


def test_a_task_joins_what_nothing_else_waits_for_even_then() -> None:
    """Beside a fan that must stay a fan, a chain is still one task."""
    graph = {"a": (make,), "b": (neg, "a"), "c": (abs, "a"), "p": (make, 1), "q": (float, "p"), "r": (neg, "q")}
    assert fused(graph, ["b", "c", "r"], parallelism=3) == {"r": ["p", "q", "r"]}
    assert refused(graph, ["b", "c", "r"], parallelism=3) == {"b": THREADS.format(3), "c": THREADS.format(3)}


def test_refusal_inputs_ready_at_different_times() -> None:
    graph = {
        ("x", 0): (make, 0),
        ("x", 1): (make, 1),
        "total": (sum, [("x", 0), ("x", 1)]),
        "late": (add, ("x", 0), "total"),
    }
    assert refused(graph, ["late"]) == {"late": "its inputs become ready at different times, in different regions"}


def test_what_only_this_task_waits_for_may_be_ready_earlier() -> None:
    """A block that is loaded for this task alone joins it, though the other input takes longer."""
    graph = {
        ("x", 0): (make, 0),
        ("x", 1): (make, 1),
        "total": (sum, [("x", 0), ("x", 1)]),
        "y": (abs, 2),
        "late": (add, "y", "total"),
    }
    assert fused(graph, ["late"]) == {"late": ["y", "total", "late"]}


def test_refusal_too_many_bytes() -> None:
    graph = {"x": (np.ones, (100,)), "y": (np.zeros, (100,)), "z": (add, "x", "y")}
    assert fused(graph, ["z"], max_bytes=1600) == {"z": ["x", "y", "z"]}
    assert fused(graph, ["z"], max_bytes=1599) == {}
    assert refused(graph, ["z"], max_bytes=1599) == {"z": "its inputs would bring more than 1599 bytes into one region"}


def test_refusal_other_annotations() -> None:
    graph = {"a": (make,), "b": (neg, "a"), "c": (neg, "b"), "d": (neg, "c")}
    assert fused(graph, ["d"], classes={"c": 1, "d": 1}) == {"b": ["a", "b"], "d": ["c", "d"]}
    assert refused(graph, ["d"], classes={"c": 1, "d": 1}) == {"c": "its annotations differ from its inputs'"}
    assert fused(graph, ["d"], classes=dict.fromkeys("abcd", 1)) == {"d": ["a", "b", "c", "d"]}


class Stubborn(Task):
    """A task that asks not to be fused, as those of a shuffle do."""

    @property
    def block_fusion(self) -> bool:
        return True


class Strange(Task):
    """A task of a type that we do not know."""


async def wait(x: Any) -> Any:
    return x


SIT_ALONE = {
    "it asks not to be fused (block_fusion)": Stubborn("b", neg, TaskRef("a")),
    "it is a Strange, which has rules of its own": Strange("b", neg, TaskRef("a")),
    "it is a coroutine and runs on the event loop": Task("b", wait, TaskRef("a")),
    "it is a Alias, which has rules of its own": Alias("b", "a"),
}
LOCKS = [threading.Lock(), threading.RLock(), SerializableLock(), threading.Semaphore()]


@pytest.mark.parametrize("reason", SIT_ALONE)
def test_refusal_of_tasks_with_rules_of_their_own(reason: str) -> None:
    graph = graph_of({"a0": (make,), "a": (neg, "a0"), "b": SIT_ALONE[reason], "c": (neg, "b"), "d": (neg, "c")})
    assert refused(graph, ["d"])["b"] == reason
    made = diamond(graph, ["d"])
    assert made["b"] is SIT_ALONE[reason]
    assert barrier(made["b"]) == reason
    assert not any("b" in tasks for tasks in regions(made).values())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: type(lock).__name__)
def test_refusal_of_a_lock(lock: Any) -> None:
    reason = "it holds a lock, which would hold up everything fused with it"
    for task in (Task("b", make, TaskRef("a"), lock), Task("b", make, TaskRef("a"), lock=lock)):
        graph = graph_of({"a0": (make,), "a": (neg, "a0"), "b": task, "c": (neg, "b"), "d": (neg, "c")})
        assert refused(graph, ["d"]) == {"b": reason}
        assert fused(graph, ["d"]) == {"a": ["a0", "a"], "d": ["c", "d"]}


def test_a_list_that_stands_alone_is_not_fused() -> None:
    graph = {"a": Task("a", make), "b": List(TaskRef("a"), 2), "c": Task("c", sum, TaskRef("b"))}
    assert refused(graph, ["c"]) == {"b": "it is a List, which has rules of its own"}


def test_a_refusal_prints_as_a_sentence() -> None:
    (refusal,) = partition(graph_of({"a": (make,), "b": (neg, "a")}), ["b"], classes={"b": 1}).refusals
    assert str(refusal) == "diamond: 'b': its annotations differ from its inputs'"


# -- counterexamples that hypothesis found -----------------------------------------------------------------------------


def test_which_regions_are_united_does_not_depend_on_the_order_of_sets() -> None:
    """Among regions of equal rank the longest gives its number; it was the first that a set happened to yield."""
    for shift in range(40):  # other names, other hashes
        a, b, c, d = (f"k{i * 37 + shift}" for i in range(4))
        graph = {a: (make,), b: (neg, a), c: (abs, 1), d: (sub, b, c)}
        assert fused(graph, [d], parallelism=1) == {d: [a, c, b, d]}


def test_a_depth_that_is_wide_by_chance_is_not_narrowed_later() -> None:
    """``c`` and ``d`` run at once; uniting ``d`` with ``e``, which waits for ``c``, would end that."""
    graph = {
        "a": (make, 1),
        "b1": (make, 2),
        "b2": (make, 3),
        "x": (make, 4),
        "c": (make, "a"),
        "d": (sum, ["b1", "b2"]),
        ("e", 0): (sum, ["c", "x"]),
        "f": (add, "d", ("e", 0)),
    }
    made = regions(diamond(graph_of(graph), ["f"], parallelism=3))
    assert {key: tasks for key, tasks in made.items() if len(tasks) > 1} == {"c": ["a", "c"]}
    assert refused(graph, ["f"], parallelism=3) == {"f": THREADS.format(3)}
    # With another block to load, which nothing else waits for, the union that is free may still happen.
    graph.update({"y": (abs, 5), "g": (add, "d", "y")})
    assert {"y", "d", "g"} in [set(tasks) for tasks in fused(graph, ["f", "g"], parallelism=3).values()]


def test_a_region_that_is_wide_by_chance_stays_so_when_it_is_united() -> None:
    """As above, with one more block united into ``d`` before: what it is part of then is to be kept apart too."""
    graph = {
        "a": (make, 1),
        "b1": (make, 2),
        "b2": (make, 3),
        "x": (make, 4),
        "y": (abs, 5),
        "c": (make, "a"),
        "d": (sum, ["b1", "b2"]),
        "d2": (pow, "d", "y"),
        "d3": (neg, "d2"),
        ("e", 0): (sum, ["c", "x"]),
        "f": (add, "d3", ("e", 0)),
    }
    home = {task: key for key, tasks in regions(diamond(graph_of(graph), ["f"], parallelism=3)).items() for task in tasks}
    assert home["d"] == home["d2"] == home["y"]
    assert home["d"] != home[("e", 0)]


def test_uniting_many_blocks_one_after_the_other_is_linear() -> None:
    """Four times the blocks in about four times the time; copying a region's depths whenever one joins it takes sixteen."""

    def seconds(blocks: int) -> float:
        graph: dict[Any, Any] = {("z", 0): (make,)}
        for i in range(1, blocks):
            graph.update({("y", i): (abs, i), ("z", i): (add, ("z", i - 1), ("y", i))})
        graph = graph_of(graph)
        times = []
        for _ in range(3):
            start = time.process_time()
            made = diamond(graph, [("z", blocks - 1)])
            times.append(time.process_time() - start)
        assert [len(tasks) for tasks in regions(made).values()] == [2 * blocks - 1]
        return min(times)

    assert seconds(4000) < 9 * seconds(1000)


# -- regions -----------------------------------------------------------------------------------------------------------


def test_a_region_runs_as_it_is_and_pickles() -> None:
    import cloudpickle

    graph = graph_of({"x": 2.0, "a": (neg, "x"), "b": (abs, "a"), "c": (add, "a", "b")})
    region = diamond(graph, ["c"])["c"]
    assert isinstance(region, Region)
    assert region.dependencies == {"x"}
    assert region({"x": 3.0}) == 0.0
    assert cloudpickle.loads(cloudpickle.dumps(region))({"x": 3.0}) == 0.0
    assert repr(region) == "<Region 'c' of 3 tasks, 1 out>"
    assert dask.get({"x": graph["x"], "c": region}, "c") == 0.0


def test_a_region_follows_renamed_inputs_and_keeps_its_own_keys() -> None:
    region = Region("c", [Task("a", neg, TaskRef("x")), Task("c", add, TaskRef("a"), TaskRef("y"))], ["c"])
    moved = region.substitute({"x": "other", "a": "not this one"})
    assert moved.dependencies == {"other", "y"}
    assert moved({"other": 1, "y": 5}) == 4
    assert region.substitute({}) is region
    assert region.substitute({"a": "b"}) is region
    assert region.substitute({}, key="d").key == "d"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda a, b: Region("b", [b, a], ["b"]), "comes before"),
        (lambda a, b: Region("b", [a, a], ["b"]), "share a key"),
        (lambda a, b: Region("z", [a, b], ["z"]), "not a member"),
        (lambda a, b: Region("b", [a, b], []), "without outputs"),
        (lambda a, b: Region("z", [a, b], ["b"]), "single output"),
    ],
)
def test_check_notices_a_region_that_is_wrong(wrong: Any, said: str) -> None:
    a, b = Task("a", neg, 1), Task("b", neg, TaskRef("a"))
    Region("b", [a, b], ["b"])._check()
    with pytest.raises(AssertionError, match=said):
        wrong(a, b)._check()


def test_group_puts_a_region_where_its_last_task_was() -> None:
    graph = graph_of({"a": (make,), "b": (neg, "a"), "c": (neg, "b"), "d": (neg, "c")})
    assert group(graph, ["d"], []) is graph
    made = group(graph, ["d"], [["b", "c"]])
    assert list(made) == ["a", "c", "d"]
    assert toposort(made) == ["a", "c", "d"]
    both = group(graph, ["b", "d"], [["b", "c"]])
    assert list(both) == ["a", region_key("b"), "b", "c", "d"]
    assert outline(group(both, ["b", "d"], [])) == outline(both)


def test_picks_are_told_from_other_indexing() -> None:
    made = group(graph_of({"a": (make,), "b": (neg, "a")}), ["a", "b"], [["a", "b"]])
    assert is_pick(made["a"], made)
    assert is_pick(pick("z", region_key("a"), 1), made)
    assert not is_pick(Task("z", getitem, TaskRef("elsewhere"), 0), made)
    assert not is_pick(Task("z", getitem, TaskRef(region_key("a")), "0"), made)
    assert not is_pick(None, made)
    assert first_output(region_key(("x", 1))) == ("x", 1)
    assert first_output(("x", 1)) == ("x", 1)
