"""Line search: how far to go along a direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Sample", "wolfe"]

#: How much of the promised decrease is asked for, and how much of the slope may be left.
_DECREASE, _SLOPE = 1e-4, 0.9

#: Differences of values that are rounding, relative to the value.
_ROUNDING = 4e-16


class Sample(NamedTuple):
    """The function at a step: its value, its slope along the direction, and what was evaluated."""

    step: float
    value: float
    slope: float
    found: Any


def wolfe(evaluate: Callable[[float], Sample], start: Sample, first: float = 1.0, *, most: int = 25) -> Sample | None:
    """Return a step that decreases a function enough and leaves less of its slope; None if rounding hides any.

    Where values differ by no more than rounding, slopes decide, which are exact for longer.

    Parameters
    ----------
    evaluate
        Returns the sample at a step.
    start
        The sample at 0, whose slope is negative.
    first
        The step to try first.
    most
        How many to try.

    Notes
    -----
    Bracketing and cubic interpolation as in Nocedal and Wright, *Numerical Optimization* (2006), section 3.5; the approximate
    condition is that of Hager and Zhang, SIAM J. Optim. 16 (2005).
    """
    low, high = start, None
    step = first
    for _ in range(most):
        at = evaluate(step)
        near = abs(at.value - start.value) <= _ROUNDING * 8 * abs(start.value)
        enough = at.value <= start.value + _DECREASE * step * start.slope or (
            near and at.slope <= (2 * _DECREASE - 1) * start.slope
        )
        if np.isfinite(at.value) and enough and abs(at.slope) <= -_SLOPE * start.slope:
            return at
        if not np.isfinite(at.value) or not enough or (at.value >= low.value and not near):
            high = at
        elif at.slope >= 0:
            high, low = low, at
        else:
            low = at
        if high is None:
            step = 2.0 * step
            continue
        if abs(high.step - low.step) <= 1e-12 * max(1.0, abs(low.step)):
            break
        step = _between(low, high)
    return low if low.step > 0 and low.value < start.value else None


def _between(low: Sample, high: Sample) -> float:
    """Return the minimum of the cubic through two samples, kept away from both."""
    width = high.step - low.step
    best = 0.5
    if np.isfinite(high.value) and np.isfinite(high.slope):
        a = low.slope + high.slope - 3 * (low.value - high.value) / -width if width else 0.0
        root = a * a - low.slope * high.slope
        if root >= 0:
            b = np.copysign(np.sqrt(root), width)
            bottom = high.slope - low.slope + 2 * b
            if bottom:
                best = 1 - (high.slope + b - a) / bottom
    return low.step + width * min(max(best, 0.1), 0.9)
