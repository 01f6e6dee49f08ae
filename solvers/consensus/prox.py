"""Prox: the update of the consensus z, for a penalty of its first components.

Where the same vector may be added to the coefficients of all classes and no loss changes, chunks have nothing to say about
it: it is for the penalty alone. So the update minimises over it too, and chunks are told z without it. Were it drawn to where
it was, as the rest is, it would go to its place by ``strength / rho`` a round, which for a weak penalty is for ever.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from solvers.penalties import Penalty

__all__ = ["Prox"]

#: How often the place of a common vector is bisected before it is interpolated.
_HALVED = 45


@dataclass(frozen=True, eq=False)
class Prox:
    """The update of z: ``argmin g(z) + rho/2 |z - s|²_D``, for a penalty of the first ``penalised`` components.

    Attributes
    ----------
    penalty : Penalty
        Of the coefficients.
    metric : numpy.ndarray
        D.
    penalised : int
        How many coefficients there are.
    classes : int
        In how many rows they are, one after the other, and intercepts after them, where what rows have in common changes no
        loss; else 1.
    floor : float
        The least that the last component may be.
    """

    penalty: Penalty
    metric: np.ndarray
    penalised: int
    classes: int = 1
    floor: float = -math.inf

    def __call__(self, s: np.ndarray, rho: float) -> np.ndarray:
        count = self.penalised
        z: np.ndarray = s.copy()
        z[:count] = self._coefficients(s[:count], rho)
        if self._shifting:
            z[:count] = self._shifted(s[:count].reshape(self.classes, -1), rho)
            z[count:] -= z[count:].mean() if len(z) > count else 0.0
        if self.floor > -math.inf:
            z[-1] = max(z[-1], self.floor)
        return z

    def seen(self, z: np.ndarray) -> np.ndarray:
        """Return what chunks are told of a point: without what all classes have in common."""
        if not self._shifting:
            return z
        found: np.ndarray = z.copy()
        for part in (slice(self.penalised), slice(self.penalised, None)):
            rows, weights = found[part].reshape(self.classes, -1), self.metric[part].reshape(self.classes, -1)
            rows -= (weights * rows).sum(axis=0) / weights.sum(axis=0)
        return found

    @functools.cached_property
    def _shifting(self) -> bool:
        """Whether there is anything in common; coefficients that are tied together otherwise stay drawn to where they were."""
        return self.classes > 1 and self.penalty.kinks is not None

    def _coefficients(self, s: np.ndarray, rho: float) -> np.ndarray:
        curved = rho * self.metric[: self.penalised]
        steps = 1.0 / (curved + self.penalty.ridge)
        # Where coefficients are tied together the metric is the same for all of them.
        step: Any = steps if self.penalty.kinks is not None else float(steps[0])
        found: np.ndarray = self.penalty.prox(curved * steps * s, step)
        return found

    def _shifted(self, s: np.ndarray, rho: float) -> np.ndarray:
        """Return the update of coefficients, a row for each class, with the best vector added to all.

        At the best one, the weighted sum over classes of how far each is moved is 0. It falls with what is added, piece by
        piece along straight lines; where all are on one side of the penalty's minimum, its sign is known.
        """
        assert self.penalty.kinks is not None
        if self.penalty.smooth and not self.penalty.ridge:
            return np.ravel(s - s.mean(axis=0))  # nothing says which: that whose sum is 0
        weights = self.metric[: self.penalised].reshape(s.shape)

        def moved(shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            from_, to = s + shift, self._coefficients((s + shift).ravel(), rho).reshape(s.shape)
            return to, (weights * (to - from_)).sum(axis=0)

        least = min(max(0.0, self.penalty.kinks.low), self.penalty.kinks.high)
        low, high = least - s.max(axis=0), least - s.min(axis=0)
        for _ in range(0 if self.penalty.smooth else _HALVED):
            middle = 0.5 * (low + high)
            up = moved(middle)[1] > 0
            low, high = np.where(up, middle, low), np.where(up, high, middle)
        first, last = moved(low)[1], moved(high)[1]
        apart = first - last
        part = np.divide(first, apart, out=np.full_like(first, 0.5), where=apart > 0)
        found: np.ndarray = moved(low + part * (high - low))[0].ravel()
        return found
