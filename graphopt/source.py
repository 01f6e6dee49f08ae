"""Source: a program written as the Python a person would write.

::

    def exp_sub(x):
        exp = np.exp(x)
        return exp - 1 / x

Operators become operators, NumPy functions are called as ``np.…``, results used once are written where they are used, names
come from the functions, and a value is deleted after its last use so that NumPy gets its memory back. A function that is not
NumPy's or an operator has a line to itself, so that a traceback points at one call of the user's.

The file is long because its writer is one thing: names, expressions and statements are decided together.
"""

from __future__ import annotations

import functools
import keyword
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt import lean
from graphopt.functions import bindable, is_simple
from graphopt.graph import key_name
from graphopt.peephole import shorter
from graphopt.program import (
    CONST,
    DICT,
    INPUT,
    ITEM,
    LIST,
    LITERAL,
    SET,
    TUPLE,
    VALUE,
    Program,
    Spec,
    Step,
    carried_over,
    without_partial,
)

__all__ = ["Source", "function_name", "write"]

# Python takes letters like ² for part of a word but not of a name, and ﬁ for another spelling of fi.
_NOT_IN_NAMES = re.compile(r"\W+", re.ASCII)
_MAX_INLINE = 60  # characters; longer expressions get a name

_ATOM, _POWER, _UNARY, _COMPARE = 20, 12, 11, 4
_BINARY_OPERATORS: dict[Any, tuple[str, int]] = {
    operator.add: ("+", 9),
    operator.sub: ("-", 9),
    operator.mul: ("*", 10),
    operator.truediv: ("/", 10),
    operator.floordiv: ("//", 10),
    operator.mod: ("%", 10),
    operator.matmul: ("@", 10),
    operator.pow: ("**", _POWER),
    operator.and_: ("&", 7),
    operator.xor: ("^", 6),
    operator.or_: ("|", 5),
    operator.lshift: ("<<", 8),
    operator.rshift: (">>", 8),
    operator.lt: ("<", _COMPARE),
    operator.le: ("<=", _COMPARE),
    operator.gt: (">", _COMPARE),
    operator.ge: (">=", _COMPARE),
    operator.eq: ("==", _COMPARE),
    operator.ne: ("!=", _COMPARE),
}
_UNARY_OPERATORS: dict[Any, str] = {operator.neg: "-", operator.pos: "+", operator.invert: "~", operator.inv: "~"}
# By identity: a task's function need not be hashable.
_BINARY = {id(func): sign for func, sign in _BINARY_OPERATORS.items()}
_UNARIES = {id(func): sign for func, sign in _UNARY_OPERATORS.items()}
_BRACKETS = {LIST: "[{}]", TUPLE: "({},)", SET: "{{{}}}", DICT: "{{{}}}"}


@dataclass(frozen=True, slots=True)
class Source:
    """What `write` makes: the text, the names it needs bound, the literals it takes, which step each line runs.

    ``tasks`` counts the original tasks that one call stands for.
    """

    name: str
    text: str
    constants: dict[str, Any]
    slots: tuple[int, ...]
    lines: dict[int, tuple[tuple[int, Any], ...]]
    tasks: int


def function_name(func: Any) -> str:
    """Return a short identifier for a function, a partial or a callable object."""
    while isinstance(func, functools.partial):
        func = func.func
    name = getattr(func, "__name__", None) or type(func).__name__
    name = _NOT_IN_NAMES.sub("_", str(name)).strip("_") or "f"
    return name if not name[0].isdigit() else f"f_{name}"


def write(
    program: Program,
    fixed: Mapping[int, Any],
    *,
    hints: Sequence[str] = (),
    slot_hints: Mapping[int, str] | None = None,
    kernels: Mapping[int, Any] | None = None,
) -> Source:
    """Write a program as one Python function.

    Parameters
    ----------
    program
        What to write.
    fixed
        Literals that are the same wherever the program is used, by place. They are written into the text, or bound
        to a name where `bindable`; the others become parameters.
    hints, slot_hints
        Names for the inputs, in order, and for literals, by place.
    kernels
        For programs that are called rather than written out: by ``id``, the kernel to call and the places of the
        literals it takes.
    """
    return _Writer(program, fixed, hints, slot_hints or {}, kernels or {}).write()


