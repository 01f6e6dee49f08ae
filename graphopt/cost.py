"""Cost: what tasks cost where they run, as frozen values that predict. Measuring is done elsewhere (`overhead.py`).

The model is linear: so much for each call, task, dependency between tasks and byte that moves. That is what schedulers follow
within the noise of a machine, as long as there are more tasks than threads, and it is all that a choice of chunk sizes needs.
"""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["COSTS", "Overhead", "Spread", "in_units"]

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_MIB = 1 << 20
_WIDTH = 60  # columns of a narrow terminal

#: The costs, what to call them, and of how many they are shown.
COSTS = (
    ("iteration", "a call", 1),
    ("task", "a task", 1),
    ("edge", "a dependency", 1),
    ("byte", "a MiB moved", _MIB),
    ("build", "building, per task", 1),
    ("optimize", "optimising, per task", 1),
)


def in_units(seconds: float | None) -> str:
    """Return seconds with two or three digits and the unit that suits them; ``?`` where they are not known.

    Examples
    --------
    >>> in_units(0), in_units(5.2e-5), in_units(0.0123), in_units(2e-10)
    ('0 ns', '52 µs', '12.3 ms', '0.2 ns')
    """
    if seconds is None or not math.isfinite(seconds):
        return "?"
    if not seconds:
        return "0 ns"
    size, unit = next(((size, unit) for size, unit in _UNITS if abs(seconds) >= 0.9995 * size), _UNITS[-1])
    value = seconds / size
    if abs(value) < 0.01:  # less than nothing that can be measured
        return f"0 {unit}"
    return f"{value:.0f} {unit}" if abs(value) >= 99.95 else f"{value:.3g} {unit}"


@dataclass(frozen=True, slots=True)
class Spread:
    """A measured quantity in seconds, and how sure it is.

    Attributes
    ----------
    median : float
        The middle estimate.
    low, high : float
        The interval that holds nine in ten estimates when what was measured is drawn anew.

    Examples
    --------
    >>> print(Spread(5.2e-5, 4.9e-5, 6.1e-5))
    52 µs (49 µs to 61 µs)
    """

    median: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.median <= self.high:
            raise ValueError(f"{self.low} <= {self.median} <= {self.high} does not hold.")

    def __str__(self) -> str:
        return f"{in_units(self.median)} ({in_units(self.low)} to {in_units(self.high)})"

    def times(self, number: float) -> Spread:
        """Return what so many of it cost."""
        return Spread(self.median * number, self.low * number, self.high * number)


