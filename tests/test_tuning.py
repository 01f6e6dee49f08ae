"""``python -m graphopt chunks``: on small data, and its refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.__main__ import main

SMALL = ["chunks", "--seconds", "0.3"]


def test_everything_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {kind: str(tmp_path / f"out.{kind}") for kind in ("json", "csv", "svg")}
    options = ["--rows", "4000", "--columns", "3", "--sweep", "--json", files["json"], "--csv", files["csv"]]
    assert main([*SMALL, *options, "--plot", files["svg"], "--target", "sync", "compiled"]) == 0
    text = capsys.readouterr().out
    assert "decided by" in text
    assert "regret" in text
    found = json.loads(Path(files["json"]).read_text(encoding="utf-8"))
    assert [one["target"] for one in found["targets"]] == ["sync", "compiled"]
    for one in found["targets"]:
        assert one["regret"] >= 0
        assert str(one["count"]) in one["swept"]
    with open(files["csv"], encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["chosen"] == "True" for row in rows) == 2
    assert "rows of a chunk" in Path(files["svg"]).read_text(encoding="utf-8")


@pytest.mark.parametrize("problem", ["logistic", "least-squares", "k-means", "gram"])
def test_a_file_of_numbers(problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "X.npy", np.random.default_rng(0).random((900, 3)))
    options = ["--data", str(tmp_path / "X.npy"), "--problem", problem, "--out-of-core", "--json", "-", "--target", "sync"]
    assert main([*SMALL, *options]) == 0
    (target,) = json.loads(capsys.readouterr().out)["targets"]
    assert all(row["shape"][0] % 90 == 0 for row in target["candidates"])  # what is not kept is cut where it was


def test_a_file_with_a_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{i % 7},{i % 3},{'yes' if i % 2 else 'no'}" for i in range(200)]
    (tmp_path / "t.csv").write_text("a,b,claim\n" + "\n".join(lines) + "\n", encoding="utf-8")
    assert main([*SMALL, "--data", str(tmp_path / "t.csv"), "--label", "claim", "--target", "sync"]) == 0
    assert "t.csv, 200 x 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--data", "x.npy", "--rows", "3"], "--rows and --columns are for generated data"),
        (["--label", "claim"], "--label goes with --data"),
        (["--data", "nowhere.npy"], "there is no file nowhere.npy"),
        (["--data", "t.csv"], "needs --label"),
        (["--plot", "out.pdf"], "should end in .png or .svg"),
        (["--json", "nowhere/out.json"], "there is no directory"),
        (["--workers", "2"], "go with --target cluster"),
        (["--target", "cluster", "--address", "tcp://127.0.0.1:1", "--workers", "2"], "--workers is for a cluster here"),
        (["--rows", "100", "--memory", "much", "--target", "sync"], "much"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, *options]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.endswith("...")]
    assert line.startswith("error: ")
    assert complaint in line


@pytest.mark.slow
def test_on_a_cluster_compiled_and_not(capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--target", "cluster", "compiled-cluster", "--workers", "2", "--json", "-"]
    assert main([*SMALL, "--rows", "4000", "--columns", "3", *where]) == 0
    plain, compiled = json.loads(capsys.readouterr().out)["targets"]
    assert (plain["executor"], compiled["executor"]) == ("dask, 2 workers", "compiled, 2 workers")


@pytest.mark.parametrize("options", [["--seconds", "0"], ["--rows", "0"], ["--iterations", "few"]])
def test_numbers_that_make_no_sense(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*SMALL, *options])
    assert options[0] in capsys.readouterr().err
