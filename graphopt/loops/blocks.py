"""Blocks: what a loop does with a block of rows that is no plain element-by-element arithmetic.

A block is a flat array of ``n`` rows of ``k`` numbers. Sums over rows are kept in several registers and added up at the end
of the block, so a sum over many rows is a sum of the blocks' sums.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from graphopt.loops.sizes import ROWS, WIDTH
from graphopt.loops.vectors import (
    Decorator,
    at_end,
    eight,
    fused,
    load,
    lower_sums,
    most,
    one_a_row,
    plus,
    splat,
    store,
    total,
    zeros,
)

__all__ = [
    *("add_products", "add_rows", "add_up", "count_rows", "count_up", "dots", "greatest", "product"),
    "repeat",
    *("row_counts", "row_extremes", "row_places", "row_sums", "widen", "widest"),
]

_compiled: Decorator = njit(error_model="numpy")
_inline: Decorator = njit(error_model="numpy", forceinline=True)


@_inline
def _sums_of_8(t: Any, rows: Any, size: Any, k: Any, b: Any) -> Any:
    """Multiply 8 rows with a vector."""
    step, whole = k * size, k - k % WIDTH
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = zeros(t)
    for c in range(0, whole * size, WIDTH * size):
        at, v = rows + c, load(t, b + c)
        s0, s1 = fused(load(t, at), v, s0), fused(load(t, at + step), v, s1)
        s2, s3 = fused(load(t, at + 2 * step), v, s2), fused(load(t, at + 3 * step), v, s3)
        s4, s5 = fused(load(t, at + 4 * step), v, s4), fused(load(t, at + 5 * step), v, s5)
        s6, s7 = fused(load(t, at + 6 * step), v, s6), fused(load(t, at + 7 * step), v, s7)
    if whole < k:
        at, m = rows + whole * size, k - whole
        v = at_end(t, b + whole * size, m)
        s0, s1 = fused(at_end(t, at, m), v, s0), fused(at_end(t, at + step, m), v, s1)
        s2, s3 = fused(at_end(t, at + 2 * step, m), v, s2), fused(at_end(t, at + 3 * step, m), v, s3)
        s4, s5 = fused(at_end(t, at + 4 * step, m), v, s4), fused(at_end(t, at + 5 * step, m), v, s5)
        s6, s7 = fused(at_end(t, at + 6 * step, m), v, s6), fused(at_end(t, at + 7 * step, m), v, s7)
    return lower_sums((s0, s1, s2, s3, s4, s5, s6, s7))


@_compiled
def _dot(x: Any, n: int, k: int, b: Any, out: Any) -> None:
    """Multiply each row with a vector: ``out[:n] = x.reshape(n, k) @ b``."""
    t, size = x.dtype, x.itemsize
    at, to = x.ctypes.data, b.ctypes.data
    into, eights = out.ctypes.data, n - n % WIDTH
    for i in range(0, eights, WIDTH):
        store(into + i * size, _sums_of_8(t, at + i * k * size, size, k, to))
    for i in range(eights, n):
        s = zeros(t)
        for c in range(0, k, WIDTH):
            m = min(WIDTH, k - c)
            s = fused(at_end(t, at + (i * k + c) * size, m), at_end(t, to + c * size, m), s)
        out[i] = total(s)


@_compiled
def _add_product(x: Any, n: int, k: int, v: Any, out: Any) -> None:
    """Add up the rows, each times its number: ``out[:k] += x.reshape(n, k).T @ v[:n]``."""
    t, size = x.dtype, x.itemsize
    step, fours = k * size, n - n % 4
    for c in range(0, k, WIDTH):
        m, at = min(WIDTH, k - c), x.ctypes.data + c * size
        s0 = s1 = s2 = s3 = zeros(t)
        if m == WIDTH:
            for i in range(0, fours, 4):
                s0, s1 = fused(load(t, at), splat(v[i]), s0), fused(load(t, at + step), splat(v[i + 1]), s1)
                at += 2 * step
                s2, s3 = fused(load(t, at), splat(v[i + 2]), s2), fused(load(t, at + step), splat(v[i + 3]), s3)
                at += 2 * step
        else:
            for i in range(0, fours, 4):
                s0, s1 = fused(at_end(t, at, m), splat(v[i]), s0), fused(at_end(t, at + step, m), splat(v[i + 1]), s1)
                at += 2 * step
                s2, s3 = fused(at_end(t, at, m), splat(v[i + 2]), s2), fused(at_end(t, at + step, m), splat(v[i + 3]), s3)
                at += 2 * step
        for i in range(fours, n):
            s0 = fused(at_end(t, at, m), splat(v[i]), s0)
            at += step
        s = plus(plus(s0, s1), plus(s2, s3))
        if m == WIDTH:
            to = out.ctypes.data + c * size
            store(to, plus(load(t, to), s))
        else:
            sums = eight(t)
            store(sums.ctypes.data, s)
            for j in range(m):
                out[c + j] += sums[j]


@_compiled
def dots(x: Any, n: int, k: int, b: Any, m: int, out: Any) -> None:
    """Multiply each row with each of m vectors: ``out = x.reshape(n, k) @ b.reshape(m, k).T``."""
    if m == 1:
        _dot(x, n, k, b, out)
        return
    column = one_a_row(x.dtype)
    for c in range(m):
        _dot(x, n, k, b[c * k :], column)
        for i in range(n):
            out[i * m + c] = column[i]


@_compiled
def row_sums(x: Any, n: int, k: int, out: Any) -> None:
    """Add up each row."""
    if k <= ROWS:
        ones = one_a_row(x.dtype)
        ones[:k] = 1
        _dot(x, n, k, ones, out)
    else:
        for i in range(n):
            out[i] = add_up(x[i * k :], k)


@_compiled
def add_products(x: Any, n: int, k: int, v: Any, m: int, out: Any) -> None:
    """Multiply the transpose of a block with another: ``out += x.reshape(n, k).T @ v.reshape(n, m)``."""
    if m == 1:
        _add_product(x, n, k, v, out)
    elif k == 1:
        _add_product(v, n, m, x, out)
    else:
        column = one_a_row(x.dtype)
        for a in range(k):
            for i in range(n):
                column[i] = x[i * k + a]
            _add_product(v, n, m, column, out[a * m :])


@_compiled
def product(x: Any, n: int, v: Any) -> Any:
    """Multiply a column with a column."""
    out = eight(x.dtype)
    _dot(x, 1, n, v, out)
    return out[0]


@_compiled
def add_rows(x: Any, n: int, k: int, out: Any) -> None:
    """Add up the rows."""
    ones = one_a_row(x.dtype)
    ones[:n] = 1
    _add_product(x, n, k, ones, out)


@_compiled
def count_up(x: Any, n: int) -> Any:
    """Add up the first n integers."""
    out = x.dtype.type(0)
    for i in range(n):
        out += x[i]
    return out


@_compiled
def count_rows(x: Any, n: int, k: int, out: Any) -> None:
    """Add up rows of integers."""
    for i in range(n):
        for j in range(k):
            out[j] += x[i * k + j]


@_compiled
def row_counts(x: Any, n: int, k: int, out: Any) -> None:
    """Add up each row of integers."""
    for i in range(n):
        out[i] = 0
        for j in range(k):
            out[i] += x[i * k + j]


@_compiled
def add_up(x: Any, n: int) -> Any:
    """Add up the first n numbers."""
    t, size, at = x.dtype, x.itemsize, x.ctypes.data
    wide = 4 * WIDTH
    whole = n - n % wide
    s0 = s1 = s2 = s3 = zeros(t)
    for i in range(0, whole * size, wide * size):
        s0, s1 = plus(load(t, at + i), s0), plus(load(t, at + i + WIDTH * size), s1)
        s2, s3 = plus(load(t, at + i + 2 * WIDTH * size), s2), plus(load(t, at + i + 3 * WIDTH * size), s3)
    for i in range(whole, n, WIDTH):
        s0 = plus(at_end(t, at + i * size, min(WIDTH, n - i)), s0)
    return total(plus(plus(s0, s1), plus(s2, s3)))


@_inline
def _more(a: Any, b: Any, sign: int) -> Any:
    return a if (a >= b if sign > 0 else a <= b) or a != a else b


@_compiled
def greatest(x: Any, n: int, sign: int, so_far: Any) -> Any:
    """Return the greatest of the first n numbers and one more, the least where ``sign`` is negative."""
    t, size, at = x.dtype, x.itemsize, x.ctypes.data
    whole = n - n % WIDTH
    s = splat(so_far)
    for i in range(0, whole * size, WIDTH * size):
        s = most(s, load(t, at + i), sign)
    ends = eight(t)
    store(ends.ctypes.data, s)
    for i in range(WIDTH):
        so_far = _more(so_far, ends[i], sign)
    for i in range(whole, n):
        so_far = _more(so_far, x[i], sign)
    return so_far


@_compiled
def widen(x: Any, n: int, k: int, sign: int, out: Any) -> None:
    """Keep in ``out`` the greatest of each column seen so far."""
    for i in range(n):
        for j in range(k):
            out[j] = _more(out[j], x[i * k + j], sign)


@_compiled
def row_extremes(x: Any, n: int, k: int, sign: int, out: Any) -> None:
    """Write down the greatest number of each row."""
    for i in range(n):
        best = x[i * k]
        for j in range(1, k):
            best = _more(best, x[i * k + j], sign)
        out[i] = best


@_compiled
def row_places(x: Any, n: int, k: int, sign: int, out: Any) -> None:
    """Write down where the greatest number of each row is: the first of equal ones, or the first NaN."""
    for i in range(n):
        best, place = x[i * k], 0
        for j in range(1, k):
            number = x[i * k + j]
            better = (number > best if sign > 0 else number < best) or (number != number and best == best)
            best, place = number if better else best, j if better else place
        out[i] = place


@_compiled
def widest(x: Any, n: int, sign: int, so_far: Any) -> Any:
    """Return the greatest of the first n integers and one more."""
    for i in range(n):
        so_far = _more(so_far, x[i], sign)
    return so_far


@_compiled
def repeat(v: Any, n: int, k: int, out: Any) -> None:
    """Write each of the first n numbers k times. What follows the last one in ``out`` is overwritten."""
    at, size = out.ctypes.data, out.itemsize
    for i in range(n):
        number = splat(v[i])
        for c in range(0, k, WIDTH):
            store(at + (i * k + c) * size, number)
