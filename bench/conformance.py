"""Runs dask's own tests twice, without and with graphopt, and lists what fails only with it. The list must be empty.

    python bench/conformance.py                        # all of dask's array tests, about ten minutes on two cores
    python bench/conformance.py --part 1/3             # a fixed third of them
    python bench/conformance.py -k overlap             # those whose name matches, as in pytest
    python bench/conformance.py dask.bag dask.tests.test_delayed

The tests ship inside the installed dask. With graphopt they run under ``Policy(strict=True)``, where an error of the
optimiser is an error and not a warning. A test that fails with graphopt and passes without is run again both ways
before it is reported: it counts as failing if it fails once more with graphopt and never without; otherwise it is listed
as unsteady.

Exit status: 0 nothing fails with graphopt only; 1 something does; 2 the tests could not be run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).resolve().parent
PLUGIN = "conformance_plugin"
SUITE = "dask.array.tests"
RERUNS = 2  # how often a suspect is run again, each way
MANY = 60  # so many suspects are no accident, and are not run again
PATIENCE = 60  # seconds between signs of life where there is no terminal

#: The versions a kept baseline depends on.
PACKAGES = ("dask", "distributed", "numpy", "scipy", "numba", "pandas", "pyarrow", "scikit-learn", "pytest")

#: Tests that are about the graph which dask's own optimiser makes, not about the values: ours is another graph. Each is
#: exempt by name (without parameters) and with the reason; one that passes after all must leave the table.
_TESTS = "dask/array/tests/"
EXEMPT: dict[str, str] = {
    _TESTS + "test_array_core.py::test_blockwise_fusion": "counts the tasks that dask's fusion leaves; ours leaves fewer",
    _TESTS + "test_creation.py::test_creation_data_producers": "counts the aliases that dask's fusion leaves",
    _TESTS + "test_creation.py::test_from_array_getitem_fused": "looks for the key and the inner graph of dask's fused task",
    _TESTS + "test_optimization.py::test_fuse_getter_with_asarray": "looks for the alias or the data that dask's fusion leaves",
}

GOOD = ("passed", "xfailed", "xpassed")


@dataclass
class Outcome:
    """How one test went: the word pytest has for it, and if it failed, why."""

    word: str = "passed"
    why: str = ""
    seconds: float = 0.0
    graphs: int = 0


@dataclass
class Run:
    """All outcomes of one run of the tests."""

    outcomes: dict[str, Outcome]
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)

    def count(self, word: str) -> int:
        return sum(outcome.word == word for outcome in self.outcomes.values())


class CannotRunError(Exception):
    """pytest itself went wrong: there is nothing to compare."""


Outcomes = Mapping[str, Outcome]


# -- judging -----------------------------------------------------------------------------------------------------------


def outcomes_of(entries: Collection[dict]) -> Run:
    """Reduce the phases that the plugin wrote down to one outcome for each test.

    >>> entry = {"id": "t", "outcome": "passed", "xfail": False, "seconds": 1, "graphs": 0, "why": ""}
    >>> outcomes_of([entry | {"when": "setup"}, entry | {"when": "call", "graphs": 3}]).outcomes
    {'t': Outcome(word='passed', why='', seconds=2.0, graphs=3)}
    """
    run = Run({})
    for entry in entries:
        if entry["when"] == "collect":
            run.broken.append(f"{entry['id']}\n{entry['why']}")
            continue
        outcome = run.outcomes.setdefault(entry["id"], Outcome())
        outcome.seconds += entry["seconds"]
        outcome.graphs += entry["graphs"]
        if entry["outcome"] == "failed":
            outcome.word, outcome.why = "failed", entry["why"]
        elif outcome.word == "passed" and entry["xfail"]:
            outcome.word = "xfailed" if entry["outcome"] == "skipped" else "xpassed"
        elif outcome.word == "passed" and entry["outcome"] == "skipped":
            outcome.word = "skipped"
    return run


def regressions(without: Outcomes, with_: Outcomes) -> list[str]:
    """List the tests that pass (or fail as expected) without graphopt, and with it fail, are skipped or never end.

    >>> ok, bad = Outcome("passed"), Outcome("failed")
    >>> regressions({"a": ok, "b": ok, "c": bad, "d": ok}, {"a": ok, "b": bad, "c": bad})
    ['b', 'd']
    """
    missing = Outcome("missing")
    return [test for test, outcome in without.items() if outcome.word in GOOD and with_.get(test, missing).word not in GOOD]


def exempt(tests: Collection[str], table: Mapping[str, str]) -> list[str]:
    """List those of the tests that the table exempts.

    >>> exempt(["f.py::test_a[1]", "f.py::test_ab"], {"f.py::test_a": "because"})
    ['f.py::test_a[1]']
    """
    return [test for test in tests if test.partition("[")[0] in table]


def stale(without: Outcomes, failing: Collection[str], table: Mapping[str, str]) -> list[str]:
    """List the names in the table whose tests all pass with graphopt now.

    >>> stale({"t[1]": Outcome(), "t[2]": Outcome(), "u": Outcome()}, ["t[2]"], {"t": "", "u": "", "not run": ""})
    ['u']
    """
    run = {test.partition("[")[0] for test in without}
    return [name for name in table if name in run and not exempt(failing, {name: ""})]


# -- running -----------------------------------------------------------------------------------------------------------


def run_tests(options: argparse.Namespace, what: str, tests: Collection[str], *, graphopt: bool) -> Run:
    """Run tests (modules, or ids from an earlier run) in a process of their own, and read what the plugin recorded."""
    name = what.replace(" ", "-")
    record, log = options.logs / f"{name}.jsonl", options.logs / f"{name}.log"
    record.touch()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        PLUGIN,
        "-c",
        str(HERE / "conformance.ini"),
        "--record",
        str(record),
    ]
    # Ids of tests are relative to the root, hence the same on every machine, and so are the parts.
    command += ["--rootdir", str(_root(options.suites)), "-p", "no:cacheprovider", "-p", "no:benchmark"]
    command += ["--graphopt"] if graphopt else []
    command += ["-n", str(options.jobs), "--dist", "worksteal"] if options.jobs > 1 else []
    command += ["--part", options.part] if options.part else []
    command += ["-k", options.keyword] if options.keyword else []
    command += ["--pyargs", *tests]
    path = os.pathsep.join(filter(None, [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH")]))
    # BLAS threads on top of dask's and of several jobs would only fight for the cores.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started = time.monotonic()
    with log.open("w") as out, tempfile.TemporaryDirectory() as scratch:
        process = subprocess.Popen(
            command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            status = _follow(process, record, what)
        finally:
            process.kill()
            process.wait()
    run = outcomes_of([json.loads(line) for line in record.read_text().splitlines()])
    run.seconds = time.monotonic() - started
    if status not in (0, 1) or run.broken:  # neither "all passed" nor "some failed"
        tail = "\n".join([*run.broken, *log.read_text().splitlines()[-30:]])
        raise CannotRunError(f"{what}: pytest ended with status {status}; the end of its output:\n{tail}")
    return run


def _root(suites: Collection[str]) -> Path:
    """Find the folder that the first suite's top package lies in."""
    top = importlib.import_module(next(iter(suites)).split(".")[0])
    return Path(str(top.__file__)).resolve().parent.parent


