"""Sharing: dask operations that point at the layers of what they work on instead of copying the list of them.

Each operation of dask.array, bag or Delayed makes a high-level graph: its own layer, and a copy of the dictionaries that hold
all layers before it. The hundredth operation copies a hundred entries, the ten-thousandth ten thousand. Within `sharing`,
those dictionaries are `SharedGraph`, which hold the new entry and refer to the old ones.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from dask.base import is_dask_collection
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from graphopt.building import building
from graphopt.shared import SharedGraph
from graphopt.types import GraphoptWarning

__all__ = ["sharing"]

_ON: ContextVar[bool] = ContextVar("graphopt_sharing", default=False)
_LOCK = threading.Lock()
_DEPTH = [0]  # how many contexts are open, in all threads
_THEIRS: list[Any] = []  # dask's own method, while ours is in its place


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Let the graphs of dask operations share layers with those they come from: an operation costs the same after any history.

    Notes
    -----
    Only code inside, in this thread or asyncio task, is affected, and dask is as it was when the last context is left. What was
    built inside stays valid outside. What dask asks about NumPy's functions at each operation is asked once. `optimized` does
    this too. Graphs built so are pickled with a reference to graphopt, so a cluster's scheduler must be able to import it.

    Where dask's internals are not as we know them, there is a warning and dask works on as it does.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.ones(4, chunks=2)
    >>> with sharing():
    ...     for _ in range(1_000):
    ...         x = x + 1
    >>> len(x.dask.layers)
    1001
    """
    works = _enter()
    token = _ON.set(works)
    try:
        with building():
            yield
    finally:
        _ON.reset(token)
        if works:
            _leave()


def _enter() -> bool:
    with _LOCK:
        if not _DEPTH[0]:
            why = _unknown()
            if why is not None:
                warnings.warn(
                    f"dask's graphs are not as graphopt knows them ({why}): operations copy their layers, as dask does.",
                    GraphoptWarning,
                    stacklevel=4,
                )
                return False
            _THEIRS[:] = [HighLevelGraph.__dict__["from_collections"]]
            HighLevelGraph.from_collections = classmethod(_from_collections)  # type: ignore[assignment, method-assign]
        _DEPTH[0] += 1
        return True


def _leave() -> None:
    with _LOCK:
        _DEPTH[0] -= 1
        if not _DEPTH[0]:
            HighLevelGraph.from_collections = _THEIRS[0]  # type: ignore[method-assign]


def _unknown() -> str | None:
    """Say what is not as we know it; None if all is: graphs made our way are those that dask makes."""
    theirs = HighLevelGraph.__dict__.get("from_collections")
    if not isinstance(theirs, classmethod):
        return "HighLevelGraph.from_collections is gone"
    if list(inspect.signature(theirs.__func__).parameters) != ["cls", "name", "layer", "dependencies"]:
        return "HighLevelGraph.from_collections takes other arguments"
    first = theirs.__func__(HighLevelGraph, "a", {"a": 1})
    wanted = theirs.__func__(HighLevelGraph, "b", {"b": (abs, "a")}, [_Holder(first)])
    found = _shared(HighLevelGraph, "b", {"b": (abs, "a")}, [_Holder(first)])
    if found is None or vars(found).keys() != vars(wanted).keys():
        return "a HighLevelGraph holds other things"
    if any(dict(getattr(found, name)) != dict(getattr(wanted, name)) for name in ("dependencies", "key_dependencies")):
        return "a HighLevelGraph holds its dependencies otherwise"
    return None if dict(found) == dict(wanted) and found.layers.keys() == wanted.layers.keys() else "its layers differ"


class _Holder:
    """The least that is a collection."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph

    def __dask_graph__(self) -> Any:
        return self.graph

    def __dask_layers__(self) -> tuple[str, ...]:
        return ("a",)

    def __dask_keys__(self) -> list[Any]:
        return ["a"]

    __dask_postcompute__ = __dask_postpersist__ = __dask_keys__


def _from_collections(cls: Any, name: str, layer: Any, dependencies: Sequence[Any] = ()) -> Any:
    """Do as dask's method does, by reference where we are asked to and know how."""
    found = _shared(cls, name, layer, dependencies) if _ON.get() else None
    if found is not None:
        return found
    theirs: Callable[..., Any] = _THEIRS[0].__func__
    return theirs(cls, name, layer, dependencies)


def _shared(cls: Any, name: str, layer: Any, dependencies: Sequence[Any]) -> Any:
    if cls is not HighLevelGraph:
        return None
    graphs: list[Any] = []
    names: set[str] = set()
    for collection in {id(collection): collection for collection in dependencies}.values():
        graph = collection.__dask_graph__() if is_dask_collection(collection) else None
        if not isinstance(graph, HighLevelGraph):
            return None
        graphs.append(graph)
        names.update(collection.__dask_layers__())
    made: Any = object.__new__(HighLevelGraph)
    own = layer if isinstance(layer, Layer) else MaterializedLayer(layer)
    made.layers = SharedGraph({name: own}, [_by_reference(graph.layers) for graph in graphs])
    made.dependencies = SharedGraph({name: names}, [_by_reference(graph.dependencies) for graph in graphs])
    made.key_dependencies = {}
    return made


def _by_reference(layers: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return a dictionary as one that need not be copied: dask does not change what is in a graph."""
    return MappingProxyType(layers) if type(layers) is dict else layers
