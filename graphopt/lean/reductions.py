"""Reductions: sums, extremes and means of blocks, and of their blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from dask.array import reductions as theirs
from dask.array.numpy_compat import divide
from dask.array.reductions import chunk_max, chunk_min

from graphopt.lean.joins import concatenate

__all__ = ["START", "fold", "max_", "mean", "mean_agg", "mean_chunk", "mean_combine", "min_", "reduce_blocks", "sum_"]

#: NumPy's sum of one negative zero: what a sum starts from. Adding it is what summing one element comes down to.
START = float(np.sum(np.array([-0.0])))
_SUM_OPTIONS = frozenset({"keepdims"})


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
            return a.reshape(a.shape if keep else shape) + START
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


# -- means: sums with counts -------------------------------------------------------------------------------------------


def _has_mean(x: Any, axis: Any, dtype: Any) -> bool:
    """Say whether this is a plain array, to be averaged along these axes in fractions."""
    return (
        type(x) is np.ndarray
        and type(axis) is tuple
        and isinstance(dtype, np.dtype)
        and dtype.kind in "fc"
        and dtype.isnative
        and all([0 <= one < x.ndim for one in axis])
    )


def mean(x: Any, axis: Any, dtype: Any, keepdims: bool = False) -> Any:
    """Average the one block that there is, as dask does by `mean_chunk` and `mean_agg`."""
    if _has_mean(x, axis, dtype) and (count := math.prod([x.shape[one] for one in axis])):
        total = sum_(sum_(x, axis=axis, dtype=dtype, keepdims=True), axis=axis, dtype=dtype, keepdims=keepdims)
        return divide(total, np.array(count, dtype), dtype=dtype)
    pairs = mean_chunk(x, dtype=dtype, axis=axis, keepdims=True)
    for _ in axis:
        pairs = [pairs]
    return mean_agg(pairs, dtype=dtype, axis=axis, keepdims=keepdims)


def mean_chunk(x: Any, dtype: Any = "f8", **options: Any) -> Any:
    """Sum up and count like dask's ``mean_chunk``; the counts, all alike, take no memory."""
    axis: Any = options.get("axis")
    if options.keys() == {"axis", "keepdims"} and options["keepdims"] is True and _has_mean(x, axis, dtype):
        count = np.array(math.prod([x.shape[one] for one in axis]), dtype)
        shape = [1 if one in axis else size for one, size in enumerate(x.shape)]
        n: np.ndarray = np.ndarray(shape, dtype, count, 0, (0,) * x.ndim)
        n.flags.writeable = False
        return {"n": n, "total": sum_(x, axis=axis, dtype=dtype, keepdims=True)}
    return theirs.mean_chunk(x, dtype=dtype, **options)


def mean_combine(pairs: Any, axis: Any = None, **options: Any) -> Any:
    """Add up sums and counts like dask's ``mean_combine``."""
    if type(axis) is tuple and options.keys() == {"keepdims"} and _are_plain(pairs):
        return {name: np.add.reduce(_joined(pairs, name, axis), axis=axis, **options) for name in ("n", "total")}
    return theirs.mean_combine(pairs, axis=axis, **options)


def mean_agg(pairs: Any, dtype: Any = "f8", axis: Any = None, **options: Any) -> Any:
    """Divide the sum of the sums by the sum of the counts like dask's ``mean_agg``."""
    if type(axis) is tuple and options.keys() == {"keepdims"} and _are_plain(pairs):
        n, total = [sum_(_joined(pairs, name, axis), axis=axis, dtype=dtype, **options) for name in ("n", "total")]
        with np.errstate(divide="ignore", invalid="ignore"):
            return divide(total, n, dtype=dtype)
    return theirs.mean_agg(pairs, dtype=dtype, axis=axis, **options)


def _are_plain(pairs: Any) -> bool:
    """Say whether nested lists hold sums and counts as plain arrays."""
    if type(pairs) is list:
        return bool(pairs) and all([_are_plain(pair) for pair in pairs])
    return type(pairs) is dict and type(pairs["n"]) is np.ndarray and type(pairs["total"]) is np.ndarray


def _joined(pairs: Any, name: str, axes: tuple[int, ...]) -> Any:
    """Join the counts, or the sums; a single block need not be joined to be summed up."""
    if type(pairs) is list and len(pairs) == len(axes) == 1 and type(pairs[0]) is dict:
        block = pairs[0][name]
        if axes[0] < block.ndim and block.shape[axes[0]] == 1 and (block.flags.c_contiguous or name == "n"):
            return block
    return concatenate(_picked(pairs, name), axes)


def _picked(pairs: Any, name: str) -> Any:
    return [_picked(pair, name) for pair in pairs] if type(pairs) is list else pairs[name]
