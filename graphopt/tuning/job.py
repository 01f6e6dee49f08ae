"""The job of the command: choose for each target, sweep if asked to, show and write what came out."""

from __future__ import annotations

import argparse
import csv
import warnings
from dataclasses import dataclass, field
from typing import Any

import dask.array as da

import graphopt as go
from graphopt.chunks.executor import executor_of, put
from graphopt.cost import in_units
from graphopt.report.errors import CommandError
from graphopt.report.files import pyplot, write_json
from graphopt.report.schedulers import running
from graphopt.report.targets import on_cluster
from graphopt.report.terminal import Terminal
from graphopt.tuning.figure import draw
from graphopt.tuning.problems import STEPS, prepared
from graphopt.tuning.sweep import sweep

__all__ = ["Outcome", "run"]

STATES = 40  # of the progress bar: some trials, and rounds in which they take turns


@dataclass(frozen=True)
class Outcome:
    """What was chosen for a target, and the seconds of a call on all data by the number of chunks, if they were swept."""

    target: str
    choice: go.Choice
    swept: dict[int, float] = field(default_factory=dict)

    @property
    def regret(self) -> float | None:
        """How much longer a call takes with what was chosen than with the best of the sweep, over the best."""
        took = self.swept.get(self.choice.chosen.count)
        return None if took is None else took / min(self.swept.values()) - 1


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Choose for each target, show and write everything; the exit status."""
    given, name = prepared(arguments)
    outcomes = [_outcome(target, given, arguments, terminal) for target in arguments.target]
    title = f"{arguments.problem}, {name}, {given[0].shape[0]} x {given[0].shape[1]}"
    if arguments.json is not None:
        write_json(arguments.json, {"problem": title, "targets": [_plain(outcome) for outcome in outcomes]})
    if arguments.csv is not None:
        _write_csv(arguments.csv, outcomes)
    if arguments.plot is not None:
        draw(pyplot(), title, outcomes, arguments.plot)
    terminal.say(title)
    for outcome in outcomes:
        terminal.say(f"\n{outcome.choice}")
        if outcome.swept:
            times = ", ".join(f"{count}: {in_units(seconds)}" for count, seconds in outcome.swept.items())
            terminal.say(f"swept, by the number of chunks: {times}")
            terminal.say(f"regret {outcome.regret:.1%}")
    return 0


def _outcome(target: str, given: tuple[Any, ...], arguments: argparse.Namespace, terminal: Terminal) -> Outcome:
    step = STEPS[arguments.problem]
    name = "distributed" if on_cluster(target) else "threads" if target == "compiled" else target
    with running(name, arguments.workers, arguments.address if on_cluster(target) else ""):
        args = _there(given) if on_cluster(target) else given
        call = go.compile(step) if target.startswith("compiled") else step
        options = {"iterations": arguments.iterations, "seconds": arguments.seconds, "memory": arguments.memory}
        with terminal.progress(f"choosing for {target}", STATES) as say:
            try:
                choice = go.auto_chunks(args[0], call, *args[1:], progress=say, **options)
            except ValueError as error:
                raise CommandError(str(error)) from error
        if not arguments.sweep:
            return Outcome(target, choice)
        with terminal.progress(f"sweeping {target}", len(choice.candidates)) as say:
            counts = {candidate.count for candidate in choice.candidates}
            near, worse = sweep(call, args, choice._axes, counts, 10, always=[choice.chosen.count], after_each=say)
            return Outcome(target, choice, dict(sorted({**near, **worse}.items())))


def _there(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put the arrays on the workers of the cluster in use."""
    where = executor_of(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is a lot to send: it is sent once
        return tuple(put(where, [value])[0] if isinstance(value, da.Array) else value for value in given)


def _plain(outcome: Outcome) -> dict[str, Any]:
    swept = {str(count): seconds for count, seconds in outcome.swept.items()}
    return {"target": outcome.target, **outcome.choice.to_dict(), "swept": swept, "regret": outcome.regret}


def _write_csv(path: str, outcomes: list[Outcome]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["target", "chunks", "rows", "bytes", "predicted_s", "measured_s", "swept_s", "held_bytes", "chosen", "present"]
        )
        for outcome in outcomes:
            choice = outcome.choice
            for one in choice.candidates:
                figures = (one.count, one.shape[0], one.nbytes, one.predicted, one.measured, outcome.swept.get(one.count))
                writer.writerow([outcome.target, *figures, one.held, one is choice.chosen, one is choice.present])
