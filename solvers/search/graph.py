"""Graph: the one task graph of a search, out of what its candidates share.

Keys are hashes of what a task computes: of the table, the fold, the estimator and its input. Equal fits have equal keys, and so
are one task. Scores are gathered in as many groups as keep all threads busy to the end, `_GROUPS` for each; graphopt's passes
fuse the fits of a group where there are more, so that 30 000 short fits are 128 tasks, and leave all else apart: fits are
long, and sharing and parallelism are worth more than a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dask.base import tokenize
from dask.task_spec import DataNode, Task, TaskRef

import graphopt as go
from solvers.search.outline import Node, Plan, distinct, paths
from solvers.search.tasks import cut, evaluated, extended, gathered, moved
from solvers.search.values import Candidate, Fold

__all__ = ["Layout", "Work", "build", "policy"]

#: Groups of scores for each thread. More even out better, but 155 µs a task add up.
_GROUPS = 64


@dataclass(frozen=True)
class Layout:
    """Where the scores are: keys of groups, and for each candidate and fold the place among all scores."""

    keys: list[Any]
    sizes: list[int]
    places: dict[tuple[int, int], int]


@dataclass(frozen=True)
class Work:
    """A graph, its scores, and what each of its tasks fits."""

    graph: dict[Any, Any]
    layout: Layout
    nodes: dict[Any, Node]
    evaluations: dict[Any, tuple[int, ...]]


def build(
    setting: Any,
    tables: Sequence[Any],
    folds: Sequence[Fold],
    candidates: Sequence[dict[str, Any]],
    plans: Sequence[Plan],
    *,
    train: bool,
    plain: bool,
    name: str,
    threads: int,
) -> Work:
    """Return the graph of a round of a search.

    Parameters
    ----------
    setting, tables
        Keys of what all fits have in common, and of each fold's rows.
    folds
        The folds.
    candidates, plans
        What is tried, and what that shares.
    train
        Whether rows that were fitted are scored, too.
    plain
        Whether scorers see predictions only.
    name
        A hash of setting and tables.
    threads
        How many there are.
    """
    made = _Builder(TaskRef(setting), [TaskRef(key) for key in tables], folds, name, train, plain)
    first = distinct(plans)
    ways = _cut(paths(plans, first.values()), len(folds), threads)
    ways.sort(key=lambda path: getattr(plans[path[0]].last, "key", ""))
    todo = [(f, path) for f in range(len(folds)) for path in ways]
    keys = [made.evaluate(f, path, candidates, plans[path[0]].last) for f, path in todo]
    count = min(len(todo), _GROUPS * threads)
    bounds = [len(todo) * i // count for i in range(count + 1)] if count else [0]
    ends, sizes, places, at = [], [], {}, 0
    for i in range(count):
        some = range(bounds[i], bounds[i + 1])
        key = ("scores", name, tokenize(len(todo), threads, keys[bounds[i]]))
        made.graph[key] = Task(key, gathered, *(TaskRef(keys[k]) for k in some))
        ends.append(key)
        sizes.append(sum(len(todo[k][1]) for k in some))
        for f, path in todo[bounds[i] : bounds[i + 1]]:
            for candidate in path:
                places[candidate, f] = at
                at += 1
    for i, plan in enumerate(plans):
        for f in range(len(folds)):
            places[i, f] = places[first[plan.key], f]
    return Work(made.graph, Layout(ends, sizes, places), made.nodes, made.evaluations)


def _cut(paths: list[list[int]], folds: int, threads: int) -> list[list[int]]:
    """Cut paths where there are fewer than threads could run."""
    pieces = -(-threads // max(1, len(paths) * folds))
    if pieces == 1:
        return paths
    out = []
    for path in paths:
        size = -(-len(path) // pieces)
        out += [path[i : i + size] for i in range(0, len(path), size)]
    return out


class _Builder:
    """The tasks made so far."""

    def __init__(self, setting: Any, tables: Sequence[Any], folds: Sequence[Fold], name: str, train: bool, plain: bool) -> None:
        self.setting, self.tables, self.name, self.train, self.plain = setting, tables, name, train, plain
        self.graph: dict[Any, Any] = {}
        self.nodes: dict[Any, Node] = {}
        self.evaluations: dict[Any, tuple[int, ...]] = {}
        self.folds: list[Any] = []
        for fold in folds:
            key = ("fold", name, fold.number, tokenize(fold.train, fold.test))
            self.graph[key] = DataNode(key, fold)
            self.folds.append(TaskRef(key))

    def _task(self, kind: str, f: int, told: Any, function: Any, *args: Any) -> TaskRef:
        """Add a task on a fold, unless it is there."""
        key = (kind, self.name, told, self.folds[f].key[2:])
        if key not in self.graph:
            self.graph[key] = Task(key, function, self.setting, self.tables[f], self.folds[f], *args)
        return TaskRef(key)

    def rows(self, f: int) -> TaskRef:
        """Return the rows of a fold."""
        return self._task("cut", f, "", cut)

    def part(self, f: int, node: Node) -> TaskRef:
        """Return the fit of a node, made after all that it reads."""
        before = self.part(f, node.before) if node.before else None
        whole = self.part(f, node.whole) if node.whole else None
        inner = [self.part(f, part) for _, part in node.members]
        found = self._task("member" if node.inner else "fit", f, node.key, extended, self.rows(f), node, before, whole, *inner)
        self.nodes[found.key] = node
        return found

    def seen(self, f: int, node: Node, train: bool) -> TaskRef:
        """Return what a node makes of the rows that are scored."""
        before = self.seen(f, node.before, train) if node.before else None
        return self._task("train" if train else "test", f, node.key, moved, self.rows(f), train, self.part(f, node), before)

    def evaluate(self, f: int, path: Sequence[int], candidates: Sequence[dict[str, Any]], last: Node | None) -> Any:
        """Return the key of the scores of candidates that are fitted one after the other."""
        some = [Candidate(i, len(candidates), candidates[i]) for i in path]
        args: list[Any] = []
        if last is not None:
            args.append(self.part(f, last))
            if self.plain:
                args += [self.seen(f, last, train) for train in ((False, True) if self.train else (False,))]
        key = self._task("score", f, tuple(path), evaluated, self.rows(f), some, *args).key
        self.evaluations[key] = tuple(path)
        return key


def policy(threads: int, groups: int) -> go.Policy:
    """Return how far graphopt may go with a search: groups of scores stay apart, and with them all that is shared."""
    return go.Policy(parallelism=max(groups, threads), spare=1, passes=("cull", "aliases", "diamond", "lanes"))
