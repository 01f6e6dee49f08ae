"""Installing: the cache goes into a process when the first holder comes, and out of it when the last one leaves.

It rests on private names of numba. They are looked for before anything is changed, and once a function has been compiled,
exported, imported and called (`selftest.py`). Where either fails, numba stays as it is, with one warning.
"""

from __future__ import annotations

import logging
import threading
import warnings
from importlib import import_module

from graphopt.numba_cache.process import Counts, Objects, Options, here
from graphopt.types import GraphoptWarning

__all__ = ["enter", "leave", "warm_up"]

logger = logging.getLogger("graphopt")

_LOCK = threading.RLock()
_WARM = threading.Event()
_WARMING: threading.Thread | None = None


def enter(holder: str, options: Options) -> str:
    """Install the cache in this process for a holder; return why not, or nothing."""
    from graphopt.numba_cache import selftest

    with _LOCK:
        first = not here.holders
        before = here.options
        here.holders[holder] = here.options = options
        if first:
            # To unpickle a ufunc imports this without numba's lock, and the compiler that starts beside it imports it with the
            # lock: Python then found the two threads waiting for each other's modules, and the task failed.
            import_module("numba.np.npyimpl")
            here.counts = Counts()
            here.failed = selftest.names()
            if here.failed:
                _give_up(here.failed)
                return here.failed
        if here.failed:
            return here.failed
        if options.store != before.store or first:
            from graphopt.numba_cache import store

            here.store = store.opened(options.store, options.limit, options.secret) if options.store else None
        from graphopt.numba_cache import hooks

        hooks.put_in()
        return ""


def leave(holder: str) -> None:
    """Let go of the cache; with the last holder it goes."""
    with _LOCK:
        here.holders.pop(holder, None)
        if here.holders:
            here.options = next(reversed(here.holders.values()))
            return
        if not here.failed:
            from graphopt.numba_cache import hooks

            hooks.take_out()
        here.store, here.failed, here.options = None, "", Options()
        here.objects = Objects()


def warm_up() -> None:
    """Start numba's compiler in a thread of its own, and see there whether all works.

    It is waited for where Python ends: a compiler that is stopped in the middle may take the process down with it.
    """
    global _WARMING
    with _LOCK:
        if _WARMING is None or not (_WARMING.is_alive() or _WARM.is_set()):
            _WARMING = threading.Thread(target=_warm, name="graphopt-numba-warm-up")
            _WARMING.start()


def wait_until_warm(timeout: float) -> bool:
    """Wait for the compiler to have started, and say whether it has."""
    return _WARM.wait(timeout)


def _warm() -> None:
    from graphopt.numba_cache import hooks, selftest

    why = selftest.round_trip()
    with _LOCK:
        if why and here.on:
            hooks.take_out()
            here.failed = why
            _give_up(why)
    _WARM.set()


def _give_up(why: str) -> None:
    logger.warning("graphopt.numba_cache leaves numba as it is: %s", why)
    warnings.warn(f"graphopt.numba_cache leaves numba as it is: {why}", GraphoptWarning, stacklevel=3)
