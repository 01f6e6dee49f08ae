"""What could go wrong without anybody noticing: every surprise that we know of, silent ones first.

Each test is one way in which an optimiser of dask graphs can change an answer, or the way to it. Those that need a cluster
are in ``test_footguns_cluster.py``. The length of this file is that of a list.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import operator
import pickle
import random
import threading
import time
from collections import Counter, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph
from dask.utils import SerializableLock
from seen import STRICT, run_here

import graphopt as go
from graphopt.graph import dependencies, normalise
from graphopt.kernel import Fused
from graphopt.spec import Alias, DataNode, GraphNode, Task, TaskRef

pytestmark = pytest.mark.timeout(60)

GREEDY = go.Policy(strict=True, parallelism=1, spare=1)  # fuse whatever may be fused
USUAL = go.Policy(strict=True, parallelism=2)


def both_ways(collection: Any, scheduler: str = "sync") -> Any:
    """Compute with all fusion there is and with the usual, assert that they agree, and return the result."""
    with go.optimized(GREEDY):
        greedy = collection.compute(scheduler=scheduler)
    with go.optimized(USUAL):
        usual = collection.compute(scheduler=scheduler)
    if isinstance(greedy, np.ndarray):
        np.testing.assert_array_equal(greedy, usual)
    return usual


def plain(collection: Any) -> Any:
    return dask.compute(collection, scheduler="sync", optimize_graph=False)[0]


def fused(graph: Any) -> list[Fused]:
    return [node for node in dict(graph).values() if isinstance(node, Fused)]


def evaluate(graph: Any) -> dict[Any, Any]:
    """Compute every key of a graph."""
    graph = dict(graph)
    keys = list(graph)
    return dict(zip(keys, dask.get(graph, keys), strict=True))


# -- silent: draws, mutation, equal-looking things ---------------------------------------------------------------------


def test_seeded_draws_are_those_of_dask() -> None:
    for make in (
        lambda: da.random.default_rng(7).normal(size=(20, 20), chunks=10),
        lambda: da.random.RandomState(7).uniform(size=(20, 20), chunks=10),
        lambda: da.random.default_rng(7).integers(0, 100, size=50, chunks=10),
        lambda: da.random.default_rng(7).choice(100, size=30, chunks=10),  # dask gives another draw each time it is run
        lambda: da.random.default_rng(7).permutation(da.arange(30, chunks=10)),
    ):
        expected = plain(make() + 0)
        for policy in (GREEDY, USUAL):
            with go.optimized(policy):
                np.testing.assert_array_equal((make() + 0).compute(scheduler="sync"), expected)


def test_unseeded_arrays_stay_different() -> None:
    x, y = da.random.random(20, chunks=10), da.random.random(20, chunks=10)
    difference = both_ways(x - y)
    assert np.all(difference != 0)
    np.testing.assert_array_equal(both_ways(x - x), np.zeros(20))


def test_blocks_of_a_random_array_stay_different() -> None:
    x = da.random.random(20, chunks=10)
    assert np.all(both_ways(x[:10] - x[10:]) != 0)


def test_impure_delayed_called_twice_is_two_draws() -> None:
    @dask.delayed(pure=False)
    def draw(*inputs: Any) -> float:
        return random.random()

    one = dask.delayed(_same)(1)
    for inputs in ((), (one,)):
        first, second = draw(*inputs), draw(*inputs)
        difference = dask.delayed(operator.sub)(first, second)
        for policy in (GREEDY, USUAL):
            with go.optimized(policy):
                assert difference.compute(scheduler="sync") != 0
                same = dask.delayed(operator.sub)(first, first)
                assert same.compute(scheduler="sync") == 0, "one call is one draw, however often it is read"


def test_a_function_may_write_to_what_it_is_given() -> None:
    """Two equal arrays are two arrays: each is given to a function of its own, which may write to it."""

    def add_one(x: Any) -> Any:
        x += 1
        return x

    graph = {
        "a": Task("a", np.negative, DataNode(None, np.arange(5.0))),
        "b": Task("b", np.negative, DataNode(None, np.arange(5.0))),
        "a1": Task("a1", add_one, TaskRef("a")),
        "b1": Task("b1", add_one, TaskRef("b")),
        "c": Task("c", operator.add, TaskRef("a1"), TaskRef("b1")),
    }
    for policy in (GREEDY, USUAL):
        result = dask.get(go.optimize(graph, "c", policy), "c")
        np.testing.assert_array_equal(result, 2 * (1 - np.arange(5.0)))


def test_writing_to_a_view_does_not_reach_its_twin() -> None:
    """Equal views of one array are two to a function that writes; which of the two it was given does not matter."""

    def clear(x: Any) -> Any:
        x[:] = 0
        return x

    ones = dask.delayed(np.ones)(4)
    views = [dask.delayed(operator.getitem)(dask.delayed(np.negative)(ones), slice(0, 2)) for _ in range(2)]
    total = dask.delayed(operator.add)(dask.delayed(clear)(views[0]), dask.delayed(_same)(views[1]))
    np.testing.assert_array_equal(both_ways(total), [-1.0, -1.0])


def test_the_array_that_was_given_is_not_written_to() -> None:
    given = np.ones(8)
    x = da.from_array(given, chunks=4)
    both_ways(((x + 1) * 2 - 3) / 4)
    np.testing.assert_array_equal(given, np.ones(8))


def test_a_second_compute_starts_afresh() -> None:
    """Literals live in kernels; a function that writes to one must not be seen in the next run."""

    def append(items: list[int], item: int) -> list[int]:
        items.append(item)
        return items

    total = dask.delayed(append)(dask.delayed(append)([1, 2], 3), 4)
    with go.optimized(GREEDY):
        assert total.compute(scheduler="sync") == plain(dask.delayed(append)(dask.delayed(append)([1, 2], 3), 4))
        graph = go.optimize(total, total.key, GREEDY)
    first = list(dask.get(graph, total.key))
    assert first[:2] == [1, 2]
    assert list(dask.get(graph, total.key))[: len(first)] == first


class Colour(IntEnum):
    RED = 1


class Text(str):
    pass


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "value",
    [
        1, True, 1.0, -1, -0.0, 0.0, 2**70, float("inf"), float("-inf"), 1e-300, 1j, None, Ellipsis, b"x\x00", "", "it's",
        'say "no"', "two\nlines", "{braces} %s", "\\", "µ\u2028", "x" * 500, (), (1,), (1, (2.0, "a")), [], [1, [2]], {},
        {"a": 1}, {1: "a", (2, 3): [4]}, set(), {1}, frozenset({1}), slice(None), slice(1, None, -2), range(3), np.float32(0.1),
        np.int8(1), np.bool_(True), np.datetime64("2020-01-01"), np.str_("a"), np.dtype("f4"), np.nan, float, Colour.RED,
        Text("t"), Pair(1, [2]), operator.add, np.array(3.0), np.array([], dtype="i2"), np.ma.masked, np.newaxis,
    ],
    ids=repr,
)  # fmt: skip
def test_literals_arrive_as_they_are(value: Any) -> None:
    """Written into source, bound to a name or passed along: an argument keeps its type and its value."""
    graph = {
        "first": Task("first", _same, DataNode(None, value)),
        "second": Task("second", _pair, TaskRef("first"), DataNode(None, value)),
        "third": Task("third", _pair, TaskRef("second"), value if not isinstance(value, GraphNode) else None),
    }
    (first, second), third = dask.get(go.optimize(graph, "third", GREEDY), "third")
    for got in (first, second, third):
        assert type(got) is type(value)
        assert repr(got) == repr(value)
        assert isinstance(value, (set, frozenset, str)) or pickle.dumps(got) == pickle.dumps(value)


def _same(x: Any) -> Any:
    return x


def _pair(x: Any, y: Any) -> tuple[Any, Any]:
    return x, y


@pytest.mark.parametrize(
    "values",
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        (0j, -0j),
        (1, np.int64(1)),
        ("a", b"a"),
        ((1,), [1]),
        ((0.0,), (-0.0,)),
        (1, Colour.RED),
    ],
    ids=repr,
)
def test_lanes_that_differ_in_the_type_of_a_literal(values: Any) -> None:
    """Equal by ``==``, and yet not the same: written into a kernel that both share, one would become the other."""
    parts = [dask.delayed(_pair)(dask.delayed(_same)(value), value) for value in values]
    for policy in (GREEDY, USUAL):
        with go.optimized(policy):
            results = dask.compute(*parts, scheduler="sync")
        for value, pair in zip(values, results, strict=True):
            assert [(type(x), repr(x)) for x in pair] == [(type(value), repr(value))] * 2


def test_closures_of_one_function_are_told_apart() -> None:
    def power(n: int) -> Callable[[int], int]:
        return lambda x: x**n

    parts = [dask.delayed(power(n))(dask.delayed(power(1))(3)) for n in range(5)]
    with go.optimized(GREEDY):
        assert dask.compute(*parts, scheduler="sync") == (1, 3, 9, 27, 81)


class Adder:
    """A callable that compares equal to others of its kind and cannot be hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, n: int) -> None:
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adder)

    def __call__(self, x: int) -> int:
        return x + self.n

    def method(self, x: int) -> int:
        return x * self.n


