"""The job from data to outcome: prepare the data, race the three runs, show and write what came out."""

from __future__ import annotations

import argparse

from graphopt.demo import check, race, summary
from graphopt.demo.descent import Descent, curvature_bound
from graphopt.demo.figure import draw
from graphopt.demo.fusion import fusion
from graphopt.demo.problem import Problem, document
from graphopt.demo.schedulers import running
from graphopt.demo.table import load
from graphopt.report.errors import CommandError
from graphopt.report.files import pyplot, write_json
from graphopt.report.terminal import Terminal

__all__ = ["check_reference", "run"]

ROWS = 1_000_000  # of the document's problem, an eighth of its own so that it fits small machines


def check_reference(terminal: Terminal) -> check.Reference:
    """Check the coefficients on data with a known answer; a CommandError if they are wrong."""
    with terminal.progress("check against scikit-learn", check.REFERENCE_ITERATIONS) as after_each:
        found = check.reference(after_each)
    terminal.say(
        f"Breast cancer, 569 x 30, {check.REFERENCE_ITERATIONS} iterations with graphopt: largest difference to "
        f"scikit-learn's coefficients {found.difference:.1e} "
        f"(they go up to {found.largest:.2f}; allowed is {found.tolerance:.0e})"
    )
    if not found.good:
        raise CommandError(
            f"the coefficients differ from scikit-learn's by {found.difference:.3g}, allowed is {found.tolerance:.0e}",
            status=1,
        )
    return found


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
    """Race the three runs on the data asked for, and show and write everything; the exit status."""
    reference = None
    if arguments.data is None and not arguments.no_check:
        reference = check_reference(terminal)
    with running(arguments.scheduler, arguments.workers) as scheduler:
        problem = _problem(arguments).persisted()
        outcome = _measure(problem, arguments, scheduler, reference, terminal)
        picture = None if arguments.no_plot else fusion(problem, outcome.traces[race.GRAPHOPT].beta)
    summary.print_race(outcome, terminal)
    summary.print_fit(outcome, terminal)
    if arguments.json is not None:
        write_json(arguments.json, summary.to_json(outcome))
    if picture is not None:
        draw(pyplot(), outcome, picture, arguments.output)
        terminal.say(f"Picture: {arguments.output}")
    complaint = outcome.agreement.complaint()
    if complaint is not None:
        raise CommandError(complaint, status=1)
    return 0


def _problem(arguments: argparse.Namespace) -> Problem:
    if arguments.data is not None:
        return load(arguments.data, arguments.target, arguments.drop, arguments.chunks, arguments.l2)
    problem = document(arguments.rows or ROWS, arguments.chunks, arguments.seed)
    problem.penalty[:] = arguments.l2  # it has no intercept
    return problem


def _measure(
    problem: Problem,
    arguments: argparse.Namespace,
    scheduler: str,
    reference: check.Reference | None,
    terminal: Terminal,
) -> summary.Summary:
    """Run everything that needs the scheduler."""
    chunks = problem.chunks()
    descent = Descent(curvature_bound(chunks, problem.penalty), problem.penalty)
    evaluate = race.evaluators(problem, chunks)
    start = descent.start().point
    local = arguments.scheduler != "distributed"
    # counting also warms every run up: imports, pools and caches are not part of an iteration
    tasks_run = {name: race.count_tasks(problem, start, evaluate[name], local) for name in (race.DASK, race.GRAPHOPT)}
    graph, _ = race.user_graph(problem, start)
    graph_tasks = sum(race.is_task(node) for node in dict(graph).values())
    with terminal.progress(f"{arguments.iterations} iterations, three ways", arguments.iterations) as after_each:
        traces = race.race(evaluate, descent, arguments.iterations, after_each)
    return summary.Summary(
        problem=problem,
        scheduler=scheduler,
        traces=traces,
        graph_tasks=graph_tasks,
        tasks_run=tasks_run,
        agreement=check.agreement(traces),
        fit=summary.fit(problem, chunks, traces[race.GRAPHOPT].beta),
        reference=reference,
    )
