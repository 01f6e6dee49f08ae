"""Stand-ins: what a function that is compiled gets in place of its small arguments while it is traced.

A small array is stood in for by a dask array of one chunk, a number by a `Scalar`. Neither holds a value, so none can slip
into the plan: what would need one (a branch on it, a conversion, a compute) raises an error that says what to do instead.

Why numbers are not arrays: in ``x * 0.5`` a Python number takes on the type of ``x``, an array of no dimensions does not. A
`Scalar` stays what it is, as a literal of the tasks, until a call of the plan puts the number there.
"""

from __future__ import annotations

import operator
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import apply_infer_dtype
from dask.array.utils import compute_meta
from dask.highlevelgraph import HighLevelGraph

from graphopt.spec import Task
from graphopt.types import Key, TraceError

__all__ = ["Scalar", "ask", "example_of", "is_number", "stand_in_array"]


def is_number(value: Any) -> bool:
    """Say whether an argument is a number that may change from call to call: not a bool, which is there to branch on."""
    if isinstance(value, (bool, np.bool_)):
        return False
    return isinstance(value, (int, float, complex, np.number)) or (type(value) is np.ndarray and value.ndim == 0)


def example_of(value: Any) -> Any:
    """Return a number of the same type as a number: not its value, and not likely to be a special case."""
    kind = value.dtype.type if isinstance(value, np.ndarray) else type(value)
    return kind(3) if issubclass(kind, (int, np.integer)) else kind(1.7320508)


def ask(name: str) -> Any:
    """Raise the error for a value that is asked for while there is none."""
    raise TraceError(
        f"The value of {name} is asked for while the function is traced, when there is none yet. compile() runs the function "
        "once to see what it does, so it may not branch on values, convert them or call compute(): return them and decide "
        "outside, use da.where, or name the argument in static=(...) to trace anew for each value of it."
    )


def stand_in_array(name: str, array: Any, chunks: Any, meta: Any) -> tuple[da.Array, list[Key]]:
    """Make a dask array without values, and list the keys of its blocks in order."""
    token = f"{name}-{uuid.uuid4().hex}"
    keys: list[Key] = [(token, *place) for place in np.ndindex(*map(len, chunks))]
    layer: dict[Key, Any] = {key: Task(key, ask, f"the argument {name!r}") for key in keys}
    graph = HighLevelGraph.from_collections(token, layer, dependencies=())
    return da.Array(graph, token, chunks, meta=meta, dtype=array.dtype), keys