def test_callables_of_all_kinds() -> None:
    one = dask.delayed(_same)(3)
    calls: list[tuple[Any, Any]] = [
        (Adder(1), 4), (Adder(2), 5), (Adder(2).method, 6), (Adder(5).method, 15), (functools.partial(operator.sub, 10), 7),
        (functools.partial(Adder(1)), 4), (np.vectorize(lambda x: x + 1), 4), (functools.lru_cache(lambda x: -x), -3),
        (str, "3"), (np.frompyfunc(lambda x: x + 2, 1, 1), 5), (range(9).index, 3), (np.float32, 3.0), (Point, Point(3)),
    ]  # fmt: skip
    parts = [dask.delayed(func)(one) for func, _ in calls]
    with go.optimized(GREEDY):
        results = dask.compute(*parts, scheduler="sync")
    assert list(results) == [value for _, value in calls]


def test_names_that_a_kernel_uses_itself() -> None:
    """Functions, keys and keyword arguments may have any name; the generated code needs a few for itself."""
    names = ["np", "lean", "del", "return", "x", "lambda", "print", "def f():", "1st", "µ", "", "None", "a b", "x_1", "self"]

    def make(name: str, n: int) -> Callable[..., int]:
        def f(value: int, **options: int) -> int:
            return value * 10 + n + sum(options.values())

        f.__name__ = name
        return f

    value: Any = 0
    expected = 0
    for n, name in enumerate(names):
        value = dask.delayed(make(name, n))(value, dask_key_name=f"{name}-{n}" if n % 2 else ("key", name, n))
        expected = expected * 10 + n
    assert both_ways(value) == expected
    odd = Task("odd", make("f", 0), TaskRef("one"), **{"class": 1, "a-b": 2, "func": 3, "np": 4})
    graph = {"one": Task("one", make("g", 1), 0), "odd": odd}
    assert dask.get(go.optimize(graph, "odd", GREEDY), "odd") == 20


