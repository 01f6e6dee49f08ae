"""Content: all that decides what a numba function computes, as one key.

The key of a function is a digest of its bytecode, constants, defaults, the contents of its closure cells, the globals that it
refers to (through functions and into other dispatchers), its numba options, its explicit signatures, and the versions of
numba, llvmlite, NumPy and Python. Where it was written does not count: a cell of a notebook that runs again makes the same
function. What cannot be told raises `Unkeyable`, and then numba does what it always did.

Two keys are made in this way. One names the function in pickles and in a process (`hooks.py`): nested dispatchers stand for
themselves by theirs. The other names machine code (`compiling.py`) and is stricter: what may be stale is refused.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import platform
import sys
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import numba
import numpy as np

from graphopt.numba_cache.codes import Unkeyable, attributes, constant, digestible, global_names, part
from graphopt.numba_cache.private import (
    Compiler,
    CpuDispatcher,
    Dispatcher,
    DUFunc,
    FunctionCompiler,
    GUFunc,
    Intrinsic,
    Signature,
    types,
)
from graphopt.numba_cache.signatures import canonical

__all__ = ["LARGE", "Encoder", "dispatcher_key", "frozen", "ufunc_key", "versions"]

#: Arrays of more bytes stay out of keys of machine code: numba does not put them there either.
LARGE = 1 << 20

#: Changes whenever keys are made otherwise.
_SCHEME = "graphopt 1"

#: Modules whose functions are as their names and versions say.
_KNOWN = frozenset({"numpy", "numba", "llvmlite", *sys.stdlib_module_names}) - {"__main__"}


@functools.cache
def versions() -> bytes:
    """Return what machine code and keys depend on anyway."""
    found = (_SCHEME, sys.version, numba.__version__, llvmlite.__version__, np.__version__, platform.machine())
    return part("versions", repr(found).encode())


def dispatcher_key(function: Any, py_func: FunctionType, nested: Callable[[Any], bytes], salt: str, *, strict: bool) -> str:
    """Return the content key of a function that `numba.njit` made.

    Parameters
    ----------
    function : numba.core.registry.CPUDispatcher
        The function.
    py_func : function
        Its Python function, or the one that shall count as that.
    nested : callable
        Returns what stands for a dispatcher that the function refers to.
    salt : str
        What the user knows and we do not see, such as a version of registered overloads.
    strict : bool
        Whether a large array is refused.

    Raises
    ------
    Unkeyable
        If the content cannot be told.
    """
    if type(function) is not CpuDispatcher or type(function._compiler) is not FunctionCompiler:
        raise Unkeyable(f"a {type(function).__qualname__} may compile in ways of its own")
    if function._compiler.pipeline_class is not Compiler:
        raise Unkeyable("it has a compiler pipeline of its own")
    encode = Encoder(nested, strict)
    found = [versions(), part("salt", salt.encode()), encode.function(py_func), encode.options(function)]
    if not function._can_compile:
        found += [b"typed", *(encode(each.signature) for each in function.overloads.values())]
    return hashlib.blake2b(b"".join(found), digest_size=20).hexdigest()


def ufunc_key(function: Any, nested: Callable[[Any], bytes], salt: str) -> str:
    """Return the content key of a function that `numba.vectorize` or `numba.guvectorize` made, signatures included."""
    found = [versions(), part("salt", salt.encode()), Encoder(nested, False).ufunc(function)]
    return hashlib.blake2b(b"".join(found), digest_size=20).hexdigest()


def frozen(function: FunctionType) -> FunctionType:
    """Return a copy of a function that keeps the globals and closure cells that it refers to as they are now."""
    names = global_names(function.__code__)
    about = ("__name__", "__package__", "__file__", "__path__")
    scope = {name: function.__globals__[name] for name in (*about, *names) if name in function.__globals__}
    scope = {name: _kept(value) for name, value in scope.items()}
    cells = function.__closure__ and tuple(_copied(cell) for cell in function.__closure__)
    copy = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, cells)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__dict__.update(function.__dict__)
    copy.__module__, copy.__qualname__, copy.__doc__ = function.__module__, function.__qualname__, function.__doc__
    copy.__annotations__ = function.__annotations__
    return copy


def _copied(cell: CellType) -> CellType:
    try:
        return CellType(_kept(cell.cell_contents))
    except ValueError:  # empty
        return CellType()


def _kept(value: Any) -> Any:
    """Return what keeps a value as it is now: arrays change in place."""
    return value.copy(order="K") if type(value) is np.ndarray and value.flags.writeable else value


class Encoder:
    """Values as bytes that are equal only if the values are, for one key."""

    def __init__(self, nested: Callable[[Any], bytes], strict: bool) -> None:
        self.nested = nested
        self.strict = strict
        self.seen: dict[int, int] = {}  # Python functions may refer to each other
        self.alive: list[Any] = []  # an id holds only as long as its object

    def function(self, function: FunctionType) -> bytes:
        """Return a Python function with all that it refers to."""
        known = self.seen.setdefault(id(function), len(self.seen))
        if known != len(self.seen) - 1:
            return part("again", str(known).encode())
        self.alive.append(function)
        code: CodeType = function.__code__
        found = [digestible(code), self.values(function.__defaults__ or ()), self.mapping(function.__kwdefaults__ or {})]
        for cell in function.__closure__ or ():
            try:
                found.append(self(cell.cell_contents, code))
            except ValueError:
                found.append(b"empty")
        for name in global_names(code):
            if name in function.__globals__:
                found += [part("global", name.encode()), self(function.__globals__[name], code)]
        return part("python", b"".join(found))

    def options(self, function: Any) -> bytes:
        """Return the options of a dispatcher, of functions or of ufuncs."""
        return self.mapping(function.targetoptions) + self.mapping(function.locals)

    def ufunc(self, function: Any) -> bytes:
        """Return a DUFunc or GUFunc with its options and signatures."""
        if isinstance(function, GUFunc):
            builder = function.gufunc_builder
            how: tuple[Any, ...] = (
                builder.signature,
                function._identity,
                function._is_dynamic,
                function._frozen,
                tuple(builder.writable_args),
            )
            compiled = [self(each) for each in builder._sigs]
        else:
            how = (function.identity, function._frozen)
            compiled = [self(each) for each in function._dispatcher.overloads]
        inner = function._dispatcher
        found = [self.function(inner.py_func), self.options(inner), self.values(how), *compiled]
        return part(type(function).__qualname__, b"".join(found))

    def values(self, values: Any) -> bytes:
        """Return values in order."""
        return part("values", b"".join(map(self, values)))

    def mapping(self, values: Mapping[str, Any]) -> bytes:
        """Return a mapping by names, in no order."""
        return part("mapping", b"".join(self(name) + self(values[name]) for name in sorted(values)))

    def __call__(self, value: Any, code: CodeType | None = None) -> bytes:
        """Return a value; ``code`` is what refers to it."""
        if isinstance(value, Dispatcher):
            return part("dispatcher", self.nested(value))
        if callable(value) and _is_known(getattr(value, "__module__", None)) and _home(value) is value:
            return self.name_of(value)
        if isinstance(value, FunctionType):
            return self.function(value)
        if isinstance(value, ModuleType):
            return self.module(value, code)
        if isinstance(value, np.ndarray | np.generic | np.dtype):
            return self.numeric(value)
        if isinstance(value, (types.Type, Signature)):
            return self.type(value)
        if isinstance(value, (DUFunc, GUFunc)):
            if self.strict:
                raise Unkeyable("it calls a ufunc of numba's, which may have been compiled before")
            return self.ufunc(value)
        if isinstance(value, Intrinsic):
            return part("intrinsic", self(value._defn, code))
        if isinstance(value, type | enum.Enum | BuiltinFunctionType | np.ufunc):
            return self.named(value)
        if type(value) is tuple:
            return part("tuple", b"".join(self(each, code) for each in value))
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return part("namedtuple", self(type(value)) + b"".join(self(each, code) for each in value))
        if type(value) in (dict, set):  # of options
            pairs = value.items() if isinstance(value, dict) else ((each,) for each in value)
            return part(type(value).__name__, b"".join(sorted(self.values(pair) for pair in pairs)))
        return constant(value)

    def numeric(self, value: Any) -> bytes:
        """Return an array, number or dtype of NumPy's."""
        dtype = value if isinstance(value, np.dtype) else value.dtype
        if dtype.hasobject or (isinstance(value, np.ndarray) and type(value) is not np.ndarray):
            raise Unkeyable("it refers to an array of objects, or of a class of its own")
        found = [part("dtype", repr((dtype, dtype.str, dtype.itemsize, dtype.isalignedstruct)).encode())]
        if isinstance(value, np.ndarray):
            if self.strict and value.nbytes > LARGE:
                raise Unkeyable("it refers to an array of more than a megabyte")
            flags = value.flags
            how = (value.shape, flags.c_contiguous, flags.f_contiguous, flags.aligned, flags.writeable)
            found += [part("array", repr(how).encode()), part("data", value.tobytes())]
        elif isinstance(value, np.generic):
            found.append(part("number", value.tobytes()))
        return part("numpy", b"".join(found))

    def module(self, module: ModuleType, code: CodeType | None, above: tuple[str, ...] = ()) -> bytes:
        """Return a module with those of its values whose names occur in the code: numba takes them for constants too."""
        name = module.__name__
        found = [part("module", name.encode())]
        if _is_known(name) or name in above:
            return found[0]
        for attribute in attributes(code) if code is not None else ():
            if attribute in vars(module):
                value = vars(module)[attribute]
                within = isinstance(value, ModuleType)
                found += [part("global", attribute.encode())]
                found.append(self.module(value, code, (*above, name)) if within else self(value, code))
        return b"".join(found)

    def type(self, value: Any) -> bytes:
        """Return a type or a signature of numba's."""
        if isinstance(value, Signature):
            return part("signature", self.values((value.return_type, *value.args)))
        return part("type", canonical(value, self.nested))

    def named(self, value: Any) -> bytes:
        """Return a class, a member of an enumeration, or a function in C."""
        if isinstance(value, enum.Enum):
            return part("member", self.named(type(value)) + part("which", value.name.encode()) + constant(value.value))
        if isinstance(value, np.ufunc):
            name = str(value.__name__)
            if getattr(np, name, None) is not value:
                raise Unkeyable(f"the ufunc {name} is not NumPy's")
            return part("ufunc", name.encode())
        if isinstance(value, BuiltinFunctionType) and not isinstance(value.__self__, ModuleType):
            raise Unkeyable(f"{value.__qualname__} is a method of an object")
        found = self.name_of(value)
        if isinstance(value, type) and issubclass(value, enum.Enum):
            found += b"".join(part("member", name.encode()) + constant(each.value) for name, each in value.__members__.items())
        elif isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
            found += constant(tuple(value._fields))
        elif isinstance(value, type) and not (_is_known(value.__module__) or issubclass(value, BaseException)):
            raise Unkeyable(f"the class {value.__qualname__} may be anything")
        return found

    def name_of(self, value: Any) -> bytes:
        """Return where something is found that has a name."""
        if _home(value) is not value:
            raise Unkeyable(f"{value.__qualname__} is not found in the module {value.__module__}")
        return part("named", f"{getattr(value, '__module__', None)}:{value.__qualname__}".encode())


def _home(value: Any) -> Any:
    """Return what is found under the name of a value."""
    found: Any = sys.modules.get(getattr(value, "__module__", None) or "")
    for each in str(getattr(value, "__qualname__", "")).split("."):
        found = getattr(found, each, None)
    return found


def _is_known(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in _KNOWN
