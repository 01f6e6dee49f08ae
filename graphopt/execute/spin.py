"""Spin: wait for another thread to write a number, without the interpreter's lock and without going to sleep.

In Python one cannot wait awake: ``time.sleep(0)`` takes tens of microseconds, and whoever looks at a variable in a loop
holds the lock that the other thread needs to change it. A compiled loop that reads the memory takes two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from graphopt.native import Unit, compiled

__all__ = ["LOOKS", "Cell"]

#: How often to look before giving up: about 100 µs, as long as a loop body takes between two calls.
LOOKS = 300_000

_TEXT = """
def run(address, old, looks):
    for _ in range(looks):
        if atomic.load(address) != old:
            return
"""


@functools.cache
def _spin() -> Callable[[int, int, int], int]:
    """Return what looks at an address until it holds another number than the old one, at most so many times."""
    return compiled(Unit(_TEXT, {"atomic": "graphopt.native.atomic"}, arguments=3))


class Cell:
    """A number that one thread writes and another waits for; it has a line of the cache to itself."""

    __slots__ = ("_memory", "_spin", "address")

    def __init__(self) -> None:
        whole = np.zeros(16, np.int64)
        first = -whole.ctypes.data % 64 // 8
        self._memory = whole[first : first + 1]  # holds the whole
        self.address = self._memory.ctypes.data
        self._spin = _spin()

    def write(self, number: int) -> None:
        """Write the number; who waits sees all that was done before."""
        self._memory[0] = number

    def wait(self, old: int, looks: int = LOOKS) -> int:
        """Return the number once it is no longer ``old``, or ``old`` after so many looks."""
        self._spin(self.address, old, looks)
        return self.read()

    def read(self) -> int:
        """Return the number."""
        return int(self._memory[0])
