"""Teams: who solves what the core asks. Shells: they start tasks, wait, and stop; they decide nothing.

A team holds the problems of the chunks. Which one it is depends on what dask runs on: a cluster's workers, the threads of this
process, or nobody but the caller. What is asked travels with its task, and so does the answer. The problems stay where they
are. So dask runs a task there, recomputes what a dead worker held, and runs again what was lost with it.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import dask
import dask.base
import numpy as np
from dask.base import compute
from dask.delayed import delayed

import graphopt as go
from solvers.consensus.core import Ask
from solvers.consensus.problem import Frame, look, problem_of, solve
from solvers.families import Family, Normal
from solvers.objective import Objective
from solvers.stochastic.legs import on_cluster, parts_of

__all__ = ["Answer", "Team", "team_of"]

#: A task on a cluster solves for as many chunks as take so many seconds, but for no more than this part of a thread's: it costs
#: client and scheduler five milliseconds on a small machine, whatever it does.
_WORTH, _PART = 0.05, 0.25

#: Chunks of up to so many bytes together are held in this process; of more than that, those that are being solved are.
_HELD = 2 << 30


class Answer(NamedTuple):
    """A chunk's solution, where and when it was found, in seconds since the epoch by the clock there."""

    chunk: int
    x: np.ndarray
    place: Hashable
    begun: float
    ended: float


class Team(Protocol):
    """Who solves the problems of the chunks."""

    @property
    def places(self) -> Sequence[Hashable]:
        """Where each chunk is."""

    @property
    def slots(self) -> dict[Hashable, int]:
        """How many chunks are solved at a time at each place, as far as that is worth while."""

    def look(self, z: np.ndarray) -> np.ndarray:
        """Return what `problem.look` says of each chunk, as rows."""

    def ask(self, asks: Sequence[Ask], frame: Frame) -> None:
        """Start on some problems."""

    def arrived(self) -> list[Answer]:
        """Wait until there is an answer, and return all that there are."""

    def keep(self, chunks: Sequence[int]) -> None:
        """Let go of all other chunks; these are numbered afresh."""

    def cancel(self) -> None:
        """Forget what was asked and has not been answered."""

    def working(self) -> contextlib.AbstractContextManager[Any]:
        """Return what a leg runs in."""


def team_of(objective: Objective) -> Team:
    """Return who solves the problems of an objective's chunks: the workers of a cluster if dask would run there."""
    get = dask.base.get_scheduler()
    if objective.data.local is not None or (get is not None and get is dask.local.get_sync):
        return _Alone(objective)
    return _Workers(objective, get.__self__) if on_cluster() else _Threads(objective)


def _answered(problem: Any, ask: Ask, frame: Frame, place: Hashable = None) -> Answer:
    """Solve, in a task."""
    begun = time.time()
    x = solve(problem, ask, frame)
    return Answer(ask.chunk, x, place, begun, time.time())


# -- in this process ----------------------------------------------------------------------------------------------------


