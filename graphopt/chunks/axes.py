"""Axes: along which of them the arrays of a step may be cut: by default where that makes no difference to the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import dask.array as da

from graphopt.chunks.sampling import Call, call_of, same

__all__ = ["cuttable"]

#: Rows of the sample on which is tried whether results depend on how an axis is cut.
_FEW = 48


def cuttable(step: Any, X: da.Array, others: Sequence[Any], axes: Any, *, tried: bool) -> tuple[Call, list[str]]:
    """Return the call with the axes along which it may be cut, and notes on those along which it may not.

    Parameters
    ----------
    step, X, others
        The call ``step(X, *others)``.
    axes
        The axes that the user named; None for those along which the results prove to be the same.
    tried
        Whether that is tried.

    Raises
    ------
    ValueError
        If there is no such axis.
    """
    whole = call_of(X, others, ())
    X, others = whole.arguments[0], whole.arguments[1:]  # of known chunks
    if axes is not None:
        named = (axes,) if isinstance(axes, int) else tuple(axes)
        for axis in named:
            if not -X.ndim <= axis < X.ndim:
                raise ValueError(f"axes={axes!r}: X has no axis {axis}, only {X.ndim} of them.")
        return call_of(X, others, tuple(sorted({axis % X.ndim for axis in named}))), []
    wanted = (0, *[axis for axis in range(1, X.ndim) if X.numblocks[axis] > 1])
    if not tried:
        return call_of(X, others, wanted), []
    fn = getattr(step, "__wrapped__", step) if hasattr(step, "twin") else step
    free = [axis for axis in wanted if _stays_the_same(fn, call_of(X, others, (axis,)))]
    notes = [f"the results depend on how axis {axis} is cut; axes= says otherwise" for axis in wanted if axis not in free]
    return call_of(X, others, tuple(free)), notes


def _stays_the_same(fn: Callable[..., Any], call: Call) -> bool:
    """Say whether a step gives the same on a few rows, in one piece and in three; true if that cannot be seen."""
    axis = call.axes[0]
    few = call.first(_FEW)
    length = few.array.shape[axis]
    if length < 3:
        return True
    third = length // 3
    pieces = ((length,), (third, third, length - 2 * third))

    def of(lengths: tuple[int, ...]) -> Callable[[], Any]:
        leaves = [
            leaf.rechunk({axis: lengths}) if axis in tied and isinstance(leaf, da.Array) else leaf
            for leaf, tied in zip(few.leaves, few.tied, strict=True)
        ]
        return lambda: fn(*replace(few, leaves=tuple(leaves)).arguments)

    try:
        whole = of(pieces[0])
        if not same(whole, whole):  # it draws random numbers, or counts
            return True
    except Exception:  # not on so few rows: the step itself will raise on all, if it does
        return True
    try:
        return same(whole, of(pieces[1]))
    except Exception:
        return False
