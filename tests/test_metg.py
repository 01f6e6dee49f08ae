"""METG: the patterns of Task Bench, values on all targets, the curve, the sweep, and the command line."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import distributed
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphopt as go
from graphopt.__main__ import main
from graphopt.cost import in_units
from graphopt.granularity import Granularity
from graphopt.granularity.kernel import busy
from graphopt.granularity.patterns import PATTERNS, Pattern
from graphopt.granularity.sweep import Sample, crossing, sweep
from graphopt.granularity.targets import opened, reference

grids = st.builds(
    Pattern,
    st.sampled_from(PATTERNS),
    width=st.integers(1, 20),
    steps=st.integers(1, 12),
    radix=st.integers(1, 9),
    period=st.integers(1, 5),
    seed=st.integers(0, 5),
)


def relation(grid: Pattern, step: int) -> list[tuple[int, ...]]:
    return [grid.reads(step, point) for point in range(grid.points(step))]


# -- patterns ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("trivial", 3, [()] * 6),
        ("stencil_1d", 1, [(0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5)]),
        ("fft", 1, [(0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5)]),
        ("fft", 2, [(0, 2), (1, 3), (0, 2, 4), (1, 3, 5), (2, 4), (3, 5)]),
        ("fft", 3, [(0, 4), (1, 5), (2,), (3,), (0, 4), (1, 5)]),
        ("fft", 4, [(0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5)]),
        ("tree", 1, [(0,), (0,)]),
        ("tree", 2, [(0,), (0,), (1,), (1,)]),
        ("tree", 3, [(0,), (0,), (1,), (1,), (2,), (2,)]),
        ("tree", 9, [(0,), (0,), (1,), (1,), (2,), (2,)]),
        ("nearest", 1, [(0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4, 5), (2, 3, 4, 5), (3, 4, 5)]),
        ("spread", 3, [(0, 2, 4), (1, 3, 5), (0, 2, 4), (1, 3, 5), (0, 2, 4), (1, 3, 5)]),
        ("spread", 1, [(0, 3, 5), (0, 1, 4), (1, 2, 5), (0, 2, 3), (1, 3, 4), (2, 4, 5)]),
        ("all_to_all", 1, [(0, 1, 2, 3, 4, 5)] * 6),
    ],
)
def test_what_tasks_read(name: str, step: int, expected: list[tuple[int, ...]]) -> None:
    assert relation(Pattern(name, 6, 10, radix=3 if name == "spread" else 5), step) == expected


@given(grids, st.data())
def test_reads_are_within_the_row_before(grid: Pattern, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, grid.steps - 1))
    for reads in relation(grid, step):
        assert list(reads) == sorted(set(reads))
        assert set(reads) <= set(range(grid.points(step - 1))) if step else not reads
    assert relation(grid, step) == relation(
        Pattern(grid.name, grid.width, grid.steps, grid.radix, grid.period, grid.seed), step
    )


@given(grids, st.data())
def test_neighbours_read_each_other(grid: Pattern, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, grid.steps - 1))
    found = relation(grid, step)
    if grid.name in ("stencil_1d", "fft", "all_to_all"):
        assert all([point in found[other] for point, reads in enumerate(found) for other in reads])
    if grid.name in ("stencil_1d", "fft", "nearest", "spread", "random_nearest", "all_to_all") and step:
        assert all([point in reads for point, reads in enumerate(found)])
    if grid.name == "random_nearest" and step:
        near = relation(Pattern("nearest", grid.width, grid.steps, grid.radix), step)
        assert all([set(some) <= set(all_) for some, all_ in zip(found, near, strict=True)])
    if grid.name == "tree":
        assert len(found) == min(grid.width, 2**step)


@given(grids)
def test_counts(grid: Pattern) -> None:
    rows = [relation(grid, step) for step in range(grid.steps)]
    assert grid.tasks == sum(map(len, rows))
    assert grid.dependencies == sum(len(reads) for row in rows for reads in row)
    read = {(step - 1, other) for step, row in enumerate(rows) for reads in row for other in reads}
    assert set(grid.unread) == {(step, point) for step, row in enumerate(rows) for point in range(len(row))} - read
    assert [step for step, _ in grid.unread[-grid.points(grid.steps - 1) :]] == [grid.steps - 1] * grid.points(grid.steps - 1)


def test_draws_depend_on_the_seed() -> None:
    found = [relation(Pattern("random_nearest", 40, 4, seed=seed), 1) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"name": "ring"}, "no pattern 'ring'"), ({"name": "fft", "width": 0}, "width"), ({"name": "fft", "steps": 0}, "steps")],
)
def test_patterns_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pattern(**options)


# -- values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATTERNS)
def test_the_reference_follows_every_read(name: str) -> None:
    """Another value anywhere is another value in the end: no task is left out, none is read by mistake."""
    grid = Pattern(name, 8, 6)
    assert len(reference(grid)) == len(grid.unread)
    assert reference(grid) == reference(grid) != reference(grid, 2)
    assert len(set(reference(grid))) == len(grid.unread)


@pytest.mark.parametrize("target", ["sync", "threads", "compiled"])
@pytest.mark.parametrize("name", PATTERNS)
def test_values_here(name: str, target: str) -> None:
    grid = Pattern(name, 6, 7)
    with opened(target, grid) as ready:
        for turns in (0, 10, 0):
            assert list(ready.run(turns)) == reference(grid, ready.grids)
        assert ready.pace(1000) > 0


@pytest.mark.slow
def test_values_of_processes() -> None:
    grid = Pattern("stencil_1d", 4, 3)
    with opened("processes", grid) as ready:
        assert list(ready.run(10)) == reference(grid)
        assert ready.pace(1000) > 0


@pytest.mark.parametrize("name", PATTERNS)
def test_values_on_a_cluster(name: str, client: distributed.Client) -> None:
    grid = Pattern(name, 4, 4)
    with opened(client, grid) as ready:
        assert list(ready.run(10)) == reference(grid)
        assert ready.cores == 2
    with opened("compiled", grid, client) as ready:
        for turns in (0, 10):
            assert list(ready.run(turns)) == reference(grid, ready.grids)
        assert ready.pace(1000) > 0


def test_compiled_stays_here_while_a_client_is_active(client: distributed.Client) -> None:
    grid = Pattern("fft", 4, 4)
    with opened("compiled", grid) as ready:
        assert list(ready.run(10)) == reference(grid)
        assert "threads" in ready.words


def test_the_kernel_cannot_be_shortened() -> None:
    text = busy.inspect_llvm(busy.signatures[0])
    assert text.count("lshr") >= 1  # the shift of each turn is still there
    assert [busy(turns, 5) for turns in (0, 1, 1000)] == [5, 5, 5]


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("gpu", {}, "no target 'gpu'"),
        (3, {}, "or a distributed client, not 3"),
        ("threads", {"client": 3}, "client= goes with"),
        ("sync", {"efficiency": 1.5}, "efficiency must be"),
        ("sync", {"seconds": 0}, "seconds must be"),
        ("sync", {"width": 0}, "width must be"),
    ],
)
def test_requests_that_cannot_be_met(target: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        go.metg("fft", target, **options)


def test_wrong_values_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["graphopt.granularity"], "reference", lambda pattern, grids: [0] * len(pattern.unread))
    with pytest.raises(ArithmeticError, match="computed 3 of 3 values wrong"):
        go.metg("stencil_1d", "sync", width=3, steps=2, seconds=0.1)


# -- the curve -----------------------------------------------------------------------------------------------------------


def overhead(microseconds: float) -> Any:
    """Return the efficiency of a scheduler with so much overhead a task."""
    return lambda duration: duration / (duration + microseconds * 1e-6)


def test_the_crossing_of_a_monotone_curve() -> None:
    half = overhead(10)
    assert crossing([(d * 1e-6, half(d * 1e-6)) for d in (5, 20, 80)], 0.5) == pytest.approx(10e-6)
    assert crossing([(d * 1e-6, half(d * 1e-6)) for d in (2.5, 90)], 0.9) == pytest.approx(90e-6)


def test_the_crossing_of_a_noisy_curve() -> None:
    """One bad moment among long tasks, one lucky one among short: the monotone curve nearest to all counts."""
    clean = [(100.0, 0.9), (50.0, 0.8), (25.0, 0.7), (12.0, 0.6), (6.0, 0.4), (3.0, 0.2)]
    found = crossing(clean, 0.5)
    assert found is not None
    assert 6 < found < 12
    noisy = [(100.0, 0.45), *clean[1:5], (3.0, 0.45)]
    again = crossing(noisy, 0.5)
    assert again is not None
    assert 6 <= again < 12


def test_curves_that_are_not_crossed() -> None:
    assert crossing([(1.0, 0.2), (2.0, 0.4)], 0.5) == math.inf
    assert crossing([(1.0, 0.7), (2.0, 0.9)], 0.5) is None
    assert crossing([], 0.5) == math.inf


@given(st.floats(1, 1e4), st.floats(0.1, 0.9))
def test_the_crossing_is_found_between_its_neighbours(at: float, efficiency: float) -> None:
    curve = [(at * 2**k, min(0.99, efficiency * (1 + k / 20))) for k in range(-8, 9) if k]
    found = crossing(curve, efficiency)
    assert found is not None
    assert at / 2 < found < at * 2


def made_up(efficiencies: Sequence[float], **options: Any) -> Granularity:
    """Return the curve of 10 ms, 5 ms, ... with these efficiencies; 100 tasks on 2 cores."""
    grid = Pattern("trivial", 4, 25)
    samples = []
    for i, efficiency in enumerate(efficiencies):
        duration = 0.01 / 2**i
        walls = tuple([duration * 50 / (efficiency * noise) for noise in (0.98, 1.0, 1.02)])
        samples.append(Sample(duration, walls, tuple([duration * 50 / wall for wall in walls]), efficiency * 1.1))
    return Granularity(grid, "made up", 2, 0.5, tuple(samples), **{"first": 1.0, "empty": 0.1, "seconds": 3.0, **options})


def test_metg_of_a_curve() -> None:
    curve = made_up([0.9, 0.7, 0.5, 0.3])
    assert curve.metg == pytest.approx(0.0025 / 0.5)
    low, high = curve.spread
    assert low is not None
    assert high is not None
    assert low < curve.metg < high
    assert curve.metg_best is not None
    assert curve.metg_best < curve.metg
    assert curve.overhead == pytest.approx(0.1 * 2 / 100)
    assert curve.granularity(curve.samples[0]) == pytest.approx(0.01 / 0.9)
    # what 0.9 s more cost is half of the time of tasks that last as long, one after the other on two cores
    longest = curve.samples[0]
    assert curve.metg_once == pytest.approx((longest.wall + 0.9 - 0.5) * 2 / 100 * 2)
    assert made_up([0.9, 0.7, 0.5, 0.3], first=0.1).metg_once == pytest.approx(curve.metg)
    assert "METG(50%) = 5 ms (" in str(curve)


def test_a_curve_that_never_reaches_it_says_so() -> None:
    curve = made_up([0.4, 0.2])
    assert curve.metg is None
    assert curve.verdict == "never reached 50%: 40% at best, with tasks of up to 10 ms"
    assert json.loads(json.dumps(curve.to_json()))["metg"] is None


def test_a_curve_that_never_leaves_it_says_so() -> None:
    curve = made_up([0.9, 0.8])
    assert curve.bounded
    assert curve.metg == pytest.approx(0.005 / 0.8)
    assert "is at most 6.25 ms" in curve.verdict


def test_it_prints_in_a_narrow_terminal() -> None:
    for curve in (made_up([0.9, 0.7, 0.5, 0.3]), made_up([0.4]), made_up([0.9])):
        assert max(map(len, str(curve).splitlines())) <= 60
        assert repr(curve) == str(curve)


def test_json_has_everything() -> None:
    curve = made_up([0.9, 0.7, 0.5, 0.3])
    told = json.loads(json.dumps(curve.to_json()))
    assert told["pattern"] == "trivial"
    assert (told["tasks"], told["dependencies"], told["cores"]) == (100, 0, 2)
    assert told["metg"] == curve.metg
    assert [sample["efficiency"] for sample in told["samples"]] == [sample.efficiency for sample in curve.samples]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (3.21e-5, "32.1 µs"), (4e-9, "4 ns"), (0, "0 ns"), (None, "?"), (math.inf, "?")],
)
def test_times_for_people(seconds: float | None, text: str) -> None:
    assert in_units(seconds) == text


# -- the sweep -----------------------------------------------------------------------------------------------------------


class FakeMachine:
    """A clock that moves when a grid runs, and a scheduler with a fixed overhead; every third run is slower by a half."""

    def __init__(self, overhead: float, share: float, noise: float = 0.0) -> None:
        self.overhead, self.share, self.noise = overhead, share, noise
        self.now, self.runs = 0.0, 0

    def clock(self) -> float:
        return self.now

    def __call__(self, duration: float) -> tuple[float, float]:
        self.runs += 1
        wall = self.share * (duration + self.overhead) * (1 + self.noise * (self.runs % 3 == 0))
        self.now += wall
        return duration, wall


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("share", [10, 500])
def test_a_sweep_finds_the_crossing(share: float, noise: float) -> None:
    machine = FakeMachine(1e-4, share, noise)
    samples = sweep(machine, 1e-4 * share, share, seconds=20, clock=machine.clock)
    assert [s.duration for s in samples] == sorted([s.duration for s in samples], reverse=True)
    assert samples[0].efficiency > 0.8
    assert samples[-1].efficiency < 0.5
    for pick in ("efficiency", "best"):
        found = crossing([(s.duration, getattr(s, pick)) for s in samples], 0.5)
        assert found == pytest.approx(1e-4, rel=0.02 if not noise or pick == "best" else 0.3)
    assert machine.now <= 20


def test_a_sweep_is_bounded_where_a_run_takes_long() -> None:
    machine = FakeMachine(4e-3, 500)
    told: list[tuple[float, str]] = []
    samples = sweep(machine, 2.0, 500, seconds=20, clock=machine.clock, progress=lambda *what: told.append(what))
    assert machine.now < 30
    assert len(told) == machine.runs == sum(len(sample.walls) for sample in samples)
    assert [seconds for seconds, _ in told] == sorted([seconds for seconds, _ in told])
    assert samples[0].efficiency > 0.5 > samples[-1].efficiency


def test_a_sweep_gives_up() -> None:
    """One core where there should be two: half the speed at most, whatever the tasks."""
    machine = FakeMachine(1e-5, 500)
    samples = sweep(lambda duration: (duration / 2, machine(duration)[1]), 5e-3, 500, seconds=5, clock=machine.clock)
    assert all([sample.efficiency < 0.5 for sample in samples])
    assert machine.now <= 5


def test_a_sweep_of_something_without_overhead_ends() -> None:
    machine = FakeMachine(0.0, 10)
    samples = sweep(machine, 1e-3, 10, seconds=5, clock=machine.clock)
    assert all([sample.efficiency == pytest.approx(1) for sample in samples])


# -- the command ---------------------------------------------------------------------------------------------------------

QUICK = ["--width", "3", "--steps", "3", "--seconds", "0.1"]


def test_the_command_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = {what: tmp_path / f"metg.{what}" for what in ("json", "csv", "svg")}
    files = ["--json", str(out["json"]), "--csv", str(out["csv"]), "--plot", str(out["svg"])]
    assert main(["metg", "--pattern", "fft", "tree", "--target", "sync", "compiled", *QUICK, *files]) == 0
    printed = capsys.readouterr()
    assert "METG(50%)" in printed.out
    assert "tree" in printed.out
    assert "..." in printed.err  # where the progress would be
    told = json.loads(out["json"].read_text())["curves"]
    assert [(curve["pattern"], curve["cores"]) for curve in told][::2] == [("fft", 1), ("tree", 1)]
    with out["csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(curve["samples"]) for curve in told)
    picture = out["svg"].read_text()
    assert "<svg" in picture
    assert "fft, 3 x 3" in picture


def test_the_command_prints_one_curve(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metg", "--target", "sync", *QUICK]) == 0
    assert "granularity" in capsys.readouterr().out
    assert main(["metg", "--target", "sync", "--json", "-", *QUICK]) == 0
    assert json.loads(capsys.readouterr().out)["curves"][0]["pattern"] == "stencil_1d"


def test_the_table_is_readable_at_60_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["metg", "--pattern", "fft", "tree", "--target", "sync", *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert any("fft" in line and "s" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "metg.pdf"], "should end in"),
        (["--address", "tcp://nowhere:1", "--workers", "2"], "--workers is for"),
        (["--workers", "2"], "go with --target cluster"),
        (["--json", "nowhere/metg.json"], "no directory"),
    ],
)
def test_requests_that_the_command_refuses(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metg", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_command_on_a_cluster(
    cluster: distributed.LocalCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # a narrow table breaks its lines
    address = ["--address", cluster.scheduler_address]
    assert main(["metg", "--target", "cluster", "compiled-cluster", *address, *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "compiled, 2 workers" in printed
    assert "dask, 2 workers" in printed


def test_a_curve_draws_itself(tmp_path: Path) -> None:
    made_up([0.9, 0.7, 0.5, 0.3]).plot(tmp_path / "metg.png")
    assert (tmp_path / "metg.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="should end in"):
        made_up([0.9]).plot(tmp_path / "metg.txt")
