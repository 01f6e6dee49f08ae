"""Record: what a run was like, taken down beside it and looked at afterwards: residuals, tasks, points on the way, the log.

Nothing here is computed while the run waits for it. Times are seconds since the run began, by the clocks of whoever was there:
between machines these may differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from solvers.consensus.core import Core, Report, Residuals, Rules
from solvers.consensus.problem import Frame

__all__ = ["Log", "Record", "Task", "replay"]

#: How many points on the way are kept at most: beyond that every other one is dropped.
_POINTS = 256


class Task(NamedTuple):
    """A chunk that solved its problem: where, and from when to when."""

    place: Hashable
    chunk: int
    begun: float
    ended: float


@dataclass
class Log:
    """All that cores were told: of each leg what its core was made of if that is new, rules, and reports as they came together.

    `replay` makes the last one again; its coordinates are those of the frame.
    """

    frame: Frame
    legs: list[tuple[tuple[Any, ...] | None, Rules, list[list[Report]]]] = field(default_factory=list)


def replay(log: Log) -> Core:
    """Return a core that was told what the log says: bit for bit the one that was logged."""
    core: Core | None = None
    for begun, rules, batches in log.legs:
        core = Core(*begun) if begun is not None else core
        assert core is not None
        core.begin(rules)
        for reports in batches:
            core.take(reports)
    assert core is not None
    return core


@dataclass
class Record:
    """What a run was like.

    Attributes
    ----------
    variant : str
        Of the method.
    residuals : list of Residuals
        After each update.
    seconds : list of float
        When that was.
    tasks : list of Task
        Who solved when.
    points : list of (float, numpy.ndarray)
        Where the consensus was when, in the features' own units; some of many.
    objectives : list of (float, float)
        The objective at some of them, if that was asked for.
    log : Log, or None
        What replays, if that was asked for.
    """

    variant: str
    residuals: list[Residuals] = field(default_factory=list, repr=False)
    seconds: list[float] = field(default_factory=list, repr=False)
    tasks: list[Task] = field(default_factory=list, repr=False)
    points: list[tuple[float, np.ndarray]] = field(default_factory=list, repr=False)
    objectives: list[tuple[float, float]] = field(default_factory=list, repr=False)
    log: Log | None = field(default=None, repr=False)
    begun: float = field(default_factory=time.time, repr=False)
    _every: int = field(default=1, repr=False)

    def note(self, core: Core, point: np.ndarray) -> None:
        """Take down the updates that there were since the last time, and where they led."""
        new = core.updates - len(self.seconds)
        if not new:
            return
        now = time.time() - self.begun
        self.residuals += core.residuals[-new:]
        self.seconds += [now] * new
        if core.updates % self._every == 0:
            self.points.append((now, point))
        if len(self.points) > _POINTS:
            del self.points[1::2]
            self._every *= 2

    def task(self, place: Hashable, chunk: int, begun: float, ended: float) -> None:
        """Take down a task, by its clock."""
        self.tasks.append(Task(place, chunk, begun - self.begun, ended - self.begun))

    def plot_residuals(self, filename: str | PathLike[str] | None = None) -> Any:
        """Draw residuals by time, as `solvers.Result.plot_residuals` does."""
        return self._drawn(draw_residuals, 3.2, filename)

    def plot_task_stream(self, filename: str | PathLike[str] | None = None) -> Any:
        """Draw tasks by time, as `solvers.Result.plot_task_stream` does."""
        return self._drawn(draw_tasks, 1.2 + 0.3 * len(lanes_of(self.tasks)), filename)

    def _drawn(self, draw: Callable[[Any, Record], None], height: float, filename: str | PathLike[str] | None) -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, height), layout="constrained")
        draw(figure.subplots(), self)
        if filename is not None:
            figure.savefig(filename)
        return figure


def draw_residuals(axes: Any, record: Record) -> None:
    """Draw the residuals of a run: lines that differ without colour."""
    for name, style, width in (("primal: disagreement", "-", 1.5), ("dual: movement", ":", 1.0)):
        values = [max(getattr(found, name.split(":")[0]), 1e-17) for found in record.residuals]
        axes.semilogy(record.seconds, values, style, linewidth=width, label=name)
    axes.set(xlabel="seconds", ylabel="residual", title=record.variant)
    axes.legend()


def draw_tasks(axes: Any, record: Record) -> None:
    """Draw the tasks of a run: a row for each thread of each place, in greys that tell neighbouring chunks apart."""
    lanes = lanes_of(record.tasks)
    for row, (_, tasks) in enumerate(lanes):
        bars = [(task.begun, task.ended - task.begun) for task in tasks]
        shades = [str(0.35 + 0.12 * (task.chunk % 5)) for task in tasks]
        axes.broken_barh(bars, (row - 0.4, 0.8), facecolors=shades, edgecolor="black", linewidth=0.2)
    places: list[Hashable] = list(dict.fromkeys(place for place, _ in lanes))
    names = [f"worker {places.index(place)}" if place != "here" else "threads" for place, _ in lanes]
    axes.set_yticks(range(len(lanes)), names)
    axes.set(xlabel="seconds", title=f"{record.variant}: {len(record.tasks)} chunks solved")
    axes.invert_yaxis()


def lanes_of(tasks: Sequence[Task]) -> list[tuple[Hashable, list[Task]]]:
    """Deal the tasks of each place into as few rows as there were at a time.

    Examples
    --------
    >>> lanes = lanes_of([Task("here", 0, 0.0, 2.0), Task("here", 1, 1.0, 3.0), Task("here", 2, 2.5, 4.0)])
    >>> [[task.chunk for task in tasks] for _, tasks in lanes]
    [[0, 2], [1]]
    """
    lanes: list[tuple[Hashable, list[Task]]] = []
    for task in sorted(tasks, key=lambda task: task.begun):
        for place, lane in lanes:
            if place == task.place and lane[-1].ended <= task.begun:
                lane.append(task)
                break
        else:
            lanes.append((task.place, [task]))
    return sorted(lanes, key=lambda lane: str(lane[0]))
