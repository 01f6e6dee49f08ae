"""Least squares in one pass, paths of strengths, and the model that is minimised on the client."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from test_solvers import FAMILIES, FEATURES, PENALTIES, ROWS, chunked, forms, problem

from solvers import L1, L2, Box, ElasticNet, Family, GroupL1, Penalty, Unpenalised, families, fit, path, quadratic
from solvers.data import prepare
from solvers.fit import solve
from solvers.gram import GramObjective
from solvers.objective import Objective

# -- least squares in one pass -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", forms(np.zeros((ROWS, FEATURES)), np.zeros(ROWS)))
@pytest.mark.parametrize("intercept", [True, False])
def test_products_of_columns_say_what_a_pass_says(form: str, intercept: bool) -> None:
    X, y = problem(families.Normal())
    given_X, given_y = forms(X, y)[form]
    if form == "unknown chunks":
        given_X, given_y = given_X[:, :-1], given_y[:, -1]
    rng = np.random.default_rng(6)
    weights, offset = rng.integers(0, 3, ROWS), rng.random(ROWS)
    data = prepare(given_X, given_y, families.Normal(), weights=weights, offset=offset)
    one, each = (
        GramObjective(data, families.Normal(), L2(0.1), intercept=intercept),
        Objective(data, families.Normal(), L2(0.1), intercept=intercept),
    )
    for _ in range(3):
        beta = rng.standard_normal(one.size)
        ours, theirs = one(beta, hessian=True), each(beta, hessian=True)
        assert math.isclose(ours.value, theirs.value, rel_tol=1e-12)
        np.testing.assert_allclose(ours.gradient, theirs.gradient, atol=1e-12)
        np.testing.assert_allclose(ours.hessian, theirs.hessian, atol=1e-12)
    assert (one.passes, each.passes) == (1, 3)


def test_least_squares_takes_one_pass_and_loses_nothing_to_large_means() -> None:
    X, y = problem(families.Normal())
    for penalty in PENALTIES:
        assert fit(X, y, penalty=penalty, tol=1e-9).passes == 1
    near, far = fit(*chunked(X, y, (150, 250)), tol=1e-9), fit(*chunked(X, y + 1e6, (150, 250)), tol=1e-9)
    assert far.ok
    np.testing.assert_allclose(far.coef, near.coef, atol=1e-9)
    assert math.isclose(far.intercept, near.intercept + 1e6, rel_tol=1e-14)
    apart = fit(*chunked(X + 1e4, y + 1e6, (150, 250)), penalty=L1(0.01), tol=1e-9)
    np.testing.assert_allclose(apart.coef, fit(X, y, penalty=L1(0.01), tol=1e-9).coef, atol=1e-6)


def test_rows_are_looked_at_where_products_have_too_few_digits() -> None:
    rng = np.random.default_rng(11)
    X = rng.standard_normal((ROWS, 3))
    X = np.c_[X, X[:, 0] + 1e-5 * rng.standard_normal(ROWS)]
    y = X @ [1.0, 2.0, 3.0, 1.0]
    for rows in ((X, y), chunked(X, y, (150, 250))):
        close = fit(*rows, tol=1e-14)
        alone = Objective(prepare(*rows, families.Normal()), families.Normal(), Unpenalised())
        np.testing.assert_array_equal(close.coef, solve(alone, tol=1e-14).coef)
        assert close.passes > 1
        assert fit(*rows, penalty=L2(0.1)).passes == 1
        assert fit(*rows, penalty=L1(0.1)).passes == 1


def test_a_constant_feature_of_csr() -> None:
    """Products of what is not centred leave it a variance of either sign; its root was a warning."""
    X, y = problem(families.Normal())
    for number in (0.1, 0.3, 0.7, 1e3 / 3):
        wide = np.c_[X, np.full(ROWS, number)]
        for penalty in (Unpenalised(), L2(0.1)):
            found = fit(scipy.sparse.csr_matrix(wide), y, penalty=penalty, tol=1e-9)
            np.testing.assert_allclose(found.coef[:-1], fit(wide, y, penalty=penalty, tol=1e-9).coef[:-1], atol=1e-7)


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("kind", [L1, lambda a: ElasticNet(a, 0.5), lambda a: GroupL1(a, (0, 0, 1, 1, 2))])
def test_a_path_begins_where_all_coefficients_are_zero(family: Family, kind: Any) -> None:
    X, y = problem(family)
    offset = np.random.default_rng(8).random(ROWS)
    found = path(*chunked(X, y, (250, 150)), family=family, penalty=kind, count=4, ratio=0.05, offset=offset, tol=1e-8)
    assert all(result.ok for result in found)
    assert not found[0].coef.any()
    assert math.isclose(found.strengths[-1], 0.05 * found.strengths[0])
    below = fit(X, y, family=family, penalty=kind(0.99 * found.strengths[0]), offset=offset, tol=1e-8)
    assert below.coef.any()
    for strength, result in zip(found.strengths, found, strict=True):
        alone = fit(X, y, family=family, penalty=kind(strength), offset=offset, tol=1e-8)
        np.testing.assert_allclose(result.coef, alone.coef, atol=1e-6)


def test_a_path_of_least_squares_takes_one_pass() -> None:
    X, y = problem(families.Normal())
    assert sum(result.passes for result in path(X, y)) == 1
    given = path(X, y, [0.0, 0.1, 1e9])
    assert sum(result.passes for result in given) == 1
    np.testing.assert_allclose(given[0].coef, fit(X, y).coef, atol=1e-8)
    assert not given[2].coef.any()
    assert sum(result.passes for result in path(X, y, [1.0, 0.1], penalty=L2, intercept=False)) == 1
    for solver in ("owlqn", "admm"):
        same = path(X, y, count=3, solver=solver, tol=1e-8)
        for ours, theirs in zip(same, path(X, y, count=3, tol=1e-8), strict=True):
            np.testing.assert_allclose(ours.coef, theirs.coef, atol=1e-6)


def test_a_path_that_cannot_be() -> None:
    X, y = problem(families.Normal())
    with pytest.raises(ValueError, match="no strength of this penalty makes all coefficients 0"):
        path(X, y, penalty=L2)
    with pytest.raises(ValueError, match="strengths: there are none"):
        path(X, y, [])
    with pytest.raises(ValueError, match=r"path\(count=0, ratio=0.001\)"):
        path(X, y, count=0)
    assert not path(X, np.ones(ROWS), count=2)[1].coef.any()


# -- the model on the client --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [L1(0.05), Box(-0.1, 0.2), L2(0.1)], ids=lambda penalty: type(penalty).__name__)
def test_compiled_descent_gives_the_same_numbers(penalty: Penalty) -> None:
    rng = np.random.default_rng(7)
    A = rng.standard_normal((300, 120))
    hessian, gradient = A.T @ A / 300, rng.standard_normal(120)
    found = []
    for descend in (quadratic._descend, quadratic._compiled()):
        x = np.zeros(120)
        descend(x, gradient.copy(), hessian, np.diag(hessian).copy(), *penalty.kinks, 100, 1e-9)
        found.append(x)
    np.testing.assert_array_equal(*found)


def test_the_model_of_any_penalty() -> None:
    """Coordinates with and without known kinks, and acceleration, meet where the proximal gradient of the model is 0."""
    X, y = problem(families.Normal())
    of = Objective(prepare(X + 3.0, y, families.Normal()), families.Normal(), L1(0.1))
    beta = np.full(FEATURES + 1, 0.1)
    at = of(beta, hessian=True)
    found = quadratic.minimum(of, beta, at.gradient, at.hessian, sweeps=500, least=1e-12)
    assert np.abs(of.residual(found, of(found).gradient)).max() < 1e-11
    unknown = type("Unknown", (L1,), {"kinks": None})(0.1)
    tied = type("Tied", (L1,), {"separable": False})(0.1)
    for penalty in (unknown, tied):
        other = Objective(of.data, of.family, penalty)
        same = quadratic.minimum(other, beta, at.gradient, at.hessian, sweeps=500, least=1e-12)
        np.testing.assert_allclose(same, found, atol=1e-10)


def test_importing_solvers_imports_no_numba() -> None:
    code = "import sys, solvers; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
