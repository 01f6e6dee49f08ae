"""Fit: the costs that explain what graphs of known size took, and how sure they are.

Least squares on the medians of each graph, with costs that cannot be negative (Lawson and Hanson, Solving Least Squares
Problems, 1974, as in SciPy), each graph weighted by the time that the costs predict for it: errors are relative, and a call of
one task says as much as one of a thousand. Weights by the times themselves would trust those most that came out too small.
Intervals are those of the bootstrap (Efron, 1979): the samples of each graph are drawn anew, and fitted again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.cost import Spread

__all__ = ["bootstrapped", "fitted", "spread", "spread_of_median"]

_DRAWS = 200
_REWEIGHTED = 4


def fitted(counts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the cost of each column of ``counts`` (graphs by columns) that together explain the times best."""
    expected = times
    for _ in range(_REWEIGHTED):
        costs = _solved(counts, times, expected)
        expected = np.maximum(counts @ costs, times * 1e-3)
    return costs


def _solved(counts: np.ndarray, times: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the costs, with each time weighted by what is expected of it."""
    from scipy.optimize import nnls  # takes a while to import

    weighted = counts / expected[:, np.newaxis]
    scale = weighted.max(axis=0)
    used = scale > 0
    out = np.zeros(counts.shape[1])
    out[used] = nnls(weighted[:, used] / scale[used], times / expected)[0] / scale[used]
    return out


def bootstrapped(counts: np.ndarray, samples: Sequence[Sequence[float]], draws: int = _DRAWS) -> np.ndarray:
    """Return estimates (draws by columns) from samples drawn anew; each graph may have another number of them."""
    rng = np.random.default_rng(0)
    medians = np.array([np.median(one) for one in samples])
    expected = np.maximum(counts @ fitted(counts, medians), medians * 1e-3)
    times = np.stack([_medians(one, draws, rng) for one in samples], axis=1)
    return np.stack([_solved(counts, row, expected) for row in times])


def _medians(sample: Sequence[float], draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return the medians of so many samples drawn from one."""
    drawn = np.asarray(sample)[rng.integers(len(sample), size=(draws, len(sample)))]
    medians: np.ndarray = np.median(drawn, axis=1)
    return medians


def spread(estimates: np.ndarray | Sequence[float]) -> Spread:
    """Return the median of estimates and the interval that holds nine in ten."""
    low, median, high = np.quantile(estimates, (0.05, 0.5, 0.95))
    return Spread(float(median), float(low), float(high))


def spread_of_median(sample: Sequence[float], draws: int = _DRAWS) -> Spread:
    """Return the median of a sample and its interval."""
    return spread(_medians(sample, draws, np.random.default_rng(0)))
