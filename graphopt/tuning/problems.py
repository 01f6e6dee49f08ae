"""The usual steps, written in plain dask, and their data: generated, or read from a file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np

from graphopt.demo.table import load
from graphopt.report.errors import CommandError, import_extra

__all__ = ["STEPS", "prepared"]

ROWS, COLUMNS, CENTRES = 1_000_000, 15, 8


def logistic(X: Any, y: Any, beta: Any) -> Any:
    """The loss and gradient of a logistic regression."""
    eta = X.dot(beta)
    p = 1 / (1 + da.exp(-eta))
    return (da.log1p(da.exp(-eta)) + (1 - y) * eta).sum(), X.T.dot(p - y)


def least_squares(X: Any, y: Any, beta: Any) -> Any:
    """The gradient of least squares."""
    return X.T.dot(X.dot(beta) - y)


def kmeans(X: Any, centres: Any) -> Any:
    """Lloyd's step: assign every row to the nearest centre, and move the centres to the means."""
    nearest = ((centres**2).sum(axis=1) - 2 * X.dot(centres.T)).argmin(axis=1)
    members = (nearest[:, None] == np.arange(CENTRES)).astype(X.dtype)
    counts = members.sum(axis=0)
    return members.T.dot(X) / da.maximum(counts, 1)[:, None], counts


def gram(X: Any, v: Any) -> Any:
    """X.T (X v), of which power iterations and conjugate gradients are made."""
    return X.T.dot(X.dot(v))


STEPS: dict[str, Callable[..., Any]] = {"logistic": logistic, "least-squares": least_squares, "k-means": kmeans, "gram": gram}


def prepared(arguments: argparse.Namespace) -> tuple[tuple[Any, ...], str]:
    """Return the arguments of the step, chunked as they come, and what to call them."""
    rng = np.random.default_rng(0)
    labels = None
    if arguments.data is None:
        rows, columns = arguments.rows or ROWS, arguments.columns or COLUMNS
        X = da.random.default_rng(0).random((rows, columns), chunks=(-(-rows // arguments.chunks), columns))
        name = "generated data"
    else:
        X, labels, name = _read(arguments)
    if X.ndim != 2 or X.dtype.kind not in "fiu":
        raise CommandError(f"{name} is {X.ndim}-dimensional {X.dtype}: must be a table of numbers")
    if not (arguments.out_of_core and arguments.data):
        X = X.persist(scheduler="threads")
    small = rng.random(X.shape[1]) - 0.5
    if arguments.problem == "k-means":
        return (X, rng.random((CENTRES, X.shape[1]))), name
    if arguments.problem == "gram":
        return (X, small), name
    if labels is None:  # what is predicted has no part in how long it takes
        labels = da.random.default_rng(1).integers(0, 2, size=X.shape[0], chunks=X.chunks[:1]).astype(float)
    return (X, labels.persist(scheduler="threads"), small), name


def _read(arguments: argparse.Namespace) -> tuple[Any, Any, str]:
    path = Path(arguments.data)
    if path.suffix in (".npy", ".zarr"):
        if not path.exists():
            raise CommandError(f"there is no file {path}")
        if path.suffix == ".zarr":
            import_extra("zarr", "demo")
            return da.from_zarr(str(path)), None, path.name
        try:
            stored = np.load(path, mmap_mode="r")
        except ValueError as error:
            raise CommandError(f"cannot read {path}: {error}") from error
        rows = -(-len(stored) // arguments.chunks) if stored.ndim else 1
        return da.from_array(stored, chunks=(rows, *stored.shape[1:])), None, path.name
    if arguments.label is None:
        raise CommandError("a .csv or .parquet file needs --label COLUMN, the two-valued column to predict")
    problem = load(arguments.data, arguments.label, [], arguments.chunks, 0.0)
    return problem.X, problem.y, problem.name
