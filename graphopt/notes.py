"""Notes: which of the user's keys was being computed when a kernel failed, and by which of its lines."""

from __future__ import annotations

import ast
import itertools
import linecache
import re
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from graphopt.types import Key, add_note

__all__ = ["explain_error"]

_AXES = re.compile(r"(_\.\d+)+$")


def explain_error(error: BaseException, kernel: Any, labels: tuple[Any, ...], key: Key) -> None:
    """Add to an error which of the user's keys was being computed, and by which line."""
    found: list[str] = []
    line, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename.startswith("<graphopt ") and code.co_name == kernel.name and trace.tb_lineno in kernel.lines:
            line = linecache.getline(code.co_filename, trace.tb_lineno).strip()
            steps = kernel.lines[trace.tb_lineno]
            failed = _failed(trace, line, len(steps))
            steps = steps if failed is None else (steps[failed],)
            found = list(dict.fromkeys([_shown(labels[step], inner) for step, inner in steps if step < len(labels)]))
            # A lane inside a batch: its own kernel knows better.
            called = kernel.constants.get(_called(line))
            if hasattr(called, "lines") and isinstance(labels[steps[-1][0]], list):
                kernel, labels = called, tuple(labels[steps[-1][0]])
        trace = trace.tb_next
    if not found:
        return
    keys = f"key {found[0]}" if len(found) == 1 else f"one of the keys {' and '.join(found)}"
    note = f"graphopt: while computing {keys}, in the fused task {key!r}: {line}"
    add_note(error, note)


def _shown(key: Any, inner: Any) -> str:
    # dask names the steps that it merges after their layer and the axes they run along.
    return f"{key!r}" if inner is None else f"{key!r}, inside it {re.sub(_AXES, '', str(inner))!r}"


def _failed(trace: TracebackType, line: str, count: int) -> int | None:
    """Say which of the calls on a line failed, counted in the order in which they run; None where that cannot be told."""
    positions = getattr(trace.tb_frame.f_code, "co_positions", None)
    if count == 1 or positions is None:  # Python 3.10 does not know
        return 0 if count == 1 else None
    _, _, start, end = next(itertools.islice(positions(), trace.tb_lasti // 2, None))
    calls = [(node.col_offset + 4, node.end_col_offset + 4) for node in _calls(ast.parse(line))]
    return calls.index((start, end)) if len(calls) == count and (start, end) in calls else None


def _calls(node: ast.AST) -> Iterator[Any]:
    """Yield the calls and operations of an expression in the order in which they run; those of literals are none."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        return
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("slice", "set"):
        return
    for child in ast.iter_child_nodes(node):
        yield from _calls(child)
    if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Compare, ast.Subscript, ast.Call)):
        yield node


def _called(line: str) -> str:
    return line.partition(" = ")[2].partition("(")[0] or line.removeprefix("return ").partition("(")[0]
