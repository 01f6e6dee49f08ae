"""Plan: what a compiled function does, frozen: the schedule of its kernels, and how results are made of what they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.graph import is_constant, read
from graphopt.kernel import Kernel
from graphopt.pipeline import Policy
from graphopt.schedule import Level, Schedule, lay_out
from graphopt.spec import TaskRef
from graphopt.trace import Argument, Trace
from graphopt.types import Graph, Key, Refusal

__all__ = ["Plan", "make_plan"]


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
    tasks : int
        How many tasks the graph has as it was built.
    """

    schedule: Schedule
    trace: Trace
    blocks: tuple[tuple[int, int, int], ...]
    results: tuple[tuple[int, ...], ...]
    refusals: tuple[Refusal, ...]
    tasks: int

    @property
    def levels(self) -> tuple[Level, ...]:
        """What runs, in order."""
        return self.schedule.levels

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
        reasons: dict[tuple[str, str], list[Key]] = {}
        for refusal in self.refusals:
            reasons.setdefault((refusal.rewrite, refusal.reason), []).append(refusal.key)
        if reasons:
            lines += ["", "Left apart:"]
        for (rewrite, reason), keys in reasons.items():
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            lines.append(f"    {rewrite}: {keys[0]!r}{more}: {reason}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return (
            f"Plan: {self.tasks} tasks in {self.lanes} calls of {len(self.kernels)} kernels, on {len(self.levels)} levels; "
            f"{len(self.blocks)} blocks and {len(self.trace.numbers)} numbers to bind"
        )

    __repr__ = __str__

    def bind_numbers(self, values: list[Any], arguments: Sequence[Argument]) -> None:
        """Fill in the slots of numbers."""
        if self.schedule.scalars:
            given = {token: arguments[place].value for token, place in self.trace.numbers.items()}
            for slot, scalar in self.schedule.scalars:
                values[slot] = scalar.value(given)


def make_plan(trace: Trace, policy: Policy, *, exact: bool) -> Plan:
    """Optimise a traced function and schedule its kernels.

    Parameters
    ----------
    trace
        The function.
    policy
        How far to go; ``parallelism`` must be settled.
    exact
        Whether results must be the same bit for bit as dask's.

    Raises
    ------
    TraceError
        If the graph does what a replay cannot do again.
    """
    keys = list(dict.fromkeys(key for result in trace.results for key in result.keys))
    whole, _ = read(trace.graph, keys, merge_layers=False)
    nodes, _ = read(trace.graph, keys)
    graph: Graph = {key: TaskRef(key) if key in trace.slots else node for key, node in nodes.items()}
    refusals: list[Refusal] = []
    schedule = lay_out(graph, keys, policy, exact=exact, refusals=refusals)
    blocks = tuple([(slot, *trace.slots[key]) for key, slot in schedule.slots.items() if key in trace.slots])
    tasks = sum(not is_constant(node) and key not in trace.slots for key, node in whole.items())
    results = tuple([tuple([schedule.slots[key] for key in result.keys]) for result in trace.results])
    return Plan(schedule, trace, blocks, results, tuple(refusals), tasks)
