"""Child: another process that compiles, so that this one need not load a compiler.

The two talk in lines of JSON. The child is started for the first unit, kept for the next ones, which usually follow at
once, and goes when nothing has come for some seconds or the parent has gone.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["Child", "NoChild"]

#: Seconds after which a child without work ends.
_PATIENCE = 10.0
#: Seconds after which a child that does not answer is given up.
_DEADLINE = 120.0

# Packages are given to the child by their folders alone: what stands in their ``__init__`` loads dask.
_START = """
import json, sys, types
path, folder = json.loads(sys.argv[1])
sys.path[:] = path
for name, place in (("graphopt", folder), ("graphopt.native", folder + "/native")):
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = [place]
from graphopt.native.child import serve
serve()
"""


class NoChild(Exception):
    """No other process can compile."""


class Child:
    """The process that compiles for this one, started when it is needed. Threads take turns."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        atexit.register(self.end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def library(self, text: str, modules: Mapping[str, str], arguments: int, path: str) -> str | None:
        """Have a text compiled to a library at a path; return None, or one sentence that says why it cannot be.

        Raises
        ------
        NoChild
            If the other process cannot be started, has died, or cannot link.
        """
        request = json.dumps([text, dict(modules), arguments, path])
        with self._lock:
            answer = self._ask(request) or self._ask(request)  # a child that waited may have gone in this very moment
        if answer is None:
            raise NoChild("the process that compiles has died")
        kind, said = answer
        if kind == "failed":
            raise NoChild(said)
        return said if kind == "unfit" else None

    def _ask(self, request: str) -> tuple[str, str] | None:
        if self._process is not None and self._process.poll() is not None:
            self.end()
        if self._process is None:
            self._process = _started()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        watch = threading.Timer(_DEADLINE, process.kill)
        watch.daemon = True
        watch.start()
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            answer = json.loads(line) if line else None
        except (OSError, ValueError):
            answer = None
        except BaseException:  # Ctrl-C: an answer may still come, and is not to be taken for the next one's
            self.end()
            raise
        finally:
            watch.cancel()
        if answer is None:
            self.end()
            return None
        return answer[0], answer[1]

    def end(self) -> None:
        """End the process if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with contextlib.suppress(OSError), process:  # closes the pipes and waits
                pass

    def _forget(self) -> None:
        """Start anew in a process that was forked: the child is the parent's, and a lock may have been held."""
        self._lock = threading.Lock()
        if self._process is not None:
            self._process.returncode = 0  # nothing to wait for here
            self._process = None


def _started() -> subprocess.Popen[str]:
    if "python" not in Path(sys.executable or "").name.lower():
        raise NoChild(f"{sys.executable!r} is not Python")  # but a program that Python is part of
    folder = str(Path(__file__).resolve().parents[1])
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps([sys.path, folder])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which decides
        )
    except (OSError, ValueError) as error:
        raise NoChild(str(error)) from error


def serve() -> None:
    """Compile what comes in, until nothing more does. What runs in the other process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints must not get in between
    idle = _restarted(None)
    for line in sys.stdin:
        if idle is not None:
            idle.cancel()
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(_answer(*json.loads(line))), file=answers, flush=True)
        idle = _restarted(idle)
    os._exit(0)


def _restarted(idle: threading.Timer | None) -> threading.Timer:
    timer = threading.Timer(_PATIENCE, os._exit, [0])
    timer.daemon = True
    timer.start()
    return timer


def _answer(text: str, modules: Mapping[str, str], arguments: int, path: str) -> tuple[str, Any]:
    try:
        _without_front(modules)
        from graphopt.native.build import Unfit, library

        try:
            library(text, modules, arguments, path)
            return "done", ""
        except Unfit as unfit:
            return "unfit", str(unfit)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"


def _without_front(modules: Mapping[str, str]) -> None:
    """Let our modules be imported without what their packages import first."""
    for module in modules.values():
        parts = module.split(".")
        for i in range(2, len(parts)):
            name = ".".join(parts[:i])
            if parts[0] == "graphopt" and name not in sys.modules:
                package = sys.modules[name] = ModuleType(name)
                package.__path__ = [f"{sys.modules['.'.join(parts[: i - 1])].__path__[0]}/{parts[i - 1]}"]
