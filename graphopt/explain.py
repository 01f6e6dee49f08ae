"""Explaining: what the optimiser would do with a graph, and what it would leave apart and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from graphopt.graph import check_graph, flatten_keys, is_constant, read
from graphopt.kernel import Fused, Kernel, generate
from graphopt.passes.cull import cull
from graphopt.pipeline import Policy, checked, classes_of, run_passes
from graphopt.spec import TaskRef
from graphopt.types import Key, Refusal

__all__ = ["Explanation", "KernelUse", "explain", "left_apart"]


@dataclass(frozen=True, slots=True)
class KernelUse:
    """A kernel, how many regions run it, and how many of the original tasks one call stands for."""

    name: str
    source: str
    regions: int
    tasks: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was fused, what was refused and why. Printing it shows all.

    Attributes
    ----------
    tasks_before, tasks_after : int
        Tasks that would run, data not counted.
    kernels : tuple of KernelUse
        The generated functions, most used first.
    refusals : tuple of Refusal
        The tasks that were left apart, each with the reason.
    """

    tasks_before: int
    tasks_after: int
    kernels: tuple[KernelUse, ...]
    refusals: tuple[Refusal, ...]

    def __str__(self) -> str:
        lines = [f"{self.tasks_before} tasks before, {self.tasks_after} after, {len(self.kernels)} kernels"]
        for kernel in self.kernels:
            lines += ["", f"{kernel.name}: {kernel.tasks} tasks in one, in {kernel.regions} places"]
            lines += [f"    {line}" for line in kernel.source.splitlines()]
        lines += left_apart(self.refusals)
        return "\n".join(lines)


def explain(graph: Any, keys: Any, policy: Policy | None = None, *, futures: Iterable[Key] = ()) -> Explanation:
    """Say what `optimize` would do with a graph: the kernels it would write, and what it would leave apart and why.

    Parameters are those of `optimize`, and so are the errors.

    Examples
    --------
    >>> import dask.array as da
    >>> x = da.ones((4, 4), chunks=2)
    >>> y = (da.exp(x) - 1 / x).persist()
    >>> print(explain(y + 1, (y + 1).__dask_keys__()).tasks_after)
    4
    """
    policy = checked(policy).resolve()
    wanted = flatten_keys(keys)
    whole, notes = read(graph, wanted, merge_layers=False)
    check_graph({**whole, **{key: TaskRef(key) for key in futures if key not in whole}}, wanted)
    nodes, notes = read(graph, wanted)
    classes, _ = classes_of(notes)
    refusals: list[Refusal] = []
    made = generate(run_passes(nodes, wanted, policy, classes, refusals), wanted)
    uses: dict[int, list[Fused]] = {}
    for node in made.values():
        if isinstance(node, Fused):
            uses.setdefault(id(node.func), []).append(node)
    kernels = [KernelUse(t[0].func.name, _sources(t[0].func), len(t), t[0].func.tasks) for t in uses.values()]
    return Explanation(
        sum(not is_constant(node) for node in cull(whole, wanted).values()),
        sum(not is_constant(node) for node in made.values()),
        tuple(sorted(kernels, key=lambda k: -k.regions)),
        tuple(refusals),
    )


def left_apart(refusals: Iterable[Refusal]) -> list[str]:
    """Return the lines that say what was left apart and why, equal reasons together."""
    reasons: dict[tuple[str, str], list[Key]] = {}
    for refusal in refusals:
        reasons.setdefault((refusal.rewrite, refusal.reason), []).append(refusal.key)
    lines = ["", "Left apart:"] if reasons else []
    for (rewrite, reason), keys in reasons.items():
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        lines.append(f"    {rewrite}: {keys[0]!r}{more}: {reason}")
    return lines


def _sources(kernel: Kernel) -> str:
    """Return the source of a kernel, with the kernels it calls above it."""
    inner = [_sources(value) for value in kernel.constants.values() if isinstance(value, Kernel)]
    return "\n\n".join([*inner, kernel.source])
