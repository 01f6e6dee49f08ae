"""Small graphs drawn as boxes and arrows, readable in print: kinds of boxes differ in shape, never in colour alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.report.layers import Point

__all__ = ["INK", "Box", "draw_graph"]

INK = "#222222"


@dataclass(frozen=True, slots=True)
class Box:
    """A node of a drawing: data is grey with round corners, what is done elsewhere has a broken outline."""

    label: str
    point: Point
    data: bool = False
    elsewhere: bool = False


def draw_graph(axes: Any, boxes: Sequence[Box], routes: Sequence[Sequence[Point]]) -> None:
    """Draw boxes, and arrows that lead along their routes to the edges of boxes."""
    axes.set_axis_off()
    if not boxes:
        return
    xs, ys = zip(*[box.point for box in boxes], *[point for route in routes for point in route], strict=True)
    axes.set_xlim(min(xs) - 0.6, max(xs) + 0.6)
    axes.set_ylim(min(ys) - 0.5, max(ys) + 0.5)
    halves = {box.point: _half(box.label) for box in boxes}
    for route in routes:
        xs, ys = zip(*route, strict=True)
        axes.plot(xs[:-1], ys[:-1], color=INK, linewidth=0.7, zorder=1)
        (x0, y0), (x1, y1) = axes.transData.transform(route[-2:])
        wide, high = halves[route[-1]]
        way = math.hypot(x1 - x0, y1 - y0)
        inside = min(wide * way / (abs(x1 - x0) or 1e-9), high * way / (abs(y1 - y0) or 1e-9))  # of the box, in points
        arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 0.7, "shrinkA": 0, "shrinkB": inside}
        axes.annotate("", xy=route[-1], xytext=route[-2], arrowprops=arrow, zorder=1)
    for box in boxes:
        style = {
            "boxstyle": "round,pad=0.3" if box.data else "square,pad=0.3",
            "facecolor": "#d9d9d9" if box.data else "white",
            "edgecolor": INK,
            "linewidth": 0.8,
            "linestyle": "--" if box.elsewhere else "-",
        }
        axes.text(*box.point, box.label, ha="center", va="center", fontsize=8, bbox=style, zorder=2, parse_math=False)


def _half(label: str) -> tuple[float, float]:
    """Half the width and height of a box in points, as far as that can be known without drawing it."""
    lines = label.split("\n")
    return 2.5 + 2.3 * max(map(len, lines)), 2.5 + 5.5 * len(lines)
