"""Nodes: what is computed for a lane, with shapes in which one axis may be the lane's rows.

A value is *rows* if an axis of it is as long as the lane, and otherwise *small*: shared by all lanes, or folded from a
lane's rows. Whatever the order of its axes, a value of rows is kept as ``n`` rows of ``columns`` numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

__all__ = ["ROWS", "Arg", "Const", "Node", "Operand", "Output", "Refused", "inputs_first", "literal_text", "pattern"]

#: Stands in a shape for the number of rows of the lane.
ROWS = -1

#: The dtypes that loops are written for, by name.
DTYPES = frozenset(map(np.dtype, ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "f4", "f8")))


class Refused(Exception):
    """Says in one sentence why a lane cannot become a loop."""


@dataclass(frozen=True)
class Arg:
    """What is known of an argument before the loop is compiled.

    Attributes
    ----------
    dtype
        None for a Python scalar.
    ndim
        Its number of axes.
    lane
        Whether every lane has one of its own. Then it is a C-contiguous array and its axis 0 is the lane's rows.
    trailing
        The shape: of a lane's array without the rows, of what is shared the whole shape.
    kind
        For a Python scalar its type: bool, int or float.
    """

    dtype: np.dtype[Any] | None
    ndim: int
    lane: bool
    trailing: tuple[int, ...] = ()
    kind: type | None = None

    @classmethod
    def of(cls, value: Any, *, lane: bool) -> Arg:
        """Describe a sample."""
        if type(value) in (bool, int, float):
            return cls(None, 0, lane, (), type(value))
        array = np.asarray(value)
        return cls(array.dtype, array.ndim, lane, array.shape[1:] if lane else array.shape)


@dataclass(frozen=True)
class Output:
    """What a loop returns for a lane: ``rows``, with the lane's rows as axis 0, or a small ``fold``."""

    kind: Literal["rows", "fold"]
    dtype: np.dtype[Any]
    trailing: tuple[int, ...]

    @property
    def columns(self) -> int:
        """Return how many numbers there are, a row or in all."""
        return math.prod(self.trailing)


@dataclass(frozen=True)
class Const:
    """A value that is the same in every call."""

    value: Any


@dataclass(eq=False)
class Node:
    """One value.

    Attributes
    ----------
    op
        How it comes about: ``lane`` and ``shared`` are given; ``view`` is another node seen in another shape; ``map`` is
        computed number by number; ``columns`` picks columns; ``spread`` repeats along rows or columns; ``dot``, ``row_sum``,
        ``row_most`` and ``row_place`` go along rows; ``product``, ``sum`` and ``most`` fold the rows, and so does ``square``,
        the product of rows with themselves, each times its number.
    dtype, shape, args
        What it is, and what it is computed from.
    name
        What to call it.
    text, inside
        For a map: the expression with ``{0}``, ``{1}``, … for the arguments, how tightly it binds, and the dtypes in which
        it takes the arguments.
    extra
        For what is given its place; for ``most`` and places the sign; for ``columns`` the first.
    needs_rows
        Whether it is not defined where there are none.
    """

    op: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    args: tuple[Operand, ...] = ()
    name: str = "x"
    text: tuple[str, int] = ("{0}", 20)
    inside: tuple[np.dtype[Any], ...] = ()
    extra: Any = None
    needs_rows: bool = False
    samples: tuple[Any, Any] = field(default=(None, None), repr=False)

    @property
    def rows(self) -> bool:
        """Say whether an axis is the lane's rows."""
        return ROWS in self.shape

    @property
    def columns(self) -> int:
        """Return how many numbers there are, a row or in all."""
        return math.prod(size for size in self.shape if size != ROWS)

    @property
    def root(self) -> Node:
        """Return the node that holds the numbers."""
        node = self
        while node.op == "view":
            assert isinstance(node.args[0], Node)
            node = node.args[0]
        return node

    def reads(self) -> Iterator[Node]:
        """Yield the nodes that hold the numbers that this one is computed from."""
        for arg in self.args:
            if isinstance(arg, Node):
                yield arg.root


Operand = Node | Const


def inputs_first(roots: Sequence[Node], made_of: Callable[[Node], list[Node]]) -> Iterator[Node]:
    """Yield nodes, each once, after those it is made of; of those the last in the list comes first."""
    done: set[Node] = set()
    stack = [(node, False) for node in reversed(roots)]
    while stack:
        node, finished = stack.pop()
        if finished:
            yield node
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack += [(part, False) for part in made_of(node)]


def literal_text(value: Any, dtype: np.dtype[Any]) -> str:
    """Write a number as the text of a value of this dtype."""
    if dtype.kind == "b":
        return str(bool(value))
    text = repr(dtype.type(value).item())
    if text.lstrip("-") in ("nan", "inf"):
        text = text.replace("nan", "np.nan").replace("inf", "np.inf")
    return text if dtype in (np.dtype("f8"), np.dtype("i8")) else f"np.{dtype.name}({text})"


def pattern(arg: Operand, out: Node) -> str | None:
    """Return which column of an argument goes into column j of a map: the text of an index, empty if there is one column.

    None where there is no short text for it.
    """
    if isinstance(arg, Const) or arg.columns == 1:
        return ""
    rest = tuple(1 if size == ROWS else size for size in out.shape)
    own = np.arange(arg.columns).reshape([1 if size == ROWS else size for size in arg.shape])
    index, columns = np.broadcast_to(own, rest).ravel(), np.arange(out.columns)
    if np.array_equal(index, columns):
        return "j"
    each = out.columns // arg.columns
    if np.array_equal(index, columns // each):
        return f"j // {each}"
    return f"j % {arg.columns}" if np.array_equal(index, columns % arg.columns) else None
