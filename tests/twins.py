"""Random programs, written twice from one seed: as a dask graph, and evaluated here and now by NumPy and Python.

A program is a list of steps, plain data that prints: ``Program.graph()`` writes it as a dask graph of every flavour dask
knows, ``Program.values()`` computes it directly. A longer program from the same seed starts with the shorter one, so
hypothesis shrinks a failure by its size alone.

Beside it: what the tests ask of graphs. `evaluate` runs one task by task, `same` compares bit for bit, `outline` says what
a graph does apart from the names in it, `snapshot` what it is, so that a change to it can be seen.
"""

from __future__ import annotations

import functools
import operator
import random
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dask._task_spec import Dict, Set, Tuple  # private, but graphs hold them
from dask.task_spec import Alias, DataNode, GraphNode, List, Task, TaskRef
from hypothesis import strategies as st

import graphopt as go
from graphopt.functions import token
from graphopt.pipeline import PASSES
from graphopt.program import Program as Steps
from graphopt.region import Region

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
            self.rng.choice((*blocks, self.alias, self.odd))()

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


# -- dask arrays -------------------------------------------------------------------------------------------------------


@dataclass
class Arrays:
    """dask arrays and, in step with them, the NumPy arrays they stand for."""

    lazy: list[Any] = field(default_factory=list)
    eager: list[np.ndarray[Any, Any]] = field(default_factory=list)

    def add(self, lazy: Any, eager: Any) -> None:
        self.lazy.append(lazy)
        self.eager.append(np.asarray(eager))


def wobble(block: Any, by: float = 1.0) -> Any:
    """A user's function for ``map_blocks``."""
    return np.sin(block) * by


