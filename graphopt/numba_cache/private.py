"""Private: the names of numba's own that the cache rests on, all in one place. Without types: numba has few for them.

Most have no promise behind them. `selftest.py` says which are looked at before anything is changed.
"""

from __future__ import annotations

from typing import Any

from numba.core import (
    bytecode,
    caching,
    codegen,
    compiler,
    compiler_lock,
    dispatcher,
    environment,
    registry,
    serialize,
    sigutils,
)
from numba.core import config as settings
from numba.core import types as numba_types
from numba.core.typing import templates
from numba.extending import _Intrinsic  # type: ignore[attr-defined]
from numba.np.ufunc import dufunc, gufunc, ufuncbuilder

__all__ = [
    "COMPILER_LOCK",
    "CPU_TARGET",
    "CompileResult",
    "Compiler",
    "CpuDispatcher",
    "DUFunc",
    "Dispatcher",
    "Environment",
    "FunctionCompiler",
    "FunctionIdentity",
    "GUFunc",
    "Intrinsic",
    "Memo",
    "NullCache",
    "OmittedArg",
    "Pickler",
    "RuntimeLinker",
    "Signature",
    "UFuncDispatcher",
    "config",
    "lookup_environment",
    "normalize_signature",
    "types",
]

_dispatcher: Any = dispatcher

COMPILER_LOCK: Any = compiler_lock.global_compiler_lock
CPU_TARGET: Any = registry.cpu_target
CompileResult: Any = compiler.CompileResult
Compiler: Any = compiler.Compiler
CpuDispatcher: Any = registry.CPUDispatcher
DUFunc: Any = dufunc.DUFunc
Dispatcher: Any = dispatcher.Dispatcher
Environment: Any = environment.Environment
FunctionCompiler: Any = _dispatcher._FunctionCompiler
FunctionIdentity: Any = bytecode.FunctionIdentity
GUFunc: Any = gufunc.GUFunc
Intrinsic: Any = _Intrinsic
Memo: Any = _dispatcher._MemoMixin
NullCache: Any = caching.NullCache
OmittedArg: Any = dispatcher.OmittedArg
Pickler: Any = serialize.NumbaPickler
RuntimeLinker: Any = codegen.RuntimeLinker
Signature: Any = templates.Signature
UFuncDispatcher: Any = ufuncbuilder.UFuncDispatcher
config: Any = settings
lookup_environment: Any = environment.lookup_environment
normalize_signature: Any = sigutils.normalize_signature
types: Any = numba_types
