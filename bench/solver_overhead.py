"""What an iteration of a solver costs beside its arithmetic: here, and on two worker processes.

The rows are so few (2 000 × 15) that a pass over them takes some 20 µs: nearly all of what an iteration takes is overhead, and
all of it is counted as that. ADMM's chunks solve problems of their own, in Python: the CPU time of those is shown beside it. It
is that of the worker which takes longest, and of all threads together, which share an interpreter.

Run ``python bench/solver_overhead.py``; ``--write`` puts the table into docs/measured.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
from measure import machine, write_into

from solvers import L1, Penalty, Result, Unpenalised, fit

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


def problem(chunks: int) -> tuple[da.Array, da.Array]:
    rng = np.random.default_rng(0)
    data = rng.random((ROWS, COLUMNS))
    labels = (data @ rng.normal(size=COLUMNS) > rng.logistic(size=ROWS)).astype(float)
    X = da.from_array(data, chunks=(ROWS // chunks, COLUMNS)).persist()
    return X, da.from_array(labels, chunks=ROWS // chunks).persist()


def fitted(solver: str, X: da.Array, y: da.Array) -> Result:
    return fit(X, y, family="logistic", penalty=SOLVERS[solver], solver=solver, tol=1e-9, max_iter=30)


def overhead(X: da.Array, y: da.Array, rounds: int) -> list[float]:
    """Return milliseconds for each pass of each solver, the median of all iterations but the first; solvers take turns."""
    times: dict[str, list[float]] = {solver: [] for solver in SOLVERS}
    for number in range(rounds + 1):
        for solver, found in times.items():
            trace = fitted(solver, X, y).trace
            if number:  # the first compiles
                found += [(b.seconds - a.seconds) / max(b.passes - a.passes, 1) for a, b in pairwise(trace)]
    return [1e3 * statistics.median(found) for found in times.values()]


def solves(X: da.Array, y: da.Array, run: Callable[[Callable[[], Any]], list[Any]]) -> float:
    """Return milliseconds of CPU that the chunks' own problems take in each pass of ADMM, on the worker that takes longest.

    ``run`` runs something everywhere.
    """
    run(_count)
    try:
        passes = fitted("admm", X, y).passes
    finally:
        taken = run(_counted)
    return 1e3 * max(taken) / passes


def _count() -> None:
    """Have problems of chunks timed in this process."""
    import functools
    import time

    from solvers import admm

    original, times = admm._solve, []

    @functools.wraps(original)  # by its name it is found where tasks are sent
    def counted(*args: Any, **options: Any) -> Any:
        start = time.thread_time()
        try:
            return original(*args, **options)
        finally:
            times.append(time.thread_time() - start)

    counted.times = times
    admm._solve = counted


def _counted() -> float:
    """Have them timed no more, and return the seconds that they took."""
    from solvers import admm

    counted: Any = admm._solve
    admm._solve = counted.__wrapped__
    return sum(counted.times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, nargs="+", default=[2, 20])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    note = f"{machine()}, load {os.getloadavg()[0]:.1f}"
    print(note, flush=True)
    lines = [f"| ms a pass | {' | '.join(SOLVERS)} | its solves |", f"|{'---|' * (len(SOLVERS) + 2)}"]

    def measured(where: str, run: Callable[[Callable[[], Any]], list[Any]]) -> None:
        for chunks in arguments.chunks:
            X, y = problem(chunks)
            found = [*overhead(X, y, arguments.rounds), solves(X, y, run)]
            lines.append(f"| {where}, {chunks} chunks | {' | '.join(f'{took:.2f}' for took in found)} |")
            print(lines[-1], flush=True)

    with dask.config.set(scheduler="threads"):
        measured("threads", lambda work: [work()])
    quiet = {"processes": True, "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster, Client(cluster) as client:
        measured("two workers", lambda work: [work(), *client.run(work).values()][1:])  # here too, or plans stay as they are
    if arguments.write:
        write_into(PAGE, "overhead", [f"{note}.", "", *lines])


if __name__ == "__main__":
    main()
