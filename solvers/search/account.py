"""Account: how many fits a plain search would have done, and how many this one did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from solvers.search.graph import Work
from solvers.search.outline import Node, Plan
from solvers.search.values import Score

__all__ = ["Savings", "Shared", "count"]


@dataclass(frozen=True)
class Shared:
    """A fit that candidates share.

    Attributes
    ----------
    name : str
        Of the step; of a member of a step, with the step's before it.
    estimator : str
        What was fitted.
    before : int or None
        The number of the shared fit whose output it was fitted on, or that it was cut out of; None for rows.
    candidates : int
        How many candidates there are behind it.
    lost : bool
        Whether a fold could not share it, because it drew random numbers or failed.
    """

    name: str
    estimator: str
    before: int | None
    candidates: int
    lost: bool


@dataclass(frozen=True)
class Savings:
    """What a search did, and what it did not do twice. Printing it shows all.

    Fits are those of steps: of a pipeline of two, a plain search fits two for each candidate and fold. Refitting the best is
    not counted, for it is the same; nor is what is cut out of another fit.

    Attributes
    ----------
    candidates, folds : int
        Of all rounds.
    plain : dict
        How many fits of each step a plain search would have done.
    done : dict
        How many were done.
    shared : tuple of Shared
        The fits that candidates share, of one fold, and in the order of their steps.
    """

    candidates: int
    folds: int
    plain: dict[str, int]
    done: dict[str, int]
    shared: tuple[Shared, ...]

    @classmethod
    def of(cls, rounds: Sequence[Savings]) -> Savings:
        """Return the sum of some rounds."""
        if len(rounds) == 1:
            return rounds[0]
        shared: list[Shared] = []
        for one in rounds:
            at = len(shared)
            shared += [
                Shared(s.name, s.estimator, None if s.before is None else s.before + at, s.candidates, s.lost)
                for s in one.shared
            ]
        plain, done = Counter[str](), Counter[str]()
        for one in rounds:
            plain.update(one.plain)
            done.update(one.done)
        return cls(sum(one.candidates for one in rounds), rounds[0].folds, dict(plain), dict(done), tuple(shared))

    def __str__(self) -> str:
        lines = [f"{self.candidates} candidates, {self.folds} folds", ""]
        names = [name or "estimator" for name in self.plain]
        width = max(map(len, [*names, "step"]))
        lines.append(f"{'step':{width}}  {'plain':>8}  {'done':>8}")
        for name in self.plain:
            lines.append(f"{name or 'estimator':{width}}  {self.plain[name]:8}  {self.done.get(name, 0):8}")
        lines.append(f"{'all fits':{width}}  {sum(self.plain.values()):8}  {sum(self.done.values()):8}")
        if self.shared:
            lines += ["", "Shared, on each fold:"]
        for one in self.shared:
            lost = "; not on all folds, for it drew random numbers or failed" if one.lost else ""
            lines.append(f"    {one.name}: {one.estimator} by {one.candidates} candidates{lost}")
        return "\n".join(lines)


def count(work: Work | None, plans: Sequence[Plan], folds: int, scores: dict[Any, Score], lost: Iterable[str] = ()) -> Savings:
    """Return the account of a round.

    Parameters
    ----------
    work
        Its graph, if there was one.
    plans
        What its candidates share.
    folds
        How many there are.
    scores
        By candidate and fold, those that were computed.
    lost
        Keys of nodes that some fold could not share.
    """
    plain: Counter[str] = Counter()
    done: Counter[str] = Counter()
    for plan in plans:
        for name in plan.steps:
            plain[name] += folds
    for (candidate, _), score in scores.items():
        for name in plans[candidate].steps[score.given :]:
            done[name] += 1
    nodes: dict[str, Node] = {}
    behind: Counter[str] = Counter()
    for plan in plans:
        chain: list[Node] = []
        node = plan.last
        while node is not None:
            chain.insert(0, node)
            node = node.before
        for node in chain:
            for one in reversed(list(node.within())):
                behind[one.key] += 1
                nodes[one.key] = one
    if work is not None:
        for node in work.nodes.values():
            if not node.inner and node.whole is None:  # what is cut out of another is no fit
                done[node.name] += 1
    at = {key: i for i, key in enumerate(nodes)}
    shared = tuple(
        Shared(node.name, _short(node.estimator), _place(at, node), behind[key], key in set(lost))
        for key, node in nodes.items()
    )
    return Savings(len(plans), folds, dict(plain), dict(done), shared)


def _place(at: dict[str, int], node: Node) -> int | None:
    source = node.whole or node.before
    return at[source.key] if source else None


def _short(estimator: Any) -> str:
    text = " ".join(repr(estimator).split())
    return text if len(text) <= 60 else text[:57] + "..."
