"""Trace: run a function once on stand-ins, and write down what it would compute.

Chunked arrays whose blocks are in memory are stood in for as well, block by block, so that a plan can be bound to others of
the same structure. Arrays that are still to be computed (from a file, from Delayed) stay what they are: their tasks are part
of the plan.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.base import is_dask_collection
from dask.core import flatten as flatten_keys
from dask.highlevelgraph import HighLevelGraph

from graphopt.fingerprint import fingerprint
from graphopt.spec import Alias, DataNode, GraphNode, TaskRef
from graphopt.standins import Scalar, example_of, is_number, stand_in_array, tracing
from graphopt.tree import Structure, count, flatten, unflatten
from graphopt.types import Key, TraceError, add_note

__all__ = [
    "Argument",
    "Futures",
    "Result",
    "Trace",
    "arguments_of",
    "is_future",
    "rebound",
    "resident_blocks",
    "result_of",
    "same_names",
    "trace",
]

#: What stands in a graph in place of a block that is still to be computed, or is no array.
_NO_BLOCKS = (GraphNode, TaskRef, Alias, tuple, str, list, dict)

#: Dask arrays with this many bytes at most, in one block, come back as NumPy arrays.
_SMALL = 2**20


class Futures(Sequence[Any]):
    """The futures in a graph, in order: looked up only when somebody asks, for that may make them."""

    def __init__(self, graph: Any) -> None:
        self.graph, self.keys = graph, tuple(graph)

    def __getitem__(self, index: Any) -> Any:
        return [self.graph[key] for key in self.keys[index]] if isinstance(index, slice) else self.graph[self.keys[index]]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class Argument:
    """One leaf of a call: what it is called, what it is, and what must be equal for a plan to be used again.

    ``kind`` is ``chunked`` (blocks in memory, here or on a cluster), ``lazy`` (a dask collection to be computed), ``array``
    (small), ``number`` or ``static``.
    """

    name: str
    kind: str
    value: Any
    signature: Hashable
    blocks: Sequence[Any] = ()

    @property
    def remote(self) -> bool:
        """Whether its blocks are on a cluster."""
        return isinstance(self.blocks, Futures) or (bool(self.blocks) and is_future(self.blocks[0]))


@dataclass(frozen=True, slots=True)
class Result:
    """One leaf of what a function returns.

    ``kind`` is ``array`` (a dask array), ``delayed`` (any other collection), ``number`` (computed from numbers alone) or
    ``constant``.
    """

    kind: str
    value: Any
    keys: tuple[Key, ...] = ()
    small: bool = False

    @property
    def stays(self) -> bool:
        """Whether it is a chunked array, and stays where its blocks are made."""
        return self.kind == "array" and not self.small


@dataclass(frozen=True, slots=True)
class Trace:
    """What tracing found: the graph, which of its keys are to be given, and how results are made of the others."""

    graph: HighLevelGraph
    slots: Mapping[Key, tuple[int, int]]  # key of a block -> place of the argument, place of the block in it
    numbers: Mapping[str, int]  # token of a Scalar -> place of the argument
    kinds: tuple[str, ...]  # of the arguments
    results: tuple[Result, ...]
    structure: Structure

    def given(self, arguments: Sequence[Argument]) -> dict[str, Any]:
        """Return the numbers among the arguments of a call, by token."""
        return {token: arguments[place].value for token, place in self.numbers.items()}


def arguments_of(
    parameters: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    static: frozenset[str] = frozenset(),
    known: Callable[[str, da.Array], Argument | None] = lambda name, array: None,
) -> tuple[list[Argument], Structure]:
    """Take the arguments of a call apart. ``known`` may answer for arrays that were looked at before.

    Raises
    ------
    TypeError
        If the function does not take these arguments.
    """
    bound = parameters.bind(*args, **kwargs)
    bound.apply_defaults()
    out: list[Argument] = []
    parts: list[Structure] = []
    for name, given in bound.arguments.items():
        if name in static:
            out.append(Argument(name, "static", given, _static(given)))
            parts.append(name)
            continue
        leaves, structure = flatten(given)
        parts.append((name, structure))
        out += [_argument(f"{name}{path}", leaf, known) for path, leaf in leaves]
    return out, tuple(parts)


def _argument(name: str, value: Any, known: Callable[[str, da.Array], Argument | None]) -> Argument:
    if isinstance(value, da.Array):
        if (found := known(name, value)) is not None:
            return found
        blocks = resident_blocks(value)
        if blocks is None:
            return Argument(name, "lazy", value, _lazy(value, (value.name, _comparable(value.chunks))))
        what = ("chunked", type(value._meta), value.dtype, _comparable(value.chunks))
        return Argument(name, "chunked", value, what, blocks)
    if is_dask_collection(value):
        return Argument(name, "lazy", value, _lazy(value, tuple(flatten_keys(value.__dask_keys__()))))
    if is_number(value):
        dtype = value.dtype if isinstance(value, (np.generic, np.ndarray)) else None
        return Argument(name, "number", value, ("number", type(value), dtype))
    if isinstance(value, np.ndarray):
        return Argument(name, "array", value, ("array", type(value), value.dtype, value.shape))
    return Argument(name, "static", value, _static(value))


def rebound(arguments: Sequence[Argument], small: Sequence[Any], named: Mapping[str, Any]) -> list[Argument]:
    """Return arguments with other values: for the small ones in order, for any by name.

    Raises
    ------
    TypeError
        If there is no such argument, or a value is not like the one that was there.
    """
    places = [place for place, argument in enumerate(arguments) if argument.kind in ("array", "number")]
    names = {argument.name: place for place, argument in enumerate(arguments)}
    if len(small) > len(places):
        raise TypeError(f"{len(small)} small arguments are given; there are {[arguments[place].name for place in places]}.")
    if unknown := named.keys() - names.keys():
        raise TypeError(f"There is no argument {', '.join(sorted(map(repr, unknown)))}, only {list(names)}.")
    out = list(arguments)
    given = {**dict(zip(places, small, strict=False)), **{names[name]: value for name, value in named.items()}}
    for place, value in given.items():
        old, new = out[place], _argument(out[place].name, value, lambda name, array: None)
        if new.kind != old.kind or new.signature != old.signature:
            raise TypeError(
                f"{old.name!r} is {_said(new)}, and the plan is made for {_said(old)}: ask the compiled function for "
                "another plan."
            )
        out[place] = new
    return out


def _said(argument: Argument) -> str:
    parts: Any = argument.signature
    return " ".join([part.__name__ if isinstance(part, type) else str(part) for part in parts])


def _comparable(chunks: Any) -> Hashable:
    """Return chunks so that unknown sizes equal each other."""
    return tuple([tuple(["?" if size != size else size for size in axis]) for axis in chunks])


def _static(value: Any) -> Hashable:
    return ("static", fingerprint(value, whole=True))


def _lazy(value: Any, keys: Hashable) -> Hashable:
    """Return what lazy arguments must have in common: their tasks are part of the plan.

    Names that dask makes say what the tasks are. Names that a user chose do not: those layers must be the same objects, and
    are, for as long as a plan has them.
    """
    graph = value.__dask_graph__()
    layers = graph.layers if isinstance(graph, HighLevelGraph) else {"": graph}
    return ("lazy", type(value), keys, tuple([id(layer) for name, layer in layers.items() if not _DIGEST.search(str(name))]))


#: How names end that dask makes: a digest of what is computed, or a number that nobody else has.
_DIGEST = re.compile("[0-9a-f]{32}$|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


def is_future(value: Any) -> bool:
    """Say whether what stands in a graph is the result of a cluster; other schedulers than dask's have futures of their own."""
    return isinstance(value, TaskRef) or bool(getattr(value, "__dask_future__", False))


