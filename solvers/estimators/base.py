"""Base: what the estimators share: checking what they are given, fitting, and prediction that is as lazy as its input."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import dask.array as da
import numpy as np
from dask.base import compute
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from solvers.data import column, prepare
from solvers.families import Family, Normal
from solvers.fit import objective_of, solve
from solvers.iterate import Method
from solvers.penalties import Penalty
from solvers.result import Result

__all__ = ["LinearModel", "Regressor", "applied", "in_memory", "is_lazy", "known", "mean_of"]

#: Least and largest of each parameter that is a number; where there is a third, the least is not one itself.
_LIMITS: dict[str, tuple[float, ...]] = {
    "alpha": (0.0, 1e300),
    "C": (0.0, math.inf, 1),
    "l1_ratio": (0.0, 1.0),
    "epsilon": (1.0, 1e300),
    "tol": (0.0, math.inf),
    "max_iter": (0, math.inf),
}


class LinearModel(BaseEstimator):  # type: ignore[misc]
    """A linear predictor, fitted by a solver.

    Attributes
    ----------
    coef_, intercept_
        Of the linear predictor.
    result_ : solvers.Result
        How they were found: status with advice, certificate, trace.
    n_iter_
        How many iterations it took.
    n_features_in_, feature_names_in_
        Of X.
    """

    fit_intercept: bool
    solver: str | Method
    warm_start: bool
    coef_: np.ndarray
    intercept_: Any
    n_iter_: Any

    #: Whether numbers are labels; classes may be words.
    _numeric: ClassVar[bool] = True

    def _checked(self, X: Any, y: Any, *, reset: bool = True) -> tuple[Any, Any]:
        """Check parameters, and rows and labels as far as that goes without computing what is lazy."""
        for name, value in self.get_params(deep=False).items():
            low, high, *strict = _LIMITS.get(name, (-math.inf, math.inf))
            if name in _LIMITS and not (low <= value <= high and not (strict and value == low)):
                raise ValueError(f"{type(self).__name__}({name}={value!r}): must be {_words(low, high, bool(strict))}.")
        if y is None:
            raise ValueError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None.")
        if is_lazy(X):
            return self._rows(X, reset=reset), y
        options: dict[str, Any] = {"accept_sparse": "csr", "dtype": [np.float64, np.float32], "y_numeric": self._numeric}
        return validate_data(self, X, in_memory(y), reset=reset, **options)  # type: ignore[no-any-return]

    def _rows(self, X: Any, *, reset: bool = False) -> Any:
        """Check rows, those of prediction against those of the fit; what is lazy stays so."""
        if not is_lazy(X):
            return validate_data(self, X, reset=reset, accept_sparse="csr", dtype=[np.float64, np.float32])
        framed = hasattr(X, "to_dask_array")
        if not framed and X.ndim != 2:
            raise ValueError(f"Expected 2D array, got {X.ndim}D array instead: give rows by features.")
        validate_data(self, X._meta if framed else X, reset=reset, skip_check_array=True)
        if framed:
            return X.to_dask_array()
        return X.rechunk({1: -1}) if X.numblocks[1] > 1 else X

    def _solved(
        self,
        X: Any,
        y: Any,
        family: Family,
        penalty: Callable[[float], Penalty],
        sample_weight: Any = None,
        offset: Any = None,
    ) -> Result:
        """Fit, and keep what every estimator keeps; ``penalty`` is a function of the sum of weights."""
        if not is_lazy(X):
            sample_weight, offset = in_memory(sample_weight), in_memory(offset)
        if isinstance(sample_weight, (int, float)):  # the same for all rows
            sample_weight = None
        data = prepare(X, y, family, weights=sample_weight, offset=offset)
        objective = objective_of(data, family, penalty(data.total), intercept=self.fit_intercept)
        params = self.get_params(deep=False)
        options = {name: params[name] for name in ("tol", "max_iter", "chunks", "callback", "progress")}
        result = solve(objective, self._method(), start=self._start(), **options)
        self.result_ = result
        self.n_iter_ = result.iterations
        if not result.ok:
            words = f"{type(self).__name__}: {result.status.value} after {result.iterations} iterations. {result.status.advice}"
            warnings.warn(words, ConvergenceWarning, stacklevel=3)
        return result

    def _method(self) -> str | Method:
        """Return what solves it."""
        return self.solver

    def _start(self) -> np.ndarray | None:
        """Return where a fit begins."""
        if not (self.warm_start and hasattr(self, "coef_")):
            return None
        coef = np.ravel(self.coef_)
        return np.append(coef, self.intercept_) if self.fit_intercept else coef

    def _scores(self, X: Any, offset: Any = None) -> Any:
        """Return the linear predictor, lazily where X is lazy; a column for each class where there are several."""
        check_is_fitted(self)
        X = self._rows(X)
        coef = self.coef_[0] if self.coef_.ndim == 2 and len(self.coef_) == 1 else self.coef_
        intercept = self.intercept_ if coef.ndim == 2 else float(np.ravel(self.intercept_)[0])
        if not isinstance(X, da.Array):
            scores = _linear(X, coef, intercept)
            return scores if offset is None else scores + np.asarray(in_memory(offset), float)
        shape: dict[str, Any] = {"drop_axis": 1} if coef.ndim == 1 else {"chunks": (X.chunks[0], (len(coef),))}
        meta = np.empty((0,) * coef.ndim)
        scores = da.map_blocks(_linear, X, coef=coef, intercept=intercept, dtype=float, meta=meta, **shape)
        return scores if offset is None else scores + (offset if isinstance(offset, da.Array) else da.asarray(offset))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class Regressor(RegressorMixin, LinearModel):  # type: ignore[misc]
    """A model whose prediction is a number."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit the model.

        Parameters
        ----------
        X : array, sparse matrix or dataframe of shape (rows, features)
            In memory or of dask.
        y : array of shape (rows,)
            Labels.
        sample_weight : array of shape (rows,), optional
            How much each row counts.

        Returns
        -------
        self
        """
        X, y = self._checked(X, y)
        result = self._solved(X, y, self._family(), self._penalty, sample_weight)
        self.coef_, self.intercept_ = result.coef, result.intercept
        self._note(X, y)
        return self

    def _note(self, X: Any, y: Any) -> None:
        """Keep what else there is to a fit."""

    def predict(self, X: Any) -> Any:
        """Return the prediction of each row; a dask array, not computed yet, where X is lazy."""
        return self._scores(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R², the part of the variance that is explained; where X is lazy, in one pass over it."""
        if not is_lazy(X):
            found: float = super().score(X, in_memory(y), in_memory(sample_weight))
            return found
        return self._explained(self._scores(X), y, sample_weight, Normal())

    def _explained(self, eta: Any, y: Any, sample_weight: Any, family: Family) -> float:
        """Return 1 minus deviance by that of the best constant."""
        if isinstance(eta, da.Array):
            eta = known(eta)
            y = column("y", y, eta.chunks[0])
            weights = None if sample_weight is None else column("sample_weight", sample_weight, eta.chunks[0])
        else:
            y = np.asarray(in_memory(y), float)
            weights = None if sample_weight is None else np.asarray(in_memory(sample_weight), float)
        mean, wrong = compute(mean_of(y, weights), family.wrong(y).any())
        if wrong:
            raise ValueError(f"y: some labels are not {family.labels}, as {family!r} needs them.")
        least = family.saturated(y)
        parts = mean_of(family.losses(eta, y) - least, weights), mean_of(family.losses(family.link(mean), y) - least, weights)
        rest, whole = compute(*parts)
        if whole == 0:
            return 1.0 if rest == 0 else 0.0
        return float(1.0 - rest / whole)

    def _family(self) -> Family:
        return Normal()

    def _penalty(self, total: float) -> Penalty:
        """Return the penalty beside the mean loss, given the sum of weights."""
        raise NotImplementedError


