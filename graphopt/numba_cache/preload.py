"""Preload: the cache for a worker that is told of it in dask's configuration or on its command line.

::

    dask worker tcp://… --preload graphopt.numba_cache.preload

Options are those under ``graphopt.numba-cache`` in dask's configuration.
"""

from __future__ import annotations

from typing import Any

__all__ = ["dask_setup", "dask_teardown"]


async def dask_setup(node: Any) -> None:
    """Install the cache on a worker; a client takes part too. This is what dask calls."""
    from graphopt.numba_cache import plugin

    await plugin.setup(node)


async def dask_teardown(node: Any) -> None:
    """Leave a client's process; a worker's plugin does so by itself."""
    from graphopt.numba_cache.installing import leave

    leave(f"client {node.id}")