@dataclass(frozen=True, slots=True)
class Overhead:
    """What running tasks costs apart from their own work, in seconds; made by `measure_overhead`.

    Print it for a table, ask `of` for a prediction.

    Attributes
    ----------
    target : str
        What was measured.
    iteration : Spread
        One call, ``compute`` or the replay of a plan, with next to nothing in it.
    task : Spread
        One more task; for compiled plans one more call of a kernel, of which ``plan.lanes`` says the number.
    edge : Spread
        One more dependency of a task on another.
    byte : Spread
        One byte of a result that is read by a task in another worker or process; near 0 on threads.
    build, optimize : Spread
        Building and optimising a graph, per task as it is built. dask does both for each ``compute``; for a compiled plan it is
        tracing and planning, which is done once.
    workers, threads : int
        How many workers (processes), and threads in all of them, ran the tasks.
    cores : int
        How many cores the measuring machine has.
    machine : str
        What that machine is.
    versions : tuple of (str, str)
        Python and packages, with their versions.
    when : str
        When it was measured, in UTC (ISO 8601).
    seconds : float
        How long that took.
    rounds : int
        How often each sample was taken.
    misfit : float
        How far a prediction is from what was measured, as a part of it, for half of the samples.

    Examples
    --------
    >>> call, task, edge, none = [Spread(t, 0.9 * t, 1.1 * t) for t in (1e-3, 5e-5, 1e-5, 0.0)]
    >>> cost = Overhead("threads", call, task, edge, none, none, none, 1, 2, 2, "x86_64", (), "2026-01-01T00:00", 9.0, 20)
    >>> round(cost.of(tasks=1_000, edges=2_000), 6), round(cost.of(tasks=10_000, iterations=100), 6)
    (0.071, 0.6)
    >>> Overhead.from_json(cost.to_json()) == cost
    True
    """

    target: str
    iteration: Spread
    task: Spread
    edge: Spread
    byte: Spread
    build: Spread
    optimize: Spread
    workers: int
    threads: int
    cores: int
    machine: str
    versions: tuple[tuple[str, str], ...]
    when: str
    seconds: float
    rounds: int
    misfit: float = 0.0

    def of(self, tasks: float = 0, edges: float = 0, iterations: float = 1, bytes: float = 0, *, built: float = 0) -> float:
        """Predict what calls cost apart from the work of their tasks.

        Parameters
        ----------
        tasks, edges, bytes : float
            How many tasks run, how many dependencies they have, and how many bytes of results move, in all iterations together.
        iterations : float
            How many calls that takes.
        built : float
            How many tasks are built and optimised for it: for dask those of each iteration, for a compiled plan those of the
            first.

        Returns
        -------
        float
            Seconds.

        Raises
        ------
        ValueError
            If a number is negative.
        """
        given = {"tasks": tasks, "edges": edges, "iterations": iterations, "bytes": bytes, "built": built}
        for name, number in given.items():
            if not number >= 0:
                raise ValueError(f"Overhead.of({name}={number!r}): must not be negative.")
        run = self.task.median * tasks + self.edge.median * edges + self.byte.median * bytes
        return self.iteration.median * iterations + run + (self.build.median + self.optimize.median) * built

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as dictionaries, numbers and strings."""
        return {**asdict(self), "versions": dict(self.versions)}

    def to_json(self) -> str:
        """Return it as JSON, which `from_json` reads."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Overhead:
        """Return what `to_json` wrote down.

        Raises
        ------
        ValueError
            If the text is something else.
        """
        found = json.loads(text)
        names = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or found.keys() != names:
            keys = set(found) if isinstance(found, dict) else set()
            wrong = f"missing {sorted(names - keys)}, unknown {sorted(keys - names)}"
            raise ValueError(f"Overhead.from_json: the text is not that of an Overhead: {wrong}.")
        try:
            spreads = {name: Spread(**found[name]) for name, _, _ in COSTS}
            return cls(**{**found, **spreads, "versions": tuple(found["versions"].items())})
        except (AttributeError, TypeError) as error:
            raise ValueError(f"Overhead.from_json: the text is not that of an Overhead: {error}.") from error

    def rows(self) -> list[tuple[str, Spread]]:
        """Return what a table shows: a few words and seconds, line by line."""
        return [(label, getattr(self, name).times(number)) for name, label, number in COSTS]

    def __str__(self) -> str:
        rows = [(label, in_units(cost.median), f"{in_units(cost.low)} to {in_units(cost.high)}") for label, cost in self.rows()]
        first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
        lines = [f"  {label:<{first}}  {median:>{second}}  ({interval})" for label, median, interval in rows]
        return "\n".join([textwrap.fill(self.title, _WIDTH), *lines, *_wrapped(self.notes)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{label}</td><td>{in_units(cost.median)}</td><td>{in_units(cost.low)} to {in_units(cost.high)}</td></tr>"
            for label, cost in self.rows()
        )
        notes = html.escape(", ".join(self.notes))
        return f"<table><caption>{html.escape(self.title)}</caption>{rows}</table><p><small>{notes}</small></p>"

    @property
    def title(self) -> str:
        """What was measured, in a line."""
        where = _count(self.threads, "thread") if self.workers == 1 else f"{self.workers} workers, {self.threads} threads"
        return f"Overhead of {self.target}, {where}"

    @property
    def notes(self) -> list[str]:
        """When, where and with what it was measured, in short pieces."""
        taken = (
            f"{self.when[:16].replace('T', ' ')} UTC",
            _count(self.rounds, "round"),
            f"{self.seconds:.1f} s",
            f"fits to {self.misfit:.0%}",
        )
        return [*taken, _count(self.cores, "core"), self.machine, *[" ".join(pair) for pair in self.versions]]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _wrapped(pieces: Sequence[str], width: int = _WIDTH - 2) -> list[str]:
    """Join pieces with commas, in lines that fit a narrow terminal."""
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1]) + len(piece) + 2 > width:
            lines[-1] += ","
            lines.append("")
        lines[-1] += f", {piece}" if lines[-1] else piece
    return [f"  {line}" for line in lines]
