"""Packing: values as they go into messages.

What a message carries is often a number and an array of ten. To pickle an array takes a dozen calls of Python, and after a
kernel has run none of them is in a cache: a hundred microseconds. Its bytes take ten.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from distributed.protocol import pickle
from distributed.protocol.serialize import ToPickle

__all__ = ["LARGE", "flat", "nbytes", "packed", "round_again", "unpacked"]

#: Values of more bytes go into messages as buffers of their own, without a copy.
LARGE = 2**16

#: Types that any pickle has as they are, and the kinds of numbers whose bytes are all there is to them.
_PLAIN = frozenset([float, int, complex, bool, type(None)])
_NUMBERS = frozenset("biufc")


def packed(value: Any, nbytes: int = 0) -> Any:
    """Return a value as it goes into a message of dask's."""
    return ToPickle(value) if nbytes > LARGE else pickle.dumps(value)


def unpacked(value: Any) -> Any:
    """Return what was packed."""
    return pickle.loads(value) if isinstance(value, (bytes, bytearray, memoryview)) else value


def flat(value: Any) -> Any:
    """Return a value as what the plainest pickle can take: itself, or its dtype, shape and bytes, or its pickle."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is np.ndarray and value.dtype.kind in _NUMBERS and value.flags.c_contiguous and value.size:
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, np.number) and kind.__module__ == "numpy":
        return value.dtype.str, None, value.tobytes()
    return (pickle.dumps(value),)


def round_again(value: Any) -> Any:
    """Return what was made flat."""
    if type(value) is not tuple:
        return value
    if len(value) == 1:
        return pickle.loads(value[0])
    dtype, shape, data = value
    if shape is None:
        return np.frombuffer(data, dtype)[0]
    return np.frombuffer(bytearray(data), dtype).reshape(shape)  # of its own, and may be written to


def nbytes(values: Iterable[Any]) -> int:
    """Return how many bytes arrays have together."""
    return sum([int(getattr(value, "nbytes", 0) or 0) for value in values])
