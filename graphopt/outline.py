"""Outline: what a graph does, apart from its keys and its data.

Two graphs of equal outline do the same to the data in the same places, so a schedule made for one serves the other. Keys do
not count, nor does the data: chunks, literal arrays, floating-point numbers. Everything else does: functions, slices, axes,
names. What cannot be compared is compared by identity, which only equals itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.functions import token
from graphopt.graph import dependencies
from graphopt.program import DICT, Program, container
from graphopt.spec import Alias, DataNode, GraphNode, Task, TaskRef
from graphopt.standins import Scalar
from graphopt.types import Graph, Key, Node

__all__ = ["Outline", "outline", "same", "with_holes"]

_DATA = "graphopt-data"


@dataclass(frozen=True, slots=True)
class Outline:
    """What graphs have in common that do the same (``signature``), and the data of this one, in order."""

    signature: Hashable
    data: tuple[Any, ...]


def outline(graph: Graph, keys: Sequence[Key], given: Mapping[Any, Any] | None = None) -> Outline:
    """Return the outline of a graph, in one walk.

    Parameters
    ----------
    graph
        A normalised graph, after `lower`. Keys that it does not hold, and futures, are told apart by name.
    keys
        What is asked for.
    given
        Where given, what keys and numbers that are filled in later are to be called instead; and things that compare by
        identity only, and strings, which may contain names, are then all alike. That is how two traces of one function
        are compared.

    Notes
    -----
    Things that are compared by identity must be held for as long as a signature is in use; who keeps the graph does.
    """
    return _Walk(graph, given=given).run(keys)


def same(one: Outline, other: Outline) -> bool:
    """Say whether two outlines agree, the data included."""
    return one.signature == other.signature and all(map(_same_data, one.data, other.data))


def _same_data(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, (float, np.generic)):
        return bool(one == other or (one != one and other != other))
    if type(one) is np.ndarray:
        return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    return True  # chunks of other kinds cannot be compared in general


def with_holes(graph: Graph, keys: Sequence[Key]) -> tuple[dict[Key, Node], dict[Key, int]]:
    """Return the graph with references in place of its data, and which piece of its outline's data each stands for."""
    walk = _Walk(graph, rewrite=True)
    walk.run(keys)
    return {**{key: TaskRef(key) for key in walk.places}, **walk.rewritten}, walk.places


class _Walk:
    """Goes through a graph, inputs first, and sorts what it finds into what counts and what is data."""

    def __init__(self, graph: Graph, *, rewrite: bool = False, given: Mapping[Any, Any] | None = None) -> None:
        self.graph, self.rewrite, self.given = graph, rewrite, given
        self.number: dict[Key, int] = {}
        self.data: list[Any] = []
        self.tokens: dict[int, Hashable] = {}
        self.places: dict[Key, int] = {}
        self.rewritten: dict[Key, Node] = {}

    def run(self, keys: Sequence[Key]) -> Outline:
        parts = []
        for key in _in_order(self.graph, keys):
            node = self.graph[key]
            self.number[key] = len(self.number)
            if isinstance(node, DataNode) and _is_data(node.value):
                self.places[key] = len(self.data)
                parts.append(self.piece(node.value))
                continue
            start = len(self.data)
            parts.append(self.node(node))
            if self.rewrite:
                self.rewritten[key] = node if len(self.data) == start else _Holes(self.places, start).node(node)
        asked = tuple([self.number.get(key, key) for key in keys])
        return Outline((tuple(parts), asked), tuple(self.data))

    def node(self, node: Node) -> Hashable:
        if isinstance(node, DataNode):
            return self.token(node.value)
        if isinstance(node, TaskRef):
            return ("given", node.key if self.given is None else self.given.get(node.key))
        if type(node) is Task:
            return self.task(node)
        if isinstance(node, Alias):
            return ("alias", self.number.get(node.target, node.target))
        return ("node", id(node) if self.given is None else type(node))

    def task(self, task: Task) -> Hashable:
        func = task.func
        known = self.tokens.get(id(func))
        if known is None:
            known = self.tokens[id(func)] = func.signature if isinstance(func, Program) else token(func)
            if self.given is not None:
                known = self.tokens[id(func)] = _anonymous(known)
        args = tuple([self.argument(arg) for arg in task.args])
        if not task.kwargs:
            return (known, args)
        return (known, args, *((name, self.argument(arg)) for name, arg in task.kwargs.items()))

    def argument(self, value: Any) -> Hashable:
        if type(value) is TaskRef:
            return ("ref", self.number.get(value.key, value.key))
        if not isinstance(value, GraphNode):
            return self.piece(value)
        if isinstance(value, DataNode):
            return self.piece(value.value)
        if isinstance(value, Alias):
            return ("ref", self.number.get(value.target, value.target))
        if isinstance(value, Task):
            kind = container(value)
            return (kind, *map(self.argument, value.args)) if kind is not None else self.task(value)
        return ("node", id(value) if self.given is None else type(value))

    def piece(self, value: Any) -> Hashable:
        """Return what counts of a literal, and put its value aside where that does not."""
        if _is_data(value):
            self.data.append(value)
            return ("data", type(value), getattr(value, "dtype", None), getattr(value, "shape", None))
        return self.token(value)

    def token(self, value: Any) -> Hashable:
        if self.given is None:
            return token(value)
        return ("number", value.what(self.given)) if isinstance(value, Scalar) else _anonymous(token(value))


