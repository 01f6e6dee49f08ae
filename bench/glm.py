"""Solvers beside what one would use instead, in one run, on the same data in memory, to the same accuracy.

The document's problem: logistic regression, features uniform on [0, 1), without an intercept. The *gap* is how far the mean
loss (and penalty) is above the least that anybody found; a time counts where the gap is at most 1e-12. Peers that are not
installed are left out (``pip install scikit-learn-intelex glum skglm dask-glm`` for all of them).

Run ``python bench/glm.py``; ``--rows``, ``--problem``, ``--only`` and ``--rounds`` bound it, ``--slow`` adds what takes
minutes, ``--json`` writes the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from measure import machine

from solvers import L1, Penalty, Unpenalised, fit
from solvers.families import Logistic
from solvers.objective import _slope, compiled

CLOSE = 1e-12
COLUMNS, CHUNKS = 15, 8

Candidate = Callable[[], np.ndarray]


def data(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(42)
    beta = (rng.random(COLUMNS) - 0.5) * 3
    X = rng.random((rows, COLUMNS))
    return X, (rng.random(rows) < 1 / (1 + np.exp(-X @ beta))).astype(float), beta


def objective(X: np.ndarray, y: np.ndarray, beta: np.ndarray, penalty: Penalty) -> float:
    """Return the mean loss and penalty, in pieces so that they stay small."""
    total = 0.0
    for start in range(0, len(y), 100_000):
        eta = X[start : start + 100_000] @ beta
        total += float((np.logaddexp(0, eta) - y[start : start + 100_000] * eta).sum())
    return total / len(y) + penalty.value(beta)


def ours(X: Any, y: Any, penalty: Penalty, slow: bool) -> Iterator[tuple[str, Candidate]]:
    smooth = [("newton", 1e-8), ("lbfgs", 2e-7), ("bfgs", 2e-7)] if penalty.smooth else [("proximal-newton", 1e-8)]
    more = [("proximal", 3e-8), *([("gradient", 3e-7)] if penalty.smooth else [])] if slow else []
    for solver, tol in [*smooth, *more]:
        yield (
            f"solvers, {solver}",
            lambda solver=solver, tol=tol: (
                fit(  # type: ignore[misc]
                    X, y, family="logistic", penalty=penalty, intercept=False, solver=solver, tol=tol, max_iter=20_000
                ).coef
            ),
        )


def peers(X: np.ndarray, y: np.ndarray, X_: Any, y_: Any, penalty: Penalty, slow: bool) -> Iterator[tuple[str, Candidate]]:
    """List what is installed, each with the tolerance that reaches the gap."""
    from sklearn.linear_model import LogisticRegression

    strength = getattr(penalty, "strength", 0.0)
    if not strength:
        for solver, tol in (("lbfgs", 1e-8), ("newton-cholesky", 1e-8)):
            model = LogisticRegression(C=np.inf, fit_intercept=False, solver=solver, tol=tol, max_iter=1000)
            yield f"scikit-learn, {solver}", lambda model=model: model.fit(X, y).coef_[0]  # type: ignore[misc]
        with contextlib.suppress(ImportError):
            from sklearnex.linear_model import LogisticRegression as Patched

            quick = Patched(C=np.inf, fit_intercept=False, solver="lbfgs", tol=1e-8, max_iter=1000)
            yield "scikit-learn-intelex, lbfgs", lambda: quick.fit(X, y).coef_[0]
    elif slow:
        saga = LogisticRegression(
            C=1 / (strength * len(y)), l1_ratio=1.0, fit_intercept=False, solver="saga", tol=1e-6, max_iter=1000
        )
        yield "scikit-learn, saga", lambda: saga.fit(X, y).coef_[0]
    with contextlib.suppress(ImportError):
        from glum import GeneralizedLinearRegressor

        solver, tol = ("irls-cd", 1e-10) if strength else ("irls-ls", 1e-8)
        glum = GeneralizedLinearRegressor(
            family="binomial",
            alpha=strength,
            l1_ratio=float(bool(strength)),
            fit_intercept=False,
            solver=solver,
            gradient_tol=tol,
        )
        yield f"glum, {solver}", lambda: glum.fit(X, y).coef_
    with contextlib.suppress(ImportError):
        from dask_glm import algorithms

        if not strength:
            yield "dask-glm, newton", lambda: algorithms.newton(X_, y_, tol=1e-10)
            yield "dask-glm, lbfgs", lambda: algorithms.lbfgs(X_, y_, regularizer="l2", lamduh=0.0, tol=1e-10)
            if slow:
                yield "dask-glm, gradient descent", lambda: algorithms.gradient_descent(X_, y_, tol=1e-16, max_iter=1000)
        if slow:
            yield (
                "dask-glm, proximal gradient",
                lambda: algorithms.proximal_grad(X_, y_, regularizer="l1", lamduh=strength * len(y), tol=1e-16, max_iter=1000),
            )


def passes(X: Any, y: Any, rows: int) -> dict[str, float]:
    """Time the pass that gives loss and gradient: inside `fit`, and the compiled function alone."""
    step = compiled(_slope, Logistic(), False, False)
    w = np.full(COLUMNS, 0.1)
    for _ in range(20):
        step(X, y, w, 0.0)
    found = []
    for _ in range(40):
        start = time.perf_counter()
        step(X, y, w, 0.0)
        found.append(time.perf_counter() - start)
    return {"loss and gradient, ms": 1e3 * statistics.median(found)}


def run(rows: int, problem: str, rounds: int, slow: bool, only: list[str]) -> list[dict[str, Any]]:
    """Time all candidates in turn, and return the rows of the table."""
    X, y, _ = data(rows)
    size = -(-rows // CHUNKS)
    X_ = da.from_array(X, chunks=(size, COLUMNS)).persist(scheduler="sync")
    y_ = da.from_array(y, chunks=size).persist(scheduler="sync")
    penalty: Penalty = Unpenalised() if problem == "unregularised" else L1(1e-3)
    least = objective(X, y, fit(X_, y_, family="logistic", penalty=penalty, intercept=False, tol=1e-12).coef, penalty)
    candidates = {
        name: candidate
        for name, candidate in [*ours(X_, y_, penalty, slow), *peers(X, y, X_, y_, penalty, slow)]
        if not only or any(part in name for part in only)
    }
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    gaps: dict[str, float] = {}
    for turn in range(rounds + 1):  # the first compiles, imports and fills caches
        for name, candidate in candidates.items():
            if turn and len(taken[name]) and taken[name][0] > 30:
                continue
            start = time.perf_counter()
            beta = candidate()
            taken[name].append(time.perf_counter() - start)
            gaps[name] = objective(X, y, np.asarray(beta), penalty) - least
    for name, value in passes(X_, y_, rows).items():
        print(f"{name}: {value:.2f}", flush=True)
    return [
        {
            "problem": problem,
            "rows": rows,
            "candidate": name,
            "seconds": statistics.median(times[1:] or times),
            "first": times[0],
            "gap": gaps[name],
        }
        for name, times in taken.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--problem", nargs="+", choices=["unregularised", "l1"], default=["unregularised", "l1"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine())
    found: list[dict[str, Any]] = []
    for rows in arguments.rows:
        for problem in arguments.problem:
            print(f"\n{problem}, {rows} x {COLUMNS}, load {os.getloadavg()[0]:.1f}")
            with dask.config.set(scheduler="threads"):
                table = run(rows, problem, arguments.rounds, arguments.slow, arguments.only)
            best = min(row["seconds"] for row in table if row["gap"] <= CLOSE)
            for row in table:
                note = "" if row["gap"] <= CLOSE else "  not close enough"
                print(
                    f"{row['candidate']:32} {row['seconds']:8.3f} s {row['seconds'] / best:7.1f} x  gap {row['gap']:9.1e}"
                    f"  first {row['first']:.2f} s{note}"
                )
            found += table
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
