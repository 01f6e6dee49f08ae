"""Patterns: which tasks of one time step read which of the step before, after Task Bench.

A pattern lays tasks out on a grid, a row for each time step and a column for each point. Row 0 reads nothing; a task of a later
row reads some of the row before. The relations are those of Task Bench (Slaughter et al., "Task Bench: A Parameterized
Benchmark for Evaluating Parallel Runtime Performance", SC 2020, https://arxiv.org/abs/1908.05790; github.com/StanfordLegion/
task-bench), but for the draws of ``random_nearest``, which are made by a generator of our own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["PATTERNS", "Pattern"]

#: All patterns, from those without communication to those with the most.
PATTERNS = ("trivial", "stencil_1d", "fft", "tree", "nearest", "spread", "random_nearest", "all_to_all")

_FRACTION = 0.25  # of the points nearby that a task of random_nearest reads, beside its own


@dataclass(frozen=True, slots=True)
class Pattern:
    """A grid of tasks and what they read.

    Parameters
    ----------
    name : str
        One of ``PATTERNS``.
    width : int
        The number of points.
    steps : int
        The number of time steps.
    radix : int
        How many points a task of ``nearest`` and ``spread`` reads, and of how many a task of ``random_nearest`` draws some.
    period : int
        After how many steps ``spread`` and ``random_nearest`` repeat themselves.
    seed : int
        Of the draws of ``random_nearest``.

    Raises
    ------
    ValueError
        If there is no such pattern, or a number is not positive.

    Examples
    --------
    >>> from graphopt.granularity.patterns import Pattern
    >>> fft = Pattern("fft", width=8, steps=4)
    >>> [fft.reads(step, 3) for step in range(4)]
    [(), (2, 3, 4), (1, 3, 5), (3, 7)]
    """

    name: str
    width: int = 8
    steps: int = 125
    radix: int = 5
    period: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in PATTERNS:
            raise ValueError(f"There is no pattern {self.name!r}; those of Task Bench are {', '.join(PATTERNS)}.")
        for what in ("width", "steps", "radix", "period"):
            if getattr(self, what) < 1:
                raise ValueError(f"{what} must be at least 1, not {getattr(self, what)}.")

    def points(self, step: int) -> int:
        """Return how many tasks a row has: all points, but for the first rows of a tree, which grows from one."""
        return min(self.width, 2**step) if self.name == "tree" else self.width

    def reads(self, step: int, point: int) -> tuple[int, ...]:
        """Return the points of the row before that a task reads, in ascending order."""
        if step == 0:
            return ()
        return tuple(sorted({other for other in self._relation(step, point) if 0 <= other < self.points(step - 1)}))

    def _relation(self, step: int, point: int) -> tuple[int, ...] | range:
        """Return what a task reads, points beyond the edges and repetitions included."""
        # A window of even size has one more below than above.
        nearby = range(point - self.radix // 2, point + (self.radix - 1) // 2 + 1)
        turn = step % self.period
        match self.name:
            case "stencil_1d":
                return range(point - 1, point + 2)
            case "fft":  # the butterfly of an FFT, of which a transform of this width has so many stages
                stages = max(1, (self.width - 1).bit_length())
                far = 1 << (step - 1) % stages
                return (point - far, point, point + far)
            case "tree":
                return (point // 2,)
            case "nearest":
                return nearby
            case "spread":  # evenly over all points, and all but the first moved on by one in each step of a period
                others = [point + i * self.width // self.radix + turn for i in range(1, self.radix)]
                return (point, *[other % self.width for other in others])
            case "random_nearest":
                return tuple([other for other in nearby if other == point or self._draws(turn, point, other)])
            case "all_to_all":
                return range(self.width)
        return ()

    def _draws(self, turn: int, point: int, other: int) -> bool:
        return random.Random(f"{self.seed} {self.radix} {turn} {other} {point}").random() < _FRACTION

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return sum(map(self.points, range(self.steps)))

    @property
    def dependencies(self) -> int:
        """How often a task reads another."""
        return sum(len(self.reads(step, point)) for step in range(self.steps) for point in range(self.points(step)))

    @property
    def unread(self) -> tuple[tuple[int, int], ...]:
        """The tasks that no other reads, by step and point: those of the last row, and in some patterns more."""
        found = []
        for step in range(self.steps):
            after = range(self.points(step + 1)) if step + 1 < self.steps else ()
            read = {other for point in after for other in self.reads(step + 1, point)}
            found += [(step, point) for point in range(self.points(step)) if point not in read]
        return tuple(found)
