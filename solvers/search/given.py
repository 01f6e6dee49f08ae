"""Given: stand-ins for what is fitted already, so that scikit-learn's own containers do the rest.

A Pipeline whose first steps were fitted elsewhere, or a FeatureUnion or ColumnTransformer whose members were, is fitted by its
own ``fit``. In place of the parts stand `Given` ones, which return what is known of them. Nothing of what containers do
besides (weights, column selections, output containers, checks) is done here again.

For scorers that see only predictions, rows are known by their numbers (`Rows`): there is no need to cut them out of X.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

__all__ = ["Given", "Rows", "assemble", "is_container", "members", "revealed", "rows"]

#: Where containers keep their members.
_LISTS = {Pipeline: "steps", FeatureUnion: "transformer_list", ColumnTransformer: "transformers"}


class Rows(np.ndarray):
    """Numbers of rows, which stand for the rows."""


def rows(count: int) -> Rows:
    """Return the numbers of all rows, as a matrix of one column."""
    return np.arange(count)[:, None].view(Rows)


class Given:
    """A fitted transformer that knows its output.

    Parameters
    ----------
    fitted
        The transformer.
    output
        What ``fit_transform`` returns; without it, its argument.
    known : tuple of pairs
        Numbers of rows, and what these rows are transformed to.
    """

    def __init__(self, fitted: Any, output: Any = None, known: tuple[tuple[np.ndarray, Any], ...] = ()) -> None:
        self.fitted = fitted
        self.output = output
        self.known = known

    def __sklearn_clone__(self) -> Given:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: Any, y: Any = None, **params: Any) -> Given:
        """Return itself."""
        return self

    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Return what is known."""
        return X if self.output is None else self.output

    def transform(self, X: Any, **params: Any) -> Any:
        """Return what is known of these rows, or transform them."""
        if not isinstance(X, Rows):
            return self.fitted.transform(X, **params)
        if not self.known:
            return X
        for numbers, output in self.known:
            if np.array_equal(X[:, 0], numbers):
                return output
        raise KeyError("rows that are not of this fold")

    def __getattr__(self, name: str) -> Any:
        if name == "fitted" or (name.startswith("__") and not name.startswith("__sklearn")):
            raise AttributeError(name)
        return getattr(self.fitted, name)


def revealed(estimator: Any) -> Any:
    """Return what a stand-in stands for; of a pipeline, put it in place of each."""
    if isinstance(estimator, Given):
        return estimator.fitted
    if type(estimator) is Pipeline:
        estimator.steps = [(name, revealed(step)) for name, step in estimator.steps]
    return estimator


def is_container(estimator: Any) -> bool:
    """Say whether the members of an estimator may be fitted on their own; of subclasses nobody knows what they add."""
    if type(estimator) not in _LISTS or estimator.verbose:
        return False
    if type(estimator) is Pipeline and (
        estimator.memory is not None or getattr(estimator, "transform_input", None) is not None
    ):
        return False
    if type(estimator) is ColumnTransformer and hasattr(estimator.remainder, "get_params"):
        return False
    parts = getattr(estimator, _LISTS[type(estimator)])
    return len(parts) > 0 and all(isinstance(part[1], (str, type(None))) or hasattr(part[1], "get_params") for part in parts)


def members(container: Any) -> list[tuple[str, Any, Any]]:
    """Return name, estimator and columns of each member that is an estimator; columns are None but in a ColumnTransformer."""
    parts = getattr(container, _LISTS[type(container)])
    return [(part[0], part[1], part[2] if len(part) > 2 else None) for part in parts if hasattr(part[1], "get_params")]


def assemble(container: Any, X: Any, y: Any, parts: dict[str, Given]) -> Any:
    """Fit a container some of whose members are given, and return its output; the container is left with the fitted ones."""
    name = _LISTS[type(container)]
    before, jobs = getattr(container, name), getattr(container, "n_jobs", None)
    setattr(container, name, [(part[0], parts.get(part[0], part[1]), *part[2:]) for part in before])
    if jobs is not None:
        container.n_jobs = None  # there is nothing left to do in parallel
    output = container.fit_transform(X, y)
    for attribute in {name, "transformers_"} & container.__dict__.keys():
        found = getattr(container, attribute)
        setattr(container, attribute, [(part[0], revealed(part[1]), *part[2:]) for part in found])
    if type(container) is ColumnTransformer:
        container.transformers = before  # it fits clones
    if jobs is not None:
        container.n_jobs = jobs
    return output
