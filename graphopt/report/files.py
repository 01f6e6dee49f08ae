"""Results written to files: JSON and plots, checked before a long run rather than after it."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.report.errors import CommandError, import_extra

__all__ = ["check_writable", "pyplot", "write_json"]


def check_writable(path: str | None) -> None:
    """Raise a CommandError if no file can be written at ``path`` (``None`` and ``-`` always pass)."""
    if path is None or path == "-":
        return
    target = Path(path)
    if target.is_dir():
        raise CommandError(f"cannot write {path}: it is a directory")
    if not target.parent.is_dir():
        raise CommandError(f"cannot write {path}: there is no directory {target.parent}")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise CommandError(f"cannot write {path}: permission denied")


def write_json(path: str, value: Mapping[str, Any]) -> None:
    """Write ``value`` as JSON to a file, or to standard output for ``-``. What is not finite becomes null."""
    text = json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        Path(path).write_text(text, encoding="utf-8")


def _finite(value: Any) -> Any:
    """The value without NaN and infinity, for which JSON has no words."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pyplot() -> Any:
    """``matplotlib.pyplot`` drawing to files only, or a CommandError that names the extra to install."""
    matplotlib = import_extra("matplotlib", "plots")
    matplotlib.use("Agg")
    return import_extra("matplotlib.pyplot", "plots")
