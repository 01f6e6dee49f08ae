"""Fingerprint: what must be equal for a function to do again what it did.

A function that is traced sees more than its arguments: globals, closures, attributes of the object whose method it is. A
fingerprint is hashable, and equal only if nothing of that was exchanged. Small arrays count by their values, large ones and
other things by identity, which is never given to another object, as an ``id`` may be.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
import sysconfig
import weakref
from collections.abc import Collection, Hashable
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from dask.base import is_dask_collection

__all__ = ["captured", "fingerprint"]

#: Arrays of more bytes than this count by identity, unless all of them is asked for.
_SMALL = 4096

#: Containers of more items than this count by identity: they would be gone through at every call.
_ITEMS = 1000

#: How far to follow attributes, containers and functions that call functions.
_DEPTH = 4

_ATOMS = frozenset({int, bool, str, bytes, type(None), type(Ellipsis)})
_NOT_OURS = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class _Same:
    """Equal to another one of the same object, for as long as that lives."""

    __slots__ = ("hash", "ref")

    def __init__(self, value: Any) -> None:
        self.hash = id(value)
        try:
            self.ref: Any = weakref.ref(value)
        except TypeError:
            self.ref = lambda: value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return NotImplemented
        mine = self.ref()
        return mine is not None and mine is other.ref()

    def __hash__(self) -> int:
        return self.hash


def fingerprint(value: Any, *, whole: bool = False, running: Collection[Any] = (), depth: int = _DEPTH) -> Hashable:
    """Return a hashable that is equal for values that a function cannot tell apart.

    ``whole`` says to compare large arrays by their values too. What is in containers that ``running`` functions capture does
    not count: those run on chunks, each time with what is there then, and may write to it.

    >>> fingerprint((1, 2)) == fingerprint((1, 2)), fingerprint(1) == fingerprint(1.0), fingerprint(0.0) == fingerprint(-0.0)
    (True, False, False)
    """
    kind: Any = type(value)
    if kind in _ATOMS:
        return (kind, value)
    if kind is float:
        return (kind, value.hex())
    if kind is complex:
        return (kind, value.real.hex(), value.imag.hex())
    if isinstance(value, np.generic):
        return (kind, value.dtype, value.tobytes())
    if kind is np.ndarray and value.dtype.kind != "O" and (whole or value.nbytes <= _SMALL):
        content = value.tobytes()
        return (kind, value.dtype, value.shape, content if len(content) <= _SMALL else hashlib.sha256(content).digest())
    if is_dask_collection(value):
        dask = getattr(value, "dask", value)
        return (kind, getattr(value, "name", None) or getattr(value, "key", None), _Same(dask))
    if depth == 0 or isinstance(value, (type, ModuleType)):
        return _Same(value)
    if isinstance(value, (tuple, list, set, frozenset, dict)) and len(value) > _ITEMS and not whole:
        return _Same(value)
    look = functools.partial(fingerprint, whole=whole, running=running, depth=depth - 1)
    if isinstance(value, (tuple, list)):
        return (kind, *map(look, value))
    if isinstance(value, (set, frozenset)):
        return (kind, frozenset(map(look, value)))
    if isinstance(value, dict):
        return (kind, *[(look(name), look(item)) for name, item in value.items()])
    if kind is functools.partial:
        return (kind, look(value.func), look(value.args), look(value.keywords))
    if kind is MethodType:
        return (kind, look(value.__self__), look(value.__func__))
    if kind is FunctionType:
        if _is_library(value.__code__):
            return _Same(value)
        return (_Same(value), captured(value, running=running, depth=0 if value in running else depth - 1))
    if isinstance(wrapped := getattr(value, "__wrapped__", None), FunctionType):  # such as another compiled function
        return (_Same(value), captured(wrapped, running=running, depth=depth - 1))
    if dataclasses.is_dataclass(value):
        return (kind, *[look(getattr(value, field.name, None)) for field in dataclasses.fields(value)])
    if kind.__hash__ in (object.__hash__, None):  # compared by identity, or not at all: what is in it may change
        return (_Same(value), look(getattr(value, "__dict__", None)))
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return (kind, value)


def captured(fn: Any, *, running: Collection[Any] = (), depth: int = _DEPTH) -> Hashable:
    """Return the fingerprint of what a function sees beside its arguments.

    Modules and functions of libraries do not count; functions that the user wrote do, with what they see.
    """
    look = functools.partial(fingerprint, running=running, depth=depth)
    code = getattr(fn, "__code__", None)
    if isinstance(fn, (functools.partial, MethodType, type)):
        return look(fn)
    if code is None:  # an object that can be called
        call = vars(type(fn)).get("__call__")
        return (look(fn), captured(call, running=running, depth=depth - 1) if isinstance(call, FunctionType) else None)
    found: list[Hashable] = [look(item) for item in (*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values())]
    names, space = _names(code), fn.__globals__
    values = [space[name] for name in names if name in space]
    for cell in fn.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not filled yet
            found.append(None)
    for value in values:
        if not isinstance(value, ModuleType):
            found.append(look(value))
        elif not _is_library_module(value):
            found.append(tuple([look(vars(value)[name]) for name in names if name in vars(value)]))
    return tuple(found)


@functools.lru_cache(maxsize=1024)
def _names(code: CodeType) -> tuple[str, ...]:
    """List the names of globals and attributes in a function, and in functions within it."""
    inner = [_names(const) for const in code.co_consts if isinstance(const, CodeType)]
    return tuple(dict.fromkeys([*code.co_names, *[name for names in inner for name in names]]))


@functools.lru_cache(maxsize=1024)
def _is_library(code: CodeType) -> bool:
    return code.co_filename.startswith(_NOT_OURS) or code.co_filename.startswith("<frozen")


def _is_library_module(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is None or module.__name__.partition(".")[0] in _LIBRARIES or file.startswith(_NOT_OURS)


_LIBRARIES = frozenset({"dask", "distributed", "numpy", "scipy", "graphopt"}) | sys.stdlib_module_names
