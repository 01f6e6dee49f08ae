"""Shipping: `ship`, a function that travels as bytes and is made where it is first called.

numba compiles a ufunc, and a function of given signatures, wherever it is unpickled: in the scheduler's process too, and on
the event loop of a worker, each time. What `ship` returns is only bytes and a name to them. The first call makes the function,
in the thread of the task; all that arrive under the same name share it.

Nothing here loads numba before that.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from collections import OrderedDict
from typing import Any

from graphopt.numba_cache.process import here

__all__ = ["Shipped", "made", "ship"]

_LOCK = threading.Lock()
_MADE: OrderedDict[str, Any] = OrderedDict()
_MAKING: dict[str, threading.Lock] = {}


class Shipped:
    """What `ship` returns: a function that is made at its first call.

    Attributes
    ----------
    key : str
        What names the function: equal for functions of equal content.
    function
        The function itself. To ask for it makes it.
    """

    def __init__(self, key: str, payload: bytes, name: str) -> None:
        self.key = key
        self.payload = payload
        self.__name__ = self.__qualname__ = name

    @property
    def function(self) -> Any:
        """The function."""
        return made(self.key, self.payload)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)

    def __reduce__(self) -> Any:
        return Shipped, (self.key, self.payload, self.__name__)

    def __dask_tokenize__(self) -> Any:
        return "graphopt-shipped", self.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shipped) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<shipped {self.__name__} {self.key[:8]}>"


def ship(function: Any) -> Shipped:
    """Return a numba function in a form that is compiled neither by the scheduler nor on a worker's event loop.

    Parameters
    ----------
    function
        What `numba.vectorize`, `numba.guvectorize` or `numba.njit` made. Without signatures `njit` compiles nothing on the
        way, so there `ship` is not needed.

    Returns
    -------
    Shipped
        Call it like the function. It can be pickled, and its dask token says what the function does.

    Notes
    -----
    The function goes as it is now: signatures that are compiled later, and globals that change later, do not reach who has
    it. `install` is not needed. Where it was called, functions of equal content share one name, made anew or not, and their
    machine code may come from the store or from `prewarm`.

    Examples
    --------
    >>> import numba, numpy as np, pickle
    >>> @numba.vectorize(["float64(float64, float64)"])
    ... def hypotenuse(a, b):
    ...     return (a * a + b * b) ** 0.5
    >>> there = pickle.loads(pickle.dumps(ship(hypotenuse)))
    >>> there(np.array([3.0, 5.0]), 4.0)
    array([5.        , 6.40312424])
    """
    import cloudpickle  # type: ignore[import-untyped]

    from graphopt.numba_cache.private import Dispatcher, DUFunc, GUFunc

    if isinstance(function, Shipped):
        return function
    if not isinstance(function, (Dispatcher, DUFunc, GUFunc)):
        raise TypeError(f"ship takes what numba.vectorize, guvectorize or njit made, not {function!r}")
    payload = cloudpickle.dumps(function)
    key = _content(function) or hashlib.blake2b(payload, digest_size=20).hexdigest()
    with _LOCK:
        _keep(key, _MADE.get(key, function))
    return Shipped(key, payload, getattr(function, "__name__", type(function).__name__))


def _content(function: Any) -> str:
    """Return the key of a function's content, nothing if it has none or there is no cache here."""
    if not here.on:
        return ""
    from graphopt.numba_cache.content import ufunc_key
    from graphopt.numba_cache.hooks import named

    try:
        if hasattr(function, "_uuid"):
            return named(function)
        return ufunc_key(function, lambda nested: named(nested).encode(), here.options.salt)
    except Exception:  # Unkeyable, or values with ways of their own
        return ""


def made(key: str, payload: bytes) -> Any:
    """Return the function of a name; of several threads that ask at once one makes it."""
    with _LOCK:
        if key in _MADE:
            _MADE.move_to_end(key)
            return _MADE[key]
        making = _MAKING.setdefault(key, threading.Lock())
    with making:
        with _LOCK:
            found = _MADE.get(key)
        if found is None:
            found = pickle.loads(payload)
            with _LOCK:
                _keep(key, found)
        with _LOCK:
            _MAKING.pop(key, None)
        return found


def _keep(key: str, function: Any) -> None:
    _MADE[key] = function
    _MADE.move_to_end(key)
    while len(_MADE) > here.options.functions:
        _MADE.popitem(last=False)


def _renew() -> None:
    """Start anew in a process that was forked: locks may have been held."""
    global _LOCK
    _LOCK = threading.Lock()
    _MAKING.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
