"""Options that several commands take: where results go, and numbers that must make sense."""

from __future__ import annotations

import argparse

from graphopt.report.errors import CommandError
from graphopt.report.files import check_writable, pyplot

__all__ = ["add_output", "check_output", "positive", "whole"]


def add_output(parser: argparse.ArgumentParser, *, csv: str, plot: str) -> None:
    """Add the options that say where results go; ``csv`` and ``plot`` say what is written there."""
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="write all figures as JSON; - is standard output")
    output.add_argument("--csv", metavar="FILE", help=f"write {csv} as CSV")
    output.add_argument("--plot", metavar="FILE", help=f"draw {plot}, as .png or .svg; needs matplotlib")
    output.add_argument("--quiet", action="store_true", help="no progress, no tables")


def check_output(arguments: argparse.Namespace) -> None:
    """Raise a CommandError, before a long run, if results cannot be written where they are to go."""
    for path in (arguments.json, arguments.csv, arguments.plot):
        check_writable(path)
    if arguments.plot is not None:
        if not arguments.plot.lower().endswith((".png", ".svg")):
            raise CommandError(f"--plot {arguments.plot}: its name should end in .png or .svg")
        pyplot()


def whole(text: str) -> int:
    """Read a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def positive(text: str) -> float:
    """Read a positive number."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, not {text}")
    return value
