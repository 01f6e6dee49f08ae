"""Kernels: SAGA over some rows of one chunk, dense or CSR, compiled by numba when a chunk is first met.

A step with row i, whose remembered scalar gradient is m_i, is (Defazio, Bach and Lacoste-Julien, NeurIPS 2014)::

    g ← weight_i · loss'(x_i·w + b + offset_i, y_i)
    w ← T(w - pace · n/W · (g - m_i) x_i),   T(z) = clip(soft(z - pace · average, pace · lasso) / (1 + pace · ridge))
    average ← average + (g - m_i) x_i / W,   m_i ← g

with n rows of total weight W. Where all memory was taken at one *snapshot* of the coefficients, m_i is computed rather than
kept, and the average stays as it is until the next: such an epoch is one of SVRG (Johnson and Zhang, NeurIPS 2013). T is the
proximal operator of ridge, lasso and bounds together, after a step along the average.

Where a row has no entry, T is all there is to a step, and the average there stays as it is. So a row of CSR touches its own
entries only: T is applied later, as often as it was left out, when the coefficient is needed (`advanced`). T is increasing
and of three straight pieces, so going along it m times costs a few operations, however large m is.

All that belongs to a coefficient is one line of ``places``, for an entry of a row asks for it all: the coefficient, its average
gradient, its snapshot, and up to which step it is done, as counted by ``clock[0]``. Kernels change what they are given, in
place; who calls them copies. They hold no interpreter lock.

`kernels_of` is long because the kernels close over one derivative, and each is long because a step is one loop whose parts
share a dozen numbers, which pieces of it would hand to each other for every row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Kernels", "kernels_of", "powers"]

#: Powers of the ridge's factor up to so many steps are looked up.
_TABLE = 4_096

#: Sums may be taken in any order, but numbers that are not finite stay what they are: they are how divergence is seen.
_FAST = {"reassoc", "contract", "arcp", "nsz"}


class Kernels(NamedTuple):
    """Compiled functions for one loss: rows of a dense chunk, rows of CSR, and the end of laziness."""

    dense: Any
    csr: Any
    settle: Any


def powers(shrink: float) -> np.ndarray:
    """Return rho^m and rho + ... + rho^m for m = 0, 1, ... of rho = 1 / (1 + shrink), as two columns.

    Parameters
    ----------
    shrink
        The ridge times the pace.
    """
    m = np.arange(_TABLE, dtype=float)
    if shrink == 0.0:
        return np.stack([np.ones(_TABLE), m], axis=1)
    gone = np.expm1(-m * np.log1p(shrink))
    return np.stack([1.0 + gone, -gone / shrink], axis=1)


@functools.cache
def _lazy() -> Any:
    """Return what applies T many times, and what does so for all coefficients."""
    from numba import njit

    @njit(nogil=True, error_model="numpy", inline="never")
    def power(table: Any, shrink: float, m: int) -> Any:
        if m < table.shape[0]:
            return table[m, 0], table[m, 1]
        if shrink == 0.0:
            return 1.0, float(m)
        gone = np.expm1(-m * np.log1p(shrink))
        return 1.0 + gone, -gone / shrink

    @njit(nogil=True, error_model="numpy", inline="never")
    def advanced(w: float, drift: float, lasso: float, low: float, high: float, table: Any, shrink: float, m: int) -> float:
        """Apply T m times, where a step along the average is ``drift`` and one of the lasso ``lasso``."""
        while m > 0:
            if w > drift + lasso:
                sign = 1.0
            elif w < drift - lasso:
                sign = -1.0
            else:  # the flat piece
                w = 0.0
                m -= 1
                if abs(drift) <= lasso:
                    break
                continue
            size, by = sign * w, sign * drift + lasso  # on a straight piece: size ← (size - by) rho as long as size > by
            steps = m
            if by > 0.0:
                rho, total = power(table, shrink, m - 1)
                if not rho * size - total * by > by:  # it leaves: after the first step that ends at `by` or below
                    few, steps = 0, m - 1
                    while steps - few > 1:
                        middle = (few + steps) // 2
                        rho, total = power(table, shrink, middle)
                        if rho * size - total * by > by:
                            few = middle
                        else:
                            steps = middle
            rho, total = power(table, shrink, steps)
            w = sign * (rho * size - total * by)
            m -= steps
        return min(max(w, low), high)

    @njit(nogil=True, error_model="numpy")
    def settle(places: Any, clock: Any, numbers: Any, table: Any) -> None:
        """Bring all coefficients up to the clock."""
        pace, lasso, shrink, low, high = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
        for j in range(places.shape[0] - (numbers[7] > 0.0)):
            late = clock[0] - np.int64(places[j, 3])
            if late > 0:
                places[j, 0] = advanced(places[j, 0], pace * places[j, 1], lasso, low, high, table, shrink, late)
            places[j, 3] = clock[0]

    return advanced, settle


@functools.lru_cache(maxsize=64)
def kernels_of(derivative: Callable[..., Any]) -> Kernels:
    """Return the kernels for a loss, given its derivative: a compiled function of eta, y and a parameter.

    They take rows and their order, labels, weights and offset (empty where there are none), ``memory`` (empty where it is that
    of the snapshot), ``places`` (the intercept last, if there is one), the clock, and numbers: pace, and pace times lasso
    and ridge; bounds; the scale of a row in a step and in the average; whether there is an intercept; the loss's parameter.
    """
    from numba import njit

    advanced, settle = _lazy()

    @njit(nogil=True, error_model="numpy", fastmath=_FAST)
    def dense(
        X: Any, order: Any, y: Any, weights: Any, offset: Any, memory: Any, places: Any, clock: Any, numbers: Any
    ) -> None:
        pace, lasso, shrink, low, high = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
        step, share, intercept, parameter = numbers[0] * numbers[5], numbers[6], numbers[7] > 0.0, numbers[8]
        rho, features, compared = 1.0 / (1.0 + shrink), X.shape[1], memory.shape[0] == 0
        kinked = lasso > 0.0 or low > -np.inf or high < np.inf
        w, drift, snapshot = places[:, 0].copy(), pace * places[:, 1], places[:, 2].copy()
        for i in order:
            eta, before = 0.0, 0.0
            if compared:
                for j in range(features):
                    eta += X[i, j] * w[j]
                    before += X[i, j] * snapshot[j]
                if intercept:
                    before += snapshot[features]
            else:
                for j in range(features):
                    eta += X[i, j] * w[j]
            if intercept:
                eta += w[features]
            if offset.shape[0]:
                eta += offset[i]
                before += offset[i]
            weight = weights[i] if weights.shape[0] else 1.0
            if compared:
                change = weight * (derivative(eta, y[i], parameter) - derivative(before, y[i], parameter))
            else:
                slope = weight * derivative(eta, y[i], parameter)
                change = slope - memory[i]
                memory[i] = slope
            by = step * change
            if kinked:
                for j in range(features):
                    z = w[j] - by * X[i, j] - drift[j]
                    over, under = z - lasso, z + lasso
                    z = rho * ((over if over > 0.0 else 0.0) + (under if under < 0.0 else 0.0))
                    z = z if z > low else low
                    w[j] = z if z < high else high
            else:
                for j in range(features):
                    w[j] = rho * (w[j] - by * X[i, j] - drift[j])
            if intercept:
                w[features] -= by + drift[features]
            if not compared:
                part = pace * share * change
                for j in range(features):
                    drift[j] += part * X[i, j]
                if intercept:
                    drift[features] += part
        clock[0] += order.shape[0]
        for j in range(places.shape[0]):
            places[j, 0] = w[j]
            places[j, 3] = clock[0]
            if not compared:
                places[j, 1] = drift[j] / pace

    @njit(nogil=True, error_model="numpy")
    def csr(
        start: Any, column: Any, number: Any, order: Any, y: Any, weights: Any, offset: Any,
        memory: Any, places: Any, clock: Any, numbers: Any, table: Any,
    ) -> None:  # fmt: skip
        pace, lasso, shrink, low, high = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
        step, share, intercept, parameter = numbers[0] * numbers[5], numbers[6], numbers[7] > 0.0, numbers[8]
        rho, last, now, compared = 1.0 / (1.0 + shrink), places.shape[0] - 1, clock[0], memory.shape[0] == 0
        kinked = lasso > 0.0 or low > -np.inf or high < np.inf
        for i in order:
            eta, before = 0.0, 0.0
            for k in range(np.uint64(start[i]), np.uint64(start[i + 1])):  # unsigned: no place is negative
                j = np.uint64(column[k])
                late = now - np.int64(places[j, 3])
                if late > 0:
                    w, drift = places[j, 0], pace * places[j, 1]
                    if late >= table.shape[0]:
                        w = advanced(w, drift, lasso, low, high, table, shrink, late)
                    elif not kinked:
                        w = table[late, 0] * w - table[late, 1] * drift
                    elif abs(w - drift) <= lasso and abs(drift) <= lasso:
                        w = min(max(0.0, low), high)
                    else:  # as `advanced` would, as long as that is one straight piece
                        sign = 1.0 if w > drift else -1.0
                        size, by = sign * w, sign * drift + lasso
                        if size > by and table[late - 1, 0] * size - table[late - 1, 1] * by > by:
                            w = min(max(sign * (table[late, 0] * size - table[late, 1] * by), low), high)
                        else:
                            w = advanced(w, drift, lasso, low, high, table, shrink, late)
                    places[j, 0] = w
                eta += number[k] * places[j, 0]
                if compared:
                    before += number[k] * places[j, 2]
            if intercept:
                eta += places[last, 0]
                before += places[last, 2]
            if offset.shape[0]:
                eta += offset[i]
                before += offset[i]
            weight = weights[i] if weights.shape[0] else 1.0
            if compared:
                change = weight * (derivative(eta, y[i], parameter) - derivative(before, y[i], parameter))
            else:
                slope = weight * derivative(eta, y[i], parameter)
                change = slope - memory[i]
                memory[i] = slope
            by, part = step * change, share * change
            now += 1
            for k in range(np.uint64(start[i]), np.uint64(start[i + 1])):
                j = np.uint64(column[k])
                z = places[j, 0] - by * number[k] - pace * places[j, 1]
                if kinked:
                    over, under = z - lasso, z + lasso
                    z = rho * ((over if over > 0.0 else 0.0) + (under if under < 0.0 else 0.0))
                    z = z if z > low else low
                    places[j, 0] = z if z < high else high
                else:
                    places[j, 0] = rho * z
                places[j, 3] = now
                if not compared:
                    places[j, 1] += part * number[k]
            if intercept:
                places[last, 0] -= by + pace * places[last, 1]
                if not compared:
                    places[last, 1] += part
        clock[0] = now

    return Kernels(dense, csr, settle)
