"""Standardisation: the answer of features that were standardised by hand, in the features' own units, for every solver."""

from __future__ import annotations

from typing import Any

import dask.array as da
import distributed
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets, linear_model
from sklearn.preprocessing import StandardScaler
from test_solvers import chunked, problem

from solvers import (
    L1,
    L2,
    Box,
    ElasticNet,
    Family,
    GroupL1,
    Multinomial,
    Penalty,
    ScaledHuber,
    Unpenalised,
    families,
    fit,
    path,
)
from solvers.data import prepare
from solvers.fit import SOLVERS, objective_of
from solvers.moments import spreads
from solvers.units import Units

ROWS, FEATURES = 300, 4
ALL: list[Family] = [*families.FAMILIES.values(), Multinomial(3), ScaledHuber()]
PENALTIES: list[Penalty] = [L2(0.1), L1(0.05), GroupL1(0.05, (0, 0, 1, 1)), Box(-0.1, 0.1)]
CHUNKS = (100, 0, 1, 119, 80)


def data(family: Family = families.Logistic()) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # noqa: B008
    """Features of all sizes, some of them 0, labels of a family, and weights."""
    rng = np.random.default_rng(0)
    if isinstance(family, Multinomial):
        X, y = rng.standard_normal((ROWS, FEATURES)), rng.integers(0, family.classes, ROWS).astype(float)
    else:
        X, y = problem(family, ROWS, FEATURES)
    X = np.where(rng.random(X.shape) < 0.3, 0.0, X * [1.0, 10.0, 0.1, 3.0] + [5.0, -20.0, 0.3, 0.0])
    return X, y, rng.integers(0, 3, ROWS).astype(float)


def by_hand(X: np.ndarray, weights: Any, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    scaler = StandardScaler(with_mean=intercept).fit(X, sample_weight=weights)
    return scaler.transform(X), scaler.scale_


# -- the same as standardised by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: type(penalty).__name__)
@pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)
def test_every_solver_finds_what_standardised_features_have(family: Family, penalty: Penalty, intercept: bool) -> None:
    X, y, weights = data(family)
    if isinstance(family, Multinomial):
        if isinstance(penalty, Box):
            return  # its optimum is not unique: classes may move together within the bounds
        penalty = GroupL1(0.05, (0, 0, 1, 1) * 3) if isinstance(penalty, GroupL1) else penalty
    scaled, size = by_hand(X, weights, intercept)
    options: dict[str, Any] = {"family": family, "penalty": penalty, "intercept": intercept, "weights": weights}
    wanted = fit(scaled, y, tol=1e-11, max_iter=5000, **options)
    solved = 0
    for solver, method in SOLVERS.items():
        if method.refusal(objective_of(prepare(X, y, family), family, penalty, standardize=True)) is not None:
            continue
        found = fit(X, y, standardize=True, solver=solver, tol=1e-9, max_iter=5000, **options)
        assert found.ok, found
        assert found.objective == pytest.approx(wanted.objective, rel=1e-10)
        np.testing.assert_allclose(found.coef * size, wanted.coef, atol=1e-4 if solver == "gradient" else 1e-5)
        np.testing.assert_array_equal(found.beta[: found.coef.size], found.coef.ravel())
        solved += 1
    assert solved >= 1


@pytest.mark.parametrize("solver", ["newton", "lbfgs", "admm", "giant"])
@pytest.mark.parametrize("form", ["numpy", "csr", "dask", "dask csr", "mixed"])
def test_the_same_on_any_data(form: str, solver: str) -> None:
    X, y, weights = data()
    rows, labels = chunked(X, y, CHUNKS)
    csr = {"meta": scipy.sparse.csr_matrix((0, 0))}
    some = da.concatenate([rows[:100].map_blocks(scipy.sparse.csr_matrix, **csr), rows[100:]])
    given = {
        "numpy": X,
        "csr": scipy.sparse.csr_array(X),
        "dask": rows,
        "dask csr": rows.map_blocks(scipy.sparse.csr_matrix, **csr),
        "mixed": da.Array(some.dask, some.name, some.chunks, **csr),
    }[form]
    options: dict[str, Any] = {"family": "logistic", "penalty": L2(0.1), "weights": weights, "standardize": True}
    wanted = fit(X, y, tol=1e-12, **options)
    found = fit(given, labels if form.startswith(("dask", "mixed")) else y, solver=solver, tol=1e-9, max_iter=2000, **options)
    assert found.ok
    np.testing.assert_allclose(found.coef, wanted.coef, atol=1e-6)
    assert found.intercept == pytest.approx(wanted.intercept, abs=1e-6)


def test_on_a_cluster(client: distributed.Client) -> None:
    X, y, weights = data()
    arrays = client.persist(list(chunked(X, y, (100, 200))))
    for solver, penalty in (("newton", L2(0.1)), ("admm", L1(0.01)), ("giant", L2(0.1))):
        options: dict[str, Any] = {"family": "logistic", "penalty": penalty, "standardize": True, "solver": solver, "tol": 1e-9}
        here = fit(X, y, weights=weights, **options)
        with client.as_current():
            there = fit(*arrays, weights=weights, **options)
        assert there.ok
        np.testing.assert_allclose(there.coef, here.coef, atol=1e-8)


