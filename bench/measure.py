"""Measuring on a noisy machine: candidates take turns within one run, and medians are compared, never single times."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dask.callbacks import Callback


def interleaved(candidates: Mapping[str, Callable[[], Any]], rounds: int, *, cpu: bool = False) -> dict[str, float]:
    """Run the candidates in turn and return the median seconds of each (wall clock, or CPU of the process)."""
    clock = time.process_time if cpu else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():  # caches, threads, compiled kernels
        run()
    for _ in range(rounds):
        for name, run in candidates.items():
            start = clock()
            run()
            times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


class TaskCount(Callback):  # type: ignore[misc]
    """Counts the tasks that a local scheduler runs."""

    def __init__(self) -> None:
        self.tasks = 0

    def _posttask(self, *_: Any) -> None:
        self.tasks += 1


def count_tasks(run: Callable[[], Any]) -> int:
    """Return how many tasks a computation on a local scheduler runs."""
    with TaskCount() as count:
        run()
    return count.tasks


def machine() -> str:
    """Describe where and with what the numbers were taken."""
    names = ("dask", "numpy", "numba")
    parts = [f"{name} {version(name)}" for name in names]
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {', '.join(parts)}"


def write_into(page: Path, name: str, lines: Iterable[str]) -> None:
    """Put what was measured into a page, between the marks of that name: nobody edits figures by hand."""
    start, end = f"<!-- measured: {name} -->\n", "<!-- end -->"
    text = page.read_text()
    if start not in text:
        raise ValueError(f"{page}: no {start.strip()} to write between.")
    before, rest = text.split(start, 1)
    page.write_text(f"{before}{start}\n{chr(10).join(lines)}\n\n{end}{rest.split(end, 1)[1]}")