def test_chunks_that_know_where_they_are() -> None:
    def where(x: Any, block_info: Any = None, block_id: Any = None) -> Any:
        assert block_info[0]["chunk-location"] == block_id
        return x + 100 * block_id[0] + block_info[None]["array-location"][1][0]

    x = da.zeros((8, 6), chunks=(2, 3)) + 1
    y = x.map_blocks(where, dtype=float) * 2
    np.testing.assert_array_equal(both_ways(y), plain(y))
    tens = np.array([10, 1])
    located = da.map_blocks(lambda block_id=None: np.full((1, 1), block_id @ tens), chunks=((1,) * 3, (1,) * 4), dtype=int)
    np.testing.assert_array_equal(both_ways(located + 0), np.arange(3)[:, None] * 10 + np.arange(4))


# -- silent: names of results ------------------------------------------------------------------------------------------


def apart() -> Iterator[Any]:
    """Collections in which tasks of all sorts are left apart: by parallelism, by barriers, by annotations, by sharing."""
    x = da.from_array(np.arange(64.0).reshape(8, 8), chunks=2)
    y = da.exp(x) - 1 / (x + 1)
    mean = y.mean(axis=0)
    yield (y - mean).sum()
    yield (y @ y.T).cumsum(axis=0)
    locked = da.from_array(np.arange(8.0), chunks=2, lock=True) + 1
    yield locked - locked.mean()
    a = dask.delayed(operator.add)(1, 1)
    with dask.annotate(priority=3):
        b = dask.delayed(operator.neg)(a)
    c = dask.delayed(_pair)(b, dask.delayed(_hold)(SerializableLock(), dask.delayed(_same)(b)))
    yield dask.delayed(_same)(c)


def _hold(lock: Any, value: Any) -> Any:
    with lock:
        return value


@pytest.mark.parametrize("policy", [GREEDY, USUAL, go.Policy(strict=True, parallelism=64)], ids=["greedy", "usual", "careful"])
def test_a_key_is_not_kept_while_its_task_changes(policy: go.Policy) -> None:
    """On a cluster the old task may be known by that key; only what was asked for keeps its key whatever it reads."""
    for collection in apart():
        asked = set(dask.core.flatten(collection.__dask_keys__()))
        before = normalise(collection, merge_layers=False)
        after = dict(go.optimize(collection, list(asked), policy))
        changed = [
            key
            for key, node in after.items()
            if key in before and key not in asked and dependencies(node) != dependencies(before[key])
        ]
        assert not changed


