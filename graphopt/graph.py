"""Every kind of dask graph, brought to one form; and the questions one asks of a graph.

The one form is a plain ``{key: node}`` where a node is a ``GraphNode`` of dask's task spec, or a future (a ``TaskRef``
that dask resolves). High-level graphs, array expressions, collections and legacy ``(func, arg)`` tuples all come down
to it. Annotations, which live on the layers of a high-level graph, are read out beside it.

All functions are pure and linear in tasks and edges. The file is a little long: how graphs are read, and in which order, is one
matter, and what is asked of them all passes ask.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, cast

from dask.utils import key_split

from graphopt.blockwise import blocks
from graphopt.spec import Alias, DataNode, GraphNode, List, Task, TaskRef
from graphopt.types import CycleError, Graph, GraphError, Key, MissingKeyError, Node

__all__ = [
    "as_node",
    "check_graph",
    "dependencies",
    "dependents",
    "flatten_keys",
    "holds",
    "is_constant",
    "key_name",
    "layer_order",
    "merged",
    "normalise",
    "read",
    "toposort",
]

_NONE: frozenset[Key] = frozenset()

#: Above this many layers dask's own merging of Blockwise layers, which is quadratic, costs more than it saves.
_MERGE_LAYERS = 300


def flatten_keys(keys: Any) -> list[Key]:
    """List the keys in a nested list of keys, in order, each once.

    >>> flatten_keys([["a", ("x", 0)], "b", "a"])
    ['a', ('x', 0), 'b']
    """
    out: dict[Key, None] = {}
    stack = [keys]
    while stack:
        item = stack.pop()
        if isinstance(item, (list, set, frozenset)):
            stack.extend(reversed(list(item)))
        else:
            out[item] = None
    return list(out)


def dependencies(node: Node) -> frozenset[Key]:
    """Return the keys a node reads; a future reads nothing, it is already there."""
    return node.dependencies if isinstance(node, GraphNode) else _NONE


def key_name(key: Key | None) -> str:
    """Name what a key belongs to, as dask does: ``'exp'`` for ``('exp-1a2b', 0)``; ``'x'`` where dask cannot say."""
    try:
        return str(key_split(key))
    except (IndexError, UnicodeDecodeError):  # an empty tuple, or bytes that are no text
        return "x"


def is_constant(node: Node) -> bool:
    """Say whether a node is data that is already there: a literal or a future."""
    return isinstance(node, (DataNode, TaskRef))


def holds(graph: Graph, kinds: type | tuple[type, ...]) -> bool:
    """Say whether a graph has nodes of these types: few types are asked about, not each node."""
    return any([issubclass(kind, kinds) for kind in set(map(type, graph.values()))])


def dependents(graph: Graph) -> dict[Key, list[Key]]:
    """Map each key of the graph to the keys that read it, in the graph's own order."""
    out: dict[Key, list[Key]] = {key: [] for key in graph}
    for key, node in graph.items():
        if isinstance(node, GraphNode):
            for dep in node.dependencies:
                if dep in out:
                    out[dep].append(key)
    return out


def toposort(graph: Graph) -> list[Key]:
    """List the keys so that each comes after all it reads; raise `CycleError` where that cannot be.

    Ties keep the graph's own order, never the order of names, so that renaming keys does not change a result. A graph
    that is in order already, as nearly all are, is only read through.
    """
    if _in_order(graph):
        return list(graph)
    out: dict[Key, None] = {}
    place = {key: i for i, key in enumerate(graph)}

    def inputs(key: Key) -> Iterator[Key]:
        """List what a task reads in the graph's order: sets are in another order in every process."""
        return iter(sorted([dep for dep in dependencies(graph[key]) if dep in place], key=place.__getitem__))

    for root in graph:
        if root in out:
            continue
        # Depth first with an explicit stack: chains of 100 000 tasks are real, recursion limits are too.
        stack = [(root, inputs(root))]
        open_keys = {root}
        while stack:
            key, deps = stack[-1]
            for dep in deps:
                if dep in out:
                    continue
                if dep in open_keys:
                    cycle = [k for k, _ in stack]
                    raise _cycle([*cycle[cycle.index(dep) :], dep])
                stack.append((dep, inputs(dep)))
                open_keys.add(dep)
                break
            else:
                stack.pop()
                open_keys.discard(key)
                out[key] = None
    return list(out)


