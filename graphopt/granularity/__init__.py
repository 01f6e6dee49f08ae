"""METG: how small tasks may be before a scheduler's overhead eats half of the time.

The minimum effective task granularity METG(50 %) is the smallest granularity at which a grid of tasks still runs at half the
speed that the machine has (Slaughter et al., "Task Bench", SC 2020, https://arxiv.org/abs/1908.05790). Grids of tasks of
several durations are run, from long to short; at each, efficiency is the work done over the time taken by all cores::

    granularity = wall time x cores / tasks          efficiency = duration of the kernel alone / granularity

How long the kernel takes alone is measured beside each run, on all cores at once: a machine that slows down, or has others
to serve, slows down both. Values are checked, not only times: each is a number that depends on all that the task reads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar

from graphopt.cost import in_units
from graphopt.granularity.patterns import Pattern
from graphopt.granularity.sweep import Sample, crossing, sweep
from graphopt.granularity.targets import Target, opened, reference

__all__ = ["Granularity", "metg"]

#: For which share of a run the kernel is measured before it and after it, and for how many seconds at least and at most.
_PACE, _PACE_LEAST, _PACE_MOST = 0.1, 0.005, 0.1


@dataclass(frozen=True)
class Granularity:
    """The efficiency of a target at each granularity, and its METG.

    Attributes
    ----------
    pattern : Pattern
        The grid.
    target : str
        What ran it, in words.
    cores : int
        The threads or worker processes that it used.
    threshold : float
        The efficiency that METG is asked for.
    samples : tuple of Sample
        What was measured, from the longest duration to the shortest.
    first : float
        Seconds of the first run of an empty grid: building the graph, compiling, connecting, and running it once.
    empty : float
        Seconds of a later run of an empty grid.
    seconds : float
        How long the sweep took.
    """

    pattern: Pattern
    target: str
    cores: int
    threshold: float
    samples: tuple[Sample, ...]
    first: float
    empty: float
    seconds: float

    #: What draws a curve to a file; set where matplotlib may be used.
    drawn_by: ClassVar[Callable[[Sequence[Granularity], str | PathLike[str]], None]]

    @property
    def metg(self) -> float | None:
        """METG in seconds; None if the efficiency was never reached (see ``verdict``)."""
        return self._metg([sample.efficiency for sample in self.samples])

    @property
    def spread(self) -> tuple[float | None, float | None]:
        """METG by the most and by the least efficient runs, in seconds: what the machine's noise leaves open."""
        most, least = [self._metg([pick(sample.efficiencies) for sample in self.samples]) for pick in (max, min)]
        return most, least

    @property
    def metg_best(self) -> float | None:
        """METG in seconds by the quickest run of each duration, against the full speed of the machine (see `Sample.best`)."""
        return self._metg([sample.best for sample in self.samples])

    @property
    def bounded(self) -> bool:
        """Whether even the shortest tasks that were tried keep the efficiency: METG is at most what ``metg`` says."""
        return crossing(self._curve(), self.threshold) is None

    @property
    def metg_once(self) -> float | None:
        """METG in seconds if a grid is run once only, with all that its first run takes.

        What comes on top is taken to be the same for tasks of any duration.
        """
        share, more = self.pattern.tasks / self.cores, max(0.0, self.first - self.empty)
        reached = [sample.duration * share / (sample.wall + more) for sample in self.samples]
        longest = self.samples[0] if self.samples else None
        if longest is not None and reached[0] < self.threshold:  # longer tasks were not needed for METG itself
            overhead = longest.wall + more - longest.duration * share
            return overhead / share / (1 - self.threshold) if self.threshold < 1 else None
        return self._metg(reached)

    @property
    def overhead(self) -> float:
        """Seconds of one core for a task that does nothing."""
        return self.empty * self.cores / self.pattern.tasks

    @property
    def verdict(self) -> str:
        """METG in words."""
        percent = f"{self.threshold:.0%}"
        if self.metg is None:
            best = max([s.efficiency for s in self.samples], default=0.0)
            longest = self.samples[0].duration if self.samples else 0.0
            return f"never reached {percent}: {best:.0%} at best, with tasks of up to {in_units(longest)}"
        if self.bounded:
            return f"METG({percent}) is at most {in_units(self.metg)}"
        quick = f"{in_units(self.metg_best)} by the quickest runs" if self.metg_best else "never by the quickest runs"
        return f"METG({percent}) = {in_units(self.metg)} ({quick})"

    def to_json(self) -> dict[str, Any]:
        """Return all figures as what JSON knows; times are in seconds."""
        pattern = self.pattern
        return {
            "pattern": pattern.name,
            "width": pattern.width,
            "steps": pattern.steps,
            "radix": pattern.radix,
            "period": pattern.period,
            "seed": pattern.seed,
            "tasks": pattern.tasks,
            "dependencies": pattern.dependencies,
            "target": self.target,
            "cores": self.cores,
            "threshold": self.threshold,
            "metg": self.metg,
            "metg_best": self.metg_best,
            "metg_spread": list(self.spread),
            "metg_is_bound": self.bounded,
            "metg_once": self.metg_once,
            "overhead": self.overhead,
            "first": self.first,
            "empty": self.empty,
            "seconds": self.seconds,
            "samples": [
                {
                    "duration": sample.duration,
                    "granularity": self.granularity(sample),
                    "efficiency": sample.efficiency,
                    "best": sample.best,
                    "walls": list(sample.walls),
                    "efficiencies": list(sample.efficiencies),
                }
                for sample in self.samples
            ],
        }

    def plot(self, filename: str | PathLike[str]) -> None:
        """Draw efficiency against granularity, with METG marked, as SVG or PNG by the ending of the name.

        Raises
        ------
        ValueError
            If the name ends otherwise.
        ImportError
            If matplotlib is not installed, which ``pip install 'graphopt[plots]'`` does.
        """
        type(self).drawn_by([self], filename)

    def granularity(self, sample: Sample) -> float:
        """Return wall time x cores / tasks of a sample, in seconds."""
        return sample.wall * self.cores / self.pattern.tasks

    def _curve(self) -> list[tuple[float, float]]:
        return [(sample.duration, sample.efficiency) for sample in self.samples]

    def _metg(self, efficiencies: Sequence[float]) -> float | None:
        """Return the granularity at which these efficiencies of the samples are the threshold."""
        durations = [sample.duration for sample in self.samples]
        found = crossing(list(zip(durations, efficiencies, strict=True)), self.threshold)
        if found is None:
            return durations[-1] / efficiencies[-1]
        return None if math.isinf(found) else found / self.threshold

    def __str__(self) -> str:
        pattern = self.pattern
        lines = [
            f"{pattern.name} on {self.target}",
            f"{pattern.width} x {pattern.steps}: {pattern.tasks} tasks, {pattern.dependencies} reads; cores: {self.cores}",
            self.verdict,
            f"an empty task costs {in_units(self.overhead)}; first run {in_units(self.first)}, later {in_units(self.empty)}",
            "",
            f"{'task':>10} {'granularity':>12} {'wall':>10} {'efficiency':>11}",
        ]
        for sample in self.samples:
            times = f"{in_units(sample.duration):>10} {in_units(self.granularity(sample)):>12} {in_units(sample.wall):>10}"
            lines.append(f"{times} {sample.efficiency:>11.0%}")
        return "\n".join(lines)

    __repr__ = __str__