@pytest.mark.parametrize("policy", [GREEDY, USUAL], ids=["greedy", "usual"])
def test_equal_keys_are_equal_results(policy: go.Policy) -> None:
    """Two computations may run on a cluster at once: a key in both must be one result, whatever else each asked for."""
    graph: dict[Any, Any] = {}
    for i in range(2):
        graph[("x", i)] = Task(("x", i), np.arange, 10 * (i + 1))
        graph[("y", i)] = Task(("y", i), np.negative, TaskRef(("x", i)))
        for j in range(2):
            graph[("w", i, j)] = Task(("w", i, j), operator.getitem, TaskRef(("x", i)), slice(j + i, j + i + 3))
    graph["lock"] = DataNode("lock", SerializableLock())
    for i, j in itertools.product(range(2), repeat=2):
        graph[("c", i, j)] = Task(("c", i, j), _both, SerializableLock(), TaskRef(("y", i)), TaskRef(("w", i, j)))
    known: dict[Any, Any] = {}
    for picked in itertools.product(range(2), repeat=2):
        keys = [("c", i, j) for i, j in enumerate(picked)]
        for key, value in evaluate(go.optimize(graph, keys, policy)).items():
            if key in known:
                assert repr(known[key]) == repr(value), key
            known[key] = value
    assert len(known) > 8


def _both(lock: Any, y: Any, w: Any) -> Any:
    with lock:
        return y.sum(), w.sum()


def test_equal_work_has_equal_keys_in_every_run() -> None:
    def keys() -> set[Any]:
        x = da.from_array(np.arange(64.0).reshape(8, 8), chunks=2)
        y = ((da.exp(x) - 1 / (x + 1)).sum(axis=0) + 1).rechunk(4)
        return set(go.optimize(y, y.__dask_keys__(), USUAL))

    assert keys() == keys()


def test_blocks_keep_a_common_name_and_their_place() -> None:
    """The scheduler groups tasks by the name in their key, and plans by group."""
    x = da.from_array(np.arange(64.0), chunks=4)
    total = (da.exp(x) - 1 / (x + 1)).rechunk(16).cumsum(axis=0)
    graph = go.optimize(total, total.__dask_keys__(), go.Policy(strict=True, parallelism=16))
    names = Counter(key[0] for key in graph if isinstance(key, tuple))
    assert max(names.values()) == 16
    assert all(isinstance(name, str) for name in names)


def test_keys_that_are_no_strings() -> None:
    keys = [1, 2.5, b"bytes", ("t", 1), ("t", ("u", 2), 0.5), (3, "x"), -1, "plain"]
    graph: dict[Any, Any] = {keys[0]: Task(keys[0], operator.add, 1, 1)}
    for before, key in itertools.pairwise(keys):
        graph[key] = Task(key, operator.add, TaskRef(before), 1)
    for asked in keys:
        for policy in (GREEDY, USUAL):
            assert dask.get(go.optimize(graph, asked, policy), asked) == dask.get(graph, asked)
    everything = go.optimize(graph, keys, GREEDY)
    assert evaluate({key: everything[key] for key in everything})["plain"] == 9
    held = {**graph, "lock": Task("lock", _hold, SerializableLock(), TaskRef(-1)), "end": Task("end", _same, TaskRef("lock"))}
    assert dask.get(go.optimize(held, "end", GREEDY), "end") == 8


# -- silent: what is shared stays as it was ----------------------------------------------------------------------------


def test_what_dask_fused_is_not_changed() -> None:
    """Dask's fused tasks carry graphs, shared between blocks, that it changes in place itself; we only read them."""
    x = da.from_array(np.arange(64.0).reshape(8, 8), chunks=2)
    y = (da.exp(x) - 1 / (x + 1)).sum(axis=0)
    keys = list(dask.core.flatten(y.__dask_keys__()))
    graph = dict(da.optimization.optimize(y.dask, keys))
    inner = [node.args[0] for node in graph.values() if isinstance(node, Task) and node.args and isinstance(node.args[0], dict)]
    assert inner, "dask no longer fuses this; find another example"
    before = [(graph, dict(graph)), *((one, dict(one)) for one in inner)]
    shown = repr(graph), [repr(one) for one in inner]
    expected = evaluate(graph)
    optimised = go.optimize(graph, keys, GREEDY)
    for now, then in before:
        assert now.keys() == then.keys()
        assert all(now[key] is then[key] for key in then)
    assert (repr(graph), [repr(one) for one in inner]) == shown
    for key in keys:
        np.testing.assert_array_equal(evaluate(optimised)[key], expected[key])


def test_copies_keep_that_a_task_makes_data() -> None:
    x = da.ones(4, chunks=2) + 1
    kernel = fused(go.optimize(x, x.__dask_keys__()))[0].func
    for producer in (False, True):
        task = Fused("a", kernel, (2,), _data_producer=producer, labels=("a",))
        for other in (task.copy(), pickle.loads(pickle.dumps(task)), task.substitute({}, key="b")):
            assert other.data_producer is producer
            assert other.labels == ("a",)


