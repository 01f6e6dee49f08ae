"""Lazy: rows of dask. A fold of them is computed by the same graph that fits it, and dropped when that is done.

Estimators of ours take dask arrays as they are: there the rows stay in their chunks, and each fit is a run of its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import dask.array as da
import numpy as np
import scipy.sparse
from dask.task_spec import Task, TaskRef
from sklearn.model_selection import _validation as validation

from solvers.search.outline import Plan, paths
from solvers.search.tasks import evaluated
from solvers.search.values import Candidate, Fold, Setting, Table

__all__ = ["fold_table", "is_lazy", "known", "of_ours", "one_by_one", "whole_table"]


def is_lazy(value: Any) -> bool:
    """Say whether something is of dask."""
    return isinstance(value, da.Array) or hasattr(value, "to_dask_array")


def known(X: Any) -> Any:
    """Return rows as a dask array whose number is known, each row in one chunk."""
    if hasattr(X, "to_dask_array"):
        X = X.to_dask_array(lengths=True)
    if np.isnan(X.shape[0]):
        X = X.compute_chunk_sizes()
    return X.rechunk({1: -1}) if X.ndim > 1 and X.numblocks[1] > 1 else X


def of_ours(estimator: Any) -> bool:
    """Say whether an estimator takes dask arrays as they are."""
    from solvers.estimators.base import LinearModel

    return isinstance(estimator, LinearModel)


def one_by_one(
    setting: Setting, table: Table, folds: Sequence[Fold], candidates: Sequence[dict[str, Any]], plans: Sequence[Plan]
) -> Iterator[tuple[tuple[int, int], Any]]:
    """Evaluate estimators of ours; yield scores of candidate and fold. Candidates on one path are fitted along it."""
    for fold in folds:
        for path in paths(plans, range(len(plans))):
            some = [Candidate(i, len(candidates), candidates[i]) for i in path]
            for i, score in zip(path, evaluated(setting, table, fold, None, some), strict=True):
                yield (i, fold.number), score


def fold_table(graph: dict[Any, Any], table: Table, fold: Fold) -> tuple[Any, Fold]:
    """Add the rows of a fold to a graph; return their key, and the fold as it counts them."""
    numbers = np.concatenate([fold.train, fold.test])
    X = da.concatenate([table.X[fold.train], table.X[fold.test]])
    y = None if table.y is None else _taken(table.y, numbers)
    params = [_cut(table, given, numbers) for given in (table.fit_params, table.score_params)]
    ends = len(fold.train), len(numbers)
    counted = Fold(np.arange(ends[0]), np.arange(*ends), fold.number, fold.count)
    return _added(graph, X, y, *params), counted


def whole_table(graph: dict[Any, Any], table: Table) -> Any:
    """Add all rows to a graph; return their key."""
    return _added(graph, table.X, table.y, table.fit_params, table.score_params)


def _cut(table: Table, params: dict[str, Any], numbers: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = validation._check_method_params(table.X, params=params, indices=numbers)
    return found


def _taken(values: Any, numbers: np.ndarray) -> Any:
    from sklearn.utils import _safe_indexing

    return _safe_indexing(values, numbers)


def _added(graph: dict[Any, Any], X: da.Array, y: Any, fit_params: dict[str, Any], score_params: dict[str, Any]) -> Any:
    graph.update(dict(X.__dask_graph__()))
    key = ("table", X.name, uuid.uuid4().hex)
    blocks = [TaskRef((X.name, i, *(0,) * (X.ndim - 1))) for i in range(X.numblocks[0])]
    graph[key] = Task(key, _stacked, y, fit_params, score_params, *blocks)
    return key


def _stacked(y: Any, fit_params: dict[str, Any], score_params: dict[str, Any], *blocks: Any) -> Table:
    """Return rows in one piece."""
    if any(scipy.sparse.issparse(block) for block in blocks):
        X = scipy.sparse.vstack([scipy.sparse.csr_matrix(block) for block in blocks], format="csr")
    else:
        X = blocks[0] if len(blocks) == 1 else np.concatenate([np.asarray(block) for block in blocks])
    return Table(X, y, fit_params, score_params)
