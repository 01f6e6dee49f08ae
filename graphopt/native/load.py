"""Load: machine code from the store, from the child, or compiled here; once in a process."""

from __future__ import annotations

import ctypes
import logging
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphopt.native import store
from graphopt.native.child import Child, NoChild
from graphopt.native.unit import SYMBOL, Unit

__all__ = ["Counts", "NotNative", "compiled", "counts"]

logger = logging.getLogger("graphopt")

_KEPT = 256
_FOUND: OrderedDict[str, Callable[..., int]] = OrderedDict()
_LOCK = threading.RLock()
_CHILD = Child()


def _forget() -> None:
    """Start anew in a process that was forked: the lock may have been held. What is loaded stays loaded."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class NotNative(Exception):
    """A text that cannot become machine code; the message is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Where the machine code of this process came from.

    Attributes
    ----------
    built : int
        How many functions were compiled, here or in the process that compiles for this one.
    loaded : int
        How many were found in the store.
    """

    built: int = 0
    loaded: int = 0


_COUNTS = Counts()


def counts() -> Counts:
    """Return where the machine code of this process came from."""
    return _COUNTS


def compiled(unit: Unit) -> Callable[..., int]:
    """Return a unit's function: it takes integers, runs without the interpreter's lock, and returns zero.

    Raises
    ------
    NotNative
        If numba cannot type the text, or it would need more than the C library.
    """
    with _LOCK:
        function = _FOUND.get(unit.key)
        if function is None:
            function = _FOUND[unit.key] = _function(*_code(unit), unit.arguments)
            while len(_FOUND) > _KEPT:
                _FOUND.popitem(last=False)
        _FOUND.move_to_end(unit.key)
        return function


def _code(unit: Unit) -> tuple[int, Any]:
    """Return the address of a unit's machine code, and what holds it."""
    global _COUNTS
    path = store.found(unit.key)
    if path is not None:
        try:
            code = _opened(path)
            _COUNTS = replace(_COUNTS, loaded=_COUNTS.loaded + 1)
            return code
        except OSError as error:
            logger.debug("%s cannot be loaded: %s", path, error)
    code = _built(unit)
    _COUNTS = replace(_COUNTS, built=_COUNTS.built + 1)
    return code


def _built(unit: Unit) -> tuple[int, Any]:
    try:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = Path(folder, "run.so")
            why = _CHILD.library(unit.text, unit.modules, unit.arguments, str(path))
            if why is not None:
                raise NotNative(why)
            return _opened(store.kept(unit.key, path.read_bytes()) or path)  # a library that is open may be unlinked
    except (OSError, NoChild) as error:
        logger.info("This process loads numba to compile, which takes memory, because no other one can: %s", error)
    from graphopt.native.build import Unfit, here

    try:
        return here(unit.text, unit.modules, unit.arguments)
    except Unfit as unfit:
        raise NotNative(str(unfit)) from unfit


def _opened(path: Path) -> tuple[int, Any]:
    library = ctypes.CDLL(os.fspath(path), mode=getattr(os, "RTLD_NOW", ctypes.DEFAULT_MODE))
    address = ctypes.cast(getattr(library, SYMBOL), ctypes.c_void_p).value
    if address is None:
        raise OSError(f"{path} holds no function")
    return address, library


def _function(address: int, holder: Any, arguments: int) -> Callable[..., int]:
    function: Any = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * arguments)(address)
    function.holder = holder
    return function  # type: ignore[no-any-return]
