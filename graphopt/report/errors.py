"""Errors meant for a person at a terminal: one line that says what is wrong and what to do."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["CommandError", "import_extra"]


class CommandError(Exception):
    """Ends a command with one line on standard error and no traceback.

    ``status`` is the exit status: 2 for a request that cannot be met, 1 for a run that found something wrong.
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def import_extra(module: str, extra: str) -> Any:
    """Import a package that only an extra of graphopt installs, or say which extra that is."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise CommandError(f"this needs {package} ({error}): pip install 'graphopt[{extra}]'") from error