def _in_order(graph: Graph) -> bool:
    seen: set[Key] = set()
    for key, node in graph.items():
        if isinstance(node, GraphNode):
            deps = node.dependencies
            if deps and not deps <= seen and any([dep not in seen and dep in graph for dep in deps]):
                return False
        seen.add(key)
    return True


def _cycle(path: list[Key]) -> CycleError:
    shown = path if len(path) <= 8 else [*path[:4], "...", *path[-3:]]
    return CycleError(
        f"The graph has a cycle: {' <- '.join(map(repr, shown))}. "
        f"A task cannot wait for its own result: give the task behind {path[0]!r} another key, or remove the reference.",
        path[0],
    )


def check_graph(graph: Graph, keys: Iterable[Key] = (), *, complete: bool = True) -> None:
    """Raise a `GraphError` that names key and remedy if no scheduler could run this graph.

    Parameters
    ----------
    graph
        A normalised graph.
    keys
        The keys that are asked for.
    complete
        Whether every key that is read must be in the graph. Inside dask it need not be: results that a cluster
        already holds are referred to by key alone.
    """
    before: set[Key] = set()
    in_order = True
    for key, node in graph.items():
        reads = _NONE
        if isinstance(node, Task):
            reads = node.dependencies
            if not callable(node.func):
                raise GraphError(
                    f"The task {key!r} calls {node.func!r}, which is not callable. "
                    "A task is Task(key, function, *arguments); wrap plain data in DataNode(key, data).",
                    key,
                )
        elif not isinstance(node, (GraphNode, TaskRef)):
            raise GraphError(f"{key!r} stands for a {type(node).__name__}, not a node; pass the graph through normalise()", key)
        else:
            reads = dependencies(node)
        if reads and not before.issuperset(reads):
            late = [dep for dep in reads if dep not in before]
            if complete and (missing := [dep for dep in late if dep not in graph]):
                raise _missing(missing[0], graph, f"the task {key!r} reads")
            in_order = False
        before.add(key)
    if complete:
        for key in keys:
            if key not in graph:
                raise _missing(key, graph, "you asked for")
    if not in_order:
        toposort(graph)


def _missing(key: Key, graph: Graph, who: str) -> MissingKeyError:
    import difflib

    near = difflib.get_close_matches(str(key), [str(k) for k in graph], n=1) if len(graph) <= 10_000 else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return MissingKeyError(
        f"{who[0].upper()}{who[1:]} {key!r}, which is not in the graph.{hint} "
        "Add it, or name it in futures=[...] if a cluster holds its result.",
        key,
    )


def normalise(graph: Any, keys: Iterable[Key] = (), *, merge_layers: bool = True) -> dict[Key, Node]:
    """Bring any dask collection or graph to ``{key: node}``.

    Parameters
    ----------
    graph
        A dask collection, a high-level graph, an expression, or a mapping of keys to nodes, legacy tasks, futures
        or plain data.
    keys
        The keys that will be asked for. Of a high-level graph only what these need is materialised; without keys,
        everything is.
    merge_layers
        Let dask merge neighbouring Blockwise layers before they are materialised. The merged tasks share one inner
        graph by identity, which halves the tasks to make and lets us look at each inner graph once.

    Returns
    -------
    dict
        A new mapping. The nodes are those of the input wherever they need no change.

    Raises
    ------
    GraphError
        If ``graph`` is none of the above.

    Examples
    --------
    >>> from operator import add
    >>> normalise({"x": 1, "y": (add, "x", 2)})
    {'x': DataNode(1), 'y': <Task 'y' add(Alias('x'), 2)>}
    """
    return read(graph, keys, merge_layers=merge_layers)[0]


