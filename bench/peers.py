"""What one would use instead of `solvers`: each as a function of a tolerance or of a number of iterations.

Peers that are not installed are left out: ``pip install scikit-learn-intelex glum skglm dask-glm`` has all of them.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from race import Candidate

__all__ = ["Problem", "dask_glm", "glum", "scikit_learn", "skglm"]

TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows in memory, and a strength of a ridge or of a lasso beside the mean loss.

    Attributes
    ----------
    family : str
        "logistic", "poisson" or "gamma".
    X, y, weights
        Rows: an array or CSR; weights may be None.
    ridge, lasso : float
        Strengths; at most one is above 0.
    intercept : bool
        Whether there is one.
    """

    family: str
    X: Any
    y: np.ndarray
    weights: np.ndarray | None = None
    ridge: float = 0.0
    lasso: float = 0.0
    intercept: bool = False

    def both(self, coef: Any, intercept: Any) -> np.ndarray:
        """Return coefficients, and the intercept last if there is one."""
        return np.append(np.ravel(coef), np.ravel(intercept)) if self.intercept else np.ravel(coef)


def scikit_learn(of: Problem, *, slow: bool = False) -> Iterator[Candidate]:
    """Its solvers; with intelex, those of which it has its own: others of its solvers go back to scikit-learn."""
    from sklearn import linear_model

    if of.family != "logistic":
        if of.lasso:
            return
        kind = linear_model.PoissonRegressor if of.family == "poisson" else linear_model.GammaRegressor
        for solver in ("lbfgs", "newton-cholesky"):

            def run(tol: float, solver: str = solver) -> np.ndarray:
                model = kind(alpha=of.ridge, solver=solver, tol=tol, max_iter=10_000, fit_intercept=of.intercept)
                model.fit(of.X, of.y, of.weights)
                return of.both(model.coef_, model.intercept_)

            yield Candidate(f"scikit-learn, {solver}", run, TOLERANCES)
        return
    strength = of.ridge or of.lasso
    # Without a penalty intelex goes back to scikit-learn; a ridge this small changes the objective by less than 1e-15.
    C = 1.0 / (strength * len(of.y)) if strength else 1e8
    kinds: list[tuple[str, Any, str]] = []
    if of.lasso:
        kinds += [("scikit-learn", linear_model.LogisticRegression, "saga")] if slow else []
    else:
        kinds += [("scikit-learn", linear_model.LogisticRegression, name) for name in ("lbfgs", "newton-cholesky")]
        with contextlib.suppress(ImportError):
            from sklearnex.linear_model import LogisticRegression

            kinds.append(("scikit-learn-intelex", LogisticRegression, "lbfgs"))
    for name, model_kind, solver in kinds:

        def fit(tol: float, kind: Any = model_kind, solver: str = solver, name: str = name) -> np.ndarray:
            options = {"l1_ratio": 1.0} if of.lasso else {}
            model = kind(C=C, solver=solver, tol=tol, max_iter=10_000, fit_intercept=of.intercept, **options)
            with own_code(name):
                model.fit(of.X, of.y)
            return of.both(model.coef_, model.intercept_)

        yield Candidate(f"{name}, {solver}", fit, (1e-3, 1e-4, 1e-5) if solver == "saga" else TOLERANCES)


@contextlib.contextmanager
def own_code(name: str) -> Iterator[None]:
    """Refuse what intelex does by scikit-learn's code, which it says to its logger alone."""
    logger, said = logging.getLogger("sklearnex"), io.StringIO()
    handler, level = logging.StreamHandler(said), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    if name == "scikit-learn-intelex" and ("fallback" in said.getvalue() or "accelerated" not in said.getvalue()):
        raise RuntimeError("it went back to scikit-learn")


def glum(of: Problem) -> Iterator[Candidate]:
    """Iteratively reweighted least squares, with coordinate descent for the lasso."""
    try:
        from glum import GeneralizedLinearRegressor
    except ImportError:
        return
    solver = "irls-cd" if of.lasso else "irls-ls"

    def run(tol: float) -> np.ndarray:
        model = GeneralizedLinearRegressor(
            family="binomial" if of.family == "logistic" else of.family,
            link="auto" if of.family == "logistic" else "log",
            alpha=of.ridge or of.lasso,
            l1_ratio=float(of.lasso > 0),
            fit_intercept=of.intercept,
            solver=solver,
            gradient_tol=tol,
            max_iter=1_000,
        )
        model.fit(of.X, of.y, sample_weight=of.weights)
        return of.both(model.coef_, model.intercept_)

    yield Candidate(f"glum, {solver}", run, TOLERANCES)


def skglm(of: Problem) -> Iterator[Candidate]:
    """Proximal Newton with working sets; it knows neither weights nor offsets."""
    try:
        from skglm import GeneralizedLinearEstimator, datafits, penalties, solvers
    except ImportError:
        return
    if of.weights is not None:
        return

    def run(tol: float) -> np.ndarray:
        model = GeneralizedLinearEstimator(
            {"logistic": datafits.Logistic, "poisson": datafits.Poisson, "gamma": datafits.Gamma}[of.family](),
            penalties.L1(of.lasso) if of.lasso else penalties.L1_plus_L2(of.ridge, 0.0),
            solvers.ProxNewton(tol=tol, fit_intercept=of.intercept, max_iter=500),
        )
        model.fit(of.X, 2.0 * of.y - 1.0 if of.family == "logistic" else of.y)
        return of.both(model.coef_, model.intercept_)

    yield Candidate("skglm, ProxNewton", run, TOLERANCES)


def dask_glm(of: Problem, X: Any, y: Any, iterations: tuple[int, ...] = (10, 50)) -> Iterator[Candidate]:
    """Its algorithms on chunks in memory; those of the first order by numbers of iterations, for they take minutes."""
    try:
        from dask_glm import algorithms
    except ImportError:
        return
    total = len(of.y)
    if not of.lasso:
        yield Candidate("dask-glm, newton", lambda tol: algorithms.newton(X, y, tol=tol), (1e-4, 1e-6, 1e-8))
        yield Candidate("dask-glm, lbfgs", lambda tol: algorithms.lbfgs(X, y, tol=tol * total), (1e-6, 1e-7, 1e-8, 1e-10))
        yield Candidate(
            "dask-glm, gradient_descent",
            lambda count: algorithms.gradient_descent(X, y, max_iter=int(count), tol=0.0),
            iterations,
        )
        return
    strength = of.lasso * total
    # Its normalising of columns would make another penalty of this one.
    for name, algorithm in (("proximal_grad", algorithms.proximal_grad), ("admm", algorithms.admm)):
        yield Candidate(
            f"dask-glm, {name}",
            lambda count, algorithm=algorithm: algorithm(  # type: ignore[misc]
                X,
                y,
                regularizer="l1",
                lamduh=strength,
                max_iter=int(count),
                normalize=False,
                **({"tol": 0.0} if algorithm is algorithms.proximal_grad else {"abstol": 0.0, "reltol": 0.0}),
            ),
            iterations,
        )