def test_small_arrays_are_arguments() -> None:
    """Dask makes a task that absorbs data a "data producer", and then runs it wherever, not where its inputs are."""
    x = da.from_array(np.arange(4000.0).reshape(1000, 4), chunks=(100, 4))
    held = {key: TaskRef(key) for key in dask.core.flatten(x.__dask_keys__())}
    beta = da.from_array(np.ones(4), chunks=4)
    y = ((x + 1) * beta).map_blocks(operator.mul, 2)
    keys = list(dask.core.flatten(y.__dask_keys__()))
    graph = go.optimize({**dict(y.__dask_graph__()), **held}, keys, USUAL)
    tasks = fused(graph)
    assert len(tasks) == 10
    for task in tasks:
        assert len(task.dependencies) == 1, "its chunk"
        assert not task.data_producer
        assert sum(isinstance(arg, np.ndarray) for arg in task.args) == 1, "and beta, by value"


def test_large_data_stays_one_task() -> None:
    """A megabyte is passed by reference, not copied into every task."""
    x = da.from_array(Guarded(np.zeros(2**17)), chunks=2**14) + 1
    graph = go.optimize(x, x.__dask_keys__(), USUAL)
    assert sum(isinstance(node, DataNode) for node in graph.values()) == 1
    assert len(pickle.dumps(fused(graph)[0])) < 10_000


# -- annotations -------------------------------------------------------------------------------------------------------


def test_annotations_are_kept_and_never_mixed() -> None:
    def f(x: Any) -> Any:
        return x

    with dask.annotate(retries=2):
        a = dask.delayed(f)(1, dask_key_name="a")
        b = dask.delayed(f)(a, dask_key_name="b")
    c = dask.delayed(f)(b, dask_key_name="c")
    with dask.annotate(retries=2, priority=1):
        d = dask.delayed(f)(c, dask_key_name="d")
    with dask.annotate(resources={"GPU": 1}):
        e = dask.delayed(f)(d, dask_key_name="e")
        end = dask.delayed(f)(e, dask_key_name="end")
    graph = go.optimize(end, "end", GREEDY)
    graph.validate()
    found = {}
    for layer in graph.layers.values():
        for node in layer.values():
            found[tuple(node.labels) if isinstance(node, Fused) else (node.key[0],)] = layer.annotations
    assert found == {
        ("a", "b"): {"retries": 2},
        ("c",): None,
        ("d",): {"retries": 2, "priority": 1},
        ("e", "end"): {"resources": {"GPU": 1}},
    }
    assert dask.get(graph, "end") == 1
    again = go.optimize(graph, "end", GREEDY)
    assert dict(again).keys() == dict(graph).keys()


def test_annotations_that_take_turns() -> None:
    """Dask keeps annotations by layer. By annotation alone these would be two layers that read each other in a circle."""
    value = dask.delayed(_same)(1)
    for i in range(6):
        with dask.annotate(retries=1 + i % 2):
            value = dask.delayed(operator.add)(value, 1)
    graph = go.optimize(value, value.key, GREEDY)
    order = dask.core.toposort(graph.dependencies)
    assert len(order) == len(graph.layers) == 7
    again = go.optimize(graph, value.key, GREEDY)
    assert [layer.annotations for layer in again.layers.values()] == [layer.annotations for layer in graph.layers.values()]
    assert dask.get(again, value.key) == 7


def test_annotations_by_key() -> None:
    """An annotation may be a function of the key: blocks then differ, and are told apart."""
    tasks = {("x", i): Task(("x", i), np.full, 2, float(i)) for i in range(4)}
    tasks |= {("y", i): Task(("y", i), np.negative, TaskRef(("x", i))) for i in range(4)}
    with dask.annotate(priority=lambda key: key[1]):
        layer = HighLevelGraph.from_collections("y", tasks)
    total = da.Array(layer, "y", ((2,) * 4,), float).sum()
    assert both_ways(total) == -12.0
    graph = go.optimize(total, total.__dask_keys__(), GREEDY)
    found = {
        node.key[1:]: layer.annotations
        for layer in graph.layers.values()
        for node in layer.values()
        if isinstance(node, Fused) and layer.annotations
    }
    assert sorted(note["priority"] for note in found.values()) == [0, 1, 2, 3]


def test_the_callers_annotations_do_not_leak_in() -> None:
    with dask.annotate(retries=2):
        a = dask.delayed(_same)(1, dask_key_name="a")
    b = dask.delayed(_same)(a, dask_key_name="b")
    with dask.annotate(priority=9):
        graph = go.optimize(b, "b")
    assert {tuple(layer): layer.annotations for layer in graph.layers.values()} == {("a",): {"retries": 2}, ("b",): None}


