"""Rechunked: what `compile` with ``chunks="auto"`` does to the arguments of calls.

At the first call with arrays of these shapes chunks are chosen for the largest; arrays that are as long are cut with it. The
cut copy of an array is kept for as long as the array itself is there, so that later calls with it do not cut it again.
"""

from __future__ import annotations

import functools
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da

from graphopt.chunks import auto_chunks
from graphopt.chunks.choice import Choice
from graphopt.chunks.sampling import call_of
from graphopt.pipeline import active_client
from graphopt.tree import flatten, unflatten

__all__ = ["Rechunked"]


class Rechunked:
    """Cuts the arguments of a compiled function's calls.

    Attributes
    ----------
    choices : list of Choice
        What was chosen, for each signature in turn.
    """

    def __init__(self) -> None:
        self._known: dict[Any, Choice] = {}
        self._cut: dict[Any, tuple[weakref.ref[Any], da.Array | None]] = {}
        self._guard = threading.RLock()

    @property
    def choices(self) -> list[Choice]:
        """What was chosen, for each signature in turn."""
        return list(self._known.values())

    def __call__(self, step: Any, args: tuple[Any, ...], kwargs: Any) -> tuple[Any, Any]:
        """Return the arguments of a call, cut as was chosen for arrays like these."""
        found, structure = flatten((list(args), dict(kwargs)))
        leaves = [leaf for _, leaf in found]
        arrays = [place for place, leaf in enumerate(leaves) if isinstance(leaf, da.Array) and leaf.ndim]
        if not arrays:
            return args, kwargs
        client = id(active_client())
        with self._guard:
            lead = max(arrays, key=lambda place: (_bytes(leaves[place]), -place))
            others = leaves[:lead] + leaves[lead + 1 :]
            signature = (client, structure, *[(place, leaves[place].dtype, _shape(leaves[place])) for place in arrays])
            choice = self._known.get(signature)
            if choice is None:
                choice = self._known[signature] = auto_chunks(leaves[lead], _InOrder(step, structure, lead), others)
            if not choice.pays or choice._runs_on is None:
                return args, kwargs
            cut = {place: self._there(leaves[place], client) for place in arrays}
            if any(array is None for array in cut.values()):
                given = [leaf if cut.get(place) is None else cut[place] for place, leaf in enumerate(leaves)]
                call = call_of(given[lead], [*given[:lead], *given[lead + 1 :]], choice._axes)
                made = call.rechunked(choice._way, choice._runs_on).leaves
                made = (*made[1 : lead + 1], made[0], *made[lead + 1 :])
                for place in arrays:
                    cut[place] = made[place]
                    self._keep(leaves[place], made[place], client)
            leaves = [cut.get(place, leaf) for place, leaf in enumerate(leaves)]
        positional, named = unflatten(structure, leaves)
        return tuple(positional), named

    def _there(self, array: da.Array, client: int) -> da.Array | None:
        """Return the cut copy of an array, or itself if it need not be cut; None if that is not known yet."""
        graph, copy = self._cut.get((array.name, client), (None, None))
        if graph is None or graph() is not array.dask:
            return None
        return array if copy is None else copy

    def _keep(self, old: da.Array, new: da.Array, client: int) -> None:
        """Note what an array was cut to; nothing here keeps the array itself alive."""
        key = (old.name, client)
        if self._there(old, client) is None:
            copy = None if new is old else new
            self._cut[key] = (weakref.ref(old.dask, functools.partial(_forget, self._cut, key)), copy)


def _forget(cut: dict[Any, Any], key: Any, graph: Any) -> None:
    if key in cut and cut[key][0] is graph:
        del cut[key]


def _bytes(array: da.Array) -> float:
    """Return how large an array is; lengths that are unknown count as large."""
    return math.prod(1e9 if size != size else float(size) for size in array.shape) * float(array.dtype.itemsize)


def _shape(array: da.Array) -> tuple[Any, ...]:
    return tuple("?" if size != size else size for size in array.shape)


class _InOrder:
    """A compiled function as `auto_chunks` calls it: the array that is cut first, then the other leaves of the arguments."""

    def __init__(self, step: Callable[..., Any], structure: Any, lead: int) -> None:
        self.step, self.structure, self.lead = step, structure, lead

    def __call__(self, array: Any, others: Sequence[Any]) -> Any:
        args, kwargs = unflatten(self.structure, [*others[: self.lead], array, *others[self.lead :]])
        return self.step(*args, **kwargs)

    @property
    def policy(self) -> Any:
        return self.step.policy  # type: ignore[attr-defined]

    @property
    def __wrapped__(self) -> Any:
        return _InOrder(self.step.__wrapped__, self.structure, self.lead)  # type: ignore[attr-defined]

    def twin(self) -> _InOrder:
        return _InOrder(self.step.twin(), self.structure, self.lead)  # type: ignore[attr-defined]

    def close(self) -> None:
        self.step.close()  # type: ignore[attr-defined]
