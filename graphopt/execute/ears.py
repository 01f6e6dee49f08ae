"""Ears: who reads the lines from the peers of a worker.

The event loop does. But in a loop each iteration waits for a peer, and to be told by another thread what has come takes
longer than to read it. So while a loop runs, the task thread that waits reads, and delivers what it finds for others.
"""

from __future__ import annotations

import select
import threading
from typing import Any

from graphopt.execute.line import Line

__all__ = ["Ears"]


class Ears:
    """The lines from the peers of a worker. Used on the event loop, but for `listen`."""

    def __init__(self) -> None:
        self.lines: set[Line] = set()
        self.users = 0  # loops that run
        self.turn = threading.Lock()  # of the thread that reads
        self.heard: tuple[Any, dict[int, Line]] | None = None  # what waits for messages, and the lines by their sockets

    def add(self, line: Line) -> None:
        """Add a line."""
        self.lines.add(line)
        if self.heard is not None:
            line.rest()
            self.prepare()

    def discard(self, line: Line) -> None:
        """Take a line away that is closed."""
        self.lines.discard(line)
        if self.heard is not None:
            self.prepare()

    def prepare(self) -> None:
        """Note what there is to listen to."""
        poll, lines = select.poll(), {line.socket.fileno(): line for line in self.lines if not line.closed}
        for number in lines:
            if number >= 0:
                poll.register(number, select.POLLIN)
        self.heard = poll, lines

    def __enter__(self) -> None:
        """Leave the lines to the thread that waits."""
        self.users += 1
        if self.users == 1 and self.lines and hasattr(select, "poll"):
            for line in self.lines:
                line.rest()
            self.prepare()

    def __exit__(self, *_: Any) -> None:
        """Have the event loop read again."""
        self.users -= 1
        if not self.users and self.heard is not None:
            self.heard = None
            with self.turn:  # a thread that is just reading, for no longer than it looks
                pass
            for line in self.lines:
                line.resume()

    def listen(self, seconds: float) -> bool:
        """Read what comes within so many seconds, on a task thread; return False if that is somebody else's."""
        heard = self.heard
        if heard is None or not self.turn.acquire(blocking=False):
            return False
        try:
            if self.heard is not heard:
                return False
            poll, lines = heard
            for number, _ in poll.poll(seconds * 1e3):
                lines[number].read()
        finally:
            self.turn.release()
        return True
