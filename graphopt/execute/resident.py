"""Resident: a part of a plan as a worker holds it, with the chunks it is bound to.

A key of dask's stands for one value for ever, so a block that was looked up once is never stale; what may change is whether the
worker still has it. Blocks are therefore held while a plan is in use, and let go of when dask spills them, moves them or
forgets them, or when the plan has not run for a while. A run that then does not find a block says which.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
from dask.array import chunk
from dask.sizeof import sizeof

from graphopt.execute import blas
from graphopt.execute.local import run
from graphopt.execute.loops import Bounds, Loops
from graphopt.execute.memory import Meter
from graphopt.execute.threads import Threads
from graphopt.parts import Part

__all__ = ["Binding", "Missing", "Resident", "pickled"]

#: dask wraps functions of NumPy's so that pickle cannot find them by their names. They must come out as the objects that they
#: are: what is compiled on the worker is told by which functions are called.
_WRAPPED = {id(value): name for name, value in vars(chunk).items() if isinstance(value, FunctionType)}

#: How many sets of blocks of chunked arguments are held at once: a state that stays chunked is another one each time.
_FEEDS = 4


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        name = _WRAPPED.get(id(obj))
        return super().reducer_override(obj) if name is None else (getattr, (chunk, name))


def pickled(value: Any) -> bytes:
    """Return a value pickled; dask's own functions stay themselves."""
    file = io.BytesIO()
    _Pickler(file, protocol=4).dump(value)
    return file.getvalue()


class Missing(Exception):
    """Blocks that the worker does not have."""

    def __init__(self, keys: Sequence[Any]) -> None:
        super().__init__(f"{len(keys)} blocks are not here, such as {keys[0]!r}")
        self.keys = list(keys)


@dataclass(frozen=True, slots=True)
class Binding:
    """What a worker is sent when a plan is bound.

    Attributes
    ----------
    part : Part
        What it runs.
    blocks : dict
        For each slot of a chunk the place of the argument, and the place of the block in it.
    fixed : dict
        The keys of chunks that the function itself refers to, by slot.
    kept : dict
        For each slot of a result that stays, the results it belongs to, each with the place in it.
    peers : tuple
        The workers that have the other parts.
    exact, memory, threads
        As in `compile`.
    name
        Of the function.
    """

    part: Part
    blocks: Mapping[int, tuple[int, tuple[int, ...]]]
    fixed: Mapping[int, Any] = field(default_factory=dict)
    kept: Mapping[int, tuple[tuple[int, tuple[int, ...]], ...]] = field(default_factory=dict)
    peers: tuple[str, ...] = ()
    exact: bool = False
    memory: int | None = None
    threads: int | None = None
    name: str = ""


