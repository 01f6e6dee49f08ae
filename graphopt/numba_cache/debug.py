"""Debug: object code is called beside what numba compiles here and now, on copies of arguments, and must return the same."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.numba_cache.compiling import LOADED, uncounted
from graphopt.numba_cache.private import OmittedArg
from graphopt.types import GraphoptWarning

__all__ = ["compared", "same"]

logger = logging.getLogger("graphopt")


def compared(function: Any, plain: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Make the first call of a signature as numba does; object code is compared, and replaced if it is wrong."""
    before = set(vars(function).get(LOADED, ()))
    entry = plain(function, *args)
    if set(vars(function).get(LOADED, ())) == before:
        return entry
    try:
        given = _given(function, args)
        with uncounted():
            fresh = type(function)(function.py_func, function.locals, function.targetoptions)
            agrees = same(_outcome(fresh, copy.deepcopy(given)), _outcome(function, copy.deepcopy(given)))
    except Exception as error:  # what cannot be copied
        logger.warning("graphopt.numba_cache cannot compare %s: %r", function, error)
        return entry
    if agrees:
        return entry
    warnings.warn(f"Object code of {function} returned something else than fresh code.", GraphoptWarning, stacklevel=2)
    function._make_finalizer()()
    function._reset_overloads()
    with uncounted():
        return plain(function, *args)


def _given(function: Any, args: tuple[Any, ...]) -> list[Any]:
    """Return the arguments as they were given, before numba put defaults and the rest of them in their places."""
    given = [each for each in args if not isinstance(each, OmittedArg)]
    if any(isinstance(each, OmittedArg) for each in args[: len(given)]):
        raise ValueError("an argument stands after one that was left out")
    rest = bool(function.py_func.__code__.co_flags & 0x04)  # *args
    return [*given[:-1], *given[-1]] if rest else given


def _outcome(function: Callable[..., Any], args: list[Any]) -> Any:
    """Return what a call returns or raises, and what it made of its arguments."""
    try:
        return function(*args), args
    except Exception as error:
        return type(error), args


def same(one: Any, other: Any) -> bool:
    """Say whether two results are the same, bit for bit; not a number is the same as itself."""
    if isinstance(one, tuple | list):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray | np.generic | float | complex):
        first, second = np.asarray(one), np.asarray(other)
        return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=first.dtype.kind in "fc")
    return bool(one == other) or one is other
