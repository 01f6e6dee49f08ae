"""What the tests ask of graphs and of values.

`evaluate` runs a graph task by task and `same` compares values bit for bit; `outline` says what a graph does apart from the
names in it, `snapshot` what it is, so that any change to it shows; `reach` and `widest` say what could run at once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from graphopt.functions import token
from graphopt.graph import dependencies, toposort
from graphopt.program import Program as Steps
from graphopt.region import Region
from graphopt.spec import Alias, DataNode, GraphNode, Task, TaskRef


def evaluate(graph: Mapping[Any, Any], keys: Any, held: Mapping[Any, Any] | None = None) -> dict[Any, Any]:
    """Run a normalised graph task by task, regions too; ``held`` are the results that a cluster would hold."""
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
        return same(a.view(np.ndarray), b.view(np.ndarray)) and same(np.ma.getmaskarray(a), np.ma.getmaskarray(b))
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.dtype.names:
            return all(same(np.asarray(a)[name], np.asarray(b)[name]) for name in a.dtype.names)
        if a.dtype.kind == "O":
            return all(same(x, y) for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
        return _bits(np.asarray(a)) == _bits(np.asarray(b))  # a matrix of three axes, which exists, can hardly be touched
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and _bits(np.asarray(a)) == _bits(np.asarray(b))
    if isinstance(a, (float, complex)):
        return struct.pack("dd", a.real, a.imag) == struct.pack("dd", b.real, b.imag)
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


def regions(graph: Mapping[Any, Any]) -> dict[Any, list[Any]]:
    """Map the key of each region to the keys of its members; a region within it is a list of its own."""

    def look(region: Region) -> list[Any]:
        return [look(member) if isinstance(member, Region) else member.key for member in region.members]

    return {key: look(node) for key, node in graph.items() if isinstance(node, Region)}


def members(node: Any) -> list[Any]:
    """List the original tasks in a region, however deep."""
    if not isinstance(node, Region):
        return [node.key]
    return [key for member in node.members for key in members(member)]


def reach(graph: Mapping[Any, Any]) -> dict[Any, set[Any]]:
    """Map each key to all that it reads, directly or not."""
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
