"""Solvers beside scikit-learn, glum and skglm on real policies: 163 212 rows, 617 columns, seven of them not 0 in a row; CSR.

Belgian motor third-party liability of 1997, beMTPL97 of the R package CASdatasets as a Parquet file; it is not part of the
project. Coverage, sex, fuel, use, fleet, bonus-malus class and postcode, one column for each value, and an intercept; claims
(logistic), their number by exposure (Poisson), their amount where there is one (gamma); a ridge or a lasso. Times include what
each makes of CSR before it begins.

Run ``python bench/real.py --data FILE``; without it the file is looked for where BEMTPL97 says, and beside the project
in ``../shared/data``. ``--only``, ``--rounds`` and ``--limit`` bound it, ``--write`` puts the tables into docs/measured.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import peers
import scipy.sparse
from measure import machine, write_into
from race import Candidate, Finish, race, table

from solvers import L1, L2, Penalty, fit
from solvers.families import family_of

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "measured.md"
COLUMNS = ["coverage", "sex", "fuel", "use", "fleet", "bm", "postcode"]
STRENGTH = 1e-4


def load(path: Path) -> dict[str, peers.Problem]:
    """Return the problems: rows, labels and weights."""
    table = pd.read_parquet(path)
    X = scipy.sparse.csr_matrix(pd.get_dummies(table[COLUMNS].astype(str)).to_numpy(float))
    exposure, amount = table.expo.to_numpy(float), table.amount.to_numpy(float)
    rate, paid = table.nclaims.to_numpy(float) / exposure, amount > 0
    return {
        "logistic": peers.Problem("logistic", X, table.claim.astype(int).to_numpy(float), intercept=True),
        "poisson": peers.Problem("poisson", X, rate, exposure, intercept=True),
        "gamma": peers.Problem("gamma", X[paid], amount[paid], intercept=True),
    }


def value(of: peers.Problem, penalty: Penalty, beta: np.ndarray) -> float:
    """Return the mean loss and penalty."""
    weights = np.ones(len(of.y)) if of.weights is None else of.weights
    losses = family_of(of.family).losses(of.X @ beta[:-1] + beta[-1], of.y)
    return float(weights @ losses / weights.sum() + penalty.value(beta[:-1]) + 0.5 * penalty.ridge * (beta[:-1] ** 2).sum())


def ours(of: peers.Problem, penalty: Penalty) -> Iterator[Candidate]:
    names = ["auto", "newton", "lbfgs"] if penalty.smooth else ["proximal-newton", "owlqn", "admm"]
    for solver in names:

        def run(tol: float, solver: str = solver) -> np.ndarray:
            options: dict[str, Any] = {"family": of.family, "penalty": penalty, "weights": of.weights}
            return fit(of.X, of.y, solver=solver, tol=tol, max_iter=2_000, **options).beta

        yield Candidate(f"solvers, {solver}", run, peers.TOLERANCES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("BEMTPL97", ROOT / "../shared/data/beMTPL97.parquet"))
    parser.add_argument(
        "--family", nargs="+", choices=["logistic", "poisson", "gamma"], default=["logistic", "poisson", "gamma"]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=3.0)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if not Path(arguments.data).exists():
        print("bench/real.py: beMTPL97.parquet is not here; --data says where it is. Nothing was measured.")
        return
    problems = load(Path(arguments.data))
    for family in arguments.family:
        for penalty in (L2(STRENGTH), L1(STRENGTH)):
            base = problems[family]
            ridge, lasso = (STRENGTH, 0.0) if penalty.smooth else (0.0, STRENGTH)
            of = peers.Problem(family, base.X, base.y, base.weights, ridge, lasso, intercept=True)
            head = f"{family}, {penalty!r}, {of.X.shape[0]} × {of.X.shape[1]}"
            note = f"{machine()}, load {os.getloadavg()[0]:.1f}"
            print(f"\n{head}: {note}", flush=True)
            best = fit(of.X, of.y, family=family, penalty=penalty, weights=of.weights, solver="proximal-newton", tol=1e-13)
            least = value(of, penalty, best.beta)
            asked = [*ours(of, penalty), *peers.scikit_learn(of), *peers.glum(of), *peers.skglm(of)]
            asked = [one for one in asked if not arguments.only or any(part in one.name for part in arguments.only)]
            options: dict[str, Any] = {"rounds": arguments.rounds, "limit": arguments.limit}
            found = race(asked, lambda beta: value(of, penalty, beta), least, **options)  # noqa: B023
            lines = table(found, lambda row: _best(found, row))  # noqa: B023
            print("\n".join(["", *lines]), flush=True)
            if arguments.write:
                write_into(PAGE, f"{family}, {'ridge' if penalty.smooth else 'lasso'}", [f"{note}.", "", *lines])


def _best(found: list[Finish], row: Finish) -> Finish | None:
    """Return the fastest of the others that reached the gap, beside rows of ours."""
    others = [one for one in found if not one.name.startswith("solvers") and one.reached]
    return min(others, key=lambda one: one.seconds, default=None) if row.name.startswith("solvers") else None


if __name__ == "__main__":
    main()