class Scalar:
    """The stand-in for a number, or for what is computed from stand-ins and numbers.

    Parameters
    ----------
    name
        What it is called in messages.
    example
        A number of the same type, from which types of results are found. Its value is never used.
    func, args, kwargs
        How it is computed; nothing for an argument.
    """

    __slots__ = ("args", "example", "func", "kwargs", "name", "token")

    def __init__(self, name: str, example: Any, func: Callable[..., Any] | None = None, args: Any = (), kwargs: Any = None):
        self.name, self.example, self.func, self.args, self.kwargs = name, example, func, args, kwargs or {}
        self.token = uuid.uuid4().hex

    def value(self, given: Mapping[str, Any]) -> Any:
        """Compute the value from those of the arguments, by token."""
        if self.func is None:
            return given[self.token]
        return self.func(*[_value(arg, given) for arg in self.args], **{k: _value(v, given) for k, v in self.kwargs.items()})

    def what(self, places: Mapping[str, int]) -> Any:
        """Return how it is computed, in terms of the places of the arguments: equal for equal formulas."""
        if self.func is None:
            return places[self.token]
        args = [_what(arg, places) for arg in self.args]
        return (self.func, *args, *((name, _what(value, places)) for name, value in self.kwargs.items()))

    def __dask_tokenize__(self) -> Any:
        return ("graphopt.Scalar", self.token)

    def __hash__(self) -> int:
        return hash(self.token)

    def __repr__(self) -> str:
        return f"<stand-in for {self.name}>"

    # -- what needs a value --------------------------------------------------------------------------------------

    def _ask(self, *_: Any) -> Any:
        return ask(self.name)

    __bool__ = __float__ = __int__ = __index__ = __complex__ = __round__ = __array__ = __len__ = __iter__ = _ask
    __getitem__ = __trunc__ = __floor__ = __ceil__ = _ask

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self!r}, which has no value while a function is compiled, has no attribute {name!r} either.")

    def __reduce__(self) -> Any:
        return ask(self.name)

    # -- NumPy's protocols ---------------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs.get("out") is not None:
            raise TraceError(f"np.{ufunc.__name__}.{method} is not possible on {self!r}: use dask.array on chunked data.")
        if any(isinstance(value, da.Array) for value in inputs):
            return da.core.elemwise(ufunc, *inputs, **kwargs)
        if _types_are_inferred():
            return ufunc(*map(_example, inputs), **kwargs)
        if any(isinstance(value, np.ndarray) and value.ndim for value in inputs):
            arrays = [da.asarray(value) if isinstance(value, np.ndarray) and value.ndim else value for value in inputs]
            return da.core.elemwise(ufunc, *arrays, **kwargs)
        return _computed(ufunc, inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if any(isinstance(value, da.Array) for value in (*args, *kwargs.values())):
            return NotImplemented
        if _types_are_inferred():
            return func(*map(_example, args), **{name: _example(value) for name, value in kwargs.items()})
        raise TraceError(f"np.{func.__name__} on {self!r} would need its value: use dask.array, or static=(...).")


def _example(value: Any) -> Any:
    return value.example if isinstance(value, Scalar) else value


def _value(value: Any, given: Mapping[str, Any]) -> Any:
    return value.value(given) if isinstance(value, Scalar) else value


def _what(value: Any, places: Mapping[str, int]) -> Any:
    return value.what(places) if isinstance(value, Scalar) else (type(value), repr(value))


def _computed(func: Callable[..., Any], args: Any, kwargs: Any) -> Scalar:
    names = ", ".join(dict.fromkeys(arg.name for arg in args if isinstance(arg, Scalar)))
    with np.errstate(all="ignore"):
        try:
            example = func(*map(_example, args), **kwargs)
        except ZeroDivisionError:  # of examples, which mean nothing
            example = float("nan")
    return Scalar(f"a value computed from {names}", example, func, tuple(args), dict(kwargs))


def _types_are_inferred() -> bool:
    """Say whether dask is finding out a type by calling a function on arrays without meaning."""
    frame: Any = sys._getframe(2)  # who called the operator
    for _ in range(8):
        if frame is None:
            return False
        if frame.f_code is apply_infer_dtype.__code__ or frame.f_code is compute_meta.__code__:
            return True
        frame = frame.f_back
    return False


def _binary(func: Callable[[Any, Any], Any], *, swapped: bool) -> Callable[[Scalar, Any], Any]:
    def method(self: Scalar, other: Any) -> Any:
        pair = (other, self) if swapped else (self, other)
        if isinstance(other, da.Array):
            return da.core.elemwise(func, *pair)
        if _types_are_inferred():
            return func(*map(_example, pair))
        if isinstance(other, np.ndarray) and other.ndim:
            return da.core.elemwise(func, *[da.asarray(v) if v is other else v for v in pair])
        if isinstance(other, (Scalar, int, float, complex, np.generic, np.ndarray)):
            return _computed(func, pair, {})
        return NotImplemented

    return method


def _unary(func: Callable[[Any], Any]) -> Callable[[Scalar], Any]:
    return lambda self: _computed(func, (self,), {})


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    _func = getattr(operator, _name)
    setattr(Scalar, f"__{_name}__", _binary(_func, swapped=False))
    setattr(Scalar, f"__r{_name}__", _binary(_func, swapped=True))
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    setattr(Scalar, f"__{_name}__", _binary(getattr(operator, _name), swapped=False))
for _name in ("neg", "pos", "abs"):
    setattr(Scalar, f"__{_name}__", _unary(getattr(operator, _name)))