def resident_blocks(array: da.Array) -> Sequence[Any] | None:
    """Return the blocks of an array if all are data in its graph, or all futures, in order; None if any is to be computed."""
    graph = array.dask
    layer: Any = graph.layers.get(array.name, graph) if isinstance(graph, HighLevelGraph) else graph
    if isinstance(layer, HighLevelGraph) or not getattr(layer, "is_materialized", lambda: True)():
        return None
    if isinstance(known := getattr(getattr(layer, "mapping", None), "blocks", None), Futures):
        return known
    out = []
    for key in flatten_keys(array.__dask_keys__()):
        value = layer.get(key)
        if isinstance(value, DataNode):
            value = value.value
        elif type(value) is np.ndarray or (is_future(value) and hasattr(value, "status")):  # not only the key of one
            pass
        elif value is None or isinstance(value, _NO_BLOCKS):
            return None
        if type(value) is not np.ndarray and is_dask_collection(value):
            return None
        out.append(value)
    one_of_each = {type(value): value for value in out}.values()
    return tuple(out) if len(set(map(is_future, one_of_each))) == 1 else None


def trace(
    fn: Callable[..., Any], arguments: list[Argument], structure: Structure, parameters: inspect.Signature, token: str
) -> Trace:
    """Run a function on stand-ins for its arguments, whose names end in the token.

    Raises
    ------
    TraceError
        If the function asks for values while it is traced, or returns what cannot be computed.
    """
    slots: dict[Key, tuple[int, int]] = {}
    numbers: dict[str, int] = {}
    leaves: list[Any] = []
    for place, argument in enumerate(arguments):
        if argument.kind == "chunked":
            made, keys = stand_in_array(argument.name, argument.value, argument.value.chunks, argument.value._meta, token)
        elif argument.kind == "array":
            chunks = tuple([(size,) for size in argument.value.shape])
            made, keys = stand_in_array(
                argument.name, argument.value, chunks, argument.value[(slice(0, 0),) * argument.value.ndim], token
            )
        elif argument.kind == "number":
            number = Scalar(f"the argument {argument.name!r}", example_of(argument.value), token=f"{argument.name}-{token}")
            numbers[number.token] = place
            leaves.append(number)
            continue
        else:
            leaves.append(argument.value)
            continue
        leaves.append(made)
        slots.update((key, (place, block)) for block, key in enumerate(keys))
    with tracing():
        returned = _call(fn, leaves, structure, parameters)
    found, shape = flatten(returned)
    results = tuple([result_of(path, value) for path, value in found])
    collections = [result.value for result in results if result.keys]
    graphs = [c.__dask_graph__() for c in collections]
    layered = [g if isinstance(g, HighLevelGraph) else HighLevelGraph.from_collections(str(id(g)), g) for g in graphs]
    return Trace(
        HighLevelGraph.merge(*layered), slots, numbers, tuple([argument.kind for argument in arguments]), results, shape
    )


