"""Job: one `fit` of a search. Scikit-learn's searches call it with candidates; it has them fitted and scored."""

from __future__ import annotations

import uuid
import warnings
from collections import defaultdict
from typing import Any

import numpy as np
from dask.base import tokenize
from dask.task_spec import DataNode, Task, TaskRef
from sklearn import get_config
from sklearn.base import clone
from sklearn.metrics._scorer import _BaseScorer, _MultimetricScorer, _PassthroughScorer
from sklearn.model_selection import _search as searching

from solvers.search.account import Savings, count
from solvers.search.choice import Choice, bare, choose, chosen, in_order, refitted
from solvers.search.graph import build
from solvers.search.lazy import fold_table, is_lazy, of_ours, one_by_one, whole_table
from solvers.search.outline import Plan, distinct, outline
from solvers.search.run import Place, held, run
from solvers.search.tasks import is_square
from solvers.search.values import Fold, Score, Setting, Table

__all__ = ["Job"]

#: Searches that ask for candidates once, so that choice and refit can be part of the same graph.
_OF_ONE_ROUND = (searching.GridSearchCV._run_search, searching.RandomizedSearchCV._run_search)


class Job:
    """What a search remembers while it runs.

    Parameters
    ----------
    search
        Whose results these are.
    scorer, metric
        What scores, and what chooses.
    table
        Rows, labels and what belongs to them.
    split : dict
        What the splitter gets besides.
    """

    def __init__(self, search: Any, scorer: Any, metric: Any, table: Table, split: dict[str, Any]) -> None:
        self.search, self.metric, self.table, self.split = search, metric, table, split
        names = ("return_train_score", "error_score", "verbose")
        options = {name: getattr(search, name) for name in names}
        self.setting = Setting(clone(search.estimator), scorer, _sees_predictions(scorer), options, get_config())
        self.candidates: list[dict[str, Any]] = []
        self.outs: list[dict[str, Any]] = []
        self.more: defaultdict[str, list[Any]] = defaultdict(list)
        self.rounds: list[Savings] = []
        self.choice: Choice | None = None
        self.best: tuple[Any, float] | None = None
        self.place = Place(search.n_jobs)
        self.lazy = is_lazy(table.X)
        self.ours = self.lazy and of_ours(self.setting.estimator)
        self.once = type(search)._run_search in _OF_ONE_ROUND and not self.ours
        self.name = uuid.uuid4().hex  # of these rows; what else a key is made of is hashed
        self.held: dict[Any, Any] = {}

    def __call__(self, candidate_params: Any, cv: Any = None, more_results: Any = None, callback_ctx: Any = None) -> Any:
        """Evaluate candidates; return the results so far."""
        candidates = list(candidate_params)
        folds = self._folds(cv or self.search._checked_cv_orig)
        if self.search.verbose > 0:
            fits = len(candidates) * len(folds)
            print(f"Fitting {len(folds)} folds for each of {len(candidates)} candidates, totalling {fits} fits")
        if not candidates or not folds:
            raise ValueError("No fits were performed. Was the CV iterator empty? Were there no candidates?")
        self.candidates += candidates
        for name, values in (more_results or {}).items():
            self.more[name] += values
        shape = min(len(fold.train) for fold in folds), *getattr(self.table.X, "shape", ())[1:2]
        plans = outline(self.setting.estimator, candidates, self.table.fit_params, apart=is_square(self.table.X), shape=shape)
        (self._here if self.ours else self._there)(candidates, folds, plans)
        self.search._savings = Savings.of(self.rounds)
        if self.choice is None:
            return self._chosen(decide=False).results
        return self.choice.results

    def finish(self) -> None:
        """Choose and refit, unless that is done, and tell the search."""
        search = self.search
        choice = self.choice or self._chosen(decide=True)
        search.multimetric_ = choice.multimetric
        if choice.index is not None:
            search.best_index_ = choice.index
            if not callable(search.refit):
                search.best_score_ = choice.results[f"mean_test_{choice.metric}"][choice.index]
            search.best_params_ = choice.results["params"][choice.index]
        if search.refit:
            search.best_estimator_, search.refit_time_ = self.best or self._refitted(choice)
            if hasattr(search.best_estimator_, "feature_names_in_"):
                search.feature_names_in_ = search.best_estimator_.feature_names_in_
        scorer = self.setting.scorer
        search.scorer_ = scorer._scorers if isinstance(scorer, _MultimetricScorer) else scorer
        search.cv_results_ = choice.results

    def _folds(self, cv: Any) -> list[Fold]:
        splits = list(cv.split(self.table.X, self.table.y, **self.split))
        expected = self.search.n_splits_
        if len(splits) != expected:
            raise ValueError(
                f"cv.split and cv.get_n_splits return inconsistent results. Expected {expected} splits, got {len(splits)}"
            )
        return [Fold(_numbers(train), _numbers(test), i, expected) for i, (train, test) in enumerate(splits)]

    def _chosen(self, decide: bool) -> Choice:
        outs = [dict(out) for out in self.outs]
        choice = choose(
            self.search, self.metric, list(self.candidates), outs, dict(self.more), self.search.n_splits_, decide=decide
        )
        if not decide:
            _warned(choice)
        return choice

    def _here(self, candidates: list[dict[str, Any]], folds: list[Fold], plans: list[Plan]) -> None:
        """Evaluate estimators of ours on lazy rows: each fit is a run of its own over the chunks, where they are."""
        scores = dict(one_by_one(self.setting, self.table, folds, candidates, plans))
        self.outs += [scores[i, f].out for i in range(len(candidates)) for f in range(len(folds))]
        self.rounds.append(count(None, plans, len(folds), scores))

    def _there(self, candidates: list[dict[str, Any]], folds: list[Fold], plans: list[Plan]) -> None:
        """Evaluate candidates by one graph, which chooses, too, if there are no more to come.

        It refits as well, but for threads: they hold BLAS to its part, which may have all processors when nothing else runs.
        """
        graph: dict[Any, Any] = {}
        setting, tables, folds = self._inputs(graph, folds)
        work = build(
            setting,
            tables,
            folds,
            candidates,
            plans,
            train=self.search.return_train_score,
            plain=self.setting.plain,
            name=f"{self.name}-{len(self.rounds)}",
            threads=self.place.threads,
        )
        graph.update(work.graph)
        keys = list(work.layout.keys)
        if self.once:
            keys.append(("choice", self.name, tokenize(keys)))
            parts = [TaskRef(key) for key in work.layout.keys]
            told = (bare(self.search), self.metric, candidates, work.layout, len(folds))
            graph[keys[-1]] = Task(keys[-1], chosen, *told, *parts)
            if self.search.refit and not self.place.holds:
                keys.append(self._refit(graph, setting, keys[-1]))
        weights = dict(zip(work.layout.keys, work.layout.sizes, strict=True))
        with held(self.place):
            found = run(self.place, graph, keys, weights, bool(getattr(self.search, "progress", False)))
        scores = in_order([score for part in found[: len(weights)] for score in part], work.layout, len(folds))
        self._take(work, plans, len(folds), scores)
        if self.once:
            self.choice = found[len(weights)]
            _warned(self.choice)
            self.best = found[-1] if self.search.refit and not self.place.holds else None

    def _take(self, work: Any, plans: list[Plan], folds: int, scores: list[Score]) -> None:
        self.outs += [score.out for score in scores]
        own = {(i, f): scores[i * folds + f] for i in distinct(plans).values() for f in range(folds)}
        alone = [plans[i].last for (i, _), score in own.items() if not score.given]
        lost = {node.key for node in alone if node is not None}
        self.rounds.append(count(work, plans, folds, own, lost))

    def _inputs(self, graph: dict[Any, Any], folds: list[Fold]) -> tuple[Any, list[Any], list[Fold]]:
        """Put into the graph what all tasks read; return keys, and folds as the tables of rows count them."""
        setting = self._put(graph, "setting", self.setting)
        if not self.lazy:
            return setting, [self._put(graph, "table", self.table)] * len(folds), folds
        pairs = [fold_table(graph, self.table, fold) for fold in folds]
        return setting, [key for key, _ in pairs], [fold for _, fold in pairs]

    def _put(self, graph: dict[Any, Any], kind: str, value: Any) -> Any:
        key = (kind, self.name)
        if key not in self.held:
            self.held[key] = self.place.put(value)
        held = self.held[key]
        graph[key] = DataNode(key, held) if held is value else held
        return key

    def _refit(self, graph: dict[Any, Any], setting: Any, choice: Any) -> Any:
        """Add the fit of the best to a graph; return its key."""
        table = whole_table(graph, self.table) if self.lazy else self._put(graph, "table", self.table)
        key = ("refit", self.name, tokenize(choice))
        graph[key] = Task(key, refitted, TaskRef(setting), TaskRef(table), TaskRef(choice))
        return key

    def _refitted(self, choice: Choice) -> Any:
        """Refit where that could not be part of the graph that scored."""
        if self.ours:
            return refitted(self.setting, self.table, choice)
        graph: dict[Any, Any] = {}
        key = ("choice", self.name)
        graph[key] = DataNode(key, choice)
        last = self._refit(graph, self._put(graph, "setting", self.setting), key)
        return run(self.place, graph, [last], {}, False)[0]


def _numbers(rows: Any) -> np.ndarray:
    """Return numbers of rows; splitters may give a mask."""
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows


def _sees_predictions(scorer: Any) -> bool:
    """Say whether a scorer is one of scikit-learn's, which hand rows to the estimator and look at predictions only."""
    if isinstance(scorer, _MultimetricScorer):
        return all(map(_sees_predictions, scorer._scorers.values()))
    return isinstance(scorer, (_BaseScorer, _PassthroughScorer)) and type(scorer).__module__.startswith("sklearn.")


def _warned(choice: Choice) -> None:
    for message, category in choice.warnings:
        warnings.warn(message, category, stacklevel=2)
