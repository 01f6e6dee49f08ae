"""What the tests of the numba cache share: who compiled what, told by numba itself, and functions that are made anew."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numba
import numpy as np
from numba.core import event

SEEN: Counter[str] = Counter()
ON_LOOPS: Counter[str] = Counter()


class Seen(event.Listener):  # type: ignore[misc]
    """Counts compilations by the name of the function: of ufuncs too, by the pass that makes machine code."""

    def on_start(self, event: Any) -> None:
        if event.data["name"].startswith("native_lowering"):
            name = event.data["qualname"].rpartition(".")[2]
            SEEN[name] += 1
            ON_LOOPS[name] += asyncio._get_running_loop() is not None

    def on_end(self, event: Any) -> None:
        pass


_LISTENER = Seen()


def watch() -> None:
    """Count from now on in this process."""
    SEEN.clear()
    ON_LOOPS.clear()
    if _LISTENER not in event._registered["numba:run_pass"]:
        event.register("numba:run_pass", _LISTENER)


def seen() -> dict[str, int]:
    """Return what was compiled in this process, apart from what warms numba up."""
    return {name: count for name, count in SEEN.items() if name != "polynomial"}


def on_loops() -> dict[str, int]:
    """Return what was compiled by threads that run an event loop."""
    return dict(ON_LOOPS)


def total(counts: Iterable[dict[str, int]], name: str) -> int:
    """Return how often a function was compiled in several processes."""
    return sum(each.get(name, 0) for each in counts)


def loss_and_derivative(scale: float) -> tuple[Any, Any]:
    """Make a closure and a function that is passed to it, as an algorithm does for each of its tasks."""

    @numba.njit
    def derivative(x: float) -> float:
        return scale / (1.0 + np.exp(-x))

    @numba.njit
    def epoch(data: Any, slope: Any) -> Any:
        out = 0.0
        for i in range(len(data)):
            out += slope(data[i]) * scale
        return out

    return epoch, derivative


def expected(data: np.ndarray, scale: float) -> float:
    """Return what `epoch` returns, by NumPy."""
    return float((scale / (1.0 + np.exp(-data)) * scale).sum())


def ufunc(offset: float) -> Any:
    """Make a ufunc."""

    @numba.vectorize(["float64(float64, float64)"])
    def shifted(a: float, b: float) -> float:
        return a * b + offset

    return shifted


def gufunc(offset: float) -> Any:
    """Make a generalised ufunc."""

    @numba.guvectorize(["void(float64[:], float64[:])"], "(n)->()")
    def summed(row: Any, out: Any) -> None:
        out[0] = offset
        for i in range(len(row)):
            out[0] += row[i]

    return summed


def typed(offset: float) -> Any:
    """Make a function of a given signature."""

    @numba.njit("float64(float64)")
    def moved(x: float) -> float:
        return x + offset

    return moved


def call(function: Any, *args: Any) -> Any:
    """Call a function, as a task."""
    return function(*args)
