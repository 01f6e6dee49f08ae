"""Penalties: what is added to the mean loss for the coefficients, the intercept apart.

A penalty has a smooth part, half of ``ridge`` times the sum of squares, and one that need not be smooth, given by its value and
its proximal operator ``argmin_x step·value(x) + |x - z|² / 2`` (Parikh and Boyd, Proximal Algorithms, 2014)::

    L2(a)              a/2 |w|²                      ElasticNet(a, r)   a (r |w|₁ + (1 - r)/2 |w|²)
    L1(a)              a |w|₁                        GroupL1(a, groups) a Σ √size |w of group|
    Box(low, high)     0 inside, infinite outside

As in scikit-learn's ``ElasticNet``, strengths stand beside the *mean* loss; ``C`` of its logistic regression is 1 / (a·rows).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["L1", "L2", "Box", "ElasticNet", "GroupL1", "Kinks", "Penalty", "Unpenalised"]


class Kinks(NamedTuple):
    """What is not smooth: a factor of the sum of absolute values, and bounds of each coefficient."""

    lasso: float = 0.0
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Penalty:
    """A function of the coefficients; this one is zero, as `Unpenalised` says in words."""

    @property
    def ridge(self) -> float:
        """The factor of half the sum of squares."""
        return 0.0

    @property
    def smooth(self) -> bool:
        """Whether there is nothing else."""
        return True

    @property
    def separable(self) -> bool:
        """Whether each coefficient has its own term, so that they can be solved for one by one."""
        return True

    @property
    def kinks(self) -> Kinks | None:
        """The sum of absolute values and bounds that it has, if there is nothing else that is not smooth."""
        return Kinks() if self.smooth else None

    def value(self, w: np.ndarray) -> float:
        """Return what is not smooth of it."""
        return 0.0

    def prox(self, z: np.ndarray, step: float) -> np.ndarray:
        """Return the proximal operator of what is not smooth."""
        return z

    def _check(self, w: np.ndarray) -> None:
        """Raise if it is not one for so many coefficients."""


@dataclass(frozen=True)
class Unpenalised(Penalty):
    """Nothing."""


@dataclass(frozen=True)
class L2(Penalty):
    """Ridge: half the sum of squares, times ``strength``."""

    strength: float

    def __post_init__(self) -> None:
        _at_least_zero("L2", strength=self.strength)

    @property
    def ridge(self) -> float:
        return self.strength


@dataclass(frozen=True)
class L1(Penalty):
    """Lasso: the sum of absolute values, times ``strength``."""

    strength: float

    def __post_init__(self) -> None:
        _at_least_zero("L1", strength=self.strength)

    @property
    def smooth(self) -> bool:
        return self.strength == 0

    @property
    def kinks(self) -> Kinks:
        return Kinks(lasso=self.strength)

    def value(self, w: np.ndarray) -> float:
        return self.strength * float(np.abs(w).sum())

    def prox(self, z: np.ndarray, step: float) -> np.ndarray:
        return _shrunk(z, step * self.strength)


@dataclass(frozen=True)
class ElasticNet(Penalty):
    """``strength`` times a mixture of the two: ``ratio`` of the lasso, the rest of ridge.

    Attributes
    ----------
    strength, ratio : float
        How much of it, and how much of that is the lasso's.
    positive : bool
        Whether coefficients are at least 0 besides.
    """

    strength: float
    ratio: float = 0.5
    positive: bool = False

    def __post_init__(self) -> None:
        _at_least_zero("ElasticNet", strength=self.strength)
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ElasticNet(ratio={self.ratio!r}): must be between 0 and 1.")

    @property
    def ridge(self) -> float:
        return self.strength * (1 - self.ratio)

    @property
    def smooth(self) -> bool:
        return self.strength * self.ratio == 0 and not self.positive

    @property
    def kinks(self) -> Kinks:
        return Kinks(lasso=self.strength * self.ratio, low=0.0 if self.positive else -math.inf)

    def value(self, w: np.ndarray) -> float:
        if self.positive and (w < 0).any():
            return math.inf
        return self.strength * self.ratio * float(np.abs(w).sum())

    def prox(self, z: np.ndarray, step: float) -> np.ndarray:
        by = step * self.strength * self.ratio
        return np.maximum(z - by, 0.0) if self.positive else _shrunk(z, by)


@dataclass(frozen=True)
class GroupL1(Penalty):
    """Group lasso: the lengths of groups of coefficients, each times the root of its size, times ``strength``.

    Attributes
    ----------
    strength : float
        The factor.
    groups : tuple of int
        The group of each feature, counted from 0.
    """

    strength: float
    groups: tuple[int, ...]

    def __post_init__(self) -> None:
        _at_least_zero("GroupL1", strength=self.strength)
        if set(self.groups) != set(range(max(self.groups, default=-1) + 1)):
            raise ValueError(
                "GroupL1(groups=): must number the group of each feature, counted from 0, with no number left out."
            )

    @property
    def smooth(self) -> bool:
        return self.strength == 0

    @property
    def separable(self) -> bool:
        return False

    def value(self, w: np.ndarray) -> float:
        return self.strength * float((self._roots() * self._lengths(w)).sum())

    def prox(self, z: np.ndarray, step: float) -> np.ndarray:
        lengths = self._lengths(z)
        with np.errstate(divide="ignore", invalid="ignore"):
            kept = np.where(lengths > 0, np.maximum(0.0, 1 - step * self.strength * self._roots() / lengths), 0.0)
        shrunk: np.ndarray = z * kept[list(self.groups)]
        return shrunk

    def _lengths(self, w: np.ndarray) -> np.ndarray:
        return np.sqrt(np.bincount(self.groups, weights=w * w))

    def _roots(self) -> np.ndarray:
        return np.sqrt(np.bincount(self.groups))

    def _check(self, w: np.ndarray) -> None:
        if len(self.groups) != len(w):
            raise ValueError(f"GroupL1(groups=) has {len(self.groups)} places for {len(w)} coefficients.")


@dataclass(frozen=True)
class Box(Penalty):
    """Bounds: every coefficient is between ``low`` and ``high``."""

    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"Box(low={self.low!r}, high={self.high!r}): there is nothing between.")

    @property
    def smooth(self) -> bool:
        return False

    @property
    def kinks(self) -> Kinks:
        return Kinks(low=self.low, high=self.high)

    def value(self, w: np.ndarray) -> float:
        return 0.0 if (w >= self.low).all() and (w <= self.high).all() else math.inf

    def prox(self, z: np.ndarray, step: float) -> np.ndarray:
        inside: np.ndarray = np.clip(z, self.low, self.high)
        return inside


def _shrunk(z: np.ndarray, by: float) -> np.ndarray:
    shrunk: np.ndarray = np.sign(z) * np.maximum(np.abs(z) - by, 0.0)
    return shrunk


def _at_least_zero(what: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise ValueError(f"{what}({name}={number!r}): must be a number of at least 0.")
