"""Building: what dask asks about functions and empty arrays whenever an expression is built, answered once.

Each operation of dask.array asks which arguments a function takes, of which type its results are (it is called with arrays
without elements), and what it is known by in names (it is pickled). Of ``np.exp`` the answers are the same each time. Within
`building` they are remembered: of NumPy's functions, Python's operators and dask's own, for arguments that are simple. What
users wrote is asked anew. What is built is the same, name by name.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from types import BuiltinFunctionType, FunctionType
from typing import Any, cast

import dask.array as da
import numpy as np
from dask.array import chunk

__all__ = ["building"]

_ON: ContextVar[bool] = ContextVar("graphopt_building", default=False)
_LOCK = threading.Lock()
_DEPTH = [0]  # how many contexts are open, in all threads
_PLACED: list[tuple[Any, str, Any, Any]] = []  # module, name, dask's function, and ours in its place

#: Modules of dask that ask. Each has names of its own for the functions that it imports.
_ASKING = (
    "dask.tokenize",
    "dask.array.utils",
    "dask.array.core",
    "dask.array.gufunc",
    "dask.array.ufunc",
    "dask.array.reductions",
    "dask.array._reductions_generic",
)

_MOST = 4096  # answers to one question that are remembered; a program has a few hundred
_LONG = 64  # what is longer is not looked at


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Let dask ask less, in this thread or asyncio task; dask is as it was when the last context is left.

    A function of dask that is not as we know it works as it does.
    """
    _enter()
    token = _ON.set(True)
    try:
        yield
    finally:
        _ON.reset(token)
        _leave()


def _enter() -> None:
    with _LOCK:
        if not _DEPTH[0]:
            modules = [sys.modules[name] for name in _ASKING if name in sys.modules]
            for home, name, make in _REPLACED:
                theirs = getattr(sys.modules.get(home), name, None)
                ours = make(theirs) if type(theirs) is FunctionType else None
                for module in modules:
                    if ours is not None and vars(module).get(name) is theirs:
                        _PLACED.append((module, name, theirs, ours))
                        setattr(module, name, ours)
        _DEPTH[0] += 1


def _leave() -> None:
    with _LOCK:
        _DEPTH[0] -= 1
        if not _DEPTH[0]:
            for module, name, theirs, ours in _PLACED:
                if vars(module).get(name) is ours:  # nobody has put another there meanwhile
                    setattr(module, name, theirs)
            _PLACED.clear()


def _same_parameters(some: Callable[..., Any], other: Callable[..., Any]) -> bool:
    mine, theirs = ([(p.name, p.kind) for p in inspect.signature(f).parameters.values()] for f in (some, other))
    return mine == theirs


# -- answers that are remembered ------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=32)  # what is remembered outlives the context
def _remembering(
    key: Callable[..., Hashable], own: Callable[[Any], Any], theirs: Callable[..., Any]
) -> Callable[..., Any] | None:
    """Return a function that does as theirs, and remembers answers within a context; None if theirs takes other arguments.

    ``key`` takes the same arguments and returns what stands for them; ``own`` makes an answer that the caller may keep. Both
    raise `_Unknown` for what is not to be remembered.
    """
    if not _same_parameters(key, theirs):
        return None
    answers: dict[Hashable, Any] = {}

    def keep(asked: Hashable, answer: Any) -> None:
        if len(answers) >= _MOST:
            answers.clear()
        answers[asked] = answer

    def ask(*args: Any, **kwargs: Any) -> Any:
        if not _ON.get():
            return theirs(*args, **kwargs)
        try:
            asked = key(*args, **kwargs)
        except _Unknown:
            return theirs(*args, **kwargs)
        answer = answers.get(asked)
        if answer is None:
            try:
                answer = theirs(*args, **kwargs)
            except TypeError as error:  # reductions try whether a function takes computing_meta: most do not
                keep(asked, _Refused(error.args))
                raise
            with contextlib.suppress(_Unknown):
                keep(asked, own(answer))
            return answer
        if type(answer) is _Refused:
            raise TypeError(*answer.said)
        return own(answer)

    return ask


class _Unknown(Exception):
    """It is not known to be the same next time."""


class _Refused:
    """What a TypeError said."""

    __slots__ = ("said",)

    def __init__(self, said: tuple[Any, ...]) -> None:
        self.said = said


#: NumPy's functions that make chunks. Some of the others warn that they are deprecated, and must do so each time.
_QUIET = {f for f in vars(chunk).values() if isinstance(f, type(np.sum))} | {np.transpose, np.where, np.clip, np.round}

#: Numbers whose casts are silent: those of complex ones warn.
_NUMBERS = frozenset([kind for kind in np.sctypeDict.values() if np.dtype(kind).kind in "biuf"])
_DTYPES = frozenset([type(np.dtype(kind)) for kind in _NUMBERS])

_FAMILIAR: set[Any] = set()


def _key(value: Any) -> Hashable:
    """Return what equals this for all that is the same to a function, and for nothing else.

    Numbers that are equal may be of other types, and floats equal without being the same. `type` is asked and not
    `isinstance`: a stand-in for a number says that it is one.

    Raises
    ------
    _Unknown
        If it is not something simple.
    """
    return _KEYS.get(type(value), _no_key)(value)


