"""Arguments: where the least and the greatest numbers are.

dask finds both the number and its place in each block, and of the blocks the place with the best number. Along an axis of one
block the place alone is all there is to find: `argmin` and `argmax` stand for the whole of it (`peephole`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from dask.array import chunk
from dask.array import reductions as theirs

from graphopt.lean.joins import concatenate

__all__ = ["arg_agg", "arg_chunk", "arg_combine", "argmax", "argmin"]

_EXTREMES: dict[Any, np.ufunc] = {np.min: np.minimum, np.max: np.maximum}


def arg_chunk(func: Callable[..., Any], argfunc: Callable[..., Any], x: Any, axis: Any, offset_info: Any) -> Any:
    """Find the best numbers of a block along one axis, and their places among all, like dask's ``arg_chunk``."""
    if not (_is_plain(x) and _is_along_one(x, axis)):
        return theirs.arg_chunk(func, argfunc, x, axis, offset_info)
    vals = _EXTREMES[func].reduce(x, axis=axis[0], keepdims=True)
    out = np.empty(vals.shape, _pair(vals.dtype))
    out["vals"] = vals
    np.add(argfunc(x, axis=axis[0], keepdims=True), offset_info, out=out["arg"])
    return out


def arg_combine(argfunc: Callable[..., Any], blocks: Any, axes: Any, axis: Any, keepdims: bool = True) -> Any:
    """Find the best of the bests of blocks, like dask's ``arg_combine`` of the blocks joined."""
    data = concatenate(blocks, axes)
    if _is_found(data, axis):
        return np.expand_dims(data[_best(argfunc, data, axis[0])], axis[0])
    return theirs.arg_combine(argfunc, data, axis=axis, keepdims=keepdims)


def arg_agg(argfunc: Callable[..., Any], blocks: Any, axes: Any, axis: Any, keepdims: bool = False) -> Any:
    """Find the place of the best of the bests of blocks, like dask's ``arg_agg`` of the blocks joined."""
    data = concatenate(blocks, axes)
    if _is_found(data, axis):
        out = data["arg"][_best(argfunc, data, axis[0])]
        return np.expand_dims(out, axis[0]) if keepdims else out
    return theirs.arg_agg(argfunc, data, axis=axis, keepdims=keepdims)


def argmin(x: Any, axis: Any, offset_info: Any, keepdims: bool = False) -> Any:
    """Find the places of the least numbers where there is one block: the first of equal ones, or of NaNs."""
    return _argument(np.min, chunk.argmin, x, axis, offset_info, keepdims)


def argmax(x: Any, axis: Any, offset_info: Any, keepdims: bool = False) -> Any:
    """Find the places of the greatest numbers where there is one block: the first of equal ones, or of NaNs."""
    return _argument(np.max, chunk.argmax, x, axis, offset_info, keepdims)


def _argument(func: Any, argfunc: Any, x: Any, axis: Any, offset_info: Any, keepdims: bool) -> Any:
    if _is_plain(x):
        find = x.argmin if func is np.min else x.argmax
        if _is_along_one(x, axis) and type(offset_info) is int:
            out = find(axis=axis[0], keepdims=keepdims)
            out += offset_info
            return out
        if type(axis) is tuple and type(offset_info) is tuple and (len(axis) == x.ndim or x.ndim == 1):
            start, shape = offset_info
            at: Any = find()
            if x.shape != shape:
                at = np.ravel_multi_index(tuple(np.add(start, np.unravel_index(at, x.shape)).tolist()), shape)
            return np.full((1,) * x.ndim, at) if keepdims else at
    block = arg_chunk(func, argfunc, x, axis, offset_info)
    for _ in axis:
        block = [block]
    return arg_agg(argfunc, block, axes=sorted(axis), axis=axis, keepdims=keepdims)


def _is_plain(x: Any) -> bool:
    """Say whether a block holds numbers that every function compares alike. Of none, dask says that there are none."""
    return type(x) is np.ndarray and x.ndim > 0 and x.dtype.kind in "biuf" and x.dtype.isnative and x.size > 0


def _is_along_one(x: np.ndarray, axis: Any) -> bool:
    return type(axis) is tuple and len(axis) == 1 and x.ndim > 1 and 0 <= axis[0] < x.ndim


def _is_found(data: Any, axis: Any) -> bool:
    """Say whether blocks are what `arg_chunk` finds along one axis."""
    return type(data) is np.ndarray and data.dtype.names == ("vals", "arg") and data.size > 0 and _is_along_one(data, axis)


def _best(argfunc: Callable[..., Any], data: np.ndarray, axis: int) -> tuple[Any, ...]:
    """Return the index of the best along an axis."""
    places = argfunc(data["vals"], axis=axis)
    ndim = places.ndim
    index: list[Any] = [np.arange(size).reshape(-1, *(1,) * (ndim - 1 - i)) for i, size in enumerate(places.shape)]
    return (*index[:axis], places, *index[axis:])


@functools.lru_cache(maxsize=64)
def _pair(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype([("vals", dtype), ("arg", np.intp)])
