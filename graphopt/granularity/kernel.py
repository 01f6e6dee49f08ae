"""The work of the tasks that METG is measured with: turns of a generator of random numbers, without the interpreter's lock.

Importing this compiles it. It is a module of its own because worker processes look its functions up by their names.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

__all__ = ["busy", "collect", "enter", "pace", "value", "work"]

_FACTOR, _PRIME = 48_271, 2**31 - 1  # of the "minimal standard" generator: Park and Miller, CACM 31 (1988)


def _busy(turns: int, x: int) -> Any:
    """Return x, after some time: a compiler cannot know that the state of the generator never becomes zero.

    Each turn of xorshift64 (Marsaglia, J. Stat. Soft. 8 (2003)) needs the one before, and has no closed form that a compiler
    would find: the loop of a linear congruential generator it shortens.
    """
    state = np.uint64(x) | np.uint64(1)
    for _ in range(turns):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
    return x + (state == 0)


busy = numba.njit("int64(int64, int64)", nogil=True)(_busy)


def value(number: int, inputs: Sequence[int]) -> int:
    """Return what a task with this number computes of what it reads."""
    return (number + sum(inputs)) * _FACTOR % _PRIME


def work(turns: int, number: int, block: Any, *inputs: int) -> Any:
    """Be busy and return the value of a task. ``block`` is data that lies where the task is to run."""
    return busy(turns, (number + sum(inputs)) * _FACTOR % _PRIME)


def enter(turns: int, number: int, block: Any, start: Any, point: int) -> Any:
    """Do the work of a task of the first row: it reads one number of the vector that everything starts from."""
    return work(turns, number, block, int(start[point]))


def collect(*values: int) -> Any:
    """Return values as one vector."""
    return np.array(values, np.int64)


def pace(turns: int) -> float:
    """Return the seconds that a turn takes on this thread."""
    start = time.perf_counter()
    busy(turns, 1)
    return (time.perf_counter() - start) / turns
