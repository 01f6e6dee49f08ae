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
    add_sums,
    at_end,
    eight,
    fused,
    load,
    lower_sums,
    most,
    one_a_row,
    outer,
    plus,
    splat,
    store,
    times,
    total,
    widened,
    zeros,
)

__all__ = [
    *("add_products", "add_rows", "add_square", "add_up", "count_rows", "count_up", "dots", "greatest", "mirror", "product"),
    "repeat",
    *("row_counts", "row_extremes", "row_places", "row_sums", "widen", "widest"),
]

_compiled: Decorator = njit(error_model="numpy")
_inline: Decorator = njit(error_model="numpy", forceinline=True)


@_inline
def _read(t: Any, u: Any, at: Any) -> Any:
    """Read a vector of one type as one of another."""
    return widened(t, load(u, at))


@_inline
def _rest(t: Any, u: Any, at: Any, m: Any) -> Any:
    return widened(t, at_end(u, at, m))


@_inline
def _each(t: Any, number: Any) -> Any:
    return splat(t.type(number))


@_inline
def _sums_of_8(t: Any, u: Any, rows: Any, size: Any, k: Any, b: Any, wide: Any) -> Any:
    """Multiply 8 rows with a vector of wider numbers, or of numbers as wide as theirs."""
    step, whole = k * size, k - k % WIDTH
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = zeros(t)
    for c in range(0, whole, WIDTH):
        at, v = rows + c * size, load(t, b + c * wide)
        s0, s1 = fused(_read(t, u, at), v, s0), fused(_read(t, u, at + step), v, s1)
        s2, s3 = fused(_read(t, u, at + 2 * step), v, s2), fused(_read(t, u, at + 3 * step), v, s3)
        s4, s5 = fused(_read(t, u, at + 4 * step), v, s4), fused(_read(t, u, at + 5 * step), v, s5)
        s6, s7 = fused(_read(t, u, at + 6 * step), v, s6), fused(_read(t, u, at + 7 * step), v, s7)
    if whole < k:
        at, m = rows + whole * size, k - whole
        v = at_end(t, b + whole * wide, m)
        s0, s1 = fused(_rest(t, u, at, m), v, s0), fused(_rest(t, u, at + step, m), v, s1)
        s2, s3 = fused(_rest(t, u, at + 2 * step, m), v, s2), fused(_rest(t, u, at + 3 * step, m), v, s3)
        s4, s5 = fused(_rest(t, u, at + 4 * step, m), v, s4), fused(_rest(t, u, at + 5 * step, m), v, s5)
        s6, s7 = fused(_rest(t, u, at + 6 * step, m), v, s6), fused(_rest(t, u, at + 7 * step, m), v, s7)
    return lower_sums((s0, s1, s2, s3, s4, s5, s6, s7))


@_compiled
def _dot(x: Any, n: int, k: int, b: Any, out: Any) -> None:
    """Multiply each row with a vector: ``out[:n] = x.reshape(n, k) @ b``. Rows may be of single precision beside double."""
    t, u, size, wide = out.dtype, x.dtype, x.itemsize, out.itemsize
    at, to = x.ctypes.data, b.ctypes.data
    into, eights = out.ctypes.data, n - n % WIDTH
    for i in range(0, eights, WIDTH):
        store(into + i * wide, _sums_of_8(t, u, at + i * k * size, size, k, to, wide))
    for i in range(eights, n):
        s = zeros(t)
        for c in range(0, k, WIDTH):
            m = min(WIDTH, k - c)
            s = fused(_rest(t, u, at + (i * k + c) * size, m), at_end(t, to + c * wide, m), s)
        out[i] = total(s)


