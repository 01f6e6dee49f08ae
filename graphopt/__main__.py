"""The command line: ``python -m graphopt COMMAND``.

A command is one module with ``NAME``, ``HELP``, ``configure(parser)`` and ``run(arguments) -> exit status``; adding one
is a file and its name in ``COMMANDS``. Those modules import what is heavy inside ``run``: ``--help`` stays quick.

Exit status: 0 all well; 1 the command ran and found something wrong; 2 it was asked for something it cannot do.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from graphopt.report.errors import CommandError

COMMANDS = ("graphopt.demo.command", "graphopt.report.overhead", "graphopt.report.metg", "graphopt.tuning.command")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line, one sub-parser for each command."""
    parser = argparse.ArgumentParser("python -m graphopt", description="An optimising compiler for dask task graphs.")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(name)
        command = subparsers.add_parser(
            module.NAME,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; what the user can put right is one line, never a traceback."""
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # what a shell reports for a program ended by Ctrl-C


if __name__ == "__main__":  # worker processes import this module again when they start; they must not run it
    sys.exit(main())
