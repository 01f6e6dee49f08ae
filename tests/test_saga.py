"""SAGA: the optimum that other solvers find, the same from any chunks and on any scheduler, and each row once an epoch."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import dask
import dask.array as da
import distributed
import numba
import numpy as np
import pytest
import scipy.sparse
from conftest import QUIET
from hypothesis import given
from hypothesis import strategies as st
from test_solvers import FAMILIES, PENALTIES, chunked, problem

import graphopt as go
from graphopt.chunks.executor import executor_of, put
from solvers import L1, L2, SAGA, Box, ElasticNet, Family, GroupL1, Penalty, Point, Status, Unpenalised, families, fit, saga
from solvers.stochastic.kernels import _lazy, powers
from solvers.stochastic.legs import lanes_of
from solvers.stochastic.visits import permutation, usual, visits

CHUNKS = (100, 0, 220, 1, 79)
TAKEN = [penalty for penalty in PENALTIES if not isinstance(penalty, GroupL1)]


def sparse(X: Any, rows: Any) -> da.Array:
    return da.from_array(X, chunks=(rows, -1)).map_blocks(scipy.sparse.csr_matrix, meta=scipy.sparse.csr_matrix((0, 0)))


def documents(blocks: int = 10, rows: int = 5_000, features: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression on uniform features, without an intercept."""
    rng = np.random.default_rng(42)
    X = rng.random((blocks * rows, features))
    return X, (rng.random(len(X)) < 1 / (1 + np.exp(-X @ ((rng.random(features) - 0.5) * 3)))).astype(float)


# -- the same optimum --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [SAGA(), SAGA(refresh=False, visit=20), SAGA(lanes=2, visit=30)], ids=str)
@pytest.mark.parametrize("penalty", TAKEN, ids=lambda penalty: type(penalty).__name__)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_optimum_that_newton_finds(family: Family, penalty: Penalty, solver: SAGA) -> None:
    X, y = problem(family)
    wanted = fit(X, y, family=family, penalty=penalty, tol=1e-10)
    found = fit(*chunked(X, y, CHUNKS), family=family, penalty=penalty, solver=solver, tol=1e-8, max_iter=2_000)
    assert found.status is Status.CONVERGED, found
    np.testing.assert_allclose(found.beta, wanted.beta, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"refresh": False, "visit": 64}], ids=str)
