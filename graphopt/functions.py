"""What we know of the functions and literals that tasks carry: which are the same, which are pure, which are barriers.

Two tokens are equal only if their things may stand for each other bit for bit: ``1``, ``1.0`` and ``True`` have three
tokens, ``0.0`` and ``-0.0`` two. What cannot be compared cheaply is compared by identity, which is always safe as long as
the thing is held while its token is in use.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
from collections.abc import Callable, Hashable, Iterable
from types import FunctionType, MethodType
from typing import Any

import numpy as np
from toolz.functoolz import Compose

__all__ = ["bindable", "is_fresh", "is_lock", "is_pure", "is_simple", "token", "writes"]

_ATOMS = (str, int, bool, bytes, type(None))
_LEAVES = (*_ATOMS, float, complex, slice)


def token(value: Any) -> Hashable:
    """Return a hashable that is equal for values that may stand for each other.

    >>> token((1, slice(None, 2))) == token((1, slice(None, 2)))
    True
    >>> token(1) == token(True) or token(0.0) == token(-0.0)
    False
    """
    kind: Any = type(value)
    if kind is float:
        return (float, value.hex()) if value == value else (id, id(value))  # NaNs come in many kinds
    if kind in _ATOMS:
        return (kind, value)
    if kind in (tuple, list):
        return (kind, *map(token, value))
    if kind is slice:
        return (slice, token(value.start), token(value.stop), token(value.step))
    if kind is functools.partial:
        return (kind, token(value.func), token(value.args), *((k, token(v)) for k, v in value.keywords.items()))
    if kind is Compose:
        return (kind, token(value.first), *map(token, value.funcs))
    if kind is complex:
        return (kind, token(value.real), token(value.imag))
    if kind is MethodType:  # made anew each time it is looked up
        return (kind, id(value.__self__), token(value.__func__))
    if kind is dict:
        return (kind, *((token(k), token(v)) for k, v in value.items()))
    if kind is FunctionType and "<" in value.__qualname__:  # written within another, or a lambda: often made anew for each use
        return _function_token(value)
    if isinstance(value, np.dtype):
        # Equal dtypes may differ in metadata, which some functions read.
        return (np.dtype, value) if value.metadata is None else (id, id(value))
    return (id, id(value))


def _function_token(func: FunctionType) -> Hashable:
    """Return what a function written in place does: its code, and what it captures."""
    try:
        cells = [cell.cell_contents for cell in func.__closure__ or ()]
    except ValueError:  # a cell that is not filled yet
        return (id, id(func))
    if func.__dict__ or any([cell is func for cell in cells]):
        return (id, id(func))
    by_name = func.__kwdefaults__ or {}
    captured = (*cells, *(func.__defaults__ or ()), *by_name, *by_name.values())
    return (FunctionType, func.__code__, id(func.__globals__), *map(_captured_token, captured))


def _captured_token(value: Any) -> Hashable:
    """Return the token of what a function captures; of what may lead back to the function only that it is the same."""
    return token(value) if type(value) in _LEAVES or isinstance(value, (np.ndarray, np.generic)) else (id, id(value))


def is_simple(value: Any) -> bool:
    """Say whether a literal reads well in source code and costs nothing to compare: a number, a short string, a slice."""
    kind = type(value)
    if kind is int:
        return bool(value.bit_length() <= 64)  # longer ones do not read well; much longer ones Python refuses to print
    if kind in (bool, type(None)):
        return True
    if kind is float:
        return value == value and value not in (float("inf"), float("-inf"))
    if kind is str:
        return len(value) <= 40
    if kind is slice:
        return is_simple(value.start) and is_simple(value.stop) and is_simple(value.step)
    if kind in (tuple, list):
        return len(value) <= 8 and all(map(is_simple, value))
    return False


def _members(module: Any, names: str) -> frozenset[Any]:
    return frozenset(getattr(module, name) for name in names.split())


#: NumPy functions that read their arguments, write nothing, and return what depends on the arguments alone ...
_FRESH_NUMPY = _members(
    np,
    "all any argmax argmin argsort average clip concatenate copy cumsum cumprod dot inner isclose kron max mean median min "
    "nanmax nanmean nanmin nansum outer prod repeat roll round searchsorted sort stack std sum take tensordot tile trace "
    "tril triu unique vdot var vstack hstack where",
)
#: ... and those whose result may be a view of an argument.
_VIEW_NUMPY = _members(
    np,
    "broadcast_to diff einsum expand_dims flip histogram imag moveaxis nan_to_num ravel real reshape split squeeze swapaxes "
    "transpose",
)
_FRESH_OPERATORS = _members(
    operator,
    "abs add and_ eq floordiv ge gt inv invert le lshift lt matmul mod mul ne neg or_ pow rshift sub truediv xor",
)
_VIEW_OPERATORS = frozenset({operator.getitem, operator.pos})

#: Modules of dask whose functions work on chunks and change nothing. Random draws are not here, though they are seeded.
_PURE_MODULES = frozenset({"dask.array.chunk", "dask.array.numpy_compat"})
_PURE_DASK = frozenset({("dask.array.routines", "_tensordot"), ("dask.array.core", "_concatenate2")})


def bindable(value: Any) -> bool:
    """Say whether a literal that never changes may be bound to a name in the kernel: functions, types and dtypes."""
    return isinstance(value, (type, np.dtype)) or callable(value)


def is_pure(func: Callable[..., Any]) -> bool:
    """Say whether a function is known to give equal results for equal arguments and to write to none of them.

    A call of it may name an array to write to all the same: see `writes`.

    Unknown functions, and with them everything a user wrote, are taken to be impure: running a user's function once
    where it was written twice could merge two random draws.
    """
    return _is_in(func, _FRESH_NUMPY | _FRESH_OPERATORS | _VIEW_NUMPY | _VIEW_OPERATORS, views=True)


def is_fresh(func: Callable[..., Any]) -> bool:
    """Say whether a function is pure and its result shares no memory with its arguments."""
    return _is_in(func, _FRESH_NUMPY | _FRESH_OPERATORS, views=False)


def _is_in(func: Any, known: frozenset[Any], *, views: bool) -> bool:
    kind = type(func)
    if kind is functools.partial:
        return _is_in(func.func, known, views=views)
    if kind is Compose:
        # The first function to run may hand on a view where the last one makes something new.
        return is_pure(func.first) and all(map(is_pure, func.funcs)) and (views or is_fresh(func.funcs[-1]))
    if isinstance(func, np.ufunc):
        # A ufunc made by frompyfunc, numba or scipy may run anything.
        return vars(np).get(func.__name__) is func
    try:
        if func in known:
            return True
    except TypeError:
        return False
    module = getattr(func, "__module__", None)
    return views and (module in _PURE_MODULES or (module, getattr(func, "__name__", None)) in _PURE_DASK)


#: By these names NumPy functions are told to write to an array that they are given.
_WRITTEN = frozenset({"out", "overwrite_input"})


def writes(func: Any, places: int, names: Iterable[str]) -> bool:
    """Say whether a call of a known function, with so many arguments by place and these by name, writes to one of them."""
    if type(func) is Compose:
        return writes(func.first, places, names) or any([writes(step, 1, ()) for step in func.funcs])
    while type(func) is functools.partial:
        places, names, func = places + len(func.args), (*names, *func.keywords), func.func
    if not _WRITTEN.isdisjoint(names):
        return True
    return places > (func.nin if isinstance(func, np.ufunc) else _readable_places(func))


@functools.lru_cache(maxsize=1024)
def _readable_places(func: Callable[..., Any]) -> int:
    """Count the arguments by place before the first that would be written to."""
    try:
        parameters = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):
        return sys.maxsize
    by_place = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return next((place for place, name in enumerate(by_place) if name in _WRITTEN), sys.maxsize)


def is_lock(value: Any) -> bool:
    """Say whether a literal is a lock of any kind (threading, multiprocessing, dask, distributed)."""
    return type(value) not in _ATOMS and hasattr(value, "acquire") and hasattr(value, "release")
