"""Sampling: the arguments of a call taken apart, a sample of their rows, and both cut in other chunks.

Arrays among the arguments that are as long as the first along an axis that is cut are cut with it; NumPy arrays that are as
long are sampled with it. A sample is a few stretches of neighbouring rows, evenly spread over the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np
from dask.base import compute, is_dask_collection
from dask.delayed import delayed
from dask.sizeof import sizeof

from graphopt.chunks.executor import Executor, put
from graphopt.makespan import cut
from graphopt.trace import resident_blocks
from graphopt.tree import Structure, flatten, unflatten

__all__ = ["Call", "call_of", "known", "same"]

_STRETCHES = 4


@dataclass(frozen=True)
class Call:
    """The arguments of a call.

    Attributes
    ----------
    leaves : tuple
        The arrays and values; the first is the array that is cut.
    structure : Structure
        How they make up the arguments.
    axes : tuple of int
        The axes along which the first is cut; samples are of rows along the first of them.
    """

    leaves: tuple[Any, ...]
    structure: Structure
    axes: tuple[int, ...]

    @property
    def array(self) -> da.Array:
        """The array that is cut."""
        array: da.Array = self.leaves[0]
        return array

    @property
    def arguments(self) -> Any:
        """The arguments as they were given."""
        return unflatten(self.structure, self.leaves)

    @property
    def cells(self) -> int:
        """What the model calls rows: the product of the lengths of the axes that are cut."""
        return math.prod(self.array.shape[axis] for axis in self.axes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The cells of each chunk, as it is."""
        return self.sizes_of({axis: self.array.chunks[axis] for axis in self.axes})

    def sizes_of(self, lengths: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
        """Return the cells of each chunk, where the axes are cut in these lengths."""
        sizes = np.ones(1, dtype=int)
        for axis in self.axes:
            sizes = np.outer(sizes, lengths[axis]).ravel()
        return tuple(sizes.tolist())

    @cached_property
    def tied(self) -> tuple[tuple[int, ...], ...]:
        """For each leaf the axes along which it is cut, or sampled, with the first."""
        shape = self.array.shape
        return tuple(
            tuple(axis for axis in self.axes if axis < len(np.shape(leaf)) and np.shape(leaf)[axis] == shape[axis])
            if isinstance(leaf, (da.Array, np.ndarray))
            else ()
            for leaf in self.leaves
        )

    @cached_property
    def lazy(self) -> bool:
        """Whether the array is still to be loaded or computed, in each call."""
        return resident_blocks(self.array) is None

    @cached_property
    def units(self) -> dict[int, int]:
        """The least length of a chunk along each axis: where data is loaded, as it is stored."""
        if not self.lazy:
            return dict.fromkeys(self.axes, 1)
        stored = _stored(self.array)
        return {axis: max(self.array.chunks[axis]) if stored is None else int(stored[axis]) for axis in self.axes}

    def cell_bytes(self, blocks: int = 4) -> float:
        """Return the bytes of a cell in all arrays that are cut; those that are not NumPy's are weighed by some blocks."""
        total = 0.0
        for leaf, tied in zip(self.leaves, self.tied, strict=True):
            if not tied or not isinstance(leaf, da.Array):
                continue
            if isinstance(leaf._meta, np.ndarray):
                total += leaf.nbytes
            else:
                parts = leaf.to_delayed().ravel()
                some = parts[:: max(1, len(parts) // blocks)]
                total += len(parts) / len(some) * sum(compute(*[delayed(_size)(part) for part in some]))
        return max(total / max(1, self.cells), 1e-9)

    def lengths(self, chunks: int) -> dict[int, tuple[int, ...]]:
        """Return how the axes are cut for about that many chunks: the first as often as need be, several evenly."""
        pieces, left = dict.fromkeys(self.axes, 1), chunks
        while left > 1:
            axis = max(self.axes, key=lambda axis: (self.array.shape[axis] / pieces[axis], -axis))
            factor = left if len(self.axes) == 1 else next(number for number in range(2, left + 1) if left % number == 0)
            pieces[axis], left = pieces[axis] * factor, left // factor
        return {axis: cut(self.array.shape[axis], pieces[axis], self.units[axis]) for axis in self.axes}

    def sample(self, rows: int) -> Call:
        """Return some stretches of that many rows in all; the same call if that is everything."""
        axis, unit = self.axes[0], self.units[self.axes[0]]
        length = self.array.shape[axis]
        if rows >= length:
            return self
        pieces = max(1, min(_STRETCHES, rows // unit))
        each = max(1, rows // (pieces * unit)) * unit
        starts = [(length - each) * i // max(1, pieces - 1) // unit * unit for i in range(pieces)]
        return self._taken([slice(start, min(length, start + each)) for start in starts])

    def first(self, rows: int) -> Call:
        """Return the first rows."""
        return self if rows >= self.array.shape[self.axes[0]] else self._taken([slice(0, rows)])

    def _taken(self, stretches: Sequence[slice]) -> Call:
        axis, leaves = self.axes[0], []
        for leaf, tied in zip(self.leaves, self.tied, strict=True):
            if axis in tied:
                parts = [leaf[(slice(None),) * axis + (stretch,)] for stretch in stretches]
                joined = da.concatenate if isinstance(leaf, da.Array) else np.concatenate
                leaf = parts[0] if len(parts) == 1 else joined(parts, axis=axis)
            leaves.append(leaf)
        return replace(self, leaves=tuple(leaves))._like(self)

    def rechunked(self, lengths: Mapping[int, tuple[int, ...]], executor: Executor) -> Call:
        """Return the call with its arrays cut in these lengths; what was in memory is there again."""
        leaves, kept = list(self.leaves), []
        for place, (leaf, tied) in enumerate(zip(self.leaves, self.tied, strict=True)):
            if tied and isinstance(leaf, da.Array):
                chunks = {axis: lengths[axis] for axis in tied}
                if any(leaf.chunks[axis] != chunks[axis] for axis in tied):
                    leaves[place] = leaf.rechunk(chunks)
                if not self.lazies[place] and resident_blocks(leaves[place]) is None:
                    kept.append(place)
        for place, array in zip(kept, put(executor, [leaves[place] for place in kept]), strict=True):
            leaves[place] = array
        return replace(self, leaves=tuple(leaves))._like(self)

    def _like(self, other: Call) -> Call:
        """Take over what was found of another: a part may be as long as something else by chance, and slices are lazy."""
        for name in ("tied", "lazy", "lazies", "units"):
            self.__dict__[name] = getattr(other, name)
        return self

    @cached_property
    def lazies(self) -> tuple[bool, ...]:
        """For each leaf, whether it is an array that is loaded or computed in each call."""
        return tuple(isinstance(leaf, da.Array) and resident_blocks(leaf) is None for leaf in self.leaves)


def call_of(array: Any, others: Sequence[Any], axes: tuple[int, ...]) -> Call:
    """Take the arguments of a call apart; lengths of chunks that are unknown are asked for."""
    leaves, structure = flatten((array, *others))
    return Call(tuple(known(value) for _, value in leaves), structure, axes)


def known(value: Any) -> Any:
    """Return an array with the lengths of its chunks, which are asked for where they are unknown."""
    if not isinstance(value, da.Array) or all(size == size for axis in value.chunks for size in axis):
        return value
    return da.Array(value.dask, value.name, value.chunks, meta=value._meta).compute_chunk_sizes()


def _size(block: Any) -> int:
    """Return the bytes of a block; dask's own `sizeof` would travel to workers without what it knows of other packages."""
    return int(sizeof(block))


def _stored(array: da.Array) -> tuple[int, ...] | None:
    """Return the chunk shape of what an array is read from, if it is read from something that has one."""
    layers = getattr(array.dask, "layers", {})
    for layer in layers.values():
        if len(layer) == 1:
            (node,) = layer.values()
            source = getattr(node, "value", node)
            chunks = getattr(source, "chunks", None)
            if getattr(source, "shape", None) == array.shape and not isinstance(source, da.Array) and chunks:
                return tuple(int(size) for size in chunks)
    return None


def same(fn: Callable[[], Any], other: Callable[[], Any]) -> bool:
    """Say whether two results are the same but for rounding."""
    mine, theirs = ([_plain(value) for _, value in flatten(make())[0]] for make in (fn, other))
    return len(mine) == len(theirs) and all(map(_close, mine, theirs))


def _plain(value: Any) -> Any:
    if is_dask_collection(value):
        value = value.compute()
    return value.toarray() if hasattr(value, "toarray") else value


def _close(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.shape != other.shape or one.dtype.kind not in "fciub" or other.dtype.kind not in "fciub":
        return bool(one.shape == other.shape)
    scale = float(np.nanmax(abs(one), initial=0.0, where=np.isfinite(one))) if one.size else 0.0
    return bool(np.allclose(one, other, rtol=1e-5, atol=1e-7 * scale, equal_nan=True))
