"""Base: a search of scikit-learn's whose fits are one graph.

`SharedSearch` takes the place of scikit-learn's own loop in the classes that derive from both. Candidates, checks, scorers,
routing, failures and the table of results are scikit-learn's; what is fitted, where, and how often, is decided here.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from sklearn.base import _fit_context, is_classifier
from sklearn.model_selection import _search as searching
from sklearn.model_selection import _validation as validation
from sklearn.model_selection import check_cv
from sklearn.utils.validation import check_is_fitted, indexable

from solvers.search.account import Savings
from solvers.search.job import Job
from solvers.search.lazy import is_lazy, known
from solvers.search.values import Table

__all__ = ["SharedSearch"]


class SharedSearch(searching.BaseSearchCV):  # type: ignore[misc]
    """A search that fits nothing twice. To be derived from after a search of scikit-learn's."""

    progress: bool

    @_fit_context(prefer_skip_nested_validation=False)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Fit and score all candidates, and refit the best.

        Parameters
        ----------
        X : array, sparse matrix, dataframe or list of shape (rows, features)
            In memory or a dask array.
        y : array of shape (rows,) or (rows, outputs), optional
            Labels.
        **params
            What ``fit``, the scorers and the splitter get besides, such as ``groups`` or ``sample_weight``, as scikit-learn
            routes it.

        Returns
        -------
        self
        """
        if _has_callbacks(self):
            return super().fit(X, y, **params)
        scorer, metric = self._get_scorers()
        X, y, params = _ready(X, y, params)
        params = validation._check_method_params(X, params=params)
        routed = self._get_routed_params_for_fit(params)
        table = Table(X, y, dict(routed.estimator.fit), dict(routed.scorer.score))
        split = routed.splitter.split
        self._checked_cv_orig = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        self._check_input_parameters(X=X, y=y, split_params=split)
        self.n_splits_ = self._checked_cv_orig.get_n_splits(X, y, **split)
        job = Job(self, scorer, metric, table, split)
        if "callback_ctx" in inspect.signature(self._run_search).parameters:
            self._run_search(job, callback_ctx=_NoCallbacks())
        else:
            self._run_search(job)
        job.finish()
        return self

    def explain(self) -> Savings:
        """Return how many fits a plain search would have done, how many were done, and what was shared.

        Returns
        -------
        Savings
            Printing it shows all.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        check_is_fitted(self, "_savings")
        found: Savings = self._savings
        return found

    def visualize(self, filename: Any) -> None:
        """Draw what the candidates share, as SVG or PNG by the ending of the name of the file.

        Parameters
        ----------
        filename : str or path
            Where to.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ImportError
            If matplotlib is not installed.
        """
        from solvers.search.picture import draw

        draw(self.explain(), filename)


@dataclass(frozen=True)
class _NoCallbacks:
    """Stands for the callbacks of scikit-learn where there are none."""

    def subcontext(self, **_: Any) -> _NoCallbacks:
        return self

    def call_on_fit_task_begin(self, **_: Any) -> _NoCallbacks:
        return self

    def call_on_fit_task_end(self, **_: Any) -> bool:
        return False


def _has_callbacks(search: Any) -> bool:
    """Say whether somebody wants to hear of each fit, which scikit-learn's own loop tells."""
    estimators = (search, search.estimator)
    return any(getattr(estimator, "_skl_callbacks", None) for estimator in estimators)


def _ready(X: Any, y: Any, params: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Return rows that can be cut by number, and all else in memory."""
    y = y.compute() if is_lazy(y) else y
    params = {name: value.compute() if is_lazy(value) else value for name, value in params.items()}
    X = known(X) if is_lazy(X) else X
    X, y = indexable(X, y)
    return X, y, params
