"""Team: threads that stay ready between the iterations of a loop.

To wake a thread that sleeps costs tens of microseconds, to hand work to one that is looking for it a few. So a member that
has finished looks on for a moment, giving way to whoever wants the interpreter, before it goes to sleep.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from graphopt.execute.spin import Cell, Look

__all__ = ["Team", "team_of"]


class _Job:
    """Work that was handed to a member, and what became of it."""

    __slots__ = ("_finished", "error", "number", "taken", "work")

    def __init__(self, work: Callable[[], None]) -> None:
        self.work: Callable[[], None] | None = work
        self.number = 0
        self.taken = False
        self.error: BaseException | None = None
        self._finished = threading.Lock()
        self._finished.acquire()

    def run(self) -> None:
        work, self.work = self.work, None  # it may hold data
        try:
            if work is not None:
                work()
        except BaseException as error:
            self.error = error
        del work
        self._finished.release()

    def wait(self) -> None:
        """Sleep until the work is done."""
        with self._finished:
            pass


class _Member:
    """A thread that runs what it is handed, one thing at a time.

    Ctrl-C may interrupt the thread that hands out work between any two steps, so each step leaves things in order.
    """

    def __init__(self, number: int) -> None:
        self._job: _Job | None = None
        self._asleep = False
        self._wake = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._posted, self._done = Cell(), Cell()  # the number of the last job that was handed over; that was run
        self._number = 0
        self._free = Cell()  # the number of the last job whose giver has let go of the interpreter's lock
        self._finish = Look(self._done, self._free)
        threading.Thread(target=self._run, name=f"graphopt-{number}", daemon=True).start()

    def start(self, job: _Job) -> None:
        with self._lock:
            self._number += 1
            job.number = self._number
            self._job = job
            self._posted.write(job.number)
            if self._asleep:
                self._wake.release()  # once too often does no harm
                self._asleep = False

    def revoke(self, job: _Job) -> None:
        """See to it that a job that was not begun never is."""
        with self._lock:
            if self._job is job:
                self._job = None

    def wait(self, job: _Job) -> None:
        """Wait for a job, awake for a moment, then asleep."""
        before = self._done.read()
        if before != job.number and self._finish(before, job.number) != job.number:
            job.wait()

    def _run(self) -> None:
        announce, done = Look(self._posted, self._done, self._free), 0
        while True:
            job = self._next(announce, done)
            job.run()
            done = job.number

    def _next(self, announce: Look, done: int) -> _Job:
        """Say which job is done, and return the next one."""
        seen = done
        while (posted := announce(seen, done)) != seen:
            if (job := self._take()) is not None:
                return job
            seen = posted  # it was revoked
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

    def run(
        self,
        works: Sequence[Callable[[], None]],
        stop: Callable[[], None] = lambda: None,
        *,
        in_turn: bool = False,
        together: bool = False,
    ) -> bool:
        """Run the works at once, or each on its thread but in turn, the first on this one; wait, and raise the first error.

        While another thread uses the team, they run here, one after the other: the answers are the same. Works that wait for
        each other have to run ``together`` and do not run then; returned is whether they did. ``stop`` is called when this
        thread is interrupted, and should make all works return soon: when this returns, none runs any more.
        """
        if len(works) == 1 or not self._busy.acquire(blocking=False):
            if together:
                return False
            for work in works:
                work()
            return True
        jobs = [(member, _Job(work)) for member, work in zip(self._members, works[1:], strict=False)]
        error: BaseException | None = None
        try:
            try:
                for member, job in jobs if not in_turn else ():
                    member.start(job)
                works[0]()
                for member, job in jobs if in_turn else ():
                    member.start(job)
                    member.wait(job)
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
        return True


def _wait(jobs: Sequence[tuple[_Member, _Job]], *, give_up: bool) -> None:
    for member, job in jobs:
        if give_up:
            member.revoke(job)
            if not job.taken:
                continue
        member.wait(job)


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
