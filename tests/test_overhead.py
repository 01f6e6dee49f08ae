"""Measuring overhead: exact where the costs are known, counted where tasks are real, bounded by a clock that we turn."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
import rich.progress  # which takes its console from there, too
from dask.callbacks import Callback
from rich.console import Console

import graphopt as go
from graphopt import overhead
from graphopt.__main__ import main
from graphopt.cost import COSTS, in_units
from graphopt.overhead import plans, schedulers
from graphopt.overhead.fit import bootstrapped, fitted, spread
from graphopt.overhead.probe import Probe, empty_tasks

NAMES = [name for name, _, _ in COSTS]
KNOWN = {"iteration": 2e-3, "task": 5e-5, "edge": 8e-6, "byte": 3e-10, "build": 4e-6, "optimize": 1e-5}


@pytest.fixture
def cost() -> go.Overhead:
    """An overhead of known numbers."""
    spreads = {name: go.Spread(seconds, 0.9 * seconds, 1.2 * seconds) for name, seconds in KNOWN.items()}
    versions = (("python", "3.11.7"), ("dask", "2026.8.0"), ("distributed", "2026.8.0"), ("numpy", "2.4.6"))
    return go.Overhead(
        "threads",
        **spreads,
        workers=1,
        threads=2,
        cores=2,
        machine="A processor of some sort, Linux",
        versions=versions,
        when="2026-01-02T03:04:05",
        seconds=12.3,
        rounds=17,
        misfit=0.04,
    )


# -- the value ---------------------------------------------------------------------------------------------------------


def test_it_predicts(cost: go.Overhead) -> None:
    assert cost.of() == pytest.approx(2e-3)
    assert cost.of(tasks=100, edges=50, iterations=10, bytes=1e6) == pytest.approx(2e-2 + 5e-3 + 4e-4 + 3e-4)
    assert cost.of(iterations=0, built=1_000) == pytest.approx(1.4e-2)


@pytest.mark.parametrize("name", ["tasks", "edges", "iterations", "bytes", "built"])
def test_a_negative_number_is_refused(cost: go.Overhead, name: str) -> None:
    for value in (-1, float("nan")):
        with pytest.raises(ValueError, match=rf"of\({name}="):
            cost.of(**{name: value})


def test_it_is_frozen_and_hashable(cost: go.Overhead) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        cost.task = cost.edge  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        cost.task.median = 0.0  # type: ignore[misc]
    assert hash(cost) == hash(dataclasses.replace(cost))


def test_json_and_back(cost: go.Overhead) -> None:
    assert go.Overhead.from_json(cost.to_json()) == cost
    assert json.loads(cost.to_json())["versions"]["dask"] == "2026.8.0"
    odd = dataclasses.replace(cost, task=go.Spread(0.1 + 0.2, 1 / 3 - 1 / 9, 1e300))  # to the last bit
    assert go.Overhead.from_json(odd.to_json()) == odd


@pytest.mark.parametrize(
    "spoil", [lambda d: d.pop("task"), lambda d: d.update(more=1), lambda d: d.update(task=3), lambda d: d.update(versions=3)]
)
def test_other_json_is_refused(cost: go.Overhead, spoil: Callable[[dict[str, Any]], Any]) -> None:
    found = json.loads(cost.to_json())
    spoil(found)
    with pytest.raises(ValueError, match="not that of an Overhead"):
        go.Overhead.from_json(json.dumps(found))


def test_no_json_at_all_is_refused() -> None:
    for text in ("[]", "3", "nonsense"):
        with pytest.raises(ValueError):
            go.Overhead.from_json(text)


def test_it_prints_in_60_columns_and_in_a_notebook(cost: go.Overhead) -> None:
    cluster = dataclasses.replace(cost, target="compiled plans on a cluster", workers=200, threads=3200)
    for one in (cost, cluster):
        lines = str(one).splitlines()
        assert max(map(len, lines)) <= 60
        assert "\x1b" not in str(one)
        assert repr(one) == str(one)
    assert "2 ms  (1.8 ms to 2.4 ms)" in str(cost)
    assert "50 µs" in str(cost)
    assert "315 µs" in str(cost)  # a MiB
    html = dataclasses.replace(cost, machine="<A & B>")._repr_html_()
    assert "<table>" in html
    assert "&lt;A &amp; B&gt;" in html


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ns"),
        (1.0, "1 s"),
        (0.9999, "1 s"),
        (0.0999, "99.9 ms"),
        (0.1234, "123 ms"),
        (123.4, "123 s"),
        (9.996e-7, "1 µs"),
        (1e-15, "0 ns"),
        (2.5e-10, "0.25 ns"),
        (-2e-3, "-2 ms"),
    ],
)
def test_units(seconds: float, text: str) -> None:
    assert in_units(seconds) == text


def test_a_spread_is_in_order() -> None:
    with pytest.raises(ValueError):
        go.Spread(1.0, 2.0, 3.0)
    assert go.Spread(2.0, 1.0, 3.0).times(2) == go.Spread(4.0, 2.0, 6.0)


# -- the fit -----------------------------------------------------------------------------------------------------------


def test_the_fit_finds_what_times_are_made_of() -> None:
    counts = np.array([[1, 1, 0, 0], [1, 64, 0, 0], [1, 256, 0, 0], [1, 256, 192, 0], [1, 256, 1536, 0], [1, 2, 1, 1e6]])
    costs = np.array([2e-3, 5e-5, 8e-6, 3e-10])
    np.testing.assert_allclose(fitted(counts, counts @ costs), costs, rtol=1e-9)
    free = np.array([2e-3, 5e-5, 0.0, 0.0])  # a cost of nothing is nothing, never less
    assert (fitted(counts, counts @ free * np.array([1, 1, 1, 0.98, 1, 0.9])) >= 0).all()


def test_the_interval_holds_the_cost_and_narrows() -> None:
    rng = np.random.default_rng(0)
    counts = np.array([[1.0, 1.0], [1.0, 50.0], [1.0, 200.0]])
    exact = counts @ [1e-3, 1e-5]
    widths = []
    for number in (7, 200):
        samples = [time * rng.lognormal(sigma=0.05, size=number) for time in exact]
        samples[0][0] *= 50  # an outlier does not matter
        found = spread(bootstrapped(counts, samples)[:, 1])
        assert found.low < 1e-5 < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 2


# -- the measuring, with a clock of ours -------------------------------------------------------------------------------


class Clock:
    """A clock that stands still unless it is turned."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Made:
    """A subject whose every call takes exactly what the known costs say, or about that."""

    target, workers, threads = "made up", 1, 1
    least, most, warm = 16, 1024, 1

    def __init__(self, clock: Clock, noise: float = 0.0, slower: float = 1.0, seed: int = 0) -> None:
        self.clock, self.noise, self.slower = clock, noise, slower
        self.rng = np.random.default_rng(seed)
        self.ran: Counter[str] = Counter()
        self.sizes: list[int] = []

    def probes(self, tasks: int) -> list[Probe]:
        self.sizes.append(tasks)
        shapes = [(name, n, 3 * n // 4 * degree, 0) for name, n, degree in empty_tasks(tasks)]
        return [
            Probe(name, lambda name=name, c=c: partial(self.call, name, *c), lambda result: result == 42, 1, *c)
            for name, *c in [*shapes, ("bytes", 2, 1, 1 << 20)]
        ]

    def call(self, name: str, tasks: int, edges: int, moved: int) -> int:
        self.ran[name] += 1
        seconds = KNOWN["iteration"] + KNOWN["task"] * tasks + KNOWN["edge"] * edges + KNOWN["byte"] * moved
        self.clock.now += self.slower * seconds * self.rng.lognormal(sigma=self.noise)
        return 42

    def phases(self, tasks: int) -> tuple[float, float]:
        self.clock.now += tasks * (KNOWN["build"] + KNOWN["optimize"])
        return KNOWN["build"], KNOWN["optimize"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(overhead, "_clock", clock)
    return clock


def measure(subject: Made, seconds: float) -> tuple[dict[str, go.Spread], float, int]:
    return overhead._measured(subject, subject.clock(), seconds, lambda spent: None)


def test_known_costs_are_found_and_it_stops_when_they_are_sure(clock: Clock) -> None:
    subject = Made(clock)
    costs, misfit, rounds = measure(subject, 20.0)
    for name, seconds in KNOWN.items():
        assert costs[name].median == pytest.approx(seconds, rel=1e-6), name
    assert misfit < 1e-6
    assert rounds == 6
    assert clock.now < 10
    assert subject.sizes == [16, 64, 256, 1024]


@pytest.mark.parametrize("seconds", [1.0, 5.0, 20.0])
def test_noise_takes_all_the_time_and_no_more(clock: Clock, seconds: float) -> None:
    *_, rounds = measure(Made(clock, noise=0.3), seconds)
    assert rounds > 6
    assert 0.8 * seconds < clock.now <= 1.05 * seconds


def test_nine_in_ten_intervals_hold_the_cost(clock: Clock) -> None:
    runs = 30
    found = [measure(Made(clock, noise=0.3, seed=seed), 4.0)[0]["task"] for seed in range(runs)]
    assert sum(one.low <= KNOWN["task"] <= one.high for one in found) >= 0.8 * runs
    assert np.median([one.median for one in found]) == pytest.approx(KNOWN["task"], rel=0.05)


def test_what_is_slow_is_measured_with_fewer_tasks_and_three_times_at_least(clock: Clock) -> None:
    subject = Made(clock, slower=1_000)
    *_, rounds = measure(subject, 1.0)
    assert rounds == 3
    assert subject.sizes == [16]
    assert set(subject.ran.values()) == {3}  # one to warm up; what takes more than a third of the time alone runs twice


def test_a_wrong_result_is_an_error(clock: Clock) -> None:
    subject = Made(clock)
    subject.call = lambda *_: 41  # type: ignore[method-assign]
    with pytest.raises(go.GraphoptError, match="wrong result for few tasks: 41"):
        measure(subject, 1.0)


# -- what is run is what is counted ------------------------------------------------------------------------------------


class Tasks(Callback):
    """Counts what a local scheduler runs: tasks, and what they depend on."""

    def __init__(self) -> None:
        self.tasks = self.edges = 0

    def _start_state(self, dsk: Any, state: Any) -> None:
        self.edges += sum(map(len, state["dependencies"].values()))

    def _posttask(self, *_: Any) -> None:
        self.tasks += 1


@pytest.mark.parametrize("target", ["sync", "threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_tasks_and_dependencies_are_as_many_as_are_counted(target: str) -> None:
    with overhead._opened(target) as subject:
        probes = subject.probes(64)
        assert [probe.tasks for probe in probes[:7]] == [1, 17, 65, 65, 65, 65, 65]  # and one that adds up
        assert [probe.edges for probe in probes[:7]] == [0, 16, 64, 64, 112, 208, 400]
        assert any(probe.moved for probe in probes)
        for probe in probes:
            call = probe.prepare()
            with Tasks() as found:
                assert probe.right(call())
            assert (found.tasks, found.edges) == (probe.tasks, probe.edges), probe.name


def test_a_cluster_runs_as_many_tasks(client: distributed.Client) -> None:
    with schedulers.on_client(client) as subject:
        assert (subject.workers, subject.threads) == (2, 2)
        probes = [probe for probe in subject.probes(16) if probe.moved < 2 << 20]
        with distributed.get_task_stream(client=client, plot=False) as stream:
            for probe in probes:
                assert probe.right(probe.prepare()())
        places = {record["key"]: record["worker"] for record in stream.data if isinstance(record["key"], str)}
    assert len(stream.data) == sum(probe.tasks for probe in probes)
    moved = [places[key] for key in places if key.startswith("make-")] + [
        places[key] for key in places if key.startswith("read-")
    ]
    assert len(set(moved)) == 2  # from one worker to the other


def test_one_worker_sends_to_the_client() -> None:
    ran = []
    scheduler = schedulers.Scheduler(
        "one", lambda graph, keys: ran.append(graph), workers=1, threads=1, sizes=(1 << 20,), across=("tcp://a:1",)
    )
    made, fetched = scheduler.probes(16)[-2:]
    assert (made.moved, fetched.moved, fetched.made, fetched.edges) == (0, 1 << 20, 1 << 20, 0)
    assert fetched.right([np.ones(1 << 20, "u1")])
    assert not fetched.right([np.ones(1 << 19, "u1")])
    fetched.prepare()()
    assert [layer.annotations["workers"] for layer in ran[0].layers.values()] == [["tcp://a:1"]]


@pytest.mark.parametrize("where", ["here", "cluster"])
def test_plans_make_as_many_calls(where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "cluster":
        request.getfixturevalue("client")
    calls: list[int] = []
    kernel = plans._empty_kernel

    def counted(first: Any, *others: Any) -> Any:
        calls.append(1 + len(others))
        return first

    monkeypatch.setattr(plans, "_empty_kernel", counted if where == "here" else kernel)
    with plans.on_plans("compiled") as subject:
        probes = subject.probes(16)
        for probe in probes if where == "here" else probes[::3]:
            for _ in range(2):
                assert probe.right(probe.prepare()())
            calls.clear()
            assert probe.right(probe.prepare()())
            if where == "here":
                lanes, edges = len(calls), sum(calls)
                final = (1, lanes) if lanes > 1 else (0, 0)  # one call adds up what the others made
                assert (probe.tasks, probe.edges) == (lanes + final[0], edges + final[1]), probe.name
        stats = [step.stats for step in subject.steps if step.stats.calls]
    on_cluster = 3 if where == "cluster" else 0
    assert {(one.calls, one.on_cluster, one.by_dask, one.traces) for one in stats} == {(3, on_cluster, 0, 1)}


def test_building_and_optimising_are_timed() -> None:
    for target in ("sync", "compiled"):
        with overhead._opened(target) as subject:
            assert all(0 < seconds < 1 for seconds in subject.phases(32))


# -- the whole of it ---------------------------------------------------------------------------------------------------


def check(cost: go.Overhead, target: str, workers: int, threads: int) -> None:
    assert (cost.target, cost.workers, cost.threads) == (target, workers, threads)
    for name in NAMES:
        one = getattr(cost, name)
        assert 0 <= one.low <= one.median <= one.high < 60, name
    assert cost.task.high + cost.edge.high > 0  # on a busy machine a short run may lay all to one of them
    assert cost.iteration.median > 0
    assert cost.build.median > 0
    assert cost.rounds >= 3
    assert {"python", "dask", "distributed", "numpy"} <= dict(cost.versions).keys()
    assert cost.machine
    assert cost.cores >= 1
    assert cost.when[:2] == "20"
    assert go.Overhead.from_json(cost.to_json()) == cost


@pytest.mark.parametrize(("target", "threads"), [("sync", 1), ("threads", 3), ("compiled", 3)])
def test_here(target: str, threads: int) -> None:
    with dask.config.set(num_workers=3):
        cost = go.measure_overhead(target, seconds=0.3)
    check(cost, "compiled plans" if target == "compiled" else target, 1, threads)


def test_processes() -> None:
    with dask.config.set(num_workers=1):
        cost = go.measure_overhead("processes", seconds=0.3)
    check(cost, "processes", 1, 1)
    assert cost.iteration.median > 10 * cost.task.median  # a process is started for each call


def test_a_pool_that_is_configured_is_used() -> None:
    with (
        ThreadPoolExecutor(2) as pool,
        dask.config.set(pool=pool),
        overhead._opened("processes") as subject,
    ):
        assert (subject.workers, subject.first) == (2, None)
        assert all(probe.right(probe.prepare()()) for probe in subject.probes(16))


def test_a_client(client: distributed.Client) -> None:
    check(go.measure_overhead(client, seconds=0.5), "distributed", 2, 2)


def test_plans_on_a_cluster(client: distributed.Client) -> None:
    check(go.measure_overhead("compiled", seconds=0.5), "compiled plans on a cluster", 2, 2)


def test_a_plan_and_a_compiled_function_say_where_they_run() -> None:
    X = da.ones((8, 2), chunks=(2, 2)).persist(scheduler="sync")
    step = go.compile(lambda X: X.sum(), policy=go.Policy(parallelism=5))
    check(go.measure_overhead(step, seconds=0.2), "compiled plans", 1, 5)
    with dask.config.set(num_workers=2):
        check(go.measure_overhead(step.plan(X), seconds=0.2), "compiled plans", 1, 2)
    assert step.stats.calls == 0


@pytest.mark.parametrize(("wanted", "terminal"), [(True, True), (True, False), (False, True)])
def test_a_bar_is_for_terminals(wanted: bool, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(rich.console, "Console", lambda stderr: Console(file=out, force_terminal=terminal, width=60))
    with overhead._bar(5.0, wanted) as bar:
        bar(2.5)
    assert ("measuring overhead" in out.getvalue()) == (wanted and terminal)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["thread", 3, None, np.ones(3), ["sync"], print])
def test_an_unknown_target_is_told_what_there_is(target: Any) -> None:
    with pytest.raises(ValueError, match=r"'sync', 'threads', 'processes', 'compiled', a distributed\.Client"):
        go.measure_overhead(target)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), "3"])
def test_seconds_are_positive(seconds: Any) -> None:
    with pytest.raises(ValueError, match="seconds="):
        go.measure_overhead("sync", seconds=seconds)


def test_a_closed_client_is_refused(cluster: distributed.LocalCluster) -> None:
    with distributed.Client(cluster, set_as_default=False) as client:
        pass
    with pytest.raises(go.ClusterError, match="the client is closed"):
        go.measure_overhead(client, seconds=0.1)


class Odd:
    """As much of a client as is looked at."""

    status, asynchronous = "running", False

    def scheduler_info(self, n_workers: int = 5) -> dict[str, Any]:
        return {"workers": {}}

    def scatter(self) -> None:
        raise AssertionError


def test_an_asynchronous_client_and_one_without_workers_are_refused() -> None:
    with pytest.raises(go.ClusterError, match="no workers"):
        go.measure_overhead(Odd())
    client = Odd()
    client.asynchronous = True
    with pytest.raises(ValueError, match="asynchronous"):
        go.measure_overhead(client)


def test_a_plan_of_a_cluster_that_is_not_active_is_refused(client: distributed.Client) -> None:
    X = client.persist(da.ones((4, 2), chunks=(2, 2)))
    plan = go.compile(lambda X: X.sum()).plan(X)
    with dask.config.set(scheduler="threads"), pytest.raises(go.ClusterError, match="not active"):
        go.measure_overhead(plan, seconds=0.1)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(cost: go.Overhead, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Let the command measure in no time; the value lists what it measured."""
    asked: list[Any] = []

    def known(target: Any, *, seconds: float, progress: bool) -> go.Overhead:
        asked.append(target)
        return dataclasses.replace(cost, byte=go.Spread(0.0, 0.0, 0.0)) if target == "sync" else cost

    monkeypatch.setattr(overhead, "measure_overhead", known)
    return asked


def test_the_command_writes_json_csv_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / name) for name in ("o.json", "o.csv", "o.svg")]
    options = ["--target", "sync", "threads", "--seconds", "0.2"]
    assert main(["overhead", *options, "--json", paths[0], "--csv", paths[1], "--plot", paths[2]]) == 0
    found = json.loads(Path(paths[0]).read_text())
    assert list(found) == ["sync", "threads"]
    costs = {target: go.Overhead.from_json(json.dumps(value)) for target, value in found.items()}
    rows = list(csv.DictReader(Path(paths[1]).read_text().splitlines()))
    assert [(row["target"], row["cost"]) for row in rows] == [(target, name) for target in found for name in NAMES]
    assert all(float(row["median_s"]) == getattr(costs[row["target"]], row["cost"]).median for row in rows)
    svg = Path(paths[2]).read_text()
    assert "<svg" in svg
    assert ">threads<" in svg
    out, err = capsys.readouterr()
    assert "a dependency" in out
    assert "measuring sync ..." in err


def test_the_command_fits_60_columns(
    quick: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["overhead"]) == 0
    side_by_side = capsys.readouterr().out
    assert ["sync", "threads", "compiled"] in [line.split() for line in side_by_side.splitlines()]
    assert main(["overhead", "--target", "sync", "threads", "processes", "compiled"]) == 0
    one_by_one = capsys.readouterr().out
    assert one_by_one.count("a dependency") == 4
    for out in (side_by_side, one_by_one):
        assert max(map(len, out.splitlines())) <= 60
        assert "\x1b" not in out
    assert quick == ["sync", "threads", "compiled", "sync", "threads", "processes", "compiled"]


def test_json_to_standard_output_is_nothing_but_json(quick: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["overhead", "--target", "sync", "--target", "sync", "--json", "-", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert list(json.loads(out)) == ["sync"]
    assert not err


def test_the_picture_is_drawn_with_costs_of_nothing(quick: list[Any], tmp_path: Path) -> None:
    every = ["sync", "threads", "processes", "compiled"]
    assert main(["overhead", "--target", *every, "--quiet", "--plot", str(tmp_path / "o.png")]) == 0
    assert (tmp_path / "o.png").read_bytes()[:4] == b"\x89PNG"


def test_a_cluster_at_an_address(cluster: distributed.LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "o.json"
    assert (
        main(
            [
                "overhead",
                "--target",
                "cluster",
                "--address",
                cluster.scheduler_address,
                "--seconds",
                "0.5",
                "--json",
                str(path),
                "--quiet",
            ]
        )
        == 0
    )
    (found,) = json.loads(path.read_text()).values()
    assert found["target"] == "distributed"
    assert found["workers"] == 2


@pytest.mark.slow
def test_a_cluster_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "o.json"
    options = ["--seconds", "0.5", "--json", str(path), "--quiet"]
    assert main(["overhead", "--target", "cluster", "compiled-cluster", *options]) == 0
    found = json.loads(path.read_text())
    assert [value["target"] for value in found.values()] == ["distributed", "compiled plans on a cluster"]
    assert [value["threads"] for value in found.values()] == [2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address", "tcp://127.0.0.1:1"], "go with --target cluster"),
        (["--target", "cluster", "--address", "tcp://127.0.0.1:1"], "no dask scheduler answers at tcp://127.0.0.1:1"),
        (["--plot", "o.pdf"], "should end in .png or .svg"),
        (["--json", "nowhere/o.json"], "there is no directory"),
        (["--csv", "nowhere/o.csv"], "there is no directory"),
    ],
)
def test_what_cannot_be_done_is_said(
    options: list[str], message: str, quick: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if "tcp" in options[-1]:
        client = distributed.Client
        monkeypatch.setattr(distributed, "Client", lambda address, **options: client(address, **{**options, "timeout": "0.5s"}))
    assert main(["overhead", *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not quick


@pytest.mark.parametrize("seconds", ["0", "-3", "nan", "many"])
def test_seconds_of_the_command_are_positive(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["overhead", "--seconds", seconds])
    assert "--seconds" in capsys.readouterr().err
