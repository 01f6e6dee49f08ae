"""Targets: what runs the tasks has the same names in all commands, and clusters have the same options."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from graphopt.report.errors import CommandError
from graphopt.report.options import whole

__all__ = ["EXPLAINED", "TARGETS", "add_targets", "client_for", "on_cluster", "targets_of"]

#: From dask's own to compiled ones.
TARGETS = ("sync", "threads", "processes", "cluster", "compiled", "compiled-cluster")

#: What they are, for --help.
EXPLAINED = """\
targets:
  sync, threads, processes   dask's own schedulers
  cluster                    dask on a cluster: of two worker processes here, or the one at --address
  compiled                   compiled by graphopt, on threads
  compiled-cluster           compiled by graphopt, on the workers of such a cluster
"""


def add_targets(parser: argparse.ArgumentParser, *default: str) -> None:
    """Add the options that say what runs the tasks."""
    group = parser.add_argument_group("what runs it")
    group.add_argument(
        "--target",
        nargs="+",
        action="extend",
        choices=TARGETS,
        metavar="NAME",
        help=f"{', '.join(TARGETS)} (default {' '.join(default)})",
    )
    group.add_argument("--address", metavar="ADDRESS", help="of the scheduler of a cluster that is there already")
    group.add_argument("--workers", type=whole, metavar="N", help="worker processes of a cluster here (default 2)")
    group.set_defaults(default_targets=default)


def targets_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the targets, each once; a CommandError says if options do not go together."""
    targets = tuple(dict.fromkeys(arguments.target or arguments.default_targets))
    if arguments.address and arguments.workers:
        raise CommandError("--workers is for a cluster here; the one at an address has the workers it has")
    if (arguments.address or arguments.workers) and not any(map(on_cluster, targets)):
        raise CommandError("--address and --workers go with --target cluster or compiled-cluster")
    return targets


def on_cluster(target: str) -> bool:
    """Say whether a target is a cluster."""
    return target.endswith("cluster")


@contextmanager
def client_for(targets: Sequence[str], arguments: argparse.Namespace) -> Iterator[Any]:
    """Give the client of a cluster, if any of these targets needs one; it is dask's scheduler meanwhile."""
    if not any(map(on_cluster, targets)):
        yield None
        return
    from graphopt.report.schedulers import client_of  # dask: not for --help

    with client_of(arguments.workers, arguments.address or "") as client:
        yield client
