"""Laws 2 and 3, as properties of random programs.

2. Passes are idempotent, a pass with nothing to do returns the object it was given, and renaming keys renames the result.
3. Regions are convex, the graph stays acyclic, kept keys stay, and as much can run at once as the policy asks for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from one_by_one import ONE_BY_ONE, Graph, before, check_regions
from oracle import members, outline, reach, widest
from twins import Program, examples, policies, programs

import graphopt as go
from graphopt import pipeline
from graphopt.graph import check_graph, dependencies, is_constant, normalise, toposort
from graphopt.kernel import Fused, generate
from graphopt.pipeline import PASSES
from graphopt.region import Region, is_pick

each_pass = pytest.mark.parametrize("name", ONE_BY_ONE)

#: Whether a pass sees the graph as it is, or as the passes before it leave it.
fresh_or_not = st.booleans()


def test_the_laws_cover_every_pass() -> None:
    assert tuple(ONE_BY_ONE) == (*PASSES, "generate")


# -- 2. idempotent, and blind to names ---------------------------------------------------------------------------------


@each_pass
@given(programs, policies, fresh_or_not)
@examples(60)
def test_a_pass_finds_nothing_to_do_after_itself(name: str, twin: Program, policy: go.Policy, fresh: bool) -> None:
    keys = twin.keys()
    once = ONE_BY_ONE[name](before(name, normalise(twin.graph()), keys, policy, fresh), keys, policy)
    twice = ONE_BY_ONE[name](once, keys, policy)
    assert outline(twice) == outline(once)
    assert twice is once, f"{name} made a new graph though it changed nothing"


@each_pass
@given(programs, policies)
@examples(60)
def test_a_pass_that_changes_nothing_returns_the_same_object(name: str, twin: Program, policy: go.Policy) -> None:
    keys = twin.keys()
    given_graph = normalise(twin.graph())
    made = ONE_BY_ONE[name](given_graph, keys, policy)
    assert made is given_graph or outline(made) != outline(given_graph)


@pytest.mark.parametrize("name", PASSES)
@given(programs, policies, fresh_or_not)
@examples(60)
def test_renaming_keys_renames_the_result(name: str, twin: Program, policy: go.Policy, fresh: bool) -> None:
    here, there = twin.keys(), twin.keys(world=1)
    back = {twin.key(place, world=1): twin.key(place) for place in range(len(twin.steps))}
    run = ONE_BY_ONE[name]
    mine = run(before(name, normalise(twin.graph()), here, policy, fresh), here, policy)
    other = run(before(name, normalise(twin.graph(world=1)), there, policy, fresh), there, policy)
    assert outline(other, back.__getitem__) == outline(mine)


@given(programs, policies)
@examples(60)
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
from twins import examples, program
from array_twins import arrays
import graphopt as go
for seed in range(12):
    twin = program(seed, 40)
    made = go.optimize(twin.graph(), twin.keys(), go.Policy(parallelism=2, strict=True))
    print([(key, sorted(map(repr, node.dependencies)), getattr(node.func, "source", "")) for key, node in made.items()
           if hasattr(node, "func")])
    x = arrays(seed, 12).lazy[-1]
    made = go.optimize(x, x.__dask_keys__(), go.Policy(parallelism=2, strict=True))
    print(list(made), [(len(node.labels), node.func.source) for node in made.values() if hasattr(node, "labels")])
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
@examples(120)
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
@examples(200)
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
@examples(120)
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
@examples(60)
def test_without_threads_to_feed_everything_legal_is_fused(twin: Program) -> None:
    """With ``parallelism=1`` nothing is refused for the sake of width."""
    keys = twin.keys()
    explained = go.explain(twin.graph(), keys, go.Policy(parallelism=1, spare=1, strict=True))
    assert not [refusal for refusal in explained.refusals if "fewer than" in refusal.reason]


@given(programs, st.integers(1, 8))
@examples(60)
def test_the_count_of_tasks_never_grows(twin: Program, parallelism: int) -> None:
    explained = go.explain(twin.graph(), twin.keys(), go.Policy(parallelism=parallelism, strict=True))
    picks = sum(len(node.func.source.split("return ")[1].split(",")) for node in _kernels(twin, parallelism))
    assert explained.tasks_after <= explained.tasks_before + picks
    assert str(explained.tasks_after) in str(explained).splitlines()[0]


def _kernels(twin: Program, parallelism: int) -> list[Fused]:
    made = go.optimize(twin.graph(), twin.keys(), go.Policy(parallelism=parallelism, strict=True))
    return [node for node in made.values() if isinstance(node, Fused)]
