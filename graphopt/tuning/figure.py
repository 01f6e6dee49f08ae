"""The picture of choices: predicted and measured time of a call against the rows of a chunk, one panel for each target.

Made to be read in print: what was predicted is a line, what was measured are points, and the choice is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphopt.cost import in_units
from graphopt.report.boxes import INK

if TYPE_CHECKING:
    from graphopt.tuning.job import Outcome

__all__ = ["draw"]

_TICKS = 9  # so many labels fit along an axis

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "graphopt",
}


def draw(pyplot: Any, title: str, outcomes: Sequence[Outcome], path: str) -> None:
    """Write the picture, as PNG or SVG by the ending of the name."""
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(
            len(outcomes), 1, figsize=(7, 3.2 * len(outcomes)), squeeze=False, layout="constrained"
        )
        for axes, outcome in zip(panels[:, 0], outcomes, strict=True):
            _panel(axes, outcome)
        figure.suptitle(title, fontsize=11)
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.endswith(".svg") else None)
        pyplot.close(figure)


def _apart(numbers: Sequence[int]) -> list[int]:
    """Return as many of these increasing numbers as can be written beside each other on a logarithmic axis."""
    least = (numbers[-1] / numbers[0]) ** (1 / _TICKS)
    kept = list(numbers[:1])
    for number in numbers[1:]:
        if number >= kept[-1] * max(least, 1 + 1e-9):
            kept.append(number)
    return kept


def _panel(axes: Any, outcome: Outcome) -> None:
    choice = outcome.choice
    shown = sorted(choice.candidates, key=lambda one: one.shape[0])
    axes.plot([one.shape[0] for one in shown], [1e3 * one.predicted for one in shown], "-", color=INK, label="predicted")
    for label, final, fill in (("survey", False, "none"), ("finals", True, "#1f6f9f")):
        seen = [(one.shape[0], 1e3 * one.measured) for one in shown if one.measured is not None and one.final is final]
        if seen:
            axes.plot(*zip(*seen, strict=True), "o", color="#1f6f9f", markerfacecolor=fill, label=label)
    swept = [one for one in shown if one.count in outcome.swept]
    if swept:
        times = [1e3 * outcome.swept[one.count] for one in swept]
        axes.plot([one.shape[0] for one in swept], times, "x", color="#b5541c", label="sweep of all data")
    chosen = choice.chosen
    axes.axvline(chosen.shape[0], color=INK, linestyle=":", linewidth=1)
    what = f" {chosen.count} of {chosen.shape[0]} rows, {in_units(chosen.predicted)} \n decided by {choice.bound} "
    side = "right" if chosen.shape[0] ** 2 > shown[0].shape[0] * shown[-1].shape[0] else "left"
    axes.annotate(what, (chosen.shape[0], 0.97), xycoords=("data", "axes fraction"), va="top", ha=side, fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = _apart([one.shape[0] for one in shown])
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.minorticks_off()
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if high < 20 * low else "")  # there may be no power of ten
    axes.set_xlabel("rows of a chunk")
    axes.set_ylabel("milliseconds a call")
    axes.set_title(f"{outcome.target}: {choice.executor}", loc="left", fontsize=10)
    axes.legend(fontsize=8, loc="best")
