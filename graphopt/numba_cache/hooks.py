"""Hooks: what is put in place of numba's own while the cache is installed, and how it is taken out again.

By itself numba names a function in pickles by a random number, keeps the last 128 that it has received, first in, first out,
and looks them up without a lock. Here the name is the key of its content: a function that was made anew is the one that is
known, compiled already. A function that has no key keeps numba's name, and all goes as it always did.

What a function refers to is frozen when it is first pickled, its name with it: were a global changed later, a name would
stand for two functions. numba does the same wherever it has seen the function before.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import threading
import uuid
from collections import OrderedDict
from typing import Any

from graphopt.numba_cache.codes import Unkeyable
from graphopt.numba_cache.compiling import compiled, compiled_ufunc, first_call, seconds_of
from graphopt.numba_cache.content import dispatcher_key, frozen
from graphopt.numba_cache.private import COMPILER_LOCK, Dispatcher, FunctionIdentity, Memo, UFuncDispatcher
from graphopt.numba_cache.process import here

__all__ = ["Recent", "named", "put_in", "rebase", "take_out"]

logger = logging.getLogger("graphopt")

_LOCK = threading.RLock()  # never held while compiling
_OWN = "_MemoMixin__uuid"
_SNAPSHOT, _UNTYPED = "_graphopt_snapshot", "_graphopt_untyped"
_IN_PROGRESS: list[Any] = []


class Recent:
    """The functions that are kept though nobody else holds them: those used last. For several threads."""

    def __init__(self, size: int) -> None:
        self.maxlen = size
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def append(self, function: Any) -> None:
        """Keep a function, as the one used last."""
        gone = []  # let go of outside of the lock: what runs then is numba's
        with self._lock:
            self._kept[id(function)] = function
            self._kept.move_to_end(id(function))
            while len(self._kept) > self.maxlen:
                gone.append(self._kept.popitem(last=False))


def named(function: Any) -> str:
    """Return the name of a function in pickles; the first to ask settles it."""
    if (known := getattr(function, _OWN)) is not None:
        return str(known)
    with _LOCK:
        if (known := getattr(function, _OWN)) is not None:
            return str(known)
        _IN_PROGRESS.append(function)
        try:
            snapshot = frozen(function.py_func)
            key = dispatcher_key(function, snapshot, _nested, here.options.salt, strict=False)
            vars(function)[_SNAPSHOT] = snapshot
        except Exception as why:  # Unkeyable, or values with ways of their own: whatever it is, numba can do without
            logger.debug("%s is named at random: %r", function, why)
            key = str(uuid.uuid4())
        finally:
            _IN_PROGRESS.pop()
        setattr(function, _OWN, key)
        if _MEMO.setdefault(key, function) is function:
            Memo._recent.append(function)
        return key


def _nested(function: Any) -> bytes:
    """Return what stands for a function that another refers to, or that refers to itself."""
    if function is _IN_PROGRESS[-1]:
        return b"itself"
    if any(function is each for each in _IN_PROGRESS):
        raise Unkeyable("two functions refer to each other")
    return named(function).encode()


def _reduce_states(function: Any) -> dict[str, Any]:
    name = named(function)
    states: dict[str, Any] = _PLAIN["reduce"](function)
    return {**states, "uuid": name, "py_func": vars(function).get(_SNAPSHOT, function.py_func)}


def _rebuild(cls: Any, uuid: str, py_func: Any, locals: Any, targetoptions: Any, can_compile: bool, sigs: Any) -> Any:
    """Return the function of a name, made if need be: by one thread, once.

    A name settles everything, so what came with it is dropped where the function is there.
    """
    found = _MEMO.get(uuid)
    if found is None:
        cls.targetdescr.typing_context, cls.targetdescr.target_context  # noqa: B018  numba starts, under its own lock
        with _LOCK:
            known = _MEMO.get(uuid)
            if known is None:
                found = cls(py_func, locals, targetoptions)
                vars(found)[_UNTYPED] = not can_compile
                found._set_uuid(uuid)  # keeps it too
        if found is not None:
            here.counts.add(misses=1)
            return _typed(found, sigs) if vars(found)[_UNTYPED] else found
        found = known
    Memo._recent.append(found)
    here.counts.add(hits=1, saved=seconds_of(found))
    return _typed(found, sigs) if vars(found).get(_UNTYPED) else found


def _typed(function: Any, sigs: Any) -> Any:
    """Compile the signatures that a function came with, and no others ever, as numba does; who comes meanwhile waits here."""
    with COMPILER_LOCK:
        if vars(function)[_UNTYPED]:
            for sig in sigs:
                function.compile(sig)
            function._can_compile = vars(function)[_UNTYPED] = False
    return function


def rebase(numbers: Any = None) -> Any:
    """Let the numbers in the names of machine code start somewhere else, and return what they were.

    numba counts from 1 in every process. Object code of two processes could then have one name for two functions, and the
    wrong one be called (numba issue 10486). At random among 2**62 they do not meet.
    """
    before = FunctionIdentity._unique_ids
    FunctionIdentity._unique_ids = itertools.count((1 << 62) + secrets.randbits(62)) if numbers is None else numbers
    return before


_MEMO: Any = Memo._memo
_PLAIN: dict[str, Any] = {"reduce": Dispatcher._reduce_states}
_BEFORE: dict[str, Any] = {}


def put_in() -> None:
    """Put the hooks in place."""
    if _BEFORE:
        return
    _BEFORE["recent"] = Memo._recent
    _BEFORE["numbers"] = rebase()
    _BEFORE["own"] = own = {
        (Dispatcher, "_uuid"): property(named),
        (Dispatcher, "_reduce_states"): _reduce_states,
        (Dispatcher, "_rebuild"): classmethod(_rebuild),
        (Dispatcher, "compile"): compiled,
        (UFuncDispatcher, "_compile_core"): compiled_ufunc,
    }
    if here.options.debug:
        own[Dispatcher, "_compile_for_args"] = first_call
    _BEFORE["theirs"] = {place: vars(place[0]).get(place[1]) for place in own}
    Memo._recent = Recent(here.options.functions)
    for (owner, name), value in own.items():
        setattr(owner, name, value)


def take_out() -> None:
    """Leave numba as it was."""
    if not _BEFORE:
        return
    for (owner, name), value in _BEFORE["theirs"].items():
        if value is None:  # it was inherited
            delattr(owner, name)
        else:
            setattr(owner, name, value)
    Memo._recent = _BEFORE["recent"]
    rebase(_BEFORE["numbers"])
    _BEFORE.clear()


def _renew() -> None:
    """Start anew in a process that was forked: it must not give the names that its parent gives, and locks may be held."""
    global _LOCK
    _LOCK = threading.RLock()
    _IN_PROGRESS.clear()
    if _BEFORE:
        Memo._recent._lock = threading.Lock()
        rebase()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
