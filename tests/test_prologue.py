"""Prologue: what depends on small arguments alone is run first, and lanes go on past it."""

from __future__ import annotations

from operator import add, neg
from typing import Any

import dask.array as da
import numpy as np

import graphopt as go
from graphopt.prologue import prologue
from graphopt.spec import DataNode, Task, TaskRef


def t(key: Any, func: Any, *reads: Any) -> Task:
    return Task(key, func, *map(TaskRef, reads))


GRAPH: dict[Any, Any] = {
    "small": TaskRef("small"),
    "chunk": TaskRef("chunk"),
    "a": t("a", neg, "small"),
    "b": t("b", add, "a", "small"),
    "unread": t("unread", neg, "a"),
    "lane": t("lane", neg, "chunk"),
    "out": t("out", add, "lane", "b"),
    "made": Task("made", float, 1),
    "from_made": t("from_made", neg, "made"),
}


def test_what_depends_on_small_arguments_alone() -> None:
    first, handed = prologue(GRAPH, ["small"])
    assert first == ["a", "b", "unread"]
    assert handed == ["b"]


def test_nothing_is_first_where_there_is_nothing_else_or_nothing_small() -> None:
    assert prologue({"small": TaskRef("small"), "a": t("a", neg, "small")}, ["small"]) == ([], [])
    assert prologue(GRAPH, []) == ([], [])
    assert prologue({"d": DataNode("d", 1), "a": t("a", neg, "d")}, []) == ([], [])


def test_lanes_go_on_past_it() -> None:
    """The norms of the centres are in every distance: without a prologue no lane could be one kernel."""
    X = da.from_array(np.random.default_rng(0).random((40, 3)), chunks=(10, 3)).persist()

    def distances(X: Any, centres: Any) -> Any:
        return ((centres**2).sum(axis=1) - 2 * X.dot(centres.T)).min(axis=1).sum()

    step, centres = go.compile(distances), np.random.default_rng(1).random((4, 3))
    np.testing.assert_allclose(step(X, centres), distances(X, centres).compute(), rtol=1e-12)
    lanes = [len(group.lanes) for level in step.plan(X, centres).levels for group in level.groups]
    assert lanes == [1, 4, 1]


def test_what_is_asked_for_may_be_in_it() -> None:
    X = da.from_array(np.arange(12.0).reshape(6, 2), chunks=(2, 2)).persist()

    def step(X: Any, b: Any) -> Any:
        doubled = b * 2
        return doubled, X.dot(doubled), (doubled**2).sum()

    found, b = go.compile(step)(X, np.array([1.0, 2.0])), np.array([2.0, 4.0])
    assert np.array_equal(found[0], b)
    assert np.array_equal(found[1].compute() if hasattr(found[1], "compute") else found[1], np.arange(12.0).reshape(6, 2) @ b)
    assert found[2] == 20