def _follow(process: subprocess.Popen, record: Path, what: str) -> int:
    """Wait for the process and show how many tests have ended."""
    with _progress(what) as show, record.open() as lines:
        ended = failed = 0
        while True:
            status = process.poll()
            for line in lines:
                ended += '"when": "teardown"' in line
                failed += '"outcome": "failed"' in line
            show(f"{ended} tests, {failed} failed")
            if status is not None:
                return status
            time.sleep(0.3)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[str], None]]:
    """Show progress as a bar, or where there is no terminal as a line now and then."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=None, state="")
            yield lambda state: bar.update(task, state=state)
        return
    last = started = time.monotonic()

    def show(state: str) -> None:
        nonlocal last
        if time.monotonic() - last >= PATIENCE:
            last = time.monotonic()
            print(f"{what}: {state} after {last - started:.0f} s", file=sys.stderr, flush=True)

    yield show


# -- the baseline ------------------------------------------------------------------------------------------------------


def baseline(options: argparse.Namespace) -> Run:
    """Run the tests without graphopt, or take the outcomes from a file that was written for the very same run."""
    file = options.baseline
    key = {"python": platform.python_version(), "machine": platform.platform(), "suites": options.suites}
    key |= {"part": options.part, "keyword": options.keyword} | {name: _version(name) for name in PACKAGES}
    if file and file.exists():
        kept = json.loads(file.read_text())
        if kept["key"] == key:
            return Run({test: Outcome(**outcome) for test, outcome in kept["outcomes"].items()}, kept["seconds"])
    run = run_tests(options, "without graphopt", options.suites, graphopt=False)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        outcomes = {test: asdict(outcome) for test, outcome in run.outcomes.items()}
        file.write_text(json.dumps({"key": key, "seconds": run.seconds, "outcomes": outcomes}))
    return run


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def confirm(options: argparse.Namespace, suspects: list[str]) -> tuple[list[str], list[str]]:
    """Run suspects again, each way, and tell those that fail with graphopt for certain from the unsteady."""
    if not suspects or len(suspects) > MANY:
        return suspects, []
    again = argparse.Namespace(**{**vars(options), "part": None, "keyword": None})
    counts: dict[bool, Counter] = {False: Counter(), True: Counter()}
    for number in range(1, RERUNS + 1):
        for graphopt in (False, True):
            what = f"again {'with' if graphopt else 'without'} graphopt {number}"
            outcomes = run_tests(again, what, [_argument(options, test) for test in suspects], graphopt=graphopt).outcomes
            for test in suspects:
                counts[graphopt][test] += outcomes.get(test, Outcome("missing")).word not in GOOD
    sure = [test for test in suspects if counts[True][test] and not counts[False][test]]
    return sure, [test for test in suspects if test not in sure]


def _argument(options: argparse.Namespace, test: str) -> str:
    """Turn the id of a test, which is relative to the root, into an argument that pytest finds from anywhere."""
    return str(_root(options.suites) / test)


# -- telling -----------------------------------------------------------------------------------------------------------


def report(without: Run, with_: Run, lists: Mapping[str, list[str]]) -> None:
    """Print the counts, then each list of tests with the reasons."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(title=f"dask {_version('dask')}'s own tests")
    table.add_column("")
    for name in ("without graphopt", "with graphopt"):
        table.add_column(name, justify="right")
    for word in ("passed", "failed", "skipped", "xfailed", "xpassed"):
        table.add_row(word, f"{without.count(word):,}", f"{with_.count(word):,}")
    table.add_row("graphs optimised", "", f"{sum(outcome.graphs for outcome in with_.outcomes.values()):,}")
    table.add_row("seconds", f"{without.seconds:.0f}", f"{with_.seconds:.0f}")
    console.print(table)
    for title, tests in lists.items():
        if tests:
            console.print(f"\n{len(tests)} {title}:")
        for test in tests:
            console.print(f"  {test}\n      {_reason(with_.outcomes.get(test), test)}", markup=False, soft_wrap=True)


