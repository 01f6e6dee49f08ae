"""A pytest plugin that runs somebody else's tests with graphopt on, and writes down how each went.

Loaded by ``conformance.py`` with ``-p conformance_plugin``. It adds three options:

``--graphopt``      every test runs inside ``graphopt.optimized(policy=Policy(strict=True))``; what would be a warning and
                    the unoptimised graph is an error here
``--part K/N``      run the K-th of N fixed parts
``--record FILE``   append one line of JSON for each phase of each test, as it ends

Under pytest-xdist the options reach every worker; the controller alone writes the record, from the reports sent to it.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from typing import IO, Any

import pytest

# How often graphopt was asked to optimise, in this process. A run in which that never happened has shown nothing.
_calls = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this plugin."""
    group = parser.getgroup("conformance")
    group.addoption("--graphopt", action="store_true", help="run every test with graphopt optimising")
    group.addoption("--part", help="K/N: run the K-th of N fixed parts")
    group.addoption("--record", help="file for the outcomes, one line of JSON for each phase of a test")


def pytest_configure(config: pytest.Config) -> None:
    """Set up the recorder, and count the calls of the optimiser."""
    if config.getoption("graphopt"):
        # strict=True leaves graphopt nothing to warn about; if it warns all the same, we want to see it.
        config.addinivalue_line("filterwarnings", "error::graphopt.GraphoptWarning")
        _count_calls()
    is_worker = hasattr(config, "workerinput")
    if config.getoption("record") and not is_worker:
        config.pluginmanager.register(Recorder(config.getoption("record")))


def part_of(test_id: str, parts: int) -> int:
    """Say to which part, counted from 1, a test belongs. It depends on nothing but the test's name.

    Hashing tests, not files, gives every part a sample of every file, so a part takes about its share of the time.
    """
    return zlib.crc32(test_id.encode()) % parts + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop what is not of the part asked for."""
    if not config.getoption("part"):
        return
    part, parts = map(int, config.getoption("part").split("/"))
    keep = [item for item in items if part_of(item.nodeid, parts) == part]
    drop = [item for item in items if part_of(item.nodeid, parts) != part]
    config.hook.pytest_deselected(items=drop)
    items[:] = keep


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Wrap the set-up, call and tear-down of a test in the optimiser."""
    if not item.config.getoption("graphopt"):
        return (yield)
    import graphopt

    with graphopt.optimized(policy=graphopt.Policy(strict=True)):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Attach the number of optimised graphs to the report of a test, which is how it gets to the controller."""
    before = _calls
    try:
        return (yield)
    finally:
        item.user_properties.append(("graphs", _calls - before))


def _count_calls() -> None:
    from graphopt.pipeline import Optimizer

    optimize = Optimizer.__call__

    def counting(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        global _calls
        _calls += 1
        return optimize(self, *args, **kwargs)

    Optimizer.__call__ = counting  # type: ignore[method-assign]


class Recorder:
    """Writes reports to a file as they come, so that a reader can follow the run."""

    def __init__(self, path: str) -> None:
        self.file: IO[str] = open(path, "w", encoding="utf-8")  # noqa: SIM115 (open as long as the session)

    def _write(self, **entry: Any) -> None:
        # The controller can be told of a report while the session is being torn down after an interrupt.
        with contextlib.suppress(ValueError):
            self.file.write(json.dumps(entry) + "\n")
            self.file.flush()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write one phase of one test."""
        self._write(
            id=report.nodeid,
            when=report.when,
            outcome=report.outcome,
            xfail=hasattr(report, "wasxfail"),
            seconds=report.duration,
            graphs=dict(report.user_properties).get("graphs", 0) if report.when == "call" else 0,
            why=str(report.longrepr) if report.outcome == "failed" else "",
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Write a file that could not even be imported: its tests would be missed without a trace."""
        if report.failed:
            self._write(id=report.nodeid, when="collect", outcome="failed", why=str(report.longrepr))

    def pytest_sessionfinish(self) -> None:
        """Close the record."""
        self.file.close()
