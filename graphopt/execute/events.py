"""Events: what a worker tells dask, and its dashboard, of the runs it has done."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

__all__ = ["Events"]


@dataclass
class _Entry:
    """What a function did since it was last told of."""

    told: float = 0.0
    runs: int = 0
    seconds: float = 0.0


class Events:
    """How often the functions ran that a worker has parts of. May be used on any thread."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.entries: dict[str, _Entry] = {}  # by function
        self.counting = threading.Lock()

    def log(self, name: str, runs: int, seconds: float, rate: float = 0.5) -> None:
        """Tell dask, at a bounded rate, how often a function ran since the last time, and for how long."""
        now = time.monotonic()
        with self.counting:
            entry = self.entries.setdefault(name, _Entry())
            entry.runs, entry.seconds = entry.runs + runs, entry.seconds + seconds
            if not entry.runs or now - entry.told <= rate:
                return
            self.entries[name] = _Entry(now)
        said = {"function": name, "worker": self.worker.address, "runs": entry.runs, "seconds": entry.seconds}
        self.worker.log_event("graphopt", said)
