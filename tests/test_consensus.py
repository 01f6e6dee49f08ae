"""Consensus ADMM: the core under any order of answers, its log, the optimum of other solvers, and what clusters do to it."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
import scipy.sparse
from conftest import QUIET
from hypothesis import given, settings
from hypothesis import strategies as st
from test_solvers import FAMILIES, PENALTIES, chunked, problem

from solvers import (
    L1,
    L2,
    Box,
    ConsensusADMM,
    ElasticNet,
    Family,
    GroupL1,
    Multinomial,
    Penalty,
    ScaledHuber,
    Status,
    Unpenalised,
    families,
    fit,
)
from solvers.consensus import teams
from solvers.consensus.core import Ask, Core, Report, Rules
from solvers.consensus.problem import Frame, Problem, look, problem_of, solve
from solvers.consensus.prox import Prox
from solvers.consensus.record import replay
from solvers.data import prepare
from solvers.fit import solve as solve_objective
from solvers.local import Learned, Pull, descended
from solvers.objective import Objective
from solvers.rows import Rows, factored
from solvers.units import Units

VARIANTS = ("synchronous", "single", "batched")
FEATURES = 4
MORE: list[Family] = [Multinomial(3), ScaledHuber()]


@pytest.fixture
def solved_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Set what solves in tasks of this process, for the length of a test."""
    return lambda function: monkeypatch.setattr(teams, "solve", function)


# -- the core ----------------------------------------------------------------------------------------------------------


class Quadratics:
    """Chunks whose losses are quadratics, and what minimises their mean and a penalty."""

    def __init__(self, count: int, seed: int, penalty: Penalty) -> None:
        rng = np.random.default_rng(seed)
        roots = rng.normal(0, 1, (count, 6, FEATURES)) * rng.uniform(0.5, 2, FEATURES)
        self.hessians = np.einsum("nki,nkj->nij", roots, roots) / 6 + 0.1 * np.eye(FEATURES)
        self.slopes = rng.normal(0, 1, (count, FEATURES))
        self.shares = rng.uniform(0.5, 1.5, count)
        self.shares /= self.shares.sum()
        self.metric = np.einsum("n,nii->i", self.shares, self.hessians)
        self.penalty = penalty

    def core(self, rules: Rules, **options: Any) -> Core:
        z = np.zeros(FEATURES)
        prox = Prox(self.penalty, self.metric, FEATURES)
        return Core(rules, prox, self.shares.tolist(), z, z - self.slopes / self.metric, **options)

    def answer(self, ask: Ask) -> np.ndarray:
        metric = np.diag(ask.rho * self.metric)
        found: np.ndarray = np.linalg.solve(self.hessians[ask.chunk] + metric, metric @ ask.target - self.slopes[ask.chunk])
        return found

    def off(self, z: np.ndarray) -> float:
        """Return the certificate."""
        gradient = self.shares @ (np.einsum("nij,j->ni", self.hessians, z) + self.slopes) + self.penalty.ridge * z
        return float(np.abs(z - self.penalty.prox(z - gradient, 1.0)).max())


def run(problem: Quadratics, core: Core, pick: Callable[[list[int]], list[int]], check: Any = None) -> None:
    """Answer what the core asks, in the order that is picked, until it is content."""
    asked: dict[int, Ask] = {}
    asks = core.begin()
    while not core.done:
        for ask in asks:
            assert ask.chunk not in asked
            asked[ask.chunk] = ask
        assert asked, "nothing is asked and nothing is over"
        if check is not None:
            check(asks)
        chosen = pick(list(asked))
        asks = core.take([Report(chunk, problem.answer(asked.pop(chunk))) for chunk in chosen])
        core._check()


SMOOTH_OR_NOT: list[Penalty] = [Unpenalised(), L2(0.1), L1(0.3), ElasticNet(0.3, 0.5), Box(-0.2, 0.1)]


@settings(max_examples=60)
@given(
    st.integers(1, 7),
    st.integers(0, 2**31),
    st.sampled_from(SMOOTH_OR_NOT),
    st.booleans(),
    st.integers(1, 30),
    st.integers(1, 9),
    st.floats(0.5, 1.9),
    st.sampled_from([0.1, 1.0, 10.0]),
)
def test_any_order_of_answers_leads_to_the_optimum(
    count: int, seed: int, penalty: Penalty, batched: bool, staleness: int, in_flight: int, relax: float, rho: float
) -> None:
    """And all along sums are those of the chunks, and no chunk is older than it may be: `_check`."""
    problem = Quadratics(count, seed, penalty)
    rules = Rules(batched, staleness, in_flight, relax, abstol=1e-10, reltol=0.0, rounds=3_000)
    core = problem.core(rules, rho=rho)
    rng = np.random.default_rng(seed)
    slow = rng.integers(0, count)

    def pick(chunks: list[int]) -> list[int]:
        quick = [chunk for chunk in chunks if chunk != slow or rng.random() < 0.1] or chunks
        return [int(chunk) for chunk in rng.permutation(quick)[: rng.integers(1, len(quick) + 1)]]

    run(problem, core, pick)
    assert problem.off(core.z) < 1e-7


