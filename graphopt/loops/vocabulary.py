"""Vocabulary: the functions that loops are written for, and the text of those that work number by number."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from dask.array import chunk, reductions, routines
from dask.array.core import _concatenate2
from dask.utils import methodcaller

from graphopt import lean

__all__ = ["ARGUMENTS", "BOOLEAN", "CONTRACTIONS", "MAPS", "REDUCTIONS", "is_view", "known", "method_of", "name_of", "ufunc_of"]

ATOM, UNARY = 20, 11

_OPERATORS: dict[Any, np.ufunc] = {
    operator.add: np.add,
    operator.sub: np.subtract,
    operator.mul: np.multiply,
    operator.truediv: np.true_divide,
    operator.pow: np.power,
    operator.neg: np.negative,
    operator.pos: np.positive,
    operator.abs: np.absolute,
    operator.invert: np.invert,
    operator.inv: np.invert,
    operator.and_: np.bitwise_and,
    operator.or_: np.bitwise_or,
    operator.xor: np.bitwise_xor,
    operator.lt: np.less,
    operator.le: np.less_equal,
    operator.gt: np.greater,
    operator.ge: np.greater_equal,
    operator.eq: np.equal,
    operator.ne: np.not_equal,
}

#: By the name of the ufunc: the text, and how tightly it binds.
MAPS: dict[str, tuple[str, int]] = {
    "add": ("{0} + {1}", 9),
    "subtract": ("{0} - {1}", 9),
    "multiply": ("{0} * {1}", 10),
    "divide": ("{0} / {1}", 10),
    "power": ("{0} ** {1}", 12),
    "negative": ("-{0}", UNARY),
    "positive": ("{0}", ATOM),
    "less": ("{0} < {1}", 4),
    "less_equal": ("{0} <= {1}", 4),
    "greater": ("{0} > {1}", 4),
    "greater_equal": ("{0} >= {1}", 4),
    "equal": ("{0} == {1}", 4),
    "not_equal": ("{0} != {1}", 4),
    "bitwise_and": ("{0} & {1}", 7),
    "bitwise_or": ("{0} | {1}", 5),
    "bitwise_xor": ("{0} ^ {1}", 6),
    "logical_and": ("{0} & {1}", 7),
    "logical_or": ("{0} | {1}", 5),
    "logical_xor": ("{0} ^ {1}", 6),
    "logical_not": ("not {0}", 4),
    **{name: (f"np.{name}({{0}})", ATOM) for name in ("sqrt", "floor", "ceil", "trunc", "isnan", "isinf", "isfinite")},
    **{f"{name}": (f"vector.{name}({{0}})", ATOM) for name in ("exp", "expm1", "log", "log1p", "tanh", "square", "sign")},
    **{name: (f"vector.{name}({{0}}, {{1}})", ATOM) for name in ("logaddexp", "maximum", "minimum")},
    "absolute": ("abs({0})", ATOM),
    "fabs": ("abs({0})", ATOM),
    "reciprocal": ("1 / {0}", 10),
}

#: The same for ufuncs whose loop is over truth values; the others are not for those.
BOOLEAN: dict[str, tuple[str, int]] = {
    **{name: MAPS[name] for name in MAPS if name.startswith(("bitwise", "logical"))},
    "add": MAPS["bitwise_or"],
    "maximum": MAPS["bitwise_or"],
    "multiply": MAPS["bitwise_and"],
    "minimum": MAPS["bitwise_and"],
    "invert": ("not {0}", 4),
    "equal": MAPS["equal"],
    "not_equal": MAPS["not_equal"],
}

#: Functions that only show numbers in another shape or leave some out. What they do is seen from where numbers end up.
_VIEWS: tuple[Any, ...] = (
    *(np.transpose, np.reshape, np.ravel, np.expand_dims, np.squeeze, np.atleast_1d, np.atleast_2d, np.moveaxis, np.swapaxes),
    *(operator.getitem, chunk.getitem, lean.piece, lean.concatenate, _concatenate2),
)

#: What folds an axis, by what it does.
REDUCTIONS: dict[str, tuple[Any, ...]] = {
    "sum": (np.sum, lean.sum_, chunk.sum),
    "max": (np.max, chunk.max, reductions.chunk_max, lean.max_),
    "min": (np.min, chunk.min, reductions.chunk_min, lean.min_),
    "mean": (np.mean, lean.mean),
    "any": (np.any, chunk.any),
    "all": (np.all, chunk.all),
}


def _last_with_first(a: Any, b: Any, *_: Any, **__: Any) -> tuple[int, int]:
    return a.ndim - 1, max(b.ndim - 2, 0)


def _named(a: Any, b: Any, axes: Any, *_: Any, **__: Any) -> tuple[int, int] | None:
    if isinstance(axes, int):
        return (a.ndim - 1, 0) if axes == 1 else None
    left, right = ((axis,) if isinstance(axis, int) else tuple(axis) for axis in axes)
    return (left[0] % a.ndim, right[0] % b.ndim) if len(left) == len(right) == 1 else None


#: What finds the place of the greatest number along an axis, and of the least.
ARGUMENTS: tuple[tuple[Any, int], ...] = ((lean.argmax, 1), (np.argmax, 1), (lean.argmin, -1), (np.argmin, -1))

#: What contracts one axis of each of two arrays, and how to tell which from its arguments.
CONTRACTIONS: tuple[tuple[Any, Callable[..., tuple[int, int] | None]], ...] = (
    (np.dot, _last_with_first),
    (np.matmul, _last_with_first),
    (operator.matmul, _last_with_first),
    (routines._matmul, _last_with_first),
    (lean.matmul, _last_with_first),
    (lean.times, _last_with_first),
    (np.tensordot, _named),
    (routines._tensordot, _named),
    (lean.tensordot, _named),
    (lean.contract, _named),
)


def ufunc_of(func: Any) -> np.ufunc | None:
    """Return the ufunc that a function is for arrays, if it is one of NumPy's own."""
    if isinstance(func, np.ufunc):
        return func if vars(np).get(func.__name__) is func and func is not np.matmul else None
    return next((ufunc for known, ufunc in _OPERATORS.items() if known is func), None)


def is_view(func: Any) -> bool:
    """Say whether a function only shows numbers in another shape or leaves some out."""
    return any(func is view for view in _VIEWS) or method_of(func) in ("reshape", "ravel", "transpose", "squeeze")


def method_of(func: Any) -> str | None:
    """Return the name of the method of an array that a function calls."""
    if func is chunk.astype:
        return "astype"
    return func.method if isinstance(func, methodcaller) else None


def known(func: Any) -> bool:
    """Say whether there is a rule for a function."""
    others = (np.where, np.clip, lean.reduce_blocks, *(one for one, _ in (*CONTRACTIONS, *ARGUMENTS)))
    reduced = any(func is one for functions in REDUCTIONS.values() for one in functions)
    methods = method_of(func) in ("astype", *REDUCTIONS)
    return is_view(func) or reduced or methods or ufunc_of(func) is not None or any(func is one for one in others)


def name_of(func: Any) -> str:
    """Return what to call a function in a message."""
    name = getattr(func, "__name__", None) or method_of(func) or type(func).__name__
    return f"np.{name}" if vars(np).get(name) is func else str(name)
