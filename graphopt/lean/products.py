"""Products: contractions of blocks, and the sums that dask writes after them."""

from __future__ import annotations

from typing import Any

import numpy as np
from dask.array import chunk
from dask.array.routines import _chunk_sum, _matmul, _tensordot

from graphopt.lean.reductions import START, reduce_blocks, sum_

__all__ = ["chunk_sum", "contract", "matmul", "tensordot", "times"]

#: Bytes from which on new memory for each sum costs more than to look whether none is needed: to add up four blocks of 1.3 MB
#: takes 85 µs instead of 1 000, and four of 3 kB would take half a microsecond more than dask does.
_LARGE = 65_536


def tensordot(a: Any, b: Any, axes: Any, is_sparse: bool) -> Any:
    """Contract one axis and keep it with length one, as dask's ``_tensordot`` does: the same BLAS call, less around it."""
    if not is_sparse and _is_product(a, b, axes):
        return _product(a, b).reshape(a.shape[0], 1, *b.shape[1:])
    return _tensordot(a, b, axes, is_sparse)


def contract(a: Any, b: Any, axes: Any, is_sparse: bool, dtype: Any, keepdims: bool, joined: bool) -> Any:
    """Contract one axis and sum up the one block that this gives, as dask does even where there is no other block.

    ``joined`` says whether the block is summed twice, the second time as the only one of a list.
    """
    if not is_sparse and _is_product(a, b, axes) and a.dtype == b.dtype == dtype and a.dtype.kind == "f" and a.dtype.isnative:
        out = _product(a, b)
        out += START
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


def matmul(a: Any, b: Any) -> Any:
    """Multiply matrices like dask's ``_matmul``, which leaves a place for the contracted axis."""
    if type(a) is np.ndarray and type(b) is np.ndarray:
        return np.matmul(a, b)[..., np.newaxis, :]
    return _matmul(a, b)


def times(a: Any, b: Any, axis: int) -> Any:
    """Multiply matrices like `matmul`, and take the first place along this axis: of the contracted one there is no other."""
    if type(a) is np.ndarray and type(b) is np.ndarray:
        out = np.matmul(a, b)
        if type(out) is np.ndarray and out.ndim - 1 == axis:
            return out
    return chunk.getitem(matmul(a, b), (slice(None),) * axis + (0, slice(None)))


def chunk_sum(a: Any, axis: Any = None, dtype: Any = None, keepdims: Any = None) -> Any:
    """Add up the products of blocks like dask's ``_chunk_sum``; large ones from the second addition on in place."""
    if (
        type(a) is list
        and len(a) > 2
        and type(a[0]) is np.ndarray
        and a[0].nbytes >= _LARGE
        and a[0].ndim
        and a[0].dtype.kind in "biufc"
        and a[0].dtype.isnative
        and a[0].dtype == dtype
        and all([type(block) is np.ndarray and block.dtype == dtype and block.shape == a[0].shape for block in a])
    ):
        out = np.add(a[0], a[1])
        for block in a[2:]:
            np.add(out, block, out=out)
        return out if keepdims else out.squeeze(axis[0])
    return _chunk_sum(a, axis=axis, dtype=dtype, keepdims=keepdims)