@pytest.mark.parametrize("kind", ["lasso", "elastic net", "ridge", "logistic"])
def test_as_scikit_learn_in_a_pipeline(kind: str) -> None:
    if kind == "logistic":
        X, y = datasets.load_breast_cancer(return_X_y=True)
    else:
        X, y = datasets.load_diabetes(return_X_y=True, scaled=False)
    model, options = {
        "lasso": (linear_model.Lasso(alpha=0.7, tol=1e-14, max_iter=100_000), {"penalty": L1(0.7)}),
        "elastic net": (linear_model.ElasticNet(alpha=0.7, tol=1e-14, max_iter=100_000), {"penalty": ElasticNet(0.7, 0.5)}),
        "ridge": (linear_model.Ridge(alpha=3.0, tol=1e-12), {"penalty": L2(3.0 / len(y))}),
        "logistic": (
            linear_model.LogisticRegression(C=0.5, solver="newton-cholesky", tol=1e-12),
            {"penalty": L2(2.0 / len(y)), "family": "logistic"},
        ),
    }[kind]
    scaler = StandardScaler().fit(X)
    model.fit(scaler.transform(X), y)
    wanted = np.ravel(model.coef_) / scaler.scale_
    found = fit(X, y, standardize=True, tol=1e-10, **options)
    np.testing.assert_allclose(found.coef, wanted, rtol=1e-6, atol=1e-8)
    assert found.intercept == pytest.approx(np.ravel(model.intercept_)[0] - wanted @ scaler.mean_, rel=1e-6)


@pytest.mark.parametrize("solver", ["giant", "admm", "newton", "lbfgs"])
def test_the_way_is_that_of_standardised_features(solver: str) -> None:
    """Also where chunks take steps of their own: they are told the penalty in their units."""
    X, y, weights = data()
    scaled, _ = by_hand(X, weights, True)
    options: dict[str, Any] = {"family": "logistic", "penalty": L2(1.0), "weights": weights, "solver": solver, "tol": 1e-8}
    found = fit(*chunked(X, y, (150, 150)), standardize=True, **options)
    wanted = fit(*chunked(scaled, y, (150, 150)), **options)
    assert abs(found.iterations - wanted.iterations) <= 1
    np.testing.assert_allclose([at.objective for at in found.trace[:3]], [at.objective for at in wanted.trace[:3]], rtol=1e-9)


def test_without_a_penalty_only_the_way_there_changes() -> None:
    X, y, weights = data()
    plain = fit(X, y, family="logistic", weights=weights, solver="newton", tol=1e-12)
    for solver in ("newton", "lbfgs"):
        found = fit(X, y, family="logistic", weights=weights, solver=solver, standardize=True, tol=1e-9)
        np.testing.assert_allclose(found.beta, plain.beta, atol=1e-6)
    assert found.passes < fit(X, y, family="logistic", weights=weights, solver="lbfgs", tol=1e-9).passes


# -- what has no spread, what comes before, and what comes after ----------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_matrix])
@pytest.mark.parametrize("solver", ["newton", "proximal", "giant", "admm", "lbfgs"])
@pytest.mark.parametrize("family", ["logistic", "normal"])
def test_a_constant_feature(family: str, solver: str, form: Any) -> None:
    X, y, weights = data()
    wide = np.c_[X[:, :2], np.full(ROWS, 0.1), np.zeros(ROWS), X[:, 2:]]
    options: dict[str, Any] = {"family": family, "penalty": L2(0.1), "standardize": True, "tol": 1e-9, "max_iter": 2000}
    wanted = fit(X, y, weights=weights, **options)
    found = fit(form(wide), y, weights=weights, solver=solver, **options)
    assert found.ok
    assert (found.coef[2:4] == 0).all()
    np.testing.assert_allclose(np.delete(found.coef, [2, 3]), wanted.coef, atol=1e-6)
    assert found.intercept == pytest.approx(wanted.intercept, abs=1e-6)


def test_a_constant_feature_is_the_intercept_where_there_is_none() -> None:
    X, y, _ = data()
    options: dict[str, Any] = {"family": "logistic", "penalty": L2(0.1), "intercept": False, "tol": 1e-10}
    found = fit(np.c_[X, np.full(ROWS, 2.0)], y, standardize=True, **options)
    wanted = fit(np.c_[X / X.std(axis=0), np.full(ROWS, 2.0)], y, **options)
    np.testing.assert_allclose(found.coef * [*X.std(axis=0), 1.0], wanted.coef, atol=1e-8)
    assert found.coef[-1] != 0


