"""Vectors: numbers side by side in a register, as a type that numba compiles.

LLVM turns a plain loop over rows into vector instructions by itself, but not the two loops that a pass over the data
spends its time in: the product of a block of rows with a vector, and of a block's transpose with one. Rows of 15 numbers do
not fill registers evenly, and the sums run across them. With vectors as values these loops are written down as they should
run. A vector is eight numbers; where registers are shorter, LLVM splits it.

Memory is named by address, an integer, because a chunk's address is all that a table of chunks holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel

from graphopt.loops.sizes import ROWS, WIDTH

__all__ = [
    *("ROWS", "WIDTH", "Decorator", "intrinsic"),
    *("add_sums", "array_at", "at_end", "eight", "fused", "load", "lower_sums", "most", "one_a_row", "outer", "plus", "splat"),
    *("store", "times", "total", "widened", "zeros"),
]

#: What numba's decorators are: numba has types for few of its functions, and not the right ones for intrinsics.
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
intrinsic: Decorator = numba.extending.intrinsic
carray: Any = numba.carray  # type: ignore[attr-defined]


class _Vector(types.Type):
    """Eight numbers of one type."""

    width = WIDTH

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"vector({dtype})")


@numba.extending.register_model(_Vector)
class _VectorModel(PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: _Vector) -> None:
        super().__init__(dmm, fe_type, _llvm(fe_type))  # type: ignore[no-untyped-call]


def _llvm(vector: _Vector) -> ir.VectorType:
    return ir.VectorType(ir.DoubleType() if vector.dtype == types.float64 else ir.FloatType(), vector.width)


def _splatted(builder: Any, value: Any, width: int) -> Any:
    kind = ir.VectorType(value.type, width)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), width), None))


def _mask(builder: Any, count: Any, width: int) -> Any:
    """Compare the places 0, 1, … with a count."""
    kind = ir.VectorType(count.type, width)
    places = ir.Constant(kind, [count.type(i) for i in range(width)])
    return builder.icmp_signed("<", places, _splatted(builder, count, width))


def _masked_load(builder: Any, vector: _Vector, pointer: Any, mask: Any) -> Any:
    """Read the numbers that a mask says; the others are zero and their memory is not touched."""
    kind = _llvm(vector)
    arguments = [pointer, ir.IntType(32)(vector.dtype.bitwidth // 8), mask, ir.Constant(kind, None)]
    signature = ir.FunctionType(kind, [argument.type for argument in arguments])
    name = f"llvm.masked.load.v{WIDTH}f{vector.dtype.bitwidth}.p0"
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


@intrinsic
def load(typing_context: Any, dtype: Any, address: Any) -> Any:
    """Read a vector: ``load(np.float64, address)``."""
    vector = _Vector(dtype.dtype)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[1], _llvm(vector).as_pointer())
        return builder.load(pointer, align=vector.dtype.bitwidth // 8)

    return vector(dtype, types.intp), code


@intrinsic
def at_end(typing_context: Any, dtype: Any, address: Any, count: Any) -> Any:
    """Read ``count`` numbers; the others are zero and their memory is not touched."""
    vector = _Vector(dtype.dtype)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[1], _llvm(vector).as_pointer())
        return _masked_load(builder, vector, pointer, _mask(builder, args[2], vector.width))

    return vector(dtype, types.intp, types.intp), code


@intrinsic
def store(typing_context: Any, address: Any, vector: Any) -> Any:
    """Write a vector."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], args[1].type.as_pointer())
        builder.store(args[1], pointer, align=vector.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(types.intp, vector), code


@intrinsic
def zeros(typing_context: Any, dtype: Any) -> Any:
    """Return a vector of zeros: ``zeros(np.float64)``."""
    vector = _Vector(dtype.dtype)
    return vector(dtype), lambda context, builder, signature, args: ir.Constant(_llvm(vector), None)


@intrinsic
def splat(typing_context: Any, value: Any) -> Any:
    """Return a vector of equal numbers."""
    vector = _Vector(value)
    return vector(value), lambda context, builder, signature, args: _splatted(builder, args[0], vector.width)


@intrinsic
def plus(typing_context: Any, a: Any, b: Any) -> Any:
    """Add two vectors."""
    return a(a, b), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def times(typing_context: Any, a: Any, b: Any) -> Any:
    """Multiply two vectors."""
    return a(a, b), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def widened(typing_context: Any, dtype: Any, vector: Any) -> Any:
    """Return a vector of single precision in double precision: ``widened(np.float64, vector)``; others as they are."""
    out = _Vector(dtype.dtype)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[1] if out == vector else builder.fpext(args[1], _llvm(out))

    return out(dtype, vector), code


@intrinsic
def outer(typing_context: Any, sums: Any, address: Any, vector: Any) -> Any:
    """Add a vector to each of several sums, times one of the numbers that are side by side at an address."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        out, where, factor = args
        pointer = builder.inttoptr(where, _llvm(vector).element.as_pointer())
        for place in range(sums.count):
            number = builder.load(builder.gep(pointer, [ir.IntType(64)(place)]), align=vector.dtype.bitwidth // 8)
            product = builder.fmul(_splatted(builder, number, vector.width), factor, flags=("contract",))
            added = builder.fadd(product, builder.extract_value(out, place), flags=("contract",))
            out = builder.insert_value(out, added, place)
        return out

    return sums(sums, types.intp, vector), code


@intrinsic
def add_sums(typing_context: Any, address: Any, step: Any, sums: Any, skipped: Any, count: Any) -> Any:
    """Add the first ``count`` numbers of each sum to those in memory, which begin so many bytes apart; but not of the first."""
    vector = sums.dtype

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where, apart, values, first, numbers = args
        kind, wanted = _llvm(vector), _mask(builder, numbers, vector.width)
        for place in range(sums.count):
            taken = builder.icmp_signed("<=", first, first.type(place))
            mask = builder.and_(wanted, _splatted(builder, taken, vector.width))
            pointer = builder.inttoptr(builder.add(where, builder.mul(apart, apart.type(place))), kind.as_pointer())
            total = builder.fadd(_masked_load(builder, vector, pointer, mask), builder.extract_value(values, place))
            arguments = [total, pointer, ir.IntType(32)(vector.dtype.bitwidth // 8), mask]
            wants = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
            name = f"llvm.masked.store.v{WIDTH}f{vector.dtype.bitwidth}.p0"
            builder.call(cgutils.get_or_insert_function(builder.module, wants, name), arguments)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, sums, types.intp, types.intp), code


@intrinsic
def most(typing_context: Any, a: Any, b: Any, sign: Any) -> Any:
    """Return the greater of each two numbers, the lesser where ``sign`` is not positive, or NaN where either is."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, y, positive = args
        up, down = builder.fcmp_ordered(">=", x, y), builder.fcmp_ordered("<=", x, y)
        wanted = builder.select(builder.icmp_signed(">", positive, positive.type(0)), up, down)
        return builder.select(builder.or_(wanted, builder.fcmp_unordered("uno", x, x)), x, y)

    return a(a, b, types.intp), code


@intrinsic
def fused(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return ``a * b + c``, rounded once where the machine can."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        product = builder.fmul(args[0], args[1], flags=("contract",))
        return builder.fadd(product, args[2], flags=("contract",))

    return a(a, b, c), code


@intrinsic
def total(typing_context: Any, vector: Any) -> Any:
    """Add up the numbers of a vector, halves first."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, width = args[0], vector.width
        while width > 1:
            width //= 2
            places = [ir.IntType(32)(i) for i in range(2 * width)]
            low = ir.Constant(ir.VectorType(ir.IntType(32), width), places[:width])
            high = ir.Constant(ir.VectorType(ir.IntType(32), width), places[width:])
            value = builder.fadd(builder.shuffle_vector(value, value, low), builder.shuffle_vector(value, value, high))
        return builder.extract_element(value, ir.IntType(32)(0))

    return vector.dtype(vector), code


@intrinsic
def lower_sums(typing_context: Any, rows: Any) -> Any:
    """Add up each of as many vectors as a vector has places, given as a tuple; the sums are side by side in the result.

    Pairs of vectors are interleaved and added, at each step over twice the distance: no vector is summed alone.
    """
    vector = rows.dtype

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        width = vector.width
        values = [builder.extract_value(args[0], i) for i in range(width)]
        step = 1
        while step < width:
            even = [(i if (i // step) % 2 == 0 else i - step + width) for i in range(width)]
            if step * 2 == width:  # the last step puts the first vector's half before the second's
                even = [*range(step), *range(width, width + step)]
            places = ir.VectorType(ir.IntType(32), width)
            low = ir.Constant(places, [ir.IntType(32)(i) for i in even])
            high = ir.Constant(places, [ir.IntType(32)(i + step) for i in even])
            values = [
                builder.fadd(builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high))
                for a, b in zip(values[::2], values[1::2], strict=True)
            ]
            step *= 2
        return values[0]

    return vector(rows), code


@intrinsic
def _pointer(typing_context: Any, dtype: Any, address: Any) -> Any:
    kind = types.CPointer(dtype.dtype)

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[1], context.get_value_type(kind))

    return kind(dtype, types.intp), code


def _room(count: int) -> Any:
    """Return what finds memory on the stack for so many numbers: machine code that stands alone cannot allocate."""

    def room(typing_context: Any, dtype: Any) -> Any:
        kind = types.CPointer(dtype.dtype)

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return cgutils.alloca_once(builder, context.get_value_type(dtype.dtype), size=count)

        return kind(dtype), code

    return intrinsic(room)


_room_for_8, _room_for_rows = _room(WIDTH), _room(ROWS)

inline: Decorator = njit(forceinline=True, error_model="numpy")


@inline
def eight(dtype: Any) -> Any:
    """Return memory for the numbers of a vector; they are anything."""
    return carray(_room_for_8(dtype), WIDTH)


@inline
def one_a_row(dtype: Any) -> Any:
    """Return memory for a number for each row of a block; they are anything."""
    return carray(_room_for_rows(dtype), ROWS)


@inline
def array_at(dtype: Any, address: Any, shape: Any) -> Any:
    """Return the C-contiguous array at an address."""
    return carray(_pointer(dtype, address), shape)
