"""Choice: the table of results, the best candidate, and its fit on all rows. As scikit-learn does it, and by its functions."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sklearn.base import clone
from sklearn.model_selection import _validation as validation

from solvers.search.apart import apart
from solvers.search.graph import Layout
from solvers.search.values import Score, Setting, Table, at_work

__all__ = ["Choice", "bare", "choose", "chosen", "in_order", "refitted"]


@dataclass(frozen=True)
class Choice:
    """Results, the number of the best candidate if one is chosen, and what there was to warn of."""

    results: dict[str, Any]
    index: Any
    metric: Any
    multimetric: bool
    warnings: tuple[tuple[str, type[Warning]], ...]


def bare(search: Any) -> Any:
    """Return a search without what it searches: it only formats results."""
    found = copy.copy(search)
    found.estimator = found.cv = None
    for name in [name for name in vars(found) if name.endswith("_")]:
        delattr(found, name)
    return found


def in_order(scores: Sequence[Score], layout: Layout, folds: int) -> list[Score]:
    """Return scores by candidate and fold; equal candidates have equal ones."""
    count = len(layout.places) // folds
    return [scores[layout.places[i, f]] for i in range(count) for f in range(folds)]


def chosen(search: Any, metric: Any, candidates: list[dict[str, Any]], layout: Layout, folds: int, *parts: Any) -> Choice:
    """Choose, as a task that reads all groups of scores."""
    outs = [dict(score.out) for score in in_order([score for part in parts for score in part], layout, folds)]
    return choose(search, metric, candidates, outs, {}, folds, decide=True)


def choose(
    search: Any,
    metric: Any,
    candidates: list[dict[str, Any]],
    outs: list[dict[str, Any]],
    more: dict[str, list[Any]],
    folds: int,
    *,
    decide: bool,
) -> Choice:
    """Return results and the best candidate."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        validation._warn_or_raise_about_fit_failures(outs, search.error_score)
        if callable(search.scoring):
            validation._insert_error_scores(outs, search.error_score)
        results = search._format_results(candidates, folds, outs, more)
        multimetric = isinstance(outs[0]["test_scores"], dict)
        index = None
        if decide:
            if callable(search.scoring) and multimetric:
                search._check_refit_for_multimetric(outs[0]["test_scores"])
                metric = search.refit
            if search.refit or not multimetric:
                index = search._select_best_index(search.refit, metric, results)
    return Choice(results, index, metric, multimetric, tuple((str(one.message), one.category) for one in caught))


def refitted(setting: Setting, table: Table, choice: Choice) -> tuple[Any, float]:
    """Fit the best candidate on all rows; return it, and how many seconds that took."""
    with at_work(setting):
        params = choice.results["params"][choice.index]
        estimator = clone(setting.estimator).set_params(**clone(params, safe=False))
        labels = () if table.y is None else (table.y,)
        with apart():
            start = time.time()
            estimator.fit(table.X, *labels, **table.fit_params)
            return estimator, time.time() - start
