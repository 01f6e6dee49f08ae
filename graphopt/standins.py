"""Stand-ins: what a function that is compiled gets in place of its small arguments while it is traced.

A small array is stood in for by a dask array of one chunk, a number by a `Scalar`. Neither holds a value, so none can slip
into the plan: what would need one (a branch on it, a conversion, a compute) raises an error that says what to do instead.

Why numbers are not arrays: in ``x * 0.5`` a Python number takes on the type of ``x``, an array of no dimensions does not. A
`Scalar` stays what it is, as a literal of the tasks, until a call of the plan puts the number there.

The file is a little long: a `Scalar` has to answer, or refuse, all that can be asked of a number.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

import dask.array as da
import numpy as np
from dask.array.core import apply_infer_dtype
from dask.array.utils import compute_meta
from dask.base import is_dask_collection
from dask.highlevelgraph import HighLevelGraph
from toolz.functoolz import Compose

from graphopt.building import building
from graphopt.program import container
from graphopt.spec import GraphNode, Task, TaskRef
from graphopt.tree import flatten, unflatten
from graphopt.types import Graph, Key, TraceError

__all__ = [
    "Scalar",
    "example_of",
    "is_number",
    "is_tracing",
    "refuse_captured",
    "stand_in_array",
    "tracing",
    "with_references",
    "with_scalars",
]

_here = threading.local()


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Let stand-ins be used in this thread, for the length of a trace."""
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        with building():
            yield
    finally:
        _here.depth -= 1


def is_tracing() -> bool:
    """Say whether this thread traces a function."""
    return getattr(_here, "depth", 0) > 0


def is_number(value: Any) -> bool:
    """Say whether an argument is a number that may change from call to call.

    Bools, and members of enumerations, are there to branch on. Dates and durations come with units.
    """
    if type(value) in (int, float, complex):
        return True
    return (isinstance(value, np.generic) or (type(value) is np.ndarray and value.ndim == 0)) and value.dtype.kind in "iufc"


def example_of(value: Any) -> Any:
    """Return a number of the same type as a number: not its value, and not likely to be a special case."""
    kind = value.dtype.type if isinstance(value, np.ndarray) else type(value)
    return kind(3) if issubclass(kind, (int, np.integer)) else kind(1.7320508)


def _ask(name: str) -> Any:
    """Raise the error for a value that is asked for while there is none."""
    raise TraceError(
        f"The value of {name} is asked for while the function is traced, when there is none yet. compile() runs the function "
        "to see what it does, so it may not branch on values, convert them or call compute(): return them and decide "
        "outside, use da.where, or name the argument in static=(...) to trace anew for each value of it."
    )


def _too_late(name: str) -> Any:
    raise TraceError(
        f"{name[0].upper()}{name[1:]} stands for a value, and is used by a function that runs on chunks, or after the function "
        "was traced. A function that runs on chunks must be passed the values it needs: x.map_blocks(f, value)."
    )


class _Given(Task):
    """A block that is given later. dask's optimiser, which runs when an array becomes a Delayed, must not fuse it."""

    __slots__ = ()

    @property
    def block_fusion(self) -> bool:
        return True


def stand_in_array(name: str, array: Any, chunks: Any, meta: Any, trace: str) -> tuple[da.Array, list[Key]]:
    """Make a dask array without values, named after an argument and a trace, and list the keys of its blocks in order."""
    token = f"{name}-{trace}"
    keys: list[Key] = [(token, *place) for place in np.ndindex(*map(len, chunks))]
    layer: dict[Key, Any] = {key: _Given(key, _ask, f"the argument {name!r}") for key in keys}
    graph = HighLevelGraph.from_collections(token, layer, dependencies=())
    return da.Array(graph, token, chunks, meta=meta, dtype=array.dtype), keys


def with_references(node: Any) -> Any:
    """Return a node with references in place of blocks that dask has put into it; the same object if there are none."""
    if isinstance(node, _Given):
        return TaskRef(node.key)
    if not isinstance(node, Task) or not any([isinstance(arg, Task) for arg in (*node.args, *node.kwargs.values())]):
        return node
    args, kwargs = [*map(with_references, node.args)], {name: with_references(arg) for name, arg in node.kwargs.items()}
    if all([new is old for new, old in zip((*args, *kwargs.values()), (*node.args, *node.kwargs.values()), strict=True)]):
        return node
    return (
        type(node)(*args)
        if container(node) is not None and type(node) is not Task
        else Task(node.key, node.func, *args, **kwargs)
    )