@pytest.mark.parametrize("penalty", [*TAKEN, ElasticNet(1e-3, 0.5, positive=True)], ids=str)
def test_csr_as_dense(penalty: Penalty, options: Any) -> None:
    """Entries that are rare, one beyond the table of powers and one in no row; chunks of either kind, weights and offset."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((9_000, 6)) * (rng.random((9_000, 6)) < [0.5, 0.1, 0.01, 1.0, 0.0, 0.0])
    X[[0, 8_999], 4] = 1.0
    y = (X @ [1.0, -2.0, 0.5, 0.0, 3.0, 1.0] + rng.logistic(size=9_000) > 0).astype(float)
    how: dict[str, Any] = {"family": "logistic", "penalty": penalty, "tol": 1e-12, "max_iter": 4}
    how |= {"weights": rng.integers(0, 3, 9_000), "offset": 0.1 * rng.random(9_000), "solver": SAGA(**options)}
    dense = fit(da.from_array(X, chunks=(4_500, -1)), y, **how)
    lazy = fit(sparse(X, 4_500), y, **how)
    np.testing.assert_allclose(lazy.beta, dense.beta, rtol=1e-9, atol=1e-12)
    mixed = sparse(X, 4_500).map_blocks(lambda block: block if block[0, 4] else block.toarray(), meta=sparse(X, 4_500)._meta)
    np.testing.assert_allclose(fit(mixed, y, **how).beta, dense.beta, rtol=1e-9, atol=1e-12)


def test_entries_of_csr_that_are_given_in_parts() -> None:
    X, y = problem(families.Logistic())
    parts = scipy.sparse.csr_matrix(X)
    parts = scipy.sparse.csr_matrix(
        (np.repeat(parts.data / 2, 2), np.repeat(parts.indices, 2), 2 * parts.indptr), shape=parts.shape
    )
    assert not parts.has_canonical_format
    found = fit(parts, y, family="logistic", penalty=L1(0.01), solver="saga", tol=1e-8)
    np.testing.assert_allclose(found.beta, fit(X, y, family="logistic", penalty=L1(0.01), tol=1e-10).beta, atol=1e-6)
    assert parts.nnz == 2 * X.size


@given(
    st.floats(-3, 3),
    st.floats(-0.1, 0.1),
    st.sampled_from([0.0, 0.01, 0.05]),
    st.sampled_from([(-math.inf, math.inf), (0.0, math.inf), (-0.5, 1.0)]),
    st.sampled_from([0.0, 1e-6, 0.02]),
    st.integers(0, 9_000),
)
def test_many_steps_at_once(w: float, drift: float, lasso: float, bounds: Any, shrink: float, m: int) -> None:
    low, high = bounds
    w = expected = min(max(w, low), high)
    for _ in range(m):
        z = expected - drift
        expected = min(max(math.copysign(max(abs(z) - lasso, 0.0), z) / (1.0 + shrink), low), high)
    found = _lazy()[0](w, drift, lasso, low, high, powers(shrink), shrink, m)
    assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-10)


# -- the order of visits -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 2**40), st.integers(0, 9), st.integers(0, 60))
def test_each_row_once_an_epoch(sizes: list[int], seed: int, epoch: int, length: int) -> None:
    seen: list[tuple[int, int]] = []
    for visit in visits(sizes, seed, epoch, length):
        rows = permutation(seed, epoch, visit.chunk, sizes[visit.chunk])[visit.start : visit.stop]
        assert 0 < len(rows) <= (length or 50)
        seen += [(visit.chunk, int(row)) for row in rows]
    assert sorted(seen) == [(chunk, row) for chunk, rows in enumerate(sizes) for row in range(rows)]
    assert visits(sizes, seed, epoch, length) == visits(sizes, seed, epoch, length)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 2**40), st.integers(1, 9))
def test_chunks_take_turns(sizes: list[int], seed: int, length: int) -> None:
    """After any part of an epoch, as large a part of each chunk was visited, to within two visits."""
    done, order = [0] * len(sizes), visits(sizes, seed, 1, length)
    counts = [sum(visit.chunk == chunk for visit in order) for chunk in range(len(sizes))]
    for visit in order:
        done[visit.chunk] += 1
        ends = [(done[i] - 1) / counts[i] for i in range(len(sizes))], [(done[i] + 1) / counts[i] for i in range(len(sizes))]
        assert max(ends[0]) <= min(ends[1])
    assert permutation(seed, 1, 0, 50).tolist() != permutation(seed, 2, 0, 50).tolist()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 10))
def test_lanes_are_runs_of_chunks(sizes: list[int], count: int) -> None:
    lanes = lanes_of(sizes, count)
    assert lanes == sorted(lanes)
    assert 0 <= lanes[0] <= lanes[-1] < count


def test_how_long_visits_are() -> None:
    assert usual([10, 200]) == 1_000
    assert usual([80_000, 10]) == 10_000


# -- convergence -------------------------------------------------------------------------------------------------------


def gaps(solver: SAGA, X: Any, y: Any, epochs: int = 20) -> list[float]:
    least = fit(X, y, family="logistic", intercept=False, tol=1e-12).objective
    found = fit(X, y, family="logistic", intercept=False, solver=solver, tol=1e-14, max_iter=epochs)
    return [point.objective - least for point in found.trace]


def test_the_documents_demonstration() -> None:
    """Ten blocks of 5 000 rows, whole blocks in their order, remembered gradients and a running average, a callback a pass."""
    X, y = documents()
    told: list[Point] = []
    document = SAGA(visit=0, refresh=False, pace=0.3)
    options: dict[str, Any] = {"solver": document, "max_iter": 4, "tol": 0, "callback": lambda point, beta: told.append(point)}
    found = fit(da.from_array(X, chunks=(5_000, -1)), y, family="logistic", intercept=False, **options)
    assert [point.iteration for point in told] == [1, 2, 3, 4]
    assert found.status is Status.ITERATIONS
    assert found.objective < 0.9 * found.trace[0].objective


def test_the_documents_steps_in_plain_python() -> None:
    X, y = documents(blocks=4, rows=50)
    document = SAGA(visit=0, refresh=False, pace=0.3)
    found = fit(da.from_array(X, chunks=(50, -1)), y, family="logistic", intercept=False, solver=document, max_iter=2, tol=0)
    w, average, memory = np.zeros(15), X.T @ (0.5 - y) / len(y), 0.5 - y
    step = 0.3 / (0.25 * (X**2).sum(axis=1).max())
    for epoch in (1, 2):
        for block in range(4):
            for row in 50 * block + permutation(0, epoch, block, 50):
                slope = 1 / (1 + np.exp(-X[row] @ w)) - y[row]
                change, memory[row] = slope - memory[row], slope
                w = w - step * (change * X[row] + average)
                average = average + change * X[row] / len(y)
    np.testing.assert_allclose(found.trace[2].objective, (np.logaddexp(0, X @ w) - y * (X @ w)).mean(), rtol=1e-12)


@pytest.mark.slow
def test_visits_by_turns_come_as_near_as_shuffling_everything() -> None:
    X, y = documents()
    shuffled = gaps(SAGA(refresh=False), X, y)
    blocks = da.from_array(X, chunks=(5_000, -1))
    assert gaps(SAGA(), blocks, y)[-1] <= max(10 * shuffled[-1], 1e-15)
    assert gaps(SAGA(lanes=2), blocks, y)[-1] <= max(10 * shuffled[-1], 1e-15)
    assert gaps(SAGA(visit=0, refresh=False), blocks, y)[-1] > 1e-3


@pytest.mark.parametrize("solver", [SAGA(), SAGA(lanes=3)], ids=str)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_chunks_that_differ(family: Family, solver: SAGA) -> None:
    """Rows in order of their labels: what one chunk says of the rest is wrong."""
    X, y = problem(family)
    order = np.argsort(y)
    found = fit(*chunked(X[order], y[order], CHUNKS), family=family, penalty=L2(0.01), solver=solver, tol=1e-7, max_iter=2_000)
    assert found.ok
    np.testing.assert_allclose(found.beta, fit(X, y, family=family, penalty=L2(0.01), tol=1e-10).beta, atol=1e-5)
    values = [point.objective for point in found.trace]
    assert all(after <= before + 1e-11 for before, after in pairwise(values))


# -- the same on any scheduler -----------------------------------------------------------------------------------------

VARIANTS = [SAGA(seed=3, visit=40), SAGA(seed=3, visit=40, refresh=False), SAGA(seed=3, lanes=2)]


@pytest.mark.parametrize("solver", VARIANTS, ids=str)
@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.slow
def test_a_seed_says_it_all(client: distributed.Client, form: str, solver: SAGA) -> None:
    X, y = problem(families.Poisson(), rows=1_200)
    rows = (500, 300, 400)
    how: dict[str, Any] = {"family": "poisson", "penalty": L1(0.01), "solver": solver, "tol": 1e-13, "max_iter": 4}
    arrays = (sparse(X, rows), da.from_array(y, chunks=(rows,))) if form == "csr" else chunked(X, y, rows)
    with dask.config.set(scheduler="sync"):
        wanted = fit(*arrays, **how)
    with dask.config.set(scheduler="threads"):
        np.testing.assert_array_equal(fit(*arrays, **how).beta, wanted.beta)
    with client.as_current():
        there = fit(*client.persist(list(arrays)), **how)
    np.testing.assert_allclose(there.beta, wanted.beta, rtol=1e-9, atol=1e-12)
    assert there.iterations == wanted.iterations == 4
    other = SAGA(**{**vars(solver), "seed": 4})
    with dask.config.set(scheduler="sync"):
        assert np.abs(fit(*arrays, **{**how, "solver": other, "max_iter": 1}).beta - wanted.beta).max() > 1e-9


def test_chunks_that_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than is to be held at a time: a chunk is loaded for its visit, and that is the whole chunk."""
    X, y = problem(families.Logistic())
    monkeypatch.setattr(saga, "_HELD", 0)
    asked: list[int] = []

    def load(block: np.ndarray) -> np.ndarray:
        asked.append(len(block))
        return block

    rows = da.from_array(X, chunks=(100, -1)).map_blocks(load, meta=X[:0])
    asked.clear()
    with dask.config.set(scheduler="sync"):
        found = fit(rows, y, family="logistic", solver="saga", tol=1e-12, max_iter=3)
    assert found.passes == 8  # the start, the curvature, and an epoch and its certificate three times
    assert len(asked) == found.passes * 4
    for solver in (SAGA(), SAGA(refresh=False)):
        found = fit(rows, y, family="logistic", solver=solver, tol=1e-7, max_iter=500)
        np.testing.assert_allclose(found.beta, fit(X, y, family="logistic").beta, atol=1e-5)


