"""The picture of METG: efficiency against granularity, one line for each way of running a grid of tasks.

Made to be read in print: lines differ in marker and dash, never in colour alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from graphopt.cost import in_units
from graphopt.granularity import Granularity
from graphopt.report.boxes import INK
from graphopt.report.errors import CommandError, import_extra

__all__ = ["draw", "draw_file"]

ENDINGS = (".svg", ".png")
COLOURS = ("#3b7ea1", "#c4622d", "#4d8f5b", "#8a5fa8", "#7a6a3a")
MARKERS, DASHES = "osD^vP", ("-", "--", "-.", ":")
STYLE: dict[str, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
STYLE |= {"svg.fonttype": "none", "svg.hashsalt": "graphopt"}  # text stays text; the same file each time
DPI = 110


def draw_file(curves: Sequence[Granularity], filename: str | os.PathLike[str]) -> None:
    """Draw curves, as SVG or PNG by the ending of the name of the file.

    Raises
    ------
    ValueError
        If the name ends otherwise.
    ImportError
        If matplotlib is not installed.
    """
    path = os.fspath(filename)
    if not path.lower().endswith(ENDINGS):
        raise ValueError(f"{path!r} should end in {' or '.join(ENDINGS)}: that says what kind of picture it is to be.")
    try:
        figures = import_extra("matplotlib.figure", "plots")
    except CommandError as error:
        raise ImportError(str(error)) from error
    with import_extra("matplotlib", "plots").rc_context(STYLE):
        figure = draw(figures, curves)
        ending = path.rsplit(".", 1)[1].lower()
        figure.savefig(path, format=ending, dpi=DPI, bbox_inches="tight", metadata={"Date": None} if ending == "svg" else None)


def draw(figures: Any, curves: Sequence[Granularity]) -> Any:
    """Return a figure with a panel for each pattern."""
    patterns = list(dict.fromkeys(curve.pattern.name for curve in curves))
    columns = min(len(patterns), 2)
    rows = math.ceil(len(patterns) / columns) if columns else 1
    figure = figures.Figure(figsize=(6.4 * max(columns, 1), 0.6 + 4.2 * rows), layout="constrained")
    panels = figure.subplots(rows, max(columns, 1), squeeze=False, sharex=True, sharey=True)
    for axes in panels.flat[len(patterns) :]:
        axes.set_visible(False)
    for name, axes in zip(patterns, panels.flat, strict=False):
        _panel(axes, [curve for curve in curves if curve.pattern.name == name])
    return figure


def _panel(axes: Any, curves: Sequence[Granularity]) -> None:
    for number, curve in enumerate(curves):
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "markersize": 4}
        xs = [1e6 * curve.granularity(sample) for sample in curve.samples]
        ys = [100 * sample.efficiency for sample in curve.samples]
        least = [100 * (sample.efficiency - min(sample.efficiencies)) for sample in curve.samples]
        most = [100 * (max(sample.efficiencies) - sample.efficiency) for sample in curve.samples]
        label = f"{curve.target}: {'not reached' if curve.metg is None else in_units(curve.metg)}"
        axes.errorbar(xs, ys, yerr=(least, most), linestyle=DASHES[number % len(DASHES)], elinewidth=0.6, label=label, **style)
        if curve.metg is not None:
            axes.plot([1e6 * curve.metg] * 2, [0, 100 * curve.threshold], color=style["color"], linewidth=0.8, linestyle=":")
    threshold = 100 * curves[0].threshold
    axes.axhline(threshold, color=INK, linewidth=0.6)
    axes.annotate(f"{threshold:g} %", (1, threshold), xycoords=("axes fraction", "data"), va="bottom", ha="right", fontsize=8)
    axes.set_xscale("log")
    axes.set_ylim(0, 105)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.set_xlabel("granularity: wall time x cores / tasks, µs")
    axes.set_ylabel("efficiency, %")
    pattern = curves[0].pattern
    axes.set_title(f"{pattern.name}, {pattern.width} x {pattern.steps}", loc="left", fontsize=10)
    axes.tick_params(labelbottom=True, labelleft=True)
    below = {"loc": "upper left", "bbox_to_anchor": (0, -0.17), "borderaxespad": 0}
    axes.legend(title=f"METG({threshold:g} %)", fontsize=8, title_fontsize=8, frameon=False, alignment="left", **below)