def refuse_captured(graph: Graph, given: Mapping[Key, Any]) -> tuple[FunctionType, ...]:
    """Return the functions that will run on chunks; raise if one has a stand-in in its closure, its defaults or a partial.

    There it would meet the stand-in itself: nobody can put the value in its place.
    """
    functions: list[FunctionType] = []
    names = {key[0] for key in given if isinstance(key, tuple)}
    seen: set[int] = set()

    def look(value: Any, inside: Any) -> None:
        if inside is not None and isinstance(value, Scalar):
            refuse(value.name, inside)
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Task):
            look(value.func, None)
            for item in (*value.args, *value.kwargs.values()):
                look(item, inside)
        elif isinstance(value, (functools.partial, MethodType, FunctionType)):
            if isinstance(value, FunctionType):
                functions.append(value)
            for item in _captured(value):
                look(item, inside or value)
        elif isinstance(value, (tuple, list)):
            for item in value:
                look(item, inside)
        elif isinstance(value, dict):
            for item in value.values():
                look(item, inside)
        elif inside is not None and is_dask_collection(value) and not names.isdisjoint(_layers(value)):
            (name, *_) = names.intersection(_layers(value))
            refuse(f"the argument {str(name).rpartition('-')[0]!r}", inside)
        elif isinstance(value, Compose):
            look((value.first, *value.funcs), inside)

    def refuse(name: str, func: Any) -> None:
        raise TraceError(
            f"{_name_of(func)} runs on chunks and uses {name}, which it captures; while the function is traced that has no "
            "value. Pass it as an argument of its own: x.map_blocks(f, value), not x.map_blocks(lambda block: block * value)."
        )

    for node in graph.values():
        look(node, None)
    return tuple(functions)


def _captured(func: Any) -> list[Any]:
    if isinstance(func, functools.partial):
        return [func.func, *func.args, *func.keywords.values()]
    if isinstance(func, MethodType):
        return [func.__func__, getattr(func.__self__, "__dict__", None)]
    found = [*(func.__defaults__ or ()), *(func.__kwdefaults__ or {}).values()]
    for cell in func.__closure__ or ():
        with contextlib.suppress(ValueError):  # not filled yet
            found.append(cell.cell_contents)
    return found


def _layers(collection: Any) -> Any:
    graph = collection.__dask_graph__()
    return getattr(graph, "layers", {key[0] for key in graph if isinstance(key, tuple)})


def _name_of(func: Any) -> str:
    while isinstance(func, functools.partial):
        func = func.func
    return str(getattr(func, "__qualname__", func))