def arrays(seed: int, size: int) -> Arrays:
    """Write a program on two-dimensional dask arrays; every operation is continuous, so rounding stays rounding."""
    import dask.array as da

    rng = random.Random(seed)
    out = Arrays()
    rows, cols = rng.randint(4, 12), rng.randint(1, 4)

    def leaf() -> None:
        shape, chunks = (rows, cols), (rng.choice((2, 3, rows)), rng.choice((1, cols)))
        kind = rng.randrange(4)
        if kind == 0:
            x = da.random.default_rng(rng.getrandbits(16)).random(shape, chunks=chunks)
            out.add(x, x.compute(scheduler="sync", optimize_graph=False))
        elif kind == 1:
            x = np.random.default_rng(rng.getrandbits(16)).normal(size=shape)
            out.add(da.from_array(x, chunks=chunks), x)
        elif kind == 2:
            x = np.arange(rows * cols, dtype="f4").reshape(shape)
            out.add(da.from_array(x, chunks=chunks) / 7, x / 7)
        else:
            out.add(da.ones(shape, chunks=chunks), np.ones(shape))

    def pick() -> int:
        return rng.randrange(max(0, len(out.lazy) - 6), len(out.lazy))

    def alike(i: int) -> int:
        same_shape = [j for j, x in enumerate(out.eager) if x.shape == out.eager[i].shape]
        return rng.choice(same_shape)

    def step() -> None:
        i = pick()
        x, a = out.lazy[i], out.eager[i]
        j = alike(i)
        y, b = out.lazy[j], out.eager[j]
        kind = rng.randrange(13)
        if kind == 0:
            leaf()
        elif kind == 1:
            f = rng.choice((np.sin, np.tanh, np.negative, np.arctan, np.abs))
            out.add(f(x), f(a))
        elif kind == 2:
            f = rng.choice((operator.add, operator.sub, np.maximum, np.hypot))
            out.add(f(x, y), f(a, b))
        elif kind == 3:
            out.add(0.5 * x - 1, 0.5 * a - 1)
        elif kind == 4:
            axis, keep = rng.choice((0, 1, None)), True
            f = rng.choice(("sum", "mean", "max"))
            out.add(getattr(x, f)(axis=axis, keepdims=keep), getattr(a, f)(axis=axis, keepdims=keep))
        elif kind == 5:
            cut = slice(rng.randint(0, 1), None, rng.choice((1, 2)))
            if len(a[cut]):
                out.add(x[cut], a[cut])
        elif kind == 6:
            out.add(x.T, a.T)
        elif kind == 7:
            out.add((x @ y.T) / a.shape[1], (a @ b.T) / a.shape[1])
        elif kind == 8:
            out.add(da.concatenate([x, y], axis=0), np.concatenate([a, b], axis=0))
        elif kind == 9:
            out.add(x.rechunk((max(1, a.shape[0] // 2), a.shape[1])), a)
        elif kind == 10:
            out.add(x.map_blocks(wobble, by=2.0, dtype="f8"), wobble(a, by=2.0))
        elif kind == 11:
            out.add(da.where(x > y, x, y), np.where(a > b, a, b))
        else:
            out.add(x - x.mean(axis=0), a - a.mean(axis=0))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", da.PerformanceWarning)
        leaf()
        while len(out.lazy) < size:
            step()
    return out


# -- asking things of graphs -------------------------------------------------------------------------------------------


def evaluate(graph: Mapping[Any, Any], keys: Any, held: Mapping[Any, Any] | None = None) -> dict[Any, Any]:
    """Run a normalised graph task by task, regions too; ``held`` are the results that a cluster would hold."""
    from graphopt.graph import toposort

    values = dict(held or {})
    with np.errstate(all="ignore"):
        for key in toposort(graph):
            node = graph[key]
            if isinstance(node, TaskRef):
                assert node.key in values, f"nobody holds {node.key!r}"
                values[key] = values[node.key]
            else:
                missing = node.dependencies - values.keys()
                assert not missing, f"{key!r} reads {missing}, which are not there"
                values[key] = node({dep: values[dep] for dep in node.dependencies})
    return {key: values[key] for key in keys}


def same(a: Any, b: Any) -> bool:
    """Say whether two values are the same bit for bit: types, dtypes, shapes and bytes."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ma.MaskedArray):
        return same(a.data, b.data) and same(np.ma.getmaskarray(a), np.ma.getmaskarray(b))
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.dtype.kind == "O":
            return all(same(x, y) for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
        return _bits(a) == _bits(b)
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and _bits(np.asarray(a)) == _bits(np.asarray(b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if hasattr(a, "toarray"):  # scipy.sparse
        return a.format == b.format and same(a.toarray(), b.toarray())
    return bool(a == b)


def _bits(a: np.ndarray[Any, Any]) -> bytes:
    if a.dtype.kind in "fc" and a.dtype.itemsize in (16, 32):  # extended precision is padded with garbage
        return _bits(a.real.copy()) + _bits(a.imag.copy()) if a.dtype.kind == "c" else _long_double_bits(a)
    return a.tobytes()


def _long_double_bits(a: np.ndarray[Any, Any]) -> bytes:
    if a.dtype != np.longdouble:
        return a.tobytes()
    raw = np.frombuffer(a.tobytes(), dtype="u1").reshape(-1, a.dtype.itemsize)
    return raw[:, :10].tobytes()


def differences(found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> list[str]:
    """List the keys whose values are not the same, for an assertion to show."""
    return [
        f"{key!r}: {found.get(key)!r} instead of {value!r}"
        for key, value in expected.items()
        if key not in found or not same(found[key], value)
    ]


def snapshot(graph: Mapping[Any, Any]) -> Any:
    """Write down what a graph is, node by node, to notice any change: which objects, in which places, with what in them."""

    def look(item: Any) -> Any:
        if isinstance(item, Region):
            return (id(item), item.key, look(item.members), item.outputs, item.dependencies)
        if isinstance(item, DataNode):
            return (id(item), item.key, look(item.value))
        if isinstance(item, Alias):
            return (id(item), item.key, item.target)
        if isinstance(item, Task):
            return (id(item), item.key, id(item.func), look(item.args), look(item.kwargs), item.dependencies)
        if isinstance(item, TaskRef):
            return (id(item), item.key)
        if isinstance(item, np.ndarray):
            return (id(item), item.dtype, item.shape, item.strides, item.tobytes())
        if isinstance(item, (list, tuple, set)):
            return (id(item), type(item), *map(look, item))
        if isinstance(item, dict):
            return (id(item), *((look(k), look(v)) for k, v in item.items()))
        return (id(item), repr(item)) if isinstance(item, (str, bytes, int, float)) else id(item)

    return [(key, look(node)) for key, node in graph.items()]


def outline(graph: Mapping[Any, Any], name: Callable[[Any], Any] = lambda key: key) -> dict[Any, Any]:
    """Say what a graph does, with its keys renamed: two graphs with equal outlines are the same up to renaming.

    Functions and literals are compared as graphopt compares them. What is compared by identity must be alive for as
    long as the outline is used.
    """

    def rename(key: Any) -> Any:
        if isinstance(key, tuple) and len(key) == 2 and key[0] == "graphopt-region":
            return (key[0], name(key[1]))
        return name(key)

    def function(func: Any) -> Any:
        return ("program", func.signature) if isinstance(func, Steps) else token(func)

    def look(node: Any) -> Any:
        if isinstance(node, Region):
            members = tuple((rename(member.key), look(member)) for member in node.members)
            return ("region", rename(node.key), members, tuple(map(rename, node.outputs)))
        if isinstance(node, (TaskRef, Alias)):
            return ("ref", rename(node.target if isinstance(node, Alias) else node.key))
        if isinstance(node, DataNode):
            return ("data", token(node.value))
        if isinstance(node, Task):
            kwargs = tuple((what, look(value)) for what, value in node.kwargs.items() if what != "constructor")
            return (type(node).__name__, function(node.func), tuple(map(look, node.args)), kwargs)
        assert not isinstance(node, GraphNode), node
        return token(node)

    return {rename(key): look(node) for key, node in graph.items()}


def members(node: Any) -> list[Any]:
    """List the original tasks in a region, however deep."""
    if not isinstance(node, Region):
        return [node.key]
    return [key for member in node.members for key in members(member)]


def reach(graph: Mapping[Any, Any]) -> dict[Any, set[Any]]:
    """Map each key to all that it reads, directly or not."""
    from graphopt.graph import dependencies, toposort

    out: dict[Any, set[Any]] = {}
    for key in toposort(graph):
        out[key] = set().union(*({dep, *out[dep]} for dep in dependencies(graph[key]) if dep in out))
    return out


def widest(keys: Any, reached: Mapping[Any, set[Any]]) -> int:
    """Return how many of the keys could all run at once: the largest set of which none reads another.

    By Dilworth's theorem that is their number less the largest matching of keys with keys they reach.
    """
    keys = list(dict.fromkeys(keys))
    below = {key: [other for other in keys if other in reached[key]] for key in keys}
    match: dict[Any, Any] = {}

    def augment(key: Any, seen: set[Any]) -> bool:
        for other in below[key]:
            if other not in seen:
                seen.add(other)
                if other not in match or augment(match[other], seen):
                    match[other] = key
                    return True
        return False

    return len(keys) - sum(augment(key, set()) for key in keys)


def close(found: Any, expected: Any) -> bool:
    """Say whether two arrays agree to rounding, single precision's where there was some on the way."""
    return np.shape(found) == np.shape(expected) and bool(np.allclose(found, expected, rtol=1e-4, atol=1e-4))
