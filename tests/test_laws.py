"""Laws 1 to 3 of the design, as properties of random programs: the same values, from the same structure, at the same width.

1. `optimize`, and each pass on its own, gives the same values bit for bit and never changes its input.
2. Passes are idempotent, a pass with nothing to do returns the object it was given, and renaming keys renames the result.
3. Regions are convex, the graph stays acyclic, kept keys stay, and as much can run at once as the policy asks for.

Programs come from `twins`: each failure is one seed and the smallest size that fails.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from array_twins import arrays
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import TaskRef
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import close, differences, evaluate, members, outline, reach, same, snapshot, widest
from twins import Program, policies, program, programs

import graphopt as go
from graphopt import pipeline
from graphopt.graph import check_graph, dependencies, is_constant, normalise, read, toposort
from graphopt.kernel import Fused, generate
from graphopt.passes.aliases import aliases
from graphopt.passes.common import common
from graphopt.passes.cull import cull
from graphopt.passes.diamond import diamond
from graphopt.passes.lanes import lanes
from graphopt.passes.lower import lower
from graphopt.pipeline import PASSES
from graphopt.region import Region, is_pick

Graph = Mapping[Any, Any]
Pass = Callable[[Graph, list[Any], go.Policy], Graph]

ONE_BY_ONE: dict[str, Pass] = {
    "cull": lambda graph, keys, policy: cull(graph, keys),
    "aliases": lambda graph, keys, policy: aliases(graph, keys),
    "common": lambda graph, keys, policy: common(graph, keys),
    "lower": lambda graph, keys, policy: lower(graph),
    "diamond": lambda graph, keys, policy: diamond(
        graph, keys, parallelism=policy.parallelism or 1, max_bytes=policy.max_bytes
    ),
    "lanes": lambda graph, keys, policy: lanes(
        graph, keys, parallelism=policy.parallelism or 1, spare=policy.spare, max_bytes=policy.max_bytes
    ),
    "generate": lambda graph, keys, policy: generate(graph, keys),
}

each_pass = pytest.mark.parametrize("name", ONE_BY_ONE)

#: Whether a pass sees the graph as it is, or as the passes before it leave it.
fresh_or_not = st.booleans()


def before(name: str, graph: Graph, keys: list[Any], policy: go.Policy, fresh: bool) -> Graph:
    """Run the passes that come before one."""
    for other, run in ONE_BY_ONE.items():
        if other == name or fresh:
            break
        graph = run(graph, keys, policy)
    return graph


def check_regions(graph: Graph) -> None:
    for key, node in graph.items():
        if isinstance(node, Region):
            assert node.key == key
            node._check()


def test_the_laws_cover_every_pass() -> None:
    assert tuple(ONE_BY_ONE) == (*PASSES, "generate")


# -- 1. the same values, and an input that is left alone ---------------------------------------------------------------


@given(programs, policies)
@settings(max_examples=250)
def test_optimised_values_are_the_same_bit_for_bit(twin: Program, policy: go.Policy) -> None:
    graph, keys, expected = twin.graph(), twin.keys(), twin.expected()
    was = snapshot(graph)
    made = go.optimize(graph, keys, policy)
    check_graph(made, keys)
    assert not differences(evaluate(made, keys), expected)
    assert snapshot(graph) == was, "optimize changed its input"


@given(programs, policies)
@settings(max_examples=60)
def test_optimised_graphs_survive_pickling(twin: Program, policy: go.Policy) -> None:
    keys = twin.keys()
    made = go.optimize(twin.graph(), keys, policy)
    copied = cloudpickle.loads(cloudpickle.dumps(made))
    assert not differences(evaluate(copied, keys), twin.expected())


@given(programs, policies)
@settings(max_examples=60)
def test_dasks_own_schedulers_run_what_comes_out(twin: Program, policy: go.Policy) -> None:
    keys = twin.keys()
    made = go.optimize(twin.graph(), keys, policy)
    with np.errstate(all="ignore"):
        found = dict(zip(keys, dask.get(made, keys), strict=True))
    assert not differences(found, twin.expected())


@given(programs, policies)
@settings(max_examples=40)
def test_an_optimised_graph_may_be_optimised_again(twin: Program, policy: go.Policy) -> None:
    keys = twin.keys()
    made = go.optimize(twin.graph(), keys, policy)
    was = snapshot(made)
    again = go.optimize(made, keys, policy)
    assert not differences(evaluate(again, keys), twin.expected())
    assert snapshot(made) == was


@each_pass
@given(programs, policies, fresh_or_not)
@settings(max_examples=60)
def test_each_pass_keeps_the_values(name: str, twin: Program, policy: go.Policy, fresh: bool) -> None:
    keys = twin.keys()
    given_graph = before(name, normalise(twin.graph()), keys, policy, fresh)
    was = snapshot(given_graph)
    made = ONE_BY_ONE[name](given_graph, keys, policy)
    check_graph(made, keys)
    check_regions(made)
    assert not differences(evaluate(made, keys), twin.expected())
    assert snapshot(given_graph) == was, f"{name} changed its input"


@given(programs, policies)
@settings(max_examples=60)
def test_what_a_cluster_holds_stays_a_reference(twin: Program, policy: go.Policy) -> None:
    """Every third step is a future: a `TaskRef` in the graph, or a key that is not in the graph at all."""
    graph, keys, values = normalise(twin.graph()), twin.keys(), twin.values()
    there = {twin.key(place): values[place] for place in range(0, len(twin.steps), 3)}
    for number, key in enumerate(there):
        graph[key] = TaskRef(key)
        if number % 2 and key not in keys:
            del graph[key]
    futures = [key for key in there if key not in graph]
    made = go.optimize(graph, keys, policy, futures=futures)
    assert not any(key in made and not isinstance(made[key], TaskRef) for key in there)
    assert not differences(evaluate(made, keys, held=there), twin.expected())


@given(st.integers(0, 10_000), st.integers(1, 9), policies)
@settings(max_examples=50)
def test_arrays_equal_dasks_own_bit_for_bit_and_numpys_to_rounding(seed: int, size: int, policy: go.Policy) -> None:
    twin = arrays(seed, size)
    few = slice(-3, None)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", da.PerformanceWarning)
        plain = dask.compute(*twin.lazy[few], scheduler="sync")
        with go.optimized(policy):
            found = dask.compute(*twin.lazy[few], scheduler="sync")
    assert same(found, plain)
    assert all(map(close, found, twin.eager[few]))


@given(st.integers(0, 10_000), st.integers(1, 9), policies)
@settings(max_examples=30)
def test_optimize_does_not_touch_a_collection(seed: int, size: int, policy: go.Policy) -> None:
    x = arrays(seed, size).lazy[-1]
    was = snapshot(dict(x.dask))
    layers = dict(x.dask.layers)
    made = go.optimize(x, x.__dask_keys__(), policy)
    assert not differences(
        evaluate(made, list(map(tuple, _flat(x.__dask_keys__())))), evaluate(normalise(x), _flat(x.__dask_keys__()))
    )
    assert dict(x.dask.layers) == layers
    assert snapshot(dict(x.dask)) == was


def _flat(keys: Any) -> list[Any]:
    return [key for item in keys for key in _flat(item)] if isinstance(keys, list) else [keys]


@given(programs, policies)
@settings(max_examples=40)
def test_annotated_graphs_keep_values_and_annotations(twin: Program, policy: go.Policy) -> None:
    """Every family of keys has annotations of its own; each task that comes out has those of all it was made of."""
    nodes = normalise(twin.graph())
    notes = {key: {"retries": hash(str(_family(key))) % 3} for key in nodes if hash(str(_family(key))) % 3}
    graph = pipeline._with_notes(nodes, notes)
    made, found = read(go.optimize(graph, twin.keys(), policy))
    assert not differences(evaluate(made, twin.keys()), twin.expected())
    for key, node in made.items():
        labels = _flat(list(node.labels)) if isinstance(node, Fused) else []
        for label in labels:
            assert found.get(key, {}) == notes.get(label, {}), f"{label!r} lost its annotations in {key!r}"
        if key in notes:
            assert found.get(key, {}) == notes[key]
    if notes:
        assert isinstance(go.optimize(graph, twin.keys(), policy), HighLevelGraph)


def _family(key: Any) -> Any:
    return key[0] if isinstance(key, tuple) else key


# -- 2. idempotent, and blind to names ---------------------------------------------------------------------------------


@each_pass
@given(programs, policies, fresh_or_not)
@settings(max_examples=60)
def test_a_pass_finds_nothing_to_do_after_itself(name: str, twin: Program, policy: go.Policy, fresh: bool) -> None:
    keys = twin.keys()
    once = ONE_BY_ONE[name](before(name, normalise(twin.graph()), keys, policy, fresh), keys, policy)
    twice = ONE_BY_ONE[name](once, keys, policy)
    assert outline(twice) == outline(once)
    assert twice is once, f"{name} made a new graph though it changed nothing"


@each_pass
@given(programs, policies)
@settings(max_examples=60)
def test_a_pass_that_changes_nothing_returns_the_same_object(name: str, twin: Program, policy: go.Policy) -> None:
    keys = twin.keys()
    given_graph = normalise(twin.graph())
    made = ONE_BY_ONE[name](given_graph, keys, policy)
    assert made is given_graph or outline(made) != outline(given_graph)


@pytest.mark.parametrize("name", PASSES)
@given(programs, policies, fresh_or_not)
@settings(max_examples=60)
def test_renaming_keys_renames_the_result(name: str, twin: Program, policy: go.Policy, fresh: bool) -> None:
    here, there = twin.keys(), twin.keys(world=1)
    back = {twin.key(place, world=1): twin.key(place) for place in range(len(twin.steps))}
    run = ONE_BY_ONE[name]
    mine = run(before(name, normalise(twin.graph()), here, policy, fresh), here, policy)
    other = run(before(name, normalise(twin.graph(world=1)), there, policy, fresh), there, policy)
    assert outline(other, back.__getitem__) == outline(mine)


@given(programs, policies)
@settings(max_examples=60)
def test_renaming_keys_gives_the_same_fused_tasks(twin: Program, policy: go.Policy) -> None:
    """Generated names may differ; which tasks go together, in which order, and how many kernels there are may not."""
    back = {twin.key(place, world=1): twin.key(place) for place in range(len(twin.steps))}
    mine = _fused(go.optimize(twin.graph(), twin.keys(), policy), lambda key: key)
    other = _fused(go.optimize(twin.graph(world=1), twin.keys(world=1), policy), back.__getitem__)
    assert other == mine


def _fused(made: Graph, name: Callable[[Any], Any]) -> Any:
    def look(labels: Any) -> Any:
        return tuple(map(look, labels)) if isinstance(labels, (list, tuple)) else labels

    def rename(labels: Any) -> Any:
        return tuple(rename(label) if isinstance(label, list) else name(label) for label in labels)

    tasks = [node for node in made.values() if isinstance(node, Fused)]
    kernels = {id(task.func) for task in tasks}
    return sorted(map(repr, map(look, (rename(task.labels) for task in tasks)))), len(kernels), len(made)


SAME_ANYWHERE = """
import sys
sys.path.insert(0, {tests!r})
from twins import program
from array_twins import arrays
import graphopt as go
for seed in range(6):
    twin = program(seed, 40)
    made = go.optimize(twin.graph(), twin.keys(), go.Policy(parallelism=2, strict=True))
    print([(key, sorted(map(repr, node.dependencies)), getattr(node.func, "source", "")) for key, node in made.items()
           if hasattr(node, "func")])
    x = arrays(seed, 8).lazy[-1]
    made = go.optimize(x, x.__dask_keys__(), go.Policy(parallelism=2, strict=True))
    print(sorted((len(node.labels), node.func.source) for node in made.values() if hasattr(node, "labels")))
