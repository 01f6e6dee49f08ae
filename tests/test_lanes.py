"""Lanes: which regions are batched with their reader, and each reason why others are not; and how large a batch may be."""

from __future__ import annotations

import functools
from operator import add, getitem, neg
from typing import Any

import numpy as np
import pytest
from oracle import evaluate, regions

from graphopt.graph import normalise as graph_of
from graphopt.passes.diamond import diamond
from graphopt.passes.lanes import lanes
from graphopt.region import Region, region_key
from graphopt.sizes import brought_bytes
from graphopt.spec import DataNode, Task, TaskRef
from graphopt.types import Refusal


def make(i: int) -> float:
    return float(i)


def sums(count: int, width: int) -> dict[Any, Any]:
    """So many lanes of two steps, and a tree of sums of this width over them; the root is ``"root"``."""
    graph: dict[Any, Any] = {}
    for i in range(count):
        graph.update({("x", i): (make, i), ("y", i): (neg, ("x", i))})
    level, keys = 0, [("y", i) for i in range(count)]
    while len(keys) > width:
        above = [(f"s{level}", i) for i in range(-(-len(keys) // width))]
        graph.update({key: (sum, keys[i * width : (i + 1) * width]) for i, key in enumerate(above)})
        level, keys = level + 1, above
    return {**graph, "root": (sum, keys)}


def batched(graph: dict[Any, Any], keys: list[Any], **size: Any) -> tuple[dict[Any, list[Any]], dict[Any, str]]:
    """Run diamond and lanes; return the regions there are then, and what was refused in the end."""
    refusals: list[Refusal] = []
    whole = graph_of(graph)
    fusion = {name: size[name] for name in ("parallelism", "classes") if name in size}
    made = lanes(diamond(whole, keys, **fusion), keys, refusals=refusals, **size)
    assert evaluate(made, keys) == evaluate(whole, keys)
    return regions(made), {refusal.key: refusal.reason for refusal in refusals}


# -- what goes together ------------------------------------------------------------------------------------------------


def test_lanes_that_feed_one_reader_become_one_with_it() -> None:
    made, refused = batched(sums(4, 2), ["root"], parallelism=1, spare=2)
    assert made == {
        ("s0", 0): [[("x", 0), ("y", 0)], [("x", 1), ("y", 1)], [("s0", 0)]],
        ("s0", 1): [[("x", 2), ("y", 2)], [("x", 3), ("y", 3)], [("s0", 1)]],
        "root": ["root"],
    }
    assert refused == {"root": "only 1 batches would remain, fewer than 2"}


def test_a_tree_is_batched_from_its_leaves_as_far_as_the_policy_allows() -> None:
    for parallelism, spare, left in [(1, 1, 1), (1, 4, 7), (2, 4, 15), (4, 4, 31), (8, 4, 63), (32, 4, 127)]:
        made, _ = batched(sums(64, 2), ["root"], parallelism=parallelism, spare=spare)
        assert len(made) == left


def test_lanes_stay_in_chunk_order() -> None:
    """The order of the keys in the graph, not that of their names, in which 10 comes before 2."""
    made, _ = batched(sums(12, 12), ["root"], parallelism=1, spare=1)
    assert made["root"] == [*([("x", i), ("y", i)] for i in range(12)), ["root"]]


def test_readers_of_the_same_inputs_become_one() -> None:
    graph = {**sums(8, 8), "least": (min, [("y", i) for i in range(8)])}
    made, _ = batched(graph, ["root", "least"], parallelism=1, spare=4)
    assert made[region_key("root")] == [["root"], ["least"]]
    made, _ = batched(graph, ["root", "least"], parallelism=1, spare=1)
    assert [tasks[-2:] for tasks in made.values()] == [[["root"], ["least"]]], "and then all eight lanes with them"


@pytest.mark.parametrize(("parallelism", "together"), [(1, True), (2, True), (3, False), (4, False)])
def test_readers_become_one_only_where_threads_are_left(parallelism: int, together: bool) -> None:
    graph: dict[Any, Any] = {("x", i): (make, i) for i in range(4)}
    for i in range(2):
        inputs = [("x", 2 * i), ("x", 2 * i + 1)]
        graph.update({("least", i): (min, inputs), ("most", i): (max, inputs)})
    keys = [(name, i) for name in ("least", "most") for i in range(2)]
    made = lanes(graph_of(graph), keys, parallelism=parallelism, spare=100)
    assert (len(regions(made)) == 2) == together, "four readers may become two if two threads are all there are"


def test_lanes_of_several_results_are_batched_with_all_their_readers() -> None:
    """What a loss and a gradient look like: each lane gives two partial results, which are summed apart."""
    graph: dict[Any, Any] = {}
    for i in range(8):
        graph.update({("x", i): (make, i), ("loss", i): (abs, ("x", i)), ("grad", i): (neg, ("x", i))})
    for name in ("loss", "grad"):
        graph.update({(f"{name}-sum", i): (sum, [(name, i * 4 + k) for k in range(4)]) for i in range(2)})
        graph[name] = (sum, [(f"{name}-sum", i) for i in range(2)])
    made, _ = batched(graph, ["loss", "grad"], parallelism=1, spare=2)
    assert [len(tasks) for tasks in made.values()] == [4 * 3 + 2, 4 * 3 + 2, 2]


def test_nothing_to_batch_returns_the_graph() -> None:
    graph = diamond(graph_of(sums(4, 2)), ["root"])
    assert lanes(graph, ["root"], parallelism=4) is graph
    assert lanes({}, []) == {}
    once = lanes(graph, ["root"], parallelism=1, spare=1)
    assert once is not graph
    assert lanes(once, ["root"], parallelism=1, spare=1) is once


def test_plain_tasks_are_lanes_too() -> None:
    graph = graph_of({**{("x", i): (make, i) for i in range(4)}, "s": (sum, [("x", i) for i in range(4)])})
    assert regions(lanes(graph, ["s"], spare=1)) == {"s": [*(("x", i) for i in range(4)), "s"]}


def test_a_batch_can_be_called_as_any_region() -> None:
    graph = diamond(graph_of(sums(4, 2)), ["root"])
    made = lanes(graph, ["root"], parallelism=1, spare=2)
    batch = made[("s0", 1)]
    assert isinstance(batch, Region)
    batch._check()
    assert batch({}) == -5.0


# -- what does not, and why --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parallelism", "spare"), [(1, 3), (3, 1), (2, 2), (1, 4)])
def test_refusal_too_few_batches(parallelism: int, spare: int) -> None:
    made, refused = batched(sums(4, 2), ["root"], parallelism=parallelism, spare=spare)
    assert all(len(tasks) <= 2 for tasks in made.values())
    assert refused[("s0", 0)] == refused[("s0", 1)] == f"only 2 batches would remain, fewer than {parallelism * spare}"


def test_refusal_a_lane_is_asked_for() -> None:
    _, refused = batched(sums(2, 2), ["root", ("y", 1)], spare=1)
    assert refused == {"root": "one of its inputs is asked for"}


def test_refusal_a_lane_is_read_elsewhere() -> None:
    graph = {**sums(4, 2), "more": (add, ("y", 0), ("s0", 1))}
    _, refused = batched(graph, ["root", "more"], spare=1)
    assert refused[("s0", 0)] == "one of its inputs is read elsewhere too"


def test_refusal_of_other_annotations() -> None:
    graph = sums(2, 2)
    _, refused = batched(graph, ["root"], spare=1, classes={"root": 1})
    assert refused == {"root": "its annotations differ from its inputs'"}
    made, _ = batched(graph, ["root"], spare=1, classes=dict.fromkeys(graph, 1))
    assert len(made) == 1


def test_refusal_of_lanes_ready_at_different_times() -> None:
    graph = graph_of({"a": (make, 1), "b": (make, 2), "c": (neg, "b"), "s": (add, "a", "c")})
    refusals: list[Refusal] = []
    assert lanes(graph, ["s"], spare=1, refusals=refusals) is graph
    assert refusals == [Refusal("s", "lanes", "its inputs become ready at different times")]


def test_refusal_of_lanes_that_sit_on_futures() -> None:
    """Each lane should run on the worker that holds its block; a batch would have to fetch them all to one."""
    reason = "one of its inputs reads a future, and should run where that is"
    inside: dict[Any, Any] = {("f", i): TaskRef(("f", i)) for i in range(2)}
    for futures in (inside, {}):
        graph = {**futures, **{("y", i): Task(("y", i), neg, TaskRef(("f", i))) for i in range(2)}}
        graph["s"] = Task("s", add, TaskRef(("y", 0)), TaskRef(("y", 1)))
        refusals: list[Refusal] = []
        assert lanes(graph, ["s"], spare=1, refusals=refusals) is graph
        assert [(refusal.key, refusal.reason) for refusal in refusals] == [("s", reason)]


def test_refusal_of_a_lane_that_may_not_be_fused() -> None:
    async def wait(x: Any) -> Any:
        return x

    graph = graph_of({**sums(2, 2), ("x", 0): Task(("x", 0), wait, 0)})
    refusals: list[Refusal] = []
    plain = {**graph, "root": Task("root", add, TaskRef(("x", 0)), TaskRef(("x", 1)))}
    assert lanes(plain, ["root"], spare=1, refusals=refusals) is plain
    assert [refusal.reason for refusal in refusals] == ["one of its inputs may not be fused"]


def test_a_reader_that_may_not_be_fused_is_passed_over() -> None:
    import threading

    graph = graph_of({**sums(2, 2), "root": Task("root", make, TaskRef(("y", 0)), TaskRef(("y", 1)), threading.Lock())})
    assert lanes(graph, ["root"], spare=1) is graph


def test_refusal_of_too_many_bytes() -> None:
    block = 8 * 1000
    graph: dict[Any, Any] = {("x", i): (np.ones, (1000,)) for i in range(4)}
    graph.update({("s", i): (add, ("x", 2 * i), ("x", 2 * i + 1)) for i in range(2)})
    whole = graph_of({**graph, "root": (add, ("s", 0), ("s", 1))})
    refusals: list[Refusal] = []
    assert lanes(whole, ["root"], spare=2, max_bytes=2 * block - 1, refusals=refusals) is whole
    assert {r.reason for r in refusals if r.key[0] == "s"} == {f"the batch would bring in more than {2 * block - 1} bytes"}
    assert len(regions(lanes(whole, ["root"], spare=2, max_bytes=2 * block))) == 2
    assert len(regions(lanes(whole, ["root"], spare=1, max_bytes=4 * block - 1))) == 2, "the bound holds for all rounds"
    assert len(regions(lanes(whole, ["root"], spare=1, max_bytes=4 * block))) == 1


def test_a_second_round_may_reuse_the_name_of_a_region() -> None:
    """A counterexample that hypothesis found: a region's first result is the first result of the batch it goes into."""
    graph: dict[Any, Any] = {**{("x", i): (make, i) for i in range(2)}, ("s", 0): (sum, [("x", 0), ("x", 1)])}
    graph.update({("a", 0): (neg, ("s", 0)), "y": (make, 3), ("a", 1): (add, "y", ("s", 0)), "dead": (neg, "y")})
    graph["out"] = (neg, ("a", 0))
    whole = graph_of(graph)
    for spare in (1, 2):
        for first in (whole, diamond(whole, ["out"])):
            made = lanes(first, ["out"], spare=spare)
            assert evaluate(made, ["out"]) == evaluate(whole, ["out"])
            assert lanes(made, ["out"], spare=spare) is made


# -- sizes -------------------------------------------------------------------------------------------------------------

BIG = DataNode("big", np.zeros((1000, 10)))


@pytest.mark.parametrize(
    ("task", "size"),
    [
        (Task("t", np.ones, (100, 10)), 8000),
        (Task("t", np.ones, shape=(100, 10)), 8000),
        (Task("t", np.full, (3,), 1.0), 24),
        (Task("t", np.ones, ()), 0),
        (Task("t", make, 5), 0),
        (Task("t", make, ("a", "b")), 0),
        (Task("t", neg, TaskRef("big")), 80_000),
        (Task("t", getitem, TaskRef("big"), (slice(0, 100), slice(0, 10))), 8000),
        (Task("t", getitem, TaskRef("big"), slice(0, 100)), 80_000),
        (Task("t", getitem, TaskRef("big"), (slice(None), slice(0, 10))), 80_000),
        (Task("t", neg, TaskRef("elsewhere")), 0),
        (Task("t", neg, np.zeros(50)), 400),
        (Task("t", add, TaskRef("elsewhere"), TaskRef("big")), 80_000),
        (Region("r", [Task("a", np.ones, (10,)), Task("r", add, TaskRef("a"), TaskRef("big"))], ["r"]), 80_080),
        (TaskRef("future"), 0),
    ],
)  # fmt: skip
def test_what_a_task_brings_in(task: Any, size: int) -> None:
    assert brought_bytes(task, {"big": BIG}) == size


def test_the_guess_can_be_kept_and_a_strange_one_does_no_harm() -> None:
    known: dict[int, int] = {}
    task = Task("t", np.ones, (5,))
    assert brought_bytes(task, {}, known) == 40
    known[id(task)] = 7
    assert brought_bytes(task, {}, known) == 7

    class Odd:
        nbytes = "many"

    assert brought_bytes(Task("t", functools.partial(make), Odd()), {}) == 0
    assert brought_bytes(Task("t", neg, TaskRef("odd")), {"odd": DataNode("odd", Odd())}) > 0
