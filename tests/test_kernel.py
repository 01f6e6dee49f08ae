"""Kernels: how many there are, what they pickle to, when they let values go, and what they say when they fail.

Counts and bytes, not times; those are in bench/.
"""

from __future__ import annotations

import linecache
import pickle
import sys
import traceback
import weakref
from operator import add, getitem, mul, neg, truediv
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph
from oracle import evaluate, same

import graphopt as go
from graphopt import kernel as module
from graphopt import notes
from graphopt.kernel import Fused, Kernel, generate
from graphopt.passes.diamond import diamond
from graphopt.spec import DataNode, List, Task, TaskRef


def scale(x: Any, by: float = 2.0) -> Any:
    return x * by


def total(parts: Any) -> Any:
    return sum(parts)


def fail_at(x: Any, bad: float = -1.0) -> Any:
    """A user's function that does not like one value."""
    if np.any(x == bad):
        raise ValueError(f"cannot do {bad}")
    return x + 1


def lanes(count: int, **first: Any) -> dict[Any, Any]:
    """So many chunks; on each a user's function, a literal of its own, and arithmetic."""
    graph: dict[Any, Any] = {}
    for i in range(count):
        graph[("x", i)] = Task(("x", i), np.full, (3,), float(i))
        graph[("y", i)] = Task(("y", i), fail_at, TaskRef(("x", i)), **first)
        graph[("z", i)] = Task(("z", i), truediv, 1, TaskRef(("y", i)))
    return graph


def optimise(graph: Any, keys: Any, **policy: Any) -> Any:
    return go.optimize(graph, keys, go.Policy(**{"parallelism": 2, "strict": True, **policy}))


def kernels(graph: Any) -> set[Kernel]:
    """Collect the kernels of a graph, those that others call too."""
    found: set[Kernel] = set()
    stack = [node.func for node in graph.values() if isinstance(node, Fused)]
    while stack:
        kernel = stack.pop()
        if kernel not in found:
            found.add(kernel)
            stack.extend(value for value in kernel.constants.values() if isinstance(value, Kernel))
    return found


def ran(*collections: Any, **policy: Any) -> list[Any]:
    """Compute collections; return the keys of the tasks that ran."""
    keys: list[Any] = []
    with Callback(pretask=lambda key, graph, state: keys.append(key)), go.optimized(strict=True, **policy):
        dask.compute(*collections, scheduler="sync")
    return keys


# -- one for all -------------------------------------------------------------------------------------------------------


def test_500_chunks_share_one_kernel_and_compile_once() -> None:
    graph, keys = lanes(500), [("z", i) for i in range(500)]
    module._compile.cache_clear()
    made = optimise(graph, keys)
    assert len(made) == 500
    assert len(kernels(made)) == 1
    assert same(evaluate(made, keys), evaluate(graph, keys))
    assert module._compile.cache_info().misses == 1
    assert len({id(node.func.fn.__code__) for node in made.values()}) == 1
    optimise({**lanes(20)}, keys[:20])[("z", 3)]({})
    assert module._compile.cache_info().misses == 1, "nor again in another graph"


def test_compiled_once_in_a_process_whichever_copies_arrive() -> None:
    made = optimise(lanes(40), [("z", i) for i in range(40)])
    apart = [cloudpickle.loads(cloudpickle.dumps(node)) for node in made.values()]
    assert len(set(map(id, (node.func for node in apart)))) == 40
    module._compile.cache_clear()
    for node in apart:
        node({})
    assert module._compile.cache_info().misses == 1


def test_lanes_that_differ_in_a_literal_share_a_kernel() -> None:
    graph = {**lanes(6), ("y", 2): Task(("y", 2), fail_at, TaskRef(("x", 2)), bad=7.0)}
    made = optimise(graph, [("z", i) for i in range(6)])
    assert len(kernels(made)) == 2, "a keyword that only one lane has is another shape"
    graph = {key: node for i in range(6) for key, node in lanes(6, bad=float(-i - 1)).items() if key[1] == i}
    made = optimise(graph, [("z", i) for i in range(6)])
    assert len(kernels(made)) == 1
    assert {node.args[-1] for node in made.values()} == {-1.0, -2.0, -3.0, -4.0, -5.0, -6.0}


