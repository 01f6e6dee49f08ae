"""Spin: wait for another thread to write a number, without the interpreter's lock and without going to sleep.

In Python one cannot wait awake: ``time.sleep(0)`` takes tens of microseconds, and whoever looks at a variable in a loop
holds the lock that the other thread needs to change it. A compiled loop that reads the memory takes two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.native import Unit, compiled

__all__ = ["LOOKS", "Cell", "Counters", "Look"]

#: How often to look before giving up: about 100 µs, as long as a loop body takes between two calls.
LOOKS = 300_000

#: How often to look whether the interpreter's lock was let go: about 10 µs.
_PATIENCE = 30_000

_TEXT = """
def run(at):
    mine, number, theirs = atomic.load(at), atomic.load(at + 8), atomic.load(at + 16)
    old, looks, free, patience = atomic.load(at + 24), atomic.load(at + 32), atomic.load(at + 40), atomic.load(at + 48)
    atomic.store(mine, number)
    for _ in range(looks):
        now = atomic.load(theirs)
        if now != old:
            for _ in range(patience):
                if atomic.load(free) == now:
                    return
            return
"""

#: How often to look on at a number that was reached: about 2 µs, in which whoever wrote it lets go of the interpreter's lock.
_LINGER = 6_000

_REACH = """
def run(at, number, looks, linger):
    for _ in range(looks):
        if atomic.load(at) >= number:
            for _ in range(linger):
                if atomic.load(at) < number:  # never: numbers only grow, but a compiler does not know
                    return
            return
"""


@functools.cache
def _spin() -> Callable[[int], int]:
    """Return what writes a number, then looks until another is no longer the old one, at most so many times."""
    return compiled(Unit(_TEXT, {"atomic": "graphopt.native.atomic"}))


@functools.cache
def _reach() -> Callable[[int, int, int, int], int]:
    """Return what looks until a number is at least another, at most so many times, and then on for a moment."""
    return compiled(Unit(_REACH, {"atomic": "graphopt.native.atomic"}, arguments=4))


class Cell:
    """A number that one thread writes and others read; it has a line of the cache to itself."""

    __slots__ = ("_memory", "address")

    def __init__(self) -> None:
        whole = np.zeros(16, np.int64)
        first = -whole.ctypes.data % 64 // 8
        self._memory = whole[first : first + 1]  # holds the whole
        self.address = self._memory.ctypes.data

    def write(self, number: int) -> None:
        """Write the number; who waits sees all that was done before."""
        self._memory[0] = number

    def read(self) -> int:
        """Return the number."""
        return int(self._memory[0])


class Look:
    """Waits for a cell; for the use of one thread at a time.

    Parameters
    ----------
    theirs
        The cell that is waited for.
    mine
        A cell that is written just before. The interpreter's lock is free by the time somebody sees the number, and need not be
        waited for.
    free
        A cell in which whoever writes theirs writes the same number once it has let go of the interpreter's lock: who asks for
        the lock before that is put to sleep.
    """

    __slots__ = ("_address", "_cells", "_spin", "_told")

    def __init__(self, theirs: Cell, mine: Cell, free: Cell | None = None) -> None:
        self._cells = theirs, mine, free
        patience = 0 if free is None else _PATIENCE
        self._told = np.array([mine.address, 0, theirs.address, 0, LOOKS, (free or mine).address, patience], np.int64)
        self._address = self._told.ctypes.data
        self._spin = _spin()

    def __call__(self, old: int, number: int) -> int:
        """Write a number, and return theirs once it is no longer ``old``, or ``old`` if it never was otherwise."""
        told = self._told
        told[1] = number
        told[3] = old
        self._spin(self._address)
        return self._cells[0].read()


class Counters:
    """Numbers that only grow, one for each thread, each with a line of the cache to itself.

    Attributes
    ----------
    numbers : memoryview
        To read and to write them.
    """

    __slots__ = ("_address", "_reach", "numbers")

    def __init__(self, count: int) -> None:
        whole = np.zeros(8 * count + 8, np.int64)
        first = -whole.ctypes.data % 64 // 8
        own: Any = whole[first : first + 8 * count : 8]
        self.numbers = memoryview(own)
        self._address = whole.ctypes.data + 8 * first
        self._reach = _reach()

    def look(self, which: int, number: int) -> None:
        """Return once a counter is at least a number, or soon anyway. The interpreter's lock is free meanwhile."""
        self._reach(self._address + 64 * which, number, LOOKS, _LINGER)
