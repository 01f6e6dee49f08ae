"""Places for the nodes and arrows of a small acyclic graph, drawn from top to bottom in layers.

The usual four steps (Sugiyama, Tagawa and Toda 1981), each in its plainest form: nodes get layers; an edge that skips
layers is cut into pieces by bends, which then take part as if they were nodes, so no arrow runs through a box; nodes
are ordered within their layers by the mean place of their neighbours; then they are pulled straight. Meant for tens of
nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["Edge", "Point", "layered"]

SWEEPS = 8  # down and up in turns; more change nothing on graphs of this size
Point = tuple[float, float]
Edge = tuple[int, int]


def layered(count: int, edges: Sequence[Edge], layers: Sequence[int] | None = None) -> tuple[list[Point], list[list[Point]]]:
    """Place ``count`` nodes so that every edge leads downwards.

    Parameters
    ----------
    count
        The number of nodes.
    edges
        Pairs of nodes. They must go from lower to higher numbers, as in any topological order.
    layers
        The layer of each node, where that is settled; edges must lead to higher ones.

    Returns
    -------
    The point of each node, and the points that each edge runs through. y is minus the layer, so that it grows upwards;
    neighbours in a layer are at least 1 apart.
    """
    layer = _layers(count, edges) if layers is None else list(layers)
    pieces: list[Edge] = []
    routes: list[list[int]] = []
    for source, target in edges:
        bends = list(range(len(layer), len(layer) + layer[target] - layer[source] - 1))
        layer += range(layer[source] + 1, layer[target])
        route = [source, *bends, target]
        routes.append(route)
        pieces += pairwise(route)
    above: list[list[int]] = [[] for _ in layer]
    below: list[list[int]] = [[] for _ in layer]
    for source, target in pieces:
        above[target].append(source)
        below[source].append(target)
    rows = [[node for node in range(len(layer)) if layer[node] == level] for level in range(max(layer, default=-1) + 1)]
    x = _order(rows, above, below)
    _straighten(rows, above, below, x)
    points = [(x[node], float(-layer[node])) for node in range(len(layer))]
    return points[:count], [[points[node] for node in route] for route in routes]


def _layers(count: int, edges: Sequence[Edge]) -> list[int]:
    """Each node one below the deepest it reads; what reads nothing moves down to just above its first reader."""
    reads: list[list[int]] = [[] for _ in range(count)]
    readers: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        reads[target].append(source)
        readers[source].append(target)
    layer: list[int] = []
    for node in range(count):
        layer.append(1 + max((layer[dep] for dep in reads[node]), default=-1))
    for node in range(count):
        if readers[node] and not reads[node]:
            layer[node] = min(layer[reader] for reader in readers[node]) - 1
    return layer


def _order(rows: list[list[int]], above: list[list[int]], below: list[list[int]]) -> list[float]:
    """Sort each row by the mean place of the neighbours in the row before; the places that result."""
    x = [0.0] * len(above)
    for row in rows:
        _spread(row, x)
    for sweep in range(SWEEPS):
        neighbours = below if sweep % 2 else above
        for row in reversed(rows) if sweep % 2 else rows:
            row.sort(key=lambda node: _mean([x[other] for other in neighbours[node]], x[node]))
            _spread(row, x)
    return x


def _spread(row: list[int], x: list[float]) -> None:
    for i, node in enumerate(row):
        x[node] = i - (len(row) - 1) / 2


def _straighten(rows: list[list[int]], above: list[list[int]], below: list[list[int]], x: list[float]) -> None:
    """Pull each node towards its neighbours as far as the distance of 1 and the order of its row allow."""
    for sweep in range(SWEEPS):
        for row in reversed(rows) if sweep % 2 else rows:
            wanted = [_mean([x[other] for other in above[node] + below[node]], x[node]) for node in row]
            right = list(wanted)  # pushed to the right where too close, and the same to the left: take the middle
            for i in range(1, len(row)):
                right[i] = max(right[i], right[i - 1] + 1)
            left = list(wanted)
            for i in reversed(range(len(row) - 1)):
                left[i] = min(left[i], left[i + 1] - 1)
            for node, a, b in zip(row, left, right, strict=True):
                x[node] = (a + b) / 2


def _mean(values: list[float], default: float) -> float:
    return sum(values) / len(values) if values else default
