"""Spread: what every number of a short row is combined with is repeated first, so that one loop can run over all numbers.

A loop over rows of 15 with a loop over columns inside does not become vector instructions. Where all arguments lie side by
side, the two loops are one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from graphopt.loops.nodes import Node, Operand, inputs_first, pattern

__all__ = ["spread"]

_LONG = 64  # columns that fill registers well enough on their own


def spread(outputs: Sequence[Node]) -> list[Node]:
    """Return equal nodes in which maps of short rows read rows of their own length only."""
    new: dict[Node, Node] = {}
    repeated: dict[tuple[Node, tuple[int, ...]], Node] = {}
    for node in _all(outputs):
        args = tuple(new[arg] if isinstance(arg, Node) else arg for arg in node.args)
        if node.op == "map" and node.rows and 1 < node.columns < _LONG:
            args = tuple(_repeated(arg, node, repeated) for arg in args)
        same = all(a is b for a, b in zip(args, node.args, strict=True))
        new[node] = node if same else replace(node, args=args)
    return [new[node] for node in outputs]


def _repeated(arg: Operand, node: Node, known: dict[tuple[Node, tuple[int, ...]], Node]) -> Operand:
    if not isinstance(arg, Node) or (arg.rows and pattern(arg, node) == "j") or (not arg.rows and arg.columns == 1):
        return arg
    key = arg, node.shape
    if key not in known:
        known[key] = Node("spread", arg.dtype, node.shape, (arg,), f"{arg.name}_spread")
    return known[key]


def _all(roots: Sequence[Node]) -> Iterator[Node]:
    """Yield nodes, views too, each after those it is made of."""
    return inputs_first(roots, lambda node: [arg for arg in node.args if isinstance(arg, Node)])
