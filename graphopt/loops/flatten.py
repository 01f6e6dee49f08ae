"""Flatten: a program as one list of steps, with the steps of programs and partials that it calls written out."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from toolz.functoolz import Compose

from graphopt.graph import key_name
from graphopt.program import CONST, INPUT, ITEM, LITERAL, TUPLE, VALUE, Program, Spec

__all__ = ["Call", "flatten"]


class Call(NamedTuple):
    """A call of a function that is neither a program nor a partial. Constants stand in its specs."""

    func: Any
    args: tuple[Spec, ...]
    options: dict[str, Spec]
    name: str


def flatten(program: Program) -> tuple[list[Call], tuple[Spec, ...]]:
    """Return the calls of a program in order, and where its outputs are."""
    calls: list[Call] = []
    top = tuple((INPUT, i) for i in range(program.inputs)) + tuple((LITERAL, i) for i in range(program.literals))
    return calls, _expand(program, top, calls)


def _expand(program: Program, arguments: tuple[Spec, ...], calls: list[Call]) -> tuple[Spec, ...]:
    results: list[Spec] = []

    def move(spec: Spec) -> Spec:
        kind = spec[0]
        if kind == VALUE:
            return results[spec[1]]
        if kind == INPUT:
            return arguments[spec[1]]
        if kind == LITERAL:
            return arguments[program.inputs + spec[1]]
        if kind == CONST:
            return (CONST, program.constants[spec[1]])  # from here on the value itself
        if kind == ITEM:
            inner = move(spec[1])
            return inner[1 + spec[2]] if inner[0] == TUPLE else (ITEM, inner, spec[2])
        return (kind, *map(move, spec[1:]))

    for place, (func, args, kwargs) in enumerate(program.steps):
        label = program.labels[place] if place < len(program.labels) else None
        name = "x" if label is None or isinstance(label, list) else key_name(label)
        results.append(_call(func, tuple(map(move, args)), {key: move(value) for key, value in kwargs}, name, calls))
    return tuple(map(move, program.outputs))


def _call(func: Any, args: tuple[Spec, ...], options: dict[str, Spec], name: str, calls: list[Call]) -> Spec:
    while type(func) is functools.partial:
        args = (*((CONST, value) for value in func.args), *args)
        options = {**{key: (CONST, value) for key, value in func.keywords.items()}, **options}
        func = func.func
    if isinstance(func, Program) and not options:
        inner = _expand(func, args, calls)
        return inner[0] if len(inner) == 1 else (TUPLE, *inner)
    if type(func) is Compose:
        spec = _call(func.first, args, options, name, calls)
        for step in func.funcs:
            spec = _call(step, (spec,), {}, name, calls)
        return spec
    calls.append(Call(func, args, options, name))
    return (VALUE, len(calls) - 1)
