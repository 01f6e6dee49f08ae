"""The parts of the main job one by one: the formulas, the descent, the chunks, the layered drawing, the JSON."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import dask
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphopt as go
from graphopt.demo import check, race
from graphopt.demo.descent import Descent, chunked_loss_and_gradient, curvature_bound, loss_and_gradient
from graphopt.demo.fusion import fusion
from graphopt.demo.problem import Problem, breast_cancer, chunk_lengths, document, largest
from graphopt.report.errors import CommandError
from graphopt.report.files import write_json
from graphopt.report.layers import layered


@pytest.fixture
def problem() -> Problem:
    with dask.config.set(scheduler="sync"):
        return document(120, 5, penalty=0.0, seed=3).persisted()


def test_the_gradient_is_the_loss_differentiated() -> None:
    rng = np.random.default_rng(0)
    X, y, beta = rng.normal(size=(40, 3)), (rng.random(40) < 0.5).astype(float), rng.normal(size=3)
    _, gradient = loss_and_gradient(X, y, beta)
    step = 1e-6
    for i, unit in enumerate(np.eye(3) * step):
        up, down = (loss_and_gradient(X, y, beta + sign * unit)[0] for sign in (1, -1))
        assert (up - down) / (2 * step) == pytest.approx(gradient[i], rel=1e-6)


def test_the_loss_does_not_overflow() -> None:
    X, y = np.array([[700.0], [-700.0]]), np.array([0.0, 1.0])
    loss, gradient = loss_and_gradient(X, y, np.ones(1))
    assert loss == 1400
    assert gradient == pytest.approx([1400])


def test_dask_and_numpy_compute_the_same(problem: Problem) -> None:
    beta = np.linspace(-1, 1, 15)
    with dask.config.set(scheduler="sync"):
        chunks = problem.chunks()
        evaluate = race.evaluators(problem, chunks, go.compile(loss_and_gradient))
        loss, gradient = chunked_loss_and_gradient(chunks, beta)
        for run in race.RUNS:
            assert evaluate[run](beta)[0] == pytest.approx(loss, rel=1e-13)
            np.testing.assert_allclose(evaluate[run](beta)[1], gradient, rtol=1e-10)
        (dask_loss, dask_gradient), (loss, gradient) = evaluate[race.DASK](beta), evaluate[race.GRAPHOPT](beta)
    assert loss == dask_loss  # to the last bit
    np.testing.assert_array_equal(gradient, dask_gradient)


@pytest.mark.parametrize("penalty", [0.0, 3.0])
def test_the_descent_ends_where_the_gradient_is_zero(penalty: float) -> None:
    problem = document(400, 2, penalty, seed=0)
    chunks = problem.chunks()
    descent = Descent(curvature_bound(chunks, problem.penalty), problem.penalty)
    state = descent.start()
    for _ in range(1500):
        state = descent.advance(state, chunked_loss_and_gradient(chunks, state.point)[1])
    _, gradient = chunked_loss_and_gradient(chunks, state.beta)
    assert abs(gradient + problem.penalty * state.beta).max() < 1e-3
    assert state.iteration == 1500


def test_the_runs_take_turns_and_the_same_steps(problem: Problem) -> None:
    order: list[str] = []
    evaluate = race.evaluators(problem, problem.chunks())[race.NUMPY]

    def noted(name: str) -> race.Evaluate:
        return lambda beta: order.append(name) or evaluate(beta)  # type: ignore[func-returns-value]

    states: list[str] = []
    descent = Descent(curvature_bound(problem.chunks(), problem.penalty), problem.penalty)
    traces = race.race({name: noted(name) for name in "abc"}, descent, 3, states.append)
    assert "".join(order) == "abccabbca"  # nobody always follows the same one
    assert [len(trace.seconds) for trace in traces.values()] == [3, 3, 3]
    np.testing.assert_array_equal(traces["a"].beta, traces["c"].beta)
    assert len(states) == 3


def test_the_first_call_of_a_compiled_step_traces_it_and_the_others_do_not(problem: Problem) -> None:
    step = go.compile(loss_and_gradient)
    with dask.config.set(scheduler="sync"):
        evaluate = race.evaluators(problem, problem.chunks(), step)
        found = race.compilation(problem, np.zeros(15), step)
        for scale in range(4):
            evaluate[race.COMPILED](np.full(15, float(scale)))
        assert race.COMPILED not in race.evaluators(problem, problem.chunks())
    assert (step.stats.calls, step.stats.traces, step.stats.by_dask) == (5, 1, 0)
    assert 0 < found.first_call < 60
    assert 1 <= found.kernels <= found.lanes < race.graph_tasks(problem, np.zeros(15))


def test_sums_in_another_order_stay_within_what_rounding_explains() -> None:
    rows, iterations = 4000, 30
    problem = document(rows, 1, 0.0, seed=0)
    chunks = problem.chunks()
    descent = Descent(curvature_bound(chunks, problem.penalty), problem.penalty)
    order = np.random.default_rng(0).permutation(rows)
    shuffled = [(chunks[0][0][order], chunks[0][1][order])]
    ways = {str(i): lambda beta, c=c: chunked_loss_and_gradient(c, beta) for i, c in enumerate((chunks, shuffled))}
    one, other = race.race(ways, descent, iterations, lambda state: None).values()
    apart = abs(one.beta - other.beta).max()
    assert 0 < apart < check.rounding(rows, iterations) < 1e-9


def test_tasks_are_counted_alike_by_schedulers_and_in_graphs(problem: Problem) -> None:
    beta = np.zeros(15)
    evaluate = race.evaluators(problem, problem.chunks())
    with dask.config.set(scheduler="sync"):
        counts = {run: race.count_tasks(problem, beta, evaluate[run], local=True) for run in (race.DASK, race.GRAPHOPT)}
        graphs = {run: race.count_tasks(problem, beta, evaluate[run], local=False) for run in (race.DASK, race.GRAPHOPT)}
    assert counts == graphs
    assert counts[race.GRAPHOPT] < counts[race.DASK] < race.graph_tasks(problem, beta)


def test_generated_data_is_the_same_for_a_seed_and_has_its_truth() -> None:
    first, again, other = (document(3000, 3, 0.0, seed) for seed in (1, 1, 2))
    X, y, X_again, X_other = dask.compute(first.X, first.y, again.X, other.X, scheduler="sync")
    np.testing.assert_array_equal(X, X_again)
    assert not np.array_equal(X, X_other)
    assert first.truth is not None
    assert abs(first.truth).max() <= 1.5
    expected = 1 / (1 + np.exp(-X @ first.truth))
    assert abs(y.mean() - expected.mean()) < 4 * np.sqrt(0.25 / len(y))


def test_breast_cancer_is_standardised_with_a_free_intercept() -> None:
    problem = breast_cancer(4, 2.0)
    X = problem.X.compute(scheduler="sync")
    np.testing.assert_allclose(X[:, :-1].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_array_equal(X[:, -1], 1)
    assert problem.penalty[-1] == 0
    assert [name for name, _ in largest(problem, np.arange(31.0), 2)] == list(problem.features[29:27:-1])


@given(rows=st.integers(1, 10_000), chunks=st.integers(1, 200))
def test_chunks_are_even(rows: int, chunks: int) -> None:
    if chunks > rows:
        with pytest.raises(CommandError, match="--chunks goes from 1"):
            chunk_lengths(rows, chunks)
        return
    lengths = chunk_lengths(rows, chunks)
    assert sum(lengths) == rows
    assert len(lengths) == chunks
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_drawn_is_one_chunk(problem: Problem, compiled: bool) -> None:
    with dask.config.set(scheduler="sync"):
        plan = go.compile(loss_and_gradient).plan(problem.X, problem.y, np.ones(15)) if compiled else None
        seen = fusion(problem, np.ones(15), plan)
    assert {seen.labels[i] for i in seen.data} == {"X", "y"}
    for label in ("exp", "log1p", "tensordot", "transpose", "maximum"):
        assert label in seen.labels
    assert all(low < high for low, high in seen.edges)
    assert "def " in seen.source
    assert "log1p" in seen.source
    assert 0 < seen.regions <= seen.calls < 20
    assert seen.whose.startswith("the compiled step's" if compiled else "graphopt's")


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A number of nodes, and edges from lower to higher ones."""
    count = draw(st.integers(1, 12))
    pairs = [(low, high) for high in range(count) for low in range(high)]
    return count, draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []


@given(graphs())
def test_every_arrow_leads_down_and_nothing_overlaps(graph: tuple[int, list[tuple[int, int]]]) -> None:
    count, edges = graph
    points, routes = layered(count, edges)
    assert len(points) == count
    assert len(routes) == len(edges)
    for (source, target), route in zip(edges, routes, strict=True):
        assert (route[0], route[-1]) == (points[source], points[target])
        assert all(high[1] - low[1] == 1 for high, low in pairwise(route))
    taken = points + [bend for route in routes for bend in route[1:-1]]
    for i, (x, y) in enumerate(taken):
        assert all(abs(x - x2) >= 1 - 1e-9 for x2, y2 in taken[:i] if y2 == y)


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(str(tmp_path / "x.json"), {"a": float("nan"), "b": [1, float("inf")], "c": {"d": "text"}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [1, None], "c": {"d": "text"}}