class _Writer:
    def __init__(
        self,
        program: Program,
        fixed: Mapping[int, Any],
        hints: Sequence[str],
        slot_hints: Mapping[int, str],
        kernels: Mapping[int, Any],
    ) -> None:
        self.program, self.fixed, self.slot_hints, self.kernels = program, fixed, slot_hints, kernels
        self.steps: list[Step] = []
        self.labels: list[tuple[int, Any]] = []
        top = tuple((INPUT, i) for i in range(program.inputs)) + tuple((LITERAL, i) for i in range(program.literals))
        self.wishes: list[str] = []  # names for the results, from the keys of the first region of this shape
        self.outputs = self._expand(program, top, None)
        self.tasks = sum(self.kernels[id(f)][0].tasks if id(f) in self.kernels else 1 for f, _, _ in self.steps)
        for place, (start, step) in shorter(self.steps, self.outputs, fixed).items():
            self.steps[place], self.labels[place] = step, self.labels[start]
        self._depth_first()
        self.constants: dict[str, Any] = {}
        self.used: set[str] = {"np", "lean", "slice", "set"}  # the last two are how Python writes slices and empty sets
        self.counts: dict[tuple[str, int], int] = {}  # how far the names that begin alike are counted
        self.bound: dict[int, str] = {id(slice): "slice", id(set): "set"}
        self.function_texts = ["" if _is_operator(func) else self._function(func) for func, _, _ in self.steps]
        self.slot_names: dict[int, str] = {}
        self.text: dict[int, tuple[str, int]] = {}  # step -> its expression, name or tuple of names
        self.inside: dict[int, list[int]] = {}  # step -> the steps on its line, itself the last, if it has no line of its own
        self.names_in: dict[int, set[str]] = {}  # step -> the temporaries its expression reads
        self.inputs = [self._name(hints[i] if i < len(hints) else "x") for i in range(program.inputs)]

    # -- flattening ----------------------------------------------------------------------------------------------

    def _expand(self, program: Program, arguments: tuple[Spec, ...], outer: int | None) -> tuple[Spec, ...]:
        """Write out the steps of a program, and of programs it calls that are no kernels; return where its outputs are."""
        results: list[Spec] = []
        move = carried_over(program, arguments, results)
        for place, (func, args, kwargs) in enumerate(program.steps):
            label = program.labels[place] if place < len(program.labels) else None
            moved = tuple(map(move, args))
            if isinstance(func, Program) and id(func) not in self.kernels:
                inner = self._expand(func, moved, place if outer is None else outer)
                results.append(inner[0] if len(inner) == 1 else (TUPLE, *inner))
            else:
                func, moved, options = without_partial(func, moved, {name: move(value) for name, value in kwargs})
                self.steps.append((func, moved, tuple(options.items())))
                self.labels.append((place, None) if outer is None else (outer, label))
                self.wishes.append(function_name(func) if isinstance(label, list) else key_name(label))
                results.append((VALUE, len(self.steps) - 1))
        return tuple(map(move, program.outputs))

    def _depth_first(self) -> None:
        """Order the steps so that each output's are together and values live briefly, whatever order they came in."""
        order: dict[int, int] = {}
        for spec in self.outputs:
            stack = [(place, False) for place in reversed(_values(spec))]
            while stack:
                place, done = stack.pop()
                if place in order:
                    continue
                if done:
                    order[place] = len(order)
                    continue
                stack.append((place, True))
                _, args, kwargs = self.steps[place]
                below = [v for arg in (*args, *(value for _, value in kwargs)) for v in _values(arg)]
                stack.extend((v, False) for v in reversed(below) if v not in order)

        def move(spec: Spec) -> Spec:
            kind = spec[0]
            if kind == VALUE:
                return (VALUE, order[spec[1]])
            if kind == ITEM:
                return (ITEM, move(spec[1]), spec[2])
            return spec if kind in (INPUT, LITERAL, CONST) else (kind, *map(move, spec[1:]))

        old = [self.steps[place] for place in order]
        self.steps = [(f, tuple(map(move, a)), tuple((n, move(v)) for n, v in k)) for f, a, k in old]
        self.labels = [self.labels[place] for place in order]
        self.wishes = [self.wishes[place] for place in order]
        self.outputs = tuple(map(move, self.outputs))

    # -- names ---------------------------------------------------------------------------------------------------

    def _name(self, wish: str) -> str:
        wish = _NOT_IN_NAMES.sub("_", wish).strip("_").lower() or "x"
        if wish[0].isdigit() or keyword.iskeyword(wish):
            wish = f"{wish}_" if not wish[0].isdigit() else f"x_{wish}"
        first = 0 if wish in self.constants else 1  # exp_1 = exp(x), but y_2 after y
        name, n = wish, self.counts.get((wish, first), first)
        while name in self.used:
            n += 1
            name = f"{wish}_{n}"
        self.used.add(name)
        self.counts[wish, first] = n  # of thousands of names alike each is found at once
        return name

    def _bind(self, value: Any, wish: str) -> str:
        name = self.bound.get(id(value))
        if name is None:
            name = self.bound[id(value)] = self._name(wish)
            self.constants[name] = value
        return name

    def _function(self, func: Any) -> str:
        if id(func) in self.kernels:
            kernel = self.kernels[id(func)][0]
            return self._bind(kernel, kernel.name)
        name = getattr(func, "__name__", "")
        name = name if isinstance(name, str) else ""
        if vars(np).get(name) is func and not isinstance(func, type):  # getattr(np, "str") would warn
            return f"np.{name}"
        if getattr(lean, name, None) is func:
            return f"lean.{name}"
        return self._bind(func, function_name(func))

    # -- expressions ---------------------------------------------------------------------------------------------

    def _spec(self, spec: Spec, names: set[str], wish: str = "c") -> tuple[str, int]:
        kind = spec[0]
        if kind == VALUE:
            names |= self.names_in[spec[1]]
            return self.text[spec[1]]
        if kind == INPUT:
            return self.inputs[spec[1]], _ATOM
        if kind == LITERAL:
            return self._literal(spec[1], wish)
        if kind == CONST:
            return self._value(spec[1], wish)
        if kind == ITEM:
            text, prec = self._spec(spec[1], names)
            if spec[1][0] == VALUE and text.startswith("("):  # a call that gave several names
                return text[1:-1].split(", ")[spec[2]], _ATOM
            return f"{self._wrap(text, prec, _ATOM)}[{spec[2]}]", _ATOM
        items = [self._spec(item, names)[0] for item in spec[1:]]
        if kind == DICT:
            items = [f"{k}: {v}" for k, v in zip(items[::2], items[1::2], strict=True)]
        if not items:
            return {LIST: "[]", TUPLE: "()", SET: "set()", DICT: "{}"}[kind], _ATOM
        text = ", ".join(items)
        return ("(" + text + ")" if kind == TUPLE and len(items) > 1 else _BRACKETS[kind].format(text)), _ATOM

    def _literal(self, slot: int, wish: str) -> tuple[str, int]:
        if slot in self.fixed:
            return self._value(self.fixed[slot], wish)
        if slot not in self.slot_names:
            self.slot_names[slot] = self._name(self.slot_hints.get(slot, wish))
        return self.slot_names[slot], _ATOM

    def _value(self, value: Any, wish: str) -> tuple[str, int]:
        """Write a value out where it reads well, else give it a name."""
        if is_simple(value):
            negative = type(value) in (int, float) and repr(value).startswith("-")
            return repr(value), _UNARY if negative else _ATOM
        if callable(value):
            return self._function(value), _ATOM
        return self._bind(value, str(value) if bindable(value) else wish), _ATOM

    @staticmethod
    def _wrap(text: str, prec: int, floor: int) -> str:
        return text if prec >= floor else f"({text})"

    def _expression(self, place: int, names: set[str]) -> tuple[str, int]:
        func, args, kwargs = self.steps[place]
        if not kwargs and len(args) == 2 and id(func) in _BINARY:
            sign, prec = _BINARY[id(func)]
            left, right = self._spec(args[0], names), self._spec(args[1], names)
            tight = prec in (_COMPARE, _POWER)  # comparisons would chain, powers bind from the right
            return f"{self._wrap(*left, prec + tight)} {sign} {self._wrap(*right, prec + 1)}", prec
        if not kwargs and len(args) == 1 and id(func) in _UNARIES:
            return f"{_UNARIES[id(func)]}{self._wrap(*self._spec(args[0], names), _UNARY)}", _UNARY
        if not kwargs and len(args) == 2 and func is operator.getitem and args[0][0] != LITERAL:
            base, index = self._spec(args[0], names), self._spec(args[1], names, "index")
            return f"{self._wrap(*base, _ATOM)}[{index[0]}]", _ATOM
        parts = [self._spec(arg, names)[0] for arg in self._passed(func, args)]
        parts += [self._keyword(name, self._spec(value, names, name)[0]) for name, value in kwargs]
        text = self.function_texts[place] or self._bind(func, function_name(func))
        return f"{text}({', '.join(parts)})", _ATOM

    def _passed(self, func: Any, args: tuple[Spec, ...]) -> tuple[Spec, ...]:
        """Leave out the literals that a called kernel has written into it."""
        if id(func) not in self.kernels:
            return args
        slots = self.kernels[id(func)][1]
        return args[: func.inputs] + tuple(args[func.inputs + slot] for slot in slots)

    @staticmethod
    def _keyword(name: str, text: str) -> str:
        return f"{name}={text}" if name.isidentifier() and not keyword.iskeyword(name) else f"**{{{name!r}: {text}}}"

    # -- statements ----------------------------------------------------------------------------------------------

    def write(self) -> Source:
        uses, callers = self._count_uses()
        body: list[tuple[str, int, set[str], str]] = []  # text, step, temporaries read, name assigned
        for place, (func, _, _) in enumerate(self.steps):
            names: set[str] = set()
            text, prec = self._expression(place, names)
            if uses[place] == 1 and place in callers and len(text) <= _MAX_INLINE and self._quiet(func):
                self.text[place], self.names_in[place] = (text, prec), names
                self.inside[place] = self._on_line(place)
                continue
            wishes = _output_names(func) if isinstance(func, Program) else [self.wishes[place]]
            many = len(wishes)
            targets = [self._name(wish) for wish in wishes]
            body.append((f"{', '.join(targets)} = {text}", place, names, ", ".join(targets)))
            self.text[place] = (targets[0] if many == 1 else f"({', '.join(targets)})"), _ATOM
            self.names_in[place] = set(targets)
        last: set[str] = set()
        result = ", ".join(self._spec(spec, last)[0] for spec in self.outputs)
        if body and body[-1][3] == result and len(self.outputs) == 1:
            text, place, names, _ = body.pop()
            result, closing = text.split(" = ", 1)[1], (place, names)
        else:
            closing = (max(len(self.steps) - 1, 0), last)
        return self._assemble(body, result, closing)

    def _on_line(self, place: int) -> list[int]:
        """List the steps that run where this one is written, in the order in which they run."""
        _, args, kwargs = self.steps[place]
        read = [v for spec in (*args, *(value for _, value in kwargs)) for v in _values(spec)]
        return [*(step for v in read for step in self.inside.get(v, ())), place]

    def _count_uses(self) -> tuple[list[int], set[int]]:
        uses = [0] * len(self.steps)
        callers: set[int] = set()

        def visit(spec: Spec, *, output: bool) -> None:
            if spec[0] == VALUE:
                uses[spec[1]] += 1
                if not output:
                    callers.add(spec[1])
            elif spec[0] == ITEM:
                visit(spec[1], output=output)
                visit(spec[1], output=output)  # never written in place: several names may come of it
            elif spec[0] in _BRACKETS:
                for item in spec[1:]:
                    visit(item, output=output)

        for _, args, kwargs in self.steps:
            for spec in (*args, *(value for _, value in kwargs)):
                visit(spec, output=False)
        for spec in self.outputs:
            visit(spec, output=True)
        return uses, callers

    def _quiet(self, func: Callable[..., Any]) -> bool:
        """Say whether a call may share a line with others."""
        return id(func) not in self.bound and id(func) not in self.kernels

    def _wish(self, func: Any) -> str:
        name = self.kernels[id(func)][0].name if id(func) in self.kernels else function_name(func)
        return name.rstrip("_")

    def _assemble(self, body: list[tuple[str, int, set[str], str]], result: str, closing: tuple[int, set[str]]) -> Source:
        name = self._kernel_name()
        params = ", ".join([*self.inputs, *self.slot_names.values()])
        tasks = self.tasks
        counted = f"{tasks} task{'s' * (tasks != 1)}"
        out = [f"def {name}({params}):", f'    """{counted}, generated by graphopt."""']
        lines: dict[int, tuple[tuple[int, Any], ...]] = {}
        last = {name: i for i, (_, _, names, _) in enumerate(body) for name in names}
        last.update(dict.fromkeys(closing[1], len(body)))
        for i, (text, place, names, _) in enumerate(body):
            out.append(f"    {text}")
            lines[len(out)] = tuple([self.labels[step] for step in self._on_line(place)])
            dead = sorted(name for name in names if last[name] == i)
            if dead and (i < len(body) - 1 or self._works(result)):
                out.append(f"    del {', '.join(dead)}")
        out.append(f"    return {result}")
        lines[len(out)] = tuple([self.labels[step] for step in self._on_line(closing[0])]) if self.steps else ()
        slots = tuple(self.slot_names)
        return Source(name, "\n".join(out) + "\n", self.constants, slots, lines, tasks)

    @staticmethod
    def _works(result: str) -> bool:
        """Say whether returning this does anything that memory could be needed for."""
        return "(" in result or " " in result.replace(", ", "")

    def _kernel_name(self) -> str:
        seen = list(dict.fromkeys(self._wish(func) for func, _, _ in self.steps))
        shown = seen if len(seen) <= 3 else [seen[0], seen[len(seen) // 2], seen[-1]]
        name = "_".join(part[:16].strip("_") for part in shown) or "constant"
        return name if name not in self.used and not keyword.iskeyword(name) else f"{name}_kernel"


def _is_operator(func: Any) -> bool:
    return id(func) in _BINARY or id(func) in _UNARIES or func is operator.getitem


def _values(spec: Spec) -> list[int]:
    """List the steps whose results a spec reads, from left to right."""
    kind = spec[0]
    if kind == VALUE:
        return [spec[1]]
    if kind == ITEM:
        return _values(spec[1])
    return [] if kind in (INPUT, LITERAL, CONST) else [v for item in spec[1:] for v in _values(item)]


def _output_names(program: Program) -> list[str]:
    """Name the results of a program that is called, by the keys they had where it was first met."""
    names = []
    for spec in program.outputs:
        at = _values(spec)
        label = program.labels[at[0]] if at and at[0] < len(program.labels) else None
        names.append("x" if label is None or isinstance(label, list) else key_name(label))
    return names
