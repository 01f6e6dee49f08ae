"""Random programs, written twice from one seed: as a dask graph, and evaluated here and now by NumPy and Python.

A program is a list of steps, plain data that prints: ``Program.graph()`` writes it as a dask graph of every flavour dask
knows, ``Program.values()`` computes it directly. A longer program from the same seed starts with the shorter one, so
hypothesis shrinks a failure by its size alone.
"""

from __future__ import annotations

import functools
import operator
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
from dask._task_spec import Dict, Set, Tuple  # private, but graphs hold them
from hypothesis import settings
from hypothesis import strategies as st

import graphopt as go
from graphopt.pipeline import PASSES
from graphopt.spec import Alias, DataNode, List, Task, TaskRef

# -- the functions that tasks call -------------------------------------------------------------------------------------


def scale(x: Any, by: float = 2.0, shift: float = 0.0) -> Any:
    return x * by + shift


def total(parts: Any) -> Any:
    return functools.reduce(operator.add, parts)


def weigh(named: Mapping[str, Any], weight: float = 1.0) -> Any:
    return total([value * weight for value in named.values()])


def pair(x: Any) -> tuple[Any, Any]:
    return x + 1, -x


def count_of(things: set[float]) -> int:
    return len(things)


class Affine:
    """A callable object that can be compared but not hashed, as users write them."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, by: float) -> None:
        self.by = by

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Affine) and other.by == self.by

    def __call__(self, x: Any) -> Any:
        return x * self.by

    def method(self, x: Any) -> Any:
        return x - self.by


UNARY = (np.exp, np.negative, np.abs, np.sqrt, np.square, np.sign, operator.neg, operator.pos, operator.abs)
BINARY = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    np.add,
    np.multiply,
    np.maximum,
    np.minimum,
    np.copysign,
)
USER = (
    scale,
    functools.partial(scale, by=3.0),
    functools.partial(functools.partial(scale, shift=-1.0), by=0.5),
    Affine(1.5),
    Affine(-0.5).method,
    lambda x: x - 1,
)
REDUCE = (
    functools.partial(np.sum, axis=0, keepdims=True),
    functools.partial(np.max, axis=(1,), keepdims=True),
    functools.partial(np.mean, axis=0, keepdims=True),
)
NUMBERS = (2, -1, 0.5, -0.0, 1.5, True, np.float32(2), np.int8(3))


# -- programs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ref:
    """The value of an earlier step."""

    place: int


@dataclass(frozen=True)
class Call:
    """A function on references, literals, containers and other calls."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Many:
    """A container with references in it: a list, a tuple, a set, or a dict (whose items are keys and values by turns)."""

    kind: type
    items: tuple[Any, ...]


@dataclass(frozen=True)
class Data:
    """Data that is in the graph."""

    value: Any


@dataclass(frozen=True)
class Step:
    """One key of the graph: a call, data, or (a bare `Ref`) an alias. ``name`` says what kind of key it has."""

    what: Call | Data | Ref
    name: str
    legacy: bool = False
    index: tuple[int, ...] = ()