"""


def test_every_process_makes_the_same_graph() -> None:
    """Sets of keys are in another order in every process; nothing may depend on it, least of all the keys made up here."""
    tests = os.path.dirname(__file__)
    said = []
    for hash_seed in "012":
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONWARNINGS": "ignore"}
        run = subprocess.run(
            [sys.executable, "-c", SAME_ANYWHERE.format(tests=tests)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=os.path.dirname(tests),
            check=False,
        )
        assert run.returncode == 0, run.stderr
        said.append(run.stdout)
    assert said[0].count("def ") > 5
    assert said[1] == said[0]
    assert said[2] == said[0]


# -- 3. convex, acyclic, complete, and wide enough ---------------------------------------------------------------------


def levels(graph: Graph) -> dict[int, list[Any]]:
    """Sort the tasks by depth: the longest path from a task that reads no other. Data does not count."""
    depth: dict[Any, int] = {}
    out: dict[int, list[Any]] = {}
    for key in toposort(graph):
        if not is_constant(graph[key]):
            depth[key] = 1 + max((depth[dep] for dep in dependencies(graph[key]) if dep in depth), default=-1)
            out.setdefault(depth[key], []).append(key)
    return out


def homes(graph: Graph) -> dict[Any, Any]:
    """Map each original task to the node that it is in now."""
    return {task: key for key, node in graph.items() if not is_pick(node, graph) for task in members(node)}


@given(programs, policies)
@settings(max_examples=120)
def test_regions_are_convex_between_all_passes(twin: Program, policy: go.Policy) -> None:
    """No path leaves a region and comes back: whatever lies between two of its tasks is in it."""
    keys = twin.keys()
    seen: list[str] = []
    base = normalise(twin.graph())  # the graph before tasks are fused

    def check(name: str, graph: Graph) -> None:
        nonlocal base
        seen.append(name)
        check_graph(graph, keys)
        check_regions(graph)
        if name not in ("diamond", "lanes"):
            base = graph
            return
        reached = reach(base)
        for node in graph.values():
            if isinstance(node, Region):
                inside = set(members(node))
                below = set().union(*(reached[key] for key in inside))
                between = {key for key in below - inside if reached[key] & inside}
                assert not between, f"{between} lies between tasks of {node!r}"

    pipeline.run_passes(normalise(twin.graph()), keys, policy, {}, None, check)
    assert seen == [name for name in PASSES if name in policy.passes]


@given(programs, policies, fresh_or_not)
@settings(max_examples=200)
def test_diamond_keeps_regions_apart_at_every_depth(twin: Program, policy: go.Policy, fresh: bool) -> None:
    """At every depth as many regions could run at once as the policy asks for, or as there were tasks."""
    keys = twin.keys()
    graph = before("diamond", normalise(twin.graph()), keys, policy, fresh)
    made = ONE_BY_ONE["diamond"](graph, keys, policy)
    home, reached = homes(made), reach(made)
    for depth, tasks in levels(graph).items():
        wide = widest((home[task] for task in tasks), reached)
        assert wide >= min(policy.parallelism or 1, len(tasks)), f"{wide} of {len(tasks)} tasks at depth {depth}"


@given(programs, policies)
@settings(max_examples=120)
def test_as_many_tasks_can_run_at_once_as_the_policy_asks_for(twin: Program, policy: go.Policy) -> None:
    """Through all passes: where the widest depth has enough tasks, the result can keep the threads busy too."""
    keys = twin.keys()
    between: dict[str, Graph] = {"": normalise(twin.graph())}
    made = pipeline.run_passes(between[""], keys, policy, {}, None, between.__setitem__)
    merged = [graph for name, graph in between.items() if name not in ("diamond", "lanes")]  # equal tasks are gone there
    widths = [len(tasks) for tasks in levels(merged[-1]).values()]
    if max(widths, default=0) >= (policy.parallelism or 1):
        for graph in (made, generate(made, keys)):
            tasks = [key for key, node in graph.items() if not is_constant(node) and not is_pick(node, graph)]
            assert widest(tasks, reach(graph)) >= (policy.parallelism or 1)


@given(programs)
@settings(max_examples=60)
def test_without_threads_to_feed_everything_legal_is_fused(twin: Program) -> None:
    """With ``parallelism=1`` nothing is refused for the sake of width."""
    keys = twin.keys()
    explained = go.explain(twin.graph(), keys, go.Policy(parallelism=1, spare=1, strict=True))
    assert not [refusal for refusal in explained.refusals if "fewer than" in refusal.reason]


@given(programs, st.integers(1, 8))
@settings(max_examples=60)
def test_the_count_of_tasks_never_grows(twin: Program, parallelism: int) -> None:
    explained = go.explain(twin.graph(), twin.keys(), go.Policy(parallelism=parallelism, strict=True))
    picks = sum(len(node.func.source.split("return ")[1].split(",")) for node in _kernels(twin, parallelism))
    assert explained.tasks_after <= explained.tasks_before + picks
    assert str(explained.tasks_after) in str(explained).splitlines()[0]


def _kernels(twin: Program, parallelism: int) -> list[Fused]:
    made = go.optimize(twin.graph(), twin.keys(), go.Policy(parallelism=parallelism, strict=True))
    return [node for node in made.values() if isinstance(node, Fused)]


# -- the oracles themselves --------------------------------------------------------------------------------------------


def test_the_same_seed_writes_the_same_program() -> None:
    one, two = program(11, 30), program(11, 30)
    assert repr(one.steps) == repr(two.steps)
    assert repr(program(11, 12).steps) == repr(one.steps[:12]), "a longer program starts with the shorter one"


@given(programs)
@settings(max_examples=40)
def test_the_twins_agree_before_anything_is_done(twin: Program) -> None:
    assert not differences(evaluate(normalise(twin.graph()), twin.keys()), twin.expected())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.0, -0.0),
        (1, 1.0),
        (np.float64(1), 1.0),
        (np.zeros(2), np.zeros(2, "f4")),
        (np.zeros(2), -np.zeros(2)),
        (np.zeros((2, 1)), np.zeros((1, 2))),
        ([1], (1,)),
        ([1, 2], [1]),
        ({"a": 1}, {"a": 1.0}),
        (np.array([1, None], object), np.array([1.0, None], object)),
    ],
)
def test_same_sees_every_bit(one: Any, other: Any) -> None:
    assert same(one, one)
    assert same(one, pickle.loads(pickle.dumps(one)))
    assert not same(one, other)


def test_widest_finds_the_largest_antichain() -> None:
    below: dict[str, set[str]] = {"a": set(), "b": set(), "c": {"a"}, "d": {"a", "b"}, "e": {"a", "b", "d"}}
    assert widest("abcde", below) == 2
    assert widest("ae", below) == 1
    assert widest("cde", below) == 2
