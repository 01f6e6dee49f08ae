"""Lean equivalents of dask's chunk functions.

dask's chunk functions serve every kind of array; most chunks are plain NumPy arrays. Each function here checks for that case
at run time, does there what dask's function comes down to, bit for bit, and hands everything else to the original.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from dask.array.core import _concatenate2, concatenate_axes, concatenate_shaped
from dask.array.reductions import chunk_max, chunk_min
from dask.array.routines import _matmul, _tensordot

__all__ = ["concatenate", "contract", "fold", "grid", "join", "matmul", "max_", "min_", "reduce_blocks", "sum_", "tensordot"]

#: NumPy's sum of one negative zero: what a sum starts from. Adding it is what summing one element comes down to.
_START = float(np.sum(np.array([-0.0])))
_SUM_OPTIONS = frozenset({"keepdims"})


def concatenate(blocks: Any, axes: Any) -> Any:
    """Join nested lists of blocks, as dask's ``_concatenate2`` does."""
    if len(axes) == 1 and type(blocks) is list and all([type(block) is np.ndarray for block in blocks]):
        return np.concatenate(blocks, axis=axes[0])
    return _concatenate2(blocks, axes=axes)


def sum_(a: Any, axis: Any = None, dtype: Any = None, **keepdims: Any) -> Any:
    """Sum like ``np.sum``; along an axis of one element that is a reshape."""
    if type(a) is not np.ndarray:
        return np.sum(a, axis=axis, dtype=dtype, **keepdims)  # classes other than arrays need not know keepdims
    if (
        type(axis) is tuple
        and len(axis) == 1
        and -a.ndim <= axis[0] < a.ndim
        and a.shape[axis[0]] == 1
        and a.dtype.kind == "f"
        and dtype == a.dtype
        and a.dtype.isnative
    ):
        keep = keepdims.get("keepdims", False)
        k = axis[0] % a.ndim
        shape = a.shape[:k] + a.shape[k + 1 :]
        if shape or keep:
            return a.reshape(a.shape if keep else shape) + _START
    if _SUM_OPTIONS.issuperset(keepdims):
        return np.add.reduce(a, axis=axis, dtype=dtype, **keepdims)  # what np.sum comes down to for an array
    return np.sum(a, axis=axis, dtype=dtype, **keepdims)


def max_(a: Any, axis: Any = None, keepdims: Any = None) -> Any:
    """Find the largest elements like dask's ``chunk_max``, which gives an empty array for an empty one."""
    if type(a) is np.ndarray and a.size and isinstance(keepdims, bool):
        return np.maximum.reduce(a, axis=axis, keepdims=keepdims)  # type: ignore[call-overload]
    return chunk_max(a, axis=axis, keepdims=keepdims)


def min_(a: Any, axis: Any = None, keepdims: Any = None) -> Any:
    """Find the smallest elements like dask's ``chunk_min``, which gives an empty array for an empty one."""
    if type(a) is np.ndarray and a.size and isinstance(keepdims, bool):
        return np.minimum.reduce(a, axis=axis, keepdims=keepdims)  # type: ignore[call-overload]
    return chunk_min(a, axis=axis, keepdims=keepdims)


def fold(reduce: Callable[..., Any], blocks: Sequence[Any], axes: Any, **options: Any) -> Any:
    """Reduce blocks that lie on a grid along the axes, listed without it.

    What makes this possible is that each block is reduced already, or can be first: then the grid does not matter.
    """
    if len(axes) > 1 or len(blocks) == 1:
        first = blocks[0]
        if any([type(block) is not np.ndarray or block.shape != first.shape for block in blocks]) or any(
            [first.shape[axis] != 1 for axis in axes]
        ):
            blocks = [reduce(block, **{**options, "keepdims": True}) for block in blocks]
    return reduce(concatenate(list(blocks), [axes[0]]), **options)


def reduce_blocks(reduce: Callable[..., Any], blocks: Any, axes: Any, **options: Any) -> Any:
    """Join blocks and reduce them; one contiguous block need not be joined."""
    if (
        len(axes) == 1
        and type(blocks) is list
        and len(blocks) == 1
        and type(blocks[0]) is np.ndarray
        and blocks[0].flags.c_contiguous
        and -blocks[0].ndim <= axes[0] < blocks[0].ndim
    ):
        return reduce(blocks[0], **options)
    return reduce(concatenate(blocks, axes), **options)


def tensordot(a: Any, b: Any, axes: Any, is_sparse: bool) -> Any:
    """Contract one axis and keep it with length one, as dask's ``_tensordot`` does: the same BLAS call, less around it."""
    if not is_sparse and _is_product(a, b, axes):
        return _product(a, b).reshape(a.shape[0], 1, *b.shape[1:])
    return _tensordot(a, b, axes, is_sparse)


def matmul(a: Any, b: Any) -> Any:
    """Multiply matrices like dask's ``_matmul``, which leaves a place for the contracted axis."""
    if type(a) is np.ndarray and type(b) is np.ndarray:
        return np.matmul(a, b)[..., np.newaxis, :]
    return _matmul(a, b)


def grid(blocks: Any, shape: Any) -> Any:
    """Join a list of blocks that lie on a grid of this shape, as dask's ``concatenate_shaped`` does."""
    long = [axis for axis, count in enumerate(shape) if count != 1]
    first = blocks[0] if type(blocks) is list and blocks else None
    if (
        len(long) <= 1
        and type(first) is np.ndarray
        and first.ndim == len(shape)
        and first.dtype.isnative
        and (first.flags.c_contiguous or first.ndim == 1)
        and all([type(block) is np.ndarray and block.dtype == first.dtype and block.ndim == first.ndim for block in blocks])
    ):
        return np.concatenate(blocks, axis=long[0] if long else 0)
    return concatenate_shaped(blocks, shape)


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


def contract(a: Any, b: Any, axes: Any, is_sparse: bool, dtype: Any, keepdims: bool, joined: bool) -> Any:
    """Contract one axis and sum up the one block that this gives, as dask does even where there is no other block.

    ``joined`` says whether the block is summed twice, the second time as the only one of a list.
    """
    if not is_sparse and _is_product(a, b, axes) and a.dtype == b.dtype == dtype and dtype.kind == "f" and dtype.isnative:
        out = _product(a, b)
        out += _START
        return out.reshape(a.shape[0], 1, *b.shape[1:]) if keepdims else out.reshape(a.shape[0], *b.shape[1:])
    first = sum_(tensordot(a, b, axes, is_sparse), axis=(1,), dtype=dtype, keepdims=keepdims or joined)
    return reduce_blocks(sum_, [first], [1], axis=(1,), dtype=dtype, keepdims=keepdims) if joined else first


def _is_product(a: Any, b: Any, axes: Any) -> bool:
    """Say whether a contraction is a plain product of a matrix with a matrix or a vector."""
    if type(a) is not np.ndarray or type(b) is not np.ndarray or a.ndim != 2 or not 1 <= b.ndim <= 2:
        return False
    left, right = axes
    return tuple(left) == (1,) and len(right) == 1 and right[0] in (0, -b.ndim) and a.shape[1] == b.shape[0]


def _product(a: Any, b: Any) -> Any:
    return np.dot(a, b if b.ndim == 2 else b.reshape(-1, 1))
