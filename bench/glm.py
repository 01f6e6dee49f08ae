"""Solvers beside what one would use instead, in one run, on the same data in memory, to the same accuracy.

The problem of the documents that the project grew out of: logistic regression, 15 features uniform on [0, 1), no intercept;
without a penalty, with the lasso's of scikit-learn's default strength (1 / rows), and with a stronger one. What dask-glm did
not get to is compared at the accuracy that it got to. ``error`` is the largest distance to the true coefficients.

Run ``python bench/glm.py``; ``--rows``, ``--problem``, ``--only``, ``--rounds`` and ``--limit`` bound it, ``--json`` keeps the
figures, and ``--write`` puts the tables into docs/measured.md. See `peers.py` for what is to be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import peers
from measure import machine, write_into
from race import CLOSE, Candidate, Finish, race, rows_of, table

from solvers import L1, Penalty, Unpenalised, fit
from solvers.families import Logistic
from solvers.objective import _curve, _slope, compiled

COLUMNS, CHUNKS = 15, 8
PAGE = Path(__file__).parent.parent / "docs" / "measured.md"

#: Our solvers by problem, and whose of dask-glm's they are to be compared with.
SMOOTH = {"newton": "newton", "lbfgs": "lbfgs", "bfgs": "lbfgs", "giant": "", "admm": "", "gradient": "gradient_descent"}
KINKED = {"proximal-newton": "", "owlqn": "", "admm": "admm", "proximal": "proximal_grad"}
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 3e-7, 1e-7, 3e-8, 1e-8, 1e-9)


def data(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(42)
    beta = (rng.random(COLUMNS) - 0.5) * 3
    X = rng.random((rows, COLUMNS))
    return X, (rng.random(rows) < 1 / (1 + np.exp(-X @ beta))).astype(float), beta


def value(X: np.ndarray, y: np.ndarray, penalty: Penalty, beta: np.ndarray) -> float:
    """Return the mean loss and penalty, in pieces so that they stay small."""
    total = 0.0
    for start in range(0, len(y), 100_000):
        eta = X[start : start + 100_000] @ beta
        total += float((np.logaddexp(0, eta) - y[start : start + 100_000] * eta).sum())
    return total / len(y) + penalty.value(beta)


def ours(X: Any, y: Any, penalty: Penalty) -> Iterator[Candidate]:
    for solver in SMOOTH if penalty.smooth else KINKED:

        def run(tol: float, solver: str = solver) -> np.ndarray:
            options: dict[str, Any] = {"intercept": False, "solver": solver, "tol": tol, "max_iter": 20_000}
            return fit(X, y, family="logistic", penalty=penalty, **options).coef

        yield Candidate(f"solvers, {solver}", run, TOLERANCES)


def classifier(of: peers.Problem) -> Iterator[Candidate]:
    """Stochastic gradient descent with ten passes, as in the documents; it is not after an optimum."""
    from sklearn.linear_model import SGDClassifier

    def run(passes: float) -> np.ndarray:
        model = SGDClassifier(
            loss="log_loss", penalty="l1", alpha=of.lasso, max_iter=int(passes), tol=None, fit_intercept=False
        )
        return model.fit(of.X, of.y).coef_[0]

    yield Candidate("scikit-learn, SGDClassifier of 10 passes", run, (10,))


def passes(X: Any, y: Any) -> dict[str, float]:
    """Time the passes over the data, in ms."""
    w, found = np.full(COLUMNS, 0.1), {}
    for name, body, count in (("loss and gradient", _slope, 40), ("with the Hessian", _curve, 15)):
        step, times = compiled(body, Logistic(), False, False), []
        for _ in range(count):
            start = time.perf_counter()
            step(X, y, w, 0.0)
            times.append(1e3 * (time.perf_counter() - start))
        found[name] = statistics.median(times[count // 3 :])
    return found


def run(rows: int, strength: float, arguments: argparse.Namespace) -> tuple[list[Finish], dict[str, float]]:
    """Time all candidates in turn; then ours again, to the accuracy that dask-glm's got to."""
    X, y, truth = data(rows)
    size = -(-rows // CHUNKS)
    X_ = da.from_array(X, chunks=(size, COLUMNS)).persist(scheduler="sync")
    y_ = da.from_array(y, chunks=size).persist(scheduler="sync")
    penalty: Penalty = L1(strength) if strength else Unpenalised()
    of = peers.Problem("logistic", X, y, lasso=strength)
    best = fit(X_, y_, family="logistic", penalty=penalty, intercept=False, tol=1e-13)
    least = value(X, y, penalty, best.coef)
    others = [*peers.scikit_learn(of, slow=arguments.slow), *peers.glum(of)]
    others += classifier(of) if strength and strength * rows < 1.5 else []
    others += peers.dask_glm(of, X_, y_) if strength * rows < 1.5 else []
    options: dict[str, Any] = {"rounds": arguments.rounds, "limit": arguments.limit, "truth": truth}
    mine = list(ours(X_, y_, penalty))
    asked = [one for one in [*mine, *others] if not arguments.only or any(part in one.name for part in arguments.only)]
    found = race(asked, lambda beta: value(X, y, penalty, beta), least, **options)
    again = []
    for theirs in [one for one in found if one.name.startswith("dask-glm") and not one.reached]:
        pairs = SMOOTH if penalty.smooth else KINKED
        for one in mine:
            if theirs.name == f"dask-glm, {pairs[one.name.split(', ')[1]] or '-'}":
                again.append(replace(one, name=f"{one.name}, to the gap of {theirs.name}", close=max(theirs.gap, CLOSE)))
    found += race(again, lambda beta: value(X, y, penalty, beta), least, **options)
    return found, passes(X_, y_)


def report(name: str, rows: int, found: list[Finish], seconds: dict[str, float]) -> list[str]:
    """Return the table of a problem, with the times of dask-glm's over those of ours."""
    by_name = {one.name: one for one in found}

    def other(row: Finish) -> Finish | None:
        if not row.name.startswith("solvers, "):
            return None
        _, solver, *close = row.name.split(", ", 2)
        theirs = by_name.get(close[0].removeprefix("to the gap of ")) if close else None
        if theirs is None and not close:
            theirs = by_name.get(f"dask-glm, {(SMOOTH | KINKED)[solver]}")
            theirs = theirs if theirs is not None and theirs.reached else None
        return theirs

    head = f"{name}, {rows:,} × {COLUMNS}: loss and gradient take {seconds['loss and gradient']:.1f} ms a pass"
    return [f"{head}, with the Hessian {seconds['with the Hessian']:.0f} ms.".replace(",000", " 000"), "", *table(found, other)]


PROBLEMS = {"unregularised": lambda rows: 0.0, "l1": lambda rows: 1.0 / rows, "strong l1": lambda rows: 1e-3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--problem", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=15.0, help="seconds that one run may take before no more is asked for")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--slow", action="store_true", help="add scikit-learn's saga")
    parser.add_argument("--json")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/measured.md")
    arguments = parser.parse_args()
    kept: list[dict[str, Any]] = []
    for rows in arguments.rows:
        for name in arguments.problem:
            note = f"{machine()}, load {os.getloadavg()[0]:.1f}"
            print(f"\n{name}, {rows} x {COLUMNS}: {note}", flush=True)
            with dask.config.set(scheduler="threads"):
                found, seconds = run(rows, PROBLEMS[name](rows), arguments)
            lines = report(name, rows, found, seconds)
            print("\n".join(["", *lines]), flush=True)
            kept += rows_of(found, {"problem": name, "rows": rows})
            if arguments.write:
                write_into(PAGE, f"{name}, {rows}", [f"{note[0].upper()}{note[1:]}.", "", *lines])
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(kept, indent=2))


if __name__ == "__main__":
    main()
