"""Grid: the searches themselves. Each is scikit-learn's of the same name, with its fits in one graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import model_selection as theirs
from sklearn.experimental import enable_halving_search_cv  # noqa: F401  (it lets the next import through)
from sklearn.model_selection import HalvingGridSearchCV as TheirHalvingGridSearchCV

from solvers.search.base import SharedSearch

__all__ = ["GridSearchCV", "HalvingGridSearchCV", "RandomizedSearchCV"]


class GridSearchCV(theirs.GridSearchCV, SharedSearch):  # type: ignore[misc]
    """All candidates of a grid; equal parts of their pipelines are fitted once.

    Parameters
    ----------
    estimator : estimator
        Any of scikit-learn's kind.
    param_grid : dict or list of dicts
        Values to try for each parameter.
    scoring, refit, cv, verbose, error_score, return_train_score
        As of `sklearn.model_selection.GridSearchCV`.
    n_jobs : int, optional
        How many threads or processes dask's local schedulers may use; by default as many as they would. A cluster has those
        that it has.
    pre_dispatch
        Without meaning here.
    progress : bool
        Show on standard error how many fits are done.

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, refit_time_, multimetric_
        As scikit-learn has them.
    classes_, n_features_in_, feature_names_in_
        Of the best estimator.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from solvers.search import GridSearchCV
    >>> pipeline = make_pipeline(PCA(), LogisticRegression())
    >>> grid = {"pca__n_components": [2, 3], "logisticregression__C": [0.1, 1.0, 10.0]}
    >>> search = GridSearchCV(pipeline, grid, cv=3).fit(*load_iris(return_X_y=True))
    >>> search.best_params_
    {'logisticregression__C': 10.0, 'pca__n_components': 3}
    >>> search.explain().plain["pca"], search.explain().done["pca"]
    (18, 3)
    """

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: Any = "2*n_jobs",
        error_score: Any = np.nan,
        return_train_score: bool = False,
        progress: bool = False,
    ) -> None:
        super().__init__(
            estimator,
            param_grid,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.progress = progress


class RandomizedSearchCV(theirs.RandomizedSearchCV, SharedSearch):  # type: ignore[misc]
    """Candidates drawn from distributions; equal parts of their pipelines, and equal candidates, are fitted once.

    Parameters
    ----------
    estimator : estimator
        Any of scikit-learn's kind.
    param_distributions : dict or list of dicts
        Values or distributions of each parameter.
    n_iter : int
        How many candidates to draw.
    scoring, refit, cv, verbose, error_score, return_train_score, random_state
        As of `sklearn.model_selection.RandomizedSearchCV`.
    n_jobs, pre_dispatch, progress
        As of `GridSearchCV`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from solvers.search import RandomizedSearchCV
    >>> search = RandomizedSearchCV(LogisticRegression(max_iter=1000), {"C": [0.1, 1.0, 10.0]}, n_iter=2, random_state=0)
    >>> search.fit(*load_iris(return_X_y=True)).best_params_
    {'C': 10.0}
    """

    def __init__(
        self,
        estimator: Any,
        param_distributions: Any,
        *,
        n_iter: int = 10,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: Any = "2*n_jobs",
        random_state: Any = None,
        error_score: Any = np.nan,
        return_train_score: bool = False,
        progress: bool = False,
    ) -> None:
        super().__init__(
            estimator,
            param_distributions,
            n_iter=n_iter,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            random_state=random_state,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.progress = progress


class HalvingGridSearchCV(TheirHalvingGridSearchCV, SharedSearch):  # type: ignore[misc]
    """All candidates of a grid on few rows, the best of them on more, and so on; each round is a graph that fits nothing twice.

    Parameters
    ----------
    estimator : estimator
        Any of scikit-learn's kind.
    param_grid : dict or list of dicts
        Values to try for each parameter.
    factor, resource, max_resources, min_resources, aggressive_elimination, cv, scoring, refit, error_score
        As of `sklearn.model_selection.HalvingGridSearchCV`.
    return_train_score, random_state, verbose
        The same.
    n_jobs, progress
        As of `GridSearchCV`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from solvers.search import HalvingGridSearchCV
    >>> search = HalvingGridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [1, 2, 3]}, random_state=0)
    >>> search.fit(*load_iris(return_X_y=True)).n_candidates_
    [3, 1]
    """

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        factor: float = 3,
        resource: str = "n_samples",
        max_resources: Any = "auto",
        min_resources: Any = "exhaust",
        aggressive_elimination: bool = False,
        cv: Any = 5,
        scoring: Any = None,
        refit: bool = True,
        error_score: Any = np.nan,
        return_train_score: bool = True,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        progress: bool = False,
    ) -> None:
        super().__init__(
            estimator,
            param_grid,
            factor=factor,
            resource=resource,
            max_resources=max_resources,
            min_resources=min_resources,
            aggressive_elimination=aggressive_elimination,
            cv=cv,
            scoring=scoring,
            refit=refit,
            error_score=error_score,
            return_train_score=return_train_score,
            random_state=random_state,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.progress = progress
