"""The passes, composed under a policy: `optimize`, and the `Optimizer` that dask is handed.

Nothing is ever half-optimised. An error in the user's graph is raised, with the key and the remedy. An error of ours costs
speed, not the answer: the graph is used as dask would have used it, with one warning, or the error under ``strict=True``.
"""

from __future__ import annotations

import contextlib
import gc
import uuid
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from graphopt.functions import token
from graphopt.graph import check_graph, dependencies, flatten_keys, read, toposort
from graphopt.held import held
from graphopt.kernel import Fused, generate
from graphopt.passes.aliases import aliases
from graphopt.passes.common import common
from graphopt.passes.cull import cull
from graphopt.passes.diamond import NAME as DIAMOND
from graphopt.passes.diamond import diamond, partition
from graphopt.passes.lanes import lanes
from graphopt.passes.lower import lower
from graphopt.spec import GraphNode, TaskRef
from graphopt.types import Graph, GraphError, GraphoptError, GraphoptWarning, Key, Node, PolicyError, Refusal

__all__ = [
    "PASSES",
    "Optimizer",
    "Policy",
    "active_client",
    "checked",
    "classes_of",
    "guarded",
    "no_garbage",
    "optimize",
    "run_passes",
]

#: The passes by name, in the order in which they run.
PASSES = ("cull", "aliases", "common", "lower", "diamond", "lanes")


@dataclass(frozen=True, slots=True)
class Policy:
    """What the optimiser may do, and how far it may go.

    Parameters
    ----------
    parallelism : int, optional
        How many independent tasks to keep wherever the graph has as many. By default as many as there are threads: those
        of the active distributed client, else of this machine.
    spare : int
        Lanes are batched only while ``spare * parallelism`` batches remain, so that uneven ones even out.
    max_bytes : int
        The most bytes of chunk data that one batch may bring together, as far as the graph tells.
    passes : tuple of str
        The passes to run, of ``graphopt.pipeline.PASSES``; they keep their order.
    strict : bool
        Raise errors of the optimiser itself instead of falling back to the original graph with a warning.

    Raises
    ------
    PolicyError
        If a value makes no sense; the message names the field.

    Examples
    --------
    >>> Policy(parallelism=8).spare
    4
    >>> Policy(parallelism=0)
    Traceback (most recent call last):
        ...
    graphopt.types.PolicyError: Policy(parallelism=0): must be a whole number of at least 1, or None for all threads.
    """

    parallelism: int | None = None
    spare: int = 4
    max_bytes: int = 2**30
    passes: tuple[str, ...] = PASSES
    strict: bool = False

    def __post_init__(self) -> None:
        for name in ("parallelism", "spare", "max_bytes"):
            value = getattr(self, name)
            if name == "parallelism" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                more = ", or None for all threads" if name == "parallelism" else ""
                raise PolicyError(f"Policy({name}={value!r}): must be a whole number of at least 1{more}.")
        passes: Any = self.passes
        if isinstance(passes, str) or not isinstance(passes, Iterable):
            raise PolicyError(f"Policy(passes={self.passes!r}): must be a tuple of names out of {', '.join(PASSES)}.")
        object.__setattr__(self, "passes", tuple(self.passes))
        for name in self.passes:
            if name not in PASSES:
                raise PolicyError(f"Policy(passes=...): there is no pass {name!r}; there are {', '.join(PASSES)}.")
        if not isinstance(self.strict, bool):
            raise PolicyError(f"Policy(strict={self.strict!r}): must be True or False.")

    def resolve(self) -> Policy:
        """Return the policy with ``parallelism`` set to the number of threads that would run a graph now."""
        return self if self.parallelism is not None else replace(self, parallelism=_threads())


def _threads() -> int:
    """Count the threads of the scheduler that dask would use now."""
    from dask import config
    from dask.system import CPU_COUNT

    client = active_client()
    if client is not None and hasattr(client, "scheduler_info"):
        with contextlib.suppress(Exception):
            if client.asynchronous:  # cannot be asked here; this is what it heard last
                return max(1, int(client.scheduler_info()["total_threads"]))
            return max(1, int(sum(client.nthreads().values())))
    if config.get("scheduler", None) in ("sync", "synchronous", "single-threaded"):
        return 1
    workers = config.get("num_workers", None)
    return int(workers) if isinstance(workers, int) and workers > 0 else max(1, int(CPU_COUNT))


