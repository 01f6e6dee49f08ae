"""The words everything else is written in: keys, graphs, refusals, and the errors of graphopt.

Nothing here does any work and nothing here imports the rest of graphopt, so every other module may import this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dask.typing import Key  # a string, bytes, an int, a float, or a (nested) tuple of those

from graphopt.spec import GraphNode, TaskRef

__all__ = [
    "ClusterError",
    "CycleError",
    "Graph",
    "GraphError",
    "GraphoptError",
    "GraphoptWarning",
    "Key",
    "MemoryLimitError",
    "MissingKeyError",
    "Node",
    "PolicyError",
    "Refusal",
    "Substitutions",
    "TraceError",
    "add_note",
]

#: What stands behind a key. A bare ``TaskRef`` is a future: data that dask already holds somewhere under that key.
Node = GraphNode | TaskRef

#: Which key takes the place of which.
Substitutions = dict[Key, Key | GraphNode]

#: A low-level graph. Passes take one and return another; they never change the one they were given.
Graph = Mapping[Any, Node]


class GraphoptError(Exception):
    """The base of every error that graphopt raises on purpose."""


class ClusterError(GraphoptError, RuntimeError):
    """A call that a cluster cannot finish; the message names what was lost."""


class GraphError(GraphoptError, ValueError):
    """A graph that no scheduler could run; the message names the key and the remedy."""

    def __init__(self, message: str, key: Key | None = None) -> None:
        super().__init__(message)
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:  # by default exceptions pickle with their args only, and lose the key
        return type(self), (self.args[0], self.key)


class CycleError(GraphError):
    """A task that depends on itself, directly or through others."""


class MissingKeyError(GraphError, KeyError):
    """A task or a request names a key that the graph does not hold."""

    __str__ = Exception.__str__  # KeyError would print the repr of the message


class MemoryLimitError(MemoryError, GraphoptError):  # in this order it can be sent by workers: see tblib and tp_new
    """A replay that would hold more than it may; the message says how much and what to do."""


class PolicyError(GraphoptError, ValueError):
    """A policy whose values make no sense; the message names the field."""


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an error."""
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:  # Python 3.10
        error.__notes__ = [*getattr(error, "__notes__", []), note]  # type: ignore[attr-defined]


class TraceError(GraphoptError, TypeError):
    """A function that cannot be compiled as it is written; the message says what to do instead."""


class GraphoptWarning(UserWarning):
    """graphopt could not do its work and left the graph as it was."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pass left a task as it was.

    Parameters
    ----------
    key
        The task that was not rewritten.
    rewrite
        The pass that refused, by name.
    reason
        One sentence that says why.
    """

    key: Key
    rewrite: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rewrite}: {self.key!r}: {self.reason}"