def test_nothing_that_is_given_is_changed() -> None:
    X, y = problem(families.Normal())
    arrays = [da.from_array(part, chunks=100).persist() for part in (X, y)]
    copies = [array.compute().copy() for array in arrays]
    fit(*arrays, solver=SAGA(refresh=False), max_iter=3)
    fit(*arrays, solver=SAGA(), max_iter=3)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_single_precision_and_other_layouts() -> None:
    X, y = problem(families.Logistic())
    wanted = fit(X, y, family="logistic", penalty=L2(0.01), tol=1e-10).beta
    for data, off in ((X.astype(np.float32), 1e-3), (np.asfortranarray(X), 1e-6), (np.repeat(X, 2, axis=1)[:, ::2], 1e-6)):
        found = fit(data, y, family="logistic", penalty=L2(0.01), solver="saga", tol=1e-5 if off > 1e-6 else 1e-8)
        np.testing.assert_allclose(found.beta, wanted, atol=off)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dense", "csr"])
def test_one_compilation_of_each_function_in_a_worker_and_none_after_prewarming(form: str) -> None:
    X, y = problem(families.Logistic(), rows=800)
    rows = chunked(X, y, (200,) * 4)[0] if form == "dense" else sparse(X, 200)
    functions = 2 if form == "dense" else 4  # the derivative and the kernel; what it calls for rows without an entry
    for warm in (False, True):
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, **QUIET) as cluster,
            distributed.Client(cluster) as there,
        ):
            go.numba_cache.install(there)
            try:
                # Half of the chunks to each: a worker that has none may never walk, and compile nothing.
                arrays = put(executor_of(fit), [rows, da.from_array(y, chunks=200)])
                if warm:
                    assert SAGA().prewarm(there, rows.blocks[0].compute(scheduler="sync")[:3], "logistic") >= functions
                before = go.numba_cache.info(there).total["compilations"]
                for seed in range(3):
                    fit(*arrays, family="logistic", solver=SAGA(seed=seed, visit=100), max_iter=2, tol=1e-13)
                assert go.numba_cache.info(there).total["compilations"] - before == (0 if warm else 2 * functions)
            finally:
                go.numba_cache.uninstall(there)


