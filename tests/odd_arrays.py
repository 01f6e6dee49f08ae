"""Arrays of any kind: dtypes, layouts and classes that a function for plain arrays must get right or leave alone."""

from __future__ import annotations

import random
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
from oracle import same

DTYPES = (
    *("f8", "f8", "f8", "f4", "f2", "g", ">f8", "i8", "i1", "u2", "?", "c16", "c8", "G", "O", "m8[s]"),
    *("V12", "fractions", "M8[D]", ">i4"),
)
LAYOUTS = ("C", "C", "F", "strided", "backwards", "broadcast", "readonly", "transposed", "permuted")
CLASSES = ("plain", "plain", "plain", "masked", "matrix", "subclass")


class Mine(np.ndarray[Any, Any]):
    """An array class of a user."""


def array(rng: random.Random, shape: tuple[int, ...], dtype: str, layout: str, kind: str) -> Any:
    """Make an array of this kind, with special values where its dtype has them."""
    draw = np.random.default_rng(rng.getrandbits(32))
    if dtype == "V12":
        out = np.zeros(shape, [("a", "f8"), ("b", "i4")])
        out["a"] = draw.normal(size=shape)
    elif dtype in ("O", "fractions"):
        make = (lambda: Fraction(rng.randint(-9, 9), 7)) if dtype == "fractions" else lambda: rng.choice((1, 2.5, True, -0.0))
        out = np.empty(shape, object)
        out[...] = np.reshape([make() for _ in range(out.size)] or np.zeros(0), shape)
    else:
        out = np.asarray(draw.normal(size=shape) * 50).astype("i8").astype(dtype)
        if np.dtype(dtype).kind in "fc":
            out = np.asarray(draw.normal(size=shape) * 3).astype(dtype)
            out.flat[::3] = rng.choice((np.nan, -0.0, 0.0, np.inf, -np.inf, 1.0))
        if np.dtype(dtype).kind in "mM":
            out.flat[::4] = np.datetime64("NaT") if dtype[0] == "M" else np.timedelta64("NaT")
    if layout == "permuted" and out.ndim == 3:  # neither C nor F
        out = np.moveaxis(np.ascontiguousarray(np.moveaxis(out, 0, 1)), 1, 0)
    if layout == "F":
        out = np.asfortranarray(out)
    elif layout == "strided":
        out = np.repeat(out, 2, axis=-1)[..., ::2] if out.ndim else out
    elif layout == "backwards":
        out = out[::-1] if out.ndim else out
    elif layout == "broadcast":
        out = np.broadcast_to(out[:1], out.shape) if out.ndim and len(out) else out
    elif layout == "transposed":
        out = np.ascontiguousarray(out.T).T
    elif layout == "readonly":
        out.flags.writeable = False
    if kind == "masked":
        return np.ma.MaskedArray(out, mask=draw.random(out.shape) < 0.3)
    if kind == "matrix" and out.ndim == 2:
        return out.view(np.matrix)
    return out.view(Mine) if kind == "subclass" else out


def arrays(rng: random.Random, shape: tuple[int, ...], count: int = 1) -> list[Any]:
    dtype, layout, kind = rng.choice(DTYPES), rng.choice(LAYOUTS), rng.choice(CLASSES)
    mixed = rng.random() < 0.2
    return [
        array(rng, shape, rng.choice(DTYPES) if mixed else dtype, rng.choice(LAYOUTS) if mixed else layout, kind)
        for _ in range(count)
    ]


def shape_of(rng: random.Random, dims: int, *, large: bool = False) -> tuple[int, ...]:
    if large and dims == 2 and rng.random() < 0.2:  # large enough for sums to depend on the order of addition
        return rng.choice(((40, 9), (9, 40), (200, 1), (1, 200)))
    if large and dims == 3 and rng.random() < 0.2:
        return (9, 30, 7)
    return tuple(rng.choice((0, 1, 1, 2, 3, 5)) for _ in range(dims))


def outcome(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a function; return its value, or the type of the error."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "value", func(*args, **kwargs)
        except Exception as error:
            return "error", type(error)


def assert_alike(one: Any, other: Any) -> None:
    assert one[0] == other[0], f"{one} instead of {other}"
    assert one[1] is other[1] if one[0] == "error" else same(one[1], other[1]), f"{one} instead of {other}"