def active_client() -> Any:
    """Return the distributed client that dask would use now, or None."""
    import sys

    distributed = sys.modules.get("distributed")
    if distributed is None:  # a client can only be active if somebody imported it
        return None
    from dask.base import get_scheduler

    try:
        return getattr(get_scheduler(), "__self__", None)
    except RuntimeError:  # an asynchronous client: dask.compute refuses it, but its own methods work
        return distributed.Client.current()


def optimize(graph: Any, keys: Any, policy: Policy | None = None, *, futures: Iterable[Key] = ()) -> Any:
    """Return an equivalent graph with fewer, cheaper tasks.

    The values of ``keys`` are the same bit for bit, and the input is not changed.

    Parameters
    ----------
    graph
        A dask collection, a high-level graph, or a mapping of keys to tasks (``dask.task_spec`` nodes, legacy tuples,
        futures, plain data).
    keys
        The keys to keep: one, or a nested list, such as ``x.__dask_keys__()``.
    policy
        How far to go; see `Policy`.
    futures
        Keys that are not in the graph because a cluster holds their results.

    Returns
    -------
    mapping
        A plain dict; or a ``HighLevelGraph`` with a layer for each set of annotations, where the input had any.

    Raises
    ------
    GraphError
        If the graph has a cycle, a missing key, or a task that is not callable; the message names the key.
    PolicyError
        If the policy is not a `Policy`.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.ones((4, 4), chunks=2)
    >>> y = da.exp(x) - 1 / x
    >>> graph = optimize(y, y.__dask_keys__())
    >>> len(graph)
    4
    >>> import dask
    >>> float(dask.get(graph, y.__dask_keys__())[0][0].sum())  # the first block of four
    6.87312731383618
    """
    policy = checked(policy)
    wanted = flatten_keys(keys)
    with no_garbage():
        nodes, notes = read(graph, wanted)
        here = {key: TaskRef(key) for key in futures if key not in nodes}
        check_graph({**nodes, **here} if here else nodes, wanted)
        return guarded(lambda: _run(nodes, notes, wanted, policy), policy, lambda: _with_notes(nodes, notes))


def checked(policy: Policy | None) -> Policy:
    """Return the policy that is meant; raise `PolicyError` if it is something else."""
    if policy is None:
        return Policy()
    if not isinstance(policy, Policy):
        raise PolicyError(f"policy must be a graphopt.Policy, not {policy!r}.")
    return policy


def guarded(work: Callable[[], Any], policy: Policy, fallback: Callable[[], Any]) -> Any:
    """Do the work; if it fails for a reason that is ours, warn and hand out the original graph."""
    try:
        return work()
    except GraphoptError:
        raise
    except Exception as error:
        if policy.strict:
            raise
        warnings.warn(
            f"graphopt could not optimise this graph and left it as it was ({type(error).__name__}: {error}). "
            "The result is not affected. Please report this; graphopt.Policy(strict=True) shows the traceback.",
            GraphoptWarning,
            stacklevel=2,
        )
        return fallback()


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Hold the cyclic garbage collector for a moment: we make many small objects, no cycles, and keep most of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _run(
    nodes: dict[Key, Node],
    notes: Mapping[Key, dict[str, Any]],
    keys: list[Key],
    policy: Policy,
    known: Collection[Key] = (),
    tasks: Mapping[Key, GraphNode] | None = None,
) -> Any:
    """Optimise a graph, but for the ``known`` keys: those are futures to the passes, and ``tasks`` is put there after."""
    if known:
        nodes = {key: TaskRef(key) if key in known else node for key, node in nodes.items()}
    classes, kinds = classes_of(notes)
    origins: dict[Key, Key] = {}
    try:
        made = generate(run_passes(nodes, keys, policy.resolve(), classes), keys, before=nodes, origins=origins)
    except GraphError as error:  # the graph was checked before: this one is not the user's doing
        raise RuntimeError(f"a pass made a graph that could not run: {error}") from error
    if known:
        made = cull({**made, **(tasks or {})}, keys)
    if not notes:
        return made
    return _with_notes(made, {key: kinds[kind] for key, kind in _kinds_after(made, classes, origins).items() if kind})