def _reason(outcome: Outcome | None, test: str) -> str:
    """Say in one line why a test is in a list."""
    if name := test.partition("[")[0] if exempt([test], EXEMPT) else "":
        return EXEMPT[name]
    lines = outcome.why.strip().splitlines() if outcome else ["did not run to its end"]
    return next((line[1:].strip() for line in lines if line.startswith("E ")), lines[-1] if lines else "")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", default=[SUITE], metavar="SUITE", help=f"modules to test (default {SUITE})")
    parser.add_argument("--part", metavar="K/N", help="run the K-th of N fixed parts")
    parser.add_argument("-k", dest="keyword", metavar="EXPRESSION", help="run the tests whose name matches")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes to run tests in (default 2)")
    parser.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="keep the outcomes without graphopt here, and use them if they fit",
    )
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep pytest's output and the outcomes here")
    options = parser.parse_args(argv)
    if options.part is not None:
        part, _, parts = options.part.partition("/")
        if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
            parser.error(f"--part {options.part}: must be K/N with K from 1 to N, such as 1/3")
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run, compare and tell; the exit status."""
    options = _arguments(argv)
    with tempfile.TemporaryDirectory() as scratch:
        options.logs = (options.logs or Path(scratch)).resolve()
        options.logs.mkdir(parents=True, exist_ok=True)
        try:
            without = baseline(options)
            with_ = run_tests(options, "with graphopt", options.suites, graphopt=True)
            if not any(outcome.graphs for outcome in with_.outcomes.values()):
                raise CannotRunError("with graphopt: no test ever called it, so nothing has been shown")
            suspects = regressions(without.outcomes, with_.outcomes)
            about_graphs = exempt(suspects, EXEMPT)
            sure, unsteady = confirm(options, [test for test in suspects if test not in about_graphs])
        except CannotRunError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    needless = [] if options.keyword else stale(without.outcomes, suspects, EXEMPT)
    lists = {
        "about the graph of dask's own optimiser, exempt": about_graphs,
        "unsteady, not counted": unsteady,
        "exempt although they pass (remove them from EXEMPT)": needless,
        "failing with graphopt only": sure,
    }
    report(without, with_, lists)
    if not sure:
        print("\nNothing fails with graphopt that passes without it.")
    return 1 if sure or needless else 0


if __name__ == "__main__":
    sys.exit(main())
