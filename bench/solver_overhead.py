"""What an iteration of a solver costs beside its arithmetic: here, and on two worker processes.

The rows are so few (2 000 × 15) that a pass over them takes some 20 µs: nearly all of what an iteration takes is overhead, and
all of it is counted as that. Run ``python bench/solver_overhead.py``; ``--write`` puts the table into docs/measured.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
from measure import machine, write_into

from solvers import L1, Penalty, Unpenalised, fit

ROWS, COLUMNS = 2_000, 15
PAGE = Path(__file__).parent.parent / "docs" / "measured.md"
SOLVERS: dict[str, Penalty] = {
    "lbfgs": Unpenalised(),
    "newton": Unpenalised(),
    "gradient": Unpenalised(),
    "proximal": L1(1e-3),
    "owlqn": L1(1e-3),
    "admm": L1(1e-3),
}


def overheads(chunks: int, rounds: int) -> dict[str, float]:
    """Return milliseconds for each pass of each solver, the median of all iterations but the first."""
    rng = np.random.default_rng(0)
    data = rng.random((ROWS, COLUMNS))
    labels = (data @ rng.normal(size=COLUMNS) > rng.logistic(size=ROWS)).astype(float)
    X = da.from_array(data, chunks=(ROWS // chunks, COLUMNS)).persist()
    y = da.from_array(labels, chunks=ROWS // chunks).persist()
    found = {}
    for solver, penalty in SOLVERS.items():
        options: dict[str, Any] = {"family": "logistic", "penalty": penalty, "solver": solver, "tol": 1e-9, "max_iter": 30}
        fit(X, y, **options)
        times = []
        for _ in range(rounds):
            trace = fit(X, y, **options).trace
            times += [(b.seconds - a.seconds) / max(b.passes - a.passes, 1) for a, b in pairwise(trace)]
        found[solver] = 1e3 * statistics.median(times)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, nargs="+", default=[2, 20])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    note = f"{machine()}, load {os.getloadavg()[0]:.1f}"
    print(note, flush=True)
    lines = [f"| ms a pass | {' | '.join(SOLVERS)} |", f"|{'---|' * (len(SOLVERS) + 1)}"]

    def measured(where: str) -> None:
        for chunks in arguments.chunks:
            found = overheads(chunks, arguments.rounds)
            lines.append(f"| {where}, {chunks} chunks | {' | '.join(f'{found[solver]:.2f}' for solver in SOLVERS)} |")
            print(lines[-1], flush=True)

    with dask.config.set(scheduler="threads"):
        measured("threads")
    quiet = {"processes": True, "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster, Client(cluster):
        measured("two workers")
    if arguments.write:
        write_into(PAGE, "overhead", [f"{note}.", "", *lines])


if __name__ == "__main__":
    main()
