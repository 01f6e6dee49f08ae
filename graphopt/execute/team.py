"""Team: threads that stay ready between the iterations of a loop.

To wake a thread that sleeps costs tens of microseconds, to hand work to one that is looking for it a few. So a member that
has finished looks on for a moment, giving way to whoever wants the interpreter, before it goes to sleep.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

__all__ = ["Team", "team_of"]

#: For how many looks a member stays awake after its work is done: about 100 µs, as long as a loop body takes between calls.
_LOOKS = 100


class _Job:
    """Work that was handed to a member, and what became of it."""

    __slots__ = ("done", "error", "taken", "work")

    def __init__(self, work: Callable[[], None]) -> None:
        self.work: Callable[[], None] | None = work
        self.taken = self.done = False
        self.error: BaseException | None = None

    def run(self) -> None:
        work, self.work = self.work, None  # it may hold data
        try:
            if work is not None:
                work()
        except BaseException as error:
            self.error = error
        del work
        self.done = True


class _Member:
    """A thread that runs what it is handed, one thing at a time.

    Ctrl-C may interrupt the thread that hands out work between any two steps, so each step leaves things in order.
    """

    def __init__(self, number: int) -> None:
        self._job: _Job | None = None
        self._asleep = False
        self._wake = threading.Semaphore(0)
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name=f"graphopt-{number}", daemon=True).start()

    def start(self, job: _Job) -> None:
        with self._lock:
            self._job = job
            if self._asleep:
                self._wake.release()  # once too often does no harm
                self._asleep = False

    def revoke(self, job: _Job) -> None:
        """See to it that a job that was not begun never is."""
        with self._lock:
            if self._job is job:
                self._job = None

    def _run(self) -> None:
        while True:
            self._next().run()

    def _next(self) -> _Job:
        for _ in range(_LOOKS):
            if self._job is not None and (job := self._take()) is not None:
                return job
            time.sleep(0)
        while True:
            if (job := self._take(or_sleep=True)) is not None:
                return job
            self._wake.acquire()

    def _take(self, *, or_sleep: bool = False) -> _Job | None:
        with self._lock:
            job, self._job = self._job, None
            if job is not None:
                job.taken = True
            elif or_sleep:
                self._asleep = True
            return job


class Team:
    """The calling thread and its helpers. One caller at a time; others are told that it is busy."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._members = [_Member(i) for i in range(1, threads)]
        self._busy = threading.Lock()

    def run(self, works: Sequence[Callable[[], None]], stop: Callable[[], None] = lambda: None) -> None:
        """Run the works at once, the first of them on this thread, and wait for all; raise the first error.

        While another thread uses the team, they run here, one after the other: the answers are the same. ``stop`` is called
        when this thread is interrupted, and should make all works return soon: when this returns, none runs any more.
        """
        if len(works) == 1 or not self._busy.acquire(blocking=False):
            for work in works:
                work()
            return
        jobs = [(member, _Job(work)) for member, work in zip(self._members, works[1:], strict=False)]
        error: BaseException | None = None
        try:
            try:
                for member, job in jobs:
                    member.start(job)
                works[0]()
            except BaseException as mine:
                error = mine
                stop()
            while True:
                try:
                    _wait(jobs, give_up=error is not None)
                    break
                except BaseException as mine:  # Ctrl-C, perhaps not the first
                    error = error or mine
                    stop()
        finally:
            self._busy.release()
        for problem in (error, *[job.error for _, job in jobs]):
            if problem is not None:
                raise problem


def _wait(jobs: Sequence[tuple[_Member, _Job]], *, give_up: bool) -> None:
    for member, job in jobs:
        if give_up:
            member.revoke(job)
            if not job.taken:
                continue
        while not job.done:
            time.sleep(0)


_TEAMS: dict[int, Team] = {}
_GUARD = threading.Lock()


def team_of(threads: int) -> Team:
    """Return the team of so many threads; all plans of a process share it."""
    with _GUARD:
        if threads not in _TEAMS:
            _TEAMS[threads] = Team(threads)
        return _TEAMS[threads]


def _forget() -> None:
    """Start anew in a process that was forked: threads do not come along, and a lock may have been held."""
    global _GUARD
    _GUARD = threading.Lock()
    _TEAMS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
