"""Compile: trace a function once, replay it many times.

A `Compiled` keeps a plan for each signature: the structure of the arguments, and of each array its type, shape and chunks. A
call with a known signature fills in the new values and runs; any other call traces anew. Which of the two happened is
counted in ``stats``.

The file is a little long: what a call does here and on a cluster is one decision.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import sys
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.utils import parse_bytes

from graphopt.chunks.choice import Choice
from graphopt.chunks.rechunked import Rechunked
from graphopt.cluster import by_dask, is_remote, resolved, say_once, why_not
from graphopt.execute import blas
from graphopt.execute.local import run
from graphopt.execute.loops import Bounds, Loops
from graphopt.execute.memory import Meter
from graphopt.execute.streams import Streams
from graphopt.execute.team import team_of
from graphopt.execute.threads import Threads
from graphopt.fingerprint import captured
from graphopt.pipeline import Policy, active_client, checked
from graphopt.plan import Plan, make_plan
from graphopt.spec import DataNode
from graphopt.standins import is_tracing
from graphopt.trace import Argument, Result, arguments_of, trace
from graphopt.tree import Structure, flatten, unflatten

__all__ = ["Compiled", "Stats", "compile"]

#: How many plans one compiled function keeps; the least recently used goes first.
_PLANS = 32


@dataclass(frozen=True, slots=True)
class Stats:
    """What the calls of a compiled function came to.

    Attributes
    ----------
    calls : int
        How often it was called.
    traces : int
        How often the function itself was traced, because the signature was new.
    rebinds : int
        How often a known plan was given other chunked arrays than at the call before.
    by_dask : int
        How often dask ran the call, because its data is on a cluster where it could not be replayed.
    on_cluster : int
        How often the call was replayed on the workers of a cluster.
    retries : int
        How often such a call started over, because a worker or a block was not where it had been.
    """

    calls: int = 0
    traces: int = 0
    rebinds: int = 0
    by_dask: int = 0
    on_cluster: int = 0
    retries: int = 0


class _Ready:
    """A plan with what was learned by running it: what it was last bound to, its loops, and where threads pay."""

    def __init__(self, plan: Plan, name: str, *, exact: bool, memory: int | None) -> None:
        self.plan, self.name = plan, name
        self.meter = Meter(plan.schedule, memory)
        self.small = [(slot, place) for slot, place, _ in plan.blocks if plan.trace.kinds[place] == "array"]
        self.threads = Threads(len(plan.levels))
        self.streams: Streams | None = None
        self.bound: tuple[tuple[Any, ...], list[Any], Bounds] | None = None
        self.ran = self.checked = False
        self.compiling = threading.RLock()
        self.exact, self.memory = exact, memory
        self.remotes: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()  # by client

    @functools.cached_property
    def loops(self) -> Loops | None:
        """The loops over its lanes, for the threads here."""
        return None if self.exact else _loops_of(self.plan)

    def on(self, client: Any, threads: int | None) -> Any:
        """Return the plan on the cluster of a client."""
        from graphopt.execute.distributed import Remote

        found = self.remotes.get(client)
        if found is None:
            found = self.remotes[client] = Remote(
                self.plan, client, name=self.name, exact=self.exact, memory=self.memory, threads=threads
            )
            mine = weakref.ref(found)
            self.plan.observed.held_by = lambda: {} if (remote := mine()) is None else remote.info()
        return found

    def close(self) -> None:
        """Let the workers of clusters let go."""
        for remote in list(self.remotes.values()):
            remote.close()

    def bind(self, arguments: list[Argument]) -> tuple[list[Any], Bounds, bool]:
        """Return the values of all slots, what loops are bound to, and whether other arrays were bound than before."""
        given = tuple([argument.blocks for argument in arguments if argument.kind == "chunked"])
        bound = self.bound
        if bound is not None and len(bound[0]) == len(given) and all(map(_same_blocks, bound[0], given)):
            values, bounds, again = list(bound[1]), bound[2], False
        else:
            values, bounds, again = list(self.plan.schedule.template), {}, self.ran
            for slot, place, block in self.plan.blocks:
                if arguments[place].kind == "chunked":
                    values[slot] = arguments[place].blocks[block]
            graphs = [argument.value.dask for argument in arguments if argument.kind == "chunked"]
            self._owners = [weakref.ref(graph, self._let_go) for graph in graphs]
            self.bound, self.ran = (given, list(values), bounds), True
        for slot, place in self.small:
            values[slot] = arguments[place].value
        self.plan.bind_numbers(values, arguments)
        return values, bounds, again

    def run(self, values: list[Any], bounds: Bounds, threads: int) -> None:
        """Run the plan; the first time alone, because loops are compiled then."""
        first = not self.meter.measured
        if self.streams is None or self.streams.size != threads:
            self.streams = Streams(self.plan.schedule, threads)
        with blas.one_thread(), self.compiling if first else contextlib.nullcontext():
            run(self.plan.schedule, values, team_of(threads), self.threads, self.loops, bounds, self.meter, self.streams)
        if first:
            self.plan.observed.note(self.meter.peak, self.meter.flight, self.loops)

    def _let_go(self, _: Any) -> None:
        """Forget the blocks: an array that they belong to is gone."""
        self.bound = None


def _same_blocks(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return some is others or (len(some) == len(others) and all(map(operator.is_, some, others)))


def _loops_of(plan: Plan) -> Loops:
    kinds = plan.trace.kinds
    chunks = [slot for slot, place, _ in plan.blocks if kinds[place] == "chunked"]
    small = [slot for slot, place, _ in plan.blocks if kinds[place] == "array"]
    literals = [slot for slot, value in enumerate(plan.schedule.template) if value is not None]
    numbers = [slot for slot, _ in plan.schedule.scalars]
    return Loops(plan.schedule, chunks, (*small, *literals, *numbers), [slot for slots in plan.results for slot in slots])


class Compiled:
    """A function that is traced once and replayed many times; made by `compile`.

    Attributes
    ----------
    stats : Stats
        How many calls, traces and rebinds there were.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        static: Iterable[str],
        exact: bool,
        policy: Policy,
        memory: int | None = None,
        chunks: str | None = None,
    ) -> None:
        functools.update_wrapper(self, fn)
        self._fn, self._exact, self._policy, self._memory = fn, exact, policy, memory
        self._chunks = None if chunks is None else Rechunked()
        self._parameters = inspect.signature(fn)
        self._static = frozenset(static)
        unknown = self._static - self._parameters.parameters.keys()
        if unknown:
            raise TypeError(
                f"static={sorted(unknown)}: {_name_of(fn)} has no such argument, only {list(self._parameters.parameters)}."
            )
        self._ready: OrderedDict[Hashable, _Ready] = OrderedDict()
        self._blocks: dict[str, tuple[Any, str, Argument]] = {}
        self._running: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()  # functions that run on chunks
        self._guard = threading.RLock()
        self.stats = Stats()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returns: small arrays and numbers as values, chunked arrays with blocks in memory."""
        if is_tracing():  # of a function that calls this one
            return self._fn(*args, **kwargs)
        arguments, structure = self._arguments(args, kwargs)
        client = active_client()
        if client is not None or any([is_remote(argument) for argument in arguments]):
            return self._on_cluster(client, arguments, structure, args, kwargs)
        ready = self._find(arguments, structure)
        with self._guard:
            values, bounds, rebound = ready.bind(arguments)
            self.stats = replace(self.stats, calls=self.stats.calls + 1, rebinds=self.stats.rebinds + rebound)
        ready.run(values, bounds, self._policy.resolve().parallelism or 1)
        return _results(ready.plan, values, arguments)

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """Return the plan that a call with these arguments would run, without running it."""
        arguments, structure = self._arguments(args, kwargs)
        return replace(self._find(arguments, structure, active_client(), again=True).plan, given=tuple(arguments))

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What ``chunks="auto"`` chose, for arguments of each kind in the order of their first calls; print one to see why."""
        return () if self._chunks is None else tuple(self._chunks.choices)

    @property
    def policy(self) -> Policy:
        """How far its optimiser may go."""
        return self._policy

    def twin(self) -> Compiled:
        """Return the same function compiled anew, with no plans yet: to try things without a trace of them here."""
        return Compiled(self._fn, self._static, self._exact, self._policy, self._memory)

    def close(self) -> None:
        """Forget all plans, and let the workers of clusters let go of what they hold for them."""
        with self._guard:
            gone = list(self._ready.values())
            self._ready.clear()
        for ready in gone:
            ready.close()

    def _on_cluster(self, client: Any, arguments: list[Argument], structure: Structure, args: Any, kwargs: Any) -> Any:
        """Replay a call on the workers of a cluster; where that cannot be, let dask run it."""
        reason = why_not(client)
        if reason is None:
            ready = self._find(arguments, structure, client)
            remote = ready.on(client, self._policy.parallelism)
            before = remote.retries
            values = remote(arguments, ready.plan.numbers(arguments))
            self._count(on_cluster=1, retries=remote.retries - before)
            return _results(ready.plan, values, arguments, remote)
        say_once(reason)
        self._count(by_dask=1)
        return by_dask(self._fn, args, kwargs, self._policy)

    def _to_loop(self, state: Any, *data: Any) -> tuple[Any, list[Argument]] | None:
        """Return what iterates on the workers of a cluster from this state, and its arguments; None if nothing can."""
        client = active_client()
        if client is None or why_not(client) is not None:
            return None
        from graphopt.execute.iteration import can_loop

        arguments, structure = self._arguments((state, *data), {})
        ready = self._find(arguments, structure, client)
        leaves, made_of = flatten(state)
        if ready.plan.trace.structure != made_of:
            return None
        remote = ready.on(client, self._policy.parallelism)
        return (remote, arguments) if can_loop(remote, range(len(leaves)), arguments) else None

    def _count(self, calls: int = 1, **more: int) -> None:
        with self._guard:
            changed = {name: getattr(self.stats, name) + number for name, number in more.items()}
            self.stats = replace(self.stats, calls=self.stats.calls + calls, **changed)

    def __repr__(self) -> str:
        return f"<compiled {_name_of(self._fn)}: {self.stats}>"

    def __reduce__(self) -> Any:
        module, name = getattr(self._fn, "__module__", "__main__"), _name_of(self._fn)
        found: Any = None if module == "__main__" else sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is self:  # a decorated function goes by its name, as functions do
            return name
        chunks = None if self._chunks is None else "auto"
        return Compiled, (self._fn, tuple(self._static), self._exact, self._policy, self._memory, chunks)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def _arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[Argument], Structure]:
        if self._chunks is not None:
            args, kwargs = self._chunks(self, args, kwargs)
        return arguments_of(self._parameters, args, kwargs, self._static, self._known)

    def _known(self, name: str, array: da.Array) -> Argument | None:
        """Return what we know of an array that was given before; nothing here keeps it alive."""
        known = self._blocks.get(name)
        if known is None or known[0]() is not array.dask or known[1] != array.name:
            return None
        return replace(known[2], value=array)

    def _remember(self, arguments: list[Argument]) -> None:
        for argument in arguments:
            if argument.kind == "chunked":
                graph, name = argument.value.dask, argument.value.name
                known = self._blocks.get(argument.name)
                if known is None or known[0]() is not graph or known[1] != name:
                    self._blocks[argument.name] = (weakref.ref(graph, self._forget), name, replace(argument, value=None))

    def _forget(self, graph: Any) -> None:
        """Let go of the blocks of an array that is gone."""
        for name, known in list(self._blocks.items()):
            if known[0] is graph:
                del self._blocks[name]

    def _traced(self, arguments: list[Argument], structure: Structure) -> Callable[[str], Any]:
        """Return what traces the function on stand-ins for these arguments, given a token for their names."""
        return functools.partial(trace, self._fn, arguments, structure, self._parameters)

    def _find(self, arguments: list[Argument], structure: Structure, client: Any = None, *, again: bool = False) -> _Ready:
        """Return the plan for these arguments. When it is used ``again``, see once whether the function still does the same."""
        policy = self._policy.resolve() if client is None else resolved(self._policy, client)
        given = (structure, policy, tuple([argument.signature for argument in arguments]))
        signature = (given, captured(self._fn, running=self._running))
        with self._guard:
            self._remember(arguments)
            ready = self._ready.get(signature)
            again = again or ready is not None
            if ready is None:  # or another thread has just traced it, and found out which functions run on chunks
                signature = (given, captured(self._fn, running=self._running))
                ready = self._ready.get(signature)
            if ready is None:
                plan = make_plan(self._traced(arguments, structure), policy, exact=self._exact)
                self._running.update(plan.functions)
                signature = (given, captured(self._fn, running=self._running))
                ready = self._ready[signature] = _Ready(plan, _name_of(self._fn), exact=self._exact, memory=self._memory)
                blas.refresh()
                self.stats = replace(self.stats, traces=self.stats.traces + 1)
                while len(self._ready) > _PLANS:
                    self._ready.popitem(last=False)
            if again and not ready.checked:
                ready.plan.check_again(self._traced(arguments, structure))
                ready.checked = True
                del self._ready[signature]  # the function may have counted its calls in what it captures
                signature = (given, captured(self._fn, running=self._running))
                self._ready[signature] = ready
            self._ready.move_to_end(signature)
        return ready


