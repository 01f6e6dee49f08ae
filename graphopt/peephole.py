"""Peephole: neighbouring steps of a kernel that together come down to one lean call.

::

    t = lean.tensordot(a, b, axes=((1,), (0,)), is_sparse=False)
    s = lean.sum_(t, axis=(1,), dtype=float64, keepdims=True)               ->   r = lean.contract(a, b, ..., keepdims=False)
    r = lean.reduce_blocks(lean.sum_, [s], axes=[1], axis=(1,), ...)

    getitem(lean.matmul(a, b), (slice(None), 0, slice(None)))               ->   lean.times(a, b, axis=1)
    lean.arg_agg(argmin, [lean.arg_chunk(min, argmin, x, (1,), 0)], ...)    ->   lean.argmin(x, (1,), 0, keepdims=False)
    lean.mean_agg([lean.mean_chunk(x, ...)], ...)                           ->   lean.mean(x, ...)
    lean.grid([getitem(x, slice(0, 2)), y], [2])                            ->   lean.grid([lean.piece(x, slice(0, 2)), y], [2])

The first is how dask writes ``a.dot(b)``: it contracts block by block, keeps the contracted axis for the sum over the blocks,
and sums it away even where there is one block. ``a @ b`` leaves a place for that axis and takes it off again. An arg-reduction
finds both the best number and its place, for the choice among blocks, even where there is one; a mean keeps sums and counts. A
rechunk copies the parts of blocks, and copies them again when it joins them. The steps come from different layers, so only a
kernel has them side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dask.array import chunk

from graphopt import lean
from graphopt.program import CONST, INPUT, ITEM, LIST, LITERAL, VALUE, Spec, Step

__all__ = ["shorter"]

EXACT = True

#: What finds places in one block, by the identity of dask's function: one that was pickled may be another.
_PLACES: dict[int, Any] = {id(chunk.argmin): lean.argmin, id(chunk.argmax): lean.argmax}

#: For the steps that are replaced: the step that does most of the work, and the one call in place of both.
Found = dict[int, tuple[int, Step]]

_PARTS = {"axes", "is_sparse", "dtype", "keepdims", "joined"}  # what `lean.contract` has to be told
#: Without one of these there is nothing to find.
_FIRST = frozenset(map(id, (lean.tensordot, lean.matmul, lean.arg_chunk, lean.mean_chunk, lean.grid)))


def shorter(steps: Sequence[Step], outputs: Sequence[Spec], fixed: Mapping[int, Any]) -> Found:
    """Find the steps that can be done in one call with what they read, or in a cheaper one.

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
    For such a step, the step that does most of the work, and the one call that takes the place of both. A step that is not
    itself replaced is then read by nobody.
    """
    if not any([id(func) in _FIRST for func, _, _ in steps]):
        return {}
    return _Steps(steps, outputs, fixed).found()


class _Steps:
    """The steps of a kernel, and who reads them."""

    def __init__(self, steps: Sequence[Step], outputs: Sequence[Spec], fixed: Mapping[int, Any]) -> None:
        self.steps, self.fixed = steps, fixed
        self.uses = Counter(_read([*outputs, *(spec for step in steps for spec in _specs(step))]))

    def found(self) -> Found:
        out: Found = {}
        for place, step in enumerate(self.steps):
            out.update(self.contraction(place, step, out))
            out.update(self.product(place, step))
            out.update(self.argument(place, step))
            out.update(self.mean(place, step))
            if step[0] is lean.grid:
                out.update(self.pieces(step))
        return out

    def value(self, spec: Spec | None) -> Any:
        """Return the value of a constant; anything else stands for itself."""
        if spec is not None and spec[0] == CONST:
            return spec[1]
        return self.fixed.get(spec[1], spec) if spec is not None and spec[0] == LITERAL else spec

    def below(self, spec: Spec) -> int | None:
        """Return which step's result a spec is, if nobody else reads it."""
        return spec[1] if spec[0] == VALUE and self.uses[spec[1]] == 1 else None

    # -- the rules -----------------------------------------------------------------------------------------------------

    def contraction(self, place: int, step: Step, found: Found) -> Found:
        """Let a contraction sum up the one block that it gives; then again, as the only one of a list."""
        func, args, kwargs = step
        mine = dict(kwargs)
        axis = self.value(mine.pop("axis", None))
        below = self.summed(func, args, self.value(mine.pop("axes", None)))
        if below is None or type(axis) is not tuple or axis != (1,) or mine.keys() != {"dtype", "keepdims"}:
            return {}
        start, (first, operands, options) = found.get(below, (below, self.steps[below]))
        theirs = dict(options)
        if first is lean.tensordot and func is lean.sum_ and len(operands) == 2:
            theirs.update(mine, joined=(CONST, False))
        elif (
            first is lean.contract
            and func is lean.reduce_blocks
            and self.value(theirs["keepdims"]) is True
            and self.value(theirs["dtype"]) is self.value(mine["dtype"])
            and theirs["joined"] == (CONST, False)
        ):
            theirs.update(mine, joined=(CONST, True))
        else:
            return {}
        return {place: (start, (lean.contract, operands, tuple(theirs.items())))} if theirs.keys() == _PARTS else {}

    def summed(self, func: Any, args: tuple[Spec, ...], axes: Any) -> int | None:
        """Return which step's result a step sums up, or joins with no other and sums up."""
        if func is lean.sum_ and axes is None and len(args) == 1:
            return self.below(args[0])
        if func is lean.reduce_blocks and axes == [1] and len(args) == 2 and args[0] == (CONST, lean.sum_):
            return self.alone(args[1], 1)
        return None

    def alone(self, spec: Spec, depth: int) -> int | None:
        """Return which step's result is all there is in lists nested this deep."""
        for _ in range(depth):
            if spec[0] != LIST or len(spec) != 2:
                return None
            spec = spec[1]
        return self.below(spec)

    def product(self, place: int, step: Step) -> Found:
        """Let a product of matrices leave no place for an axis that is taken off at once."""
        func, args, kwargs = step
        if func is not chunk.getitem or len(args) != 2 or kwargs:
            return {}
        below, index = self.below(args[0]), self.value(args[1])
        if below is None or self.steps[below][0] is not lean.matmul or self.steps[below][2] or not _takes_off(index):
            return {}
        return {place: (below, (lean.times, self.steps[below][1], (("axis", (CONST, len(index) - 2)),)))}

    def argument(self, place: int, step: Step) -> Found:
        """Find places only where there is one block."""
        func, args, kwargs = step
        options = dict(kwargs)
        if func is not lean.arg_agg or len(args) != 2 or options.keys() != {"axes", "axis", "keepdims"}:
            return {}
        axis, axes = self.value(options["axis"]), self.value(options["axes"])
        below = self.alone(args[1], len(axes)) if type(axis) is tuple and axes == sorted(axis) else None
        if below is None or self.steps[below][0] is not lean.arg_chunk or self.steps[below][2]:
            return {}
        _, argfunc, x, mine, offset = self.steps[below][1]
        if self.value(argfunc) is not self.value(args[0]) or self.value(mine) != axis:
            return {}
        call = _PLACES.get(id(self.value(argfunc)))
        return {} if call is None else {place: (below, (call, (x, mine, offset), (("keepdims", options["keepdims"]),)))}

    def mean(self, place: int, step: Step) -> Found:
        """Average without counts where there is one block."""
        func, args, kwargs = step
        options = dict(kwargs)
        if func is not lean.mean_agg or len(args) != 1 or options.keys() != {"axis", "dtype", "keepdims"}:
            return {}
        axis, dtype = self.value(options["axis"]), self.value(options["dtype"])
        below = self.alone(args[0], len(axis)) if type(axis) is tuple else None
        if below is None or self.steps[below][0] is not lean.mean_chunk or len(self.steps[below][1]) != 1:
            return {}
        theirs = {name: self.value(value) for name, value in self.steps[below][2]}
        if theirs.keys() != options.keys() or theirs["axis"] != axis or theirs["keepdims"] is not True:
            return {}
        return {place: (below, (lean.mean, self.steps[below][1], kwargs))} if theirs["dtype"] is dtype else {}

    def pieces(self, step: Step) -> Found:
        """Copy parts of blocks once, when they are joined."""
        _, args, _ = step
        out: Found = {}
        for block in args[0][1:] if args and args[0][0] == LIST else ():
            below = self.below(block)
            if below is not None and self.steps[below][0] is chunk.getitem and len(self.steps[below][1]) == 2:
                out[below] = (below, (lean.piece, *self.steps[below][1:]))
        return out


def _takes_off(index: Any) -> bool:
    """Say whether an index takes the first place along the last axis but one, and all along the others."""
    if type(index) is not tuple or len(index) < 2 or type(index[-2]) is not int or index[-2] != 0:
        return False
    return all([type(part) is slice and part == slice(None) for part in (*index[:-2], index[-1])])


def _specs(step: Step) -> Iterator[Spec]:
    yield from step[1]
    for _, spec in step[2]:
        yield spec


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
