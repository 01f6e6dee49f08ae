"""Kernel: a fused region becomes one straight-line Python function, shared by all regions of the same shape.

Regions are traced into programs; equal programs are one shape. Literals that never differ within a shape are written into
the text, the others are arguments, so 500 chunks share one code object and one pickle. A `Fused` task calls the kernel
with its own inputs and literals; when the kernel fails, the task adds to the error which of the user's keys it was.

The file is a little long: what writes kernels for tasks and for replays is one generator, and knows the kernels inside out.
"""

from __future__ import annotations

import contextlib
import hashlib
import linecache
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any, cast

import numpy as np

from graphopt import lean
from graphopt.functions import bindable, is_simple, token
from graphopt.graph import dependencies, key_name, toposort
from graphopt.notes import explain_error
from graphopt.program import ITEM, Program, Tracer, is_subgraph
from graphopt.region import Region, barrier, first_output, is_pick
from graphopt.source import write
from graphopt.spec import Alias, DataNode, GraphNode, Task, TaskRef
from graphopt.types import Graph, Key, Node, Substitutions

__all__ = ["Fused", "Kernel", "Traced", "generate", "trace_regions"]

_SMALL = 16_384  # bytes of an array that is cheaper to pass along with each task than to keep under a key of its own


@lru_cache(maxsize=512)
def _compile(name: str, text: str) -> CodeType:
    """Compile a kernel's text once in a process, and let tracebacks show its lines."""
    filename = f"<graphopt {name} {hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    return compile(text, filename, "exec")


