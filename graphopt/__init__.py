"""graphopt: an optimising compiler for dask task graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphopt.chunks import auto_chunks, auto_rechunk
from graphopt.chunks.choice import Choice
from graphopt.compiled import Compiled, Stats, compile
from graphopt.context import optimized
from graphopt.cost import Overhead, Spread
from graphopt.execute.low_latency import low_latency
from graphopt.explain import Explanation, explain
from graphopt.granularity import Granularity, metg
from graphopt.iterate import iterate
from graphopt.overhead import measure_overhead
from graphopt.pipeline import Policy, optimize
from graphopt.plan import Plan
from graphopt.report.efficiency import draw_file as _draw_file
from graphopt.report.plans import visualize as _visualize
from graphopt.shared import SharedGraph
from graphopt.sharing import sharing
from graphopt.types import (
    ClusterError,
    CycleError,
    GraphError,
    GraphoptError,
    GraphoptWarning,
    MemoryLimitError,
    MissingKeyError,
    PolicyError,
    Refusal,
    TraceError,
)

if TYPE_CHECKING:
    from graphopt import numba_cache

Plan.drawn_by = _visualize
Granularity.drawn_by = _draw_file

__version__ = "0.1.0.dev0"

__all__ = [
    "Choice",
    "ClusterError",
    "Compiled",
    "CycleError",
    "Explanation",
    "Granularity",
    "GraphError",
    "GraphoptError",
    "GraphoptWarning",
    "MemoryLimitError",
    "MissingKeyError",
    "Overhead",
    "Plan",
    "Policy",
    "PolicyError",
    "Refusal",
    "SharedGraph",
    "Spread",
    "Stats",
    "TraceError",
    "auto_chunks",
    "auto_rechunk",
    "compile",
    "explain",
    "iterate",
    "low_latency",
    "measure_overhead",
    "metg",
    "numba_cache",
    "optimize",
    "optimized",
    "sharing",
]


def __getattr__(name: str) -> Any:
    if name == "numba_cache":  # only who asks for it needs it
        from importlib import import_module

        return import_module("graphopt.numba_cache")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
