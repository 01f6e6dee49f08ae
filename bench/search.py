"""Search: hyper-parameter search that fits nothing twice, beside scikit-learn's own with as many jobs.

Three problems. The document's: 10 000 × 500 rows, PCA and then logistic regression, 18 candidates on 3 folds, of which 9 PCA
fits are distinct. When it was written PCA was a singular value decomposition, which is most of the work. Today's is made from
the covariance, and most is in regressions, which all differ. Both are run; the second also with our own regression for ours.
A grid over one estimator, where there is nothing to share and nothing may be lost. And 10 000 candidates of an estimator that
does nothing, where all there is is overhead.

On a cluster ours has two worker processes of one thread. Both searches have two threads or processes, and each of these one
thread of BLAS. They run by turns; ratios are medians of those within a round. Where there is nothing to do, scikit-learn has
one job, with which it is faster. Fits are counted by the search; tests hold it to a transformer that counts.

Run ``python bench/search.py``; ``--rounds N``, ``--quick`` for small sizes, ``--write`` for the table in docs/grid_search.md.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
from measure import machine, write_into
from sklearn import model_selection as theirs
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import make_classification
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

import solvers
from solvers.search import GridSearchCV

PAGE = Path(__file__).resolve().parent.parent / "docs" / "grid_search.md"
JOBS = 2


class Nothing(ClassifierMixin, BaseEstimator):
    """An estimator that does nothing."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def fit(self, X: Any, y: Any) -> Nothing:
        self.classes_ = np.array([0, 1])
        return self

    def score(self, X: Any, y: Any) -> float:
        return float(self.number)


def document(quick: bool, how: str) -> tuple[Any, dict[str, Any], Any, Any]:
    """Return the pipeline of the document, with the solver of regressions that scikit-learn had then."""
    rows, features, parts = (1_000, 50, [5, 10, 25]) if quick else (10_000, 500, [50, 100, 250])
    X, y = make_classification(rows, features, n_redundant=features // 2, random_state=42)
    grid = {"pca__n_components": parts, "model__C": [1e-4, 1.0, 1e4], "model__penalty": ["l1", "l2"]}
    model = LogisticRegression(solver="liblinear", random_state=0)
    return Pipeline([("pca", PCA(svd_solver=how)), ("model", model)]), grid, X, y


def own(problem: tuple[Any, dict[str, Any], Any, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the document's problem with our regression: another solver, and an intercept that has no penalty."""
    estimator, grid, *_ = problem
    grid = {name: values for name, values in grid.items() if name != "model__penalty"}
    return clone(estimator).set_params(model=solvers.LogisticRegression(tol=1e-4)), {**grid, "model__l1_ratio": [1.0, 0.0]}


def single(quick: bool) -> tuple[Any, dict[str, Any], Any, Any]:
    """Return a grid over one estimator."""
    rows, features = (2_000, 20) if quick else (20_000, 100)
    X, y = make_classification(rows, features, random_state=42)
    return LogisticRegression(max_iter=200), {"C": np.geomspace(1e-3, 1e3, 12).tolist()}, X, y


def nothing(quick: bool) -> tuple[Any, dict[str, Any], Any, Any]:
    """Return many candidates of an estimator that does nothing."""
    rng = np.random.default_rng(0)
    return Nothing(), {"number": list(range(500 if quick else 10_000))}, rng.random((60, 3)), np.arange(60) % 2


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """Run ours on two worker processes of one thread each."""
    quiet: dict[str, Any] = {"dashboard_address": None, "threads_per_worker": 1}
    with distributed.LocalCluster(n_workers=JOBS, **quiet) as workers, distributed.Client(workers):
        yield


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    search = run()
    return time.perf_counter() - start, search


def compare(
    problem: tuple[Any, dict[str, Any], Any, Any], rounds: int, jobs: int | None, instead: tuple[Any, Any] | None
) -> tuple[list[float], list[float], Any, Any]:
    """Return seconds of ours and of theirs, by turns, and both searches; of ours, with another estimator and grid perhaps."""
    estimator, grid, X, y = problem
    mine: list[float] = []
    other: list[float] = []
    first, wanted = instead or (estimator, grid)
    one = {name: values[:1] for name, values in grid.items()}
    theirs.GridSearchCV(estimator, one, cv=3, n_jobs=jobs).fit(X, y)  # starts processes
    GridSearchCV(first, {name: values[:1] for name, values in wanted.items()}, cv=3, n_jobs=JOBS).fit(X, y)  # compiles
    for _ in range(rounds):
        took, ours = seconds(lambda: GridSearchCV(first, wanted, cv=3, n_jobs=JOBS).fit(X, y))
        mine.append(took)
        took, their = seconds(lambda: theirs.GridSearchCV(estimator, grid, cv=3, n_jobs=jobs).fit(X, y))
        other.append(took)
    return mine, other, ours, their


def line(name: str, mine: list[float], other: list[float], ours: Any, their: Any) -> str:
    """Return a row of the table."""
    ratio = statistics.median(b / a for a, b in zip(mine, other, strict=True))
    off = float(np.nanmax(np.abs(ours.cv_results_["mean_test_score"] - their.cv_results_["mean_test_score"])))
    same = "yes" if ours.best_index_ == their.best_index_ else "no"
    savings = ours.explain()
    fits = f"{sum(savings.plain.values())} → {sum(savings.done.values())}"
    each = statistics.median(mine) / (savings.candidates * savings.folds) * 1e6
    a, b = statistics.median(mine), statistics.median(other)
    return f"| {name} | {fits} | {a:.2f} | {b:.2f} | {ratio:.2f} | {each:.0f} | {same}, {off:.1e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", help="run the problems whose name has this in it")
    parser.add_argument("--write", action="store_true", help="put the table into docs/grid_search.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    problems = {
        "the document's, PCA as it was": lambda: document(options.quick, "full"),
        "the document's, PCA as it was, on a cluster": lambda: document(options.quick, "full"),
        "the document's, PCA of today": lambda: document(options.quick, "auto"),
        "the document's, PCA of today, on a cluster": lambda: document(options.quick, "auto"),
        "the document's, PCA of today, our regression": lambda: document(options.quick, "auto"),
        "one estimator": lambda: single(options.quick),
        "nothing to do": lambda: nothing(options.quick),
    }
    lines = [
        "| search | fits: plain → done | seconds | scikit-learn | ratio | µs a candidate and fold | same best; scores off by |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, problem in problems.items():
        if options.only is None or options.only in name:
            jobs = None if name == "nothing to do" else JOBS
            made = problem()
            instead = own(made) if "our" in name else None
            with cluster() if "cluster" in name else contextlib.nullcontext():
                lines.append(line(name, *compare(made, options.rounds, jobs, instead)))
            print(lines[-1], flush=True)
    if options.write:
        write_into(PAGE, "search", [*lines, "", f"{machine()}; {JOBS} jobs, medians of {options.rounds} rounds."])


if __name__ == "__main__":
    main()