def with_scalars(value: Any) -> Scalar | None:
    """Return a literal that is a stand-in, or a container with some in it, as one stand-in; None for any other literal."""
    if isinstance(value, Scalar):
        return value
    if not isinstance(value, (tuple, list, dict)) or isinstance(value, GraphNode):
        return None
    leaves, structure = flatten(value)
    if not any([isinstance(leaf, Scalar) for _, leaf in leaves]):
        return None
    return Scalar(_CONTAINER, value, lambda *items: unflatten(structure, items), tuple([leaf for _, leaf in leaves]))


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
    token
        What the value of an argument goes by.
    """

    __slots__ = ("args", "example", "func", "kwargs", "name", "token")

    def __init__(
        self,
        name: str,
        example: Any,
        func: Callable[..., Any] | None = None,
        args: Any = (),
        kwargs: Any = None,
        *,
        token: str = "",
    ) -> None:
        self.name, self.example, self.func, self.args, self.kwargs = name, example, func, args, kwargs or {}
        self.token = token or uuid.uuid4().hex

    def value(self, given: Mapping[str, Any]) -> Any:
        """Compute the value from those of the arguments, by token."""
        if self.func is None:
            return given[self.token]
        return self.func(*[_value(arg, given) for arg in self.args], **{k: _value(v, given) for k, v in self.kwargs.items()})

    def check(self, value: Any) -> None:
        """Raise if a computed value is of another type than its example: the types of results were found from that."""
        expected = type(self.example)
        if self.func is not None and type(value) is not expected and self.name != _CONTAINER and self.example == self.example:
            raise TraceError(
                f"{self.name[0].upper()}{self.name[1:]} is of type {type(value).__name__} here, where {expected.__name__} was "
                "expected: its type depends on values. Compute it outside, or name the argument in static=(...)."
            )

    def what(self, places: Mapping[str, int]) -> Any:
        """Return how it is computed, in terms of the places of the arguments: equal for equal formulas."""
        if self.func is None:
            return places[self.token]
        args = [_what(arg, places) for arg in self.args]
        return (self.func, *args, *((name, _what(value, places)) for name, value in self.kwargs.items()))

    def __dask_tokenize__(self) -> Any:
        if self.func is None:
            return ("graphopt.Scalar", self.token)
        return ("graphopt.Scalar", self.func, self.args, self.kwargs)

    def __repr__(self) -> str:
        # Other libraries put this into messages of their own.
        return f"<stand-in for {self.name}, which has no value while the function is traced; with static=(...) it has>"

    def __format__(self, spec: str) -> str:
        return self._ask() if spec else repr(self)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """What ``isinstance`` is told: a function that asks whether it was given a number gets the right answer."""
        return type(self.example) if self.func is None else Scalar

    # -- what needs a value --------------------------------------------------------------------------------------

    def _ask(self, *_: Any, **__: Any) -> Any:
        return _ask(self.name) if is_tracing() else _too_late(self.name)

    __bool__ = __float__ = __int__ = __index__ = __complex__ = __array__ = __len__ = __iter__ = _ask
    __getitem__ = __trunc__ = __floor__ = __ceil__ = __reduce__ = __divmod__ = __rdivmod__ = _ask
    __hash__ = _ask  # or it would silently be in no set and no dict

    def __getattr__(self, name: str) -> Any:
        if name in ("real", "imag", "dtype") and hasattr(self.example, name):
            found = getattr(self.example, name)
            return found if name == "dtype" else _computed(_PARTS[name], (self,), {})
        raise AttributeError(f"{self!r}, so it has no attribute {name!r} either")

    def __round__(self, digits: int | None = None) -> Any:
        return _computed(round, (self,) if digits is None else (self, digits), {})

    # -- NumPy's protocols ---------------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if not is_tracing():
            _too_late(self.name)
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
        if any(issubclass(kind, da.Array) for kind in types):
            found: Any = da
            for name in (*func.__module__.split(".")[1:], func.__name__):
                found = getattr(found, name, None)
            if found is None:
                return NotImplemented
            return found(*args, **kwargs)
        if func in _OF_TYPES or _types_are_inferred():
            return func(*map(_example, args), **{name: _example(value) for name, value in kwargs.items()})
        if func in _OF_NUMBERS:
            return _computed(func, args, kwargs)
        raise TraceError(f"np.{func.__name__} on {self!r} would need its value: use dask.array, or static=(...).")


#: NumPy functions that look at types and shapes only; and those that make a number of numbers.
_OF_TYPES = frozenset({np.ndim, np.shape, np.size, np.result_type, np.can_cast, np.iscomplexobj, np.isrealobj, np.common_type})
_OF_NUMBERS = frozenset({np.where, np.clip, np.real, np.imag, np.isclose, np.round, np.nan_to_num, np.angle, np.sinc})


_PARTS = {name: operator.attrgetter(name) for name in ("real", "imag")}


def _example(value: Any) -> Any:
    return value.example if isinstance(value, Scalar) else value


def _value(value: Any, given: Mapping[str, Any]) -> Any:
    return value.value(given) if isinstance(value, Scalar) else value


def _what(value: Any, places: Mapping[str, int]) -> Any:
    return value.what(places) if isinstance(value, Scalar) else (type(value), repr(value))


def _computed(func: Callable[..., Any], args: Any, kwargs: Any) -> Scalar:
    if not is_tracing():
        _too_late(next(arg.name for arg in (*args, *kwargs.values()) if isinstance(arg, Scalar)))
    names = ", ".join(dict.fromkeys(_origin(arg) for arg in (*args, *kwargs.values()) if isinstance(arg, Scalar)))
    examples = [*map(_example, args)]
    with np.errstate(all="ignore"):
        try:
            example = func(*examples, **{name: _example(value) for name, value in kwargs.items()})
        except ZeroDivisionError:  # of examples, which mean nothing
            example = 0 if all([type(value) is int for value in examples]) and func is not operator.truediv else float("nan")
    return Scalar(f"{_COMPUTED}{names}", example, func, tuple(args), dict(kwargs))


_CONTAINER = "a container with numbers"
_COMPUTED = "a value computed from "


def _origin(scalar: Scalar) -> str:
    return scalar.name.removeprefix(_COMPUTED)


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
        if not is_tracing():
            _too_late(self.name)
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


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"):
    _func = getattr(operator, f"__{_name}__")
    setattr(Scalar, f"__{_name}__", _binary(_func, swapped=False))
    setattr(Scalar, f"__r{_name}__", _binary(_func, swapped=True))
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    setattr(Scalar, f"__{_name}__", _binary(getattr(operator, _name), swapped=False))
for _name in ("neg", "pos", "abs", "invert"):
    setattr(Scalar, f"__{_name}__", _unary(getattr(operator, _name)))
