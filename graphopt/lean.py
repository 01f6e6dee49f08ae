"""Lean equivalents of dask's chunk functions.

dask's chunk functions serve every kind of array; most chunks are plain NumPy arrays. Each function here checks for that case
at run time, does there what dask's function comes down to, bit for bit, and hands everything else to the original.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from dask.array.core import _concatenate2
from dask.array.routines import _tensordot

__all__ = ["concatenate", "reduce_blocks", "sum_", "tensordot"]

#: NumPy's sum of one negative zero: what a sum starts from. Adding it is what summing one element comes down to.
_START = float(np.sum(np.array([-0.0])))


def concatenate(blocks: Any, axes: Any) -> Any:
    """Join nested lists of blocks, as dask's ``_concatenate2`` does."""
    if len(axes) == 1 and type(blocks) is list and all([type(block) is np.ndarray for block in blocks]):
        return np.concatenate(blocks, axis=axes[0])
    return _concatenate2(blocks, axes=axes)


def sum_(a: Any, axis: Any = None, dtype: Any = None, **keepdims: Any) -> Any:
    """Sum like ``np.sum``; along an axis of one element that is a reshape."""
    if (
        type(a) is np.ndarray
        and type(axis) is tuple
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
    return np.sum(a, axis=axis, dtype=dtype, **keepdims)  # classes other than arrays need not know keepdims


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
    if type(a) is np.ndarray and type(b) is np.ndarray and not is_sparse and a.ndim == 2 and b.ndim <= 2:
        left, right = axes
        if tuple(left) == (1,) and len(right) == 1 and right[0] in (0, -b.ndim) and a.shape[1] == b.shape[0]:
            out = np.dot(a, b if b.ndim == 2 else b.reshape(-1, 1))
            return out.reshape(a.shape[0], 1, *b.shape[1:])
    return _tensordot(a, b, axes, is_sparse)