@given(st.integers(2, 8), st.integers(1, 12), st.integers(1, 8), st.booleans())
def test_an_update_waits_for_who_is_too_old(count: int, staleness: int, in_flight: int, batched: bool) -> None:
    """A chunk that answers only when nobody else can is heard every so many updates all the same."""
    problem = Quadratics(count, count, L1(0.1))
    core = problem.core(Rules(batched, staleness, in_flight, rounds=20, abstol=0.0, reltol=0.0))
    run(problem, core, lambda chunks: [max(chunks)])
    heard = core.last[0]
    assert core.updates - heard < staleness
    if staleness == 1:
        assert core.reports == count * core.updates


@given(st.integers(2, 9), st.integers(1, 9), st.integers(0, 2**31), st.integers(1, 3))
def test_who_was_served_least_recently_is_next(count: int, in_flight: int, seed: int, places: int) -> None:
    problem, rng = Quadratics(count, seed, Unpenalised()), np.random.default_rng(seed)
    where = [chunk % places for chunk in range(count)]
    rules = Rules(True, 100, in_flight, rounds=10, abstol=0.0, reltol=0.0)
    core = problem.core(rules, places=where, slots=dict.fromkeys(range(places), in_flight))
    reported = dict.fromkeys(range(count), 0)
    clock = 0
    asked: dict[int, Ask] = {}
    asks = core.begin()
    while not core.done:
        for ask in asks:
            mine = [chunk for chunk in range(count) if where[chunk] == where[ask.chunk] and chunk not in asked]
            assert reported[ask.chunk] == min(reported[chunk] for chunk in mine)
            asked[ask.chunk] = ask
        chunk = int(rng.choice(list(asked)))
        clock += 1
        reported[chunk] = clock
        asks = core.take([Report(chunk, problem.answer(asked.pop(chunk)), where[chunk])])
        core._check()


def test_fewer_slots_than_places_starve_none() -> None:
    problem = Quadratics(6, 0, Unpenalised())
    where = [chunk % 3 for chunk in range(6)]
    core = problem.core(Rules(True, 1_000, 1, rounds=5, abstol=0.0, reltol=0.0), places=where, slots=dict.fromkeys(range(3), 1))
    run(problem, core, lambda chunks: chunks)
    assert core.reports == 30


def test_a_place_that_is_slow_does_not_take_the_slots_of_others() -> None:
    problem = Quadratics(8, 0, Unpenalised())
    where = [chunk % 2 for chunk in range(8)]
    core = problem.core(Rules(True, 1_000, 4, rounds=6, abstol=0.0, reltol=0.0), places=where, slots={0: 2, 1: 2})
    steps = iter(range(10**6))
    served = [0, 0]

    def pick(chunks: list[int]) -> list[int]:
        assert sum(where[chunk] == 0 for chunk in chunks) == 2
        slow = next(steps) % 10 == 0
        chosen = next(chunk for chunk in chunks if where[chunk] == (1 if slow else 0))
        served[where[chosen]] += 1
        return [chosen]

    run(problem, core, pick)
    assert served[0] > 5 * served[1] > 0


def test_synchronous_is_the_textbook_s() -> None:
    """The same numbers as ADMM in three lines, with scaled duals (Boyd et al., 7.1.1, with z first)."""
    problem = Quadratics(5, 3, L1(0.2))
    core = problem.core(Rules(True, 1, 5, 1.0, adapt=False, rounds=30, abstol=0.0, reltol=0.0), rho=0.7)
    rho, metric, shares = 0.7, problem.metric, problem.shares
    s = -problem.slopes / metric
    z = problem.penalty.prox(shares @ s, 1.0 / (rho * metric))  # type: ignore[arg-type]
    u = s - z
    for _ in range(30):
        x = np.array([problem.answer(Ask(i, z - u[i], z, z, rho)) for i in range(5)])
        u += x - z
        before, z = z, problem.penalty.prox(shares @ (z + u), 1.0 / (rho * metric))  # type: ignore[arg-type]
        u += before - z
    run(problem, core, lambda chunks: chunks)
    np.testing.assert_allclose(core.z, z, rtol=1e-9)
    assert core.updates == 30


