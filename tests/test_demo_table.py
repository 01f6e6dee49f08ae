"""Any CSV or Parquet file as a problem: how columns are encoded, and every error a user's file can lead to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest

from graphopt.__main__ import main
from graphopt.demo.problem import chunk_lengths
from graphopt.demo.table import MAX_CATEGORIES, load
from graphopt.report.errors import CommandError

ROWS = 240

# dask.dataframe trips over what newer versions of pandas deprecate; that is theirs to settle
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def people(seed: int = 0) -> pd.DataFrame:
    """What occurs in real files: numbers, text with accents, booleans, constants, a two-valued text target."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 80, ROWS),
            "height": rng.normal(170, 10, ROWS),
            "town": rng.choice(["Ghent", "Liège", "Mons"], ROWS),
            "smokes": rng.random(ROWS) < 0.3,
            "planet": "Earth",
            "legs": 2,
        }
    )
    eta = 0.04 * (frame.age - 45) + (frame.town == "Mons") - 0.8 * frame.smokes
    frame["bought"] = np.where(rng.random(ROWS) < 1 / (1 + np.exp(-eta)), "yes", "no")
    return frame


def write(frame: pd.DataFrame, path: Path) -> str:
    """Write the frame in the format of the path's name."""
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)
    return str(path)


def encoded(frame: pd.DataFrame, target: str, positive: object) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """What `load` should make of the frame, by pandas alone: scaled numbers, indicators, intercept; and labels."""
    columns, names = [], []
    rest = frame.drop(columns=target)
    for name in rest.columns:
        if rest[name].dtype.kind in "bif" and rest[name].nunique() > 1:
            numbers = rest[name].astype(float)
            columns.append((numbers - numbers.mean()) / numbers.std(ddof=0))
            names.append(name)
    for name in rest.columns:
        if rest[name].dtype.kind not in "bif":
            for value in sorted(rest[name].unique())[1:]:
                columns.append((rest[name] == value).astype(float))
                names.append(f"{name}={value}")
    X = np.column_stack([*columns, np.ones(len(rest))])
    return X, (frame[target] == positive).to_numpy(dtype=float), [*names, "(intercept)"]


@pytest.mark.parametrize("name", ["people.csv", "people.parquet"])
def test_columns_are_encoded_as_pandas_would(tmp_path: Path, name: str) -> None:
    frame = people()
    problem = load(write(frame, tmp_path / name), "bought", [], chunks=7, penalty=2.0)
    X, y, names = encoded(frame, "bought", "yes")
    got_X, got_y = dask.compute(problem.X, problem.y, scheduler="sync")
    assert list(problem.features) == names
    np.testing.assert_allclose(got_X, X, atol=1e-12)
    np.testing.assert_array_equal(got_y, y)
    assert problem.X.chunks[0] == problem.y.chunks[0] == chunk_lengths(ROWS, 7)
    assert problem.positive == "bought = yes (against no)"
    assert problem.notes == ("constant, left out: legs, planet",)
    np.testing.assert_array_equal(problem.penalty, [2.0] * (len(names) - 1) + [0.0])
    for block in problem.X.blocks:
        assert block.compute(scheduler="sync").flags.c_contiguous


