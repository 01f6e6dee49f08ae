"""Programs written by hand, and loops held against them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.loops import Arg, Loop, loop_of
from graphopt.program import CONST, INPUT, LIST, LITERAL, VALUE, Program, Spec

K = 5
ROW_COUNTS = (0, 1, 255, 256, 257, 700)


class Build:
    """A program written by hand: ``b(func, *specs)`` adds a step."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, func: Callable[..., Any], *args: Any, **options: Any) -> Spec:
        specs = tuple(self.spec(arg) for arg in args)
        self.steps.append((func, specs, tuple((name, self.spec(value)) for name, value in options.items())))
        return (VALUE, len(self.steps) - 1)

    def spec(self, value: Any) -> Spec:
        if isinstance(value, tuple) and value and value[0] in (INPUT, LITERAL, VALUE, LIST):
            return value
        self.constants.append(value)
        return (CONST, len(self.constants) - 1)

    def program(self, inputs: int, *outputs: Spec) -> Program:
        return Program(self.steps, inputs, 0, outputs, constants=self.constants)


def x(place: int) -> Spec:
    return (INPUT, place)


def looped(program: Program, samples: Sequence[Any], lanes: Sequence[bool]) -> Loop:
    """Compile a program whose inputs are like these."""
    loop = loop_of(program, {}, [Arg.of(value, lane=lane) for value, lane in zip(samples, lanes, strict=True)])
    assert isinstance(loop, Loop), loop
    return loop


def reason(program: Program, samples: Sequence[Any], lanes: Sequence[bool]) -> str:
    """Return why a program is refused."""
    found = loop_of(program, {}, [Arg.of(value, lane=lane) for value, lane in zip(samples, lanes, strict=True)])
    assert isinstance(found, str), found.source
    return found


def close(found: Any, wanted: Any) -> bool:
    """Compare to rounding: exactly for what is no fraction, and where there is NaN or infinity."""
    if found.dtype != wanted.dtype or found.shape != wanted.shape or type(found) is not type(wanted):
        return False
    if found.dtype.kind != "f":
        return bool((found == wanted).all())
    scale = 1 + np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
    tolerance = 1e-10 if found.dtype == np.float64 else 2e-3
    return bool(np.allclose(found, wanted, rtol=tolerance, atol=tolerance * scale, equal_nan=True))


def check(program: Program, arguments: Sequence[Sequence[Any]], lanes: Sequence[bool]) -> Loop:
    """Compare a loop over several lanes with the program run on each."""
    loop = looped(program, arguments[0], lanes)
    own = [[value for value, lane in zip(values, lanes, strict=True) if lane] for values in arguments]
    shared = [value for value, lane in zip(arguments[0], lanes, strict=True) if not lane]
    found = loop(own, shared)
    assert len(found) == len(arguments)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        for values, outputs in zip(arguments, found, strict=True):
            wanted = program(*values)
            wanted = wanted if isinstance(wanted, tuple) else (wanted,)
            for place, (a, b) in enumerate(zip(outputs, wanted, strict=True)):
                assert close(a, b), f"output {place} of {len(wanted)}: {a!r} is not {b!r}\n{loop.source}"
    return loop


def data(shape: tuple[int, ...], dtype: Any, seed: int, odd: bool = False) -> np.ndarray:
    """Return numbers around zero; ``odd`` ones include NaN and infinities."""
    rng = np.random.default_rng(seed)
    out = rng.normal(size=shape).astype(dtype)
    if odd and out.size:
        flat = out.reshape(-1)
        flat[rng.integers(0, flat.size, 3)] = np.nan, np.inf, -np.inf
    return out
