"""Signatures: numba's types as bytes that mean the same in every process.

The names that numba gives to types may hold addresses. So only types are taken whose content can be told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.numba_cache.codes import Unkeyable, constant, part
from graphopt.numba_cache.private import Signature, types

__all__ = ["canonical"]

#: Types that are what their names say.
_PLAIN = (
    types.Boolean,
    types.Integer,
    types.Float,
    types.Complex,
    types.NoneType,
    types.UnicodeType,
    types.CharSeq,
    types.UnicodeCharSeq,
    types.NPDatetime,
    types.NPTimedelta,
    types.RangeType,
    types.SliceType,
    types.Bytes,
)


def canonical(kind: Any, nested: Callable[[Any], bytes]) -> bytes:
    """Return a type as bytes; ``nested`` returns what stands for a dispatcher.

    Raises
    ------
    Unkeyable
        If the type may hold what cannot be told.
    """

    def of(*kinds: Any) -> bytes:
        return b"".join(canonical(each, nested) for each in kinds)

    name = type(kind).__qualname__
    if isinstance(kind, types.Dispatcher):
        return part("dispatcher", nested(kind.dispatcher))
    if isinstance(kind, types.Omitted):
        return part("omitted", constant(kind.value))
    if isinstance(kind, types.Literal):
        return part("literal", name.encode() + constant(kind.literal_value))
    if type(kind) in _PLAIN:
        return part("plain", f"{name}:{kind.name}".encode())
    if type(kind) is types.Array:
        how = (kind.ndim, kind.layout, kind.mutable, kind.aligned)
        return part("array", of(kind.dtype) + constant(how))
    if type(kind) is types.Record:
        fields = tuple((field, data.offset, data.alignment) for field, data in kind.fields.items())
        return part("record", constant((kind.size, kind.aligned, fields)) + of(*(data.type for data in kind.fields.values())))
    if type(kind) in (types.Tuple, types.UniTuple, types.StarArgTuple, types.StarArgUniTuple):
        return part(name, of(*kind.types))
    if type(kind) in (types.Optional, types.TypeRef):
        return part(name, of(kind.type if isinstance(kind, types.Optional) else kind.instance_type))
    if isinstance(kind, Signature):
        return part("signature", of(kind.return_type, *kind.args))
    raise Unkeyable(f"the type {kind} may hold anything")
