"""Flatten: a program as one list of steps, with the steps of programs and partials that it calls written out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from toolz.functoolz import Compose

from graphopt.graph import key_name
from graphopt.program import CONST, INPUT, ITEM, LITERAL, TUPLE, VALUE, Program, Spec, carried_over, without_partial

__all__ = ["Call", "flatten", "reached"]


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
    move = carried_over(program, arguments, results)
    for place, (func, args, kwargs) in enumerate(program.steps):
        label = program.labels[place] if place < len(program.labels) else None
        name = "x" if label is None or isinstance(label, list) else key_name(label)
        results.append(_call(func, tuple(map(move, args)), {key: move(value) for key, value in kwargs}, name, calls))
    return tuple(map(move, program.outputs))


def _call(func: Any, args: tuple[Spec, ...], options: dict[str, Spec], name: str, calls: list[Call]) -> Spec:
    func, args, options = without_partial(func, args, options)
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


def reached(calls: list[Call], outputs: tuple[Spec, ...]) -> Iterator[int]:
    """Yield the places of the calls that the outputs depend on."""
    stack, done = list(outputs), set()
    while stack:
        kind, *rest = stack.pop()
        if kind == VALUE and rest[0] not in done:
            done.add(rest[0])
            yield rest[0]
            stack += [*calls[rest[0]].args, *calls[rest[0]].options.values()]
        elif kind == ITEM:
            stack.append(rest[0])
        elif kind not in (INPUT, LITERAL, CONST, VALUE):
            stack += rest
