"""Counts: regression of what is not negative, with the logarithm as link: counts, and amounts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from solvers.estimators.base import Regressor, applied
from solvers.families import Family, Gamma, Poisson
from solvers.iterate import Method
from solvers.penalties import L2, Penalty

__all__ = ["GammaRegressor", "PoissonRegressor"]

Callback = Callable[..., Any] | None


class _LogLink(Regressor):
    """A model whose prediction is exp of the linear predictor."""

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        fit_intercept: bool = True,
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
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.chunks = chunks
        self.callback = callback
        self.progress = progress

    def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None, exposure: Any = None) -> Any:
        """Fit the model.

        Parameters
        ----------
        X : array, sparse matrix or dataframe of shape (rows, features)
            In memory or of dask.
        y : array of shape (rows,)
            Labels.
        sample_weight, offset, exposure : array of shape (rows,), optional
            How much each row counts; what is added to its linear predictor; what its prediction is multiplied by, such as the
            time in which events were counted (an offset of its logarithm).

        Returns
        -------
        self
        """
        X, y = self._checked(X, y)
        result = self._solved(X, y, self._family(), self._penalty, sample_weight, _offset(offset, exposure))
        self.coef_, self.intercept_ = result.coef, result.intercept
        return self

    def predict(self, X: Any, offset: Any = None, exposure: Any = None) -> Any:
        """Return the prediction of each row; a dask array, not computed yet, where X is lazy."""
        return applied(np.exp, self._scores(X, _offset(offset, exposure)))

    def score(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None, exposure: Any = None) -> float:
        """Return D², the part of the deviance from the mean label that is explained."""
        return self._explained(self._scores(X, _offset(offset, exposure)), y, sample_weight, self._family())

    def _penalty(self, total: float) -> Penalty:
        return L2(self.alpha)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags


def _offset(offset: Any, exposure: Any) -> Any:
    """Return what is added to the linear predictor."""
    if exposure is None:
        return offset
    exposure = exposure if hasattr(exposure, "dtype") else np.asarray(exposure, float)
    with np.errstate(divide="ignore", invalid="ignore"):  # what is not above 0 is refused as an offset
        logarithm = np.log(exposure)
    return logarithm if offset is None else offset + logarithm


class PoissonRegressor(_LogLink):
    """Regression of counts: their mean is exp of the linear predictor, and so is their variance.

    Parameters
    ----------
    alpha : float
        Strength of the penalty.
    fit_intercept : bool
        Whether to fit an intercept, which no penalty is of.
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
    It minimises half the weighted mean deviance and ``alpha / 2`` times the sum of squared coefficients.

    Examples
    --------
    >>> import numpy as np
    >>> from solvers.estimators import PoissonRegressor
    >>> X, hours = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([1.0, 1.0, 2.0, 2.0])
    >>> model = PoissonRegressor(alpha=0).fit(X, np.array([1, 2, 8, 16]), exposure=hours)
    >>> model.predict(X).round(3).tolist()
    [1.0, 2.0, 4.0, 8.0]
    """

    def _family(self) -> Family:
        return Poisson()


class GammaRegressor(_LogLink):
    """Regression of amounts above 0 whose spread grows with their mean, which is exp of the linear predictor.

    Parameters
    ----------
    alpha : float
        Strength of the penalty.
    fit_intercept : bool
        Whether to fit an intercept, which no penalty is of.
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
    It minimises half the weighted mean deviance and ``alpha / 2`` times the sum of squared coefficients.

    Examples
    --------
    >>> import numpy as np
    >>> from solvers.estimators import GammaRegressor
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> GammaRegressor(alpha=0).fit(X, [1.0, 2.0, 4.0, 8.0]).predict(X).round(3).tolist()
    [1.0, 2.0, 4.0, 8.0]
    """

    def _family(self) -> Family:
        return Gamma()
