"""Expressions: the lines of a loop."""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.loops.nodes import Const, Node, Operand, literal_text, pattern

__all__ = ["Group", "Names", "call_text", "expression", "loop_text", "repeat_text", "start_value"]

_ATOM, _UNARY = 20, 11
_MAX_INLINE = 60
_RESERVED = frozenset(
    ("np", "blocks", "vector", "array_at", "table", "start", "stop", "lane", "rows", "at", "first", "n", "i", "j", "loop")
) | {"min", "range", "abs"}
_NOT_IN_NAMES = re.compile(r"\W+", re.ASCII)
Text = tuple[str, int]


@dataclass(frozen=True)
class Group:
    """Nodes that one loop computes, or one node that a call computes."""

    members: list[Node]
    columns: int


class Names:
    """Names for values, no two alike."""

    def __init__(self) -> None:
        self._used: set[str] = set(_RESERVED)
        self._names: dict[Node, str] = {}

    def of(self, node: Node) -> str:
        """Return a node's name."""
        if node not in self._names:
            self._names[node] = self.new(node.name)
        return self._names[node]

    def new(self, wish: str) -> str:
        """Return a new name."""
        wish = _NOT_IN_NAMES.sub("_", wish).strip("_").lower() or "x"
        if wish[0].isdigit() or keyword.iskeyword(wish):
            wish = f"x_{wish}"
        name, number = wish, 1
        while name in self._used:
            number += 1
            name = f"{wish}_{number}"
        self._used.add(name)
        return name


def expression(node: Node, names: Names, known: Mapping[Node, Text], mode: str) -> Text:
    """Return the text of a map's value, and how tightly it binds.

    Parameters
    ----------
    node
        The map.
    names
        Names for what is read.
    known
        The texts of what the same loop has computed.
    mode
        The loop it is in: over ``rows``, ``flat`` over all numbers, ``nested`` over rows and columns, or ``small`` over the
        columns of what is no rows.
    """
    if node.op == "columns":
        (source,) = node.reads()
        index = " + ".join(part for part in (f"i * {source.columns}", str(node.extra or ""), "j" * (node.columns > 1)) if part)
        return f"{names.of(source)}[{index}]", _ATOM
    template, binds = node.text
    parts = []
    text: Text
    for place, arg in enumerate(node.args):
        text = _operand(arg, node, names, known, mode)
        dtype = node.inside[place]
        if isinstance(arg, Const):
            text = _number(literal_text(arg.value, dtype))
        elif arg.dtype != dtype:
            text = cast(text, dtype)
        if template == "{0}":
            return text
        # The right operand of - and / binds tighter; comparisons and powers do not chain.
        first = place == 0 and template.startswith("{0}")
        floor = 0 if binds == _ATOM else binds + (not first or binds in (1, 4, 12))
        parts.append(text[0] if text[1] >= floor else f"({text[0]})")
    text = template.format(*parts), binds
    # The compiler computes with small integers, and functions with single precision, in wider ones.
    return text if node.dtype in (np.dtype("f8"), np.dtype("?")) else (f"np.{node.dtype.name}({text[0]})", _ATOM)


def cast(text: Text, dtype: np.dtype[Any]) -> Text:
    """Return the text of a value as another dtype."""
    if dtype.kind == "b":
        return (f"{text[0] if text[1] > 4 else f'({text[0]})'} != 0", 4)
    return f"np.{dtype.name}({text[0]})", _ATOM


def _number(text: str) -> Text:
    return text, _UNARY if text.startswith("-") else _ATOM


def _operand(arg: Operand, out: Node, names: Names, known: Mapping[Node, Text], mode: str) -> Text:
    """Return the text of an argument of a map."""
    if isinstance(arg, Const):
        return "", _ATOM
    root, index = arg.root, pattern(arg, out)
    if root in known:
        return known[root]
    name = names.of(root)
    if not root.rows:
        if root.columns == 1:
            return (f"{name}[0]" if root.op == "shared" and root.shape else name), _ATOM
        return f"{name}[{index}]", _ATOM
    if mode in ("rows", "flat"):
        return f"{name}[i]", _ATOM
    if not index:
        return f"{name}[i]", _ATOM
    return f"{name}[i * {root.columns} + {index if index == 'j' else f'({index})'}]", _ATOM


def loop_text(group: Group, names: Names, kept: Collection[Node]) -> Iterator[str]:
    """Yield the lines that compute a group for a block."""
    if group.members[0].op == "spread":
        yield from repeat_text(group.members[0], names, "n")
        return
    if group.members[0].op not in ("map", "columns"):
        yield call_text(group.members[0], names)
        return
    mode, m = _mode(group), group.columns
    lines = _body(group, names, kept, mode)
    if mode == "nested":
        yield "for i in range(n):"
        yield f"    for j in range({m}):"
        yield from (f"        {line}" for line in lines)
    else:
        yield f"for i in range({'n' if m == 1 else f'n * {m}'}):"
        yield from (f"    {line}" for line in lines)


