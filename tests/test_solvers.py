"""Solvers: certified optima for every method, family and penalty, the same on any chunks, and clear words elsewhere."""

from __future__ import annotations

import math
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import distributed
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets, linear_model

from solvers import (
    L1,
    L2,
    Box,
    ElasticNet,
    Family,
    GroupL1,
    Huber,
    Multinomial,
    Penalty,
    Status,
    Unpenalised,
    families,
    fit,
    kernels,
)
from solvers.data import prepare
from solvers.fit import SOLVERS
from solvers.objective import Objective
from solvers.rows import Rows

FAMILIES = list(families.FAMILIES.values())
ROWS, FEATURES = 400, 5
PENALTIES: list[Penalty] = [
    Unpenalised(),
    L2(0.1),
    L1(0.02),
    ElasticNet(0.05, 0.3),
    GroupL1(0.02, (0, 0, 1, 1, 2)),
    Box(-0.2, 0.3),
]
KINKED = {"proximal", "proximal-newton"}  # solvers for penalties that are not smooth


def problem(family: Family, rows: int = ROWS, features: int = FEATURES, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, features))
    mean = family.mean(X @ (rng.random(features) - 0.5) + 0.3)
    if family.name == "logistic":
        return X, (rng.random(rows) < mean).astype(float)
    if family.name == "poisson":
        return X, rng.poisson(mean).astype(float)
    if family.name == "gamma":
        return X, rng.gamma(2.0, mean / 2.0)
    return X, mean + rng.standard_t(3, rows)


def chunked(X: Any, y: Any, rows: tuple[int, ...]) -> tuple[da.Array, da.Array]:
    return da.from_array(X, chunks=(rows, -1)), da.from_array(y, chunks=(rows,))


def accepted(solver: str, penalty: Penalty) -> bool:
    known = {"penalty": penalty, "plain": True, "rows": Rows, "floor": -math.inf, "units": None, "family": families.Normal()}
    return SOLVERS[solver].refusal(type("of", (), known)()) is None  # type: ignore[arg-type]


def objective(family: Family, penalty: Penalty, X: Any, y: Any, beta: np.ndarray, weights: Any = 1.0) -> float:
    """The same function in plain NumPy."""
    eta, s = X @ beta[:-1] + beta[-1], np.broadcast_to(weights, y.shape)
    loss = (s * family.losses(eta, y)).sum() / s.sum()
    return float(loss + penalty.value(beta[:-1]) + 0.5 * penalty.ridge * (beta[:-1] ** 2).sum())


# -- families and penalties --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_derivatives(family: Family) -> None:
    _, y = problem(family)
    eta = np.random.default_rng(1).normal(0, 2, ROWS)
    eta = eta[np.abs(np.abs(eta - y) - 1.35) > 1e-3] if family.name == "huber" else eta
    y, h = y[: len(eta)], 1e-5
    if family.name == "huber":
        near = np.abs(np.abs(eta - y) - 1.35) > 1e-3
        eta, y = eta[near], y[near]
    first = (family.losses(eta + h, y) - family.losses(eta - h, y)) / (2 * h)
    second = (family.first(eta + h, y) - family.first(eta - h, y)) / (2 * h)
    np.testing.assert_allclose(family.first(eta, y), first, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(family.second(eta, y), second, rtol=1e-5, atol=1e-6)
    assert (family.second(eta, y) <= family.bound + 1e-12).all()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("mean", [0.2, 0.7])
def test_link_undoes_mean(family: Family, mean: float) -> None:
    assert math.isclose(family.mean(family.link(mean)), mean)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(PENALTIES), st.integers(0, 2**31), st.floats(0.01, 10))