def metg(
    pattern: str | Pattern = "stencil_1d",
    target: Any = "compiled",
    *,
    client: Any = None,
    width: int = 8,
    steps: int = 125,
    seconds: float = 20.0,
    efficiency: float = 0.5,
    progress: Callable[[float, str], None] | None = None,
) -> Granularity:
    """Measure how small tasks may be before overhead eats their gain.

    Parameters
    ----------
    pattern : str or Pattern
        Which tasks read which: "trivial", "stencil_1d", "fft", "tree", "nearest", "spread", "random_nearest" or "all_to_all".
    target : str or distributed.Client
        What runs them: dask's scheduler "sync", "threads" or "processes"; a client's cluster; or "compiled", a plan that
        `compile` made, on threads of this process.
    client : distributed.Client, optional
        With the target "compiled": the cluster on which plans are run, inside `iterate`.
    width, steps : int, optional
        The number of tasks that may run at once, and how many such rows there are, if ``pattern`` is a name.
    seconds : float, optional
        How long to measure, in seconds, beside the first runs. At least three durations are measured however long they take.
    efficiency : float, optional
        The share of the machine's speed that is to be kept, between 0 and 1.
    progress : callable, optional
        Called after each run with the seconds that have passed and a few words.

    Returns
    -------
    Granularity
        Durations, wall times, efficiencies, and METG. It prints as a table.

    Raises
    ------
    ValueError
        If there is no such pattern or target, or a number is out of range.
    ArithmeticError
        If a run returned other values than plain Python does: the scheduler is broken.

    Notes
    -----
    The method is that of Task Bench (Slaughter et al., SC 2020, https://arxiv.org/abs/1908.05790): granularity is wall time x
    cores / tasks, efficiency the time that the kernels of all tasks take alone, on all cores, over the wall time. Graphs for
    dask's schedulers are built beforehand; what the first run takes, building or compiling included, is told apart.

    Examples
    --------
    >>> import graphopt as go
    >>> curve = go.metg("stencil_1d", "sync", width=2, steps=3, seconds=0.05)
    >>> curve.pattern.tasks, curve.pattern.dependencies, curve.cores
    (6, 8, 1)
    """
    grid = pattern if isinstance(pattern, Pattern) else Pattern(pattern, width, steps)
    if not 0 < efficiency < 1:
        raise ValueError(f"efficiency must be between 0 and 1, not {efficiency}.")
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, not {seconds}.")
    begun = time.perf_counter()
    with opened(target, grid, client) as ready:
        timed = _Timed(ready, grid)
        first = timed.run(0, building=True) * ready.grids
        timed.prepare(0)
        empty = min([timed.run(0) for _ in range(3)])
        first -= empty * (ready.grids - 1)
        share = grid.tasks / ready.cores
        samples = sweep(timed, empty, share, efficiency=efficiency, seconds=seconds, clock=time.perf_counter, progress=progress)
        took = time.perf_counter() - begun
        return Granularity(grid, ready.words, ready.cores, efficiency, samples, first, empty, took)


