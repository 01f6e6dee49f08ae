"""Elementary functions against long doubles: accuracy, edges, where their coefficients come from, vector instructions."""

from __future__ import annotations

import platform
from collections.abc import Callable
from decimal import Decimal, getcontext
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import pytest

from graphopt.loops import vector_math

FUNCTIONS = ("exp", "expm1", "log", "log1p", "tanh")
long_double = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long doubles are doubles here")

EDGES = np.array(
    [
        *(0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1e-310, -1e-310, 2.2250738585072014e-308),
        *(1.7976931348623157e308, -1.7976931348623157e308, 709.782712893384, 709.7827128933841, 710.0, 1e4, -1e4, -740.0),
        *(-708.4, -745.1332191019411, -745.1332191019412, 1e-17, -1e-17, 2.0**53, 2.0**54, 1e300, 22.0, -22.0, 0.6, -0.6),
        *(np.nextafter(1, 0), np.nextafter(1, 2), np.nextafter(-1, 0), np.nextafter(-1, -2), np.sqrt(0.5), np.sqrt(2.0)),
        *(np.log(2) / 2, -np.log(2) / 2, np.sqrt(0.5) - 1, np.sqrt(2.0) - 1, 36.7, 37.5, -36.7, -37.5, 40.0, -50.0),
    ]
)


@lru_cache
def compiled(name: str) -> Callable[[Any, Any], None]:
    """Return a loop of a function over an array."""
    func = getattr(vector_math, name)

    @numba.njit(error_model="numpy")
    def loop(x: Any, out: Any) -> None:
        for i in range(x.shape[0]):
            out[i] = func(x[i])

    return loop  # type: ignore[no-any-return]


def numbers() -> np.ndarray:
    """Return doubles of all sizes, more of them where something changes."""
    rng = np.random.default_rng(7)
    count = 100_000
    parts = [rng.uniform(-span, span, count) for span in (1e-8, 0.4, 1.0, 3.0, 40.0, 760.0)]
    parts.append(rng.integers(-(2**63), 2**63 - 1, count, dtype=np.int64).view(np.float64))  # any bits at all
    parts.append(np.exp(rng.uniform(-750, 700, count)))
    near = EDGES[np.abs(EDGES) < 1e308]
    parts += [edge + np.spacing(edge) * np.arange(-50.0, 50.0) for edge in near]
    return np.concatenate([*parts, EDGES])