def _body(group: Group, names: Names, kept: Collection[Node], mode: str) -> list[str]:
    """Return the lines that compute one number of each member of a group."""
    uses = Counter(arg for node in group.members for arg in node.reads())
    # Inside a choice, a call or a look into memory would stop the loop from being vectorised.
    alone = {arg for node in group.members if _chooses(node) for arg in node.reads()}
    known: dict[Node, Text] = {}
    lines = []
    here = f"i * {group.columns} + j" if mode == "nested" else "i"
    for node in group.members:
        for arg in node.args if _chooses(node) else ():
            if isinstance(arg, Node) and arg.rows and arg.root not in known and pattern(arg, node) in ("", "j"):
                local = names.new(f"{names.of(arg.root)}_i")
                lines.append(f"{local} = {_operand(arg, node, names, {}, mode)[0]}")
                known[arg.root] = local, _ATOM
        text = expression(node, names, known, mode)
        if node in kept and not uses[node]:
            lines.append(f"{names.of(node)}[{here}] = {text[0]}")
        elif node in kept:
            local = names.new(f"{names.of(node)}_i")
            lines += [f"{local} = {text[0]}", f"{names.of(node)}[{here}] = {local}"]
            known[node] = local, _ATOM
        elif uses[node] == 1 and len(text[0]) <= _MAX_INLINE and node not in alone:
            known[node] = text
        else:
            lines.append(f"{names.of(node)} = {text[0]}")
            known[node] = names.of(node), _ATOM
    return lines


def repeat_text(node: Node, names: Names, rows: str) -> Iterator[str]:
    """Yield the lines that repeat a value along rows or columns."""
    (arg,) = node.reads()
    if arg.columns == 1 and node.dtype.kind == "f":
        yield f"blocks.repeat({names.of(arg)}, {rows}, {node.columns}, {names.of(node)})"
        return
    yield f"for i in range({rows}):"
    yield f"    for j in range({node.columns}):"
    yield f"        {names.of(node)}[i * {node.columns} + j] = {_operand(node.args[0], node, names, {}, 'nested')[0]}"


def _chooses(node: Node) -> bool:
    return node.text[0].count("{") == 3


def _mode(group: Group) -> str:
    """Say which loop a group needs: one over all numbers where each reads the numbers in its own place."""
    if group.columns == 1:
        return "rows"
    for node in group.members:
        if node.op == "columns":
            return "nested"
        for arg in node.args:
            if isinstance(arg, Node) and (arg.columns > 1 or arg.rows) and not (arg.rows and pattern(arg, node) == "j"):
                return "nested"
    return "flat"


def start_value(node: Node, names: Names) -> str:
    """Return the line that sets a fold to what it is without rows."""
    value: object = 0
    if node.op == "most":
        if node.dtype.kind == "b":
            value = node.extra < 0
        else:
            info = np.finfo(node.dtype) if node.dtype.kind == "f" else np.iinfo(node.dtype)
            value = -node.extra * np.inf if node.dtype.kind == "f" else (info.min if node.extra > 0 else info.max)
    text = literal_text(value, node.dtype)
    if node.dtype == np.dtype("i8"):
        text = f"np.int64({text})"
    return f"{names.of(node)}{'' if node.columns == 1 else '[:]'} = {text}"


def call_text(node: Node, names: Names) -> str:
    """Return the call that computes a node that is no map."""
    args = list(node.reads())
    x, k, out = names.of(args[0]), args[0].columns, names.of(node)
    real = node.dtype.kind == "f"
    if node.op == "dot":
        return f"blocks.dots({x}, n, {k}, {names.of(args[1])}, {node.columns}, {out})"
    if node.op == "row_place":
        return f"blocks.row_places({x}, n, {k}, {node.extra}, {out})"
    if node.op in ("row_sum", "row_most"):  # of three axes the first may stay: then there are more and shorter rows
        n, k = ("n" if node.columns == 1 else f"n * {node.columns}"), k // node.columns
        if node.op == "row_most":
            return f"blocks.row_extremes({x}, {n}, {k}, {node.extra}, {out})"
        return f"blocks.{'row_sums' if real else 'row_counts'}({x}, {n}, {k}, {out})"
    if node.op == "square":
        return f"blocks.add_square({x}, n, {k}, {names.of(args[1])}, {out})"
    if node.op == "product":
        if node.columns == 1:
            return f"{out} += blocks.product({x}, n, {names.of(args[1])})"
        return f"blocks.add_products({x}, n, {k}, {names.of(args[1])}, {args[1].columns}, {out})"
    count = "n" if k == 1 else f"n * {k}"
    if node.op == "sum":
        if node.columns == 1:
            return f"{out} += blocks.{'add_up' if real else 'count_up'}({x}, {count})"
        return f"blocks.{'add_rows' if real else 'count_rows'}({x}, n, {k}, {out})"
    if node.columns == 1:
        return f"{out} = blocks.{'greatest' if real else 'widest'}({x}, {count}, {node.extra}, {out})"
    return f"blocks.widen({x}, n, {k}, {node.extra}, {out})"
