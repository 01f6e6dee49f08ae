"""Codes: what a code object looks up by name, and its bytes apart from where it was written.

Both are asked at every pickling of a function that was made anew around the same code object, so both are remembered by code.
Two code objects are equal only if their constants are, types and signs of zero included: Python sees to that.
"""

from __future__ import annotations

import dis
import functools
import struct
from types import CodeType

__all__ = ["Unkeyable", "attributes", "constant", "digestible", "global_names", "inner", "part"]

_REMEMBERED = 2048
_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"})


class Unkeyable(Exception):
    """Why something has no content key; the message is one clause that says so."""


def part(kind: str, content: bytes) -> bytes:
    """Return some bytes with their kind and length before them, so that no two sequences of parts run together the same."""
    return f"{kind}:{len(content)}:".encode() + content


def inner(code: CodeType) -> list[CodeType]:
    """Return the code of the functions that are made by this one."""
    return [value for value in code.co_consts if isinstance(value, CodeType)]


@functools.lru_cache(_REMEMBERED)
def global_names(code: CodeType) -> tuple[str, ...]:
    """Return the names that code, or a function made by it, takes from the globals or from Python."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in _GLOBAL}
    for each in inner(code):
        names.update(global_names(each))
    return tuple(sorted(names))


@functools.lru_cache(_REMEMBERED)
def attributes(code: CodeType) -> tuple[str, ...]:
    """Return all names that may stand after a dot in code or in a function made by it."""
    names = set(code.co_names)
    for each in inner(code):
        names.update(attributes(each))
    return tuple(sorted(names))


@functools.lru_cache(_REMEMBERED)
def digestible(code: CodeType) -> bytes:
    """Return code as bytes: all that it computes, and not the file and the line it was written in."""
    numbers = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, code.co_nlocals)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    found = [part("name", code.co_name.encode()), part("code", code.co_code), part("numbers", repr(numbers).encode())]
    found += [part("names", repr(each).encode()) for each in names]
    found.append(part("exceptions", getattr(code, "co_exceptiontable", b"")))
    found += [constant(value) for value in code.co_consts]
    return part("function", b"".join(found))


def constant(value: object) -> bytes:
    """Return one of Python's own immutable values as bytes.

    Raises
    ------
    Unkeyable
        If the value is none.
    """
    kind = type(value)
    if value is None or value is Ellipsis or kind is bool or kind is int:
        return part(kind.__name__, repr(value).encode())
    if isinstance(value, float) and kind is float:
        return part("float", struct.pack("<d", value))
    if isinstance(value, complex) and kind is complex:
        return part("complex", struct.pack("<dd", value.real, value.imag))
    if isinstance(value, str) and kind is str:
        return part("str", value.encode("utf-8", "surrogatepass"))
    if isinstance(value, bytes) and kind is bytes:
        return part("bytes", value)
    if isinstance(value, tuple) and kind is tuple:
        return part("tuple", b"".join(map(constant, value)))
    if isinstance(value, frozenset) and kind is frozenset:
        return part("frozenset", b"".join(sorted(map(constant, value))))
    if isinstance(value, slice):
        return part("slice", b"".join(map(constant, (value.start, value.stop, value.step))))
    if isinstance(value, range):
        return part("range", repr(value).encode())
    if isinstance(value, CodeType):
        return digestible(value)
    raise Unkeyable(f"it refers to a {kind.__module__}.{kind.__qualname__}, whose content cannot be told")
