"""Families: what a row's loss is, as a function of its linear predictor eta and its label y.

A family is written in array functions that NumPy and dask share, and graphopt compiles them with the rest of a pass into one
loop over the rows. Losses are negative log-likelihoods up to what does not depend on the coefficients::

    normal    (eta - y)² / 2              logistic  log(1 + exp(eta)) - y eta, y 0 or 1
    poisson   exp(eta) - y eta            gamma     y exp(-eta) + eta
    huber     (eta - y)² / 2 near y, delta |eta - y| - delta² / 2 beyond

They are convex. To add one: write ``losses``, ``first`` and ``second`` (its derivatives by eta), ``mean`` and ``link``, and
say which labels there are and, if there is one, the largest second derivative.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.special

__all__ = ["FAMILIES", "Family", "Gamma", "Huber", "Logistic", "Normal", "Poisson", "family_of"]


@dataclass(frozen=True)
class Family(ABC):
    """A loss, by its derivatives, and the link between the linear predictor and the mean.

    Attributes
    ----------
    name : str
        What it is called.
    labels : str
        Which labels there are, in words.
    bound : float
        The largest second derivative; infinite if there is none.
    dispersed : bool
        Whether the variance of y has a factor that the data is to tell.
    """

    name: ClassVar[str]
    labels: ClassVar[str]
    bound: ClassVar[float] = math.inf
    dispersed: ClassVar[bool] = False

    @abstractmethod
    def losses(self, eta: Any, y: Any) -> Any:
        """Return the loss of each row."""

    @abstractmethod
    def first(self, eta: Any, y: Any) -> Any:
        """Return the derivative of each loss by eta."""

    @abstractmethod
    def second(self, eta: Any, y: Any) -> Any:
        """Return the second derivative of each loss by eta; where there is none, that of a close function."""

    def mean(self, eta: Any) -> Any:
        """Return the mean of y where the linear predictor is eta."""
        return eta

    def link(self, mean: float) -> float:
        """Return the linear predictor of a mean."""
        return mean

    def saturated(self, y: Any) -> Any:
        """Return the least loss there is for each label; what a loss is above it is half its deviance."""
        return 0.0

    def information(self, eta: Any) -> Any:
        """Return the expected second derivative of each loss; None where the loss is no likelihood."""
        return None

    def extra(self, y: Any) -> Any:
        """Return what of each label's log-likelihood is to be summed up beside the loss."""
        return 0.0

    def log_likelihood(
        self, losses: float, extra: float, rows: float, dispersion: float, log_weights: float | None = None
    ) -> float:
        """Return the log-likelihood of all rows.

        Parameters
        ----------
        losses, extra
            Sums over the rows, with their weights.
        rows
            How many there are.
        dispersion
            As it was estimated.
        log_weights
            The sum of the logarithms of weights, where they are precisions.
        """
        return extra - losses

    def wrong(self, y: Any) -> Any:
        """Say of each label whether it is none of this family."""
        return ~np.isfinite(y)


@dataclass(frozen=True)
class Normal(Family):
    """Least squares."""

    name = "normal"
    labels = "finite numbers"
    bound = 1.0
    dispersed = True

    def losses(self, eta: Any, y: Any) -> Any:
        return 0.5 * (eta - y) ** 2

    def first(self, eta: Any, y: Any) -> Any:
        return eta - y

    def second(self, eta: Any, y: Any) -> Any:
        return 0.0 * eta + 1.0

    def information(self, eta: Any) -> Any:
        return 0.0 * eta + 1.0

    def log_likelihood(
        self, losses: float, extra: float, rows: float, dispersion: float, log_weights: float | None = None
    ) -> float:
        """Return it at its largest over the dispersion."""
        if losses <= 0:
            return math.inf
        return -0.5 * rows * (math.log(4.0 * math.pi * losses / rows) + 1.0) + 0.5 * (log_weights or 0.0)


@dataclass(frozen=True)
class Logistic(Family):
    """Two classes, labelled 0 and 1."""

    name = "logistic"
    labels = "0 and 1"
    bound = 0.25

    def losses(self, eta: Any, y: Any) -> Any:
        return np.maximum(eta, 0.0) + np.log1p(np.exp(-np.abs(eta))) - y * eta  # NumPy's logaddexp takes five times as long

    def first(self, eta: Any, y: Any) -> Any:
        return self.mean(eta) - y

    def second(self, eta: Any, y: Any) -> Any:
        return self.information(eta)

    def information(self, eta: Any) -> Any:
        p = self.mean(eta)
        return p * (1.0 - p)

    def mean(self, eta: Any) -> Any:
        return 0.5 * np.tanh(0.5 * eta) + 0.5

    def link(self, mean: float) -> float:
        return math.log(mean / (1.0 - mean)) if 0.0 < mean < 1.0 else 0.0

    def wrong(self, y: Any) -> Any:
        return ~((y == 0) | (y == 1))


