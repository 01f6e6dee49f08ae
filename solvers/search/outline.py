"""Outline: which parts of the candidates are equal, found out before anything is fitted.

A `Node` is a fit of one transformer on one input: the rows of a fold, or what other nodes made of them. Its key is a hash of
the estimator and of the key of its input, so equal prefixes of pipelines, and equal members of unions on equal inputs, are one
node. A node that only one candidate has is worth nothing: such a candidate is fitted whole. A node may be what is kept of
another, its `whole`, which others keep more or less of.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sklearn import get_config
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags

from solvers.search.given import is_container, members
from solvers.search.tokens import is_fixed, token
from solvers.search.truncation import untruncated

__all__ = ["Node", "Plan", "distinct", "outline", "paths"]


@dataclass(frozen=True)
class Node:
    """A fit that candidates may share."""

    key: str
    name: str
    estimator: Any
    before: Node | None = None
    params: tuple[str, ...] = ()
    columns: Any = None
    inner: bool = False
    members: tuple[tuple[str, Node], ...] = ()
    whole: Node | None = None

    def within(self) -> Iterator[Node]:
        """Yield the node and all that it is made of, but for what comes before it."""
        yield self
        if self.whole is not None:
            yield self.whole
        for _, node in self.members:
            yield from node.within()


@dataclass(frozen=True)
class Plan:
    """What of a candidate is shared: its own key, its last shared step, the path it is on and where, and its steps."""

    key: Any
    last: Node | None
    group: Any
    strength: float
    steps: tuple[str, ...]


def outline(
    estimator: Any,
    candidates: Sequence[dict[str, Any]],
    fit_params: dict[str, Any],
    *,
    apart: bool = False,
    shape: tuple[int, int] | None = None,
) -> list[Plan]:
    """Return what each candidate shares.

    Parameters
    ----------
    estimator
        What is searched.
    candidates
        The parameters to try.
    fit_params
        What ``fit`` gets beside rows and labels.
    apart
        Whether to share no steps.
    shape
        Of the rows that are fitted, if that is known.
    """
    if apart or not _sharable(estimator, fit_params):
        return _whole(estimator, candidates)
    given: dict[str, set[str]] = {}
    for name in fit_params:
        given.setdefault(name.partition("__")[0], set()).add(name)
    chains, copies = [], []
    for params in candidates:
        try:
            copy = clone(estimator).set_params(**clone(params, safe=False))
            steps = _chain(copy, given, shape) if is_container(copy) else []
        except Exception:  # it will fail for the same reason when its turn comes
            copy, steps = estimator, []
        chains.append(steps)
        copies.append(copy)
    keys = [_key(params, is_fixed(copy)) for copy, params in zip(copies, candidates, strict=True)]
    # Only distinct candidates count: those that are equal are one.
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    uses = Counter(key for i in first.values() for key in {node.key for step in chains[i] for node in step.within()})
    plans = []
    for params, copy, chain, key in zip(candidates, copies, chains, keys, strict=True):
        shared = [i for i, step in enumerate(chain) if any(uses[node.key] > 1 for node in step.within())]
        last = _kept(chain[shared[-1]], uses) if shared else None
        plans.append(Plan(key, last, *_path(copy, params, last), _names(copy)))
    return plans


def distinct(plans: Sequence[Plan]) -> dict[Any, int]:
    """Return the first candidate of each key: those that are equal are one."""
    first: dict[Any, int] = {}
    for i, plan in enumerate(plans):
        first.setdefault(plan.key, i)
    return first


def paths(plans: Sequence[Plan], candidates: Iterable[int]) -> list[list[int]]:
    """Return candidates by the path they are on, in the order in which that is gone; most are alone on theirs."""
    groups: dict[Any, list[int]] = {}
    for i in candidates:
        groups.setdefault(i if plans[i].group is None else ("path", plans[i].group), []).append(i)
    return [sorted(group, key=lambda i: plans[i].strength) for group in groups.values()]


def _whole(estimator: Any, candidates: Sequence[dict[str, Any]]) -> list[Plan]:
    """Return plans of candidates that share nothing but what is the same of all of it."""
    fixed = is_fixed(estimator)
    names = {name for params in candidates for name in params if name.rpartition("__")[2] == "random_state"}
    chance = {name: [params[name] for params in candidates if name in params] for name in names}
    if any(hasattr(value, "get_params") for params in candidates[:1] for value in params.values()):
        fixed = False
    fixed = fixed and all(isinstance(value, int) for values in chance.values() for value in values)
    return [Plan(_key(params, fixed), None, *_path(estimator, params, None), ("",)) for params in candidates]


def _sharable(estimator: Any, fit_params: dict[str, Any]) -> bool:
    """Say whether the estimator is a pipeline whose steps may be fitted one by one."""
    if type(estimator) is not Pipeline:
        return False
    config = get_config()
    if config.get("array_api_dispatch") or (config.get("enable_metadata_routing") and fit_params):
        return False
    try:
        return not get_tags(estimator).input_tags.pairwise and all("__" in name for name in fit_params)
    except Exception:
        return False


def _key(params: dict[str, Any], fixed: bool) -> Any:
    """Return the key of a whole candidate; one of its own if it may draw random numbers."""
    return token(params) if fixed else object()


def _names(estimator: Any) -> tuple[str, ...]:
    if not isinstance(estimator, Pipeline):
        return ("",)
    return tuple(name for name, step in estimator.steps if hasattr(step, "fit"))


def _chain(pipeline: Pipeline, given: dict[str, set[str]], shape: tuple[int, int] | None) -> list[Node]:
    """Return a node for each step but the last; of steps that pass rows on there is none."""
    nodes: list[Node] = []
    for name, step in pipeline.steps[:-1]:
        if hasattr(step, "get_params"):
            before = nodes[-1] if nodes else None
            nodes.append(_node(name, step, before, shape, params=tuple(sorted(given.get(name, ())))))
        elif step not in (None, "passthrough"):
            break
    return nodes


def _node(
    name: str,
    estimator: Any,
    before: Node | None,
    shape: tuple[int, int] | None,
    columns: Any = None,
    params: tuple[str, ...] = (),
    inner: bool = False,
) -> Node:
    all_ = untruncated(estimator, shape)
    whole = None if all_ is None else _node(name, all_, before, shape, columns, params, inner)
    inside: list[tuple[str, Node]] = []
    if is_container(estimator) and not params:
        last = before
        for part, member, chosen in members(estimator):
            node = _node(f"{name}__{part}", member, last, shape, chosen, inner=True)
            inside.append((part, node))
            if isinstance(estimator, Pipeline):
                last = node
    source = before.key if before else None
    hashed = (
        token(estimator),
        token(columns) if columns is not None else None,
        params,
        source,
        tuple(n.key for _, n in inside),
    )
    key = hashlib.sha1(repr(hashed).encode()).hexdigest()
    return Node(key, name, estimator, before, params, columns, inner, tuple(inside), whole)


def _kept(node: Node, uses: Counter[str]) -> Node:
    """Return the node without members, and without a whole, that no other shares; it fits those itself."""
    before = _kept(node.before, uses) if node.before else None
    whole = _kept(node.whole, uses) if node.whole and uses[node.whole.key] > uses[node.key] else None
    inside = tuple((name, _kept(part, uses)) for name, part in node.members)
    if not any(uses[part.key] > uses[node.key] for _, part in inside):
        inside = ()
    return replace(node, before=before, members=inside, whole=whole)


def _path(estimator: Any, params: dict[str, Any], last: Node | None) -> tuple[Any, float]:
    """Return which path a candidate of ours is on, and where: those on one differ by the strength of the penalty only."""
    from solvers.estimators.base import LinearModel

    final = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    prefix = f"{estimator.steps[-1][0]}__" if isinstance(estimator, Pipeline) else ""
    for name, sign in (("alpha", -1.0), ("C", 1.0)):
        strength = params.get(prefix + name)
        if isinstance(final, LinearModel) and isinstance(strength, (int, float)) and not hasattr(final, "seed"):
            rest = {key: value for key, value in params.items() if key != prefix + name}
            if not any(hasattr(value, "get_params") for value in rest.values()):
                return (token(rest), last.key if last else None), sign * strength
    return None, 0.0