class Resident:
    """A part that is bound on a worker.

    Parameters
    ----------
    binding
        What was sent.
    data
        The data of the worker, by key.
    executor
        Its task threads.
    threads
        How many those are.
    shelf
        What else is there, that dask does not know.
    """

    def __init__(self, binding: Binding, data: Any, executor: Any, threads: int, shelf: Any = None) -> None:
        self.binding, self.part, self.data, self.shelf = binding, binding.part, data, shelf or {}
        self.peers = frozenset(binding.peers)
        part = self.part
        later: set[int] = {*part.gives, *part.keeps}
        self.steps: list[_Step] = []
        for phase in reversed(part.phases):
            later.update(slot for _, slots in phase.sends for slot in slots)
            self.steps.append(_Step(part, phase, frozenset(later), binding))
            later.update(
                slot for level in phase.levels for group in level.groups for lane in group.lanes for slot in lane.reads
            )
        self.steps.reverse()
        self.template: list[Any] = [None] * part.size
        for slot, value in part.literals.items():
            self.template[slot] = value
        self.places: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
        for slot in part.chunks:
            if slot in binding.blocks:
                place, index = binding.blocks[slot]
                self.places.setdefault(place, []).append((slot, index))
        self.feeds: OrderedDict[Any, dict[int, Any]] = OrderedDict()
        self.bounds: OrderedDict[Any, tuple[list[Any], list[Bounds]]] = (
            OrderedDict()
        )  # with the values of all slots before a run
        self.keys: dict[Any, Any] = {}  # of the blocks that are held -> the feed
        self.team = _TaskThreads(executor, min(threads, binding.threads or threads))
        self.spilled = _spilled(data)
        self.watched = False
        self.runs = 0
        self.compiling = threading.RLock()

    # -- blocks ------------------------------------------------------------------------------------------------------

    def fill(self, names: Mapping[int, Any], small: Mapping[int, Any]) -> tuple[list[Any], list[Bounds]]:
        """Return the values of all slots before a run, and what loops are bound to.

        Parameters
        ----------
        names
            For each chunked argument what its blocks are called: the first part of their keys, or the keys by slot.
        small
            The values of small arguments and numbers, by slot.

        Raises
        ------
        Missing
            If blocks are not here.
        """
        now = _spilled(self.data)
        if now != self.spilled:  # what is held now would keep dask from saving the memory
            self.spilled = now
            self.release()
        missing: list[Any] = []
        feeds: list[Any] = []
        for place, slots in self.places.items():
            name = names[place]
            feed = (place, name if isinstance(name, str) else None)
            if feed not in self.feeds or isinstance(name, dict):
                self._feed(
                    feed, {slot: name[slot] if isinstance(name, dict) else (name, *index) for slot, index in slots}, missing
                )
            feeds.append(feed)
        if self.binding.fixed:
            feeds.append("fixed")
            if "fixed" not in self.feeds:
                self._feed("fixed", self.binding.fixed, missing)
        if missing:
            raise Missing(missing)
        for feed in feeds:
            self.feeds.move_to_end(feed)
        while len(self.feeds) > _FEEDS + len(self.places):
            self._let_go(next(iter(self.feeds)))
        bound = tuple(feeds)
        if bound not in self.bounds:
            base = list(self.template)
            for feed in feeds:
                for slot, value in self.feeds[feed].items():
                    base[slot] = value
            self.bounds[bound] = (base, [{} for _ in self.steps])
            while len(self.bounds) > _FEEDS:
                self.bounds.popitem(last=False)
        base, bounds = self.bounds[bound]
        values = list(base)
        for slot in self.part.small:
            values[slot] = small[slot]
        return values, bounds

    def _feed(self, feed: Any, keys: Mapping[int, Any], missing: list[Any]) -> None:
        self._let_go(feed)
        found = {}
        for slot, key in keys.items():
            try:  # the shelf first: what may spill takes ten times as long to say that it does not have a block
                block = self.shelf.get(key)
                found[slot] = _aligned(self.data[key] if block is None else block)
            except KeyError:
                missing.append(key)
        self.feeds[feed] = found
        if missing:
            self._let_go(feed)
        else:
            self.keys.update(dict.fromkeys(keys.values(), feed))

    def forget(self, key: Any) -> None:
        """Let go of a block that the worker does not have any more, with the others of its argument."""
        feed = self.keys.get(key)
        if feed is not None:
            self._let_go(feed)

    def _let_go(self, feed: Any) -> None:
        if self.feeds.pop(feed, None) is not None:
            self.keys = {key: other for key, other in self.keys.items() if other != feed}
            for bound in [bound for bound in self.bounds if feed in bound]:
                del self.bounds[bound]

    def release(self) -> None:
        """Let go of all blocks; they are looked up again by the next run."""
        self.feeds.clear()
        self.bounds.clear()
        self.keys.clear()

    def kept(self, names: Sequence[str | None], values: Sequence[Any]) -> dict[Any, Any]:
        """Return the results that stay, by their keys; ``names`` says what each result is called."""
        out: dict[Any, Any] = {}
        for slot in self.part.keeps:
            for number, index in self.binding.kept.get(slot, ()):
                key: tuple[Any, ...] = (names[number], *index)
                out[key] = values[slot]
        return out

    def info(self) -> dict[str, Any]:
        """Say what is held."""
        blocks = {id(value): value for feed in self.feeds.values() for value in feed.values()}
        return {
            "lanes": self.part.lanes,
            "chunks": len(self.part.chunks),
            "runs": self.runs,
            "blocks": len(blocks),
            "chunk_bytes": sum(map(sizeof, blocks.values())),
            "literal_bytes": sum(map(sizeof, self.part.literals.values())),
        }

    # -- work --------------------------------------------------------------------------------------------------------

    def run(self, number: int, values: list[Any], bounds: Sequence[Bounds]) -> float:
        """Run a phase on this thread and, where that pays, on other task threads; return the seconds it took."""
        start = time.perf_counter()
        step = self.steps[number]
        first = not step.meter.measured
        with blas.one_thread(), self.compiling if first else contextlib.nullcontext():
            run(step.schedule, values, self.team, step.threads, step.loops, bounds[number], step.meter)  # type: ignore[arg-type]
        self.runs += number == len(self.steps) - 1
        return time.perf_counter() - start


class _Step:
    """A phase with what is learned by running it."""

    def __init__(self, part: Part, phase: Any, kept: frozenset[int], binding: Binding) -> None:
        self.schedule = part.schedule(phase)
        self.meter = Meter(self.schedule, binding.memory)
        self.threads = Threads(len(phase.levels))
        shared = (*part.small, *part.literals)
        self.loops = None if binding.exact else Loops(self.schedule, part.chunks, shared, kept)


class _TaskThreads:
    """The calling task thread and others of the worker, used as `Team` is.

    Work that no other thread has begun by the time this one is done, it does itself: it never waits for a thread to be free.
    """

    def __init__(self, executor: Any, threads: int) -> None:
        self.executor, self.threads = executor, max(1, threads)

    def run(
        self, works: Sequence[Callable[[], None]], stop: Callable[[], None] = lambda: None, *, in_turn: bool = False
    ) -> None:
        """Run the works, at once or in turn, and wait for all; raise the first error."""
        if in_turn:
            for work in works:
                work()
            return
        others: list[tuple[Future[None], Callable[[], None]]] = [(self.executor.submit(work), work) for work in works[1:]]
        error: BaseException | None = None
        try:
            works[0]()
        except BaseException as mine:
            error = mine
            stop()
        for future, work in others:
            try:
                if not future.cancel():
                    future.result()
                elif error is None:
                    work()
            except BaseException as problem:
                error = error or problem
                stop()
        if error is not None:
            raise error


def _aligned(block: Any) -> Any:
    """Return a block as compiled loops can read it: what came in a message may begin at any byte."""
    return block.copy() if type(block) is np.ndarray and not block.flags.aligned else block


def _spilled(data: Any) -> Any:
    """Return how much of the worker's data was spilled so far."""
    return getattr(data, "spilled_total", None)
