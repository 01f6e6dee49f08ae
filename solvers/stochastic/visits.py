"""Visits: in which order an epoch goes through the rows of all chunks. Pure: seed, epoch and sizes say it all.

Every chunk has a fresh permutation of its rows in each epoch, and gives them away in short visits. Whole chunks at a time
serve badly where rows remember their own last visits: during a visit the coefficients come to rest where the chunk's own rows
lead them, given the rest as it was when *that* was visited; what chunks then remember are points that differ, and the
differences go round from epoch to epoch without dying out. And where chunks are not alike, each leads away from what the
others want. So chunks take turns: the k-th of K visits of a chunk is at a random time in the k-th part of K of the
epoch, and rows that were visited together are scattered over all visits in the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Visit", "permutation", "usual", "visits"]

#: A visit is worth its overhead, some microseconds, from so many rows on; and so many visits of a chunk keep it from leading
#: the coefficients away. On a cluster each is a message of some milliseconds, which more of them would not be worth.
_SHORTEST, _TURNS = 1_000, 8


class Visit(NamedTuple):
    """Some rows of a chunk: from ``start`` to ``stop`` of its permutation."""

    chunk: int
    start: int
    stop: int


def permutation(seed: int, epoch: int, chunk: int, rows: int) -> np.ndarray:
    """Return the order of the rows of a chunk in an epoch."""
    return np.random.default_rng([seed, epoch, chunk, 1]).permutation(rows)


def usual(sizes: Sequence[int]) -> int:
    """Return how long visits are where nobody says: it depends on the chunks alone, so that a seed means the same anywhere."""
    return max(_SHORTEST, -(-max(sizes) // _TURNS))


def visits(sizes: Sequence[int], seed: int, epoch: int, length: int) -> list[Visit]:
    """Return the visits of an epoch, in order; each row is in one of them.

    Parameters
    ----------
    sizes
        The rows of each chunk.
    seed, epoch
        What is drawn at random depends on them alone.
    length
        The rows of a visit, at most; 0 for whole chunks in their order.

    Examples
    --------
    >>> visits([3, 2], seed=0, epoch=1, length=0)
    [Visit(chunk=0, start=0, stop=3), Visit(chunk=1, start=0, stop=2)]
    >>> sorted(visits([3, 2], seed=0, epoch=1, length=2))
    [Visit(chunk=0, start=0, stop=1), Visit(chunk=0, start=1, stop=3), Visit(chunk=1, start=0, stop=2)]
    """
    if length == 0:
        return [Visit(chunk, 0, rows) for chunk, rows in enumerate(sizes) if rows]
    rng = np.random.default_rng([seed, epoch, 0, 0])
    timed = []
    for chunk, rows in enumerate(sizes):
        count = -(-rows // length)
        for k, part in enumerate(rng.random(count)):
            timed.append(((k + part) / count, Visit(chunk, rows * k // count, rows * (k + 1) // count)))
    return [visit for _, visit in sorted(timed)]
