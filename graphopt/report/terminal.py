"""Talking to a terminal: where text goes, and a progress bar that is a plain line where there is no terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Terminal"]

PLAIN_WIDTH = 120  # columns when the output is a file or a pipe: rich would assume 80 and break the tables


def _console(stderr: bool) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if terminal or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


class Terminal:
    """Where the results and the progress of one command go.

    Progress always goes to standard error. Results go to standard output, unless that is taken by ``--json -``
    (``stdout_taken``). ``quiet`` drops both; errors and exit status remain.
    """

    def __init__(self, quiet: bool = False, stdout_taken: bool = False) -> None:
        self.results = _console(stderr=stdout_taken)
        self.log = _console(stderr=True)
        self.results.quiet = self.log.quiet = quiet

    def say(self, text: str) -> None:
        """One paragraph of results. Square brackets are text, not markup: column names have them."""
        self.results.print(text, markup=False)

    def show(self, renderable: object) -> None:
        """A rich table or tree among the results."""
        self.results.print(renderable)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[str], None]]:
        """A progress bar over ``total`` steps; the value is called after each step with a few words on its state.

        On something that is no terminal (a log, CI) the bar is one line: a redrawn bar would fill it with escapes.
        """
        if not self.log.is_terminal:
            self.log.print(f"{what} ...", markup=False)
            yield lambda state: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
        )
        with Progress(*columns, console=self.log, transient=True, disable=self.log.quiet) as bar:
            task = bar.add_task(what, total=total, state="")
            yield lambda state: bar.update(task, advance=1, state=state)