# -- barriers ----------------------------------------------------------------------------------------------------------


class Barrier(Task):
    """A task that asks not to be fused, as dask's shuffles have."""

    __slots__ = ()

    @property
    def block_fusion(self) -> bool:
        return True


async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


def test_what_must_stand_alone() -> None:
    import tornado.gen

    @tornado.gen.coroutine
    def older(x: int) -> Any:
        yield tornado.gen.moment
        return x

    for middle in (
        Barrier("m", _same, TaskRef("a")),
        Task("m", later, TaskRef("a")),
        Task("m", functools.partial(later), TaskRef("a")),
        Task("m", older, TaskRef("a")),
        Task("m", _hold, SerializableLock(), TaskRef("a")),
        Task("m", _hold, DataNode(None, threading.RLock()), TaskRef("a")),
    ):
        graph = {
            "0": Task("0", operator.add, 1, 1),
            "a": Task("a", operator.neg, TaskRef("0")),
            "m": middle,
            "b": Task("b", operator.neg, TaskRef("m")),
            "c": Task("c", operator.neg, TaskRef("b")),
        }
        optimised = dict(go.optimize(graph, "c", GREEDY))
        assert len(optimised) == 3, "before it, itself, and after it"
        alone = [node for node in optimised.values() if node.func is middle.func]
        assert [type(node) for node in alone] == [type(middle)]
        assert any(refusal.key == "m" for refusal in go.explain(graph, "c", GREEDY).refusals)


def test_around_a_barrier_only_chains_form() -> None:
    """Each task that reads the barrier of a shuffle runs on the worker that the barrier names: two in one never could."""
    graph: dict[Any, Any] = {}
    for i in range(4):
        graph[("x", i)] = Task(("x", i), np.arange, i + 4)
        graph[("in", i)] = Task(("in", i), np.negative, TaskRef(("x", i)))
    graph["barrier"] = Barrier("barrier", _first, *[TaskRef(("in", i)) for i in range(4)])
    for name in ("p", "q"):
        for i in range(4):
            graph[(name, i)] = Task((name, i), _add, TaskRef("barrier"), (name, i))
    for i in range(4):
        graph[("both", i)] = Task(("both", i), operator.add, TaskRef(("p", i)), TaskRef(("q", i)))
        graph[("after", i)] = Task(("after", i), np.exp, TaskRef(("both", i)))
    graph["extra"] = Task("extra", _first, *[TaskRef(("x", i)) for i in range(4)])
    graph["end"] = Task("end", _first, *[TaskRef(("after", i)) for i in range(4)], TaskRef("extra"))
    optimised = go.optimize(graph, "end", GREEDY)
    readers = [node for node in optimised.values() if "barrier" in node.dependencies]
    assert len(readers) == 8
    feeders = [optimised[key] for key in optimised["barrier"].dependencies]
    assert len(feeders) == 4
    assert all(node.func is np.negative for node in feeders), "its own work, not a place in a result of several"
    np.testing.assert_array_equal(dask.get(optimised, "end"), dask.get(graph, "end"))


def _first(*values: Any) -> Any:
    return values[0]


def _add(value: Any, place: tuple[str, int]) -> Any:
    return value + place[1]


class Guarded:
    """An array that can be read by one thread at a time, and only by slices; it notes how it was read."""

    def __init__(self, values: Any) -> None:
        self.values = values
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim
        self.reading = 0
        self.indices: list[Any] = []

    def __getitem__(self, index: Any) -> Any:
        self.reading += 1
        assert self.reading == 1, "two threads are reading"
        assert all(isinstance(part, slice) for part in index), f"{index} is no slice"
        self.indices.append(index)
        result = np.asarray(self.values)[index]
        self.reading -= 1
        return result


def test_locks_and_fancy_indices_of_stored_arrays() -> None:
    values = np.arange(400.0).reshape(20, 20)
    stored = Guarded(values)
    x = da.from_array(stored, chunks=5, lock=True, fancy=False, asarray=True)
    picked = (x[[1, 7, 7, 19]] + 1)[:, ::-1]
    for policy in (GREEDY, USUAL):
        with go.optimized(policy):
            np.testing.assert_array_equal(picked.compute(scheduler="threads"), (values[[1, 7, 7, 19]] + 1)[:, ::-1])
    assert stored.indices


def test_a_lock_is_shared_by_all_its_readers() -> None:
    lock = SerializableLock()
    inside, most = Counter[str](), Counter[str]()

    def enter(x: int) -> int:
        with lock:
            return count(x)

    def take(x: int, held: Any) -> int:
        with held:
            return count(x)

    def count(x: int) -> int:
        inside["now"] += 1
        most["seen"] = max(most["seen"], inside["now"])
        time.sleep(0.001)  # let the others in, if they can get in
        inside["now"] -= 1
        return x

    parts = [dask.delayed(take)(dask.delayed(enter)(i), lock) for i in range(20)]
    with go.optimized(USUAL):
        assert dask.delayed(sum)(parts).compute(scheduler="threads", num_workers=4) == sum(range(20))
    assert most["seen"] == 1