def read(
    graph: Any, keys: Iterable[Key] = (), *, merge_layers: bool = True
) -> tuple[dict[Key, Node], dict[Key, dict[str, Any]]]:
    """Do as `normalise` does, and return the annotations (retries, resources, workers, priority ...) by key beside it.

    Annotations that are functions of the key are called here, once; keys without annotations are left out.
    """
    from dask.highlevelgraph import HighLevelGraph

    if not isinstance(graph, Mapping):
        if hasattr(graph, "__dask_graph__"):
            graph = graph.__dask_graph__()
        if not isinstance(graph, Mapping):
            raise GraphError(
                f"Cannot read a graph from a {type(graph).__name__}: pass a dask collection, "
                "a HighLevelGraph or a mapping of keys to tasks."
            )
    if isinstance(graph, HighLevelGraph):
        return _read_layers(graph, list(keys), merge_layers)
    # Nearly all nodes are tasks under their own keys, and need no look.
    changed = {key: as_node(key, value, graph) for key, value in graph.items() if type(value) is not Task or value.key != key}
    return {**graph, **changed}, {}


def _read_layers(graph: Any, keys: list[Key], merge_layers: bool) -> tuple[dict[Key, Node], dict[Key, dict[str, Any]]]:
    """Materialise a high-level graph from its last layer to its first, each layer for the keys that are needed."""
    if merge_layers:
        graph = merged(graph, keys)
    all_keys = _AllKeys(graph)
    nodes: dict[Key, Node] = {}
    notes: dict[Key, dict[str, Any]] = {}
    needed = set(keys)
    layers = dict(graph.layers.items())
    for name in reversed(layer_order(graph, keys)):
        layer = layers[name]
        if not keys:
            found = {k: as_node(k, v, all_keys) for k, v in layer.items()}
        elif (made := blocks(layer, needed)) is not None:
            found = dict(reversed(made.items()))
            for node in made.values():
                needed.update(node.dependencies)
        else:
            found = _reachable(_narrow(layer, needed, all_keys), needed, all_keys)
        if annotations := getattr(layer, "annotations", None):
            for key in found:
                notes[key] = {what: value(key) if callable(value) else value for what, value in annotations.items()}
        nodes.update(found)
    return dict(reversed(nodes.items())), notes


def merged(graph: Any, keys: list[Key]) -> Any:
    """Let dask merge neighbouring Blockwise layers of a high-level graph, of which these keys are asked for."""
    if not keys or len(graph.layers) > _MERGE_LAYERS:
        return graph
    from dask.blockwise import optimize_blockwise

    return optimize_blockwise(graph, keys=keys)


