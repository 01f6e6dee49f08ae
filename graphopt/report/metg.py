"""Measure how small tasks may be before a scheduler's overhead eats their gain: METG(50 %), after Task Bench.

A grid of tasks is run at several task durations. Granularity is wall time x cores / tasks; METG is the smallest one at
which the kernels' own time is still half of it. Values are checked in every run.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.granularity.patterns import PATTERNS
from graphopt.report.errors import CommandError
from graphopt.report.files import write_json
from graphopt.report.options import add_output, check_output, positive, whole
from graphopt.report.targets import EXPLAINED, add_targets, client_for, targets_of
from graphopt.report.terminal import Terminal

if TYPE_CHECKING:
    from graphopt.granularity import Granularity

__all__ = ["HELP", "NAME", "configure", "print_table", "run"]

NAME = "metg"
HELP = "how small tasks may be: METG of dask and of compiled plans"
WIDE = 76  # columns, for all of the table
EPILOG = f"""\
{EXPLAINED}Compiled grids run inside graphopt.iterate on clusters, where the loop itself is on the workers.

examples:
  python -m graphopt metg
  python -m graphopt metg --pattern stencil_1d fft --target threads compiled --plot metg.svg
  python -m graphopt metg --pattern all --target cluster compiled-cluster --steps 25 --json -

exit status: 0 all well; 1 wrong values; 2 a request that cannot be met
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.epilog = EPILOG
    what = parser.add_argument_group("what to measure")
    what.add_argument(
        "--pattern",
        nargs="+",
        choices=(*PATTERNS, "all"),
        default=["stencil_1d"],
        metavar="NAME",
        help=f"which tasks read which: {', '.join(PATTERNS)}, all (default stencil_1d)",
    )
    what.add_argument("--width", type=whole, default=8, metavar="N", help="tasks of a row (default %(default)s)")
    what.add_argument("--steps", type=whole, default=125, metavar="N", help="rows (default %(default)s)")
    what.add_argument("--efficiency", type=_share, default=0.5, metavar="E", help="what is to be kept (default %(default)s)")
    what.add_argument("--seconds", type=positive, default=20.0, metavar="S", help="for each curve, about (default 20)")
    add_targets(parser, "threads", "compiled")
    add_output(parser, csv="all samples", plot="efficiency against granularity")


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Check the request, measure all curves, show and write them; the exit status."""
    targets = targets_of(arguments)
    check_output(arguments)
    terminal = Terminal(quiet=arguments.quiet, stdout_taken=arguments.json == "-")
    curves = list(_curves(targets, arguments, terminal))
    # files first: a reader of the tables that hangs up, such as head, ends the program
    if arguments.json is not None:
        write_json(arguments.json, {"curves": [curve.to_json() for curve in curves]})
    if arguments.csv is not None:
        write_csv(arguments.csv, curves)
    if arguments.plot is not None:
        from graphopt.report.efficiency import draw_file

        draw_file(curves, arguments.plot)
    print_table(curves, terminal)
    if arguments.plot is not None:
        terminal.say(f"Picture: {arguments.plot}")
    return 0


def _curves(targets: Sequence[str], arguments: argparse.Namespace, terminal: Terminal) -> Iterator[Granularity]:
    from graphopt.granularity import metg

    patterns = PATTERNS if "all" in arguments.pattern else tuple(dict.fromkeys(arguments.pattern))
    options = {name: getattr(arguments, name) for name in ("width", "steps", "seconds", "efficiency")}
    with client_for(targets, arguments) as client:
        for pattern in patterns:
            for target in targets:
                with_client = {"client": client} if target == "compiled-cluster" else {}
                ran_by = client if target == "cluster" else target.removesuffix("-cluster")
                with terminal.progress(f"{pattern}, {target}", max(1, round(arguments.seconds))) as after_each:
                    try:
                        yield metg(pattern, ran_by, progress=_ticking(after_each), **with_client, **options)
                    except ArithmeticError as error:
                        raise CommandError(str(error), status=1) from error


def _ticking(after_each: Callable[[str], None]) -> Callable[[float, str], None]:
    """Return what moves a bar by one for each second that has passed."""
    shown = 0

    def progress(seconds: float, state: str) -> None:
        nonlocal shown
        while shown < int(seconds):
            shown += 1
            after_each(state)

    return progress


def write_csv(path: str, curves: Sequence[Granularity]) -> None:
    """Write a line for each sample of each curve; times are in seconds."""
    header = ("pattern", "target", "cores", "tasks", "dependencies", "duration", "granularity", "wall", "efficiency", "runs")
    with sys.stdout if path == "-" else Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for curve in curves:
            grid = curve.pattern
            for s in curve.samples:
                measured = (s.duration, curve.granularity(s), s.wall, s.efficiency, len(s.walls))
                writer.writerow((grid.name, curve.target, curve.cores, grid.tasks, grid.dependencies, *measured))


def print_table(curves: Sequence[Granularity], terminal: Terminal) -> None:
    """Show METG of all curves; for a single one its samples too."""
    from rich import box
    from rich.table import Table

    from graphopt.cost import in_units

    if len(curves) == 1:
        terminal.say(str(curves[0]))
        return
    grid, threshold = curves[0].pattern, curves[0].threshold
    table = Table(box=box.SIMPLE_HEAD, title=f"METG({threshold:.0%}), {grid.width} x {grid.steps}", title_justify="left")
    table.add_column("pattern", no_wrap=True)
    table.add_column("run by")
    wide = terminal.results.width >= WIDE
    for column in ("METG", "best", "once", *["empty task"] * wide):
        table.add_column(column, justify="right", no_wrap=True)
    for curve in curves:
        metg = "-" if curve.metg is None else ("<= " if curve.bounded else "") + in_units(curve.metg)
        others = [in_units(curve.metg_best), in_units(curve.metg_once), *[in_units(curve.overhead)] * wide]
        table.add_row(curve.pattern.name, curve.target, metg, *others)
    terminal.show(table)
    terminal.say("best: by the quickest runs; once: with building, compiling and the first run, if a grid is run once only")
    for curve in curves:
        if curve.metg is None:
            terminal.say(f"{curve.pattern.name}, {curve.target}: {curve.verdict}")
