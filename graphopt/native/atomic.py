"""Atomic: reading and writing memory that other threads read and write at any time."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

__all__ = ["load", "store"]


@intrinsic
def load(typing_context: Any, address: Any) -> Any:
    """Read a 64-bit integer, and after it whatever the thread that wrote it had written before."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(args[0], ir.IntType(64).as_pointer()), "acquire", 8)

    return types.int64(types.int64), code


@intrinsic
def store(typing_context: Any, address: Any, number: Any) -> Any:
    """Write a 64-bit integer; a thread that reads it sees whatever this one had written before."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code