class _AllKeys:
    """The keys of all layers, counted only when a legacy task makes us ask."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._keys: set[Key] | None = None

    def __contains__(self, key: object) -> bool:
        if self._keys is None:
            # Not layer.keys(): that would make dask materialise every layer.
            self._keys = set().union(*[layer.get_output_keys() for layer in self._graph.layers.values()])
        return key in self._keys


def layer_order(graph: Any, keys: Iterable[Key] = ()) -> list[str]:
    """List the layers so that each comes after those it depends on: in the order of what is asked for, and of arguments.

    dask keeps dependencies in sets, and names layers by digests: both would give another order in every process, and what we
    generate, and keep on disk, another text. Names decide only where nothing else does.
    """
    layers, depends = graph.layers, graph.dependencies
    out: dict[str, None] = {}

    def visit(roots: Iterable[Any]) -> None:
        stack = [(name, False) for name in reversed(list(roots)) if name in depends]
        while stack:
            name, done = stack.pop()
            if done:
                out[name] = None
            elif name not in out:
                stack.append((name, True))
                below = depends.get(name, ())
                if len(below) > 1:
                    below = dict.fromkeys([*_arguments(layers[name], below), *_by_name(below)])
                stack.extend([(dep, False) for dep in reversed(list(below)) if dep not in out])

    visit(dict.fromkeys(key[0] if isinstance(key, tuple) and key else key for key in keys))
    if len(out) < len(depends):
        visit(_by_name(depends))
    return list(out)


def _by_name(names: Iterable[Any]) -> list[Any]:
    return sorted(names, key=lambda name: (key_name(name), str(name)))


def _arguments(layer: Any, below: Collection[Any]) -> list[Any]:
    """List the layers that a Blockwise layer reads, in the order of its arguments; none for other layers."""
    return [name for name, index in getattr(layer, "indices", ()) if index is not None and name in below]


def _narrow(layer: Any, needed: set[Key], all_keys: _AllKeys) -> Mapping[Key, Any]:
    """Cut a layer that is not materialised yet down to the blocks that are needed."""
    if getattr(layer, "is_materialized", lambda: True)():
        return cast("Mapping[Key, Any]", layer)
    wanted = needed.intersection(layer.get_output_keys())
    if len(wanted) == len(layer):
        return cast("Mapping[Key, Any]", layer)
    if not wanted:
        return {}
    return cast("Mapping[Key, Any]", layer.cull(wanted, all_keys)[0])


def _reachable(layer: Mapping[Key, Any], needed: set[Key], all_keys: Any) -> dict[Key, Node]:
    """Take from a layer what is needed, directly or by other tasks of the layer, and note what that needs in turn."""
    out: dict[Key, Node] = {}
    mapping = layer if isinstance(layer, dict) else dict(layer)
    work = [key for key in mapping if key in needed]
    place: dict[Key, int] = {}
    while work:
        key = work.pop()
        if key in out:
            continue
        out[key] = node = as_node(key, mapping[key], all_keys)
        deps = dependencies(node)
        needed |= deps
        inside = [dep for dep in deps if dep in mapping and dep not in out]
        if len(inside) > 1:  # in the layer's order, not in that of a set
            place = place or {key: i for i, key in enumerate(mapping)}
            inside.sort(key=place.__getitem__)
        work += inside
    return out


def as_node(key: Key, value: Any, all_keys: Any) -> Node:
    """Bring a node, a future, a legacy task or plain data to a node with this key, by dask's own rules."""
    if isinstance(value, Alias):
        # An alias of itself is how dask writes "the cluster already holds this key".
        return TaskRef(key) if value.target == key else value if value.key == key else Alias(key, value.target)
    if isinstance(value, GraphNode):
        return value if value.key == key else value.substitute({}, key=key)
    if isinstance(value, TaskRef):
        return value
    if getattr(value, "__dask_future__", False):
        return TaskRef(value.key)
    if type(value) is tuple and len(value) == 2 and callable(value[0]):
        blocks_read = _list_of_keys(value[1], all_keys)
        if blocks_read is not None:
            return Task(key, value[0], blocks_read)
    from dask._task_spec import convert_legacy_task

    node = convert_legacy_task(key, value, all_keys)
    return node if isinstance(node, GraphNode) else DataNode(key, node)


def _list_of_keys(value: Any, all_keys: Any) -> List | None:
    """Bring the (nested) list of blocks that a tree of reductions reads to a node; None if it is anything else.

    dask's own conversion looks at every block for every kind of task there is; a reduction has as many as an array has blocks.
    """
    if type(value) is not list or not value:
        return None
    items: list[Any] = []
    for item in value:
        if type(item) is tuple and item and type(item[0]) is str:
            try:
                if item not in all_keys:
                    return None
            except TypeError:  # not hashable, so no key
                return None
            items.append(TaskRef(item))
        elif (inner := _list_of_keys(item, all_keys)) is not None:
            items.append(inner)
        else:
            return None
    return List(*items)
