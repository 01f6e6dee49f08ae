"""Compiled iterations beside NumPy's and dask's, within one run: ``python bench/replay.py``.

For every problem and number of chunks: the time of one iteration as a NumPy loop over the chunks on one thread, on dask's
threads and compiled; what the last two take over NumPy's time; and how many times less that is compiled. It never fails on
a time. ``--memory`` measures peaks of memory instead, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import threadpoolctl
from rich.console import Console
from rich.table import Table

import graphopt as go
from graphopt.execute.team import Team
from graphopt.pipeline import Optimizer

sys.path.insert(0, str(Path(__file__).parent))
from iterative import PROBLEMS, Call, Problem
from measure import interleaved, machine

CHUNKS = (1, 10, 100, 1_000)
#: After so many calls a plan has been traced, compiled, and has found out where threads pay.
SETTLED = 12

NO_OP = "no-op"
LANES, OPERATIONS = 1_000, 18


@dataclass(frozen=True)
class Times:
    """Milliseconds of one iteration of a problem."""

    problem: str
    chunks: int
    numpy: float
    dask: float
    graphopt: float
    traces: int

    @property
    def ratio(self) -> float:
        """How many times more dask takes over NumPy's time than we do; infinite where we take less than NumPy."""
        ours = self.graphopt - self.numpy
        return (self.dask - self.numpy) / ours if ours > 0 else math.inf

    def cells(self) -> tuple[str, ...]:
        over = (f"{self.dask - self.numpy:+.1f}", f"{self.graphopt - self.numpy:+.1f}")
        less = f"{self.ratio:.1f} ×" if self.ratio < math.inf else "below NumPy"
        times = (f"{value:.1f}" for value in (self.numpy, self.dask, self.graphopt))
        return (self.problem, f"{self.chunks}", *times, *over, less, f"{self.traces}")


def compiled(step: Callable[..., Any]) -> tuple[Call, go.Compiled]:
    """Compile a step and return what calls it, and the compiled step, which counts."""
    replay = go.compile(step)
    return lambda _, *args: replay(*args), replay


def measure(problem: Problem, chunks: int, rounds: int) -> Times:
    """Iterate in three ways in turn, each from its own last state."""
    call, replay = compiled(problem.step)
    loops = {
        "numpy": problem.numpy_loop(),
        "dask": problem.loop(problem.with_dask()),
        "graphopt": problem.loop(call),
    }
    with threadpoolctl.threadpool_limits(1, "blas"):
        for _ in range(SETTLED):
            next(loops["graphopt"])
        seconds = interleaved({name: partial(next, loop) for name, loop in loops.items()}, rounds)
    return Times(problem.name, chunks, **{name: value * 1e3 for name, value in seconds.items()}, traces=replay.stats.traces)


def nothing(block: Any, a: float) -> Any:
    """Do nothing, as a task."""
    return block


def no_op_problem(lanes: int = LANES, operations: int = OPERATIONS) -> Problem:
    """Lanes of operations that do nothing: all of the time is overhead."""

    def step(x: da.Array, a: float) -> Any:
        for _ in range(operations):
            x = x.map_blocks(nothing, a, dtype=x.dtype, meta=x._meta)
        return (x,)

    def floor(blocks: list[Any], x: np.ndarray, a: float) -> Any:
        for i in range(lanes):
            block = x[i : i + 1]
            for _ in range(operations):
                block = nothing(block, a)
        return (x,)

    x = da.zeros(lanes, chunks=1).persist(scheduler="sync")
    return Problem(NO_OP, step, (), (x, 1.0), floor, lambda state, results: (*results, state[1] + 1), frozenset({0}))


def per_task(times: Times) -> str:
    """Say what a task that does nothing costs."""
    tasks = LANES * OPERATIONS
    parts = [f"{name} {getattr(times, name) / tasks * 1e3:.2f} µs" for name in ("numpy", "dask", "graphopt")]
    return f"a task that does nothing ({LANES} lanes of {OPERATIONS}): {', '.join(parts)}; to reach: 1 µs"


def replayed_logistic(chunks: int, rounds: int) -> str:
    """Run code that nobody changed in `optimized(replay=True)`, beside dask, `optimized()` and `compile`."""
    problem = PROBLEMS["logistic"](chunks)
    call, (data, state) = problem.with_dask(), (problem.data, problem.state)
    plain = partial(call, problem.step, *data, *state)
    step = go.compile(problem.step)

    with go.optimized(replay=True) as policy:
        hook = dask.config.get("array_optimize")

    def inside(hook: Any) -> Any:
        with dask.config.set(array_optimize=hook, delayed_optimize=hook, bag_optimize=hook):
            return plain()

    found = interleaved(
        {
            "dask": plain,
            "optimized()": partial(inside, Optimizer(policy)),
            "optimized(replay=True)": partial(inside, hook),
            "compile": lambda: step(*data, *state),
        },
        rounds,
    )
    return f"code that nobody changed, {chunks} chunks: " + ", ".join(f"{k} {v * 1e3:.1f} ms" for k, v in found.items())