def compile(
    fn: Callable[..., Any] | None = None,
    *,
    static: Iterable[str] = (),
    exact: bool = False,
    memory: int | str | None = None,
    policy: Policy | None = None,
    chunks: str | None = None,
) -> Any:
    """Compile a function of dask arrays: trace it once, then replay it without dask's scheduler.

    Parameters
    ----------
    fn : callable
        A function written in plain dask: it takes chunked dask arrays, small NumPy arrays and numbers, in any nesting of
        tuples, lists, dicts and dataclasses, and returns dask collections likewise. It runs in the first call of
        each signature, and in the second, to see that it does the same each time.
    static : iterable of str
        Names of arguments whose values the function may look at: it is traced anew for each value. Strings, bools, None and
        other objects are static anyway.
    exact : bool
        Give the same results as dask bit for bit. By default sums may be taken in another order.
    memory : int or str, optional
        The most bytes, such as ``"2 GiB"``, that a replay may hold beside its arguments. Fewer lanes run at once where that
        keeps the bound; where nothing does, the call raises.
    policy : Policy, optional
        ``parallelism`` is the number of threads; by default all.
    chunks : str, optional
        ``"auto"``: choose chunks at the first call with arrays of new shapes, which takes seconds (see `auto_chunks`), and cut
        the arguments so in each call. Chunked results come back in those chunks. ``choices`` says what was chosen, and why.

    Returns
    -------
    Compiled
        Call it like the function. Arrays of one small block come back as NumPy, others as dask arrays whose blocks are in
        memory, to be given to the next call.

    Raises
    ------
    TraceError
        If the function looks at values while it is traced, or, in the second call, if it does something else than in the
        first; the message says what to do instead.
    MemoryLimitError
        If a call would hold more than ``memory``.

    Notes
    -----
    What the function captures from outside (globals, closures) is as it was when it was traced; if a captured name stands for
    another object later, the function is traced anew. A random draw that dask would repeat is repeated; one that it would
    draw anew each time is refused.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> X = da.ones((8, 2), chunks=(2, 2)).persist()
    >>> @compile
    ... def step(X, beta):
    ...     residual = X.dot(beta) - 1
    ...     return (residual**2).sum(), X.T.dot(residual)
    >>> loss, gradient = step(X, np.array([1.0, 1.0]))
    >>> float(loss), gradient
    (8.0, array([8., 8.]))
    >>> step(X, np.array([0.5, 0.5]))[1], step.stats.traces
    (array([0., 0.]), 1)
    """
    if fn is None:
        return functools.partial(compile, static=static, exact=exact, memory=memory, policy=policy, chunks=chunks)
    if chunks not in (None, "auto"):
        raise ValueError(f'chunks={chunks!r}: must be "auto", or None to leave the chunks of arguments as they are.')
    if isinstance(static, str):
        raise TypeError(f"static={static!r}: must be a tuple of names, such as ({static!r},).")
    return Compiled(fn, static, exact, checked(policy), None if memory is None else parse_bytes(memory), chunks)