@dataclass(frozen=True)
class Poisson(Family):
    """Counts, with the logarithm as link."""

    name = "poisson"
    labels = "finite numbers of at least 0"

    def losses(self, eta: Any, y: Any) -> Any:
        return np.exp(eta) - y * eta

    def first(self, eta: Any, y: Any) -> Any:
        return np.exp(eta) - y

    def second(self, eta: Any, y: Any) -> Any:
        return np.exp(eta)

    def information(self, eta: Any) -> Any:
        return np.exp(eta)

    def extra(self, y: Any) -> Any:
        return -scipy.special.gammaln(y + 1.0)

    def mean(self, eta: Any) -> Any:
        return np.exp(eta)

    def link(self, mean: float) -> float:
        return math.log(mean) if mean > 0.0 else 0.0

    def saturated(self, y: Any) -> Any:
        return y - y * np.log(np.maximum(y, 1e-300))

    def wrong(self, y: Any) -> Any:
        return ~((y >= 0) & np.isfinite(y))


@dataclass(frozen=True)
class Gamma(Family):
    """Positive amounts whose spread grows with their mean, with the logarithm as link."""

    name = "gamma"
    labels = "finite numbers above 0"
    dispersed = True

    def losses(self, eta: Any, y: Any) -> Any:
        return y * np.exp(-eta) + eta

    def first(self, eta: Any, y: Any) -> Any:
        return 1.0 - y * np.exp(-eta)

    def second(self, eta: Any, y: Any) -> Any:
        return y * np.exp(-eta)

    def information(self, eta: Any) -> Any:
        return 0.0 * eta + 1.0

    def extra(self, y: Any) -> Any:
        return np.log(y)

    def log_likelihood(
        self, losses: float, extra: float, rows: float, dispersion: float, log_weights: float | None = None
    ) -> float:
        """Return it at the dispersion as estimated; NaN where that is not one for all rows."""
        if log_weights is not None or not dispersion > 0:
            return math.nan
        shape = 1.0 / dispersion
        return rows * (shape * math.log(shape) - math.lgamma(shape)) + (shape - 1.0) * extra - shape * losses

    def mean(self, eta: Any) -> Any:
        return np.exp(eta)

    def link(self, mean: float) -> float:
        return math.log(mean) if mean > 0.0 else 0.0

    def saturated(self, y: Any) -> Any:
        return 1.0 + np.log(y)

    def wrong(self, y: Any) -> Any:
        return ~((y > 0) & np.isfinite(y))


@dataclass(frozen=True)
class Huber(Family):
    """Least squares that outliers do not rule: beyond ``delta`` the loss grows linearly.

    Attributes
    ----------
    delta : float
        Where that begins, in units of y.
    """

    delta: float = 1.35
    name = "huber"
    labels = "finite numbers"
    bound = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.delta < math.inf:
            raise ValueError(f"Huber(delta={self.delta!r}): must be a number above 0.")

    def losses(self, eta: Any, y: Any) -> Any:
        near = np.minimum(np.abs(eta - y), self.delta)
        return near * (np.abs(eta - y) - 0.5 * near)

    def first(self, eta: Any, y: Any) -> Any:
        return np.minimum(np.maximum(eta - y, -self.delta), self.delta)

    def second(self, eta: Any, y: Any) -> Any:
        return np.where(np.abs(eta - y) <= self.delta, 1.0, 0.0)


#: The families that go by a name.
FAMILIES: dict[str, Family] = {family.name: family for family in (Normal(), Logistic(), Poisson(), Gamma(), Huber())}


def family_of(family: str | Family) -> Family:
    """Return a family by its name, or as it is.

    Raises
    ------
    ValueError
        If there is no family of that name.

    Examples
    --------
    >>> family_of("poisson")
    Poisson()
    """
    if isinstance(family, Family):
        return family
    if family not in FAMILIES:
        raise ValueError(f"There is no family {family!r}: give one of {', '.join(FAMILIES)}, or a Family.")
    return FAMILIES[family]