@pytest.mark.slow
def test_coefficients_are_scikit_learns(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    frame = people()
    path, report = write(frame, tmp_path / "people.csv"), tmp_path / "report.json"
    options = ["--iterations", "110", "--l2", "5", "--chunks", "3", "--scheduler", "sync", "--no-plot", "--quiet"]
    assert main(["demo", "--data", path, "--target", "bought", *options, "--json", str(report)]) == 0
    X, y, names = encoded(frame, "bought", "yes")
    model = LogisticRegression(C=1 / 5, tol=1e-10, solver="newton-cholesky").fit(X[:, :-1], y)
    got = json.loads(report.read_text())["runs"]["graphopt"]["coefficients"]
    assert list(got) == names
    np.testing.assert_allclose(list(got.values()), [*model.coef_[0], *model.intercept_], atol=1e-5)


@pytest.mark.parametrize("values", [(0, 1), (1, 2), (-1.0, 1.0), (False, True), ("n", "y")])
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_target_of_any_two_values_will_do(tmp_path: Path, name: str, values: tuple) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(50) < 0.4
    frame = pd.DataFrame({"x": rng.random(50), "t": [values[int(label)] for label in labels]})
    problem = load(write(frame, tmp_path / name), "t", [], chunks=2, penalty=0.0)
    np.testing.assert_array_equal(problem.y.compute(scheduler="sync"), labels)


def test_categories_and_several_files(tmp_path: Path) -> None:
    frame = people().astype({"town": "category"})
    write(frame[:100], tmp_path / "part-0.parquet")
    write(frame[100:], tmp_path / "part-1.parquet")
    problem = load(str(tmp_path / "part-*.parquet"), "bought", ["height"], chunks=3, penalty=0.0)
    X, _, names = encoded(people().drop(columns="height"), "bought", "yes")
    assert list(problem.features) == names
    np.testing.assert_allclose(problem.X.compute(scheduler="sync"), X, atol=1e-12)


def holed(frame: pd.DataFrame) -> pd.DataFrame:
    """Three gaps, one of them in text."""
    frame.loc[[3, 5], "height"] = np.nan
    frame.loc[7, "town"] = None
    return frame


@pytest.mark.parametrize(
    ("change", "options", "messages"),
    [
        (None, ["--target", "bougt"], ["no column 'bougt'", "did you mean 'bought'?", "columns: age, height, town"]),
        (None, ["--target", "BOUGHT"], ["did you mean 'bought'?"]),
        (None, ["--target", "bought", "--drop", "hight"], ["--drop: there is no column 'hight'", "'height'"]),
        (None, ["--target", "bought", "--drop", "bought"], ["both the --target and given to --drop"]),
        (None, ["--target", "age"], ["'age' must have exactly two values, but has 61: 18, 19,", "..."]),
        (None, ["--target", "legs"], ["must have exactly two values, but has 1: 2"]),
        (None, ["--target", "bought", "--chunks", "1000"], ["cannot cut 240 rows into 1000 chunks"]),
        (holed, ["--target", "bought"], ["NaN", "height (2)", "town (1)", "--drop"]),
        (
            lambda frame: frame.assign(name=[f"p{i}" for i in range(ROWS)]),
            ["--target", "bought"],
            ["'name' has 240 different values", f"limit is {MAX_CATEGORIES}", "--drop name"],
        ),
        (lambda frame: frame.assign(rate=np.inf), ["--target", "bought"], ["infinite values in rate (240)"]),
        (lambda frame: frame[["planet", "bought"]], ["--target", "bought"], ["no column is left"]),
        (lambda frame: frame[:0], ["--target", "bought"], ["no rows"]),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_what_cannot_be_fitted_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, change: object, options: list, messages: list
) -> None:
    frame = people() if change is None else change(people())  # type: ignore[operator]
    path = write(frame, tmp_path / name)
    assert main(["demo", "--data", path, *options, "--scheduler", "sync", "--no-plot"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for message in messages:
        assert message in line


def test_dates_are_named(tmp_path: Path) -> None:
    path = write(people().assign(when=pd.Timestamp("2020-01-01")), tmp_path / "t.parquet")
    with pytest.raises(CommandError, match=r"neither numbers nor text, remove with --drop: when \(datetime"):
        load(path, "bought", [], 2, 0.0)
    assert load(path, "bought", ["when"], 2, 0.0).X.shape[0] == ROWS


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"there is no file nowhere\.csv"):
        load("nowhere.csv", "t", [], 2, 0.0)
    with pytest.raises(CommandError, match=r"its name should end in \.csv, \.parquet"):
        load(__file__, "t", [], 2, 0.0)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "text.parquet").write_text("this is not Parquet")
    for name in ("empty.csv", "text.parquet"):
        with pytest.raises(CommandError, match=f"cannot read .*{name}: .") as caught:
            load(str(tmp_path / name), "t", [], 2, 0.0)
        assert "\n" not in str(caught.value)


def test_without_pandas_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(people(), tmp_path / "t.csv")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(CommandError, match=r"this needs pandas .*pip install 'graphopt\[demo\]'"):
        load(path, "bought", [], 2, 0.0)


def test_text_far_down_in_a_column_of_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The types of a CSV are taken from its first lines; what contradicts them must not end in a page of advice."""
    frame = people().astype({"height": object})
    frame.loc[ROWS - 1, "height"] = "tall"
    path = write(frame, tmp_path / "t.csv")
    from dask.dataframe import read_csv

    monkeypatch.setattr("dask.dataframe.read_csv", lambda path, **options: read_csv(path, sample=2000, **options))
    with pytest.raises(CommandError, match=r"text among the numbers of column height; clean it or use --drop") as caught:
        load(path, "bought", [], 2, 0.0)
    assert "\n" not in str(caught.value)