@_compiled
def _add_product(x: Any, n: int, k: int, v: Any, out: Any) -> None:
    """Add up the rows, each times its number: ``out[:k] += x.reshape(n, k).T @ v[:n]``; in double precision of single."""
    t, u, size = out.dtype, x.dtype, x.itemsize
    step, fours = k * size, n - n % 4
    for c in range(0, k, WIDTH):
        m, at = min(WIDTH, k - c), x.ctypes.data + c * size
        s0 = s1 = s2 = s3 = zeros(t)
        if m == WIDTH:
            for i in range(0, fours, 4):
                s0, s1 = fused(_read(t, u, at), _each(t, v[i]), s0), fused(_read(t, u, at + step), _each(t, v[i + 1]), s1)
                at += 2 * step
                s2, s3 = fused(_read(t, u, at), _each(t, v[i + 2]), s2), fused(_read(t, u, at + step), _each(t, v[i + 3]), s3)
                at += 2 * step
        else:
            for i in range(0, fours, 4):
                s0, s1 = fused(_rest(t, u, at, m), _each(t, v[i]), s0), fused(_rest(t, u, at + step, m), _each(t, v[i + 1]), s1)
                at += 2 * step
                s2, s3 = (
                    fused(_rest(t, u, at, m), _each(t, v[i + 2]), s2),
                    fused(_rest(t, u, at + step, m), _each(t, v[i + 3]), s3),
                )
                at += 2 * step
        for i in range(fours, n):
            s0 = fused(_rest(t, u, at, m), _each(t, v[i]), s0)
            at += step
        s = plus(plus(s0, s1), plus(s2, s3))
        if m == WIDTH:
            to = out.ctypes.data + c * out.itemsize
            store(to, plus(load(t, to), s))
        else:
            sums = eight(t)
            store(sums.ctypes.data, s)
            for j in range(m):
                out[c + j] += sums[j]


# Products of two blocks are tiles: some numbers of a row, side by side, times one or two vectors of a row of the other block,
# summed up in registers from row to row. The last tile begins where it fits, and what has been summed up before is left out.


@_inline
def _weighed(vector: Any, h: Any, i: int) -> Any:
    return vector if h is None else times(vector, splat(h[i]))


@_inline
def _add_tiles(s: Any, x: Any, n: int, k: int, v: Any, m: int, h: Any, out: Any) -> None:
    """Add the product of two blocks; with weights only what is right of the diagonal, for it is symmetric.

    As many numbers of a row are multiplied at once as ``s`` has vectors, all zero.
    """
    t, size, high = out.dtype, out.itemsize, len(s)
    for a in range(0, k, high):
        first = min(a, k - high)
        for c in range(0 if h is None else a - a % WIDTH, m, 2 * WIDTH):
            at, to, into = x.ctypes.data + first * size, v.ctypes.data + c * size, out.ctypes.data + (first * m + c) * size
            one, two, count = s, s, m - c
            if count > WIDTH:
                for i in range(n):
                    one = outer(one, at + i * k * size, _weighed(load(t, to + i * m * size), h, i))
                    row = at_end(t, to + (i * m + WIDTH) * size, count - WIDTH)
                    two = outer(two, at + i * k * size, _weighed(row, h, i))
                add_sums(into + WIDTH * size, m * size, two, a - first, count - WIDTH)
            else:
                for i in range(n):
                    one = outer(one, at + i * k * size, _weighed(at_end(t, to + i * m * size, count), h, i))
            add_sums(into, m * size, one, a - first, count)


@_compiled
def add_square(x: Any, n: int, k: int, h: Any, out: Any) -> None:
    """Multiply the transpose of a block with its rows, each times its number; what is left of the diagonal is not of use."""
    z = zeros(out.dtype)
    if k >= 8:
        _add_tiles((z, z, z, z, z, z, z, z), x, n, k, x, k, h, out)
    elif k >= 4:
        _add_tiles((z, z, z, z), x, n, k, x, k, h, out)
    else:
        _add_tiles((z,), x, n, k, x, k, h, out)


@_compiled
def mirror(out: Any, k: int) -> None:
    """Make a matrix symmetric, from what is right of its diagonal."""
    for a in range(k):
        for b in range(a):
            out[a * k + b] = out[b * k + a]


@_compiled
def dots(x: Any, n: int, k: int, b: Any, m: int, out: Any) -> None:
    """Multiply each row with each of m vectors: ``out = x.reshape(n, k) @ b.reshape(m, k).T``."""
    if m == 1:
        _dot(x, n, k, b, out)
        return
    column = one_a_row(b.dtype)
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
    elif k >= 8:
        z = zeros(out.dtype)
        _add_tiles((z, z, z, z, z, z, z, z), x, n, k, v, m, None, out)
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