# -- Delayed -----------------------------------------------------------------------------------------------------------


@dataclass
class Point:
    x: Any
    y: Any = 0


def test_delayed_finds_what_is_inside_containers() -> None:
    one, two = dask.delayed(_same)(1), dask.delayed(_same)(2)
    nested = {"a": [one, (two, {3: one})], "b": Point(one, [two]), "c": {4, 5}, "d": slice(one, two), "e": Pair(one, two)}
    result = both_ways(dask.delayed(_same)(nested))
    assert result == {"a": [1, (2, {3: 1})], "b": Point(1, [2]), "c": {4, 5}, "d": slice(1, 2), "e": Pair(1, 2)}
    assert type(result["e"]) is Pair
    assert type(result["a"][1]) is tuple
    untouched = dask.delayed([one, two], traverse=False)
    with go.optimized(GREEDY):
        (left,) = dask.compute(untouched, scheduler="sync")
        assert left[0] is one
        assert dask.compute({"x": [one, {"y": two}]}, scheduler="sync") == ({"x": [1, {"y": 2}]},)


def test_delayed_of_several_results() -> None:
    whole, part = dask.delayed(divmod, nout=2)(17, 5)
    total = whole * 10 + part
    assert both_ways(total) == 32
    with go.optimized(USUAL):
        assert dask.compute(whole, part, scheduler="sync") == (3, 2)


def test_delayed_attributes_and_methods() -> None:
    text = dask.delayed(str)(12345)
    assert both_ways(text.replace("3", "x").upper().index("X")) == 2
    assert both_ways(dask.delayed(Point)(1, 2).y + 1) == 3
    assert both_ways((dask.delayed(_same)([3, 1, 2])[1:] * 2)[0] ** 2) == 1


def test_names_given_by_the_user() -> None:
    a = dask.delayed(operator.add)(1, 1, dask_key_name="my result")
    b = dask.delayed(operator.add)(a, 1, dask_key_name=("tuple", 3))
    assert both_ways(b) == 3
    with go.optimized(USUAL):
        assert a.persist(scheduler="sync").key == "my result"
        assert dask.compute(a, b, scheduler="sync") == (2, 3)


def test_results_that_are_nothing_or_run_out() -> None:
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    nothing = dask.delayed(lambda x: None)(dask.delayed(_same)(1))
    assert both_ways(nothing) is None
    assert both_ways(dask.delayed(_pair)(nothing, 1)) == (None, 1)
    assert both_ways(dask.delayed(sum)(dask.delayed(iter)(dask.delayed(count)(dask.delayed(_same)(5))))) == 10
    error = dask.delayed(_same)(dask.delayed(ValueError)("a result, not a failure"))
    assert isinstance(both_ways(error), ValueError)
    assert both_ways(dask.delayed(_same)(dask.delayed(lambda: NotImplemented)())) is NotImplemented


def test_a_value_is_computed_once() -> None:
    """However often it is read, and whoever reads it."""
    calls = Counter[str]()

    def note(name: str, *values: Any) -> str:
        calls[name] += 1
        return name

    top = dask.delayed(note)("top")
    left = [dask.delayed(note)(f"left{i}", top) for i in range(3)]
    right = dask.delayed(note)("right", *left, top)
    end = dask.delayed(note)("end", left[0], right, top)
    for policy in (GREEDY, USUAL):
        calls.clear()
        with go.optimized(policy):
            dask.compute(end, left[1], scheduler="sync")
        assert set(calls.values()) == {1}
        assert len(calls) == 6


def test_long_chains() -> None:
    """Neither the optimiser nor the code it writes may recurse with the depth of the graph."""
    value = dask.delayed(operator.add)(0, 1)
    for _ in range(3000):
        value = dask.delayed(operator.add)(value, 1)
    with go.optimized(GREEDY), run_here() as ran:
        assert value.compute(scheduler="sync") == 3001
    assert len(ran) == 1
    x = da.zeros(4, chunks=2)
    for _ in range(400):
        x = x + 1
    np.testing.assert_array_equal(both_ways(x), np.full(4, 400.0))


def test_wide_graphs() -> None:
    x = da.from_array(np.arange(1000.0), chunks=1)
    assert both_ways(((x + 1) * 2).sum()) == 1001000.0
    parts = [dask.delayed(operator.add)(i, 1) for i in range(1000)]
    assert both_ways(dask.delayed(sum)(parts)) == 500500


