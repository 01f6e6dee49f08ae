"""Passes: SAGA over chunks that come one at a time, in whatever order their owner has them. Pure: a pass makes a new state.

A chunk that is new joins the sum that is minimised, and its rows remember the point at which it came; one that came before is
visited again with what its rows remember. This is the published method with its running average.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from solvers.families import Family
from solvers.penalties import Kinks, Penalty
from solvers.stochastic.visits import Visit, permutation
from solvers.stochastic.walk import Block, Epoch, Walker, curvature_of, rows_of, settled, slopes, walk

__all__ = ["Known", "Passes"]


@dataclass(frozen=True, eq=False)
class Known:
    """What is remembered of a chunk: a number for each row, the largest curvature of one, and the sum of weights."""

    memory: np.ndarray
    curvature: float
    total: float


@dataclass(frozen=True, eq=False)
class Passes:
    """Where passes have led.

    Attributes
    ----------
    beta : numpy.ndarray
        Coefficients, the intercept last if there is one.
    gradient : numpy.ndarray
        The sum of all that rows remember, each times the row.
    known : mapping
        The chunks so far.
    count : int
        How many passes there were.
    """

    beta: np.ndarray
    gradient: np.ndarray
    known: Mapping[Hashable, Known] = field(default_factory=dict)
    count: int = 0

    def over(
        self,
        name: Hashable,
        block: Block,
        family: Family,
        penalty: Penalty,
        *,
        intercept: bool,
        seed: int,
        pace: float,
        own: Any,
    ) -> Passes:
        """Go through the rows of a chunk once.

        Parameters
        ----------
        name
            Of the chunk.
        block
            Its rows.
        family, penalty, intercept
            What is minimised over all chunks so far.
        seed, pace, own
            As in `SAGA`, whose ``derivative`` is ``own``.
        """
        rows = len(block.y)
        gradient, before = self.gradient, self.known.get(name)
        memory = slopes(family, block, self.beta, intercept) if before is None else before.memory
        if before is None:
            slope = rows_of(block, len(self.beta) - intercept).T @ memory
            gradient = gradient + (np.append(slope, memory.sum()) if intercept else slope)
        total = float(block.weights.sum()) if len(block.weights) else float(rows)
        known = {**self.known, name: Known(memory, curvature_of(family, block, self.beta, intercept), total)}
        count, whole = sum(len(one.memory) for one in known.values()), sum(one.total for one in known.values())
        if not whole:
            return Passes(self.beta, gradient, known, self.count + 1)
        largest = max(one.curvature for one in known.values()) * count / whole
        kinks = penalty.kinks or Kinks()
        step = pace / max(largest, 1e-300)
        epoch = Epoch(family, own, seed, self.count + 1, step, penalty.ridge, kinks, count, whole, intercept)
        walker = walk(Walker.at(self.beta, gradient / whole), epoch, {0: block}, [rows], [Visit(0, 0, rows)], {0: memory})
        order, (piece,) = permutation(seed, epoch.number, 0, rows), walker.memory
        learned = np.array(memory)
        learned[order] = piece
        known[name] = Known(learned, known[name].curvature, total)
        return Passes(settled(walker, epoch), walker.average * whole, known, self.count + 1)
