"""SharedGraph: a graph that points at the graphs it grew from instead of copying them.

::

    x = SharedGraph({"x": Task("x", load)})
    y = SharedGraph({"y": Task("y", inc, TaskRef("x"))}, [x])      # holds one task and a reference

It is the mapping that one would get by updating an empty dictionary with each parent in turn and then with the graph's own
tasks. Building it costs what is its own; reading it costs what is touched. Nothing here recurses: chains of 100 000 are real.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from types import MappingProxyType
from typing import Any, cast

from dask.highlevelgraph import HighLevelGraph, Layer

from graphopt.graph import as_node, check_graph, dependencies, flatten_keys
from graphopt.types import Key, MissingKeyError

__all__ = ["SharedGraph"]

#: So many steps from graph to parent may be taken by lookups before it is asked whether an index would have been cheaper.
_STEPS = 256
#: What is not copied: dask's own, and what somebody has wrapped to say that it does not change.
_FIXED = (HighLevelGraph, Layer, MappingProxyType)
_NOTHING: Mapping[Key, Any] = MappingProxyType({})


class SharedGraph(Mapping[Key, Any]):
    """An immutable dask graph that shares what it grew from.

    Parameters
    ----------
    own : Mapping
        The tasks that are new. A dictionary is copied, which costs its length; a high-level graph, one of its layers, or a
        ``types.MappingProxyType`` is taken not to change and is referred to.
    parents : iterable of Mapping
        What it grew from. Where keys are in several, own tasks win over parents and later parents over earlier ones, as in a
        dictionary that is updated with one after the other.

    Notes
    -----
    With nothing of its own and one parent that is a `SharedGraph`, it is that parent. It is a dask graph wherever a mapping
    is one: a collection's ``__dask_graph__``, or an argument of a scheduler's ``get``.

    Examples
    --------
    >>> from dask.task_spec import Task, TaskRef
    >>> from graphopt import SharedGraph
    >>> x = SharedGraph({"x": Task("x", int, 1)})
    >>> y = SharedGraph({"y": Task("y", float, TaskRef("x"))}, [x])
    >>> list(y), y.parents[0] is x, SharedGraph({}, [y]) is y
    (['x', 'y'], True, True)
    """

    __slots__ = ("__weakref__", "_index", "_length", "_limit", "_own", "_parents", "_steps")

    _own: Mapping[Key, Any]
    _parents: tuple[SharedGraph, ...]
    _index: dict[Key, Any] | None
    _length: int | None
    _steps: int
    _limit: int

    def __new__(cls, own: Mapping[Key, Any] = _NOTHING, parents: Iterable[Mapping[Key, Any]] = ()) -> SharedGraph:
        """Make a graph, or return the parent that it would be."""
        graphs = [parent if isinstance(parent, SharedGraph) else _graph(parent, ()) for parent in parents]
        if isinstance(own, SharedGraph):
            graphs.append(own)
            own = _NOTHING
        if not own and graphs and all(graph is graphs[0] for graph in graphs):
            return graphs[0]
        return _graph(own, tuple(graphs))

    @property
    def own(self) -> Mapping[Key, Any]:
        """The tasks that are new in this graph."""
        return MappingProxyType(self._own) if type(self._own) is dict else self._own

    @property
    def parents(self) -> tuple[SharedGraph, ...]:
        """The graphs that it grew from."""
        return self._parents

    # -- a mapping -----------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Key) -> Any:
        if self._index is not None:
            return self._index[key]
        steps = 0
        for graph in self._inwards(indexed=True):
            steps += 1
            held = graph._own if graph._index is None else graph._index
            try:
                found = held[key]
            except KeyError:
                continue
            self._walked(steps)
            return found
        self._walked(steps)
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        try:
            self[cast("Key", key)]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[Key]:
        if self._index is not None:
            yield from self._index
            return
        seen: set[Key] = set()
        for graph in self._outwards():
            for key in graph._own:
                if key not in seen:
                    seen.add(key)
                    yield key

    def __len__(self) -> int:
        if self._length is None:
            self._length = len(self._own) if not self._parents else sum(1 for _ in self)
        return self._length

    def items(self) -> ItemsView[Key, Any]:
        """Return the keys and tasks, in one walk."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """Return the tasks, in one walk."""
        return _Values(self)

    def __bool__(self) -> bool:
        return any(graph._own for graph in self._inwards())

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Mapping):
            return NotImplemented
        return len(self) == len(other) and self.to_dict() == (
            other.to_dict() if isinstance(other, SharedGraph) else dict(other.items())
        )

    __hash__ = None  # type: ignore[assignment]  # as of any mapping that compares by content

    def __repr__(self) -> str:
        count = sum(1 for _ in self._inwards()) - 1
        return f"<SharedGraph: {len(self._own)} tasks of its own, {count} graphs that it grew from>"

    def __reduce__(self) -> Any:
        order = list(self._outwards())
        place = {id(graph): i for i, graph in enumerate(order)}
        owns = [dict(graph._own) if isinstance(graph._own, MappingProxyType) else graph._own for graph in order]
        return _rebuilt, (owns, [[place[id(parent)] for parent in graph._parents] for graph in order])

    def copy(self) -> dict[Key, Any]:
        """Return a dictionary: who asks for a copy, as dask does, wants to change it."""
        return self.to_dict()

    def __copy__(self) -> SharedGraph:
        return self

    def __deepcopy__(self, memo: Any) -> SharedGraph:
        return self

    # -- what one does with graphs -------------------------------------------------------------------------------------

    def to_dict(self) -> dict[Key, Any]:
        """Return the dictionary that the graph stands for."""
        if self._index is not None:
            return dict(self._index)
        out: dict[Key, Any] = {}
        total = 0
        for graph in self._outwards():
            out.update(graph._own)
            total += len(graph._own)
        if len(out) != total:  # some key is in several graphs: the other walk knows which one counts
            winners: dict[Key, Any] = {}
            for graph in self._inwards():
                for key, node in graph._own.items():
                    winners.setdefault(key, node)
            out = {key: winners[key] for key in out}
        self._length = len(out)
        return out

    def flatten(self) -> SharedGraph:
        """Return the same graph without parents; the graph itself if it has none."""
        return self if not self._parents else SharedGraph(self.to_dict())

    def merge(self, *others: Mapping[Key, Any]) -> SharedGraph:
        """Return this graph updated with others, by reference; the graph itself if there is nothing new."""
        return SharedGraph({}, [self, *[other for other in others if other]])

    def cull(self, keys: Any) -> SharedGraph:
        """Return only what the keys need; the graph itself if that is all of it.

        Parameters
        ----------
        keys
            A key, or nested lists of keys.

        Raises
        ------
        MissingKeyError
            If a key is not in the graph. What a task reads need not be: futures are not.
        """
        wanted = flatten_keys(keys)
        found: dict[Key, Any] = {}
        stack = wanted[::-1]
        asked = set(wanted)
        while stack:
            key = stack.pop()
            if key in found:
                continue
            try:
                node = self[key]
            except KeyError:
                if key in asked:
                    raise MissingKeyError(f"There is no task {key!r} in the graph, which has {len(self)}.") from None
                continue
            found[key] = node
            stack.extend([dep for dep in dependencies(as_node(key, node, self)) if dep not in found])
        if len(found) == len(self):
            return self
        return SharedGraph(dict(reversed(found.items())))

    def _check(self) -> None:
        """Assert what must hold: no cycles, every key where its task says, and the two walks agree."""
        graph = {key: as_node(key, node, self) for key, node in self.items()}
        check_graph(graph, complete=False)
        assert list(graph) == list(self), "the walks differ"
        assert len(graph) == len(self)
        assert all(self[key] is node for key, node in list(self.items())[:100])

    # -- walks ---------------------------------------------------------------------------------------------------------

    def _inwards(self, *, indexed: bool = False) -> Iterator[SharedGraph]:
        """Yield each graph once, this one first, in the order in which the first that has a key is the one that counts.

        With ``indexed``, what an index covers is left out.
        """
        if not self._parents:
            yield self
            return
        stack, seen = [self], set()
        while stack:
            graph = stack.pop()
            if id(graph) not in seen:
                seen.add(id(graph))
                yield graph
                if graph._index is None or not indexed:
                    stack.extend(graph._parents)

    def _outwards(self) -> Iterator[SharedGraph]:
        """Yield each graph once, after all that it grew from: what tasks read comes before them."""
        if not self._parents:
            yield self
            return
        seen: set[int] = set()
        stack: list[tuple[SharedGraph, bool]] = [(self, False)]
        while stack:
            graph, ready = stack.pop()
            if ready:
                yield graph
            elif id(graph) not in seen:
                seen.add(id(graph))
                stack.append((graph, True))
                stack.extend([(parent, False) for parent in reversed(graph._parents) if id(parent) not in seen])

    def _walked(self, steps: int) -> None:
        """Note how far a lookup went. Who looks up often in a long history gets an index, once it has paid for itself."""
        self._steps += steps
        if self._steps > self._limit:
            self._limit = sum(len(graph._own) + 1 for graph in self._inwards())
            if self._steps > self._limit:
                self._index = self.to_dict()


class _Items(ItemsView[Key, Any]):
    _mapping: SharedGraph

    def __iter__(self) -> Iterator[tuple[Key, Any]]:
        return iter(self._mapping.to_dict().items())


class _Values(ValuesView[Any]):
    _mapping: SharedGraph

    def __iter__(self) -> Iterator[Any]:
        return iter(self._mapping.to_dict().values())


def _graph(own: Mapping[Key, Any], parents: tuple[SharedGraph, ...]) -> SharedGraph:
    """Make a graph as it is asked for."""
    self: SharedGraph = object.__new__(SharedGraph)
    self._own = own if isinstance(own, _FIXED) else dict(own)
    self._parents = parents
    self._index = self._length = None
    self._steps, self._limit = 0, _STEPS
    return self


def _rebuilt(owns: list[Mapping[Key, Any]], parents: list[list[int]]) -> SharedGraph:
    """Make a graph of all that it grew from, in an order in which each comes after its parents."""
    graphs: list[SharedGraph] = []
    for own, places in zip(owns, parents, strict=True):
        graphs.append(_graph(own, tuple([graphs[place] for place in places])))
    return graphs[-1]