@dataclass(frozen=True)
class Program:
    """Steps in order, and which of them are asked for. ``order`` is the order in which the graph lists them."""

    steps: tuple[Step, ...]
    wanted: tuple[int, ...]
    order: tuple[int, ...]

    def key(self, place: int, world: int = 0) -> Any:
        """Name a step. Another world is another, one-to-one naming that keeps the blocks of an array together."""
        step = self.steps[place]
        name = step.name if not world else f"{step.name[::-1]}{world}"
        number = place if not world else (place + 1) * 7919 % 10007
        if step.index:
            return (name, *(i if not world else 50 - i for i in step.index))
        kinds = {
            "int": 1_000_000 + number,
            "float": 2_000_000.5 + number,
            "bytes": f"b{number}".encode(),
            "nested": (("deep", number), number, "leaf"),
            "single": (f"single-{number}",),
        }
        return kinds.get(step.name, f"{name}-{number:04x}")

    def keys(self, world: int = 0) -> list[Any]:
        return [self.key(place, world) for place in self.wanted]

    def graph(self, world: int = 0) -> dict[Any, Any]:
        """Write the program as a dask graph."""
        return {self.key(place, world): self._node(place, world) for place in self.order}

    def values(self) -> list[Any]:
        """Compute every step, in order, without dask."""
        values: list[Any] = []

        def get(item: Any) -> Any:
            if isinstance(item, Ref):
                return values[item.place]
            if isinstance(item, Call):
                return item.func(*map(get, item.args), **{name: get(value) for name, value in item.kwargs})
            if isinstance(item, Many):
                items = list(map(get, item.items))
                return dict(zip(items[::2], items[1::2], strict=True)) if item.kind is dict else item.kind(items)
            return item

        with np.errstate(all="ignore"):
            for step in self.steps:
                values.append(step.what.value if isinstance(step.what, Data) else get(step.what))
        return values

    def expected(self, world: int = 0) -> dict[Any, Any]:
        values = self.values()
        return {self.key(place, world): values[place] for place in self.wanted}

    def delayed(self) -> list[Any]:
        """Write the program with ``dask.delayed``; return what is asked for."""
        made: list[Any] = []

        def get(item: Any) -> Any:
            if isinstance(item, Ref):
                return made[item.place]
            if isinstance(item, Call):
                kwargs = {name: get(value) for name, value in item.kwargs}
                return dask.delayed(item.func, pure=False)(*map(get, item.args), **kwargs)
            if isinstance(item, Many):
                items = list(map(get, item.items))
                return dict(zip(items[::2], items[1::2], strict=True)) if item.kind is dict else item.kind(items)
            return item

        for step in self.steps:
            made.append(dask.delayed(step.what.value) if isinstance(step.what, Data) else get(step.what))
        return [made[place] for place in self.wanted]

    def _node(self, place: int, world: int) -> Any:
        step, key = self.steps[place], self.key(place, world)
        if step.legacy:
            return self._legacy(step.what, world)
        if isinstance(step.what, Data):
            return DataNode(key, step.what.value)
        if isinstance(step.what, Ref):
            return Alias(key, self.key(step.what.place, world))
        return self._call(step.what, world, key)

    def _call(self, call: Call, world: int, key: Any = None) -> Task:
        kwargs = {name: self._spec(value, world) for name, value in call.kwargs}
        return Task(key, call.func, *(self._spec(arg, world) for arg in call.args), **kwargs)

    def _spec(self, item: Any, world: int) -> Any:
        if isinstance(item, Ref):
            key = self.key(item.place, world)
            return TaskRef(key) if item.place % 3 else Alias(key)  # dask takes either
        if isinstance(item, Call):
            return self._call(item, world)
        if isinstance(item, Many):
            klass = {list: List, tuple: Tuple, set: Set, dict: Dict}[item.kind]
            items = [self._spec(value, world) for value in item.items]
            return klass(dict(zip(items[::2], items[1::2], strict=True))) if item.kind is dict else klass(*items)
        return item

    def _legacy(self, item: Any, world: int) -> Any:
        if isinstance(item, Ref):
            return self.key(item.place, world)
        if isinstance(item, Data):
            return item.value
        if isinstance(item, Call):
            return (item.func, *(self._legacy(arg, world) for arg in item.args))
        if isinstance(item, Many):
            return item.kind(self._legacy(value, world) for value in item.items)
        return item


