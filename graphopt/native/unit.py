"""Unit: what is compiled at once, and the name that its machine code goes by.

The name covers all that machine code depends on: the text, the modules it calls, the versions of the compilers, the
processor, and numba's settings in the environment. Nothing of this loads numba.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["SYMBOL", "Unit"]

#: The name of the function in a library.
SYMBOL = "graphopt_run"


@dataclass(frozen=True)
class Unit:
    """A function to compile.

    Attributes
    ----------
    text : str
        Python that defines ``run``.
    modules : dict
        The modules that the text calls, by the names it calls them; NumPy is ``np``.
    arguments : int
        How many integers ``run`` takes.
    also : tuple of str
        Further modules that those are made of.
    """

    text: str
    modules: Mapping[str, str] = field(default_factory=dict)
    arguments: int = 1
    also: tuple[str, ...] = ()

    @functools.cached_property
    def key(self) -> str:
        """The name of the machine code."""
        said = [self.text, repr(sorted(self.modules.items())), str(self.arguments), *_machine(), *_settings()]
        said += [_digest(name) for name in sorted({*self.modules.values(), *self.also, "graphopt.native.build"})]
        return hashlib.blake2b("\0".join(said).encode(), digest_size=16).hexdigest()


@functools.cache
def _digest(module: str) -> str:
    """Return a digest of a module's text, found without running it."""
    package, _, name = module.rpartition(".")
    parent = sys.modules.get(package)
    folders = list(parent.__path__) if parent is not None else [str(Path(__file__).parent)]
    file = Path(folders[0]) / f"{name}.py"
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


@functools.cache
def _machine() -> tuple[str, ...]:
    """Return the versions of the compilers and what is known of the processor."""
    versions = [importlib.metadata.version(name) for name in ("numba", "llvmlite", "numpy")]
    return (sys.version, *versions, platform.system(), platform.machine(), platform.processor(), *_processor())


def _processor() -> tuple[str, ...]:
    """Return the model and the features of the first processor, where the system says."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:
        return ()
    told = {"model name", "flags", "cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU variant", "Features"}
    return tuple(sorted(line for line in first.splitlines() if line.partition(":")[0].strip() in told))


def _settings() -> list[str]:
    return sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith("NUMBA_"))
