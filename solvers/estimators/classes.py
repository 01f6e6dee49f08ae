"""Classes: logistic regression of two classes and of more, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import scipy.special
from dask.base import compute, persist
from dask.delayed import delayed
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

from solvers.data import column
from solvers.estimators.base import LinearModel, applied, in_memory, is_lazy, known, mean_of
from solvers.families import Family, Logistic
from solvers.iterate import Method
from solvers.multinomial import Multinomial
from solvers.penalties import ElasticNet, Penalty

__all__ = ["LogisticRegression"]


class LogisticRegression(ClassifierMixin, LinearModel):  # type: ignore[misc]
    """Logistic regression: of two classes, or multinomial of more.

    Parameters
    ----------
    C : float
        Inverse strength of the penalty; infinite for none.
    l1_ratio : float
        The lasso's part of the penalty; the rest is ridge's.
    fit_intercept : bool
        Whether to fit an intercept, which no penalty is of.
    class_weight : dict or "balanced", optional
        How much rows of each class count, beside ``sample_weight``; "balanced" gives all classes the same sum.
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
    classes_ : numpy.ndarray
        The labels there are, in order.
    coef_ : numpy.ndarray of shape (1, features) or (classes, features)
        The coefficients; those of the second class where there are two.
    intercept_ : numpy.ndarray of shape (1,) or (classes,)
        0 if there is none.
    result_ : solvers.Result
        How they were found: status with advice, certificate, trace.
    n_iter_ : numpy.ndarray of shape (1,)
        How many iterations it took.
    n_features_in_, feature_names_in_
        Of X.

    Notes
    -----
    It minimises ``C`` times the weighted sum of log losses and the penalty ``l1_ratio |w|₁ + (1 - l1_ratio) / 2 |w|²``. More
    than two classes have coefficients each, with the sum of their intercepts 0, as in scikit-learn.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from solvers.estimators import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression().fit(X, y)
    >>> round(model.score(X, y), 3), model.predict_proba(X[:1]).round(3).tolist()
    (0.973, [[0.982, 0.018, 0.0]])

    On dask arrays, predictions are lazy:

    >>> import dask.array as da
    >>> model = LogisticRegression(C=10.0).fit(da.from_array(X, chunks=(50, -1)), y == 2)
    >>> model.predict(da.from_array(X, chunks=(50, -1)))
    dask.array<_decided, shape=(150,), dtype=bool, chunksize=(50,), chunktype=numpy.ndarray>
    """

    _numeric = False

    def __init__(
        self,
        *,
        C: float = 1.0,
        l1_ratio: float = 0.0,
        fit_intercept: bool = True,
        class_weight: Any = None,
        solver: str | Method = "auto",
        tol: float = 1e-6,
        max_iter: int = 200,
        warm_start: bool = False,
        chunks: str | None = None,
        callback: Callable[..., Any] | None = None,
        progress: bool = False,
    ) -> None:
        self.C = C
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.chunks = chunks
        self.callback = callback
        self.progress = progress

    def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Any:
        """Fit the model.

        Parameters
        ----------
        X : array, sparse matrix or dataframe of shape (rows, features)
            In memory or of dask.
        y : array of shape (rows,)
            Labels: numbers, words, or bools, of two classes or more. Where they are lazy, a pass over them finds which.
        sample_weight : array of shape (rows,), optional
            How much each row counts.
        offset : array of shape (rows,), optional
            What is added to the linear predictor of each row, its log odds so far; of two classes only.

        Returns
        -------
        self
        """
        X, y = self._checked(X, y)
        if not is_lazy(X):
            sample_weight = in_memory(sample_weight)
        y = _labels(y)
        classes, counts, sample_weight = _counted(y, sample_weight)
        check_classification_targets(classes)
        if len(classes) < 2:
            raise ValueError(f"{type(self).__name__} needs two classes or more; the data has one class: {classes[0]!r}.")
        codes = _kept(applied(_codes, y, classes=classes, dtype=np.min_scalar_type(len(classes) - 1)))
        if self.class_weight is not None:
            of_rows = applied(_taken, codes, values=self._factors(classes, counts))
            sample_weight = _kept(of_rows if sample_weight is None else of_rows * sample_weight)
        result = self._solved(X, codes, self._family_of(len(classes)), self._penalty, sample_weight, offset)
        self.classes_ = classes
        self.coef_, self.intercept_ = np.atleast_2d(result.coef), np.atleast_1d(result.intercept)
        self.n_iter_ = np.array([result.iterations])
        return self

    def decision_function(self, X: Any, offset: Any = None) -> Any:
        """Return the linear predictor of each row, a column for each class where there are more than two; lazy where X is."""
        return self._scores(X, offset)

    def predict(self, X: Any, offset: Any = None) -> Any:
        """Return the class of each row; a dask array, not computed yet, where X is lazy."""
        scores = self._scores(X, offset)
        return applied(_decided, scores, dtype=self.classes_.dtype, classes=self.classes_)

    def predict_proba(self, X: Any, offset: Any = None) -> Any:
        """Return the probability of each class, in the order of ``classes_``; lazy where X is."""
        return applied(_probable, self._scores(X, offset), columns=len(self.classes_))

    def predict_log_proba(self, X: Any, offset: Any = None) -> Any:
        """Return the logarithm of the probability of each class, exact where that is tiny; lazy where X is."""
        return applied(_log_probable, self._scores(X, offset), columns=len(self.classes_))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy, the part of rows whose class is predicted; where X is lazy, in one pass over it."""
        if not is_lazy(X):
            found: float = super().score(X, in_memory(y), in_memory(sample_weight))
            return found
        predicted = known(self.predict(X))
        rows = predicted.chunks[0]
        y = da.asarray(_labels(y))
        if y.shape[0] != sum(rows):
            raise ValueError(f"y has {y.shape[0]} rows, X has {sum(rows)}.")
        right = (predicted == y.rechunk((rows,))).astype(float)
        return float(mean_of(right, None if sample_weight is None else column("sample_weight", sample_weight, rows)).compute())

    def _family_of(self, classes: int) -> Family:
        return Logistic() if classes == 2 else Multinomial(classes)

    def _penalty(self, total: float) -> Penalty:
        return ElasticNet(1.0 / (self.C * total), self.l1_ratio)

    def _factors(self, classes: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return the weight of each class."""
        if isinstance(self.class_weight, dict):
            found: np.ndarray = compute_class_weight(self.class_weight, classes=classes, y=classes)
            return found
        if self.class_weight != "balanced":
            raise ValueError(f'class_weight={self.class_weight!r}: must be a dict, "balanced" or None.')
        return np.asarray(counts.sum() / (len(classes) * counts))


def _labels(y: Any) -> Any:
    """Return labels as one column, in chunks of known size if they are lazy."""
    if hasattr(y, "to_dask_array"):
        y = (y if y.dtype.kind in "iufb" else y.astype(object)).to_dask_array(lengths=True)
    if not isinstance(y, da.Array):
        y = np.asarray(y)
    elif np.isnan(y.shape[0]):
        y = y.compute_chunk_sizes()
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"y has {y.ndim} dimensions: must be one label for each row.")
    return y


def _counted(y: Any, weights: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Return the classes, the sum of weights of each, and weights as they are from now on; a pass over lazy labels."""
    if not isinstance(y, da.Array):
        if weights is not None and not is_lazy(weights):
            weights = np.asarray(weights, float)
            weights = np.full(len(y), weights) if weights.ndim == 0 else weights
            if weights.shape != y.shape:
                raise ValueError(f"sample_weight has shape {weights.shape}: must be {y.shape}.")
        classes, counts = _unique(y, None if weights is None else np.asarray(in_memory(weights)))
        return classes, counts, weights
    if weights is None:
        found = compute(*[delayed(_unique)(block, None) for block in y.to_delayed()])
    else:
        weights = column("sample_weight", weights, y.chunks[0])
        blocks = zip(y.to_delayed(), weights.to_delayed(), strict=True)
        found = compute(*[delayed(_unique)(*pair) for pair in blocks])
    labels = np.concatenate([part for part, _ in found])
    return *_unique(labels, np.concatenate([part for _, part in found])), weights


def _unique(labels: Any, weights: Any) -> tuple[np.ndarray, np.ndarray]:
    classes, codes = np.unique(_plain(labels), return_inverse=True)
    return classes, np.bincount(codes, weights=weights, minlength=len(classes))


def _plain(labels: Any) -> np.ndarray:
    """Return labels as NumPy has them; chunks of dataframes may be of pandas' own types."""
    return labels if isinstance(labels, np.ndarray) else np.asarray(labels)


def _codes(labels: Any, classes: np.ndarray) -> np.ndarray:
    return np.searchsorted(classes, _plain(labels)).astype(np.min_scalar_type(len(classes) - 1))


def _kept(rows: Any) -> Any:
    """Compute numbers of lazy rows once, where the rows are: a byte or some for each is little beside X.

    Every pass over the data would look the labels up again, outside of the loops that graphopt makes.
    """
    return persist(rows)[0] if isinstance(rows, da.Array) else rows


def _taken(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    taken: np.ndarray = values[codes]
    return taken


def _decided(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    decided: np.ndarray = classes[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]
    return decided


def _probable(scores: np.ndarray) -> np.ndarray:
    if scores.ndim == 1:
        return np.stack([scipy.special.expit(-scores), scipy.special.expit(scores)], axis=1)
    found: np.ndarray = scipy.special.softmax(scores, axis=1)
    return found


def _log_probable(scores: np.ndarray) -> np.ndarray:
    if scores.ndim == 1:
        return np.stack([scipy.special.log_expit(-scores), scipy.special.log_expit(scores)], axis=1)
    found: np.ndarray = scipy.special.log_softmax(scores, axis=1)
    return found