def test_rho_may_change_while_chunks_are_asked() -> None:
    """Duals stay what they are, and an answer to what was asked with another rho means what it meant."""
    problem = Quadratics(4, 1, L1(0.1))
    core = problem.core(Rules(True, 100, 4, adapt=False))
    asks = core.begin()
    core.take([Report(ask.chunk, problem.answer(ask)) for ask in asks[:2]])
    duals = core.rho * (core.s - core.z)
    core._adapt(100.0, 1.0)
    assert core.rho == 2.0
    np.testing.assert_allclose(core.rho * (core.s - core.z), duals)
    core._check()
    dual, x = duals[asks[2].chunk], problem.answer(asks[2])
    old_z = core.z
    core.take([Report(asks[2].chunk, x)])
    np.testing.assert_allclose(2.0 * (core.s[asks[2].chunk] - old_z), dual + 1.0 * core.relax * (x - asks[2].z))


def test_a_run_that_gets_worse_is_relaxed_less() -> None:
    problem = Quadratics(3, 0, Unpenalised())
    core = problem.core(Rules(True, 1, 3, 1.9, rounds=8, abstol=0.0, reltol=0.0))
    asks, wild = core.begin(), 1.0
    while not core.done:
        wild *= 3
        asks = core.take([Report(ask.chunk, wild * np.ones(FEATURES)) for ask in asks])
    assert core.relax < 1.9


def test_answers_that_are_not_numbers_end_the_leg() -> None:
    problem = Quadratics(3, 0, Unpenalised())
    core = problem.core(Rules(True, 1, 3))
    core.take([Report(ask.chunk, np.full(FEATURES, np.nan)) for ask in core.begin()])
    assert core.done


def test_what_was_asked_in_an_earlier_leg_counts_no_more() -> None:
    problem = Quadratics(3, 0, Unpenalised())
    core = problem.core(Rules(True, 10, 2))
    (first, *_) = core.begin()
    assert [ask.chunk for ask in core.begin()] == [0, 1]
    core.abandon(list(core.flying))
    before = core.z
    assert core.take([Report(first.chunk, np.ones(FEATURES))])[0].chunk == 0
    assert core.z is before
    core._check()


@given(st.integers(0, 2**31), st.integers(2, 5), st.sampled_from(SMOOTH_OR_NOT), st.floats(0.01, 10))
def test_an_update_is_the_best_whatever_classes_have_in_common(seed: int, classes: int, penalty: Penalty, rho: float) -> None:
    """No other point near it has less of penalty and distance, the latter without what is common; nor does what s has count."""
    rng = np.random.default_rng(seed)
    penalised, size = 3 * classes, 4 * classes
    prox = Prox(penalty, rng.uniform(0.1, 2, size), penalised, classes)
    s = rng.normal(0, 0.5, size)

    def cost(z: np.ndarray) -> float:
        off = prox.seen(z - s)
        ridge = 0.5 * penalty.ridge * float(z[:penalised] @ z[:penalised])
        return penalty.value(z[:penalised]) + ridge + 0.5 * rho * float(prox.metric @ (off * off))

    def common() -> np.ndarray:
        return np.concatenate([np.tile(rng.normal(size=3), classes), np.full(classes, rng.normal())])

    z = prox(s, rho)
    np.testing.assert_allclose(prox.seen(prox(s + common(), rho)), prox.seen(z), atol=1e-9)
    np.testing.assert_allclose(prox.seen(z + common()), prox.seen(z), atol=1e-12)
    for scale in (1e-3, 1e-1, 1.0):
        for change in (rng.normal(size=size), common(), rng.normal(size=size) * (rng.random(size) < 0.2)):
            assert cost(z + scale * change) >= cost(z) - 1e-11


