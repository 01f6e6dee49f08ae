"""Robust: regression that outliers do not rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from solvers.estimators.base import Regressor, is_lazy
from solvers.families import Family
from solvers.iterate import Method
from solvers.penalties import L2, Penalty
from solvers.scaled import ScaledHuber

__all__ = ["HuberRegressor"]

Callback = Callable[..., Any] | None


class HuberRegressor(Regressor):
    """Regression that outliers do not rule, with the scale of the residuals estimated too.

    Parameters
    ----------
    epsilon : float
        From how many scales on a residual counts linearly; at least 1.
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
    scale_ : float
        That of the residuals.
    outliers_ : numpy.ndarray of bool
        Which rows are further off than ``epsilon`` scales; only where they are in memory.
    result_ : solvers.Result
        How they were found: status with advice, certificate, trace.
    n_iter_ : int
        How many iterations it took.
    n_features_in_, feature_names_in_
        Of X.

    Notes
    -----
    It minimises the sum of ``scale (1 + huber(residual / scale))`` and ``alpha`` times the sum of squared coefficients, over
    coefficients, intercept and scale together, as scikit-learn does.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from solvers.estimators import HuberRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = HuberRegressor().fit(X, y)
    >>> round(model.score(X, y), 4), round(model.scale_, 2), int(model.outliers_.sum())
    (0.5151, 37.39, 159)
    """

    def __init__(
        self,
        *,
        epsilon: float = 1.35,
        alpha: float = 0.0001,
        fit_intercept: bool = True,
        solver: str | Method = "auto",
        tol: float = 1e-6,
        max_iter: int = 200,
        warm_start: bool = False,
        chunks: str | None = None,
        callback: Callback = None,
        progress: bool = False,
    ) -> None:
        self.epsilon = epsilon
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.chunks = chunks
        self.callback = callback
        self.progress = progress

    def _note(self, X: Any, y: Any) -> None:
        self.scale_ = float(self.result_.beta[-1])
        self.__dict__.pop("outliers_", None)
        if not is_lazy(X):
            self.outliers_ = np.abs(y - self._scores(X)) > self.scale_ * self.epsilon

    def _start(self) -> np.ndarray | None:
        start = super()._start()
        return None if start is None else np.append(start, self.scale_)

    def _family(self) -> Family:
        return ScaledHuber(self.epsilon)

    def _penalty(self, total: float) -> Penalty:
        return L2(self.alpha / total)
