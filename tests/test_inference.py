"""Inference: standard errors, tests and deviance as statsmodels has them on its own data, from one pass on any chunks."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from test_solvers import chunked, problem

from solvers import (
    L1,
    L2,
    Box,
    ElasticNet,
    Family,
    Huber,
    Inference,
    Multinomial,
    ScaledHuber,
    Status,
    deviance_table,
    families,
    fit,
)

FAMILIES: list[Family] = [families.Normal(), families.Logistic(), families.Poisson(), families.Gamma()]
KINDS: list[Any] = [True, "HC0", "HC1"]
CHUNKS = (100, 0, 1, 219, 80)


@pytest.fixture(scope="module")
def sm() -> Any:
    return pytest.importorskip("statsmodels.api")


def inferred(*args: Any, **options: Any) -> Inference:
    found = fit(*args, **{"inference": True, "tol": 1e-9, **options})
    assert found.ok, found
    assert found.inference is not None
    return found.inference


def last(theirs: Any) -> np.ndarray:
    """Put their constant, which is first, last."""
    return np.roll(np.asarray(theirs, float), -1, axis=0)


def same(ours: Inference, theirs: Any, rtol: float = 1e-6) -> None:
    """Compare all that a GLM of statsmodels says; a small p value has the square of its t times the error of that."""
    np.testing.assert_allclose(ours.coef, last(theirs.params), rtol=rtol)
    np.testing.assert_allclose(ours.standard_errors, last(theirs.bse), rtol=rtol)
    np.testing.assert_allclose(ours.covariance, np.roll(last(theirs.cov_params()), -1, axis=1), rtol=rtol)
    np.testing.assert_allclose(ours.statistic, last(theirs.tvalues), rtol=rtol)
    np.testing.assert_allclose(ours.p_values, last(theirs.pvalues), rtol=rtol, atol=1e-10)
    for level in (0.9, 0.95):
        np.testing.assert_allclose(ours.interval(level), last(theirs.conf_int(1 - level)), rtol=rtol)
    for name in ("dispersion scale", "deviance deviance", "null_deviance null_deviance", "pearson pearson_chi2"):
        mine, other = name.split()
        assert getattr(ours, mine) == pytest.approx(getattr(theirs, other), rel=rtol), name
    assert ours.df_residual == pytest.approx(theirs.df_resid)
    if not math.isnan(ours.log_likelihood):
        for name in ("log_likelihood llf", "aic aic", "bic bic_llf"):
            mine, other = name.split()
            assert getattr(ours, mine) == pytest.approx(getattr(theirs, other), rel=rtol), name


# -- as statsmodels, on its own data -------------------------------------------------------------------------------------


def bundled(sm: Any, name: str) -> tuple[pd.DataFrame, np.ndarray, str]:
    data = getattr(sm.datasets, name).load()
    X, y = data.exog.astype(float), np.asarray(data.endog, float)
    if name == "star98":  # counts of two kinds: a row for each, and the counts are frequencies
        return pd.concat([X, X], ignore_index=True), np.repeat([1.0, 0.0], len(X)), "logistic"
    if name == "fair":
        return X, (y > 0).astype(float), "logistic"
    return X, y, {"longley": "normal", "spector": "logistic", "scotland": "gamma"}.get(name, "poisson")


def glm(sm: Any, family: str, X: Any, y: Any, **options: Any) -> Any:
    kinds = sm.families
    of = {
        "normal": kinds.Gaussian(),
        "logistic": kinds.Binomial(),
        "poisson": kinds.Poisson(),
        "gamma": kinds.Gamma(kinds.links.Log()),
    }[family]
    kind = options.pop("cov_type", "nonrobust")
    model = sm.GLM(y, sm.add_constant(np.asarray(X)), family=of, **options)
    return model.fit(tol=1e-13, maxiter=200, use_t=family in ("normal", "gamma"), cov_type=kind)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("weights_are", [None, "frequencies", "precisions"])
@pytest.mark.parametrize("kind", [True, "HC0"])
@pytest.mark.parametrize("name", ["longley", "spector", "cpunish", "scotland"])
def test_as_statsmodels(sm: Any, name: str, kind: Any, weights_are: str | None, shifted: bool) -> None:
    X, y, family = bundled(sm, name)
    rng = np.random.default_rng(0)
    theirs: dict[str, Any] = {"cov_type": kind} if isinstance(kind, str) else {}
    ours: dict[str, Any] = {"family": family, "inference": kind, "weights_are": weights_are}
    if weights_are == "frequencies":
        ours["weights"] = theirs["freq_weights"] = rng.integers(1, 4, len(y)).astype(float)
    elif weights_are == "precisions":
        ours["weights"] = theirs["var_weights"] = 0.5 + rng.random(len(y))
    if shifted:
        ours["offset"] = theirs["offset"] = rng.random(len(y))
    found = inferred(X, y, standardize=True, **ours)
    assert found.names == (*X.columns, "intercept")
    same(found, glm(sm, family, X, y, **theirs))
    assert found.off < 1e-6
    assert math.isnan(found.log_likelihood) == (family == "gamma" and weights_are == "precisions")


@pytest.mark.parametrize("name", ["fair", "randhie"])
@pytest.mark.slow
def test_as_statsmodels_on_many_rows(sm: Any, name: str) -> None:
    X, y, family = bundled(sm, name)
    rows = da.from_array(X.to_numpy(), chunks=(2_000, -1))
    for kind in (True, "HC0"):
        options = {} if kind is True else {"cov_type": kind}
        same(inferred(rows, y, family=family, inference=kind, standardize=True), glm(sm, family, X, y, **options))


def test_counts_of_two_kinds(sm: Any) -> None:
    X, y, _ = bundled(sm, "star98")
    counts = np.asarray(sm.datasets.star98.load().endog, float)
    options: dict[str, Any] = {"family": "logistic", "weights": counts.T.ravel(), "weights_are": "frequencies"}
    found = inferred(X, y, standardize=True, **options)
    same(found, glm(sm, "logistic", X, y, freq_weights=counts.T.ravel()))
    assert found.rows == counts.sum()
    half = len(X) // 2
    grouped = glm(sm, "logistic", X[:half], counts)
    np.testing.assert_allclose(found.standard_errors, last(grouped.bse), rtol=1e-6)
    # Deviance has another zero, but differences are the same.
    few = inferred(X.iloc[:, :3], y, standardize=True, **options)
    fewer = glm(sm, "logistic", X.iloc[:half, :3], counts)
    assert few.deviance - found.deviance == pytest.approx(fewer.deviance - grouped.deviance, rel=1e-6)


@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_nearly_collinear(sm: Any, solver: str) -> None:
    """Longley's data; its information has a condition of 2e19. HC1 is OLS's: for GLM, statsmodels leaves the factor out."""
    X, y, _ = bundled(sm, "longley")
    model = sm.OLS(y, sm.add_constant(X.to_numpy()))
    for kind in KINDS:
        theirs = model.fit() if kind is True else model.fit(cov_type=kind, use_t=True)
        ours = inferred(X, y, inference=kind, standardize=True, solver=solver, tol=1e-9)
        for mine, other in ((ours.coef, theirs.params), (ours.standard_errors, theirs.bse), (ours.p_values, theirs.pvalues)):
            np.testing.assert_allclose(mine, last(other), rtol=1e-6)
        for mine, other in ((ours.log_likelihood, theirs.llf), (ours.aic, theirs.aic), (ours.bic, theirs.bic)):
            assert mine == pytest.approx(other, rel=1e-9)
    weights = np.random.default_rng(1).random(len(y)) + 0.5
    theirs = sm.WLS(y, sm.add_constant(X.to_numpy()), weights=weights).fit()
    ours = inferred(X, y, weights=weights, weights_are="precisions", standardize=True, solver=solver)
    np.testing.assert_allclose(ours.standard_errors, last(theirs.bse), rtol=1e-6)
    assert ours.log_likelihood == pytest.approx(theirs.llf, rel=1e-9)


@pytest.mark.parametrize("standardize", [True, False])
def test_several_classes_as_statsmodels(sm: Any, standardize: bool) -> None:
    """Theirs are contrasts to the first class; ours sum to 0 over the classes."""
    data = sm.datasets.anes96.load()
    X, y = data.exog, np.asarray(data.endog, float)
    theirs = sm.MNLogit(y, sm.add_constant(X.to_numpy())).fit(disp=0, tol=1e-12, maxiter=100)
    rows, labels = da.from_array(X.to_numpy(), chunks=((400, 0, 544), -1)), y
    ours = inferred(rows, labels, family=Multinomial(7), standardize=standardize, tol=1e-10)
    features, classes = 5, 7
    for k in range(1, classes):
        chosen = np.zeros((features + 1, len(ours.coef)))
        for j in range(features):
            chosen[j, [k * features + j, j]] = 1.0, -1.0
        chosen[-1, [classes * features + k, classes * features]] = 1.0, -1.0
        np.testing.assert_allclose(chosen @ ours.coef, last(np.asarray(theirs.params)[:, k - 1]), rtol=1e-6)
        errors = np.sqrt(np.diag(chosen @ ours.covariance @ chosen.T))
        np.testing.assert_allclose(errors, last(np.asarray(theirs.bse)[:, k - 1]), rtol=1e-6)
    assert ours.names[features] == "1: x0"
    assert ours.log_likelihood == pytest.approx(theirs.llf, rel=1e-9)
    assert ours.null_deviance == pytest.approx(-2 * theirs.llnull, rel=1e-6)
    assert (ours.aic, ours.bic) == pytest.approx((theirs.aic, theirs.bic), rel=1e-9)
    assert ours.off < 1e-6


@pytest.mark.parametrize("name", ["longley", "spector", "scotland"])
def test_joint_tests_as_statsmodels(sm: Any, name: str) -> None:
    X, y, family = bundled(sm, name)
    ours, theirs = inferred(X, y, family=family, standardize=True), glm(sm, family, X, y)
    chosen = np.eye(len(ours.coef))[[0, 2]]
    for value in ([0.0, 0.0], [0.01, 0.02]):
        found, wanted = ours.wald(chosen, value), theirs.wald_test((np.roll(chosen, 1, axis=1), value), scalar=True)
        assert found.statistic == pytest.approx(float(wanted.statistic), rel=1e-6)
        assert found.p_value == pytest.approx(float(wanted.pvalue), rel=1e-6)
    assert ours.wald([X.columns[0], X.columns[2]]) == ours.wald(chosen)
    one = ours.wald(X.columns[1])
    assert one.p_value == pytest.approx(ours.p_values[1], rel=1e-9)
    assert math.isinf(one.df_residual) == (family == "logistic")


@pytest.mark.parametrize("name", ["longley", "cpunish", "scotland"])
def test_deviance_tables_as_statsmodels(sm: Any, name: str) -> None:
    from scipy import stats

    X, y, family = bundled(sm, name)
    cuts = (2, 3, X.shape[1])
    results = [fit(X.iloc[:, :n], y, family=family, standardize=True, inference=True, tol=1e-9) for n in cuts]
    theirs = [glm(sm, family, X.iloc[:, :n], y) for n in cuts]
    table = deviance_table(*results)
    scale = theirs[-1].scale
    for row, one, other in zip(table.lines[1:], theirs, theirs[1:], strict=False):
        df = one.df_resid - other.df_resid
        assert (row.df_residual, row.df) == (other.df_resid, df)
        assert row.decrease == pytest.approx(one.deviance - other.deviance, rel=1e-6)
        if family == "poisson":
            wanted = stats.chi2.sf(one.deviance - other.deviance, df)
        else:
            wanted = stats.f.sf((one.deviance - other.deviance) / df / scale, df, other.df_resid)
        assert row.p_value == pytest.approx(wanted, rel=1e-6) or row is not table.lines[-1]
    assert table.test == ("chi-squared" if family == "poisson" else "F")
    if family == "normal":
        models = [sm.OLS(y, sm.add_constant(X.iloc[:, :n].to_numpy())).fit() for n in cuts]
        wanted = sm.stats.anova_lm(*models)
        np.testing.assert_allclose([row.statistic for row in table.lines[1:]], wanted["F"][1:], rtol=1e-6)
        np.testing.assert_allclose(table.lines[-1].p_value, wanted["Pr(>F)"].iloc[-1], rtol=1e-6)


# -- what weights are ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [*FAMILIES, Huber()], ids=lambda family: family.name)
def test_frequencies_are_repeated_rows(family: Family, kind: Any) -> None:
    if isinstance(family, Huber) and kind is True:
        return
    X, y = problem(family)
    weights = np.random.default_rng(3).integers(0, 4, len(y))
    some = inferred(*chunked(X, y, CHUNKS), family=family, weights=weights, weights_are="frequencies", inference=kind)
    all_ = inferred(np.repeat(X, weights, axis=0), np.repeat(y, weights), family=family, inference=kind)
    assert (some.rows, some.rank) == (all_.rows, all_.rank) == (weights.sum(), 6)
    np.testing.assert_allclose(some.covariance, all_.covariance, rtol=1e-6)
    for name in ("dispersion", "deviance", "null_deviance", "log_likelihood", "bic"):
        assert getattr(some, name) == pytest.approx(getattr(all_, name), rel=1e-7, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_precisions_are_relative_and_rows_of_none_do_not_count(family: Family, kind: Any) -> None:
    X, y = problem(family)
    weights = np.random.default_rng(3).integers(0, 4, len(y))
    options: dict[str, Any] = {"family": family, "weights_are": "precisions", "inference": kind}
    one = inferred(X, y, weights=weights, **options)
    other = inferred(X[weights > 0], y[weights > 0], weights=10.0 * weights[weights > 0], **options)
    assert one.rows == other.rows == (weights > 0).sum()
    factor = 1.0 if kind is not True or family.dispersed else 10.0
    np.testing.assert_allclose(other.covariance, one.covariance / factor, rtol=1e-6)
    if family.dispersed:
        assert other.dispersion == pytest.approx(10 * one.dispersion)


def test_what_weights_are_has_to_be_said() -> None:
    X, y = problem(families.Normal())
    with pytest.raises(ValueError, match="weights_are: standard errors depend on it"):
        fit(X, y, weights=np.ones(len(y)), inference=True)
    with pytest.raises(ValueError, match="weights_are='counts': must be 'frequencies' or 'precisions'"):
        fit(X, y, weights=np.ones(len(y)), inference=True, weights_are="counts")
    assert fit(X, y, weights=np.ones(len(y))).inference is None


# -- the same on any data, in one pass -----------------------------------------------------------------------------------


def forms(X: np.ndarray, y: np.ndarray) -> dict[str, tuple[Any, Any]]:
    rows, labels = chunked(X, y, CHUNKS)
    csr = {"meta": scipy.sparse.csr_matrix((0, 0))}
    some = da.concatenate([rows[:100].map_blocks(scipy.sparse.csr_matrix, **csr), rows[100:]])
    return {
        "pandas": (pd.DataFrame(X), pd.Series(y)),
        "csr": (scipy.sparse.csr_array(X), y),
        "dask": (rows, labels),
        "dask csr": (rows.map_blocks(scipy.sparse.csr_matrix, **csr), labels),
        "mixed": (da.Array(some.dask, some.name, some.chunks, **csr), labels),
    }


def equal(one: Inference, other: Inference, rtol: float = 1e-6) -> None:
    np.testing.assert_allclose(one.covariance, other.covariance, rtol=rtol, atol=1e-12)
    for name in ("rows", "rank", "dispersion", "deviance", "null_deviance", "log_likelihood", "pearson"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-8, nan_ok=True), name


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("form", forms(np.zeros((400, 5)), np.zeros(400)))
@pytest.mark.parametrize("family", [*FAMILIES, Huber(), Multinomial(2)], ids=lambda family: family.name)
def test_the_same_on_any_data(family: Family, form: str, intercept: bool) -> None:
    X, y = problem(families.Logistic() if isinstance(family, Multinomial) else family)
    rng = np.random.default_rng(4)
    options: dict[str, Any] = {"family": family, "intercept": intercept, "weights": rng.integers(0, 3, len(y)), "tol": 1e-10}
    options |= {"weights_are": "precisions", "inference": "HC1" if isinstance(family, Huber) else True}
    if not isinstance(family, Multinomial):
        options["offset"] = rng.random(len(y))
    equal(inferred(*forms(X, y)[form], **options), inferred(X, y, **options))


@pytest.mark.slow
def test_on_a_cluster(client: distributed.Client) -> None:
    X, y = problem(families.Poisson(), rows=2_000)
    arrays = client.persist(list(chunked(X, y, (500,) * 4)))
    for kind in KINDS:
        here = inferred(X, y, family="poisson", inference=kind)
        with client.as_current():
            there = inferred(*arrays, family="poisson", inference=kind)
        equal(there, here)


@pytest.mark.parametrize("family", ["normal", "poisson", Multinomial(2)], ids=str)
def test_it_takes_one_pass_more(family: Any) -> None:
    X, y = problem(families.Logistic())
    lock, loads = threading.Lock(), [0]

    def load(block: np.ndarray) -> np.ndarray:
        with lock:
            loads[0] += 1
        return block

    rows, labels = chunked(X, y, (150, 130, 120))
    rows = rows.map_blocks(load, meta=X[:0])
    for offset in (None, np.random.default_rng(0).random(len(y))):
        if offset is not None and isinstance(family, Multinomial):
            continue
        counts, passes = [], []
        for inference in (True, False, True, False):  # the first time of each, passes are compiled
            loads[0] = 0
            found = fit(rows, labels, family=family, offset=offset, inference=inference)
            counts.append(loads[0])
            passes.append(found.passes)
        assert passes[2] == passes[3] + 1
        assert counts[2] == counts[3] + 3


def test_single_precision() -> None:
    X, y = problem(families.Logistic())
    one = inferred(X.astype(np.float32), y, family="logistic", tol=1e-6)
    np.testing.assert_allclose(one.covariance, inferred(X, y, family="logistic").covariance, rtol=1e-4, atol=1e-7)


# -- sandwiches ----------------------------------------------------------------------------------------------------------


def test_a_sandwich_for_huber_is_that_of_its_scores() -> None:
    X, y = problem(families.Normal())
    found = fit(X, y, family=Huber(0.7), inference="HC0", tol=1e-10)
    rows = np.c_[X, np.ones(len(y))]
    off = rows @ found.beta - y
    bread = np.linalg.inv(rows.T @ ((np.abs(off) <= 0.7)[:, None] * rows))
    scores = np.clip(off, -0.7, 0.7)[:, None] * rows
    assert found.inference is not None
    np.testing.assert_allclose(found.inference.covariance, bread @ scores.T @ scores @ bread, rtol=1e-9)
    assert math.isnan(found.inference.deviance)
    assert math.isnan(found.inference.log_likelihood)
    assert "deviance" not in str(found.inference)
    wide = inferred(X, y, family=Huber(1e9), inference="HC1", tol=1e-10)
    np.testing.assert_allclose(wide.covariance, inferred(X, y, inference="HC1").covariance, rtol=1e-8)
    np.testing.assert_allclose(wide.p_values, inferred(X, y, inference="HC1").p_values, rtol=1e-6)


def test_standard_errors_are_the_spread_of_estimates() -> None:
    """Over many samples; where the variance is not what the family says, only the sandwich knows."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 1))
    estimates, robust = [], []
    for _ in range(120):
        y = rng.standard_normal(400) * (0.5 + X[:, 0] ** 2)
        found = inferred(X, y, inference="HC1")
        estimates.append(found.coef[0])
        robust.append(found.standard_errors[0])
    assert np.mean(robust) == pytest.approx(np.std(estimates), rel=0.15)
    assert inferred(X, y).standard_errors[0] < 0.75 * np.std(estimates)


