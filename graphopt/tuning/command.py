"""Choose chunk sizes for a usual step on generated data or a file, by timing it on samples of that data, and say why.

BLAS is held to one thread everywhere.
"""

from __future__ import annotations

import argparse

from graphopt.report.errors import CommandError
from graphopt.report.options import add_output, check_output, positive, whole
from graphopt.report.targets import EXPLAINED, add_targets, targets_of
from graphopt.report.terminal import Terminal

__all__ = ["HELP", "NAME", "configure", "run"]

NAME = "chunks"
HELP = "chunk sizes chosen by timing a step on samples of its data"
PROBLEMS = ("logistic", "least-squares", "k-means", "gram")
EPILOG = f"""\
{EXPLAINED}
examples:
  python -m graphopt chunks
  python -m graphopt chunks --rows 200000 --columns 300 --target threads compiled compiled-cluster --plot chunks.svg
  python -m graphopt chunks --data X.npy --problem k-means --sweep --csv chunks.csv
  python -m graphopt chunks --data policies.parquet --label claim --json -

problems: the loss and gradient of a logistic regression; the gradient of least squares; Lloyd's step of k-means with
eight centres; and gram, X.T (X v).

In the table, > marks what was chosen and * what was there. Times with ~ are reckoned up from samples; --sweep times
each candidate on all data as well.

exit status: 0 all well; 2 a request that cannot be met
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.epilog = EPILOG
    data = parser.add_argument_group("data")
    data.add_argument("--rows", type=whole, metavar="N", help="rows to generate (default 1000000)")
    data.add_argument("--columns", type=whole, metavar="N", help="columns to generate (default 15)")
    data.add_argument("--data", metavar="FILE", help="an .npy, .zarr, .csv or .parquet file instead")
    data.add_argument("--label", metavar="COLUMN", help="the two-valued column to predict, of a .csv or .parquet file")
    data.add_argument("--chunks", type=whole, metavar="N", default=10, help="parts that it comes in (default %(default)s)")
    data.add_argument("--out-of-core", action="store_true", help="load .npy and .zarr data in each call, do not keep it")
    job = parser.add_argument_group("the step")
    job.add_argument("--problem", choices=PROBLEMS, default="logistic", help="(default %(default)s)")
    job.add_argument("--iterations", type=whole, default=100, metavar="N", help="calls to come (default %(default)s)")
    job.add_argument("--seconds", type=positive, default=10.0, metavar="S", help="for each target (default %(default)s)")
    job.add_argument("--memory", metavar="BYTES", help="the most that chunks in flight may take, such as 2GiB")
    job.add_argument("--sweep", action="store_true", help="also time each candidate on all data")
    add_targets(parser, "threads", "compiled")
    add_output(parser, csv="a line for each candidate", plot="time against chunk size")


def run(arguments: argparse.Namespace) -> int:
    """Check the request, run the job, show the outcome; the exit status."""
    if arguments.data is not None and (arguments.rows or arguments.columns):
        raise CommandError("--rows and --columns are for generated data; --data takes all of the file")
    if arguments.label is not None and arguments.data is None:
        raise CommandError("--label goes with --data FILE")
    arguments.target = targets_of(arguments)
    check_output(arguments)
    from graphopt.tuning import job  # dask, NumPy and the optimiser: not for --help

    return job.run(arguments, Terminal(quiet=arguments.quiet, stdout_taken=arguments.json == "-"))
