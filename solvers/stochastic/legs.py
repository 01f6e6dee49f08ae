"""Legs: the walks of an epoch on whatever dask runs on.

Where chunks are in this process, a walk through all of them is a call. On a cluster it goes in legs, each of them a task where
its chunk is; what goes from one to the next is the walker, and what chunks remember stays with them. In lanes, walks through
some of the chunks each begin at the same point and do not wait for each other, on any scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import dask.base
import numpy as np
from dask.base import compute, persist
from dask.delayed import delayed

from solvers.data import Data
from solvers.families import Family
from solvers.stochastic.visits import Visit, permutation
from solvers.stochastic.walk import Block, Epoch, Walker, block_of, settled, slopes, walk

__all__ = ["chained", "in_lanes", "lanes_of", "loaded", "on_cluster", "parts_of", "remembered", "walked"]

#: What chunks remember, by number: arrays, or on a cluster promises of them that stay with the workers.
Memories = Mapping[int, Any] | None


def on_cluster() -> bool:
    """Say whether dask would run tasks in other processes of a cluster."""
    owner = getattr(dask.base.get_scheduler(), "__self__", None)
    return type(owner).__module__.split(".")[0] == "distributed"


def loaded(data: Data, chunks: Sequence[int] | None = None) -> dict[int, Block]:
    """Load chunks into this process, all by default; what is there already is not copied."""
    parts = parts_of(data)
    chunks = range(len(parts)) if chunks is None else chunks
    return {i: block_of(*found) for i, found in zip(chunks, compute(*[parts[i] for i in chunks]), strict=True)}


def remembered(data: Data, family: Family, beta: np.ndarray, intercept: bool, blocks: Any) -> dict[int, Any]:
    """Return what the chunks remember of a point: computed here, or where they are."""
    if blocks is not None:
        return {i: slopes(family, block, beta, intercept) for i, block in blocks.items()}
    found = [delayed(_slopes, pure=False)(family, parts, beta, intercept) for parts in parts_of(data)]
    return dict(enumerate(persist(*found) if on_cluster() else compute(*found)))


def walked(
    walker: Walker, epoch: Epoch, data: Data, visits: Sequence[Visit], blocks: Any, memories: Memories
) -> tuple[np.ndarray, np.ndarray, Memories]:
    """Walk in this process, through chunks that are held or, where ``blocks`` is None, loaded for each visit.

    Returns coefficients, average gradient, and new memories.
    """
    pieces: list[np.ndarray] = []
    for run in [list(visits)] if blocks is not None else _runs(visits):
        held = loaded(data, [run[0].chunk]) if blocks is None else blocks
        walker = walk(walker, epoch, held, data.X.chunks[0], run, _of(memories, held))
        pieces += walker.memory
    new = None if memories is None else {i: _assembled(memories[i], *_own(i, visits, pieces), epoch) for i in memories}
    return settled(walker, epoch), np.array(walker.average), new


def chained(
    walker: Walker, epoch: Epoch, data: Data, visits: Sequence[Visit], memories: Memories
) -> tuple[np.ndarray, np.ndarray, Memories]:
    """Walk on a cluster: a task for each run of visits to one chunk, where the chunk is. Returns what `walked` does."""
    parts, sizes, shared = parts_of(data), data.X.chunks[0], delayed(epoch, pure=False)
    ahead, legs = delayed(walker, pure=False), []
    for run in _runs(visits):
        chunk = run[0].chunk
        memory = None if memories is None else memories[chunk]
        ahead = delayed(_leg, pure=False)(ahead, shared, [parts[chunk]], {chunk: sizes[chunk]}, run, memory)
        legs.append((run, ahead))
    if memories is None:
        found = compute(ahead)[0]
        return settled(found, epoch), np.array(found.average), None
    new = []
    for chunk, memory in memories.items():
        mine = [(run, leg) for run, leg in legs if run[0].chunk == chunk]
        runs, walkers = [run for run, _ in mine], [leg for _, leg in mine]
        new.append(delayed(_gathered, pure=False)(memory, runs, walkers, shared))
    ahead, *new = persist(ahead, *new)
    found = compute(ahead)[0]
    return settled(found, epoch), np.array(found.average), dict(zip(memories, new, strict=True))


def in_lanes(walker: Walker, epoch: Epoch, data: Data, visits: Sequence[Visit], lanes: Sequence[int]) -> np.ndarray:
    """Walk through the chunks of each lane from the same point, all at a time, and return the mean of where that leads."""
    parts, sizes = parts_of(data), data.X.chunks[0]
    shared, start, tasks, shares = delayed(epoch, pure=False), delayed(walker, pure=False), [], []
    for lane in sorted(set(lanes)):
        chunks = [i for i, of in enumerate(lanes) if of == lane and sizes[i]]
        if chunks:
            mine, own = [visit for visit in visits if lanes[visit.chunk] == lane], {i: sizes[i] for i in chunks}
            tasks.append(delayed(_leg, pure=False)(start, shared, [parts[i] for i in chunks], own, mine, None))
            shares.append(sum(own.values()))
    ends = [settled(found, epoch) for found in compute(*tasks)]
    return np.average(ends, axis=0, weights=shares)


def lanes_of(sizes: Sequence[int], count: int) -> list[int]:
    """Return the lane of each chunk: neighbours share one, and all have about as many rows.

    Examples
    --------
    >>> lanes_of([10, 10, 10, 10], 2), lanes_of([10, 10], 5)
    ([0, 0, 1, 1], [1, 3])
    """
    middles = np.cumsum(sizes) - np.asarray(sizes) / 2
    return np.minimum(middles * count / sum(sizes), count - 1).astype(int).tolist()  # type: ignore[no-any-return]


def parts_of(data: Data) -> list[list[Any]]:
    """Return rows, labels, weights and offset of each chunk, lazily."""
    missing = [None] * data.X.numblocks[0]
    columns = [missing if part is None else part.to_delayed().ravel() for part in (data.y, data.weights, data.offset)]
    return [list(parts) for parts in zip(data.X.to_delayed().ravel(), *columns, strict=True)]


def _runs(visits: Sequence[Visit]) -> list[list[Visit]]:
    return [list(run) for _, run in groupby(visits, lambda visit: visit.chunk)]


def _of(memories: Memories, blocks: Mapping[int, Block]) -> dict[int, np.ndarray] | None:
    return None if memories is None else {i: memories[i] for i in blocks}


def _own(chunk: int, visits: Sequence[Visit], pieces: Sequence[np.ndarray]) -> tuple[list[Visit], list[np.ndarray]]:
    """Return the visits to a chunk, and what its rows remember of each."""
    found = [(visit, piece) for visit, piece in zip(visits, pieces, strict=True) if visit.chunk == chunk]
    return [visit for visit, _ in found], [piece for _, piece in found]


# -- in tasks -----------------------------------------------------------------------------------------------------------


def _leg(walker: Walker, epoch: Epoch, parts: list[Any], sizes: dict[int, int], visits: Any, memory: Any) -> Walker:
    """Walk through some chunks; one that has memory is alone."""
    blocks = {i: block_of(*found) for i, found in zip(sizes, parts, strict=True)}
    visits = [Visit(*visit) for visit in visits]
    return walk(Walker(*walker), epoch, blocks, sizes, visits, None if memory is None else dict.fromkeys(sizes, memory))


def _slopes(family: Family, parts: list[Any], beta: np.ndarray, intercept: bool) -> np.ndarray:
    return slopes(family, block_of(*parts), beta, intercept)


def _gathered(memory: np.ndarray, runs: list[Any], walkers: list[Any], epoch: Epoch) -> np.ndarray:
    visits = [Visit(*visit) for run in runs for visit in run]
    return _assembled(memory, visits, [piece for walker in walkers for piece in Walker(*walker).memory], epoch)


def _assembled(memory: np.ndarray, visits: list[Visit], pieces: list[np.ndarray], epoch: Epoch) -> np.ndarray:
    """Return what a chunk remembers after an epoch: each visit's rows what they learned then."""
    new = np.array(memory)
    for (chunk, start, stop), piece in zip(visits, pieces, strict=True):
        new[permutation(epoch.seed, epoch.number, chunk, len(memory))[start:stop]] = piece
    return new
