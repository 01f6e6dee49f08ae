"""Build: from text to machine code. Only this module and what a text calls load numba.

numba types the text and optimises what comes of it. All but the function itself is then taken out, so that nothing is left
that needs Python or numba, and LLVM writes an object file.
"""

from __future__ import annotations

import hashlib
import importlib
import linecache
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numba
import numpy as np
from numba import types

from graphopt.native.unit import SYMBOL

__all__ = ["Unfit", "here", "library"]

config: Any = numba.config

#: What machine code may call without numba: the C library's, for double and single precision.
_MATHS = [
    "fmod",
    "pow",
    "ldexp",
    "frexp",
    "nextafter",
    "hypot",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sqrt",
    "cbrt",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "atan2",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "floor",
    "ceil",
    "trunc",
    "rint",
    "copysign",
    "fabs",
]
_OUTSIDE = frozenset(["memcpy", "memset", "memmove", *_MATHS, *(f"{name}f" for name in _MATHS)])

#: numba counts references to arrays. Ours are views of memory that it knows nothing of: the count never comes to be taken.
_UNCOUNTED = "define void @NRT_MemInfo_call_dtor(ptr %memory) { unreachable }"


class Unfit(Exception):
    """Why a text cannot become machine code that stands alone."""


def library(text: str, modules: Mapping[str, str], arguments: int, path: str) -> None:
    """Compile a text and link it to a shared library at a path.

    Raises
    ------
    Unfit
        With one sentence, if numba cannot type the text, or it needs more than the C library.
    OSError
        If there is no linker, or it fails.
    """
    module = _optimised(text, modules, arguments)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        source = Path(folder, "run.o")
        source.write_bytes(_machine(jit=False).emit_object(module))
        found = subprocess.run([*_linker(), "-o", path, str(source), "-lm"], capture_output=True, check=False, timeout=60)
        if found.returncode:
            raise OSError(f"the linker failed: {found.stderr.decode(errors='replace').strip()[:400]}")


def here(text: str, modules: Mapping[str, str], arguments: int) -> tuple[int, Any]:
    """Compile a text for this process; return the function's address and what must live as long as it is used."""
    module = _optimised(text, modules, arguments)
    engine = llvm.create_mcjit_compiler(module, _machine(jit=True))
    engine.finalize_object()
    return engine.get_function_address(SYMBOL), engine


def _optimised(text: str, modules: Mapping[str, str], arguments: int) -> Any:
    """Return the module of the function alone."""
    filename = f"<graphopt {hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)  # numba reads it
    scope: dict[str, Any] = {"np": np, **{name: importlib.import_module(module) for name, module in modules.items()}}
    exec(compile(text, filename, "exec"), scope)  # the text is ours
    signature = types.void(*[types.int64] * arguments)
    try:
        function: Any = numba.cfunc(signature, error_model="numpy")(scope["run"])
    except numba.errors.NumbaError as error:
        raise Unfit(f"numba cannot compile it: {next(iter(str(error).splitlines()), '')}") from error
    module = llvm.parse_assembly(function.inspect_llvm())
    module.link_in(llvm.parse_assembly(_UNCOUNTED))
    module.link_in(llvm.parse_assembly(_front(function.native_name.removeprefix("cfunc."), arguments)))
    for each in module.functions:
        if not each.is_declaration and each.name != SYMBOL:
            each.linkage = "internal"
    for each in module.global_variables:
        if not each.is_declaration:
            each.linkage = "internal"
    builder = llvm.create_pass_builder(_machine(jit=False), llvm.create_pipeline_tuning_options())
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.add_strip_dead_prototype_pass()
    passes.run(module, builder)
    missing = {each.name for each in (*module.functions, *module.global_variables) if each.is_declaration}
    missing = {name for name in missing if not name.startswith("llvm.")} - _OUTSIDE
    if missing:
        raise Unfit(f"it would need {', '.join(sorted(missing))} of numba at run time")
    return module


def _front(name: str, arguments: int) -> str:
    """Return a function that calls numba's with its arguments alone: numba's also takes two places for what it has to say."""
    given = ", ".join(f"i64 %a{i}" for i in range(arguments))
    return f"""
        declare i32 @"{name}"(ptr, ptr{", i64" * arguments})
        define i32 @{SYMBOL}({given}) {{
            %returned = alloca i64, align 8
            %raised = alloca i64, align 8
            %status = call i32 @"{name}"(ptr %returned, ptr %raised{", " * (arguments > 0)}{given})
            ret i32 %status
        }}
    """


def _machine(*, jit: bool) -> Any:
    """Return what writes code for this processor, with numba's settings."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    if not config.ENABLE_AVX:
        features.update({name: False for name in features if name.startswith("avx")})
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=config.CPU_NAME or llvm.get_host_cpu_name(),
        features=config.CPU_FEATURES if config.CPU_FEATURES is not None else features.flatten(),
        opt=3,
        reloc="pic",
        codemodel="jitdefault" if jit else "default",
        jit=jit,
    )


def _linker() -> list[str]:
    """Return the command that links a shared library.

    Raises
    ------
    OSError
        If none is installed.
    """
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return [path, "-shared"]
    for name in ("ld", "ld.lld"):
        if sys.platform == "linux" and (path := shutil.which(name)):
            return [path, "-shared"]
    raise OSError("no linker is installed")
