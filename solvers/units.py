"""Units: features about their means and in units of their spread, as another way to write the same linear predictor.

::

    X w + b  =  ((X - shift) / scale) u + c,      w = u / scale,      b = c - shift·w

Solvers look for (u, c), which the penalty is of; rows are multiplied by (w, b) as they are, so nothing is centred or copied,
and what is sparse stays so. Derivatives come back by the transpose of the same map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Units"]


@dataclass(frozen=True, eq=False)
class Units:
    """A change of units of the features.

    Attributes
    ----------
    shift : numpy.ndarray
        What is taken off each feature: its mean, or 0 where there is no intercept to make up for it.
    scale : numpy.ndarray
        What it is divided by after that; infinite for one that is constant beside an intercept, whose coefficient is 0 then.
    intercept : bool
        Whether there is one.
    classes : int
        How many rows of coefficients there are, one after the other, and intercepts after them.
    """

    shift: np.ndarray
    scale: np.ndarray
    intercept: bool
    classes: int = 1

    @classmethod
    def of(cls, mean: np.ndarray, spread: np.ndarray, *, intercept: bool, classes: int = 1) -> Units:
        """Return the units in which features have a spread of 1, and a mean of 0 if there is an intercept."""
        constant = spread == 0
        if not intercept:
            return cls(np.zeros_like(mean), np.where(constant, 1.0, spread), intercept, classes)
        return cls(mean, np.where(constant, np.inf, spread), intercept, classes)

    def original(self, beta: np.ndarray) -> np.ndarray:
        """Return what was found in these units in those of the features; what follows the intercepts has none of them."""
        found: np.ndarray = beta.copy()
        w, b = self._parts(found)
        w /= self.scale
        b -= w @ self.shift
        return found

    def standard(self, beta: np.ndarray) -> np.ndarray:
        """Return what is given in units of the features in these: `original` of it is what was given."""
        found: np.ndarray = beta.copy()
        w, b = self._parts(found)
        b += w @ self.shift
        w *= self.finite
        return found

    @property
    def finite(self) -> np.ndarray:
        """The scale, 0 where it is infinite: whatever the coefficient is, it is none in these units."""
        return np.where(np.isinf(self.scale), 0.0, self.scale)

    def pulled(self, derivative: np.ndarray) -> np.ndarray:
        """Return derivatives by what is looked for, along the first axis, from those by what rows are multiplied with."""
        found = np.array(derivative, float)
        w, b = self._parts(found)
        down = (-1, *[1] * (w.ndim - 2))  # a number for each feature, whatever is behind
        with np.errstate(invalid="ignore"):  # a step may go too far; the solver sees that from the value
            w -= self.shift.reshape(down) * b[:, None]
            w /= self.scale.reshape(down)
        return found

    def pushed(self, gradient: np.ndarray) -> np.ndarray:
        """Return the derivatives by what rows are multiplied with: `pulled` of them is what was given."""
        found: np.ndarray = gradient.copy()
        w, b = self._parts(found)
        w *= self.finite
        w += self.shift * b[:, None]
        return found

    def squared(self, hessian: np.ndarray) -> np.ndarray:
        """Return second derivatives by what is looked for."""
        return self.pulled(self.pulled(hessian).T)

    def _parts(self, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return views of what belongs to coefficients, a row for each class, and to intercepts; without any, zeros."""
        count, rest = self.classes * len(self.scale), of.shape[1:]
        w = of[:count].reshape(self.classes, -1, *rest)
        return w, of[count : count + self.classes] if self.intercept else np.zeros((self.classes, *rest))
