"""Self-test: whether the names of numba that the cache rests on are there and do what they should."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

__all__ = ["TESTED", "names", "round_trip"]

#: Versions of numba that all tests were run with. Others are used if they pass this test.
TESTED = ("0.62.1", "0.68.1")


def names() -> str:
    """Return which name is missing or is something else; nothing where all are as they should be. Changes nothing."""
    try:
        return next(_missing(), "")
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        return f"this version of numba keeps something elsewhere: {error}"


def _missing() -> Iterator[str]:
    import numba

    from graphopt.numba_cache import private as of

    def takes(function: Any, *expected: str) -> bool:
        return tuple(inspect.signature(function).parameters) == expected

    dispatcher, memo = of.Dispatcher, of.Memo
    states = ("uuid", "py_func", "locals", "targetoptions", "can_compile", "sigs")
    expected = {
        "Dispatcher._rebuild": takes(dispatcher._rebuild, *states),
        "Dispatcher._reduce_states": takes(dispatcher._reduce_states, "self"),
        "Dispatcher.compile": takes(dispatcher.compile, "self", "sig"),
        "Dispatcher._compile_for_args": takes(dispatcher._compile_for_args, "self", "args", "kws"),
        "_MemoMixin._uuid": isinstance(memo._uuid, property) and getattr(memo, "_MemoMixin__uuid", "") is None,
        "_MemoMixin._recent": hasattr(memo._recent, "append") and hasattr(memo._memo, "setdefault"),
        "UFuncDispatcher._compile_core": takes(of.UFuncDispatcher._compile_core, "self", "sig", "flags", "locals"),
        "FunctionIdentity._unique_ids": isinstance(next(of.FunctionIdentity._unique_ids), int),
        "CompileResult": takes(of.CompileResult._reduce, "self") and callable(of.CompileResult._rebuild),
        "Environment": hasattr(of.Environment, "_memo") and callable(of.lookup_environment),
        "NullCache": callable(of.NullCache().load_overload) and callable(of.NullCache().save_overload),
        "RuntimeLinker": isinstance(of.RuntimeLinker.PREFIX, str),
        "NumbaPickler": callable(of.Pickler.reducer_override),
    }
    for name, holds in expected.items():
        if not holds:
            yield f"numba {numba.__version__} has another {name}"


def round_trip() -> str:
    """Compile a function, export and import it, and call what comes of it; return what is wrong, or nothing.

    This starts numba's compiler as well, which takes about a second the first time.
    """
    try:
        import numba

        from graphopt.numba_cache import objects
        from graphopt.numba_cache.compiling import uncounted
        from graphopt.numba_cache.private import CPU_TARGET

        def polynomial(x: Any, y: Any) -> Any:
            return 3.0 * x[0] + y

        args = (numba.types.Array(numba.float64, 1, "C"), numba.float64)
        with uncounted():
            function: Any = numba.njit(polynomial)
            function.compile(args)
            (result,) = function.overloads.values()
            why = objects.unfit(result, function.targetoptions)
            if why:
                return f"a simple function cannot be exported: {why}"
            content = objects.exported(args, result, 0.0)
            found, _ = objects.imported(content, args, CPU_TARGET.target_context)
            other: Any = numba.njit(polynomial)
            other.add_overload(found)
        import numpy as np

        x = np.array([2.0])
        answers = (function(x, 1.0), other(x, 1.0))
        return "" if answers == (7.0, 7.0) else f"a simple function returned {answers}"
    except Exception as error:  # of a numba that we do not know
        return f"a simple function could not be compiled, exported and imported: {error!r}"
