"""Peephole: neighbouring steps of a kernel that together come down to one lean call.

::

    t = lean.tensordot(a, b, axes=((1,), (0,)), is_sparse=False)
    s = lean.sum_(t, axis=(1,), dtype=float64, keepdims=True)               ->   r = lean.contract(a, b, ..., keepdims=False)
    r = lean.reduce_blocks(lean.sum_, [s], axes=[1], axis=(1,), ...)

That is how dask writes ``a.dot(b)``: it contracts block by block, keeps the contracted axis for the sum over the blocks, and
sums it away even where there is one block. The steps come from different layers, so only a kernel has them side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from graphopt import lean
from graphopt.program import CONST, INPUT, ITEM, LIST, LITERAL, VALUE, Spec, Step

EXACT = True


_PARTS = {"axes", "is_sparse", "dtype", "keepdims", "joined"}  # what `lean.contract` has to be told


def contractions(steps: Sequence[Step], outputs: Sequence[Spec], fixed: Mapping[int, Any]) -> dict[int, tuple[int, Step]]:
    """Find the steps that only sum up the one block of a contraction.

    Parameters
    ----------
    steps
        The steps of a kernel, no program among them; constants stand in their specs.
    outputs
        What leaves the kernel.
    fixed
        The values of the literals that are the same wherever the kernel is used.

    Returns
    -------
    For such a step, the step that contracts, and the one call that takes the place of both. The step that contracts is then
    read by nobody.
    """
    if not any(func is lean.tensordot for func, _, _ in steps):
        return {}
    uses = Counter(_read([*outputs, *(spec for _, args, kwargs in steps for spec in (*args, *(v for _, v in kwargs)))]))

    def value(spec: Spec | None) -> Any:
        """Return the value of a constant; anything else stands for itself."""
        if spec is not None and spec[0] == CONST:
            return spec[1]
        return fixed.get(spec[1], spec) if spec is not None and spec[0] == LITERAL else spec

    found: dict[int, tuple[int, Step]] = {}
    for place, (func, args, kwargs) in enumerate(steps):
        mine = dict(kwargs)
        axis = value(mine.pop("axis", None))
        below = _summed(func, args, value(mine.pop("axes", None)))
        if below is None or uses[below] != 1 or type(axis) is not tuple or axis != (1,) or mine.keys() != {"dtype", "keepdims"}:
            continue
        start, (first, operands, options) = found.get(below, (below, steps[below]))
        theirs = dict(options)
        if first is lean.tensordot and func is lean.sum_ and len(operands) == 2:
            theirs.update(mine, joined=(CONST, False))
        elif (
            first is lean.contract
            and func is lean.reduce_blocks
            and value(theirs["keepdims"]) is True
            and value(theirs["dtype"]) is value(mine["dtype"])
            and theirs["joined"] == (CONST, False)
        ):
            theirs.update(mine, joined=(CONST, True))
        else:
            continue
        if theirs.keys() == _PARTS:
            found[place] = (start, (lean.contract, operands, tuple(theirs.items())))
    return found


def _summed(func: Any, args: tuple[Spec, ...], axes: Any) -> int | None:
    """Return which step's result a step sums up, or joins with no other and sums up."""
    if func is lean.sum_ and axes is None and len(args) == 1:
        return args[0][1] if args[0][0] == VALUE else None
    if func is lean.reduce_blocks and axes == [1] and len(args) == 2 and args[0] == (CONST, lean.sum_):
        blocks = args[1]
        return blocks[1][1] if blocks[0] == LIST and len(blocks) == 2 and blocks[1][0] == VALUE else None
    return None


def _read(specs: Sequence[Spec]) -> list[int]:
    out = []
    stack = list(specs)
    while stack:
        spec = stack.pop()
        if spec[0] == VALUE:
            out.append(spec[1])
        elif spec[0] == ITEM:
            stack.append(spec[1])
        elif spec[0] not in (INPUT, LITERAL, CONST):
            stack.extend(spec[1:])
    return out