class _Author:
    """Writes a program block by block. What it writes next depends on the seed and on what it wrote, not on the size."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.steps: list[Step] = []
        self.arrays: list[int] = []
        self.numbers: list[int] = []
        self.big: list[int] = []
        self.families = 0

    def write(self, size: int) -> None:
        self.add(Data(self.array()), self.arrays)
        while len(self.steps) < size:
            blocks = (self.data, self.calls, self.calls, self.calls, self.lanes, self.fan, self.tree, self.chain)
            self.rng.choice((*blocks, self.alias, self.odd, self.again))()

    # -- one step ------------------------------------------------------------------------------------------------

    def add(self, what: Call | Data | Ref, pool: list[int], name: str = "", index: tuple[int, ...] = ()) -> int:
        kinds = ("", "", "", "int", "float", "bytes", "nested", "single")
        name = name or self.rng.choice(kinds) or getattr(getattr(what, "func", None), "__name__", "x")
        legacy = self.rng.random() < 0.15 and _writable_as_tuples(what)
        legacy = legacy and all(self.steps[place].name != "bytes" for place in _refs(what))  # nor does it know those
        self.steps.append(Step(what, name, legacy, index))
        pool.append(len(self.steps) - 1)
        return pool[-1]

    def recent(self, pool: list[int]) -> Ref:
        return Ref(self.rng.choice(pool[-8:] if self.rng.random() < 0.8 else pool))

    def data(self) -> None:
        rng = self.rng
        kind = rng.random()
        if kind < 0.15:
            self.add(Data(rng.choice((3, 2.5, -0.0))), self.numbers)
        elif kind < 0.3:
            big = np.random.default_rng(rng.getrandbits(32)).normal(size=(1500, 2))
            place = self.add(Data(big), self.big)
            rows = slice(2, 5) if rng.random() < 0.5 else slice(9, 3, -2)
            self.add(Call(operator.getitem, (Ref(place), (rows, slice(None)))), self.arrays)
        else:
            self.add(Data(self.array()), self.arrays)

    def array(self) -> np.ndarray[Any, Any]:
        draw = np.random.default_rng(self.rng.getrandbits(32))
        out = draw.normal(size=(3, 2))
        out[draw.integers(3), draw.integers(2)] = self.rng.choice((np.nan, -0.0, np.inf, 1e300, 0.0))
        kind = self.rng.random()
        if kind < 0.15:
            return draw.integers(-5, 5, size=(3, 2))
        return out.clip(-9, 9).astype("f4") if kind < 0.3 else np.asfortranarray(out) if kind < 0.4 else out

    def operand(self) -> Any:
        if self.rng.random() < 0.3:
            return self.rng.choice(NUMBERS)
        if self.rng.random() < 0.2 and self.numbers:
            return self.recent(self.numbers)
        return self.inline() if self.rng.random() < 0.15 else self.recent(self.arrays)

    def inline(self) -> Call:
        return self.call(self.recent(self.arrays))

    def call(self, x: Any) -> Call:
        """One call on ``x`` that gives an array that goes with all others."""
        rng = self.rng
        kind = rng.randrange(14)
        if kind < 3:
            return Call(rng.choice(UNARY), (x,))
        if kind < 7:
            y = self.operand()
            return Call(rng.choice(BINARY), (x, y) if rng.random() < 0.6 else (y, x))
        if kind == 7:
            return Call(rng.choice(USER), (x,))
        if kind == 8:
            return Call(scale, (x,), (("by", rng.choice((2, 0.25))), ("shift", self.recent(self.arrays))))
        if kind == 9:
            return Call(total, (Many(list, (x, self.operand(), self.inline())),))
        if kind == 10:
            return Call(weigh, (Many(dict, ("a", x, "b", self.operand())),), (("weight", 0.5),))
        if kind == 11:
            return Call(np.where, (Call(operator.lt, (x, self.recent(self.arrays))), x, rng.choice(NUMBERS)))
        if kind == 12:
            return Call(rng.choice(REDUCE), (x,))
        return Call(np.concatenate, (Many(list, (x, Call(operator.getitem, (x, slice(0, 0))))),), (("axis", 0),))

    # -- blocks of steps -----------------------------------------------------------------------------------------

    def calls(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            self.add(self.call(self.recent(self.arrays)), self.arrays)

    def alias(self) -> None:
        for _ in range(self.rng.randint(1, 3)):
            self.add(self.recent(self.arrays), self.arrays)

    def chain(self) -> None:
        for _ in range(self.rng.randint(2, 5)):
            self.add(Call(self.rng.choice((*UNARY, *USER)), (Ref(self.arrays[-1]),)), self.arrays)

    def again(self) -> None:
        """Steps that were written before, once more."""
        calls = [place for place in self.arrays if isinstance(self.steps[place].what, Call)][-6:]
        for place in self.rng.sample(calls, min(len(calls), self.rng.randint(1, 4))):
            self.add(self.steps[place].what, self.arrays)
        for reader in (np.negative, np.square, operator.add, np.maximum):
            args = tuple(map(Ref, self.rng.choices(self.arrays[-4:], k=2 if reader in BINARY else 1)))
            self.add(Call(reader, args), self.arrays)

    def odd(self) -> None:
        """Values that are no arrays: tuples, numbers, sets."""
        both = self.add(Call(pair, (self.recent(self.arrays),)), [])
        for place in (0, 1):
            self.add(Call(operator.getitem, (Ref(both), place)), self.arrays)
        size = self.add(Call(len, (Many(tuple, (Ref(both), 1)),)), self.numbers)
        self.add(Call(count_of, (Many(set, (Ref(size), 7)),)), self.numbers)

    def fan(self) -> None:
        """One task that many read, and one that reads them all."""
        source = self.add(self.call(self.recent(self.arrays)), self.arrays)
        places = [self.add(self.call(Ref(source)), self.arrays) for _ in range(self.rng.randint(2, 6))]
        self.add(Call(total, (Many(list, tuple(map(Ref, places))),)), self.arrays)

    def tree(self) -> None:
        self._fold([self.recent(self.arrays).place for _ in range(self.rng.randint(3, 8))])

    def _fold(self, places: list[int], family: str = "") -> None:
        width = self.rng.randint(2, 5)
        level = 0
        while len(places) > 1:
            groups = [places[i : i + width] for i in range(0, len(places), width)]
            places = [
                self.add(
                    Call(total, (Many(list, tuple(map(Ref, group))),)),
                    self.arrays,
                    family and f"{family}-{level}",
                    (i,) if family else (),
                )
                for i, group in enumerate(groups)
            ]
            level += 1

    def lanes(self) -> None:
        """The same work on many chunks, some of it on shared data too, and often a tree of sums over it."""
        rng = self.rng
        self.families += 1
        family, count = f"f{self.families}", rng.randint(2, 9)
        shared = self.recent(self.arrays)
        lanes = [self.add(Data(self.array()), self.arrays, f"{family}-in", (i, 0)) for i in range(count)]
        for depth in range(rng.randint(1, 4)):
            func, both, own = rng.choice((*UNARY, *BINARY)), rng.random() < 0.3, rng.random() < 0.3
            for i, lane in enumerate(lanes):
                args: tuple[Any, ...] = (Ref(lane),)
                if func in BINARY:
                    args = (Ref(lane), shared) if both else (Ref(lane), i if own else 0.5)
                lanes[i] = self.add(Call(func, args), self.arrays, f"{family}-{depth}", (i, 0))
        if rng.random() < 0.7:
            self._fold(list(lanes), f"{family}-sum")


def _writable_as_tuples(item: Any) -> bool:
    """Say whether dask's old notation, a tuple that starts with a function, can express this."""
    if isinstance(item, Call):
        return not item.kwargs and all(map(_writable_as_tuples, item.args))
    if isinstance(item, Many):
        return item.kind in (list, tuple) and all(map(_writable_as_tuples, item.items))
    return True


