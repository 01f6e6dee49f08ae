"""Plan: what a compiled function does, frozen: the schedule of its kernels, and how results are made of what they give."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, ClassVar

from dask.highlevelgraph import HighLevelGraph
from dask.utils import format_bytes

from graphopt.explain import left_apart
from graphopt.graph import is_constant, merged, read
from graphopt.kernel import Kernel
from graphopt.lazy import lazy
from graphopt.outline import Outline, outline, same
from graphopt.passes.lower import lower
from graphopt.pipeline import Policy, no_garbage
from graphopt.schedule import Level, Schedule, lay_out
from graphopt.spec import TaskRef
from graphopt.standins import refuse_captured, with_references
from graphopt.symmetry import sample
from graphopt.trace import Argument, Trace, rebound, same_names
from graphopt.types import Graph, Key, Node, Refusal, TraceError
from graphopt.widen import widen

__all__ = ["Plan", "make_plan"]


@dataclass(slots=True)
class Observed:
    """What is known of a plan once it has run.

    Attributes
    ----------
    peak : int
        The most bytes that a run held beside its arguments; None before the first run.
    flight : tuple of int
        How many lanes ran at once, by level.
    loops : dict
        The text of the compiled loop of each kernel that has one, by name.
    reasons : dict
        Why the other kernels have none, by name.
    places : dict
        How many calls each worker of a cluster makes in a run, where it last ran on one.
    held_by : callable
        Says what workers hold of it.
    """

    peak: int | None = None
    flight: tuple[int, ...] = ()
    loops: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    held_by: Any = None

    def note(self, peak: int, flight: Sequence[int], loops: Any) -> None:
        """Take down what the first run showed."""
        self.peak, self.flight = peak, tuple(flight)
        if loops is not None:
            self.loops, self.reasons = loops.sources, loops.reasons


@dataclass(frozen=True)
class Plan:
    """What a compiled function does: print it to see the kernels and how often each runs.

    Attributes
    ----------
    schedule : Schedule
        Kernels and lanes.
    trace : Trace
        The function as it was traced.
    blocks : tuple
        The slots of the blocks of the arguments, each with the place of the argument and of the block in it.
    results : tuple
        For each result, the slots of its blocks.
    refusals : tuple of Refusal
        What was left apart and why.
    token : str
        What the names of stand-ins in the trace end in.
    observed : Observed
        What is known once the plan has run: memory, compiled loops.
    functions : tuple
        The functions of the user's that run on chunks: each time, with whatever they capture then.
    given : tuple of Argument
        The arguments that it was asked for with; none in the plans that a compiled function keeps.
    """

    schedule: Schedule
    trace: Trace
    blocks: tuple[tuple[int, int, int], ...]
    results: tuple[tuple[int, ...], ...]
    refusals: tuple[Refusal, ...]
    token: str
    observed: Observed = field(default_factory=Observed, compare=False, repr=False)
    functions: tuple[Callable[..., Any], ...] = field(default=(), compare=False, repr=False)
    given: tuple[Argument, ...] = field(default=(), compare=False, repr=False)

    #: What draws a plan. The package puts it here: drawing stands above what is drawn.
    drawn_by: ClassVar[Callable[[Plan, str | PathLike[str]], None]]

    @property
    def levels(self) -> tuple[Level, ...]:
        """What runs, in order."""
        return self.schedule.levels

    @property
    def tasks(self) -> int:
        """How many tasks the graph has as it was built."""
        return _tasks_of(self.trace)

    @property
    def lanes(self) -> int:
        """How many kernel calls a replay makes."""
        return self.schedule.lanes

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The generated functions, in the order in which they run."""
        return self.schedule.kernels

    @property
    def source(self) -> str:
        """The Python that a replay runs."""
        return "\n\n".join(kernel.source for kernel in self.kernels)

    def explain(self) -> str:
        """Say what was fused, how often each kernel runs, and what was left apart and why."""
        lines = [str(self)]
        for number, level in enumerate(self.levels):
            for group in level.groups:
                lines += ["", f"level {number}: {len(group.lanes)} x {group.name}"]
                if isinstance(group.kernel, Kernel):
                    lines += [f"    {line}" for line in group.kernel.source.splitlines()]
                    lines += self._looped(group.name)
        if self.observed.places:
            lines += ["", "on the cluster"]
            lines += [f"    {_count(lanes, 'call')} on {worker}" for worker, lanes in self.observed.places.items()]
        lines += left_apart(self.refusals)
        return "\n".join(lines)

    def _looped(self, name: str) -> list[str]:
        if name in self.observed.loops:
            return ["    runs as one compiled loop over all lanes, without the interpreter's lock"]
        why = self.observed.reasons.get(name)
        return [] if why is None else [f"    runs lane by lane, not as a compiled loop: {why}"]

    def lazy(self, *small: Any, **named: Any) -> Any:
        """Return what the function returns as dask collections that are still to be computed.

        Parameters
        ----------
        *small
            Other values for the small arrays and numbers among the arguments, in order, instead of those that the plan was made
            with.
        **named
            Other values for any arguments, by name.

        Returns
        -------
        The results, with a dask array in the place of each array, small ones too. They go with any other dask code and run on
        any scheduler, kernel by kernel.

        Raises
        ------
        TypeError
            If there is no such argument, or a value is of another type, shape or chunking than the plan is made for.

        Examples
        --------
        >>> import dask.array as da, numpy as np, graphopt as go
        >>> X = da.ones((8, 2), chunks=(2, 2)).persist()
        >>> step = go.compile(lambda X, beta: X.dot(beta).sum())
        >>> plan = step.plan(X, np.zeros(2))
        >>> total = plan.lazy(np.array([1.0, 2.0]))
        >>> float((total + 1).compute())
        25.0
        """
        if not self.given:
            raise TypeError("This plan knows no arguments: ask the compiled function for one, step.plan(...).")
        return lazy(self, rebound(self.given, small, named))

    def info(self) -> dict[str, dict[str, int]]:
        """Ask the workers of a cluster what they hold of the plan.

        Returns
        -------
        For each worker that has a part of it how many kernel calls it makes in a run (``lanes``), how many chunks it reads and
        how many of those it holds right now (``chunks``, ``blocks``, ``chunk_bytes``), the bytes of literals, and how often it
        ran. A plan that has not run for a few seconds holds no chunks.
        """
        return {} if self.observed.held_by is None else dict(self.observed.held_by())

    def visualize(self, filename: str | PathLike[str]) -> None:
        """Draw the tasks behind one call, and all calls of the plan, as SVG or PNG by the ending of the name.

        Raises
        ------
        ValueError
            If the name ends otherwise.
        ImportError
            If matplotlib is not installed, which ``pip install 'graphopt[plots]'`` does.
        """
        type(self).drawn_by(self, filename)

    def __str__(self) -> str:
        work = f"{_count(self.tasks, 'task')} in {_count(self.lanes, 'call')} of {_count(len(self.kernels), 'kernel')}"
        given = f"{_count(len(self.blocks), 'block')} and {_count(len(self.trace.numbers), 'number')} to bind"
        return f"Plan: {work}, on {_count(len(self.levels), 'level')}; {given}{self._memory()}"

    __repr__ = __str__

    def _memory(self) -> str:
        """Say what the first run showed."""
        if self.observed.peak is None:
            return ""
        lanes = max(self.observed.flight, default=0)
        return f"; held at most {format_bytes(self.observed.peak)}, {lanes} lanes at once"

    def _check(self) -> None:
        """Assert what must hold of the schedule."""
        kept = [slot for slots in self.results for slot in slots]
        self.schedule._check([slot for slot, _, _ in self.blocks], kept)

    def check_again(self, trace: Callable[[str], Trace]) -> None:
        """Trace the function again, and raise if it does something else than this plan: before the plan is used again.

        Raises
        ------
        TraceError
            If it does.
        """
        with no_garbage():
            again = trace(self.token)
            if not same_names(self.trace, again) and not same(_outline(self.trace), _outline(again)):
                raise TraceError(
                    "The function does something else each time it runs: it draws random numbers, reads the time, or counts "
                    "its calls. A replay would repeat what it did first. Do that outside and pass the result as an argument; a "
                    "random array may be made inside from a generator with a seed of its own, which repeats its draw."
                )

    def bind_numbers(self, values: list[Any], arguments: Sequence[Argument]) -> None:
        """Fill in the slots of numbers."""
        for slot, value in self.numbers(arguments).items():
            values[slot] = value

    def numbers(self, arguments: Sequence[Argument]) -> dict[int, Any]:
        """Return the numbers of a call, by slot."""
        out = {}
        if self.schedule.scalars:
            given = self.trace.given(arguments)
            for slot, scalar in self.schedule.scalars:
                out[slot] = value = scalar.value(given)
                scalar.check(value)
        return out


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def make_plan(trace: Callable[[str], Trace], policy: Policy, *, exact: bool) -> Plan:
    """Trace a function, optimise it and schedule its kernels.

    Parameters
    ----------
    trace
        Traces the function with a token for the names of stand-ins.
    policy
        How far to go; ``parallelism`` must be settled.
    exact
        Whether results must be the same bit for bit as dask's.

    Raises
    ------
    TraceError
        If the function does what a replay cannot do.
    """
    token = uuid.uuid4().hex
    with no_garbage():
        return _plan_of(trace(token), token, policy, exact)


