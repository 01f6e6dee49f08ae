"""Table: `info`, which says what the cache has done, worker by worker."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dask.utils import format_bytes

from graphopt.numba_cache.process import Counts, here

__all__ = ["Info", "info"]


@dataclass(frozen=True)
class Info:
    """What the cache has done since it was installed. Printed, it is a table.

    Attributes
    ----------
    workers : dict of str to dict
        For each worker's address its counts by name: ``hits`` and ``misses`` (functions that arrived and were known or
        new), ``compilations`` and the ``seconds`` they took, ``loaded`` (made of machine code from the store or from
        `prewarm`), the seconds ``saved``, the ``bytes`` of machine code read, what was ``refused``; and ``state``: "on",
        "off", or why numba is left as it is.
    """

    workers: Mapping[str, Mapping[str, Any]]

    @property
    def total(self) -> dict[str, float]:
        """The counts of all workers together."""
        return {name: sum(each[name] for each in self.workers.values()) for name in Counts().to_dict()}

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table(title="numba functions")
        for column in ("worker", "state"):
            table.add_column(column)
        for column in ("hits", "misses", "compiled", "seconds", "loaded", "saved", "bytes", "refused"):
            table.add_column(column, justify="right")
        for worker, told in sorted(self.workers.items()):
            table.add_row(worker, told["state"], *_cells(told))
        if len(self.workers) > 1:
            table.add_section()
            table.add_row("all", "", *_cells(self.total))
        out = io.StringIO()
        Console(file=out, width=120, highlight=False).print(table)
        return out.getvalue().rstrip()


def _cells(told: Mapping[str, Any]) -> list[str]:
    return [
        str(told["hits"]),
        str(told["misses"]),
        str(told["compilations"]),
        f"{told['seconds']:.2f}",
        str(told["loaded"]),
        f"{told['saved']:.2f}",
        format_bytes(told["bytes"]),
        str(told["refused"]),
    ]


def info(client: Any) -> Any:
    """Return what the cache has done on each worker: hits, misses, compilations, seconds saved, bytes.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster. An asynchronous one returns an awaitable.

    Returns
    -------
    Info
        Counts by worker; ``print`` shows a table.

    Examples
    --------
    >>> info(client).total["compilations"]  # doctest: +SKIP
    2
    """
    return client.sync(_info, client)


async def _info(client: Any) -> Info:
    return Info(await client.run(_told))


def _told() -> dict[str, Any]:
    return {**here.counts.to_dict(), "state": here.failed or ("on" if here.on else "off")}
