"""Program: what a group of tasks does, apart from the data it does it to.

A program is a list of steps in order. Each step calls a function on inputs, literals and results of earlier steps. Keys and
values of literals are not part of it, so the same work on 500 chunks is one program with 500 sets of arguments. (Literals
that are known to be the same everywhere are part of it: its constants.) Programs are compared by `Program.signature`;
turning one into Python is the business of the kernel floor.

How an argument is written down (a *spec*): ``(VALUE, i)`` the result of step i, ``(INPUT, i)`` the i-th thing that is read,
``(LITERAL, i)`` the i-th literal, ``(CONST, i)`` the i-th constant, ``(ITEM, spec, i)`` one place of a tuple,
``(LIST | TUPLE | SET | DICT, *specs)`` a container built anew at each run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Mapping
from itertools import repeat
from operator import is_
from typing import Any, cast

import numpy as np

from graphopt.functions import bindable, is_simple, token
from graphopt.graph import key_name, toposort
from graphopt.spec import Alias, DataNode, GraphNode, List, Task, TaskRef
from graphopt.types import Key

__all__ = [
    "CONST",
    "DICT",
    "INPUT",
    "ITEM",
    "LIST",
    "LITERAL",
    "SET",
    "TUPLE",
    "VALUE",
    "Program",
    "Spec",
    "Step",
    "Tracer",
    "carried_over",
    "container",
    "is_subgraph",
    "program_of",
    "without_partial",
]

VALUE, INPUT, LITERAL, CONST, ITEM = "value", "input", "literal", "const", "item"
LIST, TUPLE, SET, DICT = "list", "tuple", "set", "dict"
Spec = tuple[Any, ...]
#: What a step is called in messages: a key, or for a step that calls another program the list of its labels.
Label = Any
Step = tuple[Callable[..., Any], tuple[Spec, ...], tuple[tuple[str, Spec], ...]]

_BUILD: dict[str, Callable[[list[Any]], Any]] = {
    LIST: list,
    TUPLE: tuple,
    SET: set,
    DICT: lambda items: dict(zip(items[::2], items[1::2], strict=True)),
}
_KINDS: dict[type, str] = {list: LIST, tuple: TUPLE, set: SET, dict: DICT}

#: Types of the commonest literals, which need no look.
_NUMBERS = frozenset((int, float, bool))

# dask keeps the function behind a fused task and the one that builds a container private, but shows both on request.
_SUBGRAPH = cast("Task", Task.fuse(Task("a", int), Task("b", int, TaskRef("a")))).func
_CONTAINER = List(TaskRef("a")).func


class Program:
    """Steps in order, with how many inputs and literals they take and which results leave.

    Calling it runs the steps one by one: ``program(*inputs, *literals)``. That is how an unfused program behaves inside a
    task, and what kernels are tested against.
    """

    __slots__ = ("constants", "inputs", "labels", "literals", "outputs", "signature", "steps")

    def __init__(
        self,
        steps: Iterable[Step],
        inputs: int,
        literals: int,
        outputs: Iterable[Spec],
        labels: Iterable[Label] = (),
        constants: Iterable[Any] = (),
        tokens: dict[int, Hashable] | None = None,
    ) -> None:
        self.steps = tuple(steps)
        self.inputs = inputs
        self.literals = literals
        self.outputs = tuple(outputs)
        self.labels = tuple(labels)
        self.constants = tuple(constants)
        # Thousands of programs call a handful of functions: a caller may keep their tokens, and must keep the functions.
        known = {} if tokens is None else tokens
        for func, _, _ in self.steps:
            if id(func) not in known:
                known[id(func)] = token(func)
        what = tuple([(known[id(func)], args, kwargs) for func, args, kwargs in self.steps])
        self.signature: Hashable = (what, inputs, literals, self.outputs, *map(token, self.constants))

    def __call__(self, *arguments: Any) -> Any:
        """Run the steps one by one on inputs and literals."""
        values: list[Any] = []

        def get(spec: Spec) -> Any:
            kind = spec[0]
            if kind == VALUE:
                return values[spec[1]]
            if kind == INPUT:
                return arguments[spec[1]]
            if kind == LITERAL:
                return arguments[self.inputs + spec[1]]
            if kind == CONST:
                return self.constants[spec[1]]
            if kind == ITEM:
                return get(spec[1])[spec[2]]
            return _BUILD[kind]([get(item) for item in spec[1:]])

        for func, args, kwargs in self.steps:
            values.append(func(*map(get, args), **{name: get(value) for name, value in kwargs}))
        out = tuple(map(get, self.outputs))
        return out if len(out) > 1 else out[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self.steps, self.inputs, self.literals, self.outputs, self.labels, self.constants)

    def __repr__(self) -> str:
        return f"<Program of {len(self.steps)} steps, {self.inputs} in, {len(self.outputs)} out>"


def carried_over(program: Program, arguments: tuple[Spec, ...], results: list[Spec]) -> Callable[[Spec], Spec]:
    """Return what turns a spec inside a program into one of its caller, who passes ``arguments`` and keeps ``results``.

    Constants come as ``(CONST, value)``: the value itself, because their places mean nothing to the caller.
    """

    def move(spec: Spec) -> Spec:
        kind = spec[0]
        if kind == VALUE:
            return results[spec[1]]
        if kind == INPUT:
            return arguments[spec[1]]
        if kind == LITERAL:
            return arguments[program.inputs + spec[1]]
        if kind == CONST:
            return (CONST, program.constants[spec[1]])
        if kind == ITEM:
            inner = move(spec[1])
            return inner[1 + spec[2]] if inner[0] == TUPLE else (ITEM, inner, spec[2])
        return (kind, *map(move, spec[1:]))

    return move


def without_partial(
    func: Any, args: tuple[Spec, ...], options: dict[str, Spec]
) -> tuple[Any, tuple[Spec, ...], dict[str, Spec]]:
    """Return the function inside partials, and what it is then called with."""
    while type(func) is functools.partial:
        args = (*((CONST, value) for value in func.args), *args)
        options = {**{name: (CONST, value) for name, value in func.keywords.items()}, **options}
        func = func.func
    return func, args, options


class Tracer:
    """Writes tasks down as steps, and collects on the way what they read and which literals they carry.

    Parameters
    ----------
    small
        Keys whose data is small and already there: they become literals.
    picks
        Keys that are one place of another key's tuple.
    shared
        Whether what is written down is one object that many tasks share, so that its literals are constants.
    pattern
        A program that may well come out: its steps are taken where they are equal, and where all are, the program itself,
        which costs less than a new one.
    """

    __slots__ = (
        *("_arrays", "_pattern", "_picks", "_shared", "_small", "_specs"),
        *("constants", "hints", "inputs", "labels", "literals", "steps"),
    )

    def __init__(
        self,
        small: Mapping[Key, Any] | None = None,
        picks: Mapping[Key, tuple[Key, int]] | None = None,
        *,
        shared: bool = False,
        pattern: Program | None = None,
    ) -> None:
        self._pattern = pattern
        self._small = small or {}
        self._picks = picks or {}
        self._shared = shared
        self.constants: list[Any] = []
        self._specs: dict[Key, Spec] = {}
        self.inputs: dict[Key, int] = {}
        self._arrays: dict[int, Spec] = {}
        self.literals: list[Any] = []
        self.hints: dict[int, str] = {}  # names for literals that have one
        self.steps: list[Step] = []
        self.labels: list[Label] = []

    def task(self, node: Task) -> Spec:
        """Write a task down; its key then stands for its result."""
        spec = self._specs[node.key] = self.call(node, node.key)
        return spec

    def define(self, key: Key, spec: Spec) -> None:
        """Let a key stand for something that is written down already."""
        self._specs[key] = spec

    def call(self, node: Task, label: Label) -> Spec:
        """Write down what a task calls, and on what."""
        known = self._specs
        args = []
        for arg in node.args:  # once for each argument of each task: references and literals without a detour
            if type(arg) is TaskRef:
                args.append(known.get(arg.key) or self.ref(arg.key))
            elif type(arg) in _NUMBERS and not self._shared:
                args.append((LITERAL, len(self.literals)))
                self.literals.append(arg)
            elif isinstance(arg, GraphNode):
                args.append(self.spec(arg, label))
            else:
                args.append(self.literal(arg))
        kwargs = tuple([(name, self.spec(arg, label)) for name, arg in node.kwargs.items()]) if node.kwargs else ()
        return self.step(node.func, tuple(args), kwargs, label)

    def step(self, func: Any, args: tuple[Spec, ...], kwargs: tuple[tuple[str, Spec], ...], label: Label) -> Spec:
        """Add a step; return how its result is referred to."""
        place = len(self.steps)
        step = (func, args, kwargs)
        if self._pattern is not None and place < len(self._pattern.steps):
            known = self._pattern.steps[place]
            if known[0] is func and known[1] == args and known[2] == kwargs:
                step = known
        self.steps.append(step)
        self.labels.append(label)
        return (VALUE, place)

    def spec(self, value: Any, label: Label = None) -> Spec:
        """Write down one argument."""
        if isinstance(value, TaskRef):
            return self.ref(value.key)
        if not isinstance(value, GraphNode):
            return self.literal(value)
        if isinstance(value, Alias):
            return self.ref(value.target)
        if isinstance(value, DataNode):
            return self.literal(value.value)
        if isinstance(value, Task):
            kind = container(value)
            if kind is not None:
                return (kind, *[self.spec(arg, label) for arg in value.args])
            return self.call(value, label)
        raise TypeError(f"a {type(value).__name__} cannot be an argument")

    def ref(self, key: Key) -> Spec:
        """Write down a reference to a key: a result, a small constant, or else an input."""
        spec = self._specs.get(key)
        if spec is None:
            if key in self._small:
                spec = self.literal(self._small[key])
                self.hints.setdefault(spec[1], key_name(key))
            elif key in self._picks:
                region, place = self._picks[key]
                spec = (ITEM, self.ref(region), place)
            else:
                spec = (INPUT, self.inputs.setdefault(key, len(self.inputs)))
            self._specs[key] = spec
        return spec

    def literal(self, value: Any) -> Spec:
        """Write down a literal; an array that comes up again (the same coefficients in every lane) is one literal."""
        if self._shared and (is_simple(value) or bindable(value)):
            self.constants.append(value)
            return (CONST, len(self.constants) - 1)
        if type(value) is np.ndarray:
            known = self._arrays.get(id(value))
            if known is not None:
                return known
            self._arrays[id(value)] = (LITERAL, len(self.literals))
        self.literals.append(value)
        return (LITERAL, len(self.literals) - 1)

    def literal_list(self, values: list[Any]) -> Iterable[Spec]:
        """Write down many literals."""
        if self._shared or np.ndarray in map(type, values):
            return map(self.literal, values)
        start = len(self.literals)
        self.literals += values
        return zip(repeat(LITERAL), range(start, len(self.literals)), strict=False)

    def program(self, outputs: Iterable[Key], tokens: dict[int, Hashable] | None = None) -> Program:
        """Close the list: what was written down so far, giving these keys."""
        specs = tuple([self._specs[key] for key in outputs])
        if (known := self._pattern) is not None and (
            len(self.steps) == len(known.steps)
            and all(map(is_, self.steps, known.steps))
            and (len(self.inputs), len(self.literals), specs) == (known.inputs, known.literals, known.outputs)
        ):
            return known
        return Program(self.steps, len(self.inputs), len(self.literals), specs, self.labels, self.constants, tokens)


def container(task: Task) -> str | None:
    """Say which container a task only builds, or None if it does anything else."""
    if type(task) is not Task:
        return _KINDS.get(getattr(task, "klass", None)) if task.func is _CONTAINER else None  # type: ignore[arg-type]
    if task.kwargs.keys() == {"typ"} and getattr(task.func, "__name__", "") == "_identity_cast":
        kind = _KINDS.get(task.kwargs["typ"])
        return None if kind == DICT else kind
    return None


def is_subgraph(task: Task) -> bool:
    """Say whether a task is one that dask fused: it carries a graph and runs it each time."""
    return task.func is _SUBGRAPH and len(task.args) >= 3 and not task.kwargs


def program_of(
    inner: Mapping[Key, GraphNode], outkey: Key, inkeys: Iterable[Key], *, shared: bool = False
) -> tuple[Program, list[int], list[Any]] | None:
    """Write down the graph inside a task that dask fused; ``shared`` if other tasks carry the very same graph.

    Returns
    -------
    The program, the places of the ``inkeys`` among its inputs, and its literals. Inputs are in the order in which they are
    met: dask has them in the order of their hashes, which differs from process to process. None where a node has rules
    of its own.
    """
    tracer = Tracer(shared=shared)
    for key in toposort(inner):
        node = inner[key]
        if isinstance(node, Alias):
            tracer.define(key, tracer.ref(node.target))
        elif isinstance(node, DataNode):
            tracer.define(key, tracer.literal(node.value))
        elif type(node) is Task and not node.block_fusion:
            if is_subgraph(node):
                nested = program_of(*node.args[:3], shared=shared)
                if nested is None:
                    return None
                program, places, literals = nested
                refs = [tracer.spec(node.args[3 + place]) for place in places]
                tracer.define(key, tracer.step(program, (*refs, *map(tracer.literal, literals)), (), key))
            else:
                tracer.task(node)
        elif isinstance(node, Task) and container(node) is not None:
            tracer.define(key, tracer.spec(node))
        else:
            return None
    given = {key: place for place, key in enumerate(inkeys)}
    if not tracer.inputs.keys() <= given.keys():
        return None  # it reads what dask does not hand it: leave the error to dask
    for key in given:
        tracer.ref(key)  # what it is handed and does not read comes last
    return tracer.program([outkey]), [given[key] for key in tracer.inputs], tracer.literals