class _Alone:
    """The caller, who solves one problem at a time, in the order in which they were asked."""

    def __init__(self, objective: Objective) -> None:
        data, family = objective.data, objective.family
        making = [_delayed(parts, objective) for parts in parts_of(data)]
        self.held = isinstance(family, Normal) or data.local is not None or data.sparse or data.X.nbytes <= _HELD
        self.problems: list[Any] = list(compute(*making)) if self.held else making
        self.waiting: list[tuple[Ask, Frame]] = []

    @property
    def places(self) -> Sequence[Hashable]:
        return ["here"] * len(self.problems)

    @property
    def slots(self) -> dict[Hashable, int]:
        return {"here": 1}

    def keep(self, chunks: Sequence[int]) -> None:
        self.problems = [self.problems[chunk] for chunk in chunks]

    def problem(self, chunk: int) -> Any:
        held = self.problems[chunk]
        return held if self.held else compute(held, scheduler="sync")[0]

    def look(self, z: np.ndarray) -> np.ndarray:
        return np.array([look(self.problem(chunk), z) for chunk in range(len(self.problems))])

    def ask(self, asks: Sequence[Ask], frame: Frame) -> None:
        self.waiting += [(ask, frame) for ask in asks]

    def arrived(self) -> list[Answer]:
        ask, frame = self.waiting.pop(0)
        return [_answered(self.problem(ask.chunk), ask, frame, "here")]

    def cancel(self) -> None:
        self.waiting.clear()

    def working(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


class _Threads(_Alone):
    """Threads of this process, which live for a leg."""

    def __init__(self, objective: Objective) -> None:
        super().__init__(objective)
        self.threads = int(dask.config.get("num_workers", 0)) or dask.system.CPU_COUNT
        self.done: queue.SimpleQueue[Future[Answer]] = queue.SimpleQueue()
        self.pool: ThreadPoolExecutor | None = None
        self.flying: set[Future[Answer]] = set()

    @property
    def slots(self) -> dict[Hashable, int]:
        return {"here": self.threads}

    def look(self, z: np.ndarray) -> np.ndarray:
        with self.working():
            assert self.pool is not None
            return np.array(list(self.pool.map(lambda chunk: look(self.problem(chunk), z), range(len(self.problems)))))

    def ask(self, asks: Sequence[Ask], frame: Frame) -> None:
        assert self.pool is not None
        for ask in asks:
            future = self.pool.submit(self._answer, ask, frame)
            self.flying.add(future)
            future.add_done_callback(self.done.put)

    def _answer(self, ask: Ask, frame: Frame) -> Answer:
        return _answered(self.problem(ask.chunk), ask, frame, "here")

    def arrived(self) -> list[Answer]:
        found = [future for future in _drained(self.done) if future in self.flying]
        self.flying.difference_update(found)
        return [future.result() for future in found]

    def cancel(self) -> None:
        for future in self.flying:
            future.cancel()
        self.flying.clear()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        from threadpoolctl import threadpool_limits  # it looks at all libraries that are loaded

        with threadpool_limits(1), ThreadPoolExecutor(self.threads, thread_name_prefix="consensus") as self.pool:
            try:
                yield
            finally:
                self.cancel()


def _drained(done: queue.SimpleQueue[Any]) -> list[Any]:
    """Wait for something in a queue, and take all that there is."""
    found = [done.get()]
    with contextlib.suppress(queue.Empty):
        while True:
            found.append(done.get_nowait())
    return found


# -- on a cluster -------------------------------------------------------------------------------------------------------


class _Workers:
    """The workers of a cluster. Problems are futures, and a task solves one of them, or some at one place if they are short."""

    def __init__(self, objective: Objective, client: Any) -> None:
        self.client = client
        self.seconds: list[float] = []  # that a chunk takes
        self.where: list[Hashable] = []  # it was last
        self.threads: dict[Hashable, int] = {}
        self.problems = client.compute([_delayed(parts, objective) for parts in parts_of(objective.data)])
        self.done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.flying: dict[str, Any] = {}

    @property
    def places(self) -> Sequence[Hashable]:
        where = self.client.who_has(self.problems)
        self.where = [next(iter(where.get(future.key, ())), None) for future in self.problems]
        return self.where

    @property
    def slots(self) -> dict[Hashable, int]:
        self.threads = self.client.nthreads()
        return {place: threads * self._lot(place) for place, threads in self.threads.items()}

    def _lot(self, place: Hashable) -> int:
        """Return how many chunks make a task at a place."""
        chunks = [chunk for chunk, where in enumerate(self.where) if where == place]
        if not chunks:
            return 1
        worth = _WORTH / max(float(np.median([self.seconds[chunk] for chunk in chunks])), 1e-6)
        return max(1, int(min(worth, _PART * len(chunks) / self.threads.get(place, 1))))

    def keep(self, chunks: Sequence[int]) -> None:
        self.problems = [self.problems[chunk] for chunk in chunks]
        self.seconds = [self.seconds[chunk] for chunk in chunks]

    def look(self, z: np.ndarray) -> np.ndarray:
        seen = self.client.gather(self.client.map(_looked, self.problems, z=z, pure=False))
        self.seconds = [seconds for seconds, _ in seen]
        return np.array([told for _, told in seen])

    def ask(self, asks: Sequence[Ask], frame: Frame) -> None:
        for lot in self._lots(asks):
            problems = [self.problems[ask.chunk] for ask in lot]
            future = self.client.submit(_on_worker, problems, [tuple(ask) for ask in lot], frame, pure=False)
            self.flying[future.key] = future
            future.add_done_callback(self.done.put)

    def _lots(self, asks: Sequence[Ask]) -> Iterator[list[Ask]]:
        """Put together what is asked at the same place at the same time."""
        here: dict[Hashable, list[Ask]] = {}
        for ask in asks:
            here.setdefault(self.where[ask.chunk], []).append(ask)
        for place, some in here.items():
            lot = self._lot(place)
            yield from (some[start : start + lot] for start in range(0, len(some), lot))

    def arrived(self) -> list[Answer]:
        found: list[Any] = []
        while not found:  # what was cancelled is done, too
            found = [self.flying.pop(future.key) for future in _drained(self.done) if future.key in self.flying]
        answers = [Answer(*answer) for lot in self.client.gather(found) for answer in lot]
        for chunk, _, place, begun, ended in answers:
            self.where[chunk], self.seconds[chunk] = place, ended - begun
        return answers

    def cancel(self) -> None:
        if self.flying:
            self.client.cancel(list(self.flying.values()), force=True)
        self.flying.clear()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        with go.low_latency(self.client):
            try:
                yield
            finally:
                self.cancel()


def _on_worker(problems: list[Any], asks: list[Any], frame: Frame) -> list[tuple[Any, ...]]:
    from dask.distributed import get_worker

    place = get_worker().address
    return [tuple(_answered(problem, Ask(*ask), frame, place)) for problem, ask in zip(problems, asks, strict=True)]


def _looked(problem: Any, z: np.ndarray) -> tuple[float, np.ndarray]:
    begun = time.perf_counter()
    told = look(problem, z)
    return time.perf_counter() - begun, told


def _delayed(parts: list[Any], objective: Objective) -> Any:
    family: Family = objective.family
    return delayed(problem_of, pure=False)(parts, family, objective.intercept, objective.units, objective.rows)
