"""Walk: visits to chunks that are in memory, one after another. Pure: what is changed is copied first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from solvers.families import Family
from solvers.penalties import Kinks
from solvers.stochastic.derivatives import derivative_of, parameter_of
from solvers.stochastic.kernels import kernels_of, powers
from solvers.stochastic.visits import Visit, permutation

__all__ = ["Block", "Epoch", "Walker", "block_of", "curvature_of", "examples", "rows_of", "settled", "slopes", "walk"]

_NONE = np.empty(0)


class Block(NamedTuple):
    """A chunk in the form that kernels take: rows, dense or the three arrays of CSR, and what goes with each row."""

    X: Any
    y: np.ndarray
    weights: np.ndarray
    offset: np.ndarray


class Walker(NamedTuple):
    """Who walks: a line of `kernels`' places for each number that is looked for, the clock, and new memory, if any."""

    places: np.ndarray
    clock: np.ndarray
    memory: tuple[np.ndarray, ...] = ()

    @classmethod
    def at(cls, beta: np.ndarray, average: np.ndarray) -> Walker:
        """Return one who begins at some coefficients, which are their own snapshot."""
        return cls(np.stack([beta, average, beta, np.zeros(len(beta))], axis=1), np.zeros(1, np.int64))

    @property
    def average(self) -> np.ndarray:
        """The average gradient."""
        return self.places[:, 1]


@dataclass(frozen=True)
class Epoch:
    """What all visits of an epoch share.

    Attributes
    ----------
    family, own
        The loss, and the compiled derivative that takes the place of its own, if any.
    seed, number
        What the permutations depend on.
    pace
        The length of a step, per gradient.
    ridge, kinks
        The penalty.
    rows, total
        Of all data.
    intercept
        Whether there is one.
    """

    family: Family
    own: Any
    seed: int
    number: int
    pace: float
    ridge: float
    kinks: Kinks
    rows: int
    total: float
    intercept: bool

    def numbers(self) -> np.ndarray:
        """Return what kernels want to know."""
        lasso, low, high = self.kinks
        pace, shares = self.pace, (self.rows / self.total, 1.0 / self.total)
        return np.array([pace, pace * lasso, pace * self.ridge, low, high, *shares, self.intercept, parameter_of(self.family)])


def block_of(X: Any, y: Any, weights: Any = None, offset: Any = None) -> Block:
    """Return a chunk in the form that kernels take, which is one for all chunks of a kind: kernels are compiled once then."""
    if scipy.sparse.issparse(X):
        X = X.tocsr()
        if not X.has_canonical_format:  # a step is made with each entry of a row, once
            X = X.copy()
            X.sum_duplicates()
        rows: Any = (_plain(X.indptr), _plain(X.indices), _plain(X.data))
    else:
        rows = _plain(X)
    columns = [_NONE if part is None else np.asarray(part, float).ravel() for part in (y, weights, offset)]
    return Block(rows, *map(_plain, columns))


def _plain(array: Any) -> np.ndarray:
    """Return an array as one that is contiguous and not written to: what came over a wire may not be, and types differ."""
    view: np.ndarray = np.require(array, requirements=["C", "A"]).view()
    view.flags.writeable = False
    return view


def slopes(family: Family, block: Block, beta: np.ndarray, intercept: bool) -> np.ndarray:
    """Return what each row of a chunk is to remember at a point: the weighted derivative of its loss."""
    with np.errstate(all="ignore"):
        found: np.ndarray = family.first(_eta(block, beta, intercept), block.y)
    return found * block.weights if len(block.weights) else found


def curvature_of(family: Family, block: Block, beta: np.ndarray, intercept: bool) -> float:
    """Return the largest curvature of a row of a chunk along itself: anywhere if that is bounded, else at a point."""
    X = rows_of(block, len(beta) - intercept)
    lengths = np.asarray(X.multiply(X).sum(axis=1)).ravel() if scipy.sparse.issparse(X) else np.einsum("ij,ij->i", X, X)
    with np.errstate(all="ignore"):
        curved = family.bound if np.isfinite(family.bound) else family.second(_eta(block, beta, intercept), block.y)
    weights = block.weights if len(block.weights) else 1.0
    return float(np.max(curved * weights * (lengths + float(intercept)), initial=0.0))


def rows_of(block: Block, features: int) -> Any:
    """Return the rows of a chunk as a matrix."""
    if not isinstance(block.X, tuple):
        return block.X
    start, column, number = block.X
    return scipy.sparse.csr_matrix((number, column, start), shape=(len(start) - 1, features))


def _eta(block: Block, beta: np.ndarray, intercept: bool) -> Any:
    w, b = (beta[:-1], beta[-1]) if intercept else (beta, 0.0)
    eta = rows_of(block, len(w)) @ w + b
    return eta + block.offset if len(block.offset) else eta


def walk(
    walker: Walker,
    epoch: Epoch,
    blocks: Mapping[int, Block],
    sizes: Mapping[int, int] | Sequence[int],
    visits: Sequence[Visit],
    memories: Mapping[int, np.ndarray] | None = None,
) -> Walker:
    """Make visits, and return where they lead.

    Parameters
    ----------
    walker
        Who walks.
    epoch
        What all visits share.
    blocks
        The chunks that are visited, by number.
    sizes
        The rows of each chunk, by number.
    visits
        Where to go.
    memories
        What these chunks remember, if that is kept. What the visited rows remember then is returned, visit by visit.
    """
    kernels = kernels_of(derivative_of(epoch.family, epoch.own))
    numbers = epoch.numbers()
    table = powers(float(numbers[2]))
    places, clock = np.array(walker.places), np.array(walker.clock)
    kept = {chunk: np.array(memory) for chunk, memory in (memories or {}).items()}
    orders = {chunk: _plain(permutation(epoch.seed, epoch.number, chunk, sizes[chunk])) for chunk in {v.chunk for v in visits}}
    pieces = []
    for chunk, start, stop in visits:
        block, order, memory = blocks[chunk], orders[chunk][start:stop], kept.get(chunk, _NONE)
        rows = (order, block.y, block.weights, block.offset, memory, places, clock, numbers)
        if isinstance(block.X, tuple):
            kernels.csr(*block.X, *rows, table)
        else:
            if clock[0] and (places[:, 3] < clock[0]).any():
                kernels.settle(places, clock, numbers, table)
            kernels.dense(block.X, *rows)
        if kept:
            pieces.append(memory[order])
    return Walker(places, clock, tuple(pieces))


def settled(walker: Walker, epoch: Epoch) -> np.ndarray:
    """Return the coefficients at the end of a walk, all of them up to date."""
    places, numbers = np.array(walker.places), epoch.numbers()
    kernels_of(derivative_of(epoch.family, epoch.own)).settle(places, walker.clock, numbers, powers(float(numbers[2])))
    return np.array(places[:, 0])


def examples(family: Family, own: Any, X: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """Return the kernels that rows of a kind need, with arguments of the types that they are called with."""
    block, order, beta = block_of(X, np.zeros(X.shape[0])), _plain(np.arange(X.shape[0])), np.zeros(X.shape[1])
    walker, numbers = Walker.at(beta, beta), np.zeros(9)
    kernels, table = kernels_of(derivative_of(family, own)), powers(0.0)
    places = (walker.places, walker.clock, numbers)
    rows = (order, block.y, block.weights, block.offset, _NONE, *places)
    if isinstance(block.X, tuple):
        return [(kernels.csr, (*block.X, *rows, table)), (kernels.settle, (*places, table))]
    return [(kernels.dense, (block.X, *rows)), (kernels.settle, (*places, table))]
