"""The checks of the demonstration: coefficients against scikit-learn, and the three runs against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.demo import race
from graphopt.demo.descent import Descent, curvature_bound
from graphopt.demo.problem import INTERCEPT, breast_cancer
from graphopt.demo.schedulers import running

__all__ = ["REFERENCE_ITERATIONS", "Agreement", "Reference", "agreement", "reference"]

PENALTY = 10.0  # scikit-learn's C = 0.1; ten times the curvature of its default, so a third of the iterations are enough
REFERENCE_ITERATIONS = 200
REFERENCE_CHUNKS = 4
REFERENCE_TOLERANCE = 1e-4
ROUNDING = 1e-9  # relative: sums over chunks in another order, carried through all iterations


@dataclass(frozen=True)
class Reference:
    """How far coefficients fitted through graphopt are from scikit-learn's, on data that scikit-learn bundles."""

    difference: float
    largest: float
    tolerance: float = REFERENCE_TOLERANCE

    @property
    def good(self) -> bool:
        """Whether they agree; false for NaN."""
        return self.difference <= self.tolerance


def reference(after_each: Callable[[str], None]) -> Reference:
    """Fit the breast-cancer data with graphopt and with scikit-learn.

    It runs in this thread whatever the scheduler asked for: it checks the mathematics, in hundreds of iterations of
    microseconds of work, and shipping those to other processes would take minutes.
    """
    from sklearn.linear_model import LogisticRegression

    problem = breast_cancer(REFERENCE_CHUNKS, PENALTY)
    chunks = problem.chunks()
    descent = Descent(curvature_bound(chunks, problem.penalty), problem.penalty)
    with running("sync", None):
        evaluate = {race.GRAPHOPT: race.evaluators(problem, chunks)[race.GRAPHOPT]}
        beta = race.race(evaluate, descent, REFERENCE_ITERATIONS, after_each)[race.GRAPHOPT].beta
    X, y = np.concatenate([X for X, _ in chunks]), np.concatenate([y for _, y in chunks])
    assert problem.features[-1] == INTERCEPT  # scikit-learn adds its own
    model = LogisticRegression(C=1 / PENALTY, solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(X[:, :-1], y)
    expected = np.append(model.coef_[0], model.intercept_)
    return Reference(float(abs(beta - expected).max()), float(abs(expected).max()))


@dataclass(frozen=True)
class Agreement:
    """Largest absolute difference of the coefficients of two runs to those of plain dask, and what is allowed."""

    graphopt: float
    numpy: float
    numpy_tolerance: float

    def complaint(self) -> str | None:
        """What is wrong, or None. graphopt promises the same bits; NumPy adds chunks in another order."""
        if not self.graphopt <= 0:  # NaN is a difference too
            return f"graphopt's coefficients differ from dask's by up to {self.graphopt:.3g}, they must be identical"
        if not self.numpy <= self.numpy_tolerance:
            return (
                f"NumPy's coefficients differ from dask's by up to {self.numpy:.3g}, "
                f"more than rounding explains ({self.numpy_tolerance:.3g})"
            )
        return None


def agreement(traces: Mapping[str, race.Trace]) -> Agreement:
    """Compare the three runs. NaN anywhere counts as a difference."""
    dask = traces[race.DASK].beta
    scale = max(1.0, float(abs(dask).max()))
    return Agreement(
        graphopt=float(abs(traces[race.GRAPHOPT].beta - dask).max()),
        numpy=float(abs(traces[race.NUMPY].beta - dask).max()),
        numpy_tolerance=ROUNDING * scale,
    )