# -- clear words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": SAGA(), "penalty": GroupL1(1.0, (0, 0, 1, 1, 2))}, "ties coefficients together; use Proximal or ADMM"),
        ({"solver": SAGA(), "family": "own"}, r"the own family has no derivative for one row; give SAGA\(derivative=\)"),
    ],
)
def test_what_it_refuses(options: Any, message: str) -> None:
    class Own(families.Normal):
        name = "own"

    X, y = problem(families.Normal())
    options = {**options, "family": Own() if options.get("family") == "own" else "normal"}
    with pytest.raises(ValueError, match=message):
        fit(X, y, **options)


@pytest.mark.parametrize(
    "options",
    [{"seed": -1}, {"visit": -1}, {"pace": 0.0}, {"pace": math.inf}, {"lanes": 0}, {"lanes": 2, "refresh": False}],
    ids=str,
)
def test_what_cannot_be(options: Any) -> None:
    with pytest.raises(ValueError, match=r"SAGA\("):
        SAGA(**options)


@pytest.mark.slow
def test_a_derivative_of_ones_own() -> None:
    class Cubic(families.Family):
        name = "log cosh"
        labels = "finite numbers"
        bound = 1.0

        def losses(self, eta: Any, y: Any) -> Any:
            return np.logaddexp(eta - y, y - eta)

        def first(self, eta: Any, y: Any) -> Any:
            return np.tanh(eta - y)

        def second(self, eta: Any, y: Any) -> Any:
            return 1 - np.tanh(eta - y) ** 2

    @numba.njit
    def slope(eta: float, y: float) -> float:
        return math.tanh(eta - y)

    @numba.njit
    def wrong(eta: float, y: float) -> float:
        return math.tanh(eta - y) + 0.1

    X, y = problem(families.Normal())
    wanted = fit(X, y, family=Cubic(), solver="newton", tol=1e-10)
    found = fit(*chunked(X, y, CHUNKS), family=Cubic(), solver=SAGA(derivative=slope), tol=1e-8)
    np.testing.assert_allclose(found.beta, wanted.beta, atol=1e-6)
    assert fit(X, y, family=Cubic(), solver=SAGA(derivative=wrong, refresh=False), tol=1e-8, max_iter=50).certificate > 1e-3


def test_without_penalty_and_intercept() -> None:
    X, y = problem(families.Normal())
    found = fit(X, y, intercept=False, penalty=Unpenalised(), solver="saga", tol=1e-9)
    np.testing.assert_allclose(found.coef, np.linalg.lstsq(X, y, rcond=None)[0], atol=1e-7)
    assert found.intercept == 0.0


def test_bounds() -> None:
    X, y = problem(families.Normal())
    found = fit(X, y, penalty=Box(-0.1, 0.04), solver="saga", tol=1e-9)
    assert (found.coef.min(), found.coef.max()) == (-0.1, 0.04)


def test_standardised_features_are_refused() -> None:
    """Rows are walked as they are: steps in other units would lead elsewhere."""
    rng = np.random.default_rng(0)
    X = rng.random((100, 3)) * [1.0, 10.0, 100.0]
    with pytest.raises(ValueError, match="scale X before"):
        fit(X, X @ [1.0, 2.0, 3.0], solver="saga", standardize=True)
