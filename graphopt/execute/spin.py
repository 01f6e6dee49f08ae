"""Spin: wait for another thread to write a number, without the interpreter's lock and without going to sleep.

In Python one cannot wait awake: ``time.sleep(0)`` takes tens of microseconds, and whoever looks at a variable in a loop
holds the lock that the other thread needs to change it. A compiled loop that reads the memory takes two.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

__all__ = ["LOOKS", "Cell", "spin"]

#: How often to look before giving up: about 100 µs, as long as a loop body takes between two calls.
LOOKS = 300_000


@intrinsic
def _load(context: Any, address: Any) -> Any:
    """Read a 64-bit integer that another thread may write at any time."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], ir.IntType(64).as_pointer()), "acquire", 8)

    return types.int64(types.int64), generate


load: Any = _load  # called with the address alone: the context is numba's own


def _spin(address: int, old: int, looks: int) -> int:
    for _ in range(looks):
        value = load(address)
        if value != old:
            return value  # type: ignore[no-any-return]
    return old


def _compiled() -> Any:
    """Compile it, and keep it on disk where there is a place for that: it takes half a second."""
    signature = "int64(int64, int64, int64)"
    try:
        return numba.njit(signature, nogil=True, cache=True)(_spin)
    except RuntimeError:  # neither the package's folder nor the user's can be written to
        return numba.njit(signature, nogil=True)(_spin)


#: ``spin(address, old, looks)`` returns what is at an address once it is no longer ``old``, or ``old`` after so many looks.
spin = _compiled()


class Cell:
    """A number that one thread writes and another waits for; it has a line of the cache to itself."""

    __slots__ = ("_memory", "address")

    def __init__(self) -> None:
        whole = np.zeros(16, np.int64)
        first = -whole.ctypes.data % 64 // 8
        self._memory = whole[first : first + 1]  # holds the whole
        self.address = self._memory.ctypes.data

    def write(self, number: int) -> None:
        """Write the number; who waits sees all that was done before."""
        self._memory[0] = number

    def wait(self, old: int, looks: int = LOOKS) -> int:
        """Return the number once it is no longer ``old``, or ``old`` after so many looks."""
        return int(spin(self.address, old, looks))
