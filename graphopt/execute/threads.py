"""Threads: whether several of them pay, found out by trying."""

from __future__ import annotations

__all__ = ["Threads"]


class Threads:
    """Finds out, while a plan runs, whether several threads pay at a level: short NumPy calls get in each other's way.

    Both ways are tried a few times in turn and the faster is kept. Only time depends on it, never a result.
    """

    _TRIES = 4

    def __init__(self, levels: int) -> None:
        self._times: list[tuple[list[float], list[float]]] = [([], []) for _ in range(levels)]

    def __call__(self, level: int) -> bool:
        """Say whether to use several threads at a level."""
        one, many = self._times[level]
        if len(many) < self._TRIES or len(one) < self._TRIES:
            return len(many) <= len(one)
        return min(many) < min(one)

    def took(self, level: int, several: bool, seconds: float) -> None:
        """Note how long a level took."""
        times = self._times[level][several]
        if len(times) < self._TRIES:
            times.append(seconds)
