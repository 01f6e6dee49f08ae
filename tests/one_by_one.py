"""The passes of the pipeline by name, each to be run on its own: `ONE_BY_ONE`, with what comes before each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import graphopt as go
from graphopt.kernel import generate
from graphopt.passes.aliases import aliases
from graphopt.passes.common import common
from graphopt.passes.cull import cull
from graphopt.passes.diamond import diamond
from graphopt.passes.lanes import lanes
from graphopt.passes.lower import lower
from graphopt.region import Region

Graph = Mapping[Any, Any]
Pass = Callable[[Graph, list[Any], go.Policy], Graph]

ONE_BY_ONE: dict[str, Pass] = {
    "cull": lambda graph, keys, policy: cull(graph, keys),
    "aliases": lambda graph, keys, policy: aliases(graph, keys),
    "common": lambda graph, keys, policy: common(graph, keys),
    "lower": lambda graph, keys, policy: lower(graph),
    "diamond": lambda graph, keys, policy: diamond(
        graph, keys, parallelism=policy.parallelism or 1, max_bytes=policy.max_bytes
    ),
    "lanes": lambda graph, keys, policy: lanes(
        graph, keys, parallelism=policy.parallelism or 1, spare=policy.spare, max_bytes=policy.max_bytes
    ),
    "generate": lambda graph, keys, policy: generate(graph, keys),
}


def before(name: str, graph: Graph, keys: list[Any], policy: go.Policy, fresh: bool) -> Graph:
    """Run the passes that come before one."""
    for other, run in ONE_BY_ONE.items():
        if other == name or fresh:
            break
        graph = run(graph, keys, policy)
    return graph


def check_regions(graph: Graph) -> None:
    for key, node in graph.items():
        if isinstance(node, Region):
            assert node.key == key
            node._check()