def test_literals_of_other_types_are_told_apart() -> None:
    """``1``, ``1.0`` and ``True`` are equal and are not the same."""
    values = [1, 1.0, True, 0.0, -0.0, np.float64(1)]
    graph: dict[Any, Any] = {}
    for i, value in enumerate(values):
        graph[("a", i)] = Task(("a", i), _as_it_is, value)
        graph[("b", i)] = Task(("b", i), _as_it_is, TaskRef(("a", i)))
    keys = [("b", i) for i in range(len(values))]
    made = optimise(graph, keys)
    assert len(kernels(made)) == 1
    assert same(list(evaluate(made, keys).values()), values)


def _as_it_is(x: Any) -> Any:
    return x


def test_bound_methods_of_one_object_are_one_function() -> None:
    class Model:
        def apply(self, x: Any) -> Any:
            return x * 2

    model = Model()
    graph = lanes(8)
    for i in range(8):
        graph[("m", i)] = Task(("m", i), model.apply, TaskRef(("z", i)))
    made = optimise(graph, [("m", i) for i in range(8)])
    assert len(kernels(made)) == 1
    graph[("m", 3)] = Task(("m", 3), Model().apply, TaskRef(("z", 3)))
    assert len(kernels(optimise(graph, [("m", i) for i in range(8)]))) == 2, "and those of another object are not"


# -- three ways to write it --------------------------------------------------------------------------------------------


def plain() -> Any:
    x = da.arange(1, 41, chunks=10, dtype="f8")
    return da.exp(x) - 1 / x


def mapped() -> Any:
    x = da.arange(1, 41, chunks=10, dtype="f8")
    exp = x.map_blocks(np.exp, dtype="f8")
    reciprocal = x.map_blocks(lambda block: 1 / block, dtype="f8")
    return da.map_blocks(np.subtract, exp, reciprocal, dtype="f8")


def delayed() -> Any:
    def one(i: int) -> Any:
        x = dask.delayed(np.arange)(10 * i + 1, 10 * i + 11, dtype="f8")
        return dask.delayed(np.exp)(x) - 1 / x

    return [one(i) for i in range(4)]


@pytest.mark.parametrize("write", [plain, mapped, delayed])
@pytest.mark.parametrize("parallelism", [1, 2, 4])
def test_exp_minus_reciprocal_is_one_task_a_chunk(write: Any, parallelism: int) -> None:
    value = write()
    several = value if isinstance(value, list) else [value]
    keys = ran(*several, parallelism=parallelism)
    finalize = [key for key in keys if "finalize" in str(key)]
    assert len(keys) - len(finalize) == 4
    graph = HighLevelGraph.merge(*(v.__dask_graph__() for v in several))
    wanted = [v.__dask_keys__() for v in several]
    made = optimise(graph, wanted, parallelism=parallelism)
    assert len(made) == 4
    assert len(kernels(made)) == 1
    x = np.arange(1.0, 41.0)
    with go.optimized(strict=True):
        assert same(np.concatenate(dask.compute(*several)), np.exp(x) - 1 / x)