def _anonymous(found: Any) -> Any:
    """Take identities and strings out of a token."""
    if not isinstance(found, tuple):
        return found
    if len(found) == 2 and found[0] in (id, str):
        return found[0]
    return tuple(map(_anonymous, found))


def _in_order(graph: Graph, keys: Sequence[Key]) -> list[Key]:
    """List what the keys need, inputs first, in the order of arguments: names, and the order of layers, must not matter."""
    out: dict[Key, None] = {}
    stack = [(key, False) for key in reversed(keys)]
    while stack:
        key, done = stack.pop()
        if key in out or key not in graph:
            continue
        if done:
            out[key] = None
            continue
        stack.append((key, True))
        below = _refs(graph[key])
        below.reverse()
        stack += [(dep, False) for dep in below if dep not in out]
    return list(out)


def _refs(node: Any) -> list[Key]:
    """List the keys that a node reads, in the order of its arguments."""
    if isinstance(node, Alias):
        return [node.target]
    if not isinstance(node, Task):
        return sorted(dependencies(node), key=str)
    found: list[Key] = []
    for arg in (*node.args, *node.kwargs.values()) if node.kwargs else node.args:
        if type(arg) is TaskRef:
            found.append(arg.key)
        elif isinstance(arg, GraphNode):
            found += _refs(arg)
    return found


def _is_data(value: Any) -> bool:
    kind = type(value)
    if kind is float:
        return True
    if kind is Scalar:
        return False
    if isinstance(value, np.generic):
        return isinstance(value, np.inexact)
    if kind is np.ndarray:
        return bool(value.dtype.kind != "O")
    return hasattr(value, "dtype") and hasattr(value, "shape")  # chunks of other kinds: masked, sparse


class _Holes:
    """Puts references in place of the data of one node, in the order of the walk."""

    def __init__(self, places: dict[Key, int], start: int) -> None:
        self.places, self.next = places, start

    def node(self, node: Any) -> Any:
        args = [self.argument(arg) for arg in node.args]
        kind = container(node)
        if kind is not None:  # a dict is written as a list of names and values, but not made from one
            plain = type(node) is Task or kind == DICT
            return Task(node.key, node.func, *args, **node.kwargs) if plain else type(node)(*args)
        return Task(node.key, node.func, *args, **{name: self.argument(arg) for name, arg in node.kwargs.items()})

    def argument(self, value: Any) -> Any:
        if isinstance(value, DataNode):
            value = value.value
        elif isinstance(value, Task):
            return self.node(value)
        elif isinstance(value, (GraphNode, TaskRef)):
            return value
        if not _is_data(value):
            return value
        key = (_DATA, self.next)
        self.places[key] = self.next
        self.next += 1
        return TaskRef(key)
