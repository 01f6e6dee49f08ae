"""Data: what is fitted, as aligned dask arrays, whatever it came as."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import dask
import dask.array as da
import numpy as np
import scipy.sparse
from dask.base import compute

from solvers.families import Family

__all__ = ["Data", "column", "is_sparse", "matrix", "prepare"]

#: Fewer rows than this stay in one chunk: a second thread would have less to do than it takes to start it.
_FEW = 20_000


@dataclass(frozen=True, eq=False)
class Data:
    """Rows to fit.

    Attributes
    ----------
    X : dask array
        Rows by features, all features of a row in one chunk; dense or CSR.
    y : dask array
        Labels, in chunks of the same rows.
    weights, offset : dask array or None
        Of each row: how much it counts; what is added to its linear predictor.
    rows : int
        How many.
    total : float
        The sum of weights.
    label : float
        The weighted mean of the labels.
    names : tuple of str, or None
        Of the features, if they have any.
    local : tuple of (X, y, weights, offset), or None
        The rows as they are in memory, if they came so and are few.
    asked : callable, or None
        Told of each pass before it is made.
    """

    X: Any
    y: Any
    weights: Any
    offset: Any
    rows: int
    total: float
    label: float
    names: tuple[str, ...] | None = None
    local: tuple[Any, Any, Any, Any] | None = None
    asked: Callable[[Callable[..., Any], tuple[Any, ...]], None] | None = None

    @property
    def columns(self) -> tuple[Any, ...]:
        """What there is of labels, weights and offset."""
        return tuple(part for part in (self.y, self.weights, self.offset) if part is not None)

    @property
    def features(self) -> int:
        """How many there are."""
        return int(self.X.shape[1])

    @property
    def sparse(self) -> bool:
        """Whether chunks are sparse."""
        return is_sparse(self.X)


def is_sparse(X: Any) -> bool:
    """Say whether the chunks of a dask array are sparse."""
    return bool(scipy.sparse.issparse(getattr(X, "_meta", X)))


def prepare(X: Any, y: Any, family: Family, *, weights: Any = None, offset: Any = None) -> Data:
    """Bring data into one form, and check labels and weights in a pass over them alone.

    Parameters
    ----------
    X
        Rows by features: a dask or NumPy array, a dask or pandas dataframe, a sparse matrix, or a dask array of those.
    y
        A label for each row.
    family
        Says which labels there are.
    weights, offset
        Of each row, or None.

    Raises
    ------
    ValueError
        If shapes do not fit, or labels or weights cannot be.
    """
    names = tuple(map(str, X.columns)) if hasattr(X, "columns") else None
    few = not hasattr(X, "dask") and not hasattr(X, "to_dask_array")
    X = matrix(X)
    rows = X.chunks[0]
    few = few and len(rows) == 1 and sum(rows) <= _FEW
    y = column("y", y, rows)
    weights = None if weights is None else column("weights", weights, rows)
    offset = None if offset is None else column("offset", offset, rows)
    if not sum(rows):
        raise ValueError("X has no rows.")
    if not X.shape[1]:
        raise ValueError("X has no features.")
    wrong, total, sum_y, negative, odd = compute(_looked_at(family, y, weights, offset))[0]
    if wrong:
        raise ValueError(f"y: {wrong:.0f} of {sum(rows)} labels are not {family.labels}, as {family!r} needs them.")
    if negative or not np.isfinite(total):
        raise ValueError("weights: must be finite numbers of at least 0.")
    if total <= 0:
        raise ValueError("weights: all are zero.")
    if odd:
        raise ValueError(f"offset: {odd:.0f} of {sum(rows)} are not finite.")
    local = compute(X, y, weights, offset, scheduler="sync") if few else None
    return Data(X, y, weights, offset, sum(rows), float(total), float(sum_y / total), names, local)


def _looked_at(family: Family, y: Any, weights: Any, offset: Any) -> Any:
    """Return how many labels are wrong, the sums of weights and of labels, and how many weights and offsets are wrong."""
    columns = [column[:, None] for column in (y, weights, offset) if column is not None]
    look = functools.partial(_look, family=family, weighted=weights is not None, shifted=offset is not None)
    options: Any = {"chunks": ((1,) * y.numblocks[0], (5,)), "dtype": float, "meta": np.empty((0, 0))}
    return da.map_blocks(look, *columns, **options).sum(axis=0)


def _look(*columns: np.ndarray, family: Family, weighted: bool, shifted: bool) -> np.ndarray:
    y = columns[0].ravel()
    weights = columns[1].ravel() if weighted else None
    bad = family.wrong(y)
    wrong = np.count_nonzero(bad)
    good = np.where(bad, 0.0, y) if wrong else y
    with np.errstate(all="ignore"):  # what is not finite is refused
        sums = [len(y), good.sum(), 0]
        if weights is not None:
            sums = [weights.sum(), weights @ good, np.count_nonzero(~(weights >= 0))]
    return np.array([[wrong, *sums, np.count_nonzero(~np.isfinite(columns[-1])) if shifted else 0]], float)


def matrix(X: Any) -> Any:
    """Return rows by features, as a dask array whose chunks hold whole rows."""
    if hasattr(X, "to_dask_array"):  # a dask dataframe
        X = X.to_dask_array(lengths=True)
    elif hasattr(X, "to_numpy"):
        X = X.to_numpy()
    if not isinstance(X, da.Array):
        X = _chunked(X.tocsr() if scipy.sparse.issparse(X) else np.asarray(X))
    if X.ndim != 2:
        raise ValueError(f"X has {X.ndim} dimension{'s' * (X.ndim != 1)}: must be rows by features.")
    if np.isnan(sum(X.shape)):
        X = X.compute_chunk_sizes()
    if X.numblocks[1] > 1:
        X = X.rechunk({1: -1})
    if X.dtype.kind in "iub":
        X = X.astype(float)
    if X.dtype.kind != "f":
        raise ValueError(f"X holds {X.dtype}: must be numbers.")
    return X


def column(name: str, value: Any, rows: tuple[int, ...]) -> Any:
    """Return a number for each row, in the same chunks as the rows."""
    if hasattr(value, "to_dask_array"):
        value = value.to_dask_array(lengths=True)
    elif hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if not isinstance(value, da.Array):
        value = np.asarray(value)
    if value.ndim == 2 and value.shape[1] == 1:
        value = value[:, 0]
    if value.ndim != 1:
        raise ValueError(f"{name} has {value.ndim} dimensions: must be one number for each row.")
    if value.dtype.kind not in "iubf":
        raise ValueError(f"{name} holds {value.dtype}: must be numbers.")
    if isinstance(value, da.Array) and np.isnan(value.shape[0]):
        value = value.compute_chunk_sizes()
    if value.shape[0] != sum(rows):
        raise ValueError(f"{name} has {value.shape[0]} rows, X has {sum(rows)}.")
    if not isinstance(value, da.Array):
        return _blocks(value.astype(float, copy=False), rows)
    value = value.rechunk((rows,)) if value.chunks[0] != rows else value
    return value.astype(float) if value.dtype != float else value


def _chunked(X: Any) -> Any:
    """Cut an array in memory into a chunk for each core, if it is large."""
    rows = X.shape[0]
    parts = max(1, min(dask.system.CPU_COUNT, rows // _FEW))
    bounds = [rows * i // parts for i in range(parts + 1)]
    return _blocks(X, tuple(np.diff(bounds).tolist()))


def _blocks(X: Any, rows: tuple[int, ...]) -> Any:
    """Return an array in memory as a dask array of views of it."""
    name = f"rows-{uuid.uuid4().hex}"  # not by id: that of an array made for the purpose is the next one's when it is gone
    bounds = np.concatenate([[0], np.cumsum(rows)])
    rest = (0,) * (X.ndim - 1)
    graph = {(name, i, *rest): X[start:stop] for i, (start, stop) in enumerate(pairwise(bounds))}
    return da.Array(graph, name, (rows, *[(n,) for n in X.shape[1:]]), meta=X[:0])
