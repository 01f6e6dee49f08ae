"""Law 1: `optimize`, and each pass on its own, gives the same values bit for bit and never changes its input.

Programs come from `twins` and `array_twins`: each failure is one seed and the smallest size that fails.
"""

from __future__ import annotations

import warnings
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from array_twins import Arrays, arrays
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from hypothesis import given
from hypothesis import strategies as st
from one_by_one import ONE_BY_ONE, before, check_regions
from oracle import close, differences, evaluate, same, snapshot
from twins import Program, examples, policies, programs

import graphopt as go
from graphopt.graph import check_graph, dependencies, flatten_keys, is_constant, normalise, read
from graphopt.kernel import Fused
from graphopt.spec import TaskRef

each_pass = pytest.mark.parametrize("name", ONE_BY_ONE)

#: Whether a pass sees the graph as it is, or as the passes before it leave it.
fresh_or_not = st.booleans()


@given(programs, policies)
@examples(250)
def test_optimised_values_are_the_same_bit_for_bit(twin: Program, policy: go.Policy) -> None:
    graph, keys, expected = twin.graph(), twin.keys(), twin.expected()
    was = snapshot(graph)
    made = go.optimize(graph, keys, policy)
    check_graph(made, keys)
    assert not differences(evaluate(made, keys), expected)
    assert snapshot(graph) == was, "optimize changed its input"


@given(programs, policies)
@examples(60)
def test_optimised_graphs_survive_pickling(twin: Program, policy: go.Policy) -> None:
    keys = twin.keys()
    made = go.optimize(twin.graph(), keys, policy)
    copied = cloudpickle.loads(cloudpickle.dumps(made))
    assert not differences(evaluate(copied, keys), twin.expected())


@given(programs, policies)
@examples(60)
def test_dasks_own_schedulers_run_what_comes_out(twin: Program, policy: go.Policy) -> None:
    keys = twin.keys()
    made = go.optimize(twin.graph(), keys, policy)
    with np.errstate(all="ignore"):
        found = dict(zip(keys, dask.get(made, keys), strict=True))
    assert not differences(found, twin.expected())


@given(programs, policies)
@examples(40)
def test_an_optimised_graph_may_be_optimised_again(twin: Program, policy: go.Policy) -> None:
    keys = twin.keys()
    made = go.optimize(twin.graph(), keys, policy)
    was = snapshot(made)
    again = go.optimize(made, keys, policy)
    assert not differences(evaluate(again, keys), twin.expected())
    assert snapshot(made) == was


@each_pass
@given(programs, policies, fresh_or_not)
@examples(60)
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
@examples(60)
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


@given(programs, policies)
@examples(50)
def test_delayed_values_are_the_same_bit_for_bit(twin: Program, policy: go.Policy) -> None:
    with np.errstate(all="ignore"), go.optimized(policy):
        found = dask.compute(*twin.delayed(), scheduler="sync")
    assert same(found, tuple(twin.expected().values()))


array_programs = st.builds(arrays, st.integers(0, 10_000), st.integers(1, 9))


@given(array_programs, policies)
@examples(50)
def test_arrays_equal_dasks_own_bit_for_bit_and_numpys_to_rounding(twin: Arrays, policy: go.Policy) -> None:
    few = slice(-3, None)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", da.PerformanceWarning)
        plain = dask.compute(*twin.lazy[few], scheduler="sync")
        with go.optimized(policy):
            found = dask.compute(*twin.lazy[few], scheduler="sync")
    assert same(found, plain)
    assert all(map(close, found, twin.eager[few]))


@each_pass
@given(array_programs, policies, fresh_or_not)
@examples(12)
def test_each_pass_keeps_the_values_of_arrays(name: str, twin: Arrays, policy: go.Policy, fresh: bool) -> None:
    """Here tasks are what dask makes of arrays: merged Blockwise layers, getters, tensordots, reductions."""
    x = twin.lazy[-1]
    keys = flatten_keys(x.__dask_keys__())
    given_graph = before(name, normalise(x, keys), keys, policy, fresh)
    was = snapshot(given_graph)
    made = ONE_BY_ONE[name](given_graph, keys, policy)
    check_graph(made, keys)
    check_regions(made)
    assert not differences(evaluate(made, keys), evaluate(normalise(x, merge_layers=False), keys))
    if name != "generate":  # which gives what dask fused a name of its own, whenever it sees it
        assert ONE_BY_ONE[name](made, keys, policy) is made
    assert snapshot(given_graph) == was, f"{name} changed its input"


@given(array_programs, policies)
@examples(30)
def test_optimize_does_not_touch_a_collection(twin: Arrays, policy: go.Policy) -> None:
    x = twin.lazy[-1]
    keys = flatten_keys(x.__dask_keys__())
    layers, was = dict(x.dask.layers), snapshot(dict(x.dask))
    made = go.optimize(x, x.__dask_keys__(), policy)
    assert not differences(evaluate(made, keys), evaluate(normalise(x), keys))
    assert dict(x.dask.layers) == layers
    assert snapshot(dict(x.dask)) == was


@given(programs, policies)
@examples(40)
def test_annotated_graphs_keep_values_and_annotations(twin: Program, policy: go.Policy) -> None:
    """Every family of keys has annotations of its own; each task that comes out has those of all it was made of."""
    nodes, kinds = normalise(twin.graph()), [{}, {"retries": 1}, {"retries": 2, "priority": 1}]
    families = {name: number for number, name in enumerate(dict.fromkeys(map(_family, nodes)))}
    notes = {key: kinds[families[_family(key)] % 3] for key in nodes}
    layers = {f"layer of {key!r}": MaterializedLayer({key: node}) for key, node in nodes.items()}
    for key, layer in zip(nodes, layers.values(), strict=True):
        layer.annotations = notes[key] or None
    below = {f"layer of {key!r}": {f"layer of {dep!r}" for dep in dependencies(nodes[key])} for key in nodes}
    made = go.optimize(HighLevelGraph(layers, below), twin.keys(), policy)
    nodes, found = read(made)
    assert not differences(evaluate(nodes, twin.keys()), twin.expected())
    for key, node in nodes.items():
        for label in _flat(list(node.labels)) if isinstance(node, Fused) else []:
            assert found.get(key, {}) == notes[label], f"{label!r} lost its annotations in {key!r}"
        if key in notes and not is_constant(node):
            assert found.get(key, {}) == notes[key]


def _family(key: Any) -> Any:
    return key[0] if isinstance(key, tuple) else key


def _flat(labels: Any) -> list[Any]:
    return [key for item in labels for key in _flat(item)] if isinstance(labels, list) else [labels]
