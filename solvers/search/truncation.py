"""Truncation: PCAs that differ in how many components they keep are one decomposition, of which each keeps the first so many.

scikit-learn's PCA finds all components, and then drops some, unless its solver is an approximate one. So the decomposition is
done once on each fold. What is kept of it is what a fit of its own would have kept, to the last digit.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.utils._set_output import _get_output_config

__all__ = ["Decomposition", "truncated", "untruncated"]

#: What a fitted PCA has of each component.
_OF_EACH = ("components_", "explained_variance_", "explained_variance_ratio_", "singular_values_")


class Decomposition(BaseEstimator):  # type: ignore[misc]
    """What PCAs of any number of components are cut out of.

    Parameters
    ----------
    pca : PCA
        One that keeps all.
    """

    def __init__(self, pca: Any) -> None:
        self.pca = pca

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Fit; return what all components make of the rows, if that falls off on the way, else None."""
        solver = _solver(self.pca, None if issparse(X) else np.shape(X))
        if solver is None:
            raise ValueError("the solver of these rows finds no components but those that it is asked for")
        self.fitted_ = clone(self.pca).set_params(svd_solver=solver)
        if solver == "full":
            return self.fitted_.fit_transform(X)
        self.fitted_.fit(X)
        return None


def untruncated(estimator: Any, shape: tuple[int, int] | None) -> Decomposition | None:
    """Return what a PCA that keeps some components can be cut out of; None for all else.

    Parameters
    ----------
    estimator
        Any.
    shape
        Of its rows, as far as that is known: by it, scikit-learn chooses the solver if it is to.

    Examples
    --------
    >>> untruncated(PCA(3, svd_solver="full"), None)
    Decomposition(pca=PCA(svd_solver='full'))
    >>> untruncated(PCA(0.9, svd_solver="full"), None), untruncated(PCA(3), (100, 50))
    (None, None)
    """
    if type(estimator) is not PCA or not estimator.copy or not isinstance(estimator.n_components, Integral):
        return None
    if _solver(estimator, shape) is None or _get_output_config("transform", estimator)["dense"] != "default":
        return None
    return Decomposition(clone(estimator).set_params(n_components=None))


def _solver(pca: Any, shape: Any) -> str | None:
    """Return which solver a PCA has on rows of a shape, if that finds all components."""
    if pca.svd_solver in ("full", "covariance_eigh"):
        return str(pca.svd_solver)
    tall = shape is not None and len(shape) == 2 and shape[1] <= 1_000 and shape[0] >= 10 * shape[1]
    return "covariance_eigh" if pca.svd_solver == "auto" and tall else None


def truncated(pca: Any, whole: Decomposition, output: Any, X: Any) -> tuple[Any, Any]:
    """Return a PCA as if it had been fitted, and what it makes of the rows.

    Parameters
    ----------
    pca
        Not yet fitted.
    whole, output
        What it is cut out of, fitted, and what that returned.
    X
        The rows.

    Examples
    --------
    >>> X, pca = np.random.default_rng(0).random((20, 4)), PCA(2, svd_solver="full")
    >>> whole = untruncated(pca, X.shape)
    >>> fitted, output = truncated(pca, whole, whole.fit_transform(X), X)
    >>> np.array_equal(output, PCA(2, svd_solver="full").fit_transform(X))
    True
    """
    found, count = whole.fitted_, pca.n_components
    most = found.n_components_
    if not 0 < count <= most:
        raise ValueError(f"there are {most} components, not {count}")
    params = found.get_params(deep=False)
    vars(pca).update({name: value for name, value in vars(found).items() if name not in params})
    pca.n_components_ = count
    for name in _OF_EACH:
        setattr(pca, name, np.array(getattr(found, name)[:count]))
    pca.noise_variance_ = np.mean(found.explained_variance_[count:]) if count < most else 0.0
    return pca, pca.transform(X) if output is None else output[:, :count]
