"""Compiling: what happens around a compilation while the cache is installed. It is counted; object code is found or kept.

Object code goes by a stricter key than functions do in a process: what the function refers to *when it is compiled*, the
types of its arguments, the processor, and numba's settings. A function that has been compiled stays what it was then, in
whatever calls it; where a global has changed between two compilations nothing of it is stored any more. On any doubt
numba compiles.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from typing import Any

from graphopt.numba_cache import objects
from graphopt.numba_cache.codes import Unkeyable, part
from graphopt.numba_cache.content import Encoder, dispatcher_key, versions
from graphopt.numba_cache.private import (
    COMPILER_LOCK,
    CPU_TARGET,
    Dispatcher,
    NullCache,
    UFuncDispatcher,
    config,
    normalize_signature,
)
from graphopt.numba_cache.process import here
from graphopt.numba_cache.signatures import canonical

__all__ = ["LOADED", "compiled", "compiled_ufunc", "first_call", "processor", "seconds_of", "uncounted"]

logger = logging.getLogger("graphopt")

_PLAIN: Any = Dispatcher.compile
_PLAIN_UFUNC: Any = UFuncDispatcher._compile_core
_PLAIN_CALL: Any = Dispatcher._compile_for_args
#: Where a function says which of its signatures are object code from elsewhere.
LOADED = "_graphopt_loaded"
#: Settings of a machine or a process that do not change code: what starts threads is not exchanged.
_ELSEWHERE = frozenset(
    {"CACHE_DIR", "FUNCTION_CACHE_SIZE", "NUMBA_NUM_THREADS", "NUMBA_DEFAULT_NUM_THREADS", "THREADING_LAYER", "WARNINGS"}
)
_SETTLED, _SECONDS = "_graphopt_settled", "_graphopt_seconds"
_SETTLING: list[Any] = []  # only under numba's compiler lock
_THREAD = threading.local()


@contextlib.contextmanager
def uncounted() -> Any:
    """Let what this thread compiles meanwhile not count, and not be kept."""
    _THREAD.silent = True
    try:
        yield
    finally:
        _THREAD.silent = False


def seconds_of(function: Any) -> float:
    """Return how long the compilation of a function took, here or elsewhere."""
    return float(sum(vars(function).get(_SECONDS, {}).values()))


def compiled(function: Any, sig: Any) -> Any:
    """Compile a signature of a function, unless it is there. This is `Dispatcher.compile`."""
    if getattr(_THREAD, "silent", False):
        return _PLAIN(function, sig)
    with COMPILER_LOCK:
        args = tuple(normalize_signature(sig)[0])
        if args in function.overloads or not function._can_compile:
            return _PLAIN(function, sig)
        settle(function)
        if (function.py_func.__module__ or "").startswith("numba."):  # its own helpers come along with what calls them
            return _PLAIN(function, sig)
        before = function._cache
        cache = function._cache = ObjectCache(function) if here.exchanges and type(before) is NullCache else before
        start = time.perf_counter()
        try:
            entry = _PLAIN(function, sig)
        finally:
            function._cache = before
            if isinstance(cache, ObjectCache):
                cache.close()
        seconds = time.perf_counter() - start
        if isinstance(cache, ObjectCache) and cache.took is not None:
            vars(function).setdefault(_SECONDS, {})[args] = cache.took
        else:
            vars(function).setdefault(_SECONDS, {})[args] = seconds
            here.counts.add(compilations=1, seconds=seconds)
        return entry


def compiled_ufunc(function: Any, sig: Any, flags: Any, locals: Any) -> Any:
    """Compile a signature of the function inside a ufunc. This is `UFuncDispatcher._compile_core`."""
    if getattr(_THREAD, "silent", False):
        return _PLAIN_UFUNC(function, sig, flags, locals)
    with COMPILER_LOCK:
        before = function.cache
        cache = before
        if here.exchanges and type(before) is NullCache and not locals:
            cache = function.cache = ObjectCache(function, repr(sorted(map(repr, flags.values().items()))))
        start = time.perf_counter()
        try:
            result = _PLAIN_UFUNC(function, sig, flags, locals)
        finally:
            function.cache = before
            if isinstance(cache, ObjectCache):
                cache.close()
        if not isinstance(cache, ObjectCache) or cache.took is None:
            here.counts.add(compilations=1, seconds=time.perf_counter() - start)
        return result


# -- keys ----------------------------------------------------------------------------------------------------------------------


def settle(function: Any) -> str | Unkeyable:
    """Return the key of a function's machine code as it would be compiled now, or why it has none.

    What was compiled before the key was known, or under another one, may be anything: then there is none for ever.
    """
    known = vars(function).get(_SETTLED)
    if isinstance(known, Unkeyable):
        return known
    try:
        if known is None and function.overloads:
            raise Unkeyable("it was compiled before the cache was installed")
        found: str | Unkeyable = _key(function)
        if known is not None and known != found and function.overloads:
            raise Unkeyable("what it refers to has changed since it was compiled")
    except Exception as why:  # Unkeyable, or values with ways of their own: whatever it is, numba compiles
        found = Unkeyable(str(why) if isinstance(why, Unkeyable) else repr(why))  # without its traceback
    vars(function)[_SETTLED] = found
    return found


def _key(function: Any) -> str:
    _SETTLING.append(function)
    try:
        return dispatcher_key(function, function.py_func, _nested, here.options.salt, strict=True)
    finally:
        _SETTLING.pop()


def _nested(function: Any) -> bytes:
    """Return what stands for a function in machine code that calls it: what it is compiled from, or will be."""
    if any(function is each for each in _SETTLING):
        raise Unkeyable("it calls itself, or another that calls it: numba resolves that by names within a process")
    known = vars(function).get(_SETTLED)
    found = settle(function) if known is None or not function.overloads else known
    if isinstance(found, Unkeyable):
        raise found
    return found.encode()


def processor() -> str:
    """Return what machine code is for: a processor, and numba's settings.

    Some settings change the code, and it is not for us to know which. They may change at any time.
    """
    told = {name: value for name, value in vars(config).items() if name.isupper() and name not in _ELSEWHERE}
    settings = sorted((name, value) for name, value in told.items() if isinstance(value, bool | int | float | str))
    return repr((CPU_TARGET.target_context.codegen().magic_tuple(), settings))


class ObjectCache:
    """Object code of one function during one compilation: this is what numba takes for its cache on disk."""

    cache_path = None

    def __init__(self, function: Any, how: str = "") -> None:
        self.function = function
        self.how = part("how", how.encode())  # what the compilation is told besides
        self.took: float | None = None  # the seconds that what was loaded had taken
        self.name: str | None = None
        self.lock: Any = None
        self.start = time.perf_counter()

    def name_for(self, sig: Any) -> str:
        """Return the name of object code: of the function as it is now, for some arguments, on this processor."""
        args, returned = normalize_signature(sig)
        function = self.function
        if isinstance(function, UFuncDispatcher):
            encode = Encoder(_nested, True)
            what = versions() + encode.function(function.py_func) + encode.options(function) + self.how
            what += part("salt", here.options.salt.encode())
        else:
            settled = settle(function)
            if isinstance(settled, Unkeyable):
                raise settled
            what = settled.encode()
        kinds = [canonical(each, _nested) for each in (*args, *([] if returned is None else [returned]))]
        about = [type(function).__qualname__.encode(), what, *kinds, processor().encode()]
        return hashlib.blake2b(b"".join(part("about", each) for each in about), digest_size=20).hexdigest()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what was compiled elsewhere; None if numba must compile: then other processes wait for a while."""
        try:
            self.name = self.name_for(sig)
        except Exception as why:  # Unkeyable, or whatever values do that are asked what they are
            logger.debug("%s is compiled, because %s", self.function, why)
            here.counts.add(refused=1)
            return None
        target_context.refresh()
        args = normalize_signature(sig)[0]
        content = here.objects.get(self.name)
        found = None if content is None else self.loaded(content, args, target_context)
        if found is None and here.store is not None:
            found = self.stored(args, target_context)
            if found is None:
                self.lock = here.store.lock(self.name, here.options.patience)
                found = self.stored(args, target_context)  # by who had the lock
        return found

    def stored(self, args: Any, target_context: Any) -> Any:
        """Return what the store has."""
        content = here.store.found(self.name)
        found = None if content is None else self.loaded(content, args, target_context)
        if content is not None and found is None:
            here.store.drop(self.name)
        return found

    def loaded(self, content: bytes, args: Any, target_context: Any) -> Any:
        """Return the compile result of some bytes, None if they are not what they should be."""
        try:
            result, took = objects.imported(content, args, target_context)
        except Exception as error:  # whatever is in a file of another version of anything
            logger.warning("Object code of %s cannot be used, so it is compiled: %r", self.function, error)
            return None
        self.took = took
        vars(self.function).setdefault(LOADED, set()).add(tuple(args))
        if here.collected is not None:
            here.collected.append((str(self.name), content))
        spent = time.perf_counter() - self.start
        here.counts.add(loaded=1, bytes=len(content), saved=max(0.0, took - spent))
        return result

    def save_overload(self, sig: Any, result: Any) -> None:
        """Keep what numba has compiled, if it may leave the process and is still what its name says."""
        if self.name is None:
            return
        why = objects.unfit(result, self.function.targetoptions)
        try:
            if not why and self.name_for(sig) == self.name:
                args = normalize_signature(sig)[0]
                content = objects.exported(args, result, time.perf_counter() - self.start)
                if here.collected is not None:
                    here.collected.append((self.name, content))
                    here.objects.add(self.name, content)
                if here.store is not None:
                    here.store.keep(self.name, content)
                return
            why = why or "what it refers to has changed"
        except Exception as error:  # a type that cannot be pickled; numba gives up likewise
            why = repr(error)
        logger.debug("%s is not kept, because %s", self.function, why)
        here.counts.add(refused=1)

    def flush(self) -> None:
        """Forget nothing: what is kept goes by what it is."""

    def close(self) -> None:
        """Let others compile."""
        if self.lock is not None:
            self.lock.close()
            self.lock = None


# -- the debug mode ------------------------------------------------------------------------------------------------------------


def first_call(function: Any, *args: Any) -> Any:
    """Make the first call of a signature in the debug mode, where results are compared. This is `_compile_for_args`."""
    from graphopt.numba_cache.debug import compared

    return compared(function, _PLAIN_CALL, args)
