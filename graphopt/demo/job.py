"""The job from data to outcome: prepare the data, race the runs, show and write what came out."""

from __future__ import annotations

import argparse

import graphopt as go
from graphopt.demo import check, race, summary
from graphopt.demo.descent import Descent, curvature_bound, loss_and_gradient
from graphopt.demo.figure import draw
from graphopt.demo.fusion import Fusion, fusion
from graphopt.demo.problem import Problem, document
from graphopt.demo.table import load
from graphopt.report.errors import CommandError
from graphopt.report.files import pyplot, write_json
from graphopt.report.schedulers import running
from graphopt.report.terminal import Terminal

__all__ = ["check_reference", "run"]

ITERATIONS = {"threads": 60, "sync": 60, "processes": 20, "distributed": 20}  # half a minute of dask on two cores
COMPILED_ON = ("threads", "sync", "distributed")  # dask's pools of processes hold no data
ROWS = 1_000_000  # of the document's problem, an eighth of its own so that it fits small machines


def check_reference(terminal: Terminal) -> check.Reference:
    """Check the coefficients on data with a known answer; a CommandError if they are wrong."""
    with terminal.progress("check against scikit-learn", check.REFERENCE_ITERATIONS) as after_each:
        found = check.reference(after_each)
    terminal.say(
        f"Breast cancer, 569 x 30, {check.REFERENCE_ITERATIONS} iterations with graphopt, also compiled: "
        f"largest difference to "
        f"scikit-learn's coefficients {found.difference:.1e} "
        f"(they go up to {found.largest:.2f}; allowed is {found.tolerance:.0e})"
    )
    if not found.good:
        raise CommandError(
            f"the coefficients differ from scikit-learn's by {found.difference:.3g}, allowed is {found.tolerance:.0e}",
            status=1,
        )
    return found


def run(arguments: argparse.Namespace, terminal: Terminal, output: str | None) -> int:
    """Race the runs, show and write everything, the picture to ``output`` if any; the exit status."""
    reference = None
    if arguments.data is None and not arguments.no_check:
        reference = check_reference(terminal)
    with running(arguments.scheduler, arguments.workers, arguments.cluster or "") as scheduler:
        problem = _problem(arguments).persisted()
        step = go.compile(loss_and_gradient) if arguments.scheduler in COMPILED_ON else None
        outcome = _measure(problem, step, arguments, scheduler, reference, terminal)
        plan = None if step is None else step.plan(problem.X, problem.y, outcome.beta)
        picture = None if output is None else fusion(problem, outcome.beta, plan)
    # files first: a reader of the tables that hangs up, such as head, ends the program
    if arguments.json is not None:
        write_json(arguments.json, summary.to_json(outcome))
    drawn = output is not None and picture is not None and _draw(outcome, picture, output, terminal)
    summary.print_race(outcome, terminal)
    summary.print_fit(outcome, terminal)
    if drawn:
        terminal.say(f"Picture: {output}")
    complaint = outcome.agreement.complaint()
    if complaint is not None:
        raise CommandError(complaint, status=1)
    return 0


def _draw(outcome: summary.Summary, picture: Fusion, output: str, terminal: Terminal) -> bool:
    """Write the picture and say whether that was done; without matplotlib the job goes on."""
    try:
        plots = pyplot()
    except CommandError as error:
        terminal.log.print(f"no picture: {error}", markup=False)
        return False
    draw(plots, outcome, picture, output)
    return True


def _problem(arguments: argparse.Namespace) -> Problem:
    if arguments.data is not None:
        return load(arguments.data, arguments.target, arguments.drop, arguments.chunks, arguments.l2)
    return document(arguments.rows or ROWS, arguments.chunks, arguments.l2, arguments.seed)


def _measure(
    problem: Problem,
    step: go.Compiled | None,
    arguments: argparse.Namespace,
    scheduler: str,
    reference: check.Reference | None,
    terminal: Terminal,
) -> summary.Summary:
    """Run everything that needs the scheduler."""
    chunks = problem.chunks()
    descent = Descent(curvature_bound(chunks, problem.penalty), problem.penalty)
    evaluate = race.evaluators(problem, chunks, step)
    start = descent.start().point
    local = arguments.scheduler != "distributed"
    # counting also warms every run up: imports, pools and caches are not part of an iteration
    tasks_run = {name: race.count_tasks(problem, start, evaluate[name], local) for name in (race.DASK, race.GRAPHOPT)}
    compilation = None if step is None else race.compilation(problem, start, step)
    iterations = arguments.iterations or ITERATIONS[arguments.scheduler]
    with terminal.progress(f"{iterations} iterations, {len(evaluate)} ways", iterations) as after_each:
        traces = race.race(evaluate, descent, iterations, after_each)
    return summary.Summary(
        problem=problem,
        scheduler=scheduler,
        traces=traces,
        graph_tasks=race.graph_tasks(problem, start),
        tasks_run=tasks_run,
        compilation=compilation,
        agreement=check.agreement(traces, problem.X.shape[0]),
        fit=summary.fit(problem, chunks, summary.result(traces).beta),
        reference=reference,
    )
