"""Numba functions compiled once per cluster, not once per task.

::

    from graphopt import numba_cache

    numba_cache.install(client)

`install` lets numba know functions again by their content, `ship` sends ufuncs and typed functions without compiling them on
the way, `prewarm` compiles on one worker for all, `info` says what was saved. Nothing of this loads numba before it is used:
the scheduler imports this package when a `ship` passes through it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.numba_cache.plugin import install, uninstall
    from graphopt.numba_cache.prewarming import Prewarmed, prewarm
    from graphopt.numba_cache.shipping import Shipped, ship
    from graphopt.numba_cache.table import Info, info

__all__ = ["Info", "Prewarmed", "Shipped", "info", "install", "prewarm", "ship", "uninstall"]

#: Where each is. Modules have other names than what they offer: importing one would put it in the place of the other.
_HOMES = {
    "Info": "table",
    "Prewarmed": "prewarming",
    "Shipped": "shipping",
    "info": "table",
    "install": "plugin",
    "prewarm": "prewarming",
    "ship": "shipping",
    "uninstall": "plugin",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
