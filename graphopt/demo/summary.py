"""What a run of the demonstration has to say, as a value, as tables for people and as JSON for programs."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from graphopt.demo.check import Agreement, Reference
from graphopt.demo.descent import Chunks, Vector, chunked_loss_and_gradient
from graphopt.demo.problem import INTERCEPT, Problem, largest
from graphopt.demo.race import DASK, GRAPHOPT, NUMPY, RUNS, Trace
from graphopt.report.terminal import Terminal

__all__ = ["LABELS", "Fit", "Summary", "fit", "print_fit", "print_race", "to_json"]

LABELS = {NUMPY: "NumPy, 1 thread", DASK: "dask", GRAPHOPT: "dask + graphopt"}
PACKAGES = ("dask", "numpy")
SHOWN = 5  # coefficients
TOO_GOOD = 0.99  # an AUC that real data does not reach unless a column gives the answer away


@dataclass(frozen=True)
class Fit:
    """How good the fitted model is."""

    log_loss: float  # per row, without the penalty
    base_log_loss: float  # of a model that knows only the share of positives
    accuracy: float
    base_accuracy: float
    auc: float
    positives: float
    gradient: float  # the largest part of it, per row: what is left to descend
    error_to_truth: float | None


def fit(problem: Problem, chunks: Chunks, beta: Vector) -> Fit:
    """Measure the model on the data it was fitted to."""
    from sklearn.metrics import roc_auc_score

    y = np.concatenate([y for _, y in chunks])
    eta = np.concatenate([X.dot(beta) for X, _ in chunks])
    share = float(y.mean())
    loss, gradient = chunked_loss_and_gradient(chunks, beta)
    return Fit(
        log_loss=loss / len(y),
        base_log_loss=-float(share * np.log(share) + (1 - share) * np.log1p(-share)) if 0 < share < 1 else 0.0,
        accuracy=float(((eta > 0) == (y == 1)).mean()),
        base_accuracy=max(share, 1 - share),
        auc=float(roc_auc_score(y, eta)) if 0 < share < 1 else float("nan"),
        positives=share,
        gradient=float(abs(gradient + problem.penalty * beta).max()) / len(y),
        error_to_truth=None if problem.truth is None else float(abs(beta - problem.truth).max()),
    )


@dataclass(frozen=True)
class Summary:
    """All that was measured in one run of the demonstration."""

    problem: Problem
    scheduler: str
    traces: Mapping[str, Trace]
    graph_tasks: int
    tasks_run: Mapping[str, int]
    agreement: Agreement
    fit: Fit
    reference: Reference | None

    def over_numpy(self, run: str) -> float:
        """Seconds per iteration beyond the NumPy work done by one thread. Below zero when two threads beat it."""
        return self.traces[run].median - self.traces[NUMPY].median

    def speedup(self, run: str) -> float:
        """How many times faster than dask by default."""
        return self.traces[DASK].median / self.traces[run].median


def print_race(summary: Summary, terminal: Terminal) -> None:
    """The table of the three runs, and what it means in a sentence."""
    rows, columns = summary.problem.X.shape
    iterations = len(summary.traces[DASK].seconds)
    table = Table(
        title=f"{summary.problem.name}: {rows} x {columns} in {summary.problem.X.numblocks[0]} chunks, "
        f"{iterations} iterations, {summary.scheduler}",
        caption="ms: median of the iterations; tasks: in the user's graph -> run;\n"
        "us/task: time above the NumPy work, per task of that graph; speed-up: over dask",
        box=box.SIMPLE_HEAD,  # no frame: the table has to fit 80 columns
    )
    table.add_column("run", no_wrap=True)
    for heading in ("ms/iteration", "total s", "tasks", "us/task", "speed-up"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in RUNS:
        trace = summary.traces[run]
        tasks = per_task = ""
        if run != NUMPY:
            tasks = f"{summary.graph_tasks} -> {summary.tasks_run[run]}"
            per_task = f"{summary.over_numpy(run) / summary.graph_tasks * 1e6:.1f}"
        times = f"{trace.median * 1e3:.1f}", f"{sum(trace.seconds):.2f}"
        table.add_row(LABELS[run], *times, tasks, per_task, f"{summary.speedup(run):.2f} x")
    terminal.show(table)
    terminal.say(_sentence(summary))


def _sentence(summary: Summary) -> str:
    dask, ours = summary.over_numpy(DASK), summary.over_numpy(GRAPHOPT)
    text = f"Time above the NumPy work of one thread: dask {dask * 1e3:.1f} ms an iteration, "
    if ours <= 0:
        return text + f"with graphopt none (it takes {-ours * 1e3:.1f} ms less)."
    return text + f"with graphopt {ours * 1e3:.1f} ms, {dask / ours:.1f} times less."


def print_fit(summary: Summary, terminal: Terminal) -> None:
    """What the model says, so that a person can tell whether it makes sense."""
    found, problem = summary.fit, summary.problem
    beta = summary.traces[GRAPHOPT].beta
    for note in problem.notes:
        terminal.say(f"Note: {note}.")
    terminal.say(
        f"Coefficients: graphopt and dask differ by {summary.agreement.graphopt:.3g}, "
        f"NumPy and dask by {summary.agreement.numpy:.2g}."
    )
    terminal.say(
        f"Model of {problem.positive}, {found.positives:.1%} of the rows: "
        f"log-loss {found.log_loss:.5f} (without columns {found.base_log_loss:.5f}), AUC {found.auc:.4f}, "
        f"accuracy {found.accuracy:.4f} (always the commoner answer: {found.base_accuracy:.4f}); "
        f"largest gradient left {found.gradient:.2g} a row."
    )
    if found.auc > TOO_GOOD:
        terminal.say("That is too good for most data: a column may give the answer away; remove it with --drop.")
    if found.error_to_truth is not None:
        terminal.say(f"Largest error to the true coefficients: {found.error_to_truth:.4f}.")
    table = Table(title="largest coefficients", box=box.SIMPLE_HEAD)
    table.add_column("column")
    table.add_column("coefficient", justify="right")
    for name, value in largest(problem, beta, SHOWN):
        table.add_row(name, f"{value:+.4f}")
    if INTERCEPT in problem.features:
        table.add_row(INTERCEPT, f"{beta[problem.features.index(INTERCEPT)]:+.4f}")
    terminal.show(table)


def to_json(summary: Summary) -> dict[str, Any]:
    """Everything as plain values. Times are seconds."""
    rows, columns = summary.problem.X.shape
    runs = {}
    for run in RUNS:
        trace = summary.traces[run]
        runs[run] = {
            "seconds": trace.seconds,
            "median": trace.median,
            "total": sum(trace.seconds),
            "speedup_over_dask": summary.speedup(run),
            "losses": trace.losses,
            "coefficients": dict(zip(summary.problem.features, map(float, trace.beta), strict=True)),
        }
        if run != NUMPY:
            runs[run]["tasks_run"] = summary.tasks_run[run]
            runs[run]["microseconds_per_task"] = summary.over_numpy(run) / summary.graph_tasks * 1e6
    return {
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "problem": {
            "name": summary.problem.name,
            "rows": rows,
            "columns": columns,
            "chunks": summary.problem.X.numblocks[0],
            "positive": summary.problem.positive,
        },
        "scheduler": summary.scheduler,
        "iterations": len(summary.traces[DASK].seconds),
        "graph_tasks": summary.graph_tasks,
        "runs": runs,
        "agreement": asdict(summary.agreement),
        "fit": asdict(summary.fit),
        "reference": None if summary.reference is None else asdict(summary.reference),
    }
