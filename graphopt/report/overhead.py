"""Measure what a task costs apart from its own work: on dask's schedulers, on a cluster, and in compiled plans.

Empty tasks are run in graphs of different shape, and the costs of a call, a task, a dependency and a byte that moves are those
that explain best how long they took; with the cost of building and optimising a graph. All figures are medians, with the
interval that holds nine in ten estimates.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphopt.report.errors import CommandError, import_extra
from graphopt.report.files import write_json
from graphopt.report.options import add_output, check_output, positive
from graphopt.report.targets import EXPLAINED, add_targets, client_for, targets_of
from graphopt.report.terminal import Terminal

if TYPE_CHECKING:
    from graphopt.cost import Overhead

__all__ = ["HELP", "NAME", "configure", "draw", "run", "write_csv"]

NAME = "overhead"
HELP = "what a task, a dependency, a call and a byte cost on each scheduler"
EPILOG = f"""\
{EXPLAINED}
examples:
  python -m graphopt overhead
  python -m graphopt overhead --target sync threads processes cluster compiled compiled-cluster --plot overhead.svg
  python -m graphopt overhead --target cluster --address tcp://scheduler:8786 --seconds 60 --json overhead.json

exit status: 0 all well; 2 a request that cannot be met
"""

#: What bars are filled with, in turn: told apart by brightness and hatching, in colour and in grey.
FILLS = (("#ffffff", ""), ("#d9d9d9", "///"), ("#7fb8d6", ""), ("#f2b27a", "..."), ("#5a8f69", ""), ("#404040", "xx"))
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.5,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "graphopt",  # the same file each time
}
LABEL_COLUMNS, TARGET_COLUMNS = 23, 12  # of the table, at least


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.epilog = EPILOG
    add_targets(parser, "sync", "threads", "compiled")
    parser.add_argument(
        "--seconds", type=positive, default=20.0, metavar="S", help="time for each target at most (default %(default)g)"
    )
    add_output(parser, csv="a line for each target and cost", plot="bars by target")


def run(arguments: argparse.Namespace) -> int:
    """Check the request, measure, show; the exit status."""
    targets = targets_of(arguments)
    check_output(arguments)
    terminal = Terminal(quiet=arguments.quiet, stdout_taken=arguments.json == "-")
    found = {target: _measured(target, arguments, terminal) for target in targets}
    _show(found, terminal)
    if arguments.json is not None:
        write_json(arguments.json, {target: overhead.to_dict() for target, overhead in found.items()})
    if arguments.csv is not None:
        write_csv(arguments.csv, found)
    if arguments.plot is not None:
        draw(arguments.plot, found)
    return 0


# -- measuring ---------------------------------------------------------------------------------------------------------


def _measured(target: str, arguments: argparse.Namespace, terminal: Terminal) -> Overhead:
    from graphopt.overhead import measure_overhead  # dask, NumPy and the optimiser: not for --help
    from graphopt.types import ClusterError

    if not terminal.log.is_terminal:
        terminal.log.print(f"measuring {target} ...", markup=False)
    with client_for([target], arguments) as client:
        try:
            what = client if target == "cluster" else target.removesuffix("-cluster")
            return measure_overhead(what, seconds=arguments.seconds, progress=not terminal.log.quiet)
        except ClusterError as error:
            raise CommandError(f"{target}: {error}") from error


# -- showing -----------------------------------------------------------------------------------------------------------


def _show(found: dict[str, Overhead], terminal: Terminal) -> None:
    """Print a table with a column for each target, or one table after the other where they do not fit side by side."""
    wide = LABEL_COLUMNS + sum(max(TARGET_COLUMNS, len(target) + 2) for target in found)
    if len(found) == 1 or terminal.results.width < wide:
        terminal.say("\n\n".join(str(overhead) for overhead in found.values()))
        return
    from rich import box
    from rich.table import Table

    from graphopt.cost import in_units

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    columns = []
    for target, overhead in found.items():
        table.add_column(target, justify="right")
        columns.append(
            [f"{in_units(cost.median)}\n[dim]{in_units(cost.low)}\n{in_units(cost.high)}[/dim]" for _, cost in overhead.rows()]
        )
    first = next(iter(found.values()))
    for (label, _), *cells in zip(first.rows(), *columns, strict=True):
        table.add_row(f"{label}\n[dim]  from\n  to[/dim]", *cells)
    table.add_section()
    table.add_row("threads", *[str(overhead.threads) for overhead in found.values()])
    table.add_row("rounds", *[str(overhead.rounds) for overhead in found.values()])
    table.add_row("prediction off by", *[f"{overhead.misfit:.0%}" for overhead in found.values()])
    terminal.show(table)
    cores = f"{first.cores} core{'s' * (first.cores != 1)}"
    terminal.say(", ".join([cores, first.machine, *[" ".join(pair) for pair in first.versions]]))


def write_csv(path: str, found: dict[str, Overhead]) -> None:
    """Write a line for each target and cost, in seconds."""
    from graphopt.cost import COSTS

    with open(path, "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["target", "cost", "median_s", "low_s", "high_s", "workers", "threads", "rounds", "when"])
        for target, overhead in found.items():
            rest = overhead.workers, overhead.threads, overhead.rounds, overhead.when
            for name, _, _ in COSTS:
                cost = getattr(overhead, name)
                lines.writerow([target, name, repr(cost.median), repr(cost.low), repr(cost.high), *rest])


def draw(path: str, found: dict[str, Overhead]) -> None:
    """Draw the costs as bars, grouped by cost, on one logarithmic axis; the lines on them are the intervals."""
    matplotlib, figures = import_extra("matplotlib", "plots"), import_extra("matplotlib.figure", "plots")
    ending = os.path.splitext(path)[1].lower()
    with matplotlib.rc_context(STYLE):
        figure = figures.Figure(figsize=(max(7.0, 2 + 1.15 * (1 + len(found)) * 1.6), 4.4), layout="constrained")
        _bars(figure.add_subplot(), found)
        plain = {"Date": None} if ending == ".svg" else {}
        figure.savefig(path, format=ending[1:], dpi=130, metadata=plain)


def _bars(axes: Any, found: dict[str, Overhead]) -> None:
    from graphopt.cost import in_units

    seconds = [cost.median for overhead in found.values() for _, cost in overhead.rows() if cost.median > 0]
    floor, top = min(seconds, default=1e-6) / 3, max(seconds, default=1.0)
    width = 0.84 / len(found)
    labels: Sequence[str] = ()
    for place, (target, overhead) in enumerate(found.items()):
        colour, hatch = FILLS[place % len(FILLS)]
        rows = overhead.rows()
        labels = [label for label, _ in rows]
        xs = [i - 0.42 + width * (place + 0.5) for i in range(len(rows))]
        heights = [max(cost.median, floor) for _, cost in rows]
        below = [height - max(min(cost.low, height), floor) for height, (_, cost) in zip(heights, rows, strict=True)]
        above = [max(cost.high - height, 0.0) for height, (_, cost) in zip(heights, rows, strict=True)]
        axes.bar(xs, heights, 0.9 * width, label=target, color=colour, hatch=hatch, edgecolor="#222222", linewidth=0.8)
        axes.errorbar(xs, heights, [below, above], fmt="none", ecolor="#222222", elinewidth=0.8, capsize=2)
        for x, height, more, (_, cost) in zip(xs, heights, above, rows, strict=True):
            spot = {"xytext": (0, 4), "textcoords": "offset points", "rotation": 90, "ha": "center", "va": "bottom"}
            axes.annotate(in_units(cost.median), (x, height + more), fontsize=7, **spot)
    axes.set_yscale("log")
    axes.set_ylim(floor, top * (top / floor) ** 0.25)  # room for the numbers
    axes.yaxis.set_major_formatter(lambda value, _: in_units(value))
    axes.set_xticks(range(len(labels)), [label.replace(", ", ",\n") for label in labels])
    axes.set_ylabel("seconds (logarithmic)")
    axes.set_title("overhead, apart from the work of tasks: medians, and intervals of nine in ten", loc="left", fontsize=10)
    axes.legend(frameon=False, ncols=len(found), loc="upper center", bbox_to_anchor=(0.5, -0.14))