def logistic(chunks: int) -> tuple[Any, Any]:
    """The document's problem, small: loss and gradient of a logistic regression."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(50 * chunks, 15)), (draw.random(50 * chunks) < 0.5).astype(float)
    lazy_x = da.from_array(x, chunks=(50, 15)).persist(scheduler="sync")
    lazy_y = da.from_array(y, chunks=50).persist(scheduler="sync")
    beta = draw.normal(size=15)
    eta = lazy_x.dot(beta)
    loss = da.log1p(da.exp(-lazy_y * eta)).sum()
    gradient = lazy_x.T.dot(1 / (1 + da.exp(-eta)) - lazy_y)
    return loss, gradient


@pytest.mark.parametrize("parallelism", [1, 2, 4])
def test_the_logistic_step_at_100_chunks_runs_at_most_120_tasks(parallelism: int) -> None:
    step = logistic(100)
    keys = ran(*step, parallelism=parallelism)
    assert len(keys) <= 120
    module._compile.cache_clear()
    ran(*step, parallelism=parallelism)
    assert module._compile.cache_info().misses <= 14
    expected = dask.compute(*step, scheduler="sync")
    with go.optimized(strict=True, parallelism=parallelism):
        assert same(dask.compute(*step, scheduler="sync"), expected)


# -- pickles -----------------------------------------------------------------------------------------------------------


def test_a_graph_pickles_its_code_once_and_little_for_each_task() -> None:
    def size(chunks: int) -> int:
        made = optimise(lanes(chunks), [("z", i) for i in range(chunks)])
        return len(pickle.dumps(made))

    few, many = size(10), size(510)
    assert (many - few) / 500 < 250, "bytes a task"
    assert few < 4_000


def test_a_kernel_pickles_as_text() -> None:
    made = optimise(lanes(2), [("z", 0), ("z", 1)])
    kernel = made[("z", 0)].func
    made[("z", 0)]({})  # compiled
    again = pickle.loads(pickle.dumps(kernel))
    assert again.source == kernel.source
    assert again.constants == {"fail_at": fail_at}
    assert same(again(float(5)), kernel(float(5)))
    assert repr(kernel) == f"<Kernel {kernel.name}>" == f"<Kernel {kernel.__name__}>"
    with pytest.raises(AttributeError):
        _ = kernel.missing


def test_fused_tasks_survive_dasks_own_rewriting() -> None:
    made = optimise({**lanes(1), "r": Task("r", neg, TaskRef(("z", 0)))}, [("z", 0), "r"], passes=("cull", "diamond"))
    task = next(node for node in made.values() if isinstance(node, Fused))
    for other in (task.copy(), task.substitute({}, key="new"), pickle.loads(pickle.dumps(task))):
        assert isinstance(other, Fused)
        assert other.func.source == task.func.source
        assert other.labels == task.labels
        assert same(other({}), task({}))
    reads = Fused("f", task.func, TaskRef("a"), labels=("l",))
    assert reads.substitute({"a": "b"}).dependencies == {"b"}
    assert reads.substitute({"a": "b"}).labels == ("l",)
    assert dask.base.tokenize(task) == dask.base.tokenize(pickle.loads(pickle.dumps(task)))


# -- values are let go -------------------------------------------------------------------------------------------------


class Watched:
    """A value that counts how many of its kind are alive, and the most there ever were."""

    alive = most = 0

    def __init__(self) -> None:
        Watched.alive += 1
        Watched.most = max(Watched.most, Watched.alive)
        weakref.finalize(self, Watched._gone)

    @classmethod
    def _gone(cls) -> None:
        cls.alive -= 1


def make(i: int) -> Watched:
    return Watched()


def next_of(*before: Watched) -> Watched:
    return Watched()


def size_of(*parts: Any) -> int:
    return len(parts)


def most_alive(graph: dict[Any, Any], keys: list[Any], **policy: Any) -> int:
    made = optimise(graph, keys, parallelism=1, **policy)
    assert len([node for node in made.values() if isinstance(node, Fused)]) == 1
    Watched.alive = Watched.most = 0
    dask.get(made, keys)
    assert Watched.alive == 0
    return Watched.most


def test_a_value_is_dropped_at_its_last_use() -> None:
    graph: dict[Any, Any] = {"k0": (make, 0)}
    for i in range(1, 20):
        graph[f"k{i}"] = (next_of, f"k{i - 1}")
    graph["end"] = (size_of, "k19")
    assert most_alive(graph, ["end"]) == 2, "one, and the next that is made of it"


def test_a_value_lives_as_long_as_it_is_read() -> None:
    graph: dict[Any, Any] = {"first": (make, 0), "k0": (next_of, "first")}
    for i in range(1, 10):
        graph[f"k{i}"] = (next_of, f"k{i - 1}")
    graph["end"] = (size_of, "k9", "first")
    assert most_alive(graph, ["end"]) == 3


def test_lanes_of_a_batch_run_one_after_the_other() -> None:
    """Their results are folded at the end; what each needs on the way is not there for all at once."""
    graph: dict[Any, Any] = {}
    for i in range(10):
        graph.update({("a", i): (make, i), ("b", i): (next_of, ("a", i)), ("n", i): (size_of, ("b", i))})
    graph["end"] = (total, [("n", i) for i in range(10)])
    assert most_alive(graph, ["end"], spare=1) == 2


def test_a_kernel_holds_nothing_once_it_is_done() -> None:
    graph = {"a": Task("a", next_of, TaskRef("held")), "b": Task("b", size_of, TaskRef("a"))}
    made = go.optimize(graph, ["b"], go.Policy(parallelism=1, strict=True), futures=["held"])
    Watched.alive = 0
    assert made["b"]({"held": Watched()}) == 1
    assert Watched.alive == 0


# -- when it fails -----------------------------------------------------------------------------------------------------


def failure(made: Any, keys: Any) -> BaseException:
    with pytest.raises(ValueError, match=r"^cannot do") as caught:
        dask.get(made, keys)
    return caught.value


def test_an_error_is_the_users_and_names_the_users_key_and_the_line() -> None:
    keys = [("z", i) for i in range(4)]
    error = failure(optimise(lanes(4, bad=2.0), keys), keys)
    assert type(error) is ValueError
    (note,) = error.__notes__
    assert note == (
        "graphopt: while computing key ('y', 2), in the fused task ('z', 2): y = fail_at(np.full((3,), c), bad=2.0)"
    )


def test_an_error_in_a_batched_lane_names_that_lane() -> None:
    graph = {**lanes(8, bad=5.0), "sum": Task("sum", total, List(*(TaskRef(("z", i)) for i in range(8))))}
    made = optimise(graph, ["sum"], parallelism=1, spare=1)
    assert len(made) == 1
    assert len(kernels(made)) == 2, "the lane, and the batch that calls it eight times"
    (note,) = failure(made, ["sum"]).__notes__
    assert note.startswith("graphopt: while computing key ('y', 5), in the fused task 'sum': y = fail_at(")


def test_an_error_in_a_reader_of_a_batch_names_the_reader() -> None:
    graph = lanes(4)
    graph.update({("s", 0): Task(("s", 0), total, List(*(TaskRef(("z", i)) for i in range(4)))), "f": (fail_at, ("s", 0), 0.0)})
    graph["f"] = Task("f", _always_fails, TaskRef(("s", 0)))
    made = optimise(graph, ["f"], parallelism=1, spare=1)
    (note,) = failure(made, ["f"]).__notes__
    assert "while computing key 'f'" in note


def _always_fails(x: Any) -> Any:
    raise ValueError("cannot do this")


def test_an_error_inside_what_dask_fused_names_the_step_too() -> None:
    x = da.arange(8, chunks=2, dtype="f8")
    y = (x.map_blocks(fail_at, bad=5.0, dtype="f8") * 2 + 1).map_blocks(np.sqrt, dtype="f8")
    keys = y.__dask_keys__()
    (note,) = failure(optimise(y, keys), keys).__notes__
    assert "while computing key ('sqrt-" in note
    assert ", 2), inside it ('fail_at-" in note or ", 2), inside it 'fail_at" in note
    assert "fail_at(" in note.partition("in the fused task")[2]


EXACT = sys.version_info >= (3, 11)  # before, Python does not say which call on a line failed


def fails_with(error: str, *tasks: Task) -> str:
    """Optimise tasks into one kernel, run it, and return the note of the error."""
    (made,) = optimise({task.key: task for task in tasks}, [tasks[-1].key], parallelism=1).values()
    with pytest.raises(Exception, match=error) as caught:
        made({})
    (note,) = caught.value.__notes__
    return str(note)


@pytest.mark.parametrize("bad", ["sum", "product", "root", "taken", "whole"])
def test_of_several_tasks_on_a_line_the_one_that_failed_is_named(bad: str) -> None:
    x, wrong = np.ones(3), np.ones(2)
    note = fails_with(
        "operands could not be broadcast|index 9 is out of bounds",
        Task("sum", add, x, wrong if bad == "sum" else x),
        Task("product", mul, -1, Task(None, mul, TaskRef("sum"), wrong if bad == "product" else x)),
        Task("root", np.hypot, TaskRef("product"), wrong if bad == "root" else x),
        Task("taken", getitem, TaskRef("root"), 9 if bad == "taken" else slice(None)),
        Task("whole", scale, TaskRef("taken"), wrong if bad == "whole" else 2),
    )
    assert f"key {bad!r}, in the fused task 'whole'" in note if EXACT else repr(bad) in note
    assert note.count("\n") == 0


def test_where_it_cannot_be_told_all_of_them_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_failed", lambda *_: None)
    a, b = Task("a", add, np.ones(3), np.ones(2)), Task("b", scale, TaskRef("a"))
    assert "while computing one of the keys 'a' and 'b', in the fused task 'b'" in fails_with("broadcast", a, b)


def test_an_error_under_every_policy_has_one_note() -> None:
    graph = {**lanes(8, bad=5.0), "sum": Task("sum", total, List(*(TaskRef(("z", i)) for i in range(8))))}
    for spare in (1, 2, 4):
        for passes in (("diamond",), ("diamond", "lanes")):
            made = optimise(graph, ["sum"], parallelism=1, spare=spare, passes=passes)
            (note,) = failure(made, ["sum"]).__notes__
            assert "('y', 5)" in note


def test_the_traceback_shows_the_generated_line() -> None:
    keys = [("z", i) for i in range(4)]
    error = failure(optimise(lanes(4, bad=2.0), keys), keys)
    text = "".join(traceback.format_exception(error))
    assert "    y = fail_at(np.full((3,), c), bad=2.0)\n" in text
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith("<graphopt ")]
    assert [frame.name for frame in frames] == ["full_fail_at_truediv"]
    assert frames[0].line == linecache.getline(frames[0].filename, frames[0].lineno or 0).strip()
    assert "while computing key ('y', 2)" in text


def test_an_error_that_was_raised_before_gets_a_note_for_each_time_it_is_raised() -> None:
    made = optimise(lanes(1, bad=0.0), [("z", 0)])
    first, second = failure(made, [("z", 0)]), failure(made, [("z", 0)])
    assert first is not second
    assert len(first.__notes__) == len(second.__notes__) == 1


@pytest.mark.parametrize("kind", [KeyError, StopIteration, MemoryError, RecursionError])
def test_any_exception_keeps_its_type(kind: type[Exception]) -> None:
    def give_up(x: Any) -> Any:
        raise kind("no")

    made = optimise({"a": (np.ones, 2), "b": (give_up, "a"), "c": (neg, "b")}, ["c"])
    with pytest.raises(kind) as caught:
        made["c"]({})
    assert type(caught.value) is kind
    assert "while computing key 'b'" in caught.value.__notes__[0]


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_nothing_to_generate_returns_the_graph() -> None:
    graph = {"x": DataNode("x", 1), "a": Task("a", neg, TaskRef("x")), "f": TaskRef("f")}
    assert generate(graph, ["a"]) is graph


def test_one_plain_task_stays_a_plain_task() -> None:
    graph = {**lanes(2), "alone": Task("alone", neg, 5)}
    made = optimise(graph, [("z", 0), ("z", 1), "alone"])
    assert made["alone"] is graph["alone"]


def test_small_data_moves_into_the_tasks_and_large_data_that_several_read_stays() -> None:
    graph = {
        "small": DataNode("small", np.ones(1)),
        "large": DataNode("large", np.ones(100_000)),
        "n": DataNode("n", 2),
        "a": Task("a", add, TaskRef("small"), TaskRef("large")),
        "b": Task("b", scale, TaskRef("a"), TaskRef("n")),
    }
    made = optimise(graph, ["b"])
    assert list(made) == ["b"], "one task reads all of it"
    assert same(evaluate(made, ["b"]), evaluate(graph, ["b"]))
    assert "small" in optimise(graph, ["b", "small"]), "what is asked for stays"
    graph["c"] = Task("c", add, TaskRef("large"), TaskRef("n"))
    graph["d"] = Task("d", scale, TaskRef("c"), 3)
    made = optimise(graph, ["b", "d"])
    assert list(made) == ["large", "b", "d"]
    assert made["b"].dependencies == made["d"].dependencies == {"large"}
    assert same(evaluate(made, ["b", "d"]), evaluate(graph, ["b", "d"]))


def test_what_nobody_asked_for_gets_a_new_name_and_what_somebody_did_keeps_it() -> None:
    graph: dict[Any, Any] = {**lanes(4), "sum": Task("sum", total, List(*(TaskRef(("z", i)) for i in range(4))))}
    made = optimise(graph, ["sum", ("z", 0)], parallelism=4)
    names = [key for key, node in made.items() if isinstance(node, Fused)]
    assert ("z", 0) in names
    assert "sum" in made
    (others,) = {key[0] for key in names if key not in (("z", 0), "sum")}
    assert others.startswith("full_fail_at_truediv-")
    assert sorted(key[1] for key in names if key[0] == others) == [1, 2, 3]


def test_generate_runs_regions_as_they_would_run_themselves() -> None:
    graph = lanes(3)
    keys = [("z", i) for i in range(3)]
    regions = diamond(graph, keys, parallelism=3)
    assert same(evaluate(generate(regions, keys), keys), evaluate(regions, keys))
