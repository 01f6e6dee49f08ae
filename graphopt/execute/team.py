"""Team: threads that stay ready between the iterations of a loop.

To wake a thread that sleeps costs tens of microseconds, to hand work to one that is looking for it a few. So a member that
has finished looks on for a moment, giving way to whoever wants the interpreter, before it goes to sleep.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

__all__ = ["Team", "team_of"]

#: For how many looks a member stays awake after its work is done: about 100 µs, as long as a loop body takes between calls.
_LOOKS = 100


class _Member:
    """A thread that runs what it is handed, one thing at a time."""

    def __init__(self, number: int) -> None:
        self._work: Callable[[], None] | None = None
        self._asleep = False
        self._wake = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.done = True
        self.error: BaseException | None = None
        threading.Thread(target=self._run, name=f"graphopt-{number}", daemon=True).start()

    def start(self, work: Callable[[], None]) -> None:
        self.error, self.done = None, False
        with self._lock:
            self._work = work
            wake, self._asleep = self._asleep, False
        if wake:
            self._wake.release()

    def _run(self) -> None:
        while True:
            work = self._next()
            try:
                work()
            except BaseException as error:
                self.error = error
            del work  # it may hold data
            self.done = True

    def _next(self) -> Callable[[], None]:
        for _ in range(_LOOKS):
            work = self._work
            if work is not None:
                self._work = None
                return work
            time.sleep(0)
        while True:
            with self._lock:
                work, self._work = self._work, None
                if work is not None:
                    return work
                self._asleep = True
            self._wake.acquire()


class Team:
    """The calling thread and its helpers. One caller at a time; others are told that it is busy."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._members = [_Member(i) for i in range(1, threads)]
        self._busy = threading.Lock()

    def run(self, works: Sequence[Callable[[], None]]) -> None:
        """Run the works at once, the first of them on this thread, and wait for all; raise the first error.

        While another thread uses the team, they run here, one after the other: the answers are the same.
        """
        if len(works) == 1 or not self._busy.acquire(blocking=False):
            for work in works:
                work()
            return
        try:
            used = self._members[: len(works) - 1]
            for member, work in zip(used, works[1:], strict=True):
                member.start(work)
            try:
                works[0]()
            finally:
                for member in used:  # also after Ctrl-C: nothing of ours runs on when this returns
                    while not member.done:
                        time.sleep(0)
            for member in used:
                if member.error is not None:
                    raise member.error
        finally:
            self._busy.release()


_TEAMS: dict[int, Team] = {}
_GUARD = threading.Lock()


def team_of(threads: int) -> Team:
    """Return the team of so many threads; all plans of a process share it."""
    with _GUARD:
        if threads not in _TEAMS:
            _TEAMS[threads] = Team(threads)
        return _TEAMS[threads]
