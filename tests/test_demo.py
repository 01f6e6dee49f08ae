"""The main job as a user runs it: its exit status, what it prints and the files it writes, on every scheduler."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import distributed
import numpy as np
import pytest

from graphopt.__main__ import COMMANDS, main
from graphopt.demo import check, command, job, race
from graphopt.demo.check import Agreement

ROOT = Path(__file__).parent.parent
BELGIAN = ROOT.parent / "shared" / "data" / "beMTPL97.parquet"


def run_demo(*arguments: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, warnings in its main thread as errors."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-W", "error::RuntimeWarning", "-m", "graphopt", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def check_png(path: Path) -> None:
    """A picture with something on it, neither empty nor of one colour."""
    from matplotlib.image import imread

    pixels = imread(path)
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 800
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2])[::97], axis=0)) > 10


def check_report(report: dict, iterations: int) -> None:
    """The JSON has what a program needs, and it hangs together."""
    assert report.keys() == {
        *("versions", "problem", "scheduler", "iterations", "graph_tasks", "runs", "agreement", "fit", "reference")
    }
    assert report["iterations"] == iterations
    here = not report["scheduler"].startswith("processes")
    assert report["runs"].keys() == {"numpy", "dask", "graphopt"} | ({"compiled"} if here else set())
    for run in report["runs"].values():
        assert len(run["seconds"]) == len(run["losses"]) == iterations
        assert len(run["coefficients"]) == report["problem"]["columns"]
        assert min(run["seconds"]) <= run["median"] <= max(run["seconds"])
    assert report["agreement"]["graphopt"] == 0
    assert report["agreement"]["numpy"] <= report["agreement"]["tolerance"] < 1e-9
    if here:
        assert report["agreement"]["compiled"] <= report["agreement"]["tolerance"]
        compiled = report["runs"]["compiled"]
        assert 1 <= compiled["kernels"] <= compiled["lanes"] < report["runs"]["dask"]["tasks_run"]
        assert compiled["first_call"] > 0
        assert compiled["losses"] == pytest.approx(report["runs"]["dask"]["losses"], rel=1e-12)
    else:
        assert report["agreement"]["compiled"] is None
    assert report["runs"]["dask"]["speedup_over_dask"] == 1
    assert report["runs"]["graphopt"]["tasks_run"] < report["runs"]["dask"]["tasks_run"] < report["graph_tasks"]
    losses = report["runs"]["graphopt"]["losses"]
    assert losses[-1] < losses[0]
    assert report["fit"]["log_loss"] < report["fit"]["base_log_loss"]


@pytest.mark.parametrize("scheduler", ["threads", pytest.param("sync", marks=pytest.mark.slow)])
def test_the_job_on_generated_data(tmp_path: Path, scheduler: str) -> None:
    options = ["--scheduler", scheduler, "--rows", "2000", "--chunks", "10", "--iterations", "8"]
    done = run_demo("demo", *options, "--json", "report.json", "--no-check", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("NumPy, 1 thread", "dask + graphopt", "graphopt.compile", "tasks", "speed-up", "us/task", "first call took"):
        assert word in done.stdout
    assert "Largest error to the true" in done.stdout
    check_report(json.loads((tmp_path / "report.json").read_text()), iterations=8)
    check_png(tmp_path / "graphopt-demo.png")


def test_the_table_fits_80_columns(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    options = ["--rows", "1000", "--chunks", "500", "--iterations", "1", "--scheduler", "sync", "--no-check", "--no-plot"]
    assert main(["demo", *options]) == 0
    lines = capfd.readouterr().out.splitlines()
    heading = next(line for line in lines if "ms/iteration" in line)
    (ours,) = [line for line in lines if line.startswith("graphopt.compile")]
    assert len(heading.rstrip()) <= 80
    assert "speed-up" in heading  # nothing was cut off
    assert ours.rstrip().endswith(" x")
    assert "…" not in "".join(lines)


@pytest.mark.slow
def test_it_begins_with_a_check_against_scikit_learn(tmp_path: Path) -> None:
    done = run_demo(*("demo", "--rows", "300", "--chunks", "3", "--iterations", "3", "--no-plot", "--json", "-"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)  # and nothing else on standard output
    assert report["reference"]["difference"] < 1e-6
    assert "Breast cancer" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_job_on_worker_processes(tmp_path: Path) -> None:
    options = ["--cluster", "--rows", "500", "--chunks", "4", "--iterations", "2"]
    done = run_demo("demo", *options, "--json", "report.json", "--no-check", "--no-plot", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_report(json.loads((tmp_path / "report.json").read_text()), iterations=2)
    assert "Left out" not in done.stdout
    assert "distributed, 2 processes" in done.stdout
    assert "Traceback" not in done.stderr  # nor any complaint while the cluster closes
    assert "Warning" not in done.stderr


def test_the_job_on_a_cluster_that_is_already_there(tmp_path: Path, cluster: distributed.LocalCluster) -> None:
    options = ["--cluster", cluster.scheduler_address, "--rows", "500", "--chunks", "4", "--iterations", "2"]
    done = run_demo("demo", *options, "--json", "report.json", "--no-check", "--no-plot", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_report(json.loads((tmp_path / "report.json").read_text()), iterations=2)
    assert f"the cluster at {cluster.scheduler_address}, 2 workers with 2 threads" in " ".join(done.stdout.split())
    with distributed.Client(cluster) as client:
        assert len(client.scheduler_info()["workers"]) == 2, "it is left as it was"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--cluster", "--scheduler", "threads"], "contradict each other"),
        (["--cluster", "tcp://127.0.0.1:1", "--workers", "3"], "has the workers it has"),
        (["--cluster", "nonsense://1"], "no dask scheduler answers at nonsense://1"),
    ],
)
def test_clusters_that_cannot_be(options: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--no-check", "--no-plot", *options]) == 2
    assert why in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scheduler", ["processes", "distributed"])
def test_the_job_on_many_tasks_in_other_processes(tmp_path: Path, scheduler: str) -> None:
    options = ["--scheduler", scheduler, "--rows", "100000", "--chunks", "50", "--iterations", "5"]
    done = run_demo("demo", *options, "--json", "report.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_report(json.loads((tmp_path / "report.json").read_text()), iterations=5)
    check_png(tmp_path / "graphopt-demo.png")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not BELGIAN.exists(), reason="the Belgian policies are not on this machine")
def test_real_policies(tmp_path: Path) -> None:
    drop = [part for column in ("id", "nclaims", "amount", "average") for part in ("--drop", column)]
    done = run_demo(
        *("demo", "--data", os.path.relpath(BELGIAN, tmp_path), "--target", "claim", *drop),
        *("--iterations", "20", "--json", "report.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    check_report(report, iterations=20)
    assert report["problem"]["rows"] == 163212
    assert report["problem"]["positive"] == "claim = 1 (against 0)"
    assert 0.6 < report["fit"]["auc"] < 0.75
    # a bonus-malus class is a record of past claims: no model of this data leaves it out
    assert report["runs"]["graphopt"]["coefficients"]["bm"] > 0.1


def test_quiet_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    json_path = str(tmp_path / "report.json")
    options = ["--rows", "300", "--chunks", "3", "--iterations", "2", "--no-check", "--no-plot", "--scheduler", "sync"]
    assert main(["demo", *options, "--quiet", "--json", json_path]) == 0
    assert capfd.readouterr() == ("", "")
    assert json.loads(Path(json_path).read_text())["iterations"] == 2


def test_help_lists_the_commands_and_the_real_data_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--help"], [importlib.import_module(name).NAME for name in COMMANDS]),
        (
            ["demo", "--help"],
            ["--data ../shared/data/beMTPL97.parquet --target claim", "--drop nclaims", "exit status"],
        ),
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
        printed = capsys.readouterr().out
        assert all(word in printed for word in words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "x.csv"], "--data needs --target COLUMN"),
        (["--target", "y"], "--target goes with --data FILE"),
        (["--drop", "y"], "--drop goes with --data FILE"),
        (["--data", "x.csv", "--target", "y", "--rows", "5"], "--rows is for generated data"),
        (["--rows", "5", "--chunks", "6", "--no-check"], "cannot cut 5 rows into 6 chunks"),
        (["--output", "nowhere/x.png"], "cannot write nowhere/x.png: there is no directory nowhere"),
        (["--json", "."], "cannot write .: it is a directory"),
        (["--output", "x.png", "--no-plot"], "contradict"),
    ],
)
def test_requests_that_cannot_be_met(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *arguments]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith("error: ")
    assert message in printed[-1]


@pytest.mark.parametrize("arguments", [["--rows", "0"], ["--chunks", "-1"], ["--iterations", "many"], ["--l2", "-1"]])
def test_options_that_make_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["demo", *arguments])
    assert end.value.code == 2
    assert f"argument {arguments[0]}" in capsys.readouterr().err


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


SMALL = ["demo", "--rows", "300", "--chunks", "3", "--iterations", "2", "--scheduler", "sync", "--no-check"]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (race.GRAPHOPT, "graphopt's coefficients differ from dask's"),
        (race.NUMPY, "NumPy's coefficients differ from dask's"),
        (race.COMPILED, "the compiled step's coefficients differ from dask's"),
    ],
)
def test_coefficients_that_differ_end_in_status_1(
    run: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluators = race.evaluators

    def one_is_wrong(*arguments: object) -> dict:
        evaluate = evaluators(*arguments)
        right = evaluate[run]
        evaluate[run] = lambda beta: (right(beta)[0], right(beta)[1] * (1 + 1e-6))
        return evaluate

    monkeypatch.setattr(race, "evaluators", one_is_wrong)
    assert main([*SMALL, "--no-plot"]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert "NumPy, 1 thread" in printed.out  # the table all the same: it is what one looks at next


def test_a_difference_to_scikit_learn_ends_in_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = check.Reference(difference=float("nan"), largest=1.0)
    monkeypatch.setattr(check, "reference", lambda after_each: wrong)
    assert main(["demo", "--rows", "300", "--chunks", "3"]) == 1
    assert "the coefficients differ from scikit-learn's by nan" in capsys.readouterr().err


@pytest.mark.parametrize("value", [1e-300, float("nan"), float("inf")])
def test_any_difference_of_graphopt_is_one(value: float) -> None:
    assert Agreement(graphopt=0.0, numpy=0.0, compiled=None, tolerance=1e-9).complaint() is None
    assert "graphopt" in str(Agreement(graphopt=value, numpy=0.0, compiled=0.0, tolerance=1e-9).complaint())


@pytest.mark.parametrize("value", [1e-8, float("nan"), float("inf")])
def test_what_rounding_does_not_explain_is_a_difference_of_compile(value: float) -> None:
    assert Agreement(graphopt=0.0, numpy=1e-10, compiled=1e-10, tolerance=1e-9).complaint() is None
    assert "compiled" in str(Agreement(graphopt=0.0, numpy=0.0, compiled=value, tolerance=1e-9).complaint())
    assert "NumPy" in str(Agreement(graphopt=0.0, numpy=value, compiled=0.0, tolerance=1e-9).complaint())


def test_without_matplotlib_the_job_runs_and_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(SMALL) == 0
    printed = capsys.readouterr()
    assert "dask + graphopt" in printed.out
    assert "pip install 'graphopt[plots]'" in printed.err
    assert main([*SMALL, "--output", "asked-for.png"]) == 2
    assert "pip install 'graphopt[plots]'" in capsys.readouterr().err
    assert job.ITERATIONS.keys() == {"threads", "sync", "processes", "distributed"}