def _no_key(value: Any) -> Hashable:
    raise _Unknown


def _of_literal(value: Any) -> Hashable:
    return type(value), value


def _of_text(value: str) -> Hashable:
    return (str, value) if len(value) <= _LONG else _no_key(value)


def _of_array(value: Any) -> Hashable:
    if value.size > 1:
        raise _Unknown
    return type(value), _key(value.dtype), value.shape, value.strides, value.flags.writeable, value.tobytes()


def _of_dtype(value: Any) -> Hashable:
    return (value.char, value) if value.metadata is None else _no_key(value)  # some are equal and not the same


def _of_items(value: Any) -> Hashable:
    return (type(value), *map(_key, value)) if len(value) <= _LONG else _no_key(value)


def _of_partial(value: Any) -> Hashable:
    # To ask for its attributes would give it some, and one with attributes is not unpacked when it is wrapped in another.
    *parts, attributes = value.__reduce__()[2]
    return (functools.partial, *map(_key, parts)) if not attributes else _no_key(value)


def _of_type(value: Any) -> Hashable:
    return value if value in (bool, int, float) or value in _NUMBERS else _no_key(value)


def _of_function(value: Any) -> Hashable:
    """Return a function that is what its name says, now and later: an operator of Python, NumPy's, or of dask.array."""
    if value not in _FAMILIAR:
        if type(value) is np.ufunc:
            found = getattr(np, value.__name__, None)
        else:
            ours = value in _QUIET or str(value.__module__).startswith(("_operator", "dask.array."))
            found = getattr(sys.modules.get(value.__module__), value.__name__, None) if ours else None
        if found is not value:
            raise _Unknown
        _FAMILIAR.add(value)
    return cast("Hashable", value)


_KEYS: dict[type, Callable[[Any], Hashable]] = {
    **dict.fromkeys((bool, int, type(None)), _of_literal),
    str: _of_text,
    float: lambda value: (float, value.hex()),
    **dict.fromkeys((np.ndarray, *_NUMBERS), _of_array),
    **dict.fromkeys(_DTYPES, _of_dtype),
    da.Array: lambda value: _key(value._meta),
    **dict.fromkeys((tuple, list), _of_items),
    dict: lambda value: (dict, _of_items((*value.items(),))),
    functools.partial: _of_partial,
    type: _of_type,
    **dict.fromkeys((FunctionType, BuiltinFunctionType, np.ufunc, type(np.sum)), _of_function),
}


def _own(answer: Any) -> Any:
    """Return an answer that the caller may do anything with."""
    if type(answer) is np.ndarray and answer.dtype.type in _NUMBERS and answer.dtype.metadata is None and answer.size <= 1:
        return answer.copy("K") if answer.size else answer.view()
    if type(answer) is bool or isinstance(answer, np.dtype):
        return answer
    raise _Unknown


def _read(answer: Any) -> Any:
    """Return an answer that is only read by those who ask."""
    return answer


# -- the questions: what dask's functions take, and what the answer depends on -----------------------------------------------


def _of_results(func: Any, _dtype: Any, *args: Any, **kwargs: Any) -> Hashable:
    return _key((func, _dtype, args, kwargs))


def _of_types(func: Any, args: Any, kwargs: Any, funcname: Any, suggest_dtype: Any = "dtype", nout: Any = None) -> Hashable:
    kinds = [(arg.ndim, _key(arg.dtype)) if type(arg) is np.ndarray else _key(arg) for arg in args]  # not values
    return _key((func, kwargs, funcname, suggest_dtype, nout)), *kinds


def _of_arguments(func: Any) -> Hashable:
    return _key(func)


def _of_keywords(func: Any, keyword: Any) -> Hashable:
    # Of a function without attributes, which could say otherwise, or annotations to be evaluated, the names are all there is.
    if type(func) is FunctionType and not func.__dict__ and getattr(func, "__annotate__", None) is None:
        code = func.__code__
        stars = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
        return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + stars], _key(keyword)
    return _key((func, keyword))


def _of_names(o: Any) -> Hashable:
    if type(o) is FunctionType and o.__name__ == "<lambda>" and o.__module__ == "dask.array.routines":  # of every tensordot
        code = o.__code__
        if not (code.co_names or code.co_freevars or o.__dict__ or o.__defaults__ or o.__kwdefaults__):
            return o.__qualname__, code
    return _key(o) if _KEYS.get(type(o)) in (_of_function, _of_type) else _no_key(o)


#: Where a function of dask is, its name, and what makes ours of it.
_REPLACED: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("dask.array.utils", "compute_meta", functools.partial(_remembering, _of_results, _own)),
    ("dask.array.core", "apply_infer_dtype", functools.partial(_remembering, _of_types, _own)),
    ("dask.utils", "has_keyword", functools.partial(_remembering, _of_keywords, _own)),
    ("dask.utils", "getargspec", functools.partial(_remembering, _of_arguments, _read)),
    ("dask.tokenize", "_normalize_pickle", functools.partial(_remembering, _of_names, _read)),
)
