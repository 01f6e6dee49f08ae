"""Process: what the cache is told, holds and counts in one process.

Who installs the cache holds it: a client, a worker, several of them where they share a process. What was told last counts.
Nothing here loads numba.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["Counts", "Objects", "Options", "Process", "here"]

#: The most bytes of object code that a process holds for functions that it has not called.
_HELD = 64 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """What `install` is told. It goes to all workers.

    Attributes
    ----------
    store : str
        The folder on disk that keeps object code; empty for none.
    limit : int
        The most bytes that the folder keeps.
    secret : bytes
        What files are signed with; empty for a plain digest.
    salt : str
        Part of every key.
    functions : int
        How many functions a process holds that nobody else holds.
    patience : float
        Seconds to wait for another process that compiles the same.
    warm : bool
        Whether a worker starts numba's compiler in the background.
    debug : bool
        Whether results of object code are compared with those of a fresh compilation.
    """

    store: str = ""
    limit: int = 256 << 20
    secret: bytes = field(default=b"", repr=False)
    salt: str = ""
    functions: int = 512
    patience: float = 20.0
    warm: bool = True
    debug: bool = False


@dataclass(slots=True)
class Counts:
    """What a process has counted since the cache was installed.

    Attributes
    ----------
    hits, misses : int
        How many functions that arrived were known, and how many were new.
    compilations : int
        How many functions were compiled, each signature for itself, and those that others call.
    seconds : float
        How long that took; what a compilation had others compiled is in its own time.
    loaded : int
        How many were made of object code, from the store or from `prewarm`.
    saved : float
        Seconds that compiling again what was known, or was loaded, would have taken.
    bytes : int
        How many bytes of object code were read.
    refused : int
        How many compilations had no key, and so can neither be stored nor sent.
    """

    hits: int = 0
    misses: int = 0
    compilations: int = 0
    seconds: float = 0.0
    loaded: int = 0
    saved: float = 0.0
    bytes: int = 0
    refused: int = 0

    def add(self, **amounts: float) -> None:
        """Add to some of the counts."""
        with _COUNTING:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def to_dict(self) -> dict[str, float]:
        """Return the counts by name."""
        with _COUNTING:
            return {each.name: getattr(self, each.name) for each in fields(self)}


class Objects:
    """Object code that other processes have sent, by name. The oldest goes where there is too much. For several threads."""

    def __init__(self, room: int = _HELD) -> None:
        self.room = room
        self.size = 0
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, name: str, content: bytes) -> None:
        """Keep object code."""
        with self._lock:
            self.size += len(content) - len(self._kept.pop(name, b""))
            self._kept[name] = content
            while self.size > self.room:
                self.size -= len(self._kept.popitem(last=False)[1])

    def get(self, name: str) -> bytes | None:
        """Return object code, None if there is none."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._kept.clear()
            self.size = 0

    def _check(self) -> None:
        with self._lock:
            assert self.size == sum(map(len, self._kept.values())) <= self.room


class Process:
    """The cache in this process."""

    def __init__(self) -> None:
        self.options = Options()
        self.holders: dict[str, Options] = {}
        self.counts = Counts()
        self.objects = Objects()
        self.store: Any = None
        self.collected: list[tuple[str, bytes]] | None = None  # while `prewarm` compiles here
        self.failed = ""  # why numba is left as it is

    @property
    def on(self) -> bool:
        """Whether the cache is installed."""
        return bool(self.holders) and not self.failed

    @property
    def exchanges(self) -> bool:
        """Whether there is anybody to give object code to or get it from."""
        return self.on and (self.store is not None or self.collected is not None or len(self.objects) > 0)


_COUNTING = threading.Lock()
here = Process()


def _renew() -> None:
    """Start anew in a process that was forked: locks may have been held."""
    global _COUNTING
    _COUNTING = threading.Lock()
    here.objects._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
