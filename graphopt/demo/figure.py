"""The picture of a run: time per iteration each way, tasks per iteration, and what became of one chunk's tasks.

Made to be read in print: the runs differ in position, hatching and label, never in colour alone.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np

from graphopt.demo.fusion import Fusion
from graphopt.demo.race import COMPILED, DASK, GRAPHOPT, NUMPY
from graphopt.demo.summary import LABELS, Summary
from graphopt.report.boxes import INK, Box, draw_graph
from graphopt.report.layers import layered

__all__ = ["draw"]

FILLS = {NUMPY: "#d9d9d9", DASK: "#f2b27a", GRAPHOPT: "#7fb8d6", COMPILED: "#8cc99b"}
HATCHES = {NUMPY: "", DASK: "///", GRAPHOPT: "...", COMPILED: "xx"}
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 0.5}
DOT = {"markersize": 3, "markerfacecolor": "white", "markeredgecolor": INK, "markeredgewidth": 0.6, "clip_on": False}
SOURCE_LINES, SOURCE_WIDTH = 46, 86  # what fits beside the drawing


def draw(pyplot: Any, summary: Summary, fusion: Fusion, path: str) -> None:
    """Write the picture as PNG."""
    with pyplot.rc_context(STYLE):
        figure = pyplot.figure(figsize=(17, 9))
        # left, bottom, width, height: by hand, because long generated lines would squeeze any automatic layout
        _times(figure.add_axes((0.04, 0.07, 0.25, 0.82)), summary)
        _counts(figure.add_axes((0.39, 0.77, 0.56, 0.12)), summary)
        _tasks(figure.add_axes((0.305, 0.02, 0.325, 0.66)), fusion)
        _kernel(figure.add_axes((0.645, 0.02, 0.35, 0.66)), fusion)
        rows, columns = summary.problem.X.shape
        figure.suptitle(
            f"Logistic regression by gradient descent in dask.array: {summary.problem.name}, {rows:,} x {columns}, "
            f"{summary.problem.X.numblocks[0]} chunks; {summary.scheduler}",
            fontsize=12,
            y=0.97,
        )
        figure.savefig(path, dpi=110, format="png")
        pyplot.close(figure)


def _times(axes: Any, summary: Summary) -> None:
    """Medians as bars, every iteration as a dot. Bars need a scale from zero; a dot that is beyond it is a triangle."""
    milliseconds = {run: [1e3 * second for second in summary.traces[run].seconds] for run in summary.runs}
    top = 1.25 * max(np.percentile(times, 90) for times in milliseconds.values())
    for x, run in enumerate(summary.runs):
        times, median = milliseconds[run], summary.traces[run].median * 1e3
        axes.bar(x, median, width=0.62, color=FILLS[run], hatch=HATCHES[run], edgecolor=INK, linewidth=0.8)
        # side by side in the order they were measured, so that a drift shows
        places = [x - 0.24 + 0.48 * i / max(1, len(times) - 1) for i in range(len(times))]
        for marker, beyond in (("o", False), ("^", True)):
            shown = [i for i, time in enumerate(times) if (time > top) == beyond]
            axes.plot([places[i] for i in shown], [min(times[i], top) for i in shown], marker, **DOT)
        text = f"{median:.1f} ms"
        if run in (GRAPHOPT, COMPILED):
            text += f"\n{summary.speedup(run):.1f} x\ndask's speed"
        height = max(min(time, top) for time in times)
        axes.annotate(text, (x, height), xytext=(0, 9), textcoords="offset points", ha="center", weight="bold")
    axes.set_ylim(0, 1.12 * top)
    axes.set_xticks(range(len(summary.runs)), [_two_lines(LABELS[run]) for run in summary.runs])
    axes.set_ylabel("milliseconds per iteration")
    axes.set_title("time per iteration\nbar: median, dots: every iteration", loc="left", fontsize=10)


def _two_lines(label: str) -> str:
    return label.replace(", ", "\n").replace(" + ", "\n+ ").replace(".", "\n.")


def _counts(axes: Any, summary: Summary) -> None:
    """Tasks per iteration: in the user's graph, run by dask, run with graphopt, and the calls that a compiled step makes."""
    bars = [
        ("graphopt runs", summary.tasks_run[GRAPHOPT], GRAPHOPT),
        ("dask runs", summary.tasks_run[DASK], DASK),
        ("in the user's graph", summary.graph_tasks, NUMPY),
    ]
    if summary.compilation is not None:
        bars.insert(0, ("calls of a compiled step", summary.compilation.lanes, COMPILED))
    for y, (_, count, run) in enumerate(bars):
        axes.barh(y, count, color=FILLS[run], hatch=HATCHES[run], edgecolor=INK, linewidth=0.8)
        axes.annotate(f"{count:,}", (count, y), xytext=(4, 0), textcoords="offset points", va="center", weight="bold")
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars])
    axes.set_xlim(0, 1.1 * max(count for _, count, _ in bars))
    axes.set_title("tasks of one iteration", loc="left", fontsize=10)


def _tasks(axes: Any, fusion: Fusion) -> None:
    """The tasks of one chunk as boxes, its data as grey boxes with round corners."""
    points, routes = layered(len(fusion.labels), fusion.edges)
    named = enumerate(zip(fusion.labels, points, strict=True))
    boxes = [Box(label, point, data=i in fusion.data) for i, (label, point) in named]
    draw_graph(axes, boxes, routes)
    tasks = len(fusion.labels) - len(fusion.data)
    axes.set_title(f"before: the {tasks} tasks of one chunk (grey: its data)", loc="left", fontsize=10)


def _kernel(axes: Any, fusion: Fusion) -> None:
    """The generated Python that the boxes became."""
    axes.set_axis_off()
    if not fusion.source:
        axes.set_title("after: nothing was fused", loc="left", fontsize=10)
        return
    axes.set_title(
        f"after: what {fusion.regions} of {fusion.whose} run, as generated",
        loc="left",
        fontsize=10,
    )
    box = {"boxstyle": "square,pad=0.8", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8}
    lines = "\n".join(_fitted(fusion.source))
    axes.text(0.015, 0.97, lines, transform=axes.transAxes, va="top", family="monospace", fontsize=7, bbox=box)


def _fitted(source: str) -> list[str]:
    """The lines of the source that fit the panel: long ones wrapped, too many cut."""
    lines: list[str] = []
    for line in source.strip().splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(line, SOURCE_WIDTH, subsequent_indent=indent + "    ", break_on_hyphens=False) or [""]
    if len(lines) > SOURCE_LINES:
        lines = [*lines[: SOURCE_LINES - 1], f"# ... and {len(lines) - SOURCE_LINES + 1} more lines"]
    return lines
