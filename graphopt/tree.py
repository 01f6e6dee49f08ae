"""Trees: nested tuples, lists, dicts and dataclasses, taken apart into leaves and put together again.

What a compiled function takes and returns has a structure that stays the same from call to call, and leaves that do not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["Structure", "flatten", "unflatten"]

#: How a tree was put together; hashable, and equal for trees that differ in their leaves only.
Structure = Any

_LEAF = "leaf"


def flatten(tree: Any) -> tuple[list[tuple[str, Any]], Structure]:
    """Take a tree apart into its leaves, each with its path, and its structure.

    Named tuples and dataclasses are containers; so are dicts, in their own order. Anything else is a leaf.

    >>> flatten({"a": 1, "b": (2, [3])})[0]
    [("['a']", 1), ("['b'][0]", 2), ("['b'][1][0]", 3)]
    """
    leaves: list[tuple[str, Any]] = []

    def walk(item: Any, path: str) -> Structure:
        kind = type(item)
        if kind in (tuple, list):
            return (kind, *[walk(value, f"{path}[{i}]") for i, value in enumerate(item)])
        if kind is dict:
            return (dict, tuple(item), *[walk(value, f"{path}[{key!r}]") for key, value in item.items()])
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            return (kind, *[walk(getattr(item, name), f"{path}.{name}") for name in item._fields])
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            names = tuple(f.name for f in dataclasses.fields(item) if f.init)
            return (kind, names, *[walk(getattr(item, name), f"{path}.{name}") for name in names])
        leaves.append((path, item))
        return _LEAF

    return leaves, walk(tree, "")


def unflatten(structure: Structure, leaves: Iterable[Any]) -> Any:
    """Put leaves together again.

    >>> leaves, structure = flatten({"a": 1, "b": (2, [3])})
    >>> unflatten(structure, "xyz")
    {'a': 'x', 'b': ('y', ['z'])}
    """
    rest = iter(leaves)

    def build(part: Any) -> Any:
        if part == _LEAF:
            return next(rest)
        kind, *items = part
        if kind in (tuple, list):
            return kind(map(build, items))
        if kind is dict or dataclasses.is_dataclass(kind):
            names, *values = items
            built = dict(_pairs(names, map(build, values)))
            return built if kind is dict else kind(**built)  # type: ignore[operator]
        return kind(*map(build, items))

    return build(structure)


def _pairs(names: Iterable[Any], values: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    for name in names:
        yield name, next(values)
