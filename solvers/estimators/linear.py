"""Linear: regression by least squares, without a penalty or with scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from solvers.estimators.base import Regressor
from solvers.iterate import Method
from solvers.penalties import Box, Penalty, Unpenalised
from solvers.penalties import ElasticNet as Mixture

__all__ = ["ElasticNet", "Lasso", "LinearRegression", "Ridge"]

Callback = Callable[..., Any] | None


class LinearRegression(Regressor):
    """Least squares.

    Parameters
    ----------
    fit_intercept : bool
        Whether to fit an intercept, which no penalty is of.
    positive : bool
        Look for coefficients of at least 0 only.
    solver : str or Method
        "auto", one of `solvers.fit.SOLVERS`, or a method.
    tol : float
        The certificate to reach.
    max_iter : int
        The most iterations.
    warm_start : bool
        Begin at the coefficients of the last fit.
    chunks : str, optional
        "auto" to look some seconds for the chunks that suit solver and machine, in which lazy rows are fitted then; for more
        fits to them take ``result_.chunks.rechunk(X, y)``. By default rows stay as they are cut.
    callback : callable, optional
        Called after each iteration with a line of the trace and the coefficients; ends the fit if it returns True.
    progress : bool
        Show iterations, objective and certificate on standard error while it runs.

    Attributes
    ----------
    coef_ : numpy.ndarray of shape (features,)
        The coefficients.
    intercept_ : float
        0 if there is none.
    result_ : solvers.Result
        How they were found: status with advice, certificate, trace.
    n_iter_ : int
        How many iterations it took.
    n_features_in_, feature_names_in_
        Of X.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from solvers.estimators import LinearRegression
    >>> X, y = load_diabetes(return_X_y=True)
    >>> round(LinearRegression().fit(X, y).score(X, y), 4)
    0.5177
    """

    def __init__(
        self,
        *,
        fit_intercept: bool = True,
        positive: bool = False,
        solver: str | Method = "auto",
        tol: float = 1e-6,
        max_iter: int = 200,
        warm_start: bool = False,
        chunks: str | None = None,
        callback: Callback = None,
        progress: bool = False,
    ) -> None:
        self.fit_intercept = fit_intercept
        self.positive = positive
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.chunks = chunks
        self.callback = callback
        self.progress = progress

    def _penalty(self, total: float) -> Penalty:
        return Box() if self.positive else Unpenalised()


class Ridge(Regressor):
    """Least squares with the sum of squared coefficients as penalty.

    Parameters
    ----------
    alpha : float
        Strength of the penalty.
    fit_intercept : bool
        Whether to fit an intercept, which no penalty is of.
    positive : bool
        Look for coefficients of at least 0 only.
    solver : str or Method
        "auto", one of `solvers.fit.SOLVERS`, or a method.
    tol : float
        The certificate to reach.
    max_iter : int
        The most iterations.
    warm_start : bool
        Begin at the coefficients of the last fit.
    chunks : str, optional
        "auto" to look some seconds for the chunks that suit solver and machine, in which lazy rows are fitted then; for more
        fits to them take ``result_.chunks.rechunk(X, y)``. By default rows stay as they are cut.
    callback : callable, optional
        Called after each iteration with a line of the trace and the coefficients; ends the fit if it returns True.
    progress : bool
        Show iterations, objective and certificate on standard error while it runs.

    Attributes
    ----------
    coef_ : numpy.ndarray of shape (features,)
        The coefficients.
    intercept_ : float
        0 if there is none.
    result_ : solvers.Result
        How they were found: status with advice, certificate, trace.
    n_iter_ : int
        How many iterations it took.
    n_features_in_, feature_names_in_
        Of X.

    Notes
    -----
    It minimises the weighted sum of squared residuals and ``alpha`` times the sum of squared coefficients.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from solvers.estimators import Ridge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> round(Ridge(alpha=0.1).fit(X, y).score(X, y), 4)
    0.5126
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        fit_intercept: bool = True,
        positive: bool = False,
        solver: str | Method = "auto",
        tol: float = 1e-6,
        max_iter: int = 200,
        warm_start: bool = False,
        chunks: str | None = None,
        callback: Callback = None,
        progress: bool = False,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.positive = positive
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.chunks = chunks
        self.callback = callback
        self.progress = progress

    def _penalty(self, total: float) -> Penalty:
        return Mixture(self.alpha / total, 0.0, positive=self.positive)


