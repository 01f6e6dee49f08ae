"""SAGA: how near which order of rows comes in how many epochs and seconds, and what an epoch costs beside scikit-learn's.

Logistic regression on ten blocks of 5 000 rows, as in the document: the *gap* is how far the mean loss is above the least.
Epochs are counted, of one pass over all rows each; the passes that certify them are not. Then the time of an epoch, with
its certificate, on one thread: dense rows, and rows of CSR such as texts make. scikit-learn's, also on one, is a fifth of what
six take longer than one.

Run ``python bench/saga.py``; ``--quick`` for small sizes, ``--cluster`` for two worker processes too, ``--plot FILE`` draws
gaps against epochs (``docs/saga.svg`` was made so), ``--json FILE`` writes the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import scipy.sparse
from measure import machine
from sklearn.linear_model import LogisticRegression

from solvers import L1, L2, SAGA, fit

EPOCHS = 20

#: The orders that are compared: a solver, and into how many blocks the rows are cut.
VARIANTS: dict[str, tuple[SAGA, int]] = {
    "the document: whole blocks in order, running average": (SAGA(visit=0, refresh=False, pace=0.3), 10),
    "visits of 1 000 rows by turns, running average": (SAGA(visit=1_000, refresh=False), 10),
    "visits of 100 rows by turns, running average": (SAGA(visit=100, refresh=False), 10),
    "all rows shuffled, running average": (SAGA(visit=0, refresh=False), 1),
    "whole blocks in order, memory refreshed": (SAGA(visit=0), 10),
    "the default: visits by turns, memory refreshed": (SAGA(), 10),
    "the default in 2 lanes": (SAGA(lanes=2), 10),
    "the default in 10 lanes": (SAGA(lanes=10), 10),
}


def dense(rows: int, features: int = 15) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(42)
    beta = (rng.random(features) - 0.5) * 3
    X = rng.random((rows, features))
    return X, (rng.random(rows) < 1 / (1 + np.exp(-X @ beta))).astype(float)


def texts(rows: int, words: int = 50_000, length: int = 80) -> tuple[Any, np.ndarray]:
    """Make counts of words whose frequencies fall as their ranks, scaled as texts usually are."""
    rng = np.random.default_rng(42)
    often = 1 / np.arange(1, words + 1)
    often /= often.sum()
    columns = np.searchsorted(np.cumsum(often), rng.random(rows * length)).clip(0, words - 1)
    X = scipy.sparse.coo_matrix((np.ones(rows * length), (np.repeat(np.arange(rows), length), columns)), (rows, words)).tocsr()
    X.data = (1 + np.log(X.data)) * -np.log(often)[X.indices]
    X = scipy.sparse.diags(1 / np.sqrt(np.asarray(X.multiply(X).sum(axis=1)).ravel())) @ X
    beta = 5 * rng.standard_normal(words) * (rng.random(words) < 0.1)
    return X.tocsr(), (rng.random(rows) < 1 / (1 + np.exp(-X @ beta))).astype(float)


def chunked(X: Any, y: np.ndarray, chunks: int) -> list[Any]:
    size = -(-len(y) // chunks)
    parts = [da.from_array(X[start : start + size], chunks=-1, asarray=False) for start in range(0, len(y), size)]
    return list(dask.persist(da.concatenate(parts), da.from_array(y, chunks=size)))


def converging(rows: int) -> list[dict[str, Any]]:
    """Follow the gap of each variant."""
    X, y = dense(rows)
    how: dict[str, Any] = {"family": "logistic", "intercept": False}
    least = fit(X, y, tol=1e-13, **how).objective
    found = []
    for name, (solver, blocks) in VARIANTS.items():
        arrays = chunked(X, y, blocks)
        fit(*arrays, solver=solver, tol=0, max_iter=1, **how)  # compiles
        result = fit(*arrays, solver=solver, tol=0, max_iter=EPOCHS, **how)
        gaps = [max(point.objective - least, 0.0) for point in result.trace]
        near = [point.seconds for point, gap in zip(result.trace, gaps, strict=True) if gap <= 1e-9]
        found.append({"variant": name, "gaps": gaps, "seconds": result.seconds, "near": near[0] if near else None})
        words = " ".join(f"{gaps[epoch]:.0e}" for epoch in (1, 2, 3, 5, 10, 20) if epoch < len(gaps))
        print(f"{name:55} {words:48} to 1e-9: {f'{near[0]:.3f} s' if near else 'never'}", flush=True)
    return found


def epochs(rows: int, text_rows: int) -> list[dict[str, Any]]:
    """Time an epoch beside scikit-learn's."""
    found = []
    problems: list[tuple[str, Any, float]] = [("dense", dense(rows), 1e-3), ("texts", texts(text_rows), 1e-5)]
    for name, (X, y), strength in problems:
        arrays = chunked(X, y, 8)
        for penalty in (L1(strength), L2(strength)):
            ratio = float(isinstance(penalty, L1))
            times: dict[str, list[float]] = {"SAGA()": [], "SAGA(lanes=2)": [], "scikit-learn": []}
            for turn in range(4):
                for solver in (SAGA(), SAGA(lanes=2)):
                    # One thread for everything, its certificates too, as scikit-learn has; two lanes have two.
                    with dask.config.set(scheduler="sync" if solver.lanes == 1 else "threads"):
                        result = fit(
                            *arrays, family="logistic", penalty=penalty, intercept=False, solver=solver, tol=0, max_iter=5
                        )
                    times["SAGA()" if solver.lanes == 1 else "SAGA(lanes=2)"] += [per_epoch(result)] * (turn > 0)
                times["scikit-learn"] += [theirs(X, y, strength, ratio)] * (turn > 0)
            base = statistics.median(times["scikit-learn"])
            for solver_name, seconds in times.items():
                middle = statistics.median(seconds)
                found.append(
                    {"problem": name, "penalty": str(penalty), "solver": solver_name, "seconds": middle, "ratio": middle / base}
                )
                print(
                    f"{name:6} {penalty!s:24} {solver_name:14} {1e3 * middle:7.0f} ms an epoch, {middle / base:.2f} x",
                    flush=True,
                )
    return found


def per_epoch(result: Any) -> float:
    return float(result.trace[-1].seconds - result.trace[0].seconds) / result.iterations


def theirs(X: Any, y: np.ndarray, strength: float, ratio: float) -> float:
    taken = []
    for count in (1, 6):
        model = LogisticRegression(
            C=1 / (strength * len(y)), l1_ratio=ratio, fit_intercept=False, solver="saga", tol=0, max_iter=count, random_state=0
        )
        start = time.perf_counter()
        model.fit(X, y)
        taken.append(time.perf_counter() - start)
    return (taken[1] - taken[0]) / 5


def on_cluster(rows: int) -> list[dict[str, Any]]:
    """Sequential and in lanes on two worker processes: seconds to a gap of 1e-9."""
    X, y = dense(rows)
    least = fit(X, y, family="logistic", intercept=False, tol=1e-13).objective
    found = []
    quiet = {"dashboard_address": ":0", "scheduler_kwargs": {"dashboard": False}}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster, distributed.Client(cluster):
        arrays = chunked(X, y, 8)
        distributed.wait(arrays)
        for solver in (SAGA(), SAGA(lanes=2), SAGA(lanes=8)):
            for _ in range(2):  # the first compiles
                result = fit(*arrays, family="logistic", intercept=False, solver=solver, tol=0, max_iter=8)
            near = [point for point in result.trace if point.objective - least <= 1e-9]
            row = {"solver": str(solver), "epoch": per_epoch(result), "near": near[0].seconds if near else None}
            found.append({**row, "epochs": near[0].iteration if near else None})
            words = f"{near[0].iteration} epochs, {near[0].seconds:.2f} s to 1e-9" if near else "not within 1e-9"
            print(f"2 workers, lanes={solver.lanes}: {row['epoch']:.2f} s an epoch; {words}", flush=True)
    return found


def draw(found: list[dict[str, Any]], filename: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for row in found:
        axes.semilogy(range(len(row["gaps"])), np.maximum(row["gaps"], 1e-16), marker=".", label=row["variant"])
    axes.set(xlabel="epochs", ylabel="mean loss above the least", title="SAGA on ten blocks of 5 000 rows")
    axes.legend(fontsize="x-small")
    figure.savefig(filename, metadata={"Date": None})


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    with warnings.catch_warnings(), dask.config.set(scheduler="threads"):
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cluster", action="store_true")
    parser.add_argument("--plot")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    rows, text_rows = (100_000, 10_000) if arguments.quick else (1_000_000, 100_000)
    print(machine())
    with quietly():
        found: dict[str, Any] = {"gaps": converging(50_000), "epochs": epochs(rows, text_rows)}
    if arguments.cluster:
        found["cluster"] = on_cluster(rows)
    if arguments.plot:
        draw(found["gaps"], arguments.plot)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