def _name_of(fn: Any) -> str:
    return str(getattr(fn, "__qualname__", None) or type(fn).__name__)


def _results(plan: Plan, values: list[Any], arguments: list[Argument], remote: Any = None) -> Any:
    """Put together what the function returns from the values of the slots."""
    out: list[Any] = []
    for number, (result, slots) in enumerate(zip(plan.trace.results, plan.results, strict=True)):
        if result.kind == "number":
            out.append(result.value.value(plan.trace.given(arguments)))
        elif result.kind == "constant":
            out.append(result.value)
        elif result.kind == "delayed":
            finish, extra = result.value.__dask_postcompute__()
            out.append(finish([values[slot] if remote is None else remote.value(values, slot) for slot in slots], *extra))
        elif result.small:
            out.append(_own(values[slots[0]] if remote is None else remote.value(values, slots[0])))
        elif remote is not None:
            out.append(remote.array(values, number, _resident))
        else:
            out.append(_resident(result, [DataNode(slot, values[slot]) for slot in slots]))
    return unflatten(plan.trace.structure, out)


def _own(value: Any) -> Any:
    """Return a copy, as dask does of single blocks: what the caller writes to it must not reach arguments or the plan."""
    return value.copy() if hasattr(value, "copy") else value


def _resident(result: Result, blocks: Any, name: str | None = None) -> da.Array:
    """Make a dask array of blocks that are in memory: nodes that hold them, futures, or a graph that has those."""
    like = result.value
    name = name or f"graphopt-{uuid.uuid4().hex}"
    if isinstance(blocks, Mapping):
        nodes = blocks
    else:
        old: Any = result.keys
        keys = [(name, *key[1:]) for key in old]
        nodes = {
            key: DataNode(key, block.value) if isinstance(block, DataNode) else block
            for key, block in zip(keys, blocks, strict=True)
        }
    graph = HighLevelGraph({name: MaterializedLayer(nodes)}, {name: set()})
    return da.Array(graph, name, like.chunks, meta=like._meta, dtype=like.dtype)