@dataclass(frozen=True)
class Waiting(families.Gamma):
    """Gamma, of which nothing is known but its loss."""

    name = "waiting"
    dispersed = False

    def information(self, eta: Any) -> Any:
        return None


def test_a_family_of_ones_own() -> None:
    X, y = problem(families.Gamma())
    with pytest.raises(ValueError, match="the waiting family is no likelihood; use inference='HC0' or 'HC1'"):
        fit(X, y, family=Waiting(), inference=True)
    ours, theirs = (inferred(X, y, family=family, inference="HC0") for family in (Waiting(), families.Gamma()))
    np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-9)
    assert math.isnan(ours.deviance)


# -- rows that do not determine all --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [True, "HC1"])
@pytest.mark.parametrize("form", ["pandas", "csr", "dask", "mixed"])
def test_what_rows_do_not_determine(form: str, kind: Any) -> None:
    """Features that depend on each other have no standard errors; the others have theirs, as if one had been left out."""
    X, y = problem(families.Logistic())
    X = X + np.array([5.0, 0, 0, 0, -2.0])
    less = inferred(X, y, family="logistic", inference=kind)
    wide = np.c_[X[:, :3], X[:, 0] + 2 * X[:, 1], X[:, 3:]]
    found = inferred(*forms(wide, y)[form], family="logistic", inference=kind, standardize=True)
    missing = [0, 1, 3]
    assert np.isnan(found.standard_errors[missing]).all()
    kept, before = [2, 4, 5, 6], [2, 3, 4, 5]
    np.testing.assert_allclose(found.covariance[np.ix_(kept, kept)], less.covariance[np.ix_(before, before)], rtol=1e-5)
    assert (found.rank, found.df_residual) == (less.rank, less.df_residual)
    assert found.deviance == pytest.approx(less.deviance, rel=1e-8)
    assert str(found).count("not determined") == 3
    with pytest.raises(ValueError, match="the rows do not determine"):
        found.wald([found.names[0]])
    assert found.wald([found.names[2]]).p_value == pytest.approx(found.p_values[2], rel=1e-9)