def same_names(some: Trace, others: Trace) -> bool:
    """Say whether two traces with one token are the same by the names of their layers alone.

    dask names a layer by a digest of all that it does. A name that somebody chose says nothing, unless the layer is the same
    object.
    """
    mine, theirs = some.graph.layers, others.graph.layers
    if mine.keys() != theirs.keys() or [result.keys for result in some.results] != [result.keys for result in others.results]:
        return False
    return all(layer is theirs[name] or _DIGEST.search(str(name)) for name, layer in mine.items())


def _call(fn: Callable[..., Any], leaves: list[Any], structure: Any, parameters: inspect.Signature) -> Any:
    """Call a function with leaves in the places of its arguments."""
    rest = iter(leaves)
    given: dict[str, Any] = {}
    for part in structure:
        if isinstance(part, str):  # static
            given[part] = next(rest)
        else:
            name, tree = part
            given[name] = unflatten(tree, [next(rest) for _ in range(count(tree))])
    bound = inspect.BoundArguments(parameters, given)
    try:
        return fn(*bound.args, **bound.kwargs)
    except TraceError:
        raise
    except Exception as error:
        add_note(
            error,
            "graphopt: raised while compile traced the function, with stand-ins in the places of arrays and numbers. Where the "
            "value of one is needed to go on (a shape, an index, a branch, a count), name the argument in static=(...).",
        )
        raise


def result_of(path: str, value: Any) -> Result:
    """Say what a leaf is that a function returns, at this path."""
    where = f"what it returns{' at ' + path if path else ''}"
    if isinstance(value, da.Array):
        keys = tuple(flatten_keys(value.__dask_keys__()))
        nbytes = value.nbytes
        small = len(keys) == 1 and (nbytes != nbytes or nbytes <= _SMALL)
        return Result("array", value, keys, small)
    if isinstance(value, Scalar):
        return Result("number", value)
    if is_dask_collection(value):
        if type(value).__module__.partition(".")[0] not in ("dask", "graphopt"):
            raise TraceError(f"compile cannot return a {type(value).__name__} ({where}): return arrays or Delayed.")
        return Result("delayed", value, tuple(flatten_keys(value.__dask_keys__())))
    if isinstance(value, np.ndarray) and value.dtype.kind == "O" and any(map(is_dask_collection, value.flat)):
        raise TraceError(f"compile cannot return an array of dask collections ({where}): return a list of them.")
    return Result("constant", value)
