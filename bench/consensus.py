"""Consensus: asynchronous ADMM beside synchronous, with chunks that are uneven and one worker that is ten times slower.

First, what the client does for a report: 1 000 chunks of 100 features, answers as they would come, no tasks. Then two problems
on worker processes of one thread each: l1 least squares as in the document, scaled to one machine, and real policies in order
of age of the insured, so that no chunk is like another. One worker sleeps nine times as long as a chunk took it on the
processor, so that workers which share few cores do not make it slower yet. Counted is the time from the first task until the
objective stays within 1e-4 of the least, relatively; it is evaluated afterwards, at the points that were recorded. Runs of the
variants take turns, and medians are compared.

Run ``python bench/consensus.py``; ``--rows`` and ``--workers`` for other sizes, ``--data`` says where beMTPL97.parquet is,
``--write`` puts the tables into docs/consensus.md and draws docs/consensus_*.svg.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from measure import machine, write_into

from solvers import L1, ConsensusADMM, Huber, fit
from solvers.consensus import teams
from solvers.consensus.core import Core, Report, Rules
from solvers.consensus.problem import solve
from solvers.consensus.prox import Prox
from solvers.consensus.record import Record, draw_residuals, draw_tasks
from solvers.data import prepare
from solvers.families import family_of
from solvers.fit import objective_of

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/consensus.md"
VARIANTS = ("synchronous", "single", "batched")
#: Of each problem the family, and how many times fewer workers and chunks it has than are asked for.
PROBLEMS: dict[str, tuple[Any, int, int]] = {
    "document": (Huber(1e6), 1, 1),  # which is least squares, by rows
    "two": (Huber(1e6), 2, 1),
    "fewer": (Huber(1e6), 1, 3),
    "moments": ("normal", 1, 1),
    "policies": ("logistic", 1, 1),
}
SLOWER = 10
NEAR = 1e-4


# -- the update loop ---------------------------------------------------------------------------------------------------


def updates(chunks: int = 1_000, features: int = 100, reports: int = 5_000) -> dict[str, float]:
    """Return microseconds for a report, of each variant: from the answer to the next ask."""
    rng = np.random.default_rng(0)
    answers = rng.normal(0, 1e-3, (64, features))
    found = {}
    for variant, batch in (("single", 1), ("batched", 1), ("batched", 4), ("synchronous", 1)):
        rules = Rules(variant != "single", 1 if variant == "synchronous" else 20 * chunks, chunks, abstol=0.0, reltol=0.0)
        prox, z = Prox(L1(0.01), np.ones(features), features), rng.normal(size=features)
        core = Core(rules, prox, [1 / chunks] * chunks, z, np.tile(z, (chunks, 1)))
        waiting = [ask.chunk for ask in core.begin()]
        begun = time.perf_counter()
        for done in range(0, reports, batch):
            some, waiting = waiting[:batch], waiting[batch:]
            waiting += [
                ask.chunk for ask in core.take([Report(chunk, core.z + answers[(done + chunk) % 64]) for chunk in some])
            ]
        name = f"{variant}, {batch} at a time" if variant == "batched" else variant
        found[name] = 1e6 * (time.perf_counter() - begun) / reports
    return found


# -- problems ----------------------------------------------------------------------------------------------------------


def uneven(rows: int, chunks: int) -> tuple[int, ...]:
    """Cut rows into chunks of which the largest are some eight times the smallest."""
    sizes = np.exp(np.random.default_rng(7).uniform(0, np.log(8), chunks))
    bounds = np.round(np.cumsum(sizes) / sizes.sum() * rows).astype(int)
    return tuple(np.diff([0, *bounds]).tolist())


def document(rows: int, chunks: int) -> dict[str, Any]:
    """l1 least squares: 100 features, ten of which say nothing, noise 2, a strength of 7.2 beside the sum of losses."""
    beta = np.random.default_rng(0).random(100)
    beta[::10] = 0.0

    def block(block_info: Any = None) -> np.ndarray:
        begin, end = block_info[None]["array-location"][0]
        rng = np.random.default_rng(begin)
        X = rng.standard_normal((end - begin, 101))
        X[:, 100] = X[:, :100] @ beta + 2.0 * X[:, 100]
        return X

    both = da.map_blocks(block, chunks=(uneven(rows, chunks), 101), dtype=float, meta=np.empty((0, 0)))
    return {"arrays": (both[:, :100], both[:, 100]), "penalty": L1(7.2 / rows), "intercept": False}


def policies(path: Path, chunks: int) -> dict[str, Any]:
    """Whether there was a claim, by what is known of car and insured, in the order of age."""
    import pandas as pd

    table = pd.read_parquet(path).sort_values("ageph", kind="stable")
    words = pd.get_dummies(table[["coverage", "sex", "fuel", "use", "fleet"]], drop_first=True, dtype=float)
    numbers = table[["ageph", "bm", "agec", "power", "expo"]].astype(float)
    X = np.hstack([words.to_numpy(), ((numbers - numbers.mean()) / numbers.std()).to_numpy()])
    y = table["claim"].to_numpy().astype(float)
    cut = uneven(len(y), chunks)
    return {"arrays": (da.from_array(X, chunks=(cut, -1)), da.from_array(y, chunks=(cut,))), "penalty": L1(1e-4)}


# -- on workers --------------------------------------------------------------------------------------------------------


def _slowly(*asked: Any) -> np.ndarray:
    begun = time.thread_time()
    found = solve(*asked)
    time.sleep((SLOWER - 1) * (time.thread_time() - begun))
    return found


def _solve_by(function: Callable[..., np.ndarray]) -> None:
    """Let the tasks of this process solve by another function."""
    teams.solve = function  # type: ignore[assignment]


def measured(client: distributed.Client, family: Any, problem: dict[str, Any], rounds: int) -> dict[str, list[Record | Any]]:
    """Fit by turns, and return for each variant its runs: seconds from the first task to near enough, and the record."""
    X, y = client.persist(problem["arrays"])
    distributed.wait([X, y])
    options = {name: value for name, value in problem.items() if name != "arrays"}
    exact = "normal" if isinstance(family, Huber) else family
    least = fit(X, y, family=exact, solver="proximal-newton", tol=1e-12, **options).objective
    kind = family_of(exact)
    objective = objective_of(prepare(X, y, kind), kind, options["penalty"], intercept=options.get("intercept", True))
    slow = min(client.scheduler_info()["workers"])
    client.run(_solve_by, _slowly, workers=[slow])
    runs: dict[str, list[Any]] = {variant: [] for variant in VARIANTS}
    try:
        fit(X, y, family=family, solver=ConsensusADMM(rounds=1), max_iter=1, **options)  # compiles
        for _ in range(rounds):
            for variant, found in runs.items():
                result = fit(X, y, family=family, solver=ConsensusADMM(variant), tol=1e-6, **options)
                assert result.ok, result
                found.append((near(result.record, objective, least), result))
    finally:
        client.run(_solve_by, solve)
    return runs


def near(record: Record, objective: Any, least: float) -> float:
    """Return seconds from the first task until the objective stays within `NEAR` of the least."""
    first = min(task.begun for task in record.tasks)
    far = first
    for (_, _), (seconds, beta) in zip([(0.0, None), *record.points], record.points, strict=False):
        value = objective(beta).value + objective.nonsmooth(beta)
        if value - least > NEAR * abs(least):
            far = seconds
    after = [seconds for seconds, _ in record.points if seconds > far]
    return (after[0] if after else record.points[-1][0]) - first


def lines_of(runs: dict[str, list[Any]]) -> list[str]:
    """Return the table of a problem."""
    base = statistics.median(seconds for seconds, _ in runs["synchronous"])
    lines = ["| variant | s to 1e-4 | of synchronous | updates | tasks | s to the certificate |", "|---|---|---|---|---|---|"]
    for variant, found in runs.items():
        middle = statistics.median(seconds for seconds, _ in found)
        whole = statistics.median(result.seconds for _, result in found)
        record = found[0][1].record
        ratio = f"{base / middle:.1f} × faster" if variant != "synchronous" else ""
        lines.append(f"| {variant} | {middle:.2f} | {ratio} | {len(record.residuals)} | {len(record.tasks)} | {whole:.2f} |")
    return lines


def draw(runs: dict[str, list[Any]], filename: Path) -> None:
    """Draw residuals and tasks of each variant, as long as synchronous takes to come near."""
    matplotlib.rcParams["svg.hashsalt"] = "consensus"
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey="row")
    end = 1.3 * runs["synchronous"][0][0]
    for column, (seconds, result) in enumerate(found[0] for found in runs.values()):
        first = min(task.begun for task in result.record.tasks)
        part = Record(result.record.variant)
        part.tasks = [task._replace(begun=task.begun - first, ended=task.ended - first) for task in result.record.tasks]
        part.tasks = sorted((task for task in part.tasks if task.begun < end), key=lambda task: str(task.place))
        kept = [i for i, when in enumerate(result.record.seconds) if when - first < end]
        part.seconds = [result.record.seconds[i] - first for i in kept]
        part.residuals = [result.record.residuals[i] for i in kept]
        draw_residuals(axes[0, column], part)
        draw_tasks(axes[1, column], part)
        for row in axes[:, column]:
            row.axvline(seconds, color="black", linestyle="--", linewidth=0.8, label="objective within 1e-4 from here on")
            row.set(xlim=(0, end))
        axes[0, column].set_title(f"{part.variant}: within 1e-4 after {seconds:.2f} s", fontsize=10)
        axes[1, column].set_title(axes[1, column].get_title(), fontsize=10)
        for bars in axes[1, column].collections:
            bars.set_rasterized(True)
    lines, labels = axes[0, 0].get_legend_handles_labels()
    for row in axes[0]:
        row.set(xlabel="")
        row.get_legend().remove()
    for row in axes[:, 1:].ravel():
        row.set(ylabel="")
    names = [text.get_text() for text in axes[1, 0].get_yticklabels()]
    axes[1, 0].set_yticks(range(len(names)), [f"slow {names[0]}", *names[1:]])  # it is the first
    figure.legend(lines, labels, loc="outside lower center", ncols=3)
    figure.savefig(filename, metadata={"Date": None}, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["updates", *PROBLEMS])
    parser.add_argument("--data", type=Path, default=os.environ.get("BEMTPL97", ROOT / "../shared/data/beMTPL97.parquet"))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    note = f"{machine()}, load {os.getloadavg()[0]:.1f}"
    print(note, flush=True)
    if "updates" in arguments.only:
        found = updates()
        lines = ["| variant | µs for a report |", "|---|---|", *[f"| {name} | {each:.0f} |" for name, each in found.items()]]
        print("\n".join(lines), flush=True)
        if arguments.write:
            write_into(PAGE, "updates", [f"{note}.", "", *lines])
    for name, (family, fewer_workers, fewer_chunks) in PROBLEMS.items():
        if name not in arguments.only or (family == "logistic" and not Path(arguments.data).exists()):
            continue
        workers, chunks = arguments.workers // fewer_workers, arguments.chunks // fewer_chunks
        problem = policies(Path(arguments.data), chunks) if family == "logistic" else document(arguments.rows, chunks)
        quiet: dict[str, Any] = {"dashboard_address": ":0", "scheduler_kwargs": {"dashboard": False}}
        with (
            dask.config.set({"distributed.scheduler.work-stealing": True}),
            distributed.LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, **quiet) as cluster,
            distributed.Client(cluster) as client,
        ):
            runs = measured(client, family, problem, arguments.rounds)
        head = f"{note}, {workers} workers of one thread, one {SLOWER} × slower, {chunks} uneven chunks"
        print("\n".join(["", name, *lines_of(runs)]), flush=True)
        if arguments.write:
            write_into(PAGE, name, [f"{head}.", "", *lines_of(runs)])
            if name in ("document", "policies"):
                draw(runs, ROOT / f"docs/consensus_{name}.svg")


if __name__ == "__main__":
    main()