@pytest.mark.parametrize("form", ["pandas", "csr", "dask", "mixed"])
def test_a_constant_feature_is_the_intercept_again(form: str) -> None:
    X, y = problem(families.Normal())
    found = inferred(*forms(np.c_[X, np.full(len(y), 0.1)], y)[form])
    assert np.isnan(found.standard_errors[-2:]).all()
    np.testing.assert_allclose(found.covariance[:5, :5], inferred(X, y).covariance[:5, :5], rtol=1e-8)
    assert found.rank == 6


def test_classes_that_rows_do_not_determine() -> None:
    X, y = problem(families.Logistic())
    less = inferred(X, y, family=Multinomial(2))
    found = inferred(np.c_[X, X[:, 0]], y, family=Multinomial(2))
    assert (found.rank, less.rank) == (6, 6)
    assert np.isnan(found.standard_errors[[0, 5, 6, 11]]).all()
    np.testing.assert_allclose(found.standard_errors[1:5], less.standard_errors[1:5], rtol=1e-6)


def test_two_classes_are_logistic() -> None:
    X, y = problem(families.Logistic())
    weights = np.random.default_rng(3).integers(0, 3, len(y))
    options: dict[str, Any] = {"weights": weights, "weights_are": "frequencies"}
    one, two = inferred(X, y, family="logistic", **options), inferred(X, y, family=Multinomial(2), **options)
    np.testing.assert_allclose(2 * two.coef[5:10], one.coef[:5], rtol=1e-6)
    np.testing.assert_allclose(2 * two.standard_errors[[*range(5, 10), 11]], one.standard_errors, rtol=1e-6)
    for name in ("rows", "rank", "deviance", "null_deviance", "log_likelihood"):
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=1e-8)


