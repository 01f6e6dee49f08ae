"""Kernels: what is done with one chunk of rows that may be sparse, and is not plain array code.

Each takes a chunk that is CSR, of another sparse format, or dense, so that chunks of one array may differ. Those for CSR are
compiled by numba when a chunk is first met, and need no interpreter then. Products that SciPy does as quickly are left to it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import scipy.sparse

__all__ = ["product", "square", "transposed"]


def product(block: Any, w: np.ndarray) -> np.ndarray:
    """Return rows times a vector.

    Parameters
    ----------
    block : array of shape (rows, features)
        Sparse or dense.
    w : numpy.ndarray of shape (features,)
        What to multiply with.
    """
    return np.asarray(block @ w)


def transposed(block: Any, r: np.ndarray) -> np.ndarray:
    """Return the transpose of rows times a vector, as the only row of an array.

    Parameters
    ----------
    block : array of shape (rows, features)
        Sparse or dense.
    r : numpy.ndarray of shape (rows,)
        What to multiply with.
    """
    return np.asarray(block.T @ r)[None]


def square(block: Any, h: np.ndarray) -> np.ndarray:
    """Return the transpose of rows times the rows, each times a number, along a new first axis.

    Parameters
    ----------
    block : array of shape (rows, features)
        Sparse or dense.
    h : numpy.ndarray of shape (rows,)
        What to multiply rows with.
    """
    if not scipy.sparse.issparse(block):
        return np.asarray((block * h[:, None]).T @ block)[None]
    rows, columns = block.tocsr(), block.shape[1]
    apart, own = np.zeros(columns * columns), np.zeros(columns)
    _add_squares()(rows.indptr, rows.indices, rows.data, h, apart, own, columns)
    half = apart.reshape(columns, columns)
    out: np.ndarray = half + half.T
    out[np.diag_indices(columns)] += own
    return np.asarray(out[None])


@functools.cache
def _add_squares() -> Any:
    """Return what adds up the products of all pairs of entries of a row, ten times as fast as a product of sparse matrices.

    Each pair once, in whatever order the entries are: ``apart`` is one half, and ``own`` is what entries are with themselves.
    """
    from numba import njit

    @njit(nogil=True, error_model="numpy")
    def add(start: Any, column: Any, number: Any, h: Any, apart: Any, own: Any, columns: Any) -> None:
        for i in range(len(h)):
            for k in range(np.uint64(start[i]), np.uint64(start[i + 1])):  # unsigned: no place is negative
                scaled = number[k] * h[i]
                own[np.uint64(column[k])] += scaled * number[k]
                line = np.uint64(columns) * np.uint64(column[k])
                for m in range(np.uint64(start[i]), np.uint64(k)):
                    apart[line + np.uint64(column[m])] += scaled * number[m]

    return add