def test_a_proximal_operator_is_what_it_says(penalty: Penalty, seed: int, step: float) -> None:
    """No other point near it has a smaller ``step·value(x) + |x - z|²/2``; elastic net returns its input nowhere but at 0."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1, FEATURES)
    x = penalty.prox(z, step)
    least = step * penalty.value(x) + 0.5 * ((x - z) ** 2).sum()
    for size in (1e-4, 1e-2, 1.0):
        other = x + size * rng.normal(0, 1, FEATURES)
        assert step * penalty.value(other) + 0.5 * ((other - z) ** 2).sum() >= least - 1e-12
    if not penalty.smooth and not isinstance(penalty, Box):
        assert (x != z).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: L2(-1.0),
        lambda: L1(math.nan),
        lambda: ElasticNet(1.0, 1.5),
        lambda: GroupL1(1.0, (0, 2)),
        lambda: Box(2.0, 1.0),
        lambda: Huber(0.0),
    ],
)
def test_what_cannot_be_is_refused(make: Any) -> None:
    with pytest.raises(ValueError):
        make()


# -- certified optima --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: type(penalty).__name__)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_finds_the_optimum(solver: str, family: Family, penalty: Penalty) -> None:
    X, y = problem(family)
    if not accepted(solver, penalty):
        with pytest.raises(ValueError, match=r"use (Proximal|ADMM)"):
            fit(*chunked(X, y, (100, 220, 80)), family=family, penalty=penalty, solver=solver)
        return
    found = fit(*chunked(X, y, (100, 220, 80)), family=family, penalty=penalty, solver=solver, tol=1e-7, max_iter=3000)
    assert found.status is Status.CONVERGED, found
    assert found.certificate <= 1e-7
    beta = np.append(found.coef, found.intercept)
    least = objective(family, penalty, X, y, beta)
    assert math.isclose(found.objective, least, rel_tol=1e-10)
    rng = np.random.default_rng(2)
    for size in (1e-3, 1e-1):
        for _ in range(20):
            other = beta + size * rng.normal(0, 1, FEATURES + 1)
            assert objective(family, penalty, X, y, other) >= least - 1e-12
    if isinstance(penalty, L1) and family.name == "logistic":
        assert (found.coef == 0).any()
    assert [point.iteration for point in found.trace] == list(range(found.iterations + 1))


# -- the same on any data ----------------------------------------------------------------------------------------------


def forms(X: np.ndarray, y: np.ndarray) -> dict[str, tuple[Any, Any]]:
    rows = (100, 1, 0, 219, 80)
    sparse = da.from_array(X, chunks=(rows, -1)).map_blocks(scipy.sparse.csr_matrix, meta=scipy.sparse.csr_matrix((0, 0)))
    names = [f"x{i}" for i in range(FEATURES)]
    frame = dd.from_pandas(pd.DataFrame(X, columns=names).assign(y=y), npartitions=3)
    return {
        "numpy": (X, y),
        "fortran": (np.asfortranarray(X), y),
        "lists": (X.tolist(), y.tolist()),
        "pandas": (pd.DataFrame(X, columns=names), pd.Series(y)),
        "dask dataframe": (frame[names], frame["y"]),
        "uneven chunks": chunked(X, y, rows),
        "other chunks of y": (da.from_array(X, chunks=(rows, -1)), da.from_array(y, chunks=150)),
        "columns in chunks": (da.from_array(X, chunks=(150, 2)), y),
        "unknown chunks": tuple(array[array[:, 0] > -99] for array in [da.from_array(np.c_[X, y], chunks=(150, -1))]) * 2,
        "csr": (scipy.sparse.csr_matrix(X), y),
        "chunks of csr": (sparse, da.from_array(y, chunks=(rows,))),
    }


@pytest.mark.parametrize("solver", ["newton", "lbfgs", "proximal", "owlqn", "giant", "admm", "admm-async"])
@pytest.mark.parametrize("form", forms(np.zeros((ROWS, FEATURES)), np.zeros(ROWS)))
def test_the_same_from_any_data(form: str, solver: str) -> None:
    X, y = problem(families.Logistic())
    wanted = fit(X, y, family="logistic", penalty=L2(0.01), solver="newton", tol=1e-11)
    given_X, given_y = forms(X, y)[form]
    if form == "unknown chunks":
        given_X, given_y = given_X[:, :-1], given_y[:, -1]
    found = fit(given_X, given_y, family="logistic", penalty=L2(0.01), solver=solver, tol=1e-9, max_iter=2000)
    assert found.ok
    np.testing.assert_allclose(found.coef, wanted.coef, atol=1e-7)
    assert math.isclose(found.intercept, wanted.intercept, abs_tol=1e-7)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_the_same_on_any_scheduler(scheduler: str) -> None:
    X, y = problem(families.Poisson())
    with dask.config.set(scheduler=scheduler):
        found = fit(*chunked(X, y, (200, 200)), family="poisson", solver="lbfgs", tol=1e-9)
    wanted = fit(X, y, family="poisson", solver="newton", tol=1e-11)
    np.testing.assert_allclose(found.coef, wanted.coef, atol=1e-7)


def test_on_a_cluster(client: distributed.Client) -> None:
    X, y = problem(families.Logistic(), rows=2_000)
    arrays = client.persist(list(chunked(X, y, (500,) * 4)))
    for solver, penalty in (
        ("lbfgs", L2(0.01)),
        ("newton", L2(0.01)),
        ("proximal-newton", L1(0.01)),
        ("admm", L1(0.01)),
        ("giant", L2(0.01)),
    ):
        here = fit(X, y, family="logistic", penalty=penalty, solver=solver, tol=1e-9)
        with client.as_current():
            there = fit(*arrays, family="logistic", penalty=penalty, solver=solver, tol=1e-9)
        assert there.ok
        np.testing.assert_allclose(there.coef, here.coef, atol=1e-8)


def test_single_precision() -> None:
    X, y = problem(families.Logistic())
    found = fit(X.astype(np.float32), y, family="logistic", penalty=L2(0.01), tol=1e-4)
    np.testing.assert_allclose(found.coef, fit(X, y, family="logistic", penalty=L2(0.01)).coef, atol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_weights_are_repeated_rows(solver: str) -> None:
    X, y = problem(families.Poisson())
    weights = np.random.default_rng(3).integers(0, 4, ROWS)
    options: dict[str, Any] = {"family": "poisson", "solver": solver, "penalty": L2(0.1), "tol": 1e-8, "max_iter": 2000}
    some = fit(*chunked(X, y, (150, 250)), weights=weights, **options)
    all_ = fit(np.repeat(X, weights, axis=0), np.repeat(y, weights), **options)
    assert some.ok
    np.testing.assert_allclose(some.coef, all_.coef, atol=1e-6)


def test_columns_that_are_converted_stay_apart() -> None:
    """Labels of pandas and whole weights: what is made of the one must not be taken for the other."""
    X, y = problem(families.Normal())
    for seed in range(5):
        weights = np.random.default_rng(seed).integers(0, 3, ROWS)
        found = fit(pd.DataFrame(X), pd.Series(y), weights=weights, tol=1e-9)
        wanted = fit(X, y, weights=weights.astype(float), tol=1e-9)
        np.testing.assert_allclose(found.coef, wanted.coef, atol=1e-9)


@pytest.mark.parametrize("solver", ["admm", "admm-async", "giant"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_chunks_that_differ(solver: str, family: Family) -> None:
    """Rows in order of their labels, which no chunk can fit alone; offsets and weights of rows; chunks of no row and of one."""
    X, y = problem(family)
    order = np.argsort(y)
    X, y = X[order] * [1.0, 10.0, 0.1, 1.0, 3.0], y[order]
    rng = np.random.default_rng(4)
    options: dict[str, Any] = {"family": family, "offset": 0.3 * rng.random(ROWS), "weights": rng.integers(0, 3, ROWS)}
    options |= {"penalty": L2(0.01), "tol": 1e-10}
    wanted = fit(X, y, solver="newton", **options)
    found = fit(*chunked(X, y, (60, 0, 1, 139, 150, 50)), solver=solver, **options)
    assert found.ok
    assert found.iterations <= 150
    np.testing.assert_allclose(found.coef, wanted.coef, atol=1e-7)


def test_an_offset_is_a_feature_whose_coefficient_is_known() -> None:
    X, y = problem(families.Poisson())
    offset = 0.5 * X[:, 0]
    whole, part = fit(X, y, family="poisson", tol=1e-9), fit(X, y, family="poisson", offset=offset, tol=1e-9)
    np.testing.assert_allclose(part.coef + np.eye(FEATURES)[0] / 2, whole.coef, atol=1e-7)
    both = fit(X, y, family="poisson", offset=offset, weights=np.full(ROWS, 2.0), tol=1e-9)
    np.testing.assert_allclose(both.coef, part.coef, atol=1e-7)


def test_without_intercept() -> None:
    X, y = problem(families.Normal())
    found = fit(X, y, intercept=False, tol=1e-9)
    np.testing.assert_allclose(found.coef, np.linalg.lstsq(X, y, rcond=None)[0], atol=1e-8)
    assert found.intercept == 0.0


# -- beside scikit-learn, on real data ----------------------------------------------------------------------------------


def standard(X: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (X - X.mean(axis=0)) / X.std(axis=0)
    return scaled


def test_logistic_as_scikit_learn() -> None:
    X, y = datasets.load_breast_cancer(return_X_y=True)
    X = standard(X)
    theirs = linear_model.LogisticRegression(C=0.5, solver="newton-cholesky", tol=1e-10).fit(X, y)
    ours = fit(X, y, family="logistic", penalty=L2(1 / (0.5 * len(y))), tol=1e-9)
    np.testing.assert_allclose(ours.coef, theirs.coef_[0], atol=1e-6)
    assert math.isclose(ours.intercept, theirs.intercept_[0], abs_tol=1e-6)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_linear_as_scikit_learn(ratio: float) -> None:
    X, y = datasets.load_diabetes(return_X_y=True)
    X = standard(X)
    theirs: Any = (
        linear_model.Ridge(alpha=0.7 * len(y), tol=1e-12)
        if ratio == 0
        else linear_model.ElasticNet(alpha=0.7, l1_ratio=ratio, tol=1e-14, max_iter=100_000)
    ).fit(X, y)
    ours = fit(X, y, penalty=ElasticNet(0.7, ratio), tol=1e-9)
    np.testing.assert_allclose(ours.coef, theirs.coef_, atol=1e-6)
    assert math.isclose(ours.intercept, theirs.intercept_, rel_tol=1e-9)


@pytest.mark.parametrize("family", ["poisson", "gamma"])
def test_positive_labels_as_scikit_learn(family: str) -> None:
    X, y = datasets.load_diabetes(return_X_y=True)
    X, y = standard(X), y / 50
    kind: Any = linear_model.PoissonRegressor if family == "poisson" else linear_model.GammaRegressor
    theirs = kind(alpha=0.1, solver="newton-cholesky", tol=1e-12).fit(X, y)
    ours = fit(X, y, family=family, penalty=L2(0.1), tol=1e-9)
    np.testing.assert_allclose(ours.coef, theirs.coef_, atol=1e-6)
    assert math.isclose(ours.intercept, theirs.intercept_, abs_tol=1e-6)


# -- where the predecessors are wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_intercept_is_not_penalised(solver: str) -> None:
    X, y = problem(families.Normal())
    found = fit(X, y + 100, penalty=L2(1e3), solver=solver, tol=1e-6, max_iter=5000)
    assert math.isclose(found.intercept, np.mean(y + 100), rel_tol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_poisson_with_a_large_mean(solver: str) -> None:
    rng = np.random.default_rng(5)
    X = rng.random((500, 3))
    y = rng.poisson(np.exp(X @ [2.0, 3.0, 1.0] + 6)).astype(float)
    found = fit(X, y, family="poisson", solver=solver, tol=1e-4, max_iter=5000)
    assert found.ok, found
    np.testing.assert_allclose(found.coef, [2, 3, 1], atol=0.05)


@pytest.mark.parametrize("labels", [(-1, 1), (1, 2)])
def test_labels_that_are_none_of_the_family(labels: tuple[int, int]) -> None:
    X, y = problem(families.Logistic())
    with pytest.raises(ValueError, match="labels are not 0 and 1"):
        fit(X, np.where(y > 0, *labels), family="logistic")


# -- clear words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "weibull"}, "There is no family 'weibull': give one of normal, logistic"),
        ({"solver": "magic"}, "There is no solver 'magic': give auto, gradient"),
        ({"y": np.zeros(ROWS + 1)}, "y has 401 rows, X has 400"),
        ({"weights": -np.ones(ROWS)}, "weights: must be finite numbers of at least 0"),
        ({"weights": np.zeros(ROWS)}, "weights: all are zero"),
        ({"offset": np.full(ROWS, np.nan)}, "offset: 400 of 400 are not finite"),
        ({"X": np.zeros((ROWS, 0))}, "X has no features"),
        ({"X": np.zeros((0, 3)), "y": np.zeros(0)}, "X has no rows"),
        ({"X": np.zeros(ROWS)}, "X has 1 dimension: must be rows by features"),
        ({"X": np.full((ROWS, 2), "a")}, "must be numbers"),
        ({"X": np.full((ROWS, 2), np.nan)}, "X holds NaN or infinite numbers"),
        ({"X": scipy.sparse.csr_matrix(np.full((ROWS, 2), np.inf))}, "X holds NaN or infinite numbers"),
        ({"y": np.full(ROWS, np.nan)}, "400 of 400 labels are not finite numbers"),
        ({"start": np.zeros(3)}, r"start has shape \(3,\): must be \(6,\)"),
        ({"penalty": GroupL1(1.0, (0, 1))}, "has 2 places for 5 coefficients"),
    ],
)
def test_what_cannot_be_fitted(change: dict[str, Any], message: str) -> None:
    X, y = problem(families.Normal())
    with pytest.raises(ValueError, match=message):
        fit(**{"X": X, "y": y, **change})


def test_too_few_iterations_and_going_on() -> None:
    X, y = problem(families.Logistic())
    some = fit(X, y, family="logistic", solver="gradient", max_iter=3)
    assert some.status is Status.ITERATIONS
    assert not some.ok
    assert "max_iter" in str(some)
    more = fit(X, y, family="logistic", solver="gradient", start=np.append(some.coef, some.intercept), max_iter=1000)
    assert more.ok
    assert more.trace[0].objective == pytest.approx(some.objective)


def test_a_tolerance_below_rounding() -> None:
    X, y = problem(families.Logistic())
    for solver in ("newton", "lbfgs", "proximal-newton", "owlqn", "giant", "admm"):
        found = fit(X, y, family="logistic", solver=solver, tol=1e-25, max_iter=1000)
        assert found.status is Status.PRECISION
        assert found.certificate < 1e-8


def test_perfect_separation_says_so() -> None:
    X = np.linspace(-1, 1, 100)[:, None]
    y = (X[:, 0] > 0).astype(float)
    found = fit(X, y, family="logistic", tol=1e-14, max_iter=500)
    assert not found.ok or np.abs(found.coef).max() > 100
    assert fit(X, y, family="logistic", penalty=L2(1e-3)).ok


def test_rank_deficiency_has_an_answer() -> None:
    X, y = problem(families.Normal())
    twice = np.c_[X, X[:, 0]]
    found = fit(twice, y, tol=1e-8)
    assert found.ok
    np.testing.assert_allclose(twice @ found.coef, X @ fit(X, y, tol=1e-8).coef, atol=1e-6)


def test_callbacks_interrupt_and_ctrl_c_keeps_the_best() -> None:
    X, y = problem(families.Logistic())
    seen: list[Any] = []

    def stop(point: Any, beta: np.ndarray) -> bool:
        seen.append((point, beta))
        return point.iteration == 2

    found = fit(X, y, family="logistic", solver="gradient", callback=stop)
    assert found.status is Status.INTERRUPTED
    assert [point.iteration for point, _ in seen] == [1, 2]
    np.testing.assert_array_equal(found.coef, seen[-1][1][:-1])

    def press(point: Any, beta: np.ndarray) -> None:
        raise KeyboardInterrupt

    assert fit(X, y, family="logistic", solver="gradient", callback=press).status is Status.INTERRUPTED


def test_progress_and_plot(tmp_path: Any, capsys: Any) -> None:
    X, y = problem(families.Logistic())
    found = fit(X, y, family="logistic", progress=True)
    assert "certificate" in capsys.readouterr().err
    found.plot(tmp_path / "trace.svg")
    assert (tmp_path / "trace.svg").stat().st_size > 1000


def test_auto_says_why() -> None:
    X, y = problem(families.Normal())
    assert fit(X, y).method == "Newton (least squares takes one step)"
    assert fit(X, y, penalty=L1(0.1)).method == "proximal Newton (the penalty is not smooth)"
    assert fit(X, y, penalty=GroupL1(0.1, (0, 0, 1, 1, 2))).method.startswith("proximal gradient")
    assert fit(X, y).iterations == 1
    wide = np.random.default_rng(0).random((200, 310))
    labels = (wide[:, 0] > 0.5).astype(float)
    for rows, wanted in ((wide, "L-BFGS"), (wide[:, :100], "Newton"), (scipy.sparse.csr_matrix(wide), "Newton (rows")):
        assert fit(rows, labels, family="logistic", penalty=L2(0.1)).method.startswith(wanted)


def test_newton_takes_few_passes_and_a_pass_is_compiled_once() -> None:
    from solvers.objective import _curve, compiled

    X, y = chunked(*problem(families.Logistic()), (100, 300))
    X, y = dask.persist(X, y)
    found = fit(X, y, family="logistic", solver="newton", tol=1e-9)
    assert found.passes == found.iterations + 1 <= 8
    step = compiled(_curve, families.Logistic(), False, False)
    before = step.stats.traces
    fit(X, y, family="logistic", solver="newton", penalty=L2(0.1))
    assert step.stats.traces == before


# -- kernels of sparse chunks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [np.float64, np.float32, np.int64])
@pytest.mark.parametrize("make", [scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.csr_array, np.asarray])
def test_kernels_do_what_plain_numpy_does(make: Any, number: Any) -> None:
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((50, 7)) < 0.3, rng.integers(-5, 5, (50, 7)), 0).astype(number)
    w, r = rng.random(7), rng.random(50)
    block = make(dense)
    np.testing.assert_allclose(kernels.product(block, w), dense @ w)
    np.testing.assert_allclose(kernels.transposed(block, r), (dense.T @ r)[None])
    np.testing.assert_allclose(kernels.square(block, r), ((dense * r[:, None]).T @ dense)[None])
    for rows in (block[:0], block[:1]):
        assert kernels.product(rows, w).shape == (rows.shape[0],)
        assert kernels.transposed(rows, r[: rows.shape[0]]).shape == (1, 7)


def test_kernels_of_rows_with_repeated_columns() -> None:
    block = scipy.sparse.csr_matrix((np.array([1.0, 2.0, 3.0]), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 3))
    dense, w, r = block.toarray(), np.array([1.0, 10.0, 100.0]), np.array([2.0, 3.0])
    np.testing.assert_allclose(kernels.product(block, w), dense @ w)
    np.testing.assert_allclose(kernels.transposed(block, r)[0], dense.T @ r)
    np.testing.assert_allclose(kernels.square(block, r)[0], (dense * r[:, None]).T @ dense)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("intercept", [True, False])
def test_sparse_chunks_say_what_dense_ones_say(family: Family, intercept: bool) -> None:
    X, y = problem(family)
    X = np.where(np.random.default_rng(1).random(X.shape) < 0.4, X, 0.0)
    s, shift = np.random.default_rng(2).random((2, ROWS))
    dense, labels = chunked(X, y, (150, 250))
    sparse = dense.map_blocks(scipy.sparse.csr_matrix, meta=scipy.sparse.csr_matrix((0, 0)))
    beta = np.linspace(-0.5, 0.5, FEATURES + intercept)
    for weights, offset in ((None, None), (s, None), (None, shift), (s, shift)):
        one, two = (
            Objective(prepare(form, labels, family, weights=weights, offset=offset), family, L2(0.1), intercept=intercept)
            for form in (dense, sparse)
        )
        for hessian in (False, True):
            a, b = one(beta, hessian=hessian), two(beta, hessian=hessian)
            np.testing.assert_allclose(a.value, b.value, rtol=1e-12)
            np.testing.assert_allclose(a.gradient, b.gradient, rtol=1e-11, atol=1e-13)
            if hessian:
                np.testing.assert_allclose(a.hessian, b.hessian, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("solver", ["newton", "proximal-newton", "admm", "giant"])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_hessians_of_more_than_a_mebibyte_come_into_memory(solver: str, form: str) -> None:
    """Compiled passes leave such results in a chunk; solvers took the dask array for numbers."""
    rng = np.random.default_rng(0)
    data = np.where(rng.random((800, 370)) < 0.1, rng.standard_normal((800, 370)), 0.0)
    X, y = chunked(data, (data[:, 0] > rng.logistic(size=800)).astype(float), (400, 400))
    if form == "sparse":
        X = X.map_blocks(scipy.sparse.csr_matrix, meta=scipy.sparse.csr_matrix((0, 0)))
    family = families.Logistic()
    at = Objective(prepare(X, y, family), family, L2(0.1))(np.zeros(371), hessian=True)
    assert isinstance(at.hessian, np.ndarray)
    wanted = fit(data, np.asarray(y), family=family, penalty=L2(0.1), solver="lbfgs", tol=1e-9)
    found = fit(X, y, family=family, penalty=L2(0.1), solver=solver, tol=1e-8)
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.coef, wanted.coef, atol=1e-6)


def test_many_classes_make_a_large_hessian_too() -> None:
    rng = np.random.default_rng(0)
    data = rng.standard_normal((300, 100))
    X, y = chunked(data, rng.integers(0, 4, 300).astype(float), (150, 150))
    found = fit(X, y, family=Multinomial(4), penalty=L1(0.02), solver="proximal-newton", tol=1e-8)
    assert found.status is Status.CONVERGED
    wanted = fit(X, y, family=Multinomial(4), penalty=L1(0.02), solver="owlqn", tol=1e-8)
    assert math.isclose(found.objective, wanted.objective, rel_tol=1e-10)  # of four classes, several coefficients are best


def test_logistic_losses_far_out() -> None:
    eta = np.array([-1e300, -800.0, -40.0, -1e-12, 0.0, 1e-12, 40.0, 800.0, 1e300])
    for label in (0.0, 1.0):
        wanted = np.logaddexp(0.0, eta) - label * eta
        np.testing.assert_allclose(families.Logistic().losses(eta, np.full(len(eta), label)), wanted, rtol=1e-15, atol=1e-16)


def test_chunks_may_be_sparse_and_dense() -> None:
    X, y = problem(families.Logistic())
    meta = scipy.sparse.csr_matrix((0, 0))
    some = da.concatenate(
        [
            da.from_array(X[:200], chunks=(100, -1)).map_blocks(scipy.sparse.csr_matrix, meta=meta),
            da.from_array(X[200:], chunks=(100, -1)),
        ]
    )
    mixed = da.Array(some.dask, some.name, some.chunks, meta=meta)
    wanted = fit(X, y, family="logistic", penalty=L2(0.01), tol=1e-10)
    for solver in ("newton", "lbfgs"):
        found = fit(mixed, y, family="logistic", penalty=L2(0.01), solver=solver, tol=1e-9)
        np.testing.assert_allclose(found.coef, wanted.coef, atol=1e-7)


# -- where methods have a hard time ------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["lbfgs", "bfgs"])
def test_who_stalls_is_not_believed_to_be_done(solver: str) -> None:
    """Longley's columns depend on each other to nine digits: it is not rounding that ends these, as a step of Newton shows."""
    data = sm.datasets.longley.load()
    X, y = data.exog.to_numpy(float), data.endog.to_numpy(float)
    best = fit(X, y, solver="newton")
    assert best.status is Status.CONVERGED
    found = fit(X, y, solver=solver, max_iter=2_000)
    assert found.objective > 2 * best.objective
    assert found.status is Status.STALLED
    assert not found.ok
    assert "use another" in found.status.advice


@pytest.mark.parametrize("solver", ["admm", pytest.param("admm-async", marks=pytest.mark.slow), "proximal-newton"])
def test_levels_of_which_there_are_few_rows(solver: str) -> None:
    """A gamma loss is nearly flat to one side: without damping a first step leads so far out that nothing leads back."""
    rng = np.random.default_rng(0)
    level = (200 * rng.random(1_500) ** 3).astype(int)
    X = scipy.sparse.csr_matrix((np.ones(1_500), (np.arange(1_500), level)), shape=(1_500, 200))
    y = rng.gamma(0.3, np.exp(rng.normal(5, 1.5, 200)[level]))
    parts = [X[start : start + 300] for start in range(0, 1_500, 300)]
    lazy = [da.from_delayed(dask.delayed(part), part.shape, dtype=float, meta=X[:0]) for part in parts]
    found = fit(da.concatenate(lazy), y, family="gamma", penalty=L1(1e-4), solver=solver, tol=1e-9)
    assert found.ok
    assert found.certificate <= 1e-9
    assert np.abs(found.coef).max() < 20
