"""What `low_latency` saves a chain of tasks, and what it costs many at once: ``python bench/low_latency.py``.

On one cluster of two worker processes of one thread each, or more where asked. Its scheduler has a process of its own, to tell
what CPU time it takes. With and without take turns in every round; medians are printed, and the ratio of the best times, which
other work on the machine disturbs least. Tasks do nothing, so all of the time is dask's. It never fails on a time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
from rich.console import Console
from rich.table import Table

import graphopt as go

sys.path.insert(0, str(Path(__file__).parent))
from measure import machine

PATIENCE = 60


def same(x: Any) -> Any:
    """Do nothing, as a task."""
    return x


def chain(client: distributed.Client, tasks: int) -> None:
    """Run tasks of which each depends on the one before, sent as one graph."""
    last = dask.delayed(same, pure=False)(0)
    for _ in range(tasks - 1):
        last = dask.delayed(same, pure=False)(last)
    client.compute(last, optimize_graph=False).result(timeout=PATIENCE)


def submitted_chain(client: distributed.Client, tasks: int) -> None:
    """Submit such a chain task by task, and wait for the last."""
    last = client.submit(same, 0, pure=False)
    for _ in range(tasks - 1):
        last = client.submit(same, last, pure=False)
    last.result(timeout=PATIENCE)


def one_by_one(client: distributed.Client, tasks: int) -> None:
    """Wait for each task before the next is submitted."""
    for i in range(tasks):
        client.submit(same, i, pure=False).result(timeout=PATIENCE)


def at_once(client: distributed.Client, tasks: int) -> None:
    """Run independent tasks, sent as one graph."""
    distributed.wait(client.map(same, range(tasks), pure=False), timeout=PATIENCE)


#: What is run, with how many tasks.
CASES: dict[str, tuple[Callable[[distributed.Client, int], None], int]] = {
    "chain, one graph": (chain, 200),
    "chain, submitted one by one": (submitted_chain, 200),
    "submit → result": (one_by_one, 50),
    "1 000 at once": (at_once, 1_000),
    "3 000 at once": (at_once, 3_000),
}


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[distributed.Client]:
    """Start a scheduler and workers as processes, and give a client of theirs."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = Path(folder) / "scheduler.json"

        def start(module: str, *options: str) -> None:
            command = [sys.executable, "-m", f"distributed.cli.{module}", "--scheduler-file", str(file), "--no-dashboard"]
            process = stack.enter_context(subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL))
            stack.callback(process.kill)  # a worker that is asked to end while its scheduler ends may take for ever

        start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-show")
        deadline = time.monotonic() + PATIENCE
        while not file.exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the scheduler did not start")
            time.sleep(0.05)
        for _ in range(workers):
            start("dask_worker", "--nthreads", "1", "--no-nanny", "--local-directory", folder)
        with distributed.Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(workers, timeout=PATIENCE)
            yield client


def measure(client: distributed.Client, case: str, settings: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Run a case under every setting by turns; return milliseconds per task, and those of the scheduler's CPU."""
    run, tasks = CASES[case]
    times, cpus = defaultdict(list), defaultdict(list)
    for round in range(rounds + 1):  # the first does not count
        for setting, interval in settings.items():
            with contextlib.nullcontext() if interval is None else go.low_latency(client, interval):
                before, start = client.run_on_scheduler(time.process_time), time.perf_counter()
                run(client, tasks)
                took = time.perf_counter() - start
                cpu = client.run_on_scheduler(time.process_time) - before
            if round:
                times[setting].append(took / tasks * 1e3)
                cpus[setting].append(cpu / tasks * 1e3)
    return {
        "case": case,
        "times": {setting: statistics.median(found) for setting, found in times.items()},
        "best": {setting: min(found) for setting, found in times.items()},
        "scheduler": {setting: statistics.median(found) for setting, found in cpus.items()},
    }


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=CASES, nargs="+", default=CASES)
    parser.add_argument("--intervals", nargs="*", default=["0ms"], help="what to hand to low_latency")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    settings: dict[str, Any] = {"dask": None, **{interval: interval for interval in options.intervals}}
    console = Console(width=150, highlight=False)
    head = [f"{what}{setting}" for what in ("", "scheduler's CPU: ") for setting in settings]
    faster = [f"{what}dask / {interval}" for interval in options.intervals for what in ("", "best ")]
    table, found = Table("ms per task", *head, *faster, title=machine()), []
    with console.status("measuring") as status, cluster(options.workers) as client:
        for case in options.only:
            status.update(case)
            row = measure(client, case, settings, options.rounds)
            found.append(row)
            cells = [f"{value:.2f}" for value in (*row["times"].values(), *row["scheduler"].values())]
            kinds = [(row[kind], interval) for interval in options.intervals for kind in ("times", "best")]
            table.add_row(case, *cells, *(f"{times['dask'] / times[interval]:.1f} ×" for times, interval in kinds))
    table.caption = f"{options.workers} workers; the machine's load was {os.getloadavg()[0]:.1f}"
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": found}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
