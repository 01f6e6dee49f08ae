"""Plugin: the cache on a client and on the workers of its cluster, those that join later too."""

from __future__ import annotations

import asyncio
import warnings
import weakref
from collections.abc import Iterable
from typing import Any

import dask
from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin

from graphopt.numba_cache.installing import enter, leave, warm_up
from graphopt.numba_cache.process import Options, here
from graphopt.types import GraphoptWarning

__all__ = ["NAME", "CachePlugin", "ObjectsPlugin", "configured", "install", "uninstall"]

#: What all our plugins are called, or what their names start with.
NAME = "graphopt-numba-cache"

#: The clients for which the cache is in this process.
_CLIENTS: dict[str, weakref.ref[Any]] = {}


class CachePlugin(WorkerPlugin):
    """Installs the cache in a worker's process, and warms numba up."""

    name = NAME
    idempotent = False  # the options of the last one count

    def __init__(self, options: Options) -> None:
        self.options = options

    async def setup(self, worker: Any) -> None:
        """Put the hooks in before the first task comes. To load numba takes half a second, and is done beside."""
        why = await asyncio.to_thread(enter, worker.id, self.options)
        if not why and self.options.warm:
            warm_up()

    def teardown(self, worker: Any) -> None:
        """Take them out."""
        leave(worker.id)

    def __reduce__(self) -> Any:
        return CachePlugin, (self.options,)


class ObjectsPlugin(WorkerPlugin):
    """Brings object code to the workers, now and when they join. `prewarm` makes one for each function."""

    idempotent = False

    def __init__(self, name: str, objects: list[tuple[str, bytes]]) -> None:
        self.name = name
        self.objects = objects

    def setup(self, worker: Any) -> None:
        """Keep the object code; that for another processor is never asked for."""
        for name, content in self.objects:
            here.objects.add(name, content)

    def __reduce__(self) -> Any:
        return ObjectsPlugin, (self.name, self.objects)


def configured(**given: Any) -> Options:
    """Return options: those given, else dask's configuration under ``graphopt.numba-cache``, else their defaults."""
    said = dask.config.get("graphopt.numba-cache", {}) or {}
    known = set(Options.__dataclass_fields__)
    told = {name.replace("-", "_"): value for name, value in said.items()}
    told.update((name, value) for name, value in given.items() if value is not None)
    if unknown := set(told) - known:
        raise TypeError(f"numba_cache has no option {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
    if isinstance(told.get("limit"), str):
        told["limit"] = dask.utils.parse_bytes(told["limit"])
    if isinstance(told.get("secret"), str):
        told["secret"] = told["secret"].encode()
    return Options(**told)


def install(client: Any, **options: Any) -> Any:
    """Let numba functions be compiled once per process of a cluster, not once per task.

    A function made by `numba.njit` gets a name that its content decides. Closures that are made anew for each task, cells of
    a notebook that run again and functions that are passed to others are then the functions that a worker has compiled
    already. Results are numba's own. Where the content of a function cannot be told, numba does what it always did.

    Parameters
    ----------
    client : distributed.Client
        Workers that join later are served too. An asynchronous client returns an awaitable.
    store : str, optional
        A folder on disk, on each worker's machine or shared, that keeps machine code from one process to the next. Off by
        default: files hold code, so nobody else may be able to write there. See the page on the cache.
    limit : int or str, default 256 MiB
        How large the folder may become; what was not used for longest goes first.
    secret : bytes or str, optional
        Files are signed with it, and those that are not are refused. For folders that several users or machines share.
    salt : str, optional
        Part of every key. Change it where functions change in ways that cannot be seen, such as ``@overload``.
    functions : int, default 512
        How many functions a process keeps that nothing else refers to.
    patience : float, default 20
        Seconds to wait for another process that compiles the same for the store.
    warm : bool, default True
        Whether workers start numba's compiler in the background, which takes a second, before a task needs it.
    debug : bool, default False
        Whether the first result of object code is compared with what a fresh compilation returns.

    Warns
    -----
    GraphoptWarning
        If this version of numba is not as we know it. Then numba stays as it is.

    Notes
    -----
    Options that are not given are looked up in dask's configuration, under ``graphopt.numba-cache``. Without a client, in
    that configuration ``distributed.worker.preload: [graphopt.numba_cache.preload]`` does the same on a worker.

    Graphopt must be installed where the workers run.

    Examples
    --------
    >>> from distributed import Client
    >>> with Client(processes=False, n_workers=1, dashboard_address=None) as client:  # doctest: +SKIP
    ...     install(client)
    ...     results = client.map(make_function(), range(50))
    ...     uninstall(client)
    """
    return client.sync(_install, client, configured(**options))


def uninstall(client: Any) -> Any:
    """Leave numba as it was, on the client and on all workers; what is compiled stays compiled.

    Parameters
    ----------
    client : distributed.Client
        The one that `install` was called with. Another one of the cluster does for the workers; the process of the first
        keeps what it has until that client is closed and `install` or `uninstall` is called there.
    """
    return client.sync(_uninstall, client)


def _closed_clients_leave() -> None:
    for holder, of in list(_CLIENTS.items()):
        client = of()
        if client is None or client.status == "closed":
            _CLIENTS.pop(holder, None)
            leave(holder)


async def _install(client: Any, options: Options) -> None:
    _closed_clients_leave()
    holder = f"client {client.id}"
    _CLIENTS[holder] = weakref.ref(client)
    why = enter(holder, options)
    if why:
        return
    await client.register_plugin(CachePlugin(options))
    failed = {told for told in (await client.run(_failed, on_error="return")).values() if told}
    if failed:
        warnings.warn(f"graphopt.numba_cache: workers leave numba as it is: {failed.pop()}", GraphoptWarning, stacklevel=2)


async def _uninstall(client: Any) -> None:
    for name in await client.run_on_scheduler(_plugins):
        await client.unregister_worker_plugin(name)
    _closed_clients_leave()
    _CLIENTS.pop(f"client {client.id}", None)
    leave(f"client {client.id}")


def _failed() -> str:
    return here.failed


def _plugins(dask_scheduler: Any) -> list[str]:
    """Return the names of our plugins, the cache itself last."""
    names: Iterable[str] = dask_scheduler.worker_plugins
    return sorted((name for name in names if name.startswith(NAME)), reverse=True)


async def setup(node: Any) -> None:
    """Install the cache on what a preload module is loaded by: a worker or a client."""
    if isinstance(node, Worker):
        await node.plugin_add(CachePlugin(configured()), name=NAME)
    elif hasattr(node, "scheduler_comm"):
        enter(f"client {node.id}", configured())
