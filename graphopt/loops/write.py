"""Write: the nodes of a lane as the text of one loop over lanes and blocks of rows.

A block is so short that what is computed on the way stays in the first-level cache. Steps that go number by number share
loops, with what only they read in scalars; a contraction or a sum along an axis is a call. Where a value needs a fold of all
rows (``x - x.mean()``), the lane's blocks are gone through again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.loops.expressions import Group, Names, call_text, expression, loop_text, repeat_text, start_value
from graphopt.loops.lower import Lowered
from graphopt.loops.nodes import Node, Output, inputs_first
from graphopt.loops.sizes import LINE, ROWS, WIDTH
from graphopt.loops.spread import spread

__all__ = ["Written", "write"]

_FIRST_CACHE, _SECOND_CACHE = 4_096, 16_384  # numbers of the widest value in a block
_ENOUGH_ROWS, _LEAST_ROWS = 64, 16
_FOLDS = ("product", "square", "sum", "most")


@dataclass(frozen=True)
class Written:
    """The text of a loop, and what it is told.

    It is told one address, of integers: the table of lanes, the first lane and the one after the last, their rows, memory for
    what it computes on the way, the nodes shared by the lanes, and a flat array for each output.
    """

    text: str
    shared: tuple[Node, ...]
    lanes: tuple[int, ...]
    outputs: tuple[Output, ...]
    needs_rows: bool
    room: int


def write(lowered: Lowered) -> Written:
    """Write a loop."""
    return _Writer(lowered).write()


@dataclass(frozen=True)
class Plan:
    """One time through the rows: the folds made, the outputs written, what both read, what is computed, what comes after."""

    folds: list[Node]
    results: list[tuple[int, Node]]
    roots: list[Node]
    needed: list[Node]
    groups: list[Group]
    after: list[Node]


class _Writer:
    def __init__(self, lowered: Lowered) -> None:
        self.results = spread(lowered.outputs)
        self.outputs = [node.root for node in self.results]
        self.order = list(dict.fromkeys(below(self.outputs)))
        self.ready: dict[Node, int] = {}
        for node in self.order:
            found = max((self.ready[arg] for arg in node.reads()), default=0)
            self.ready[node] = found + (not node.rows and node.op in _FOLDS)
        self.names = Names()
        self.shared = [node for node in self.order if node.op == "shared"]
        self.lanes = [node for node in self.order if node.op == "lane"]
        self.buffers: dict[Node, int] = {}  # what is computed for a block and kept
        self.block = block_rows(max(node.columns for node in self.order if node.rows))
        self.places = {node: i for i, node in reversed(list(enumerate(self.outputs))) if node.rows and node.op != "lane"}
        self.folds = [node for node in self.order if not node.rows and node.op != "shared"]
        self.plans = list(self.phases())
        # A value has one name in all phases, so it is either kept in all or in none.
        self.kept = {node for plan in self.plans for node in keep(plan.groups, plan.roots)}
        self.kept |= {node for node in self.order if constant(node)}

    def phases(self) -> Iterator[Plan]:
        """Yield what each time through the rows is for."""
        rows = [(place, node) for place, node in enumerate(self.outputs) if node.rows]
        count = max([self.ready[node] for node in self.folds] + [self.ready[node] + 1 for _, node in rows])
        for phase in range(count):
            folds = [node for node in self.folds if node.op != "map" and self.ready[node] == phase + 1]
            results = [(place, node) for place, node in rows if self.ready[node] == phase]
            roots = [arg for node in folds for arg in node.reads()] + [node for _, node in results]
            needed = [node for node in dict.fromkeys(below(roots)) if node.rows]
            after = [node for node in self.folds if node.op == "map" and self.ready[node] == phase + 1]
            yield Plan(
                folds,
                results,
                roots,
                needed,
                grouped([node for node in needed if node.op != "lane" and not constant(node)]),
                after,
            )

    def write(self) -> Written:
        outs = [self.names.new(f"out_{place}") for place in range(len(self.outputs))]
        body = list(self.lane(outs))
        memory, room = self.memory()
        text = ["def run(at):", f'    """{len(self.order)} values, written by graphopt."""']
        text += [f"    {line}" for line in (*self.told(outs), *memory)]
        text.append("    for lane in range(start, stop):")
        text += [f"        {line}" for line in body]
        outputs = tuple(
            Output("rows" if node.rows else "fold", node.dtype, tuple(node.shape[1:] if node.rows else node.shape))
            for node in self.results
        )
        lanes = tuple(node.extra for node in self.lanes)
        needs_rows = any(node.needs_rows for node in self.order)
        return Written("\n".join(text) + "\n", tuple(self.shared), lanes, outputs, needs_rows, room)

    def told(self, outs: list[str]) -> Iterator[str]:
        """Yield the lines that read what the loop is told."""
        count = 5 + len(self.shared) + len(outs)
        yield f"told = array_at(np.int64, at, {count})"
        yield "start, stop, all_rows, room = told[1], told[2], told[3], told[4]"
        yield f"table = array_at(np.int64, told[0], (stop, {2 + len(self.lanes)}))"
        for place, node in enumerate(self.shared, 5):
            array = f"array_at(np.{type_name(node.dtype)}, told[{place}], {node.columns})"
            yield f"{self.names.of(node)} = {array}{'' if node.shape else '[0]'}"
        for place, (out, node) in enumerate(zip(outs, self.outputs, strict=True), 5 + len(self.shared)):
            count_text = f"{'all_rows' if node.rows else '(stop - start)'}{times(node)}"
            yield f"{out} = array_at(np.{type_name(node.dtype)}, told[{place}], {count_text})"

    def memory(self) -> tuple[list[str], int]:
        """Return the lines that find memory for what is kept of a block, and for folds, and how many bytes it takes."""
        sizes = {node: self.block * columns + (WIDTH if node.op == "spread" else 0) for node, columns in self.buffers.items()}
        sizes |= {node: node.columns for node in self.order if not node.rows and node.op != "shared" and node.columns > 1}
        lines, room = [], 0
        for node, size in sizes.items():
            lines.append(f"{self.names.of(node)} = array_at(np.{type_name(node.dtype)}, room + {room}, {size})")
            room += -(-size * node.dtype.itemsize // LINE) * LINE
        for node in self.order:
            if constant(node) and next(node.reads()).op == "shared":
                lines += repeat_text(node, self.names, str(self.block))
        return lines, room

    def lane(self, outs: list[str]) -> Iterator[str]:
        """Yield the lines for one lane."""
        yield "rows = table[lane, 0]"
        if any(node.rows for node in self.outputs):
            yield "at = table[lane, 1] - table[start, 1]"
        for plan in self.plans:
            for node in plan.folds:
                yield start_value(node, self.names)
            yield from self.blocks(plan, outs)
            for node in plan.folds:
                if node.op == "square":
                    yield f"blocks.mirror({self.names.of(node)}, {next(node.reads()).columns})"
            for node in plan.after:
                yield from self.small(node)
        for out, node in zip(outs, self.outputs, strict=True):
            if not node.rows:
                name = self.names.of(node)
                if node.columns == 1:
                    yield f"{out}[lane - start] = {name}"
                else:
                    yield f"for j in range({node.columns}):"
                    yield f"    {out}[(lane - start) * {node.columns} + j] = {name}[j]"

    def small(self, node: Node) -> Iterator[str]:
        """Yield the lines that compute a small value from small values."""
        text, _ = expression(node, self.names, {}, "small")
        if node.columns == 1:
            yield f"{self.names.of(node)} = {text}"
        else:
            yield f"for j in range({node.columns}):"
            yield f"    {self.names.of(node)}[j] = {text}"

    def blocks(self, plan: Plan, outs: list[str]) -> Iterator[str]:
        """Yield the lines that go through the blocks of a lane."""
        folds, results, needed, groups = plan.folds, plan.results, plan.needed, plan.groups
        for node in needed:
            if constant(node) and next(node.reads()).op != "shared":
                yield from repeat_text(node, self.names, f"min(rows, {self.block})")
        yield f"for first in range(0, rows, {self.block}):"
        yield f"    n = min({self.block}, rows - first)"
        for place, node in enumerate(self.lanes):
            if node in needed:
                size = node.columns * node.dtype.itemsize
                where = f"table[lane, {2 + place}] + first * {size}"
                count = "n" if node.columns == 1 else f"n * {node.columns}"
                yield f"    {self.names.of(node)} = array_at(np.{type_name(node.dtype)}, {where}, {count})"
        for node in needed:
            if node in self.places:  # written where it leaves, each time it is computed
                piece = (
                    f"(at + first){times(node)} : (at + first + n){times(node)}"
                    if times(node)
                    else "at + first : at + first + n"
                )
                yield f"    {self.names.of(node)} = {outs[self.places[node]]}[{piece}]"
            elif node in self.kept:
                self.buffers[node] = node.columns
        for group in groups:
            yield from (f"    {line}" for line in loop_text(group, self.names, self.kept))
        for node in folds:
            yield f"    {call_text(node, self.names)}"
        for place, node in results:
            if self.places.get(node) != place:  # the same value twice, or a chunk as it is
                yield f"    for i in range(n{times(node)}):"
                yield f"        {outs[place]}[(at + first){times(node)} + i] = {self.names.of(node)}[i]"


def block_rows(columns: int) -> int:
    """Return how many rows a block has: what fits the first-level cache, more where that is too few to be worth a call."""
    first, second = (1 << max(cache // columns, 1).bit_length() - 1 for cache in (_FIRST_CACHE, _SECOND_CACHE))
    return max(_LEAST_ROWS, min(ROWS, first), min(_ENOUGH_ROWS, second))


def constant(node: Node) -> bool:
    """Say whether a value of rows is the same for each row."""
    return node.op == "spread" and not next(node.reads()).rows


def times(node: Node) -> str:
    """Return the factor from rows to numbers, empty if it is one."""
    return "" if node.columns == 1 else f" * {node.columns}"


def below(roots: list[Node]) -> Iterator[Node]:
    """Yield nodes that hold numbers, each after those it reads."""
    return inputs_first(roots, lambda node: list(node.reads())[::-1])


def grouped(nodes: list[Node]) -> list[Group]:
    """Put nodes that share a loop together, in an order in which they can run."""
    levels: dict[Node, int] = {}
    for node in nodes:
        level = 0
        for arg in node.reads():
            if arg in levels:
                level = max(level, levels[arg] + (kind(arg) != kind(node) or node.op == "columns"))
        levels[node] = level
    # What only later loops read moves there: it need not be kept then.
    latest: dict[Node, int] = {}
    for node in reversed(nodes):
        if node.op == "map" and node in latest:
            levels[node] = max(levels[node], latest[node])
        for arg in node.reads():
            if arg in levels:
                bound = levels[node] - (kind(arg) != kind(node) or node.op == "columns")
                latest[arg] = min(latest.get(arg, bound), bound)
    groups: dict[tuple[int, object], list[Node]] = {}
    for node in nodes:
        groups.setdefault((levels[node], kind(node)), []).append(node)
    return [Group(members, members[0].columns) for (_, _), members in sorted(groups.items(), key=lambda item: item[0][0])]


def kind(node: Node) -> object:
    """Return what must be equal for nodes to share a loop."""
    return node.columns if node.op in ("map", "columns") else node


def keep(groups: list[Group], roots: list[Node]) -> set[Node]:
    """Return the nodes of which a whole block is kept, because something other than the loop they are in reads it."""
    home = {node: place for place, group in enumerate(groups) for node in group.members}
    kept = {node for node in roots if node in home}
    for node, place in home.items():
        if node.op not in ("map", "columns"):
            kept.add(node)
        kept.update(arg for arg in node.reads() if arg in home and (home[arg] != place or node.op == "columns"))
    return kept


def type_name(dtype: np.dtype[Any]) -> str:
    """Return a dtype's name in NumPy's namespace."""
    return "bool_" if dtype.kind == "b" else dtype.name
