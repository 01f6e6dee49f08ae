"""Trees: nested tuples, lists, dicts and dataclasses, taken apart into leaves and put together again.

What a compiled function takes and returns has a structure that stays the same from call to call, and leaves that do not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["Structure", "count", "flatten", "unflatten"]

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
    return leaves, _walk(tree, "", leaves)


def _walk(item: Any, path: str, leaves: list[tuple[str, Any]]) -> Structure:
    kind = type(item)
    if kind in (tuple, list):
        return (kind, *[_walk(value, f"{path}[{i}]", leaves) for i, value in enumerate(item)])
    if kind is dict:
        # Keys that are equal may be of other types, and what a function does may depend on that.
        names = (tuple(item), *map(type, item))
        return (dict, names, *[_walk(value, f"{path}[{key!r}]", leaves) for key, value in item.items()])
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return (kind, *[_walk(getattr(item, name), f"{path}.{name}", leaves) for name in item._fields])
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        names = (tuple(f.name for f in dataclasses.fields(item) if f.init),)
        return (kind, names, *[_walk(getattr(item, name), f"{path}.{name}", leaves) for name in names[0]])
    leaves.append((path, item))
    return _LEAF


def unflatten(structure: Structure, leaves: Iterable[Any]) -> Any:
    """Put leaves together again.

    >>> leaves, structure = flatten({"a": 1, "b": (2, [3])})
    >>> unflatten(structure, "xyz")
    {'a': 'x', 'b': ('y', ['z'])}
    """
    return _build(structure, iter(leaves))


def _build(part: Structure, rest: Iterator[Any]) -> Any:
    if part == _LEAF:
        return next(rest)
    kind, *items = part
    if kind in (tuple, list):
        return kind([_build(item, rest) for item in items])
    if kind is dict or dataclasses.is_dataclass(kind):
        (names, *_), *values = items
        built = {name: _build(value, rest) for name, value in zip(names, values, strict=True)}
        return built if kind is dict else kind(**built)  # type: ignore[operator]
    return kind(*[_build(item, rest) for item in items])


def count(structure: Structure) -> int:
    """Say how many leaves there are.

    >>> count(flatten({"a": 1, "b": (2, [3])})[1])
    3
    """
    if structure == _LEAF:
        return 1
    kind, *items = structure
    named = kind is dict or dataclasses.is_dataclass(kind)
    return sum([count(item) for item in items[named:]])
