"""Lower: a lane's program as nodes, or the reason why it cannot be.

Shapes and dtypes are NumPy's own: each step is run on two sets of small arrays that differ in the number of rows, and the
axis in which the results differ is the rows. What depends on the shared arguments alone is no part of the loop: it is run
once a call, by NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.functions import is_pure
from graphopt.loops import rules
from graphopt.loops.flatten import Call, flatten, reached
from graphopt.loops.nodes import DTYPES, ROWS, Arg, Const, Node, Operand, Refused
from graphopt.loops.vocabulary import known, name_of
from graphopt.peephole import shorter
from graphopt.program import CONST, INPUT, LIST, LITERAL, TUPLE, VALUE, Program, Spec

__all__ = ["Lowered", "Prologue", "lower"]

_SAMPLE_ROWS = (3, 5)


@dataclass(frozen=True)
class Prologue:
    """The steps on shared arguments alone: function, arguments, options; `Node` for what an argument or a step gives."""

    steps: list[tuple[Callable[..., Any], list[Any], dict[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True)
class Lowered:
    """The values that leave a lane, and what has to be done before a call."""

    args: tuple[Arg, ...]
    outputs: tuple[Node, ...]
    prologue: Prologue


def lower(program: Program, fixed: Mapping[int, Any], args: Sequence[Arg]) -> Lowered:
    """Write a program down as nodes.

    Parameters
    ----------
    program
        What a lane does.
    fixed
        The literals that are the same in every call, by place.
    args
        The inputs, then the other literals.

    Raises
    ------
    Refused
        Where the program does what no loop is written for.
    """
    return _Lowering(program, fixed, args).lower()


class _Lowering:
    def __init__(self, program: Program, fixed: Mapping[int, Any], args: Sequence[Arg]) -> None:
        self.calls, self.outputs = flatten(program)
        self._shorten(fixed)
        self.args = tuple(args)
        places = [*range(program.inputs), *(program.inputs + i for i in range(program.literals) if i not in fixed)]
        if len(places) != len(args):
            raise ValueError(f"the program takes {len(places)} arguments that may change, and {len(args)} are described")
        self.given: dict[int, Operand] = {program.inputs + i: Const(value) for i, value in fixed.items()}
        self.given.update({place: given(arg, i) for i, (place, arg) in enumerate(zip(places, args, strict=True))})
        self.inputs = program.inputs
        self.prologue = Prologue()
        self.shared = len(args)
        self.results: list[Any] = []

    def _shorten(self, fixed: Mapping[int, Any]) -> None:
        """Do in one call what the kernel does in one call, and leave out what nobody reads any more."""
        steps = [(call.func, call.args, tuple(call.options.items())) for call in self.calls]
        for place, (_, (func, args, options)) in shorter(steps, self.outputs, fixed).items():
            self.calls[place] = Call(func, args, dict(options), self.calls[place].name)
        self.read = set(reached(self.calls, self.outputs))

    def lower(self) -> Lowered:
        for place, call in enumerate(self.calls):
            if place not in self.read:
                self.results.append(None)
                continue
            args = [self.get(spec) for spec in call.args]
            options = {name: self.get(spec) for name, spec in call.options.items()}
            self.results.append(self.step(call, args, options))
        outputs = [self.get(spec) for spec in self.outputs]
        for node in outputs:
            if not isinstance(node, Node) or node.op == "shared":
                raise Refused("an output does not depend on the chunk")
            if node.rows and node.shape[0] != ROWS:
                raise Refused("an output does not have the rows of the chunk as its first axis")
        if not outputs or not any(arg.lane for arg in self.args):
            raise Refused("it reads no chunk")
        return Lowered(self.args, tuple(outputs), self.prologue)

    def get(self, spec: Spec) -> Any:
        """Return the operand that a spec stands for; a list or tuple of nodes as such."""
        kind = spec[0]
        if kind == VALUE:
            return self.results[spec[1]]
        if kind == CONST:
            return Const(spec[1])
        if kind in (INPUT, LITERAL):
            return self.given[spec[1] + (self.inputs if kind == LITERAL else 0)]
        if kind not in (LIST, TUPLE):
            raise Refused(f"it takes a {kind} apart or builds one")
        items = [self.get(item) for item in spec[1:]]
        made = list if kind == LIST else tuple
        return Const(made(item.value for item in items)) if all(isinstance(i, Const) for i in items) else made(items)

    def step(self, call: Call, args: list[Any], options: dict[str, Any]) -> Operand:
        """Lower one call."""
        name = name_of(call.func)
        if not known(call.func) and not is_pure(call.func):
            raise Refused(f"no loop is written for {name}")
        found = list(nodes_in([*args, *options.values()]))
        if all(node.op == "shared" for node in found):
            return self.before(call.func, args, options, call.name)
        if any(node.op == "lane" and not node.shape for node in found):
            raise Refused("a lane has a number of its own")
        with np.errstate(all="ignore"):
            return rules.apply(self, call, args, options)

    def before(self, func: Any, args: list[Any], options: dict[str, Any], name: str) -> Operand:
        """Leave a call on shared arguments to NumPy, before the loop."""
        if not any(nodes_in([*args, *options.values()])):
            try:
                return Const(func(*map(plain, args), **{key: plain(value) for key, value in options.items()}))
            except Exception as error:
                raise Refused(f"{name_of(func)} fails: {error}") from error
        sample = self.run(func, args, options, 0)
        array = np.asarray(sample)
        if array.dtype not in DTYPES:
            raise Refused(f"{name_of(func)} gives {array.dtype}")
        self.prologue.steps.append((func, args, options))
        self.shared += 1
        return Node("shared", array.dtype, array.shape, name=name, extra=self.shared - 1, samples=(sample, sample))

    def run(self, func: Any, args: Sequence[Any], options: Mapping[str, Any], which: int) -> Any:
        """Run a step on samples."""

        def sample(value: Any) -> Any:
            if isinstance(value, Node):
                return value.samples[which]
            return type(value)(map(sample, value)) if isinstance(value, (list, tuple)) else plain(value)

        try:
            return func(*map(sample, args), **{key: sample(value) for key, value in options.items()})
        except Exception as error:
            raise Refused(f"{name_of(func)} fails on arrays of these shapes: {error}") from error

    def seen(self, func: Any, args: Sequence[Any], options: Mapping[str, Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Return the dtype and the shape of what a step gives."""
        few, many = (np.asarray(self.run(func, args, options, which)) for which in range(2))
        if few.dtype not in DTYPES or few.dtype != many.dtype or not few.dtype.isnative:
            raise Refused(f"{name_of(func)} gives {few.dtype}")
        return few.dtype, shape_of(few.shape, many.shape, name_of(func))


