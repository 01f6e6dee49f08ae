"""Objects: what numba has compiled, as bytes that another process with the same processor makes a function of.

The bytes are those of numba's own cache on disk, with two differences. A function whose module is not there is no obstacle:
functions of notebooks and of pickles have none. And what may call the wrong function is refused (`unfit`).
"""

from __future__ import annotations

import functools
import io
import pickle
import re
from importlib import import_module
from types import ModuleType
from typing import Any

from graphopt.numba_cache.private import CompileResult, Environment, Pickler, RuntimeLinker, lookup_environment, types

__all__ = ["exported", "imported", "unfit"]

#: Numbers below come from a counter that starts at 1 in every process (`hooks.rebase`).
_OURS_FROM = 1 << 62
_NUMBER = re.compile(r"B(\d+)v(\d+)")


def unfit(result: Any, options: dict[str, Any]) -> str:
    """Return why a compile result must not leave its process; nothing where it may.

    Parameters
    ----------
    result : numba.core.compiler.CompileResult
        What was compiled.
    options : dict
        The target options it was compiled with.
    """
    library = result.library
    if result.objectmode or result.lifted:
        return "it needs the interpreter"
    if options.get("parallel"):
        return "it starts threads: names in its code are addresses of this process"
    if library.has_dynamic_globals:
        return "it holds addresses of this process"
    module = library._final_module
    if any(each.name.startswith(RuntimeLinker.PREFIX) for each in module.global_variables):
        return "it is one of several functions that call each other"
    for each in module.functions:
        if (number := _number(each.name)) is not None and number < _OURS_FROM:
            return "it contains what was compiled before the cache was installed"
    return ""


def _number(symbol: str) -> int | None:
    """Return the number in the name of machine code."""
    for length, number in _NUMBER.findall(symbol):
        if int(length) > 1:  # `B3v17`: a tag of three characters
            return int(number[: int(length) - 1])
    return None


def exported(args: Any, result: Any, seconds: float) -> bytes:
    """Return a compile result as bytes, with its argument types and the seconds that it took.

    Functions among the arguments are left out. Whoever imports it calls it with functions of the same keys.

    Raises
    ------
    ValueError
        If its types refer to another function.
    """
    out = io.BytesIO()
    _Pickler(out, _passed(args)).dump((tuple(args), seconds, result._reduce()))
    return out.getvalue()


def imported(content: bytes, args: Any, target_context: Any) -> tuple[Any, float]:
    """Return the compile result of some bytes, and the seconds that it took once.

    Raises
    ------
    ValueError
        If it was compiled for other arguments.
    """
    found, seconds, reduced = _Unpickler(io.BytesIO(content), _passed(args)).load()
    if found != tuple(args):
        raise ValueError(f"this was compiled for {found}, not for {args}")
    return CompileResult._rebuild(target_context, *reduced), seconds


def _passed(args: Any) -> list[Any]:
    """Return the types of the functions among some arguments, in order."""
    out: list[Any] = []
    for each in args:
        if isinstance(each, types.Dispatcher):
            out.append(each)
        elif isinstance(each, types.BaseTuple):
            out += _passed(each.types)
        elif isinstance(each, types.Optional):
            out += _passed([each.type])
    return out


class _Pickler(Pickler):  # type: ignore[misc]
    """numba's, for environments whose module is nowhere and for functions that are passed."""

    def __init__(self, out: Any, passed: list[Any]) -> None:
        super().__init__(out, protocol=4)
        self.passed = passed

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, types.Dispatcher):
            return None
        return self.passed.index(value)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Environment):
            return _environment, (value.globals.get("__name__"), list(value.consts), value.env_name)
        return super().reducer_override(value)


class _Unpickler(pickle.Unpickler):
    """Puts the functions that are passed now in the places of those that were."""

    def __init__(self, content: Any, passed: list[Any]) -> None:
        super().__init__(content)
        self.passed = passed

    def persistent_load(self, place: Any) -> Any:
        return self.passed[place]


def _environment(module: str | None, constants: list[Any], name: str) -> Any:
    """Return the environment of a name: constants of machine code, and the globals that only the interpreter would look at."""
    found = lookup_environment(name)
    if found is None:
        found = Environment(_scope(module))
        found.consts[:] = constants
        found.env_name = name
        Environment._memo[name] = found
    return found


@functools.lru_cache(256)
def _scope(module: str | None) -> dict[str, Any]:
    try:
        return vars(import_module(module or ""))
    except (ImportError, ValueError):
        return vars(ModuleType(module or "<dynamic>"))