def hand_over(batches: int = 20, runs: int = 500) -> str:
    """Start and join a team that does nothing: what threads cost an iteration.

    It depends on whether a thread finds the interpreter's lock taken and goes to sleep, which comes and goes for a while.
    """
    team = Team(2)

    def nothing_at_all() -> None:
        pass

    medians = []
    for _ in range(batches):
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            team.run([nothing_at_all, nothing_at_all])
            times.append(time.perf_counter() - start)
        medians.append(statistics.median(times) * 1e6)
        time.sleep(0.01)
    low, middle, high = statistics.quantiles(medians, n=4)
    return f"starting and joining two threads: {middle:.1f} µs ({low:.1f} to {high:.1f}); to reach: 30 µs"


# -- memory ------------------------------------------------------------------------------------------------------------


def peak_in_process(name: str, chunks: int, who: str, iterations: int) -> dict[str, float]:
    """Iterate in this process and return its peaks of memory in MB: before, in the first call, and after it."""
    problem = PROBLEMS[name](chunks)
    _forget_peak()
    before = _peak()
    loop = problem.loop(problem.with_dask() if who == "dask" else compiled(problem.step)[0])
    next(loop)  # takes in dask's modules, or the compiler of machine code
    first = _peak()
    _forget_peak()
    for _ in islice(loop, iterations):
        pass
    return {"data": before, "first": first - before, "later": _peak() - before}


def _forget_peak() -> None:
    """Let the peak start again from what is used now, where the system can (Linux): making the data took more."""
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss there counts the process that started this one too
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def peaks(name: str, chunks: int, iterations: int = 5) -> tuple[str, ...]:
    """Measure the peaks of one problem, each in a process of its own."""
    found = {}
    for who in ("dask", "graphopt"):
        options = ["--peak", who, "--only", name, "--chunks", str(chunks), "--rounds", str(iterations)]
        child = subprocess.run([sys.executable, __file__, *options], check=True, stdout=subprocess.PIPE)
        found[who] = json.loads(child.stdout)
    values = [found["dask"]["data"], *(found[who][when] for when in ("first", "later") for who in ("dask", "graphopt"))]
    return name, str(chunks), *(f"{value:.0f}" for value in values)


# -- the script --------------------------------------------------------------------------------------------------------


def rows(options: argparse.Namespace) -> Iterator[Times]:
    """Measure everything that is asked for."""
    for name in options.only or [*PROBLEMS, NO_OP]:
        for chunks in [LANES] if name == NO_OP else options.chunks:
            problem = no_op_problem() if name == NO_OP else PROBLEMS[name](chunks)
            # Dask takes seconds for an iteration of 1 000 chunks.
            yield measure(problem, chunks, min(options.rounds, 4) if chunks >= 500 else options.rounds)


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[*PROBLEMS, NO_OP], help="this problem (may be repeated)")
    parser.add_argument("--chunks", type=int, nargs="+", default=CHUNKS)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--memory", action="store_true", help="measure peaks of memory instead of times")
    parser.add_argument("--peak", choices=["dask", "graphopt"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak_in_process(options.only[0], options.chunks[0], options.peak, options.rounds)))
        return
    console = Console(width=150, highlight=False)
    with console.status("measuring") as status:
        if options.memory:
            head = ("problem", "chunks", "data, MB", "first call: dask", "graphopt", "later calls: dask", "graphopt")
            table = Table(*head, title="peak of memory over the data, MB")
            found: list[Any] = []
            for name in options.only or PROBLEMS:
                for chunks in options.chunks:
                    status.update(f"{name}, {chunks} chunks")
                    found.append(peaks(name, chunks))
                    table.add_row(*found[-1])
        else:
            head = ("problem", "chunks", "NumPy, ms", "dask", "graphopt", "dask over NumPy", "graphopt over", "less", "traces")
            table, found = Table(*head, title=machine()), []
            for times in rows(options):
                found.append(asdict(times))
                table.add_row(*times.cells())
                status.update(f"{times.problem}, {times.chunks} chunks: done")
                if times.problem == NO_OP:
                    table.caption = per_task(times) + "\n" + hand_over()
            if not options.only:
                status.update("code that nobody changed")
                table.caption = f"{table.caption}\n{replayed_logistic(100, options.rounds)}"
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": found}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