def shape_of(few: tuple[int, ...], many: tuple[int, ...], name: str) -> tuple[int, ...]:
    """Tell the rows from the other axes, by the shapes of two results."""
    if len(few) != len(many):
        raise Refused(f"what {name} gives has more or fewer axes where there are more rows")
    out = []
    for sizes in zip(few, many, strict=True):
        if sizes[0] != sizes[1] and sizes != _SAMPLE_ROWS:
            raise Refused(f"{name} drops or repeats rows")
        out.append(sizes[0] if sizes[0] == sizes[1] else ROWS)
    if out.count(ROWS) > 1:
        raise Refused(f"{name} combines each row with each other")
    if 0 in out:
        raise Refused(f"{name} gives an array without elements")
    return tuple(out)


def sized(shape: tuple[int, ...], which: int) -> tuple[int, ...]:
    """Return a shape with the number of rows of a sample."""
    return tuple(_SAMPLE_ROWS[which] if size == ROWS else size for size in shape)


def samples(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Return two arrays of a shape that differ in the number of rows only."""
    return np.ones(sized(shape, 0), dtype), np.ones(sized(shape, 1), dtype)


def given(arg: Arg, place: int) -> Node:
    """Return the node of an argument."""
    if arg.dtype is None:
        assert arg.kind is not None
        if arg.lane:
            raise Refused("a lane has a number of its own")
        one = arg.kind(1)
        return Node("shared", np.asarray(one).dtype, (), name="c", extra=place, samples=(one, one))
    if arg.dtype not in DTYPES or not arg.dtype.isnative:
        raise Refused(f"there is an argument of dtype {arg.dtype}")
    if arg.lane and arg.ndim == 0:
        raise Refused("a lane has a number of its own")
    if 0 in arg.trailing:
        raise Refused("there is an array without elements")
    shape = (ROWS, *arg.trailing) if arg.lane else arg.trailing
    op, name = ("lane", "x") if arg.lane else ("shared", "c")
    return Node(op, arg.dtype, shape, name=name, extra=place, samples=samples(shape, arg.dtype))


def nodes_in(values: Any) -> list[Node]:
    """List the nodes among operands and in lists of them."""
    out: list[Node] = []
    for value in values:
        if isinstance(value, Node):
            out.append(value)
        elif isinstance(value, (list, tuple)):
            out += nodes_in(value)
    return out


def plain(value: Any) -> Any:
    """Return a constant itself."""
    return value.value if isinstance(value, Const) else value