def program(seed: int, size: int) -> Program:
    """Write a program of at least so many steps."""
    author = _Author(seed)
    author.write(size)
    steps = author.steps[: max(size, 1)]
    rng = random.Random(seed + 1)
    chance = [rng.random() for _ in range(10_000)]
    read = {ref for step in steps for ref in _refs(step.what)}
    wanted = [i for i in range(len(steps)) if chance[i] < (0.06 if i in read else 0.8)] or [len(steps) - 1]
    order = list(range(len(steps)))
    if chance[-1] < 0.3:  # a graph need not list its tasks in the order in which they run
        order.sort(key=chance.__getitem__)
    return Program(tuple(steps), tuple(wanted), tuple(order))


def _refs(item: Any) -> list[int]:
    if isinstance(item, Ref):
        return [item.place]
    if isinstance(item, Call):
        return [ref for arg in (*item.args, *(value for _, value in item.kwargs)) for ref in _refs(arg)]
    return [ref for value in item.items for ref in _refs(value)] if isinstance(item, Many) else []


def examples(count: int) -> settings:
    """So many examples of a property; in proportion more where the profile asks for more than CI's hundred."""
    return settings(max_examples=count * settings.default.max_examples // 100)


#: Programs from one seed and one size.
programs = st.builds(program, st.integers(0, 2**32 - 1), st.integers(1, 45))

#: Policies of every kind, strict.
policies = st.builds(
    go.Policy,
    parallelism=st.integers(1, 8),
    spare=st.integers(1, 4),
    max_bytes=st.sampled_from([1, 100, 10_000, 2**30]),
    passes=st.just(PASSES) | st.sets(st.sampled_from(PASSES)).map(tuple),
    strict=st.just(True),
)