def test_as_many_coefficients_as_rows() -> None:
    X, y = problem(families.Normal(), rows=6)
    found = inferred(X, y)
    assert (found.df_residual, found.rank) == (0, 6)
    assert math.isnan(found.dispersion)
    assert np.isnan(found.standard_errors).all()
    assert str(found)


def test_an_exact_fit() -> None:
    X, _ = problem(families.Normal())
    found = inferred(X, X @ np.arange(5.0) + 1)
    assert found.standard_errors.max() < 1e-9
    assert found.p_values[1:].max() < 1e-9
    assert str(found)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(FAMILIES), st.sampled_from(KINDS), st.booleans())
def test_units_of_features_do_not_matter(seed: int, family: Family, kind: Any, standardize: bool) -> None:
    """Covariances follow the features through any change of origin and scale; deviance does not change."""
    rng = np.random.default_rng(seed)
    X, y = problem(family, rows=80, features=3, seed=seed % 1_000)
    size, shift = 10.0 ** rng.integers(-3, 4, 3), 10.0 * rng.standard_normal(3)
    one = inferred(X, y, family=family, inference=kind, tol=1e-8)
    other = inferred(X * size + shift * size, y, family=family, inference=kind, standardize=True, tol=1e-8)
    assert other.deviance == pytest.approx(one.deviance, rel=1e-8)
    wanted = one.covariance[:3, :3] / np.outer(size, size)
    np.testing.assert_allclose(
        other.covariance[:3, :3], wanted, rtol=1e-4, atol=1e-5 * np.sqrt(np.outer(*[np.diag(wanted)] * 2)).min()
    )


