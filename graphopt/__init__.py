"""graphopt: an optimising compiler for dask task graphs."""

from __future__ import annotations

from graphopt.explain import Explanation, explain
from graphopt.pipeline import Policy, optimize, optimized
from graphopt.types import (
    CycleError,
    GraphError,
    GraphoptError,
    GraphoptWarning,
    MissingKeyError,
    PolicyError,
    Refusal,
)

__version__ = "0.1.0.dev0"

__all__ = [
    "CycleError",
    "Explanation",
    "GraphError",
    "GraphoptError",
    "GraphoptWarning",
    "MissingKeyError",
    "Policy",
    "PolicyError",
    "Refusal",
    "explain",
    "optimize",
    "optimized",
]
