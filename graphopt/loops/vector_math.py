"""Elementary functions without branches or calls, so that LLVM turns a loop of them into vector instructions.

numba has no vector library for ``exp`` and ``log`` on most machines and calls the C library once a number, which is several
times slower than NumPy. The functions here choose between cases by selecting, never by jumping, and take numbers apart
through their bits. They are within 2 units in the last place over all doubles, subnormals and infinities included.

Construction: arguments are reduced as in FreeBSD's msun (``e_log.c``, ``s_log1p.c``, ``s_expm1.c``). The polynomials
interpolate, in 60-digit arithmetic, ``(e^r - 1 - r) / r²`` on ``|r| <= ln 2 / 2`` and ``(2 atanh(s) / s - 2) / s²`` as a
function of ``s²`` on ``0 <= s <= 3 - 2 sqrt 2``, at Chebyshev nodes of intervals that are 0.01 % longer.

A single-precision number is computed in double precision and rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types

from graphopt.loops.vectors import Decorator, intrinsic

__all__ = ["cube", "exp", "expm1", "log", "log1p", "logaddexp", "maximum", "minimum", "sign", "square", "tanh"]

_EXP = tuple(
    map(
        float.fromhex,
        (
            *("0x1.0000000000000p-1", "0x1.5555555555557p-3", "0x1.5555555555556p-5", "0x1.11111111100dcp-7"),
            *("0x1.6c16c16c162d4p-10", "0x1.a01a01abe7fe1p-13", "0x1.a01a01a6d889cp-16", "0x1.71de0231960ebp-19"),
            *("0x1.27e4db646b17ep-22", "0x1.af4de97ca4194p-26", "0x1.1f730349868cep-29"),
        ),
    )
)
_LOG = tuple(
    map(
        float.fromhex,
        (
            *("0x1.5555555555558p-1", "0x1.99999999952d7p-2", "0x1.2492492df281ap-2", "0x1.c71c62e3f11e6p-3"),
            *("0x1.7462b51cb66b1p-3", "0x1.39fe51a7c18f9p-3", "0x1.2b5900de53b32p-3"),
        ),
    )
)
_Q0, _Q1, _Q2, _Q3, _Q4, _Q5, _Q6, _Q7, _Q8, _Q9, _Q10 = _EXP
_P0, _P1, _P2, _P3, _P4, _P5, _P6 = _LOG
_LOG2_E = float.fromhex("0x1.71547652b82fep+0")
#: ln 2 in two parts; products of the first with small integers are exact.
_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
#: Added to a small number, it leaves the nearest integer in the last bits.
_ROUND = float.fromhex("0x1.8p52")
_TINY, _LIFT = float.fromhex("0x1p-1022"), float.fromhex("0x1p54")
_ONE, _ROOT_HALF, _FRACTION = 0x3FF0000000000000, 0x3FE6A09E667F3BCD, 0x000FFFFFFFFFFFFF
_LN2, _INF, _NAN = _LN2_HIGH + _LN2_LOW, float("inf"), float("nan")

# Products and sums may be fused into one rounding; nothing else may be taken freely, or NaN and the two-part ln 2 would go.
_inline: Decorator = njit(forceinline=True, error_model="numpy", fastmath={"contract"})


@intrinsic
def _bits(typing_context: Any, x: Any) -> Any:
    """Return the bits of a double as an integer."""
    return types.int64(types.float64), lambda context, builder, signature, args: builder.bitcast(args[0], ir.IntType(64))


@intrinsic
def _double(typing_context: Any, bits: Any) -> Any:
    """Return the double of these bits."""
    return types.float64(types.int64), lambda context, builder, signature, args: builder.bitcast(args[0], ir.DoubleType())


@_inline
def _reduced(x: Any) -> Any:
    """Return k, r and ``e^r - 1 - r`` where ``x = k ln 2 + r``."""
    shifted = x * _LOG2_E + _ROUND
    k = shifted - _ROUND
    high, low = x - k * _LN2_HIGH, k * _LN2_LOW
    r = high - low
    lost = (high - r) - low  # what rounding took from r
    s = r * r
    # Estrin's order: short chains, because one number's chain is what the loop waits for.
    q0 = (_Q0 + r * _Q1) + s * (_Q2 + r * _Q3)
    q4 = (_Q4 + r * _Q5) + s * (_Q6 + r * _Q7)
    q8 = (_Q8 + r * _Q9) + s * _Q10
    q = q0 + (s * s) * (q4 + (s * s) * q8)
    return _bits(shifted) - _bits(_ROUND), r, s * q + lost


@_inline
def _scaled(y: Any, k: Any) -> Any:
    """Return ``y * 2^k``, in two steps because ``2^k`` may be out of range."""
    half = k >> 1
    return (y * _double((half + 1023) << 52)) * _double((k - half + 1023) << 52)


@_inline
def exp(x: Any) -> Any:
    """Return e to the power of x."""
    z = np.float64(x)
    inside = min(max(z, -746.0), 710.0) if z == z else 0.0
    k, r, more = _reduced(inside)
    y = _scaled(1.0 + (r + more), k)
    return y if z == z else z


@_inline
def expm1(x: Any) -> Any:
    """Return e to the power of x, less one."""
    z = np.float64(x)
    inside = min(max(z, -50.0), 710.0) if z == z else 0.0
    k, r, more = _reduced(inside)
    p = r + more
    power = _double((min(k, 1000) + 1023) << 52)
    near = power * p + (power - 1.0)
    y = p if k == 0 else (near if k < 60 else _scaled(1.0 + p, k))
    return y if z == z and z != 0.0 else z


@_inline
def _parts(x: Any) -> Any:
    """Return m and k, also as an integer, where ``x = m 2^k`` and m is between the roots of 1/2 and of 2."""
    bits = _bits(x) + (_ONE - _ROOT_HALF)
    exponent = (bits >> 52) & 0x7FF
    k = exponent - 1023
    # The integer in the last bits of a large double: for a conversion not every machine has a vector instruction.
    return _double((bits & _FRACTION) + _ROOT_HALF), k, _double(_bits(_ROUND) + k) - _ROUND


@_inline
def _log_of(f: Any, k: Any, c: Any) -> Any:
    """Return ``k ln 2 + log(1 + f) + c``."""
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    r = z * ((_P0 + z * _P1) + w * ((_P2 + z * _P3) + w * ((_P4 + z * _P5) + w * _P6)))
    half = 0.5 * f * f
    return k * _LN2_HIGH - ((half - (s * (half + r) + (k * _LN2_LOW + c))) - f)


@_inline
def log(x: Any) -> Any:
    """Return the natural logarithm."""
    z = np.float64(x)
    small = z < _TINY
    m, _, k = _parts(z * _LIFT if small else z)
    y = _log_of(m - 1.0, k - 54.0 if small else k, 0.0)
    y = z if z == _INF else y
    y = -_INF if z == 0.0 else y
    return y if z >= 0.0 else _NAN


@_inline
def log1p(x: Any) -> Any:
    """Return the natural logarithm of one plus x."""
    z = np.float64(x)
    u = 1.0 + z
    m, n, k = _parts(u)
    lost = 1.0 - (u - z) if n > 1 else z - (u - 1.0)  # what rounding took from u
    near = n == 0
    y = _log_of(z if near else m - 1.0, k, 0.0 if near else lost / u)
    y = z if z == 0.0 or z == _INF else y
    y = -_INF if z == -1.0 else y
    return y if z >= -1.0 else _NAN


@_inline
def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent."""
    z = np.float64(x)
    a = min(abs(z), 22.0) if z == z else 0.0
    k, r, more = _reduced(2.0 * a)
    p, power = r + more, _double((k + 1023) << 52)
    t = power * p + (power - 1.0)  # e^2a - 1
    rest = power * ((r - p) + more) + (power * p - (t - (power - 1.0)))  # what rounding took from it
    d = t + 2.0
    y = t / d
    left = 1.0 - y  # 2 / d
    y -= 0.5 * left * (y * (t - (d - 2.0)) - left * rest)
    y = np.copysign(y if a < 0.6 else 1.0 - 2.0 / d, z)
    return y if z == z else z


@_inline
def logaddexp(a: Any, b: Any) -> Any:
    """Return the logarithm of the sum of two exponentials."""
    x, y = np.float64(a), np.float64(b)
    apart = x - y
    high = x if apart > 0.0 else y
    z = high + log1p(exp(-abs(apart)))
    z = z if apart == apart else apart
    return x + _LN2 if x == y else z  # equal infinities too


# -- what needs no polynomial ------------------------------------------------------------------------------------------


@_inline
def maximum(a: Any, b: Any) -> Any:
    """Return the greater of two numbers, NaN if either is."""
    return a if a >= b or a != a else b


@_inline
def minimum(a: Any, b: Any) -> Any:
    """Return the lesser of two numbers, NaN if either is."""
    return a if a <= b or a != a else b


@_inline
def sign(x: Any) -> Any:
    """Return -1, 0 or 1, or NaN."""
    return (x > 0) - (x < 0) if x == x else x


@_inline
def square(x: Any) -> Any:
    """Return x times x."""
    return x * x


@_inline
def cube(x: Any) -> Any:
    """Return x times x times x."""
    return x * x * x
