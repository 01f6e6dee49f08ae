"""BLAS: held to one thread while lanes run side by side, and given back after."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import threadpoolctl

__all__ = ["one_thread", "refresh"]

_GUARD = threading.Lock()
_libraries: list[Any] = []
_modules = -1
_users = 0
_before: list[int] = []


def refresh() -> None:
    """Look for BLAS libraries that were loaded since: looking takes longer than to plan a small step, and imports load them."""
    global _libraries, _modules
    if len(sys.modules) == _modules:
        return
    found = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    with _GUARD:
        if not _users:
            _libraries, _modules = found, len(sys.modules)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Hold BLAS to one thread. Several may do so at once; the last to leave restores what was."""
    global _users, _before
    with _GUARD:
        if not _users:
            _before = [library.get_num_threads() for library in _libraries]
            _set([1] * len(_libraries))
        _users += 1
    try:
        yield
    finally:
        with _GUARD:
            _users -= 1
            if not _users:
                _set(_before)


def _set(counts: list[int]) -> None:
    for library, count in zip(_libraries, counts, strict=True):
        if library.get_num_threads() != count:
            # In newer releases `set_num_threads` does nothing on threads other than the first that called it; here the last to
            # leave may be another than the first to come.
            getattr(library, "_real_set_num_threads", library.set_num_threads)(count)