# -- clear words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": L1(0.1)}, r"L1\(strength=0.1\) chooses coefficients by the same rows"),
        ({"penalty": ElasticNet(0.1)}, "chooses coefficients"),
        ({"penalty": Box()}, "chooses coefficients"),
        ({"penalty": L2(0.1)}, r"L2\(strength=0.1\) draws coefficients towards 0"),
        ({"family": "huber"}, "the huber family is no likelihood; use inference='HC0'"),
        ({"family": ScaledHuber(), "inference": "HC0"}, r"fit family=Huber\(delta \* scale\)"),
        ({"family": Multinomial(2), "inference": "HC0", "y": np.arange(400) % 2}, "no sandwich for several classes"),
        ({"inference": "HC3"}, "inference='HC3': must be True, 'HC0' or 'HC1'"),
        ({"inference": 7}, "inference=7: must be True"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    X, y = problem(families.Normal())
    called: list[Any] = []
    given = {"X": X, "y": y, "inference": True, "callback": lambda *at: called.append(at), **options}
    with pytest.raises(ValueError, match=message):
        fit(**given)
    assert not called  # before anything is fitted


def test_so_many_coefficients_are_refused() -> None:
    X = scipy.sparse.random_array((10, 4_000), density=0.001, format="csr", rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="4001 coefficients have too many covariances; ask for 4000 at most"):
        fit(X, np.arange(10.0) % 2, family="logistic", inference=True)


def test_strengths_of_zero_are_no_penalty() -> None:
    X, y = problem(families.Normal())
    for penalty in (L2(0.0), L1(0.0)):
        np.testing.assert_array_equal(inferred(X, y, penalty=penalty).covariance, inferred(X, y).covariance)


def test_a_fit_that_is_not_done_has_none() -> None:
    X, y = problem(families.Logistic())
    early = fit(X, y, family="logistic", solver="gradient", max_iter=2, inference=True)
    assert early.status is Status.ITERATIONS
    assert early.inference is None
    with pytest.raises(ValueError, match=r"summary: too few iterations. Allow more"):
        early.summary()
    with pytest.raises(ValueError, match="summary: fit with inference=True"):
        fit(X, y, family="logistic").summary()


def test_how_far_the_optimum_is(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = problem(families.Logistic())
    exact = inferred(X, y, family="logistic", tol=1e-12)
    rough = fit(X, y, family="logistic", solver="lbfgs", tol=2e-2, inference=True)
    assert rough.inference is not None
    wanted = np.abs((rough.beta - exact.coef) / exact.standard_errors).max()
    assert rough.inference.off == pytest.approx(wanted, rel=0.1)
    assert wanted > 0.01
    rough.summary()
    assert "standard errors from the optimum: use a smaller tol" in capsys.readouterr().out
    assert "optimum" not in str(exact)


def test_joint_tests_that_cannot_be() -> None:
    found = inferred(*problem(families.Normal()))
    for hypotheses, message in (
        (["x9"], "there is no coefficient 'x9'"),
        (np.eye(3), r"has shape \(3, 3\): must have a column for each of 6"),
        (np.eye(6)[[0, 0]], "some follow from the others"),
    ):
        with pytest.raises(ValueError, match=message):
            found.wald(hypotheses)
    for level in (0.0, 1.0, 95):
        with pytest.raises(ValueError, match="must be between 0 and 1"):
            found.interval(level)


def test_tables_that_cannot_be() -> None:
    X, y = problem(families.Poisson())
    options: dict[str, Any] = {"family": "poisson", "inference": True}
    small, large = fit(X[:, :2], y, **options), fit(X, y, **options)
    huber = fit(X, y, family="huber", inference="HC0")
    ones = fit(X, y, weights=np.ones(len(y)), weights_are="frequencies", **options)
    for results, message in (
        ((small,), "give two results or more"),
        ((large, small), "the smallest first"),
        ((small, fit(X, y, family="poisson")), "fit with inference=True"),
        ((small, fit(X, y, inference=True)), "families differ, poisson and normal"),
        ((small, fit(X[1:], y[1:], **options)), "rows or weights differ, 400 and 399 rows"),
        ((small, ones), "rows or weights differ"),
        ((small, fit(X, y[::-1] + 1, **options)), "labels differ"),
        ((small, huber), "the huber family has no deviance"),
    ):
        with pytest.raises(ValueError, match=message):
            deviance_table(*results)
    assert str(deviance_table(small, large)).count("\n") == 2


def test_the_table_shows_all_there_is() -> None:
    X, y = problem(families.Gamma())
    names = ["age", "distance to the sea", "c", "d", "e"]
    found = inferred(pd.DataFrame(X, columns=names), y, family="gamma")
    lines = str(found).splitlines()
    assert lines[0] == "gamma, 400 rows; standard errors: model"
    assert "P>|t|" in lines[-7]
    for line, name, error in zip(lines[-6:], (*names, "intercept"), found.standard_errors, strict=True):
        assert line.startswith(name)
        assert f"{error:.4g}" in line
    assert len({len(line) for line in lines[-7:]}) == 1
    assert "weights are precisions" in str(inferred(X, y, weights=y, weights_are="precisions"))


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_on_any_scheduler(scheduler: str) -> None:
    X, y = problem(families.Gamma())
    with dask.config.set(scheduler=scheduler):
        equal(inferred(*chunked(X, y, CHUNKS), family="gamma"), inferred(X, y, family="gamma"))
