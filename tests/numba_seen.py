"""What the tests of the numba cache share: who compiled what, told by numba itself, and functions that are made anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numba
import numpy as np
from numba.core import event

SEEN: Counter[str] = Counter()


class Seen(event.Listener):  # type: ignore[misc]
    """Counts compilations by the name of the function."""

    def on_start(self, event: Any) -> None:
        pass

    def on_end(self, event: Any) -> None:
        SEEN[event.data["dispatcher"].py_func.__name__] += 1


_LISTENER = Seen()


def watch() -> None:
    """Count from now on in this process."""
    SEEN.clear()
    if _LISTENER not in event._registered["numba:compile"]:
        event.register("numba:compile", _LISTENER)


def seen() -> dict[str, int]:
    """Return what was compiled in this process, apart from what warms numba up."""
    return {name: count for name, count in SEEN.items() if name != "polynomial"}


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


def call(function: Any, *args: Any) -> Any:
    """Call a function, as a task."""
    return function(*args)