# -- futures and data in graphs of no cluster --------------------------------------------------------------------------


def test_a_future_is_never_touched() -> None:
    graph = {
        "f": TaskRef("f"),
        "alias": Alias("alias", "f"),
        "a": Task("a", operator.neg, TaskRef("alias")),
        "b": Task("b", operator.add, TaskRef("a"), TaskRef("f")),
    }
    optimised = go.optimize(graph, ["b", "alias"], GREEDY)
    assert optimised["f"] == TaskRef("f")
    assert optimised["b"].dependencies == {"f"}
    assert optimised["alias"].dependencies == {"f"}
    assert go.optimize(graph, "f", GREEDY) == {"f": TaskRef("f")}


# -- storing -----------------------------------------------------------------------------------------------------------


def test_store(tmp_path: Path) -> None:
    values = np.arange(100.0).reshape(10, 10)
    x = da.from_array(values, chunks=3) + 1
    for lock in (True, False, SerializableLock()):
        target, other = np.zeros((10, 10)), np.zeros((10, 10))
        with go.optimized(USUAL):
            da.store([x, x * 2], [target, other], lock=lock, scheduler="threads")
        np.testing.assert_array_equal(target, values + 1)
        np.testing.assert_array_equal(other, 2 * (values + 1))
    target = np.zeros((12, 10))
    with go.optimized(USUAL):
        later = da.store(x, target, regions=(slice(2, 12), slice(None)), compute=False, lock=True)
        later.compute(scheduler="sync")
        np.testing.assert_array_equal(target[2:], values + 1)
        stored = da.store(x, np.zeros((10, 10)), return_stored=True, scheduler="sync")
        np.testing.assert_array_equal((stored + 1).compute(scheduler="sync"), values + 2)
        with dask.config.set(scheduler="sync"):
            da.to_npy_stack(str(tmp_path), x, axis=0)
            np.testing.assert_array_equal((da.from_npy_stack(str(tmp_path)) + 1).compute(), values + 2)


# -- errors ------------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """An error of a user's, with arguments of its own."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(code, why)
        self.code = code


def fail(x: Any) -> Any:
    raise Refused(7, "because")


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_errors_are_the_users_and_name_the_users_key(scheduler: str) -> None:
    a = dask.delayed(operator.add)(1, 1, dask_key_name="fine")
    bad = dask.delayed(operator.neg)(dask.delayed(fail)(a, dask_key_name="culprit"))
    with go.optimized(GREEDY), pytest.raises(Refused, match="because") as caught:
        bad.compute(scheduler=scheduler, num_workers=1)
    assert caught.value.code == 7
    notes = "\n".join(caught.value.__notes__)
    assert "'culprit'" in notes
    assert "'fine'" not in notes


def test_errors_in_a_batch_name_the_block() -> None:
    def check(x: Any) -> Any:
        if x[0] == 12:
            raise Refused(7, "twelve")
        return x

    total = da.from_array(np.arange(32.0), chunks=4).map_blocks(check, dtype=float, name="check").sum()
    with go.optimized(GREEDY), pytest.raises(Refused) as caught:
        total.compute(scheduler="sync")
    (note,) = caught.value.__notes__
    assert ", 3)" in note
    assert "check" in note


class Closed(Exception):
    """An error that nothing can be added to."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"cannot set {name}")


def test_errors_that_take_no_note_are_raised_as_they_are() -> None:
    def refuse(x: Any) -> Any:
        raise Closed(3)

    value = dask.delayed(operator.neg)(dask.delayed(refuse)(dask.delayed(_same)(1)))
    graph = go.optimize(value, value.key, GREEDY)
    with pytest.raises(Closed, match="3"):  # under `optimized` Python's own context managers would trip over it
        graph[value.key]({})


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupts_are_not_swallowed(kind: type[BaseException]) -> None:
    def stop(x: Any) -> Any:
        raise kind

    value = dask.delayed(operator.neg)(dask.delayed(stop)(dask.delayed(_same)(1)))
    with go.optimized(GREEDY), pytest.raises(kind):
        value.compute(scheduler="sync")


def test_warnings_of_the_users_functions_arrive() -> None:
    import warnings

    def warn(x: Any) -> Any:
        warnings.warn("careful", UserWarning, stacklevel=1)
        return x

    with go.optimized(**STRICT), pytest.warns(UserWarning, match="careful"):
        assert dask.delayed(operator.neg)(dask.delayed(warn)(1)).compute(scheduler="sync") == -1
    with go.optimized(**STRICT), pytest.warns(RuntimeWarning, match="divide by zero"):
        (1 / (da.zeros(4, chunks=2) + 0)).compute(scheduler="sync")
