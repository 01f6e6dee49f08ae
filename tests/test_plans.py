"""The picture of a plan: the file that was asked for, with the names of tasks, kernels, arguments and results in it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dask
import dask.array as da
import numpy as np
import pytest

import graphopt as go
from graphopt.demo.descent import loss_and_gradient
from graphopt.report import plans

CHUNKS = 6


@pytest.fixture
def tables() -> tuple[da.Array, da.Array]:
    with dask.config.set(scheduler="sync"):
        X = da.ones((60, 3), chunks=(60 // CHUNKS, 3)).persist()
        return X, da.zeros(60, chunks=60 // CHUNKS).persist()


@pytest.fixture
def square() -> da.Array:
    with dask.config.set(scheduler="sync"):
        return da.ones((40, 40), chunks=(10, 10)).persist()


def texts(path: Path) -> str:
    """All text of an SVG, which must be XML; what is on several lines is on one."""
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return " ".join(" ".join(root.itertext()).split())


def heat(u: Any) -> Any:
    return u.map_overlap(lambda block: block + 0.1 * (np.roll(block, 1, 0) - block), depth=1, boundary="reflect")


def normalised(A: Any, x: Any) -> Any:
    product = A.dot(x)
    return product / da.linalg.norm(product), (A + A.T).sum(axis=0)


def test_a_step_as_svg(tables: tuple[da.Array, da.Array], tmp_path: Path) -> None:
    plan = go.compile(loss_and_gradient).plan(*tables, np.zeros(3))
    plan.visualize(tmp_path / "plan.svg")
    found = texts(tmp_path / "plan.svg")
    assert str(plan) in found
    for task in ("tensordot", "exp", "log1p", "maximum", "transpose"):
        assert task in found
    for name in (f"X: {CHUNKS} blocks", f"y: {CHUNKS} blocks", "beta: 1 block", "X[0, 0]", "result 0", "result 1", "level 0"):
        assert name in found
    (kernel, *_) = plan.kernels
    assert f"one of {CHUNKS} calls of {kernel.name}" in found
    assert f"{CHUNKS} x {kernel.name}" in found.replace("_ ", "_")  # long names are on several lines


def test_the_same_plan_is_the_same_file(tables: tuple[da.Array, da.Array], tmp_path: Path) -> None:
    plan = go.compile(loss_and_gradient).plan(*tables, np.zeros(3))
    for name in ("one.svg", "other.svg"):
        plan.visualize(str(tmp_path / name))
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


def test_a_step_as_png(tables: tuple[da.Array, da.Array], tmp_path: Path) -> None:
    from matplotlib.image import imread

    go.compile(loss_and_gradient).plan(*tables, np.zeros(3)).visualize(str(tmp_path / "plan.PNG"))
    pixels = imread(tmp_path / "plan.PNG")
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 800
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2])[::97], axis=0)) > 5


def test_a_stencil_and_what_other_calls_do_for_it(square: da.Array, tmp_path: Path) -> None:
    plan = go.compile(heat).plan(square)
    plan.visualize(tmp_path / "plan.svg")
    found = texts(tmp_path / "plan.svg")
    for word in ("overlap", "trim", "u[0, 0]", "u[1, 1]", "u: 16 blocks", "result: 16 blocks", "tasks of other calls"):
        assert word in found


def test_two_dimensions_and_several_levels(square: da.Array, tmp_path: Path) -> None:
    plan = go.compile(normalised).plan(square, np.ones(40))
    plan.visualize(tmp_path / "plan.svg")
    found = texts(tmp_path / "plan.svg")
    assert f"level {len(plan.levels) - 1}" in found
    calls = sum(int(count) for count in re.findall(r"(\d+) x [a-z]", found))
    assert calls == plan.lanes  # every call is in some box
    assert "result 0: 4 blocks" in found


def test_a_plan_of_many_kernels_and_arguments_stays_legible(square: da.Array, tmp_path: Path) -> None:
    def many(arrays: list[da.Array]) -> list[da.Array]:
        return [(array + i).map_blocks(np.cumsum, axis=i % 2).sum(axis=i % 2) for i, array in enumerate(arrays)]

    plan = go.compile(many).plan([square + i for i in range(12)])
    assert plan.lanes > 12
    plan.visualize(tmp_path / "lazy.svg")
    with dask.config.set(scheduler="sync"):
        plan = go.compile(many).plan([(square + i).persist() for i in range(12)])
    plan.visualize(tmp_path / "plan.svg")
    assert "other arguments" in texts(tmp_path / "plan.svg")


def test_more_tasks_than_fit(tables: tuple[da.Array, da.Array], tmp_path: Path) -> None:
    def long(X: Any) -> Any:
        for _ in range(2 * plans.MOST_TASKS):
            X = X + 1
        return X

    go.compile(long).plan(tables[0]).visualize(tmp_path / "plan.svg")
    assert f"{plans.MOST_TASKS} of {2 * plans.MOST_TASKS} tasks" in texts(tmp_path / "plan.svg")


def test_nothing_to_do_is_a_picture_too(tables: tuple[da.Array, da.Array], tmp_path: Path) -> None:
    same = go.compile(lambda X: X)
    np.testing.assert_array_equal(same(tables[0]).compute(scheduler="sync"), np.ones((60, 3)))
    same.plan(tables[0]).visualize(tmp_path / "same.svg")
    assert "before: no tasks" in texts(tmp_path / "same.svg")
    go.compile(lambda x: 2 * x).plan(1.0).visualize(tmp_path / "number.svg")
    assert "0 tasks" in texts(tmp_path / "number.svg")


@pytest.mark.parametrize("name", ["plan.gif", "plan", "svg", ""])
def test_other_endings_are_refused_by_name(tables: tuple[da.Array, da.Array], tmp_path: Path, name: str) -> None:
    plan = go.compile(loss_and_gradient).plan(*tables, np.zeros(3))
    with pytest.raises(ValueError, match=r"must end in \.svg or \.png"):
        plan.visualize(str(tmp_path / name) if name else name)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_error_names_the_extra(
    tables: tuple[da.Array, da.Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    plan = go.compile(loss_and_gradient).plan(*tables, np.zeros(3))
    with pytest.raises(ImportError, match=r"pip install 'graphopt\[plots\]'"):
        plan.visualize(tmp_path / "plan.svg")


def test_the_settings_of_matplotlib_stay(
    tables: tuple[da.Array, da.Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    used: list[object] = []
    monkeypatch.setattr(matplotlib, "use", used.append)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # which would choose a backend
    before = matplotlib.rcParams["svg.fonttype"], matplotlib.rcParams["font.size"]
    go.compile(loss_and_gradient).plan(*tables, np.zeros(3)).visualize(tmp_path / "plan.svg")
    assert (matplotlib.rcParams["svg.fonttype"], matplotlib.rcParams["font.size"]) == before
    assert not used