class Kernel:
    """A straight-line Python function with the functions it calls.

    It pickles as text and references, and is compiled where it first runs.

    Attributes
    ----------
    name : str
    source : str
        The Python that runs.
    constants : dict
        What the names in it stand for, apart from ``np``.
    lines : dict
        For each line the steps it runs, in order, each with its name inside a task that dask had fused.
    tasks : int
        For how many of the original tasks one call stands.
    """

    __slots__ = ("__weakref__", "constants", "fn", "lines", "name", "source", "tasks")

    fn: Any

    def __init__(
        self, name: str, source: str, constants: dict[str, Any], lines: dict[int, tuple[tuple[int, Any], ...]], tasks: int = 1
    ) -> None:
        self.name, self.source, self.constants, self.lines, self.tasks = name, source, constants, lines, tasks

    @property
    def __name__(self) -> str:
        return self.name

    def __getattr__(self, name: str) -> Any:
        if name != "fn":
            raise AttributeError(name)
        scope = {"np": np, "lean": lean, **self.constants}
        exec(_compile(self.name, self.source), scope)  # the text is ours; see source.py
        self.fn = scope[self.name]
        return self.fn

    def __call__(self, *args: Any) -> Any:
        """Run the kernel on inputs and literals."""
        return self.fn(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return Kernel, (self.name, self.source, self.constants, self.lines, self.tasks)

    def __repr__(self) -> str:
        return f"<Kernel {self.name}>"

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        from dask.tokenize import normalize_token

        return ("Kernel", self.source, normalize_token(self.constants))


class Fused(Task):
    """A task that calls a kernel. Its arguments are references and literals, never nested, so calling it costs little.

    ``labels`` holds the user's key of each step of the kernel; for a step that is a lane of a batch, the list of its keys.
    """

    __slots__ = ("labels",)

    func: Kernel
    labels: tuple[Any, ...]

    def __init__(
        self, key: Key, func: Kernel, /, *args: Any, _data_producer: bool = False, labels: tuple[Any, ...] = (), **kwargs: Any
    ) -> None:
        super().__init__(key, func, *args, _data_producer=_data_producer, **kwargs)
        self.labels = labels

    def __call__(self, values: Any = ()) -> Any:
        """Run the kernel on the values of the keys it reads."""
        try:
            return self.func.fn(
                *[
                    values[a.key] if isinstance(a, TaskRef) else a if not isinstance(a, GraphNode) else a(values)
                    for a in self.args
                ]
            )
        except Exception as error:
            with contextlib.suppress(Exception):  # a note is not worth another error; some refuse to be changed
                explain_error(error, self.func, self.labels, self.key)
            raise

    def copy(self) -> Fused:
        """Return an equal task; unlike dask's own copy it keeps ``_data_producer``."""
        return Fused(self.key, self.func, *self.args, _data_producer=self._data_producer, labels=self.labels)


# -- from regions to fused tasks ---------------------------------------------------------------------------------------


class _Shape:
    """All the places where one program is used: its literals there, and in the end its kernel."""

    __slots__ = ("hints", "kernel", "known", "literals", "program", "slot_hints", "slots")

    def __init__(self, program: Program, tracer: Tracer) -> None:
        self.program = program
        self.hints = [_hint(key) for key in tracer.inputs]
        self.slot_hints = tracer.hints
        self.literals: list[list[Any]] = []
        self.kernel: Kernel | None = None
        self.known: dict[int, Any] = {}  # the literals in its text, once it is written
        self.slots: tuple[int, ...] = ()

    def fixed(self) -> dict[int, Any]:
        """Return the literals that are the same everywhere and may be written into the text."""
        first, *others = self.literals
        out = {slot: value for slot, value in enumerate(first) if is_simple(value) or bindable(value)}
        tokens = {slot: token(value) for slot, value in out.items()}
        for other in others:
            differ = [slot for slot, value in out.items() if other[slot] is not value and token(other[slot]) != tokens[slot]]
            for slot in differ:
                del out[slot]
        return out


def generate(
    graph: Graph, keys: Collection[Key], *, before: Graph | None = None, origins: dict[Key, Key] | None = None
) -> Graph:
    """Turn the regions of a graph into fused tasks; the same object if there is nothing to turn.

    Small data that is in the graph becomes an argument of the tasks that read it. (Under a key of its own it would make
    them "rootish" for the distributed scheduler, which then ignores where their other inputs are.)

    The result of a fused task that was not asked for gets a new key: a key must never change its task. So does every
    other task that now reads other keys, because a cluster may know the task as it was.

    Parameters
    ----------
    graph, keys
        The graph and what is asked for.
    before
        The graph before the passes: what each task read there.
    origins
        Where given, filled with the keys that plain tasks had, by the new keys they got.
    """
    return _Generator(graph, keys, before or {}, {} if origins is None else origins).run()


@dataclass(frozen=True, slots=True)
class Traced:
    """A region as a call of a kernel: what is passed, in order, and what comes out.

    ``program`` is the region before it was written; ``slots`` are the places in it of the literals that are passed, ``fixed``
    those that are in the text; ``labels`` are the user's keys by step.
    """

    kernel: Kernel
    inputs: tuple[Key, ...]
    literals: tuple[Any, ...]
    outputs: tuple[Key, ...]
    labels: tuple[Any, ...]
    program: Program
    slots: tuple[int, ...]
    fixed: Mapping[int, Any]


def trace_regions(regions: Iterable[Region]) -> list[Traced]:
    """Write kernels for regions, and say what each region passes to its own. Nothing is taken for small or for a pick."""
    generator = _Generator({}, (), {}, {})
    found = []
    for region in regions:
        tracer = generator._trace(region)
        found.append((generator._shape(tracer, region), tracer, region))
    for shape in list(generator.shapes.values()):
        generator._write(shape)
    out = []
    for shape, tracer, region in found:
        assert shape.kernel is not None
        literals = tuple([tracer.literals[slot] for slot in shape.slots])
        labels = tuple(tracer.labels)
        inputs, program = tuple(tracer.inputs), shape.program
        out.append(Traced(shape.kernel, inputs, literals, region.outputs, labels, program, shape.slots, shape.known))
    return out


class _Generator:
    def __init__(self, graph: Graph, keys: Collection[Key], before: Graph, origins: dict[Key, Key]) -> None:
        self.graph, self.keys, self.before, self.origins = graph, set(keys), before, origins
        self.shapes: dict[Hashable, _Shape] = {}
        self.by_program: dict[int, _Shape] = {}  # the same by id of the program, which costs less than its signature
        self.patterns: dict[tuple[int, ...], Program] = {}  # the last program of regions that look alike from afar
        self.constants = _arguments(graph, self.keys)
        self.picks = {key: (node.args[0].key, node.args[1]) for key, node in graph.items() if is_pick(node, graph)}
        self.digests: dict[Hashable, str] = {}
        self.tokens: dict[int, Hashable] = {}  # of functions, by id; the graph holds the functions
        self.kernels: dict[int, tuple[Kernel, tuple[int, ...]]] = {}  # by id of the program, for those who call it

    def run(self) -> Graph:
        traced: dict[Key, tuple[_Shape, Tracer, Region]] = {}
        for key, node in self.graph.items():
            region = self._region(key, node)
            if region is not None:
                tracer = self._trace(region)
                traced[key] = (self._shape(tracer, region), tracer, region)
        for shape in list(self.shapes.values()):
            self._write(shape)
        renamed = self._new_keys(traced)
        if not traced and not renamed:
            return self.graph
        out: dict[Key, Node] = {}
        for key, node in self.graph.items():
            if key in traced:
                fused = self._fuse(cast("Key", renamed.get(key, key)), *traced[key], renamed)
                out[fused.key] = fused
                continue
            if isinstance(node, Region):  # of one plain task, which runs as well without a kernel
                node = node.members[0]
            if key in renamed:
                new = cast("Key", renamed[key])
                out[new] = node.substitute(renamed, key=new)  # futures keep their keys
                self.origins[new] = key
            elif isinstance(node, GraphNode) and not dependencies(node).isdisjoint(renamed):
                out[key] = node.substitute(renamed)
            else:
                out[key] = node
        return self._drop_unread(out, renamed)

    def _region(self, key: Key, node: Node) -> Region | None:
        """Return the region to turn into a kernel, if this node is one, or is a task that gains from becoming one."""
        if isinstance(node, Region):
            only = node.members[0]
            plain = len(node.members) == 1 and type(only) is Task and not isinstance(only.func, Program)
            return None if plain and not self._reads_picks(only) else node
        if type(node) is not Task or key in self.picks or barrier(node) is not None:
            return None
        if isinstance(node.func, Program) or self._reads_picks(node):
            return Region(key, [node], [key])
        return None

    def _reads_picks(self, node: GraphNode) -> bool:
        return any(dep in self.picks for dep in node.dependencies)

    def _trace(self, region: Region) -> Tracer:
        """Write a region down, regions within it as calls of their own programs."""
        tracer = Tracer(self.constants, self.picks, pattern=self.patterns.get(_looks(region)))
        places: dict[Key, tuple[Key, int]] = {}
        for member in region.members:
            while isinstance(member, Region) and len(member.members) == 1:  # a task that stayed alone for a while
                member = member.members[0]
            if isinstance(member, Region):
                inner = self._trace(member)
                shape = self._shape(inner, member)
                literals = tuple(tracer.literal_list(inner.literals))
                tracer.hints.update((literals[slot][1], name) for slot, name in inner.hints.items())
                args = (*map(tracer.ref, inner.inputs), *literals)
                spec = tracer.step(shape.program, args, (), list(inner.labels))
                tracer.define(member.key, spec)
                places.update((key, (member.key, i)) for i, key in enumerate(member.outputs) if len(member.outputs) > 1)
            elif places and member.key in places:
                owner, place = places[member.key]
                tracer.define(member.key, (ITEM, tracer.ref(owner), place))
            elif isinstance(member, Task):
                tracer.task(member)
        return tracer

    def _shape(self, tracer: Tracer, region: Region) -> _Shape:
        program = tracer.program(region.outputs, self.tokens)
        shape = self.by_program.get(id(program)) or self.shapes.get(program.signature)
        if shape is None:
            shape = self.shapes[program.signature] = self.by_program[id(program)] = _Shape(program, tracer)
        self.patterns[_looks(region)] = shape.program
        shape.literals.append(tracer.literals)
        return shape

    def _write(self, shape: _Shape) -> None:
        """Write and bind a shape's kernel; shapes it calls come first, because tracing met them first."""
        shape.known = shape.fixed()
        source = write(shape.program, shape.known, hints=shape.hints, slot_hints=shape.slot_hints, kernels=self.kernels)
        shape.kernel = Kernel(source.name, source.text, source.constants, source.lines, source.tasks)
        shape.slots = source.slots
        self.kernels[id(shape.program)] = (shape.kernel, shape.slots)

    def _new_keys(self, traced: Mapping[Key, tuple[_Shape, Tracer, Region]]) -> Substitutions:
        """Name anew the fused tasks, and the plain tasks and aliases that read other keys than they did.

        What was asked for keeps its key. So does a task of any type of its own, which may be known by its key, as the
        barrier of a shuffle is.
        """
        renamed: Substitutions = {}
        for key in toposort(self.graph):  # the new names of the inputs are part of a name
            node = self.graph[key]
            if key in self.keys:
                continue
            if key in traced:
                renamed[key] = self._fused_key(*traced[key], renamed)
            elif type(node) in (Task, Alias, Region):
                reads, old = dependencies(node), self.before.get(key)
                is_fused = isinstance(node, Task) and (isinstance(node.func, Program) or is_subgraph(node))
                if is_fused or not reads.isdisjoint(renamed) or (old is not None and dependencies(old) != reads):
                    names = sorted({repr(_name(renamed.get(dep, dep))) for dep in reads})
                    renamed[key] = self._key(key_name(key), key, tuple(names))
        return renamed

    def _fused_key(self, shape: _Shape, tracer: Tracer, region: Region, renamed: Substitutions) -> Key:
        """Name a fused task by what it does and what it reads, so that equal work has an equal key in every run."""
        assert shape.kernel is not None
        out, *more = region.outputs
        # Which results come along is not settled by the first one's key; those of the same block are told by their names.
        place = out[1:] if isinstance(out, tuple) else None
        others = tuple([key[0] if isinstance(key, tuple) and key[1:] == place else key for key in more])
        names = tuple([_name(renamed.get(key, key)) for key in tracer.inputs])
        return self._key(shape.kernel.name, out, (shape.kernel.source, others, names))

    def _key(self, name: str, key: Key, what: tuple[Any, ...]) -> Key:
        """Make a key of a name and a digest. Blocks keep a common name and their own index: the scheduler groups by it."""
        if not (isinstance(key, tuple) and key and isinstance(key[0], str)):
            return f"{name}-{_digest(repr(key), repr(what))}"
        known = (key[0], what)
        if known not in self.digests:
            self.digests[known] = _digest(repr(known))
        return (f"{name}-{self.digests[known]}", *key[1:])

    def _fuse(self, key: Key, shape: _Shape, tracer: Tracer, region: Region, renamed: Mapping[Key, Any]) -> Fused:
        assert shape.kernel is not None
        refs = [TaskRef(renamed.get(dep, dep)) for dep in tracer.inputs]
        literals = [tracer.literals[slot] for slot in shape.slots]
        producer = not refs and any(getattr(member, "data_producer", False) for member in region.members)
        return Fused(key, shape.kernel, *refs, *literals, _data_producer=producer, labels=tuple(tracer.labels))

    def _drop_unread(self, out: dict[Key, Node], renamed: Substitutions) -> Graph:
        """Drop picks and small data that only fused tasks had read."""
        picks = [cast("Key", renamed.get(key, key)) for key in self.picks]
        maybe = [key for key in (*picks, *self.constants) if key in out and key not in self.keys]
        if maybe:
            read: set[Key] = set()
            for node in out.values():
                read |= dependencies(node)
            for key in maybe:
                if key not in read:
                    del out[key]
        return out


def _looks(region: Region) -> tuple[int, int, int]:
    """Say how many tasks and outputs a region has, and how deep it is."""
    depth, first = 0, region.members[0]
    while isinstance(first, Region):
        depth, first = depth + 1, first.members[0]
    return len(region.members), len(region.outputs), depth


def _name(key: Any) -> Any:
    return key[0] if isinstance(key, tuple) and key else key


def _hint(key: Key) -> str:
    """Name an input by what made it; a region of several outputs by its first."""
    return key_name(first_output(key))


def _arguments(graph: Graph, keys: Collection[Key]) -> dict[Key, Any]:
    """Collect the data in a graph that is best passed along with the tasks that read it: small, or read by one task only."""
    data = {key: node.value for key, node in graph.items() if isinstance(node, DataNode) and key not in keys}
    if not data:
        return data
    readers: Counter[Key] = Counter()
    for node in graph.values():
        readers.update(dependencies(node))
    return {key: value for key, value in data.items() if readers[key] == 1 or _is_small(value)}


def _is_small(value: Any) -> bool:
    if type(value) is np.ndarray:
        return bool(value.nbytes <= _SMALL and value.dtype.kind != "O")
    return isinstance(value, (bool, int, float, complex, np.generic)) or is_simple(value)


def _digest(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()