def is_lazy(X: Any) -> bool:
    """Say whether something is of dask."""
    return isinstance(X, da.Array) or hasattr(X, "to_dask_array")


def in_memory(value: Any) -> Any:
    """Compute what is lazy: beside rows in memory there is no reason for it to be."""
    return value.compute() if is_lazy(value) else value


def applied(function: Callable[..., Any], scores: Any, *, columns: int = 0, dtype: Any = float, **options: Any) -> Any:
    """Apply a function to scores; chunk by chunk and later, where they are lazy. Columns are those of what it returns."""
    if not isinstance(scores, da.Array):
        return function(scores, **options)
    shape: dict[str, Any] = {}
    if columns:
        shape = {"chunks": (scores.chunks[0], (columns,)), **({"new_axis": 1} if scores.ndim == 1 else {})}
    elif scores.ndim == 2:
        shape = {"drop_axis": 1}
    return da.map_blocks(function, scores, dtype=dtype, meta=np.empty((0,) * (1 + bool(columns)), dtype), **shape, **options)


def mean_of(values: Any, weights: Any) -> Any:
    """Return the weighted mean of an array of NumPy or dask."""
    return values.mean() if weights is None else (values * weights).sum() / weights.sum()


def known(rows: Any) -> Any:
    """Return lazy numbers of rows in chunks of known size, which labels can be cut into."""
    return rows.compute_chunk_sizes() if np.isnan(rows.shape[0]) else rows


def _linear(block: Any, coef: np.ndarray, intercept: Any) -> np.ndarray:
    scores: np.ndarray = np.asarray(block @ coef.T) + intercept
    return scores


def _words(low: float, high: float, strict: bool) -> str:
    if high < 1e300:
        return f"between {low:g} and {high:g}"
    return f"a number {'above' if strict else 'of at least'} {low:g}"
