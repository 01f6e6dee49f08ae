"""Small graphs drawn as boxes and arrows, readable in print: kinds of boxes differ in shape, never in colour alone."""

from __future__ import annotations

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
    fill: str = "white"


def draw_graph(axes: Any, boxes: Sequence[Box], routes: Sequence[Sequence[Point]], *, shrink: float = 8) -> None:
    """Draw boxes, and arrows along their routes that end ``shrink`` points before the middle of a box."""
    for route in routes:
        xs, ys = zip(*route, strict=True)
        axes.plot(xs[:-1], ys[:-1], color=INK, linewidth=0.7, zorder=1)
        arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 0.7, "shrinkA": 0, "shrinkB": shrink}
        axes.annotate("", xy=route[-1], xytext=route[-2], arrowprops=arrow, zorder=1)
    for box in boxes:
        style = {
            "boxstyle": "round,pad=0.3" if box.data else "square,pad=0.3",
            "facecolor": "#d9d9d9" if box.data else box.fill,
            "edgecolor": INK,
            "linewidth": 0.8,
            "linestyle": "--" if box.elsewhere else "-",
        }
        axes.text(*box.point, box.label, ha="center", va="center", fontsize=8, bbox=style, zorder=2, parse_math=False)
    axes.set_axis_off()
    xs, ys = zip(*[box.point for box in boxes], *[point for route in routes for point in route], strict=True)
    axes.set_xlim(min(xs) - 0.6, max(xs) + 0.6)
    axes.set_ylim(min(ys) - 0.5, max(ys) + 0.5)
