"""What is fitted: a chunked matrix, labels of 0 and 1, and the names of the columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
from dask.base import compute, persist

from graphopt.demo.descent import Vector
from graphopt.report.errors import CommandError

__all__ = ["INTERCEPT", "Problem", "breast_cancer", "chunk_lengths", "document"]

FEATURES = 15  # of the document's problem
INTERCEPT = "(intercept)"


@dataclass(frozen=True)
class Problem:
    """A binary classification problem on dask arrays of known chunks.

    Parameters
    ----------
    name
        What to call it in a table.
    X, y
        Dask arrays, chunked along the rows only; y holds 0.0 and 1.0.
    features
        The name of each column of X.
    penalty
        Weight of half the squared coefficient, for each column of X.
    truth
        The coefficients that generated y, if they are known.
    positive
        What ``y == 1`` means.
    """

    name: str
    X: Any
    y: Any
    features: tuple[str, ...]
    penalty: Vector
    truth: Vector | None = None
    positive: str = "y = 1"
    notes: tuple[str, ...] = ()

    def persisted(self) -> Problem:
        """The same with its chunks computed once and kept by the scheduler in use, as a dask user would do it."""
        X, y = persist(self.X, self.y)
        return replace(self, X=X, y=y)

    def chunks(self) -> list[tuple[Vector, Vector]]:
        """The chunks as NumPy arrays in this process. Chunks persisted here are not copied."""
        blocks = [(X, y) for X, y in zip(self.X.to_delayed().ravel(), self.y.to_delayed().ravel(), strict=True)]
        return list(compute(*blocks))


def chunk_lengths(rows: int, chunks: int) -> tuple[int, ...]:
    """Split ``rows`` into exactly ``chunks`` parts as even as can be: (7, 3) -> (3, 2, 2)."""
    if not 1 <= chunks <= rows:
        raise CommandError(f"cannot cut {rows} rows into {chunks} chunks: --chunks goes from 1 to the number of rows")
    size, longer = divmod(rows, chunks)
    return (size + 1,) * longer + (size,) * (chunks - longer)


def document(rows: int, chunks: int, penalty: float, seed: int) -> Problem:
    """The document's problem: features uniform on [0, 1), coefficients (U - 0.5) * 3, labels drawn from the model."""
    lengths = chunk_lengths(rows, chunks)
    truth = (np.random.default_rng(seed).random(FEATURES) - 0.5) * 3
    rng = da.random.default_rng(seed)
    X = rng.random((rows, FEATURES), chunks=(lengths, (FEATURES,)))
    p = 1 / (1 + da.exp(-X.dot(truth)))
    y = (rng.random(rows, chunks=(lengths,)) < p).astype(float)
    features = tuple(f"x{i}" for i in range(FEATURES))
    return Problem("generated data", X, y, features, np.full(FEATURES, penalty), truth=truth)


def breast_cancer(chunks: int, penalty: float) -> Problem:
    """scikit-learn's bundled breast-cancer data: 569 rows, 30 standardised columns, a free intercept."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    X = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    X = np.column_stack([X, np.ones(len(X))])
    lengths = chunk_lengths(len(X), chunks)
    return Problem(
        "breast cancer",
        da.from_array(X, chunks=(lengths, (X.shape[1],))),
        da.from_array(data.target.astype(float), chunks=(lengths,)),
        (*map(str, data.feature_names), INTERCEPT),
        with_free_intercept(penalty, X.shape[1]),
        positive=str(data.target_names[1]),
    )


def with_free_intercept(penalty: float, columns: int) -> Vector:
    """The penalty of ``columns`` coefficients, the last of which is the intercept: nothing should pull that to 0."""
    return np.append(np.full(columns - 1, float(penalty)), 0.0)


def largest(problem: Problem, beta: Vector, count: int) -> Sequence[tuple[str, float]]:
    """The ``count`` coefficients of largest size with their names, the intercept left out."""
    named = [(name, float(value)) for name, value in zip(problem.features, beta, strict=True) if name != INTERCEPT]
    return sorted(named, key=lambda pair: -abs(pair[1]))[:count]
