"""Allocator: while plans are bound, a worker keeps the memory that temporaries of chunks come and go in.

dask starts its workers with MALLOC_TRIM_THRESHOLD_=65536, so that they give memory back soon. glibc then returns what a
temporary was in to the system, asks for it again for the next one, and the system clears each page of 4 KiB anew. That takes 2
us where it was found, more than NumPy takes to compute on the page. Whether a worker suffers from it hangs on what
lies beside its heap, so the same call took two to four times as long on some clusters as on others.

Left alone, glibc learns to keep memory of sizes that are freed again and again. These are the bounds that it learns up to.
"""

from __future__ import annotations

import ctypes
import os
import threading

__all__ = ["give_back", "keep"]

# <malloc.h>; the largest that glibc takes for the one on its own, and the other that goes with it.
_TRIM, _MMAP = -1, -3
_MOST = 32 * 2**20
_KEPT = {_MMAP: _MOST, _TRIM: 2 * _MOST}
_NAMES = {_MMAP: "MALLOC_MMAP_THRESHOLD_", _TRIM: "MALLOC_TRIM_THRESHOLD_"}
_USUAL = 128 * 2**10

_GUARD = threading.Lock()
_users = 0


def keep() -> None:
    """Keep up to 64 MiB of what is freed, in each thread that computes, until as many have called `give_back`."""
    global _users
    with _GUARD:
        _users += 1
        if _users == 1:
            _set(_KEPT)


def give_back() -> None:
    """Free memory as the environment says again, if nobody else wants it kept."""
    global _users
    with _GUARD:
        _users -= 1
        if not _users:
            _set({what: _number(os.environ.get(name)) for what, name in _NAMES.items()})


def _set(bounds: dict[int, int]) -> None:
    if not any(name in os.environ for name in _NAMES.values()):
        return  # glibc learns by itself
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    for what, size in bounds.items():
        mallopt(what, size)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else _USUAL
