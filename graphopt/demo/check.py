"""The checks of the demonstration: coefficients against scikit-learn, and the runs against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

import graphopt as go
from graphopt.demo import race
from graphopt.demo.descent import Descent, curvature_bound, loss_and_gradient
from graphopt.demo.problem import INTERCEPT, breast_cancer
from graphopt.report.schedulers import running

__all__ = ["REFERENCE_ITERATIONS", "Agreement", "Reference", "agreement", "reference", "rounding"]

PENALTY = 10.0  # scikit-learn's C = 0.1; ten times the curvature of its default, so a third of the iterations are enough
REFERENCE_ITERATIONS = 200
REFERENCE_CHUNKS = 4
REFERENCE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Reference:
    """How far coefficients fitted through graphopt are from scikit-learn's, at most, on data that scikit-learn bundles."""

    difference: float
    largest: float
    tolerance: float = REFERENCE_TOLERANCE

    @property
    def good(self) -> bool:
        """Whether they agree; false for NaN."""
        return self.difference <= self.tolerance


def reference(after_each: Callable[[str], None]) -> Reference:
    """Fit the breast-cancer data with graphopt, optimised and compiled, and with scikit-learn.

    It runs in this thread whatever the scheduler asked for: it checks the mathematics, in hundreds of iterations of
    microseconds of work, and shipping those to other processes would take minutes.
    """
    from sklearn.linear_model import LogisticRegression

    problem = breast_cancer(REFERENCE_CHUNKS, PENALTY)
    chunks = problem.chunks()
    descent = Descent(curvature_bound(chunks, problem.penalty), problem.penalty)
    with running("sync", None):
        ways = race.evaluators(problem.persisted(), chunks, go.compile(loss_and_gradient))
        ours = {run: ways[run] for run in (race.GRAPHOPT, race.COMPILED)}
        betas = np.array([trace.beta for trace in race.race(ours, descent, REFERENCE_ITERATIONS, after_each).values()])
    X, y = np.concatenate([X for X, _ in chunks]), np.concatenate([y for _, y in chunks])
    assert problem.features[-1] == INTERCEPT  # scikit-learn adds its own
    model = LogisticRegression(C=1 / PENALTY, solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(X[:, :-1], y)
    expected = np.append(model.coef_[0], model.intercept_)
    return Reference(float(abs(betas - expected).max()), float(abs(expected).max()))


@dataclass(frozen=True)
class Agreement:
    """Largest absolute difference of the coefficients of each run to those of plain dask, and what rounding explains.

    ``compiled`` is None where that run was left out.
    """

    graphopt: float
    numpy: float
    compiled: float | None
    tolerance: float

    def complaint(self) -> str | None:
        """What is wrong, or None. `optimized` promises the same bits; NumPy and `compile` add in another order."""
        if not self.graphopt <= 0:  # NaN is a difference too
            return f"graphopt's coefficients differ from dask's by up to {self.graphopt:.3g}, they must be identical"
        for whose, difference in (("NumPy's", self.numpy), ("the compiled step's", self.compiled)):
            if difference is not None and not difference <= self.tolerance:
                return (
                    f"{whose} coefficients differ from dask's by up to {difference:.3g}, "
                    f"more than rounding explains ({self.tolerance:.3g})"
                )
        return None


def agreement(traces: Mapping[str, race.Trace], rows: int) -> Agreement:
    """Compare the runs on so many rows. NaN anywhere counts as a difference."""
    dask = traces[race.DASK].beta
    scale = max(1.0, float(abs(dask).max()))
    apart = {run: float(abs(trace.beta - dask).max()) for run, trace in traces.items()}
    return Agreement(
        graphopt=apart[race.GRAPHOPT],
        numpy=apart[race.NUMPY],
        compiled=apart.get(race.COMPILED),
        tolerance=rounding(rows, len(traces[race.DASK].seconds)) * scale,
    )


def rounding(rows: int, iterations: int) -> float:
    """How far rounding alone takes two runs apart that add up in different orders, relative to the coefficients.

    A gradient is a sum over the rows. Its rounding errors are as good as random, so they come to about eps * sqrt(rows) of
    the sum of the sizes; a step divides that by the curvature, which for columns of size 1 is at least a quarter of it.
    Momentum carries what a step left through all later ones: T iterations collect T (T + 1) / 2 such errors, in each run.
    """
    return float(4 * np.finfo(float).eps * np.sqrt(rows) * iterations * (iterations + 1))