@given(st.integers(0, 2**31), st.integers(2, 6), st.floats(-1, 2))
def test_a_chunk_stays_above_a_floor(seed: int, size: int, floor: float) -> None:
    """And is where the rest of its problem is solved there; whether Newton has a matrix or learns it."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size + 2, size))
    hessian, slope = root.T @ root + 0.1 * np.eye(size), rng.normal(size=size)
    pull = Pull(rng.normal(size=size), rng.normal(size=size), rng.uniform(0.5, 2, size))

    def evaluate(x: np.ndarray, *, hessian: Any = False, curved: np.ndarray = hessian) -> Any:
        return 0.5 * x @ curved @ x + slope @ x, curved @ x + slope, curved

    start = np.full(size, 3.0)
    for factor in (factored(hessian + pull.matrix), np.diag(hessian) + pull.metric, Learned(np.diag(hessian) + pull.metric)):
        x, _ = descended(evaluate, start, *evaluate(start)[:2], pull, factor, lambda x, left, first: left < 1e-20, floor)
        gradient = evaluate(x)[1] + pull(x)[1]
        assert x[-1] >= floor - 1e-12
        np.testing.assert_allclose(gradient[:-1], 0, atol=1e-5)
        assert gradient[-1] > -1e-5
        assert x[-1] < floor + 1e-9 or gradient[-1] < 1e-5


# -- problems of chunks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_matrix], ids=["dense", "csr"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_chunk_solves_what_it_is_asked(family: Family, make: Any) -> None:
    X, y = problem(family)
    rng = np.random.default_rng(1)
    parts = [make(X), y, rng.integers(0, 3, len(y)).astype(float), 0.1 * rng.random(len(y))]
    held = problem_of(parts, family, True, None)
    metric, z = 0.5 + rng.random(6), 0.1 * rng.normal(size=6)
    for rho in (1.0, 0.3, 0.3):
        ask = Ask(0, z + 0.1 * rng.normal(size=6), z, np.zeros(6), rho)
        x = solve(held, ask, Frame(metric, None))
        gradient = held(x)[1] + rho * metric * (x - ask.target)
        assert np.abs(gradient).max() < 1e-2 * np.linalg.norm(x - z)
    hessian = held(z, hessian=True)[2]
    if family.name != "huber":
        np.testing.assert_allclose(held.curvature(z)[0], np.diag(hessian), rtol=1e-9)
        np.testing.assert_allclose(held.curvature(z)[1], hessian[-1, :-1], rtol=1e-9, atol=1e-12)
    scaled = problem_of(parts, family, True, Units(rng.random(5), 1.0 + rng.random(5), True))
    np.testing.assert_allclose(
        scaled.curvature(z)[0], np.diag(scaled(z, hessian=True)[2]), rtol=0.05 if family.name == "huber" else 1e-9
    )
    again = pickle.loads(pickle.dumps(held))
    assert again.factor is None
    np.testing.assert_array_equal(look(again, z), look(held, z))


def test_least_squares_from_moments_are_those_of_the_rows() -> None:
    X, y = problem(families.Normal())
    X += 1e4
    for intercept in (True, False):
        held = problem_of([X, y, None, None], families.Normal(), intercept, None)
        beta = np.random.default_rng(0).normal(0, 1e-3, 5 + intercept)
        rows = X if not intercept else np.column_stack([X, np.ones(len(y))])
        off = rows @ beta - y
        loss, gradient, hessian = held(beta, hessian=True)
        np.testing.assert_allclose(loss, 0.5 * (off**2).mean(), rtol=1e-9)
        np.testing.assert_allclose(gradient, rows.T @ off / len(y), rtol=1e-8)
        np.testing.assert_allclose(hessian, rows.T @ rows / len(y), rtol=1e-9)
        assert not isinstance(held.evaluate, Problem)


# -- the optimum -------------------------------------------------------------------------------------------------------


def labelled(family: Family, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(family, Multinomial):
        return problem(family, rows)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, 5))
    scores = X @ rng.normal(0, 0.7, (5, family.classes)) + rng.gumbel(size=(rows, family.classes))
    return X, scores.argmax(axis=1).astype(float)


def of(penalty: Penalty, family: Family) -> Penalty:
    """Return a penalty for as many coefficients as a family has."""
    if isinstance(family, Multinomial) and isinstance(penalty, GroupL1):
        return GroupL1(penalty.strength, penalty.groups * family.classes)
    return penalty


def settled(coef: np.ndarray, penalty: Penalty) -> np.ndarray:
    """Return coefficients without what nothing settles: classes may move together within bounds."""
    return coef - coef.mean(axis=0) if coef.ndim == 2 and isinstance(penalty, Box) else coef


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: type(penalty).__name__)
@pytest.mark.parametrize(
    "family", [*FAMILIES, *[pytest.param(family, marks=pytest.mark.slow) for family in MORE]], ids=lambda family: family.name
)
@pytest.mark.parametrize("variant", [*[pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS[:2]], "batched"])
def test_the_optimum_of_proximal_gradient(variant: str, family: Family, penalty: Penalty) -> None:
    X, y = labelled(family)
    order = np.argsort(y, kind="stable")  # no chunk can fit alone
    X, y, penalty = X[order], y[order], of(penalty, family)
    wanted = fit(X, y, family=family, penalty=penalty, solver="proximal", tol=1e-10, max_iter=20_000)
    solver = ConsensusADMM(variant)
    found = fit(*chunked(X, y, (60, 0, 1, 139, 150, 50)), family=family, penalty=penalty, solver=solver, tol=1e-8)
    assert found.status is Status.CONVERGED, found
    assert found.certificate <= 1e-8
    np.testing.assert_allclose(settled(found.coef, penalty), settled(wanted.coef, penalty), atol=1e-6)
    np.testing.assert_allclose(found.intercept, wanted.intercept, atol=1e-6)
    if family.name == "scaled huber":
        assert found.beta[-1] == pytest.approx(wanted.beta[-1], abs=1e-6)


@pytest.mark.parametrize("penalty", [L2(0.01), L1(1e-4), L1(0.02)], ids=repr)
def test_what_classes_have_in_common_is_for_the_penalty(penalty: Penalty) -> None:
    """It takes no more rounds for a weak one, though chunks say nothing about it."""
    X, y = labelled(Multinomial(4), 1_200)
    for intercept in (True, False):
        options: dict[str, Any] = {"family": Multinomial(4), "penalty": penalty, "intercept": intercept}
        wanted = fit(X, y, tol=1e-10, **options)
        start = np.full(wanted.beta.shape, 0.7)
        found = fit(*chunked(X, y, (200,) * 6), solver=ConsensusADMM("synchronous"), start=start, tol=1e-8, **options)
        assert found.ok, found
        assert len(found.record.residuals) < 150
        off = found.coef - wanted.coef  # there are as many classes above as below a middle one, and nothing says where that is
        np.testing.assert_allclose(off - off.mean(axis=0), 0, atol=1e-6)
        assert found.objective == pytest.approx(wanted.objective, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("family", MORE, ids=lambda family: family.name)
@pytest.mark.parametrize("sparse", [False, True])
def test_weights_units_and_csr_of_other_families(family: Family, sparse: bool, intercept: bool) -> None:
    X, y = labelled(family)
    X = X * (np.abs(X) > 0.5) * [1.0, 10.0, 0.1, 1.0, 3.0] + ([0.0, 3.0, 0.0, 0.0, 0.0] if not sparse else 0.0)
    rng = np.random.default_rng(4)
    weights = np.where(np.arange(len(y)) < 100, 0, rng.integers(0, 3, len(y)))
    how: dict[str, Any] = {"family": family, "penalty": L1(0.01), "intercept": intercept, "standardize": True}
    how |= {"weights": weights} if isinstance(family, Multinomial) else {"weights": weights, "offset": rng.random(len(y))}
    wanted = fit(X, y, tol=1e-10, **how)
    given_X, given_y = chunked(X, y, (100, 120, 180))
    if sparse:
        given_X = given_X.map_blocks(scipy.sparse.csr_matrix, meta=scipy.sparse.csr_matrix((0, 0)))
    found = fit(given_X, given_y, solver="admm-async", tol=1e-9, **how)
    assert found.ok, found
    np.testing.assert_allclose(found.coef, wanted.coef, atol=1e-6)
    np.testing.assert_allclose(found.intercept, wanted.intercept, atol=1e-6)


def test_many_coefficients_make_no_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    """What chunks learn from their gradients serves as well."""
    monkeypatch.setattr("solvers.consensus.problem._MANY", 3)
    made: list[bool] = []
    evaluate = Rows.__call__

    def watched(self: Rows, beta: np.ndarray, *, hessian: bool = False, least: float = 0.0) -> Any:
        made.append(hessian)
        return evaluate(self, beta, hessian=hessian, least=least)

    monkeypatch.setattr(Rows, "__call__", watched)
    X, y = problem(families.Poisson())
    order = np.argsort(y)
    found = fit(*chunked(X[order], y[order], (50,) * 8), family="poisson", penalty=L1(0.01), solver="admm-async", tol=1e-8)
    assert found.ok
    assert made
    assert not any(made)
    np.testing.assert_allclose(found.beta, fit(X, y, family="poisson", penalty=L1(0.01), tol=1e-10).beta, atol=1e-6)


@pytest.mark.slow
def test_a_scale_that_chunks_would_make_0() -> None:
    """In chunks of few rows all residuals can be 0; and where all rows can, what comes back says what it is."""
    X, y = problem(families.Huber())
    wanted = fit(X, y, family=ScaledHuber(), tol=1e-10)
    found = fit(*chunked(X, y, (4,) * 100), family=ScaledHuber(), solver="admm-async", tol=1e-8)
    assert found.ok
    np.testing.assert_allclose(found.beta, wanted.beta, atol=1e-6)
    exact = X @ [1.0, 2.0, 3.0, 0.0, -1.0]
    found = fit(*chunked(X, exact, (100,) * 4), family=ScaledHuber(), solver="admm-async", max_iter=30)
    if found.ok:
        np.testing.assert_allclose(found.coef, [1.0, 2.0, 3.0, 0.0, -1.0], atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("options", [{}, {"intercept": False}, {"standardize": True}], ids=str)
@pytest.mark.parametrize("sparse", [False, True])
def test_weights_offset_and_csr(variant: str, options: Any, sparse: bool) -> None:
    X, y = problem(families.Poisson())
    X = X * (np.abs(X) > 0.5) * [1.0, 10.0, 0.1, 1.0, 3.0]
    rng = np.random.default_rng(4)
    how: dict[str, Any] = {"family": "poisson", "penalty": L1(0.01), **options}
    how |= {"offset": 0.3 * rng.random(len(y)), "weights": np.where(np.arange(len(y)) < 100, 0, rng.integers(0, 3, len(y)))}
    wanted = fit(X, y, tol=1e-10, **how)
    given_X, given_y = chunked(X, y, (100, 120, 180))
    if sparse:
        given_X = given_X.map_blocks(scipy.sparse.csr_matrix, meta=scipy.sparse.csr_matrix((0, 0)))
    found = fit(given_X, given_y, solver=ConsensusADMM(variant), tol=1e-9, **how)
    assert found.ok, found
    np.testing.assert_allclose(found.beta, wanted.beta, atol=1e-6)


def test_chunks_that_do_not_fit_are_loaded_when_they_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teams, "_HELD", 0)
    X, y = problem(families.Logistic())
    arrays = chunked(X, y, (200, 200))
    found = fit(*arrays, family="logistic", solver="admm-async", tol=1e-8)
    np.testing.assert_allclose(found.beta, fit(X, y, family="logistic", tol=1e-10).beta, atol=1e-6)


def test_without_threads_a_run_repeats() -> None:
    X, y = problem(families.Huber())
    with dask.config.set(scheduler="sync"):
        one, other = [fit(*chunked(X, y, (100,) * 4), family="huber", solver="admm-async") for _ in range(2)]
    np.testing.assert_array_equal(one.beta, other.beta)
    assert one.record.residuals == other.record.residuals


def test_a_leg_that_took_all_its_rounds_is_followed_by_a_fresh_start() -> None:
    """Updates are counted on, and the log replays all the same."""
    X, y = problem(families.Gamma())
    order = np.argsort(y)
    solver = ConsensusADMM(rounds=3, log=True)
    found = fit(*chunked(X[order], y[order], (50,) * 8), family="gamma", solver=solver, tol=1e-8)
    assert found.ok
    record = found.record
    assert sum(begun is not None for begun, _, _ in record.log.legs) > 1
    assert [residual.update for residual in record.residuals] == list(range(1, len(record.residuals) + 1))
    np.testing.assert_array_equal(record.log.frame.original(replay(record.log).z), found.beta)
    np.testing.assert_allclose(found.beta, fit(X, y, family="gamma", tol=1e-10).beta, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_log_replays_bit_for_bit(variant: str) -> None:
    X, y = problem(families.Logistic())
    solver = ConsensusADMM(variant, log=True, rho=30.0)
    found = fit(*chunked(X, y, (50,) * 8), family="logistic", penalty=L1(0.01), solver=solver, tol=1e-8)
    log = pickle.loads(pickle.dumps(found.record.log))
    core = replay(log)
    np.testing.assert_array_equal(log.frame.original(core.z), found.beta)
    assert core.residuals == found.record.residuals
    assert core.rho != 30.0
    assert fit(X, y, solver="admm-async").record.log is None


# -- what goes wrong, and what is told ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "lazy"}, "variant='lazy'"),
        ({"relaxation": 2.0}, "relaxation"),
        ({"rho": 0.0}, "rho"),
        ({"staleness": 0}, "staleness"),
        ({"in_flight": 0}, "in_flight"),
        ({"abstol": -1.0}, "abstol"),
        ({"variant": "synchronous", "staleness": 5}, "wait for all"),
    ],
)
def test_what_cannot_be_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConsensusADMM(**options)


def test_who_sums_up_otherwise_is_refused() -> None:
    class Own(Objective):
        """An objective that does not say how its rows go."""

    X, y = problem(families.Logistic())
    own = Own(prepare(X, y, families.Logistic()), families.Logistic(), Unpenalised())
    with pytest.raises(ValueError, match="use ProximalNewton"):
        solve_objective(own, "admm-async")


def test_stopping_keeps_the_best_so_far() -> None:
    X, y = problem(families.Logistic())
    seen: list[Any] = []

    def watch(found: Any) -> bool:
        seen.append(found)
        return len(seen) == 20

    found = fit(*chunked(X, y, (50,) * 8), family="logistic", solver=ConsensusADMM(watch=watch), tol=1e-9)
    assert found.status is Status.INTERRUPTED
    assert found.certificate < found.trace[0].certificate / 10
    assert [residuals.update for residuals in seen[:20]] == list(range(1, 21))
    more = fit(X, y, family="logistic", solver="admm-async", start=found.beta, tol=1e-9)
    assert more.ok


def test_ctrl_c_while_all_wait(solved_by: Any) -> None:
    """The signal comes while the caller waits for a chunk."""
    X, y = problem(families.Logistic())
    main, calls, lock = threading.main_thread().ident, [0], threading.Lock()

    def press(*asked: Any) -> Any:
        with lock:
            calls[0] += 1
            if calls[0] == 25:
                assert main is not None
                signal.pthread_kill(main, signal.SIGINT)
                time.sleep(0.05)
        return solve(*asked)

    solved_by(press)
    found = fit(*chunked(X, y, (50,) * 8), family="logistic", solver="admm-async", tol=1e-9)
    assert found.status is Status.INTERRUPTED
    assert found.certificate < found.trace[0].certificate
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("consensus")]


def test_an_error_in_a_chunk_is_raised(solved_by: Any) -> None:
    def fail(*asked: Any) -> Any:
        raise OSError("the disk is gone")

    solved_by(fail)
    X, y = problem(families.Logistic())
    with pytest.raises(OSError, match="the disk is gone"):
        fit(*chunked(X, y, (200, 200)), family="logistic", solver="admm-async")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("consensus")]


def test_a_chunk_that_is_slow_does_not_stop_the_others(solved_by: Any) -> None:
    def slow(problem: Problem, ask: Ask, frame: Frame) -> Any:
        if ask.chunk == 0:
            time.sleep(0.02)
        return solve(problem, ask, frame)

    solved_by(slow)
    X, y = problem(families.Logistic())
    with dask.config.set(num_workers=3):
        found = fit(*chunked(X, y, (50,) * 8), family="logistic", solver="admm-async", tol=1e-9)
    assert found.ok
    np.testing.assert_allclose(found.beta, fit(X, y, family="logistic", tol=1e-10).beta, atol=1e-6)
    assert found.record.variant == "batched"


def test_the_record_and_its_pictures(tmp_path: Any) -> None:
    X, y = problem(families.Logistic())
    solver = ConsensusADMM(samples=3)
    found = fit(*chunked(X, y, (50,) * 8), family="logistic", penalty=L1(0.01), solver=solver, tol=1e-8)
    record = found.record
    assert len(record.seconds) == len(record.residuals) == record.residuals[-1].update
    assert record.seconds == sorted(record.seconds)
    assert {task.chunk for task in record.tasks} == set(range(8))
    assert all(task.begun <= task.ended for task in record.tasks)
    assert len(record.tasks) >= record.residuals[-1].reports
    assert len(record.objectives) >= 3
    assert min(value for _, value in record.objectives) >= found.objective - 1e-12
    np.testing.assert_array_equal(record.points[-1][1], found.beta)
    found.plot_residuals(tmp_path / "residuals.svg")
    found.plot_task_stream(tmp_path / "tasks.svg")
    assert min((tmp_path / name).stat().st_size for name in ("residuals.svg", "tasks.svg")) > 1_000
    with pytest.raises(ValueError, match="admm-async"):
        fit(X, y).plot_residuals()


def test_points_on_the_way_are_few() -> None:
    X, y = problem(families.Logistic())
    solver = ConsensusADMM("single", rounds=200, abstol=0.0, reltol=0.0)
    found = fit(*chunked(X, y, (100,) * 4), family="logistic", solver=solver, tol=0.0, max_iter=1)
    assert len(found.record.residuals) > 500
    assert 100 < len(found.record.points) <= 257


# -- on a cluster ------------------------------------------------------------------------------------------------------


def _solve_by(function: Any) -> None:
    teams.solve = function


def _slow(*asked: Any) -> Any:
    begun = time.perf_counter()
    found = solve(*asked)
    time.sleep(max(0.03, 9 * (time.perf_counter() - begun)))
    return found


def _first(client: distributed.Client) -> str:
    return str(min(client.scheduler_info()["workers"]))


def on_cluster(client: distributed.Client, chunks: int = 8) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    X, y = problem(families.Logistic(), rows=1_600)
    arrays = client.persist(list(chunked(X, y, (1_600 // chunks,) * chunks)))
    distributed.wait(arrays)
    return *arrays, X, y


def left(client: distributed.Client, before: set[str]) -> set[str]:
    """Return the futures that are left, once what was dropped is gone."""
    for _ in range(100):
        gc.collect()
        found = set(client.futures) - before
        if not found:
            break
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_on_workers(client: distributed.Client, variant: str) -> None:
    X, y, here_X, here_y = on_cluster(client)
    before = set(client.futures)
    found = fit(X, y, family="logistic", penalty=L1(0.01), solver=ConsensusADMM(variant, log=True), tol=1e-8)
    assert found.status is Status.CONVERGED, found
    wanted = fit(here_X, here_y, family="logistic", penalty=L1(0.01), tol=1e-10)
    np.testing.assert_allclose(found.beta, wanted.beta, atol=1e-6)
    np.testing.assert_array_equal(found.record.log.frame.original(replay(found.record.log).z), found.beta)
    assert {task.place for task in found.record.tasks} == set(client.scheduler_info()["workers"])
    assert not left(client, before)


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 3), st.integers(1, 3))
def test_short_chunks_of_one_place_share_a_task(seed: int, count: int, places: int, threads: int) -> None:
    """Each is asked once, at its place; a slow place has smaller tasks; and a thread never has all its chunks in one."""
    rng = np.random.default_rng(seed)
    workers: Any = object.__new__(teams._Workers)
    workers.client = type("client", (), {"nthreads": lambda self: dict.fromkeys(range(places), threads)})()
    workers.where = rng.integers(0, places, count).tolist()
    workers.seconds = [1e-3 * 10**where for where in workers.where]
    slots, z = workers.slots, np.zeros(1)
    asks = [Ask(int(chunk), z, z, z, 1.0) for chunk in rng.permutation(count)[: rng.integers(1, count + 1)]]
    lots = list(workers._lots(asks))
    assert sorted(ask.chunk for lot in lots for ask in lot) == sorted(ask.chunk for ask in asks)
    for lot in lots:
        (place,) = {workers.where[ask.chunk] for ask in lot}
        assert len(lot) <= max(1, workers.where.count(place) / (4 * threads), 0.0)
        assert len(lot) <= max(1, teams._WORTH / (1e-3 * 10**place)) + 1e-9
        assert len(lot) * threads <= slots[place]


@pytest.mark.parametrize("how", ["stop", "ctrl-c", "error"])
def test_nothing_is_left_behind(client: distributed.Client, how: str) -> None:
    X, y, *_ = on_cluster(client)
    before, count = set(client.futures), [0]

    def watch(found: Any) -> bool:
        count[0] += 1
        if how == "ctrl-c" and count[0] == 10:
            raise KeyboardInterrupt
        if how == "error" and count[0] == 10:
            raise RuntimeError("watched enough")
        return count[0] == 10

    def fitted() -> Any:
        return fit(X, y, family="logistic", solver=ConsensusADMM(watch=watch), tol=1e-10)

    if how == "error":
        with pytest.raises(RuntimeError, match="watched enough"):
            fitted()
    else:
        found = fitted()
        assert found.status is Status.INTERRUPTED
        assert found.certificate < found.trace[0].certificate
    assert not left(client, before)


@pytest.mark.slow
def test_a_worker_that_is_slow_does_not_stop_the_other(client: distributed.Client) -> None:
    X, y, here_X, here_y = on_cluster(client)
    slow = _first(client)
    client.run(_solve_by, _slow, workers=[slow])
    try:
        found = fit(X, y, family="logistic", solver="admm-async", tol=1e-8)
    finally:
        client.run(_solve_by, solve)
    assert found.ok
    np.testing.assert_allclose(found.beta, fit(here_X, here_y, family="logistic", tol=1e-10).beta, atol=1e-6)
    served = [sum((task.place == slow) == is_slow for task in found.record.tasks) for is_slow in (True, False)]
    assert 0 < 2 * served[0] < served[1]


@pytest.mark.slow
def test_a_worker_that_dies_takes_nothing_with_it() -> None:
    """Chunks' states are with the client: the log of the run, which knows of no death, replays to the same."""
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **QUIET) as cluster,
        distributed.Client(cluster) as client,
    ):
        X, y, here_X, here_y = on_cluster(client)
        killed: list[int] = []
        pids = client.run(os.getpid)

        def watch(found: Any) -> None:
            if found.update == 12:
                killed.append(pids[_first(client)])
                os.kill(killed[0], signal.SIGKILL)

        solver = ConsensusADMM(watch=watch, log=True)
        found = fit(X, y, family="logistic", solver=solver, tol=1e-8)
        assert killed
        assert found.status is Status.CONVERGED, found
        np.testing.assert_allclose(found.beta, fit(here_X, here_y, family="logistic", tol=1e-10).beta, atol=1e-6)
        np.testing.assert_array_equal(found.record.log.frame.original(replay(found.record.log).z), found.beta)
        residuals = [residual.primal for residual in found.record.residuals]
        assert max(residuals[12:]) < 2 * max(residuals[:12])
        assert da.Array is type(X)
