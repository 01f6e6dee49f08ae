"""Context: `optimized`, which makes every dask compute inside it use graphopt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from graphopt.pipeline import Optimizer, Policy, checked
from graphopt.replay import Replayer
from graphopt.sharing import sharing
from graphopt.types import PolicyError

__all__ = ["optimized"]


@contextlib.contextmanager
def optimized(policy: Policy | None = None, *, replay: bool = False, **changes: Any) -> Iterator[Policy]:
    """Let every dask compute and persist inside use graphopt, on any scheduler.

    Parameters
    ----------
    policy
        How far to go; see `Policy`. ``parallelism=None`` is settled here, for the scheduler that is active now.
    replay
        Keep a schedule for each structure of graph, and run it where a graph of that structure comes again, as in a loop that
        builds the same expressions with new small arrays each time. Results are the same bit for bit. Works on this machine's
        threads; on a cluster or on processes graphs are optimised one by one.
    **changes
        Fields of the policy to set, such as ``strict=True``.

    Yields
    ------
    Policy
        The policy in use.

    Notes
    -----
    Operations inside share the layers of their graphs, see `sharing`. It sets dask's ``array_optimize``,
    ``delayed_optimize`` and ``bag_optimize``. Those are read when a computation starts; contexts nest, and the innermost
    counts. Dataframes and, with ``array.query-planning``, arrays are optimised by dask's expressions instead; they compute
    here as they would outside.

    Examples
    --------
    >>> import dask.array as da
    >>> with optimized():
    ...     float((da.ones(10, chunks=5) + 1).sum().compute())
    20.0
    """
    policy = checked(policy)
    unknown = changes.keys() - {f.name for f in fields(Policy)}
    if unknown:
        raise PolicyError(f"optimized({', '.join(sorted(unknown))}=...): a Policy has no such field.")
    policy = replace(policy, **changes).resolve()
    from dask import config

    hook = Replayer(policy) if replay else Optimizer(policy)
    with sharing(), config.set(array_optimize=hook, delayed_optimize=hook, bag_optimize=hook):
        yield policy