def _plan_of(trace: Trace, token: str, policy: Policy, exact: bool) -> Plan:
    keys = _keys_of(trace)
    layers = merged(trace.graph, keys)
    few = None if exact else sample(layers, keys, trace.slots, (policy.parallelism or 1) + 1)
    nodes = _nodes_of(trace, keys, layers) if few is None else few.nodes
    functions = refuse_captured(nodes, trace.slots)
    refusals: list[Refusal] = []
    small = [key for key, (place, _) in trace.slots.items() if trace.kinds[place] == "array"]
    schedule = None
    if few is not None:
        found = lay_out(lower(nodes), few.keys, policy, exact=exact, refusals=refusals, small=small)
        schedule = widen(found, few, refusals)
        if schedule is None:
            refusals.clear()
            nodes = _nodes_of(trace, keys, layers)
    if schedule is None:
        schedule = lay_out(lower(nodes), keys, policy, exact=exact, refusals=refusals, small=small)
    blocks = tuple([(slot, *trace.slots[key]) for key, slot in schedule.slots.items() if key in trace.slots])
    results = tuple([tuple([schedule.slots[key] for key in result.keys]) for result in trace.results])
    return Plan(schedule, trace, blocks, results, tuple(refusals), token, functions=functions)


def _tasks_of(trace: Trace) -> int:
    """Count the tasks of the graph as it was built."""
    count = 0
    given = {key[0] if isinstance(key, tuple) else key for key in trace.slots}
    for name, layer in trace.graph.layers.items():
        if name not in given:
            made = layer.is_materialized() and not hasattr(layer, "output_indices")
            count += sum(not is_constant(node) for node in layer.values()) if made else len(layer)
    return count


def _keys_of(trace: Trace) -> list[Key]:
    """List what is asked for, each once."""
    return list(dict.fromkeys(key for result in trace.results for key in result.keys))


def _nodes_of(trace: Trace, keys: list[Key], layers: HighLevelGraph) -> Graph:
    """Return the tasks of a trace, with references in place of what is given."""
    nodes, _ = read(layers, keys, merge_layers=False)
    given: dict[Key, Node] = {key: TaskRef(key) for key in trace.slots}
    return {**given, **{key: with_references(node) for key, node in nodes.items() if key not in given}}


def _outline(trace: Trace) -> Outline:
    keys = _keys_of(trace)
    nodes = _nodes_of(trace, keys, merged(trace.graph, keys))
    return outline(lower(nodes), keys, {**trace.slots, **trace.numbers})
