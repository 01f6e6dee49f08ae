"""Stochastic: SAGA with scikit-learn's manners, on all rows at once or over chunks as they come."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from dask.base import compute, tokenize
from sklearn.utils.multiclass import check_classification_targets

from solvers.data import column, matrix
from solvers.estimators.base import LinearModel, Regressor, applied, in_memory, is_lazy
from solvers.estimators.classes import LogisticRegression
from solvers.families import Family, Logistic, family_of
from solvers.penalties import ElasticNet, Penalty
from solvers.saga import SAGA
from solvers.stochastic.derivatives import derivative_of
from solvers.stochastic.passes import Passes
from solvers.stochastic.walk import block_of

__all__ = ["SAGAClassifier", "SAGARegressor"]

Callback = Callable[..., Any] | None


class _Stochastic(LinearModel):
    """What both share."""

    alpha: float
    l1_ratio: float
    seed: int
    visit: int | None
    lanes: int
    derivative: Any = None

    def _method(self) -> SAGA:
        self.__dict__.pop("passes_", None)  # a fit begins anew
        return SAGA(seed=self.seed, visit=self.visit, lanes=self.lanes, derivative=self.derivative)

    def _penalty(self, total: float) -> Penalty:
        return ElasticNet(self.alpha, self.l1_ratio)

    def _passed(self, X: Any, y: Any, sample_weight: Any, family: Family, chunk: Hashable) -> None:
        """Go through rows in memory, or through each chunk of lazy ones, once."""
        if not is_lazy(X):
            self._over(X, y, in_memory(sample_weight), family, chunk)
            return
        X = matrix(X)
        rows = X.chunks[0]
        weights = None if sample_weight is None else column("sample_weight", sample_weight, rows)
        parts = [part.to_delayed().ravel() for part in (X, column("y", y, rows), weights) if part is not None]
        for i, some in enumerate(zip(*parts, strict=True)):
            found = [*compute(*some), None]
            self._over(found[0], found[1], found[2], family, None if chunk is None else (chunk, i))

    def _over(self, X: Any, y: Any, weights: Any, family: Family, chunk: Hashable) -> None:
        weights = None if weights is None else np.broadcast_to(np.asarray(weights, float), (X.shape[0],))
        if weights is not None and not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError("sample_weight: must be finite numbers of at least 0.")
        if np.any(family.wrong(np.asarray(y, float))):
            raise ValueError(f"y: some labels are not {family.labels}, as {family!r} needs them.")
        if not hasattr(self, "passes_"):
            start = np.zeros(X.shape[1] + self.fit_intercept)
            if hasattr(self, "coef_"):
                start = np.append(np.ravel(self.coef_), np.ravel(self.intercept_)[: int(self.fit_intercept)])
            self.passes_ = Passes(start, np.zeros(len(start)))
        method = SAGA(seed=self.seed, derivative=self.derivative)
        options: dict[str, Any] = {
            "intercept": self.fit_intercept,
            "seed": self.seed,
            "pace": method.pace,
            "own": self.derivative,
        }
        name = tokenize(X, y, weights) if chunk is None else chunk
        self.passes_ = self.passes_.over(name, block_of(X, y, weights), family, self._penalty(1.0), **options)
        beta = self.passes_.beta
        self.coef_, self.intercept_ = (beta[:-1], float(beta[-1])) if self.fit_intercept else (beta, 0.0)


class SAGARegressor(_Stochastic, Regressor):
    """Regression by stochastic average gradients: least squares, Huber's loss, counts or amounts.

    Parameters
    ----------
    loss : str or Family
        "normal", "huber", "poisson" or "gamma", or a family of one's own.
    alpha : float
        Strength of the penalty, beside the mean loss.
    l1_ratio : float
        The lasso's part of the penalty; the rest is ridge's.
    fit_intercept : bool
        Whether to fit an intercept, which no penalty is of.
    derivative : callable, optional
        The derivative of the loss as a function of linear predictor and label, compiled by ``numba.njit``, for a family of
        one's own.
    seed, visit, lanes
        As of `solvers.SAGA`.
    tol : float
        The certificate to reach.
    max_iter : int
        The most epochs.
    warm_start : bool
        Begin at the coefficients of the last fit.
    chunks : str, optional
        "auto" to look some seconds for the chunks that suit solver and machine, in which lazy rows are fitted then; for more
        fits to them take ``result_.chunks.rechunk(X, y)``. By default rows stay as they are cut.
    callback : callable, optional
        Called after each epoch with a line of the trace and the coefficients; ends the fit if it returns True.
    progress : bool
        Show epochs, objective and certificate on standard error while it runs.

    Attributes
    ----------
    coef_ : numpy.ndarray of shape (features,)
        The coefficients.
    intercept_ : float
        0 if there is none.
    result_ : solvers.Result
        How they were found by `fit`: status with advice, certificate, trace.
    passes_ : Passes
        What `partial_fit` remembers: a number for each row.
    n_iter_ : int
        How many epochs it took; after `partial_fit`, how many chunks were gone through.
    n_features_in_, feature_names_in_
        Of X.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> from solvers.estimators import SAGARegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> round(SAGARegressor(alpha=0.1).fit(scale(X), y).score(scale(X), y), 2)
    0.51
    """

    def __init__(
        self,
        *,
        loss: str | Family = "normal",
        alpha: float = 0.0001,
        l1_ratio: float = 0.0,
        fit_intercept: bool = True,
        derivative: Any = None,
        seed: int = 0,
        visit: int | None = None,
        lanes: int = 1,
        tol: float = 1e-6,
        max_iter: int = 1000,
        warm_start: bool = False,
        chunks: str | None = None,
        callback: Callback = None,
        progress: bool = False,
    ) -> None:
        self.loss = loss
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.derivative = derivative
        self.seed = seed
        self.visit = visit
        self.lanes = lanes
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.chunks = chunks
        self.callback = callback
        self.progress = progress

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, chunk: Hashable = None) -> Any:
        """Go through some rows once, and remember them.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`. Lazy rows are gone through chunk by chunk.
        chunk : hashable, optional
            A name for these rows. Rows of the same name are the same rows: what they remember is used and renewed. By default
            they are known by what they hold, which takes a moment to look at.

        Returns
        -------
        self

        Notes
        -----
        All chunks that came so far are one problem. One pass over each is not its optimum; some are near it, and `fit` is
        nearer after as many, for it goes through all chunks by turns.
        """
        first = not hasattr(self, "coef_")
        X, y = self._checked(X, y, reset=first)
        family = self._family()
        if derivative_of(family, self.derivative) is None:
            raise ValueError(f"SAGARegressor(derivative=): {family!r} needs one, an njit function of eta and y.")
        self._passed(X, y, sample_weight, family, chunk)
        self.n_iter_ = self.passes_.count
        return self

    def predict(self, X: Any) -> Any:
        """Return the prediction of each row; a dask array, not computed yet, where X is lazy."""
        return applied(self._family().mean, self._scores(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return D², the part of the deviance from the mean label that is explained; R² for losses without a deviance."""
        family = self._family()
        if family.name in ("poisson", "gamma"):
            return self._explained(self._scores(X), y, sample_weight, family)
        return super().score(X, y, sample_weight)

    def _family(self) -> Family:
        return family_of(self.loss)


class SAGAClassifier(_Stochastic, LogisticRegression):
    """Logistic regression of two classes by stochastic average gradients.

    Parameters
    ----------
    alpha : float
        Strength of the penalty, beside the mean loss.
    l1_ratio : float
        The lasso's part of the penalty; the rest is ridge's.
    fit_intercept : bool
        Whether to fit an intercept, which no penalty is of.
    class_weight : dict or "balanced", optional
        How much rows of each class count in `fit`, beside ``sample_weight``; "balanced" gives both the same sum.
    seed, visit, lanes
        As of `solvers.SAGA`.
    tol : float
        The certificate to reach.
    max_iter : int
        The most epochs.
    warm_start : bool
        Begin at the coefficients of the last fit.
    chunks : str, optional
        "auto" to look some seconds for the chunks that suit solver and machine, in which lazy rows are fitted then; for more
        fits to them take ``result_.chunks.rechunk(X, y)``. By default rows stay as they are cut.
    callback : callable, optional
        Called after each epoch with a line of the trace and the coefficients; ends the fit if it returns True.
    progress : bool
        Show epochs, objective and certificate on standard error while it runs.

    Attributes
    ----------
    classes_ : numpy.ndarray
        The labels there are, in order.
    coef_ : numpy.ndarray of shape (1, features)
        The coefficients of the second class.
    intercept_ : numpy.ndarray of shape (1,)
        0 if there is none.
    result_ : solvers.Result
        How they were found by `fit`: status with advice, certificate, trace.
    passes_ : Passes
        What `partial_fit` remembers: a number for each row.
    n_iter_ : numpy.ndarray of shape (1,)
        How many epochs it took; after `partial_fit`, how many chunks were gone through.
    n_features_in_, feature_names_in_
        Of X.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import scale
    >>> from solvers.estimators import SAGAClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> round(SAGAClassifier(alpha=0.01).fit(scale(X), y).score(scale(X), y), 3)
    0.986
    """

    def __init__(
        self,
        *,
        alpha: float = 0.0001,
        l1_ratio: float = 0.0,
        fit_intercept: bool = True,
        class_weight: Any = None,
        seed: int = 0,
        visit: int | None = None,
        lanes: int = 1,
        tol: float = 1e-6,
        max_iter: int = 1000,
        warm_start: bool = False,
        chunks: str | None = None,
        callback: Callback = None,
        progress: bool = False,
    ) -> None:
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.seed = seed
        self.visit = visit
        self.lanes = lanes
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.chunks = chunks
        self.callback = callback
        self.progress = progress

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None, chunk: Hashable = None) -> Any:
        """Go through some rows once, and remember them.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`. Lazy rows are gone through chunk by chunk.
        classes : array of shape (2,)
            All labels there are; at the first call.
        chunk : hashable, optional
            A name for these rows. Rows of the same name are the same rows: what they remember is used and renewed. By default
            they are known by what they hold, which takes a moment to look at.

        Returns
        -------
        self

        Notes
        -----
        All chunks that came so far are one problem. One pass over each is not its optimum; some are near it, and `fit` is
        nearer after as many, for it goes through all chunks by turns.
        """
        first = not hasattr(self, "coef_")
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        X, y = self._checked(X, y, reset=first)
        y = np.asarray(in_memory(y))
        check_classification_targets(y)
        known = self.classes_ if not first else np.unique(classes)
        if classes is not None and not np.array_equal(np.unique(classes), known):
            raise ValueError(f"classes={classes!r}: they were {known.tolist()} on the first call to partial_fit.")
        self._family_of(len(known))
        if not np.isin(y, known).all():
            raise ValueError(f"y: some labels are not among classes, {known.tolist()}.")
        self.classes_ = known
        self._passed(X, (y == known[1]).astype(float), sample_weight, Logistic(), chunk)
        self.coef_, self.intercept_ = np.atleast_2d(self.coef_), np.atleast_1d(self.intercept_)
        self.n_iter_ = np.array([self.passes_.count])
        return self

    def _family_of(self, classes: int) -> Family:
        if classes != 2:
            words = "Only binary classification is supported. The type of the target is multiclass"
            raise ValueError(f"{words}, with {classes} classes; use LogisticRegression.")
        return Logistic()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags
