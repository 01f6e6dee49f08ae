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
from graphopt.demo.race import COMPILED, DASK, GRAPHOPT, NUMPY, RUNS, Compilation, Trace
from graphopt.report.terminal import Terminal

__all__ = ["LABELS", "Fit", "Summary", "fit", "print_fit", "print_race", "result", "to_json"]

LABELS = {NUMPY: "NumPy, 1 thread", DASK: "dask", GRAPHOPT: "dask + graphopt", COMPILED: "graphopt.compile"}
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
    compilation: Compilation | None
    agreement: Agreement
    fit: Fit
    reference: Reference | None

    @property
    def runs(self) -> tuple[str, ...]:
        """The names of the runs, in the order in which to show them."""
        return tuple(run for run in RUNS if run in self.traces)

    @property
    def beta(self) -> Vector:
        """The coefficients that are the outcome."""
        return result(self.traces).beta

    def over_numpy(self, run: str) -> float:
        """Seconds per iteration beyond the NumPy work done by one thread. Below zero when two threads beat it."""
        return self.traces[run].median - self.traces[NUMPY].median

    def speedup(self, run: str) -> float:
        """How many times faster than dask by default."""
        return self.traces[DASK].median / self.traces[run].median


def result(traces: Mapping[str, Trace]) -> Trace:
    """The run whose coefficients are the outcome: the compiled one, or where there is none, dask with graphopt."""
    return traces.get(COMPILED, traces[GRAPHOPT])


def print_race(summary: Summary, terminal: Terminal) -> None:
    """The table of the runs, and what it means in a sentence."""
    rows, columns = summary.problem.X.shape
    iterations = len(summary.traces[DASK].seconds)
    table = Table(
        title=f"{summary.problem.name}: {rows} x {columns} in {summary.problem.X.numblocks[0]} chunks\n"
        f"{iterations} iterations, {summary.scheduler}",
        caption=_caption(summary),
        box=box.SIMPLE_HEAD,  # no frame: the table has to fit 80 columns
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("run", no_wrap=True)
    for heading in ("ms/iteration", "total s", "tasks", "us/task", "speed-up"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in summary.runs:
        trace = summary.traces[run]
        tasks = per_task = ""
        if run != NUMPY:
            tasks = _tasks(summary, run)
            per_task = f"{summary.over_numpy(run) / summary.graph_tasks * 1e6:.1f}"
        times = f"{trace.median * 1e3:.1f}", f"{sum(trace.seconds):.2f}"
        table.add_row(LABELS[run], *times, tasks, per_task, f"{summary.speedup(run):.2f} x")
    terminal.show(table)
    terminal.say(_sentence(summary))
    terminal.say(_about_compile(summary))


def _caption(summary: Summary) -> str:
    """What the columns are, in lines no wider than the table."""
    plan = "" if summary.compilation is None else ",\nor kernels/lanes of the plan: functions and calls of them"
    return (
        "ms: median of the iterations; us/task: time above the NumPy work,\n"
        f"per task of the user's graph; tasks: in that graph -> run{plan};\n"
        "speed-up: over dask"
    )


def _tasks(summary: Summary, run: str) -> str:
    """How many tasks are run of how many, or what a plan makes of them."""
    if run == COMPILED and summary.compilation is not None:
        return f"{summary.compilation.kernels}/{summary.compilation.lanes}"
    return f"{summary.graph_tasks} -> {summary.tasks_run[run]}"


def _sentence(summary: Summary) -> str:
    dask = summary.over_numpy(DASK)
    parts = [f"dask {dask * 1e3:.1f} ms an iteration"]
    for run, name in ((GRAPHOPT, "with graphopt"), (COMPILED, "compiled")):
        if run in summary.traces:
            ours = summary.over_numpy(run)
            less = f"{ours * 1e3:.1f} ms, {dask / ours:.1f} times less" if ours > 0 else f"none ({-ours * 1e3:.1f} ms less)"
            parts.append(f"{name} {less}")
    return f"Time above the NumPy work of one thread: {'; '.join(parts)}."


def _about_compile(summary: Summary) -> str:
    """What the first call took, which no iteration contains, or why there was none."""
    if summary.compilation is None:
        return "Left out: graphopt.compile, which runs on this process's threads or on a cluster, not on a pool of processes."
    seconds = summary.compilation.first_call
    return f"Compiled, the first call took {seconds:.2f} s (tracing, compilation and a run); it is not one of the iterations."


def print_fit(summary: Summary, terminal: Terminal) -> None:
    """What the model says, so that a person can tell whether it makes sense."""
    found, problem = summary.fit, summary.problem
    beta = summary.beta
    for note in problem.notes:
        terminal.say(f"Note: {note}.")
    terminal.say(_agreement(summary.agreement))
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


def _agreement(found: Agreement) -> str:
    compiled = "" if found.compiled is None else f"compiled and dask by {found.compiled:.2g}, "
    return (
        f"Coefficients: graphopt and dask differ by {found.graphopt:.3g}, {compiled}NumPy and dask by {found.numpy:.2g} "
        f"(rounding explains {found.tolerance:.0e})."
    )


def to_json(summary: Summary) -> dict[str, Any]:
    """Everything as plain values. Times are seconds."""
    rows, columns = summary.problem.X.shape
    runs = {}
    for run in summary.runs:
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
            runs[run]["microseconds_per_task"] = summary.over_numpy(run) / summary.graph_tasks * 1e6
        if run in summary.tasks_run:
            runs[run]["tasks_run"] = summary.tasks_run[run]
        if run == COMPILED and summary.compilation is not None:
            runs[run] |= asdict(summary.compilation)
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