@pytest.mark.parametrize("family", ["normal", "poisson"])
@pytest.mark.parametrize("solver", ["newton", "admm", "giant"])
def test_a_start_is_in_the_features_units(solver: str, family: str) -> None:
    X, y, _ = data(families.Poisson())
    options: dict[str, Any] = {"family": family, "penalty": L2(0.1), "solver": solver}
    found = fit(X, y, standardize=True, tol=1e-10, **options)
    seen: list[np.ndarray] = []
    again = fit(X, y, start=found.beta, standardize=True, tol=1e-8, **options)
    assert again.iterations == 0
    np.testing.assert_allclose(again.beta, found.beta, rtol=1e-10)
    fit(X, y, standardize=True, tol=1e-10, callback=lambda point, beta: seen.append(beta), **options)
    np.testing.assert_allclose(seen[-1], found.beta, rtol=1e-6)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("family", [families.Normal(), families.Logistic(), Multinomial(3)], ids=lambda family: family.name)
def test_paths(family: Family, intercept: bool) -> None:
    X, y, weights = data(family)
    scaled, size = by_hand(X, weights, intercept)
    options: dict[str, Any] = {"family": family, "weights": weights, "intercept": intercept, "tol": 1e-9, "count": 4}
    found, wanted = path(X, y, standardize=True, **options), path(scaled, y, **options)
    np.testing.assert_allclose(found.strengths, wanted.strengths, rtol=1e-8)
    assert not found[0].coef.any()
    assert sum(one.iterations for one in found) <= sum(one.iterations for one in wanted) + 1  # each begins where the last ended
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.ok
        np.testing.assert_allclose(ours.coef * size, theirs.coef, atol=1e-6)
        np.testing.assert_array_equal(ours.coef == 0, theirs.coef == 0)


def test_passes_that_it_takes() -> None:
    """Least squares knows spreads from its one pass; other families make one pass more, and paths one for all."""
    X, y, _ = data()
    for penalty in (Unpenalised(), *PENALTIES):
        assert fit(X, y, penalty=penalty, standardize=True).passes == 1
    assert sum(result.passes for result in path(X, y, standardize=True)) == 1
    found = fit(X, y, family="logistic", penalty=L2(0.1), standardize=True)
    assert found.passes == found.trace[-1].passes + 1
    strengths = [0.1, 0.01]
    results = path(X, y, strengths, family="logistic", standardize=True)
    assert sum(result.passes for result in results) == sum(result.trace[-1].passes for result in results) + 1


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_matrix])
def test_what_is_not_finite(form: Any) -> None:
    X, y, _ = data()
    X[3, 1] = np.inf
    for family in ("normal", "logistic"):
        with pytest.raises(ValueError, match="X holds NaN or infinite numbers"):
            fit(form(X), y, family=family, standardize=True)


# -- spreads, and the map ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
def test_spreads_keep_their_digits(sparse: bool) -> None:
    rng = np.random.default_rng(1)
    X = np.array([1e6, 0.0, -3.0]) + rng.standard_normal((1_000, 3))
    X[:, 1] = np.where(rng.random(1_000) < 0.9, 0.0, X[:, 1])
    X = np.c_[X, np.full(1_000, 0.1)]
    weights = rng.integers(0, 3, 1_000).astype(float)
    rows: Any = da.from_array(X, chunks=((300, 0, 1, 699), -1))
    if sparse:
        rows = rows.map_blocks(scipy.sparse.csr_matrix, meta=scipy.sparse.csr_matrix((0, 0)))
    mean, spread = spreads(prepare(rows, X[:, 0], families.Normal(), weights=weights))
    all_ = np.repeat(X, weights.astype(int), axis=0)
    np.testing.assert_allclose(mean, all_.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(spread[:3], all_[:, :3].std(axis=0), rtol=1e-9)
    assert spread[3] == 0


def test_repeated_columns_of_csr() -> None:
    X = scipy.sparse.csr_matrix((np.array([1.0, 2.0, 3.0]), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 3))
    _, spread = spreads(prepare(X, np.zeros(2), families.Normal()))
    np.testing.assert_allclose(spread, X.toarray().std(axis=0))
    assert X.nnz == 3


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 3), st.booleans(), st.integers(0, 1))
def test_the_map_and_its_derivative(seed: int, features: int, classes: int, intercept: bool, more: int) -> None:
    """`standard` undoes `original`; `pulled` is its transpose, and `pushed` undoes that; all are linear."""
    rng = np.random.default_rng(seed)
    units = Units.of(rng.standard_normal(features), rng.random(features) + 0.1, intercept=intercept, classes=classes)
    size = classes * (features + intercept) + more
    beta, gradient = rng.standard_normal(size), rng.standard_normal(size)
    np.testing.assert_allclose(units.standard(units.original(beta)), beta, atol=1e-12)
    np.testing.assert_allclose(units.pulled(units.pushed(gradient)), gradient, atol=1e-12)
    assert units.pulled(gradient) @ beta == pytest.approx(gradient @ units.original(beta), abs=1e-10)
    square = rng.standard_normal((size, size))
    square += square.T
    other = rng.standard_normal(size)
    turned = units.original(other) @ square @ units.original(beta)
    assert other @ units.squared(square) @ beta == pytest.approx(turned, abs=1e-9)