@long_double
@pytest.mark.parametrize("name", FUNCTIONS)
def test_within_two_units_in_the_last_place(name: str) -> None:
    x = numbers()
    found = np.empty_like(x)
    compiled(name)(x, found)
    with np.errstate(all="ignore"):
        exact = getattr(np, name)(x.astype(np.longdouble))
        wanted = exact.astype(np.float64)
        errors = np.abs((found - exact) / np.spacing(np.abs(wanted)))
    finite = np.isfinite(wanted) & np.isfinite(found)
    assert errors[finite].max() <= 2
    # Rounding may go either way at the border to overflow only.
    border = np.abs(wanted) > 1.79769313486e308
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    assert np.array_equal(found[~border & ~finite], wanted[~border & ~finite], equal_nan=True)
    zeros = wanted == 0
    assert np.array_equal(np.signbit(found[zeros]), np.signbit(wanted[zeros]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_edges_are_numpys(name: str) -> None:
    found = np.empty_like(EDGES)
    compiled(name)(EDGES, found)
    with np.errstate(all="ignore"):
        wanted = getattr(np, name)(EDGES)
    assert np.allclose(found, wanted, rtol=1e-15, atol=0, equal_nan=True)
    assert np.array_equal(np.signbit(found[found == 0]), np.signbit(wanted[found == 0]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_single_precision_is_rounded_double_precision(name: str) -> None:
    x = np.concatenate([np.linspace(-100, 100, 20_001), [np.inf, -np.inf, np.nan, 0.0, 1e-40]]).astype(np.float32)
    found = np.empty_like(x)
    compiled(name)(x, found)
    with np.errstate(all="ignore"):
        wanted = getattr(np, name)(x.astype(np.float64)).astype(np.float32)
    assert np.allclose(found, wanted, rtol=1.2e-7, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["logaddexp", "maximum", "minimum"])
def test_functions_of_two_numbers(name: str) -> None:
    func = getattr(vector_math, name)

    @numba.njit(error_model="numpy")
    def loop(x: Any, y: Any, out: Any) -> None:
        for i in range(x.shape[0]):
            out[i] = func(x[i], y[i])

    ends = np.array([0.0, 1.0, -1.5, 3e5, np.inf, -np.inf, np.nan, 1e308])
    x, y = (grid.ravel() for grid in np.meshgrid(ends, ends))
    rng = np.random.default_rng(1)
    x, y = (np.concatenate([side, rng.normal(size=1000) * 10]) for side in (x, y))
    found = np.empty_like(x)
    loop(x, y, found)
    with np.errstate(all="ignore"):
        assert np.allclose(found, getattr(np, name)(x, y), rtol=1e-15, atol=1e-16, equal_nan=True)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines name their registers otherwise")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_loops_become_vector_instructions(name: str) -> None:
    loop: Any = compiled(name)
    loop(EDGES, EDGES.copy())
    assembly = "".join(loop.inspect_asm().values())
    packed = sum(assembly.count(f"{op}pd") for op in ("vmul", "vadd", "vfmadd213", "vfmadd231", "mul", "add"))
    assert packed > 10
    assert not any(f"call{end}" in assembly for end in ("\tlog", "\texp", "\ttanh"))


# -- coefficients ------------------------------------------------------------------------------------------------------


def interpolate(func: Callable[[Decimal], Decimal], low: Decimal, high: Decimal, degree: int) -> list[float]:
    """Interpolate at Chebyshev nodes, and round the coefficients."""
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
    middle, half, n = (low + high) / 2, (high - low) / 2, degree + 1
    nodes = [middle + half * cosine(pi * (2 * i + 1) / (2 * n)) for i in range(n)]
    newton = [func(node) for node in nodes]
    for j in range(1, n):
        for i in range(degree, j - 1, -1):
            newton[i] = (newton[i] - newton[i - 1]) / (nodes[i] - nodes[i - j])
    out = [newton[-1]]
    for i in range(degree - 1, -1, -1):
        shifted = [Decimal(0), *out]
        out = [a - nodes[i] * b for a, b in zip(shifted, [*out, Decimal(0)], strict=True)]
        out[0] += newton[i]
    return [float(value) for value in out]


def series(term: Callable[[int], Decimal]) -> Decimal:
    total, n = Decimal(0), 0
    while abs(now := term(n)) > Decimal(10) ** -58:
        total, n = total + now, n + 1
    return total


def cosine(x: Decimal) -> Decimal:
    terms = [Decimal(1)]
    for n in range(1, 60):
        terms.append(-terms[-1] * x * x / ((2 * n - 1) * (2 * n)))
    return sum(terms, Decimal(0))


def exponential(r: Decimal) -> Decimal:
    """Return ``(e^r - 1 - r) / r²``."""
    terms = [Decimal(1) / 2]
    for n in range(3, 60):
        terms.append(terms[-1] * r / n)
    return sum(terms, Decimal(0))


def test_coefficients_are_where_they_are_said_to_come_from() -> None:
    was = getcontext().prec
    getcontext().prec = 60
    try:
        half = Decimal("0.34657359027997265470861606072908828403775006718012762706034") * Decimal("1.0001")
        assert interpolate(exponential, -half, half, 10) == list(vector_math._EXP)
        end = (3 - 2 * Decimal(2).sqrt()) ** 2 * Decimal("1.0001")
        assert interpolate(lambda z: series(lambda n: 2 * z**n / (2 * n + 3)), Decimal(0), end, 6) == list(vector_math._LOG)
    finally:
        getcontext().prec = was