def run_passes(
    graph: Graph,
    keys: list[Key],
    policy: Policy,
    classes: Mapping[Key, int],
    refusals: list[Refusal] | None = None,
    after: Callable[[str, Graph], None] = lambda name, graph: None,
) -> Graph:
    """Run the passes of the policy. ``after`` sees each result, which is how the tests check between passes."""
    size = {"parallelism": policy.parallelism or 1, "max_bytes": policy.max_bytes, "classes": classes}
    steps: dict[str, Callable[[Graph], Graph]] = {
        "cull": lambda g: cull(g, keys),
        "aliases": lambda g: aliases(g, keys, classes=classes),
        "common": lambda g: common(g, keys, classes=classes),
        "lower": lower,
        "diamond": lambda g: diamond(g, keys, **size),  # type: ignore[arg-type]
        "lanes": lambda g: lanes(g, keys, spare=policy.spare, refusals=refusals, **size),  # type: ignore[arg-type]
    }
    for name in PASSES:
        if name in policy.passes:
            if name == DIAMOND and refusals is not None:
                refusals.extend(partition(graph, keys, **size).refusals)  # type: ignore[arg-type]
            graph = steps[name](graph)
            after(name, graph)
    return graph


# -- annotations -------------------------------------------------------------------------------------------------------


def classes_of(notes: Mapping[Key, dict[str, Any]]) -> tuple[dict[Key, int], dict[int, dict[str, Any]]]:
    """Number the different annotations; 0 is none."""
    numbers: dict[Any, int] = {}
    kinds: dict[int, dict[str, Any]] = {0: {}}
    classes: dict[Key, int] = {}
    for key, note in notes.items():
        number = numbers.setdefault(token(note), len(numbers) + 1)
        kinds.setdefault(number, note)
        classes[key] = number
    return classes, kinds


def _kinds_after(made: Graph, classes: Mapping[Key, int], origins: Mapping[Key, Key]) -> dict[Key, int]:
    """Say which annotation class each task of the generated graph has: that of the tasks it was made of."""
    out: dict[Key, int] = {}
    for key, node in made.items():
        first: Any = node.labels[0] if isinstance(node, Fused) else origins.get(key, key)
        while isinstance(first, list):  # a lane of a batch
            first = first[0]
        out[key] = classes.get(first, 0)
    return out


def _with_notes(graph: Graph, notes: Mapping[Key, dict[str, Any]]) -> Any:
    """Put annotations back, as dask wants them: layers of a high-level graph, each with one set of annotations.

    A layer holds tasks of one kind and one stage: how many times the kind changed on the way to them. By kind alone layers
    could read each other in a circle, which no reader of high-level graphs is prepared for.
    """
    if not notes:
        return graph
    from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

    classes, kinds = classes_of(notes)
    prefix = f"graphopt-{uuid.uuid4().hex}"  # dask merges layers of equal name
    home: dict[Key, tuple[int, int]] = {}
    nodes: dict[tuple[int, int], dict[Key, Node]] = {}
    depends: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for key in toposort(graph):
        kind = classes.get(key, 0)
        below = {home[dep] for dep in dependencies(graph[key]) if dep in home}
        mine = home[key] = (max([stage + (other != kind) for stage, other in below], default=0), kind)
        nodes.setdefault(mine, {})[key] = graph[key]
        depends.setdefault(mine, set()).update(below - {mine})
    layers = {}
    for (stage, kind), layer in nodes.items():
        made = layers[f"{prefix}-{stage}-{kind}"] = MaterializedLayer(layer)
        made.annotations = kinds[kind] or None  # given to its __init__, none would mean those of the caller's context
    names = {mine: f"{prefix}-{mine[0]}-{mine[1]}" for mine in nodes}
    return HighLevelGraph(layers, {names[mine]: {names[dep] for dep in deps} for mine, deps in depends.items()})


# -- plugging into dask ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Optimizer:
    """The callable that dask is handed: hashable, comparable, and picklable, because it travels to the scheduler."""

    policy: Policy = field(default_factory=Policy)

    def __call__(self, dsk: Any, keys: Any, **_: Any) -> Any:
        """Optimise what dask is about to run. Keys that are not in the graph are results that a cluster holds."""
        from dask import config

        if config.get("optimization.fuse.active", None) is False:  # dask's own switch, which its optimisers read too
            return dsk
        policy = self.policy
        wanted = flatten_keys(keys)

        def work() -> Any:
            nodes, notes = read(dsk, wanted)
            check_graph(nodes, complete=False)
            return _run(nodes, notes, wanted, policy, *held(nodes, wanted))

        with no_garbage():
            return guarded(work, policy, lambda: dsk)