class _Timed:
    """Runs grids on a target, checks their values, and times them and the kernel."""

    def __init__(self, target: Target, pattern: Pattern) -> None:
        self.target = target
        self.expected = reference(pattern, target.grids)
        target.pace(1000)  # everything is loaded now
        self.rate = min([target.pace(1_000_000) for _ in range(5)])
        self.share = pattern.tasks / target.cores
        self.prepared: set[int] = set()

    def run(self, turns: int, *, building: bool = False) -> float:
        """Return the seconds of one grid, with those of building it or without."""
        start = time.perf_counter()
        run = self.target.build(turns)
        start = start if building else time.perf_counter()
        found = run()
        took = time.perf_counter() - start
        if list(found) != self.expected:
            wrong = sum(a != b for a, b in zip(found, self.expected, strict=False))
            raise ArithmeticError(
                f"{self.target.words} computed {wrong} of {len(self.expected)} values wrong: the times mean nothing."
            )
        return took / self.target.grids

    def prepare(self, turns: int) -> None:
        """Do what is done once for tasks of so many turns."""
        if turns not in self.prepared:
            self.target.prepare(turns)
            self.prepared.add(turns)

    def __call__(self, duration: float) -> tuple[float, float]:
        turns = _turns(duration, self.rate)
        self.prepare(turns)
        alone = _turns(min(max(_PACE * duration * self.share, _PACE_LEAST), _PACE_MOST), self.rate)
        before = self.target.pace(alone)
        wall = self.run(turns)
        return turns * (before + self.target.pace(alone)) / 2, wall


def _turns(duration: float, rate: float) -> int:
    return max(1, round(duration / rate))
