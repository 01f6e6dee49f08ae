"""Overhead: times empty tasks where tasks run, and returns what a task, a dependency, a call and a byte cost there."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from graphopt.compiled import Compiled
from graphopt.cost import Overhead, Spread
from graphopt.overhead import plans, schedulers
from graphopt.overhead.fit import bootstrapped, spread, spread_of_median
from graphopt.overhead.probe import COLUMNS, Probe, Subject
from graphopt.plan import Plan
from graphopt.types import GraphoptError

__all__ = ["TARGETS", "measure_overhead"]

#: What can be named; clients, compiled functions and plans are given.
TARGETS = ("sync", "threads", "processes", "compiled")

_LEAST_ROUNDS = 3
_TIGHT = 0.1  # of a cost: an interval of this width is narrow enough
_BUILT = 256  # chunks of the graph that is built and optimised
_PACKAGES = ("dask", "distributed", "numpy", "graphopt")

_clock = time.perf_counter


def measure_overhead(target: Any, *, seconds: float = 20.0, progress: bool = True) -> Overhead:
    """Measure what running tasks costs apart from their own work.

    Empty tasks are run in graphs of different shape: independent ones of various numbers, the same number with 1, 2, 4 and 8
    dependencies each, and arrays of growing size that are made in one place and read in another. They take turns, results are
    checked, and the costs are those that explain the medians best. It ends as soon as the intervals are narrow.

    Parameters
    ----------
    target : str, distributed.Client, Compiled or Plan
        ``"sync"``, ``"threads"`` or ``"processes"`` for dask's own schedulers, a client for its cluster, and ``"compiled"`` for
        compiled functions: on the workers of the client that is active, or else on the threads here. A plan says the same, and
        so does a compiled function, with the options that it was compiled with.
    seconds : float
        How long it may take at most. At least three rounds are made, which takes longer if seconds are few: some five seconds
        on processes, which start anew for each compute.
    progress : bool
        Show a bar on standard error, if that is a terminal and it may take more than two seconds.

    Returns
    -------
    Overhead
        Costs in seconds, each with an interval, and what they were measured with. On a cluster bytes move from worker to
        worker, or to the client if there is only one; those of a plan move to the caller.

    Raises
    ------
    ValueError
        If there is no such target, seconds are not positive, or the client is asynchronous.
    ClusterError
        If a client is closed, or its cluster has no workers.

    Notes
    -----
    The costs of a cluster are those of the whole of it: a task's is the time until the next one has run, on all workers.

    Examples
    --------
    >>> import graphopt as go
    >>> cost = go.measure_overhead("sync", seconds=0.2)
    >>> 0 < cost.task.median < 0.1, cost.threads
    (True, 1)
    >>> bool(cost.of(tasks=1_000) > cost.of(tasks=10))
    True
    """
    if not (isinstance(seconds, (int, float)) and 0 < seconds < float("inf")):
        raise ValueError(f"measure_overhead(seconds={seconds!r}): must be a positive number.")
    started, when = _clock(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    with _bar(seconds, progress and seconds > 2) as bar, _opened(target) as subject:
        costs, misfit, rounds = _measured(subject, started, seconds, bar)
        return Overhead(
            subject.target,
            **costs,
            workers=subject.workers,
            threads=subject.threads,
            cores=os.cpu_count() or 1,
            machine=_machine(),
            versions=_versions(),
            when=when.replace("+00:00", ""),
            seconds=round(_clock() - started, 3),
            rounds=rounds,
            misfit=misfit,
        )


def _opened(target: Any) -> AbstractContextManager[Subject]:
    if isinstance(target, str) and target in ("sync", "threads"):
        return schedulers.on_threads(target)
    if isinstance(target, str) and target == "processes":
        return schedulers.on_processes()
    if isinstance(target, (Compiled, Plan)) or (isinstance(target, str) and target == "compiled"):
        return plans.on_plans(target)
    if hasattr(target, "scheduler_info") and hasattr(target, "scatter"):  # without importing distributed
        return schedulers.on_client(target)
    named = ", ".join(map(repr, TARGETS))
    raise ValueError(
        f"measure_overhead({target!r}): there is no such target. It can be {named}, a distributed.Client, a function made by "
        "graphopt.compile, or one of its plans."
    )


def _measured(
    subject: Subject, started: float, seconds: float, bar: Callable[[float], None]
) -> tuple[dict[str, Spread], float, int]:
    """Take samples until the costs are sure enough or the time is up; return the costs, their misfit, and the rounds made."""
    end = started + seconds
    probes = _sized(subject, seconds)
    counts = np.array([probe.counts for probe in probes], dtype=float)
    samples: dict[str, list[float]] = {probe.name: [] for probe in probes}
    phases: list[tuple[float, float]] = []
    order = [*probes, None]  # None: building and optimising
    took = dict.fromkeys(order, 0.0)
    rng = random.Random(0)  # another order each time: what follows what must not matter
    rounds, look = 0, 2 * _LEAST_ROUNDS
    while True:
        for probe in rng.sample(order, len(order)):
            before = _clock()
            if rounds >= _LEAST_ROUNDS and before + took[probe] > end:
                break
            if probe is not None and len(samples[probe.name]) > 1 and sum(samples[probe.name]) > seconds / 3:
                continue  # a call that starts processes must not take the time of all others
            if probe is None:
                phases.append(subject.phases(_BUILT))
            else:
                samples[probe.name].append(_timed(subject, probe))
            took[probe] = _clock() - before
            bar(_clock() - started)
        else:
            rounds += 1
            if rounds < look:
                continue
            look = int(1.5 * rounds)
            found = _costs(counts, list(samples.values()), phases)
            if _tight(found[0]):
                return *found, rounds
            continue
        return *_costs(counts, list(samples.values()), phases), rounds


def _sized(subject: Subject, seconds: float) -> list[Probe]:
    """Return probes of as many tasks as leave time for a dozen rounds, each called before."""
    tasks = subject.least
    while True:
        start = _clock()
        probes = subject.probes(tasks)
        for probe in probes:
            for _ in range(subject.warm * (probe.name != schedulers.FIRST)):
                if _timed(subject, probe) > seconds / 100:
                    break
        spent = _clock() - start
        if 4 * tasks > subject.most or 4 * spent > seconds / 12:
            return probes
        tasks *= 4


def _timed(subject: Subject, probe: Probe) -> float:
    """Call a probe, check what it returns, and say how long that took."""
    call = probe.prepare()
    start = _clock()
    result = call()
    took = _clock() - start
    if not probe.right(result):
        raise GraphoptError(f"measure_overhead: {subject.target} returned a wrong result for {probe.name}: {result!r:.200}.")
    return took


def _costs(
    counts: np.ndarray, samples: list[list[float]], phases: list[tuple[float, float]]
) -> tuple[dict[str, Spread], float]:
    """Return the costs, and how far the times that they explain are from those measured, as a part of them."""
    estimates = bootstrapped(counts, samples)
    columns = dict(zip(COLUMNS, estimates.T, strict=True))
    names = {"iteration": "iterations", "task": "tasks", "edge": "edges", "byte": "moved"}
    costs = {name: spread(columns[column]) for name, column in names.items()}
    for i, name in enumerate(("build", "optimize")):
        costs[name] = spread_of_median([pair[i] for pair in phases])
    measured = np.array([np.median(sample) for sample in samples])
    off = abs(counts @ np.median(estimates, axis=0) / measured - 1)
    return costs, round(float(np.median(off)), 3)


def _tight(costs: dict[str, Spread]) -> bool:
    """Say whether all intervals are narrow beside what they are added to: a dependency beside its task, a MiB beside a call."""
    task, call = costs["task"].median, costs["iteration"].median
    beside = {**{name: cost.median for name, cost in costs.items()}, "edge": task, "byte": call / 2**20}
    return all(cost.high - cost.low <= _TIGHT * max(cost.median, beside[name]) for name, cost in costs.items())


@contextlib.contextmanager
def _bar(seconds: float, wanted: bool) -> Iterator[Callable[[float], None]]:
    if not wanted:
        yield lambda spent: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda spent: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring overhead", total=seconds)
        yield lambda spent: progress.update(task, completed=min(spent, seconds))


def _machine() -> str:
    """Name the processor and the system."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        name = models[0] if models else name
    return f"{name}, {platform.system()}"


def _versions() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.append((package, version(package)))
    return tuple(found)
