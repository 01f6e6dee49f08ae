"""METG(50 %) of every pattern of Task Bench on every target: the table of ``docs/performance.md``.

Two worker processes of one thread each; dask's own scheduler of the cluster runs fewer rows, because a task takes it
milliseconds. Run ``python bench/metg.py``; ``--json`` writes all samples, for a machine or for a plot.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed

import graphopt as go
from graphopt.cost import in_units
from graphopt.granularity.patterns import PATTERNS

TARGETS = ("sync", "threads", "processes", "compiled", "cluster", "compiled-cluster")
ROWS_OF_DASK = 25  # on a cluster, and on processes


def measured(curve: go.Granularity) -> str:
    """Return a row of the table."""
    metg = "not reached" if curve.metg is None else f"{'≤ ' * curve.bounded}{in_units(curve.metg)}"
    grid = curve.pattern
    cells = (
        *(grid.name, curve.target, f"{grid.width} × {grid.steps}", grid.dependencies, curve.cores),
        *(metg, in_units(curve.metg_best), in_units(curve.metg_once), in_units(curve.overhead)),
    )
    return f"| {' | '.join(map(str, cells))} |"


def curves(patterns: list[str], targets: list[str], seconds: float, client: Any) -> Iterator[go.Granularity]:
    """Measure the patterns one after the other, each on all targets."""
    for pattern in patterns:
        for target in targets:
            if target == "cluster":
                yield go.metg(pattern, client, steps=ROWS_OF_DASK, seconds=seconds)
            elif target == "compiled-cluster":
                yield go.metg(pattern, "compiled", client=client, seconds=seconds)
            else:
                yield go.metg(pattern, target, steps=ROWS_OF_DASK if target == "processes" else 125, seconds=seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pattern", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=["threads", "compiled", "cluster", "compiled-cluster"])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    options: dict[str, Any] = {"dashboard_address": ":0", "silence_logs": logging.ERROR}
    found = []
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **options) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        print("| pattern | run by | tasks | reads | cores | METG(50 %) | quickest runs | once | empty task |")
        print("|---|---|---|---|---|---|---|---|---|")
        for curve in curves(arguments.pattern, arguments.target, arguments.seconds, client):
            print(measured(curve), f"load {os.getloadavg()[0]:.1f}", flush=True)
            found.append(curve.to_json())
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
