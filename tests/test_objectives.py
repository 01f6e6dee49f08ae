"""Objectives of more than a number for each row: their derivatives, and the same on NumPy, dask and CSR."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import scipy.sparse

from solvers import L1, L2, Box, ElasticNet, Family, GroupL1, Multinomial, ScaledHuber, Unpenalised, fit, path, quadratic
from solvers.data import prepare
from solvers.families import Logistic
from solvers.fit import objective_of, solve
from solvers.objective import Objective

ROWS, FEATURES = 90, 3
FAMILIES: list[Family] = [Multinomial(3), ScaledHuber(1.2)]


def problem(family: Family) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((ROWS, FEATURES))
    y = rng.integers(0, 3, ROWS) if family.name == "multinomial" else X @ [1.0, 2.0, 3.0] + rng.standard_t(2, ROWS)
    return X, y.astype(float), rng.random(ROWS)


def objective(form: str, family: Family, penalty: Any, intercept: bool, weighted: bool = True) -> Objective:
    X, y, weights = problem(family)
    rows: Any = {
        "numpy": lambda: X,
        "csr": lambda: scipy.sparse.csr_array(X),
        "dask": lambda: da.from_array(X, chunks=(40, -1)),
        "dask csr": lambda: da.from_array(X, chunks=(40, -1)).map_blocks(
            scipy.sparse.csr_matrix, meta=scipy.sparse.csr_matrix((0, 0))
        ),
    }[form]()
    return objective_of(prepare(rows, y, family, weights=weights if weighted else None), family, penalty, intercept=intercept)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_derivatives(family: Family, intercept: bool) -> None:
    F = objective("numpy", family, L2(0.1), intercept)
    beta = np.abs(np.random.default_rng(1).standard_normal(F.size)) + 0.1
    at, h = F(beta, hessian=True), 1e-6
    steps = h * np.eye(F.size)
    slopes = [(F(beta + step).value - F(beta - step).value) / (2 * h) for step in steps]
    np.testing.assert_allclose(at.gradient, slopes, rtol=1e-6, atol=1e-8)
    turns = np.array([(F(beta + step).gradient - F(beta - step).gradient) / (2 * h) for step in steps])
    assert at.hessian is not None
    if family.name == "multinomial" and intercept:  # curvature was given to what changes no loss: all intercepts together
        flat = np.zeros(F.size)
        flat[F.penalised :] = 1
        assert flat @ at.gradient == pytest.approx(0, abs=1e-12)
        turns += np.outer(flat, flat) * (at.hessian - turns)[-1, -1]
    np.testing.assert_allclose(at.hessian, turns, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("features", [3, 15, 70, 310])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_compiled_derivatives_are_numpys(dtype: str, features: int) -> None:
    """Of single precision too: the data has fewer digits then, the sums have not."""
    rng = np.random.default_rng(2)
    X, weights = rng.random((600, features)).astype(dtype), rng.random(600)
    y = (rng.random(600) < 0.4).astype(float)
    beta = rng.standard_normal(features + 1) / features
    cut = prepare(da.from_array(X, chunks=(250, -1)), y, Logistic(), weights=weights)
    here = prepare(X.astype(float), y, Logistic(), weights=weights)
    assert cut.local is None
    assert here.local is not None
    found, wanted = (objective_of(data, Logistic(), L2(0.1))(beta, hessian=True) for data in (cut, here))
    assert found.hessian is not None
    assert found.value == pytest.approx(wanted.value, rel=1e-13)
    np.testing.assert_allclose(found.gradient, wanted.gradient, atol=1e-13)
    np.testing.assert_allclose(found.hessian, wanted.hessian, rtol=1e-12, atol=1e-14)
    assert (found.hessian == found.hessian.T).all()


@pytest.mark.parametrize("form", ["csr", "dask", "dask csr"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_same_on_any_data(family: Family, form: str) -> None:
    here, there = objective("numpy", family, L2(0.1), True), objective(form, family, L2(0.1), True)
    beta = np.abs(np.random.default_rng(1).standard_normal(here.size)) + 0.1
    np.testing.assert_allclose(there.start(), here.start())
    for hessian in (False, True):
        one, other = here(beta, hessian=hessian), there(beta, hessian=hessian)
        np.testing.assert_allclose(other.value, one.value)
        np.testing.assert_allclose(other.gradient, one.gradient, atol=1e-12)
        if hessian:
            np.testing.assert_allclose(other.hessian, one.hessian, atol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("penalty", [Unpenalised(), L2(0.1), L1(0.02), ElasticNet(0.1, 0.5, positive=True)], ids=repr)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_solver_finds_the_optimum(family: Family, penalty: Any) -> None:
    X, y, weights = problem(family)
    found = {}
    for solver in ("gradient", "newton", "bfgs", "lbfgs", "proximal", "proximal-newton", "owlqn"):
        if penalty.smooth or solver.startswith("proximal") or (solver == "owlqn" and isinstance(penalty, L1)):
            options: Any = {"solver": solver, "tol": 1e-8, "max_iter": 5000}
            found[solver] = fit(X, y, family=family, penalty=penalty, weights=weights, **options)
            assert found[solver].ok, found[solver]
    best = found["proximal-newton"]
    for other in found.values():
        np.testing.assert_allclose(other.coef, best.coef, atol=1e-5)
        np.testing.assert_allclose(other.intercept, best.intercept, atol=1e-5)
    if family.name == "multinomial":
        assert best.intercept.sum() == pytest.approx(0, abs=1e-12)
    if getattr(penalty, "positive", False):
        assert (best.coef >= 0).all()
        assert (best.coef == 0).any() or family.name != "multinomial"


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_model_is_minimised_over_what_has_no_penalty_too(family: Family, intercept: bool) -> None:
    F = objective("numpy", family, L1(0.02), intercept)
    beta = np.abs(np.random.default_rng(1).standard_normal(F.size)) + 0.1
    at = F(beta, hessian=True)
    assert at.hessian is not None
    found = quadratic.minimum(F, beta, at.gradient, at.hessian, sweeps=2000, least=1e-10)
    slope = at.gradient + at.hessian @ (found - beta)
    np.testing.assert_allclose(slope[F.penalised :], 0, atol=1e-9)
    np.testing.assert_allclose(found, F.prox(found - slope, 1.0), atol=1e-8)


@pytest.mark.parametrize(("family", "solver"), [(FAMILIES[0], "giant"), (FAMILIES[1], "giant"), (FAMILIES[1], "admm")])
def test_chunks_cannot_solve_for_what_rows_share(family: Family, solver: str) -> None:
    X, y, _ = problem(family)
    with pytest.raises(ValueError, match=f"chunks .* {family.name} family; use"):
        fit(X, y, family=family, penalty=L2(0.1), solver=solver)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("form", ["numpy", "csr"])
def test_rows_of_a_chunk_are_the_objective_s(family: Family, form: str, intercept: bool) -> None:
    F = objective(form, family, Unpenalised(), intercept)
    beta = np.abs(np.random.default_rng(1).standard_normal(F.size)) + 0.1
    at = F(beta, hessian=True)
    assert F.rows is not None
    assert F.data.local is not None
    rows = F.rows(family, intercept, 1.0 / F.data.total, *F.data.local)
    loss, gradient, hessian = rows(beta, hessian=True)
    assert loss == pytest.approx(at.value, rel=1e-12)
    np.testing.assert_allclose(gradient, at.gradient, atol=1e-12)
    assert hessian is not None
    np.testing.assert_allclose(F.steady(hessian), at.hessian, atol=1e-12)
    diagonal, cross = rows.curvature(beta)
    np.testing.assert_allclose(diagonal, np.diag(hessian), atol=1e-12)
    own = F.penalised + np.arange(F.penalised) // F.data.features if intercept else np.arange(F.penalised)
    np.testing.assert_allclose(cross, intercept * hessian[np.arange(F.penalised), own], atol=1e-12)
    assert rows(F.seen(beta))[0] == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("form", ["dask", "dask csr"])
@pytest.mark.parametrize(
    "penalty",
    [Unpenalised(), L2(0.1), L1(0.02), L1(1e-4), ElasticNet(0.1, 0.5), Box(-0.2, 0.3), GroupL1(0.02, (0, 1, 2) * 3)],
    ids=repr,
)
def test_synchronous_admm_solves_for_several_classes(penalty: Any, form: str, intercept: bool) -> None:
    """Chunks of 40 rows are told apart from what all classes have in common, of which they know nothing."""
    F = objective(form, FAMILIES[0], penalty, intercept)
    wanted, found = solve(F, "proximal", tol=1e-10, max_iter=20_000), solve(F, "admm", tol=1e-8)
    assert found.ok, found
    assert found.iterations < 40
    assert found.objective == pytest.approx(wanted.objective, abs=1e-12)
    off = found.coef - wanted.coef
    np.testing.assert_allclose(off - off.mean(axis=0) if isinstance(penalty, Box) else off, 0, atol=1e-6)
    np.testing.assert_allclose(found.intercept, wanted.intercept, atol=1e-6)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_paths(family: Family, intercept: bool) -> None:
    X, y, weights = problem(family)
    options: Any = {"family": family, "intercept": intercept, "weights": weights, "tol": 1e-8}
    found = path(X, y, count=3, ratio=0.1, **options)
    assert not found[0].coef.any()
    assert fit(X, y, penalty=L1(0.99 * found.strengths[0]), **options).coef.any()
    for strength, result in zip(found.strengths, found, strict=True):
        assert result.ok
        alone = fit(X, y, penalty=L1(strength), **options)
        np.testing.assert_allclose(result.coef, alone.coef, atol=1e-6)


def test_groups_are_of_all_coefficients() -> None:
    X, y, _ = problem(Multinomial(3))
    with pytest.raises(ValueError, match="3 places for 9 coefficients"):
        fit(X, y, family=Multinomial(3), penalty=GroupL1(0.1, (0, 1, 2)))
    found = fit(X, y, family=Multinomial(3), penalty=GroupL1(0.02, (0, 1, 2) * 3), tol=1e-8, max_iter=2000)
    assert found.ok
    kept = found.coef.any(axis=0)
    assert kept.any()
    assert (found.coef[:, kept] != 0).all()


def test_a_scale_has_the_units_of_the_labels() -> None:
    X, y, _ = problem(ScaledHuber())
    one = fit(X, y, family=ScaledHuber(), tol=1e-10)
    for factor in (1e-6, 1e6):
        other = fit(X, factor * y, family=ScaledHuber(), tol=1e-10)
        np.testing.assert_allclose(other.coef, factor * one.coef, rtol=1e-6)
        assert other.beta[-1] == pytest.approx(factor * one.beta[-1])


@pytest.mark.parametrize("solver", ["gradient", "newton", "bfgs", "lbfgs", "proximal", "proximal-newton"])
def test_a_scale_where_all_fits(solver: str) -> None:
    """The optimum is on the edge of where the objective is, and it has no curvature on the way there."""
    X, _, _ = problem(ScaledHuber())
    exact = X @ [1.0, 2.0, 3.0] + 4
    off = np.where(np.arange(ROWS) < 5, 100.0, 0.0)
    for y, wanted in ((exact, [1, 2, 3]), (exact + off, [1, 2, 3]), (np.full(ROWS, 5.0), [0, 0, 0])):
        found = fit(X, y, family=ScaledHuber(), solver=solver, max_iter=3000)
        if found.ok:
            np.testing.assert_allclose(found.coef, wanted, atol=1e-4)
            assert 0 < found.beta[-1] < 1e-3
        else:  # never a wrong point that says it is right
            assert solver == "proximal"


def test_what_cannot_be() -> None:
    X, y, _ = problem(Multinomial(3))
    with pytest.raises(ValueError, match="several classes"):
        fit(X, y, family=Multinomial(3), offset=y)
    with pytest.raises(ValueError, match="labels are not whole numbers"):
        fit(X, y + 0.5, family=Multinomial(3))
    result = fit(X, y, family=Multinomial(3), penalty=L2(0.1))
    assert "intercept [" in str(result)
    again = fit(X, y, family=Multinomial(3), penalty=L2(0.1), start=result.beta)
    assert again.iterations == 0
