"""Joins: blocks put together, and parts cut out of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from dask.array import chunk
from dask.array import core as dask_core
from dask.array.core import _concatenate2, concatenate_axes, concatenate_shaped, slices_from_chunks

__all__ = ["concatenate", "getter", "grid", "join", "piece"]

_STORES = (np.ndarray, np.memmap)


def concatenate(blocks: Any, axes: Any) -> Any:
    """Join nested lists of blocks, as dask's ``_concatenate2`` does."""
    if len(axes) == 1 and type(blocks) is list and all([type(block) is np.ndarray for block in blocks]):
        return np.concatenate(blocks, axis=axes[0])
    return _concatenate2(blocks, axes=axes)


def grid(blocks: Any, shape: Any) -> Any:
    """Join a list of blocks that lie on a grid of this shape, as dask's ``concatenate_shaped`` does."""
    first = blocks[0] if type(blocks) is list and blocks else None
    if (
        type(first) is np.ndarray
        and first.ndim == len(shape)
        and first.dtype.isnative
        and len(blocks) == math.prod(shape)
        and all([type(block) is np.ndarray and block.dtype == first.dtype and block.ndim == first.ndim for block in blocks])
    ):
        long = [axis for axis, count in enumerate(shape) if count != 1]
        # Of blocks in another order NumPy makes an array in that order, dask never.
        if len(long) <= 1 and all([block.flags.c_contiguous for block in blocks]):
            return np.concatenate(blocks, axis=long[0] if long else 0)
        return _filled(blocks, tuple(shape))
    return concatenate_shaped(blocks, shape)


def _filled(blocks: list[np.ndarray], shape: tuple[int, ...]) -> Any:
    """Write the blocks of a grid to a new array."""
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    sizes = [[blocks[i * steps[axis]].shape[axis] for i in range(count)] for axis, count in enumerate(shape)]
    out = np.empty([sum(along) for along in sizes], blocks[0].dtype)
    for place, block in zip(slices_from_chunks(sizes), blocks, strict=True):
        part = out[place]
        if part.shape != block.shape:  # dask repeats what is too short, or says what is wrong
            return concatenate_shaped(blocks, shape)
        part[...] = block
    return out


def join(blocks: Any, axes: Any) -> Any:
    """Join nested lists of blocks along axes, as dask's ``concatenate_axes`` does; a single block is copied."""
    block = blocks
    for _ in axes:
        if type(block) is not list or len(block) != 1:
            return concatenate_axes(blocks, axes)
        block = block[0]
    if type(block) is np.ndarray and block.ndim > max(axes):
        return block.copy(order="C")
    if getattr(block, "format", None) == "csr" and type(block).__module__.startswith("scipy.sparse"):
        return block.copy()
    return concatenate_axes(blocks, axes)


def getter(a: Any, b: Any, asarray: bool = True, lock: Any = None) -> Any:
    """Cut a block out of what is stored, like dask's ``getter``; what is read under a lock is left to dask's."""
    if not lock and type(a) in _STORES and type(b) is tuple and all([type(part) is slice for part in b]):
        return a[b]
    return dask_core.getter(a, b, asarray=asarray, lock=lock)


def piece(block: Any, index: Any) -> Any:
    """Cut a part out of a block like dask's ``chunk.getitem``, for a reader that copies it and keeps nothing of it.

    dask copies a small part, lest the whole block be kept for it.
    """
    if type(block) is not np.ndarray:  # a copy of some is another thing, or an error
        return chunk.getitem(block, index)
    try:
        return block[index]
    except IndexError:
        return chunk.getitem(block, index)  # which says more
