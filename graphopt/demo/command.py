"""Fit a logistic regression by gradient descent, written in plain dask.array, and time it four ways:
as NumPy chunks on one thread, as dask runs it, as dask runs it with graphopt, and as a step compiled by graphopt.

Without --data it first checks its coefficients against scikit-learn on the bundled breast-cancer data, then runs on
generated data. BLAS is held to one thread everywhere, so that the runs differ only in who schedules the chunks.
"""

from __future__ import annotations

import argparse

from graphopt.report.errors import CommandError
from graphopt.report.files import check_writable, pyplot
from graphopt.report.options import whole
from graphopt.report.terminal import Terminal

__all__ = ["HELP", "NAME", "configure", "run"]

NAME = "demo"
HELP = "logistic regression in plain dask, timed with and without graphopt"
PICTURE = "graphopt-demo.png"
EPILOG = """\
examples:
  python -m graphopt demo
  python -m graphopt demo --cluster --chunks 20
  python -m graphopt demo --data policies.csv --target claim --drop id --json -
  python -m graphopt demo --data ../shared/data/beMTPL97.parquet --target claim \\
      --drop id --drop nclaims --drop amount --drop average

In the last one nclaims, amount and average are known only after a claim: they give the answer away. Columns like that,
and identifiers, are for you to --drop. Numbers are scaled to mean 0 and deviation 1, text becomes one column a value.

exit status: 0 all well; 1 coefficients that do not agree; 2 a request that cannot be met
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.epilog = EPILOG
    data = parser.add_argument_group("data")
    data.add_argument("--data", metavar="FILE", help="a CSV or Parquet file to fit instead of generated data")
    data.add_argument("--target", metavar="COLUMN", help="the two-valued column to predict (with --data)")
    data.add_argument("--drop", metavar="COLUMN", action="append", default=[], help="leave a column out; repeatable")
    data.add_argument("--rows", type=whole, metavar="N", help="rows to generate (default 1000000)")
    data.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the generated data (default %(default)s)")
    data.add_argument(
        "--no-check", action="store_true", help="skip the check against scikit-learn that precedes generated data"
    )
    job = parser.add_argument_group("the job")
    job.add_argument("--chunks", type=whole, default=100, metavar="N", help="parts to cut the rows into (default %(default)s)")
    job.add_argument("--iterations", type=whole, metavar="N", help="gradient steps (default 60; 20 on processes, distributed)")
    job.add_argument("--l2", type=_weight, default=0.0, metavar="W", help="add W/2 times the squared coefficients")
    job.add_argument(
        "--scheduler",
        choices=("threads", "sync", "processes", "distributed"),
        help="(default threads)",
    )
    job.add_argument(
        "--cluster",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run on a cluster: its own of worker processes, or the one whose scheduler has this address",
    )
    job.add_argument("--workers", type=whole, metavar="N", help="threads (default: one a core) or worker processes (default 2)")
    output = parser.add_argument_group("output")
    output.add_argument("--output", metavar="PNG", help=f"the picture to write (default {PICTURE})")
    output.add_argument("--no-plot", action="store_true", help="write no picture")
    output.add_argument("--json", metavar="FILE", help="write all figures as JSON; - is standard output")
    output.add_argument("--quiet", action="store_true", help="no progress, no tables")


def _weight(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must not be negative, not {text}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Check the request, run the job, show the outcome; the exit status."""
    _check_request(arguments)
    from graphopt.demo import job  # dask, NumPy and the optimiser: not for --help

    terminal = Terminal(quiet=arguments.quiet, stdout_taken=arguments.json == "-")
    return job.run(arguments, terminal, None if arguments.no_plot else arguments.output or PICTURE)


def _check_request(arguments: argparse.Namespace) -> None:
    """Refuse at once what would fail, or be ignored, only after minutes; settle what is left open."""
    if arguments.cluster is not None:
        if arguments.scheduler not in (None, "distributed"):
            raise CommandError(f"--cluster and --scheduler {arguments.scheduler} contradict each other")
        if arguments.cluster and arguments.workers:
            raise CommandError("--workers is for a cluster of its own; the one at an address has the workers it has")
        arguments.scheduler = "distributed"
    arguments.scheduler = arguments.scheduler or "threads"
    if arguments.data is None:
        for option in ("target", "drop"):
            if getattr(arguments, option):
                raise CommandError(f"--{option} goes with --data FILE")
    else:
        if arguments.target is None:
            raise CommandError("--data needs --target COLUMN, the column to predict")
        if arguments.rows is not None:
            raise CommandError("--rows is for generated data; --data takes all rows of the file")
    check_writable(arguments.json)
    if arguments.output is not None and arguments.no_plot:
        raise CommandError("--output and --no-plot contradict each other")
    if not arguments.no_plot:
        check_writable(arguments.output or PICTURE)
    if arguments.output is not None:
        pyplot()  # a picture that was asked for cannot be drawn without matplotlib; one that was not is left out later
