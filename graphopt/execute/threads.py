"""Threads: whether several of them pay, found out by trying."""

from __future__ import annotations

from collections import deque

__all__ = ["Threads"]


class Threads:
    """Finds out, while a plan runs, whether several threads pay at a level: short NumPy calls get in each other's way.

    Both ways are tried a few times in turn and the faster is kept; now and then the other is tried again, because the machine
    may have been busy. Only time depends on it, never a result.
    """

    _TRIES, _AGAIN = 4, 256

    def __init__(self, levels: int) -> None:
        self._times: list[tuple[deque[float], deque[float]]] = [
            (deque(maxlen=self._TRIES), deque(maxlen=self._TRIES)) for _ in range(levels)
        ]
        self._runs = [0] * levels

    def __call__(self, level: int) -> bool:
        """Say whether to use several threads at a level."""
        one, many = self._times[level]
        if len(many) < self._TRIES or len(one) < self._TRIES:
            return len(many) <= len(one)
        self._runs[level] += 1
        # A run of tries, so that one bad moment does not count for much.
        other = self._runs[level] % self._AGAIN < self._TRIES and self._runs[level] >= self._AGAIN
        return (min(many) < min(one)) != other

    def took(self, level: int, several: bool, seconds: float) -> None:
        """Note how long a level took."""
        self._times[level][several].append(seconds)