class ElasticNet(Regressor):
    """Least squares with a mixture of the lasso's and ridge's penalties.

    Parameters
    ----------
    alpha : float
        Strength of the penalty.
    l1_ratio : float
        The lasso's part of the penalty; the rest is ridge's.
    fit_intercept : bool
        Whether to fit an intercept, which no penalty is of.
    positive : bool
        Look for coefficients of at least 0 only.
    solver : str or Method
        "auto", one of `solvers.fit.SOLVERS`, or a method.
    tol : float
        The certificate to reach.
    max_iter : int
        The most iterations.
    warm_start : bool
        Begin at the coefficients of the last fit.
    chunks : str, optional
        "auto" to look some seconds for the chunks that suit solver and machine, in which lazy rows are fitted then; for more
        fits to them take ``result_.chunks.rechunk(X, y)``. By default rows stay as they are cut.
    callback : callable, optional
        Called after each iteration with a line of the trace and the coefficients; ends the fit if it returns True.
    progress : bool
        Show iterations, objective and certificate on standard error while it runs.

    Attributes
    ----------
    coef_ : numpy.ndarray of shape (features,)
        The coefficients.
    intercept_ : float
        0 if there is none.
    result_ : solvers.Result
        How they were found: status with advice, certificate, trace.
    n_iter_ : int
        How many iterations it took.
    n_features_in_, feature_names_in_
        Of X.

    Notes
    -----
    It minimises half the weighted mean of squared residuals and ``alpha`` times the mixture.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from solvers.estimators import ElasticNet
    >>> X, y = load_diabetes(return_X_y=True)
    >>> ElasticNet(alpha=0.01, l1_ratio=0.8).fit(X, y).coef_.round().tolist()
    [27.0, -89.0, 320.0, 209.0, 0.0, -31.0, -155.0, 117.0, 275.0, 112.0]
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        l1_ratio: float = 0.5,
        fit_intercept: bool = True,
        positive: bool = False,
        solver: str | Method = "auto",
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
        self.positive = positive
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.chunks = chunks
        self.callback = callback
        self.progress = progress

    def _penalty(self, total: float) -> Penalty:
        return Mixture(self.alpha, self.l1_ratio, positive=self.positive)


class Lasso(Regressor):
    """Least squares with the sum of absolute coefficients as penalty, which makes some of them 0.

    Parameters
    ----------
    alpha : float
        Strength of the penalty.
    fit_intercept : bool
        Whether to fit an intercept, which no penalty is of.
    positive : bool
        Look for coefficients of at least 0 only.
    solver : str or Method
        "auto", one of `solvers.fit.SOLVERS`, or a method.
    tol : float
        The certificate to reach.
    max_iter : int
        The most iterations.
    warm_start : bool
        Begin at the coefficients of the last fit.
    chunks : str, optional
        "auto" to look some seconds for the chunks that suit solver and machine, in which lazy rows are fitted then; for more
        fits to them take ``result_.chunks.rechunk(X, y)``. By default rows stay as they are cut.
    callback : callable, optional
        Called after each iteration with a line of the trace and the coefficients; ends the fit if it returns True.
    progress : bool
        Show iterations, objective and certificate on standard error while it runs.

    Attributes
    ----------
    coef_ : numpy.ndarray of shape (features,)
        The coefficients.
    intercept_ : float
        0 if there is none.
    result_ : solvers.Result
        How they were found: status with advice, certificate, trace.
    n_iter_ : int
        How many iterations it took.
    n_features_in_, feature_names_in_
        Of X.

    Notes
    -----
    It minimises half the weighted mean of squared residuals and ``alpha`` times the sum of absolute coefficients.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from solvers.estimators import Lasso
    >>> X, y = load_diabetes(return_X_y=True)
    >>> Lasso(alpha=1.0).fit(X, y).coef_.round().tolist()
    [0.0, 0.0, 368.0, 6.0, 0.0, 0.0, 0.0, 0.0, 308.0, 0.0]
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        fit_intercept: bool = True,
        positive: bool = False,
        solver: str | Method = "auto",
        tol: float = 1e-6,
        max_iter: int = 1000,
        warm_start: bool = False,
        chunks: str | None = None,
        callback: Callback = None,
        progress: bool = False,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.positive = positive
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.chunks = chunks
        self.callback = callback
        self.progress = progress

    def _penalty(self, total: float) -> Penalty:
        return Mixture(self.alpha, 1.0, positive=self.positive)
