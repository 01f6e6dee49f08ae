"""SAGA: steps along the gradient of one row at a time, with the variance taken out by what each row said before.

One step of the loop is an epoch, which goes through all rows once, in short visits to the chunks by turns
(`stochastic.visits`), and a pass that certifies where it led. That pass knows the exact gradient there, so all memory is
taken anew at its point, which costs a product a row: rows remember one point and not many, and differences between what
chunks remember cannot go round. Such an epoch is one of SVRG. With ``refresh=False`` each row remembers its own last visit, and
the average runs along: that is SAGA as it was published.

An epoch that leads to a worse point is not taken. It is made again, from the same point, with shorter visits, for chunks that
differ much lead the coefficients away; where visits are shortest, steps get shorter. So families need no bound of the
curvature: where there is none, steps go by the curvature at the point that an epoch begins at.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import graphopt as go
from solvers.families import Family, family_of
from solvers.iterate import State
from solvers.objective import Objective, evaluated
from solvers.penalties import Kinks
from solvers.rows import by_chunks
from solvers.stochastic.derivatives import derivative_of
from solvers.stochastic.legs import chained, in_lanes, lanes_of, loaded, on_cluster, remembered, walked
from solvers.stochastic.visits import usual, visits
from solvers.stochastic.walk import Epoch, Walker, block_of, curvature_of, examples

__all__ = ["SAGA"]

#: How often an epoch is made again at most, by how much visits get shorter each time, down to how many rows or visits.
_TRIES, _SHORTER, _SHORTEST, _VISITS = 30, 8, 8, 4_096

#: How often lanes' mean is moved half-way back to where they began.
_HALVED = 10

#: Chunks of up to so many bytes together are held in this process; of more than that, one at a time is.
_HELD = 2 << 30

#: A worse objective by less than this is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class _Walked(State):
    """A state with what the next epoch is to be like.

    Attributes
    ----------
    epoch : int
        How many there were.
    visit : int
        The rows of a visit.
    slower : float
        What steps are multiplied with.
    curvature : float
        The largest curvature of a row along itself.
    blocks, memories
        Of the chunks, if these are held.
    average : numpy.ndarray
        Of all that is remembered.
    """

    epoch: int
    visit: int
    slower: float
    curvature: float
    blocks: Any
    memories: Any
    average: np.ndarray


@dataclass(frozen=True)
class SAGA:
    """Stochastic average gradients, proximal: an epoch goes through the rows one by one, in compiled code.

    Attributes
    ----------
    seed : int
        Of the order of rows. With it, chunks and parameters say what comes out, on any scheduler.
    visit : int, optional
        How many rows of a chunk are visited before another chunk has its turn: 0 for whole chunks, in their order; by default
        an eighth of the largest chunk, but at least 1000.
    refresh : bool
        Take all memory anew at the end of each epoch. If not, each row remembers its own last visit.
    pace : float
        The length of steps, in units of 1 / the largest curvature of a row.
    lanes : int
        Into how many lanes the chunks are dealt. They are walked at a time from the same point, and the mean is where all go
        on from. One is sequential.
    derivative : callable, optional
        The derivative of the loss by the linear predictor as a function of eta and y, compiled by ``numba.njit``, for
        families of one's own.

    Notes
    -----
    Defazio, Bach and Lacoste-Julien, NeurIPS 2014; Johnson and Zhang, NeurIPS 2013. With ``refresh``, lanes make the steps of
    DANE (Shamir, Srebro and Zhang, ICML 2014), solved by one epoch each.

    Examples
    --------
    >>> import numpy as np
    >>> from solvers import SAGA, fit
    >>> rng = np.random.default_rng(0)
    >>> X = rng.random((200, 3))
    >>> result = fit(X, X @ [1.0, -2.0, 0.5] + 3, solver=SAGA(seed=1), max_iter=500)
    >>> result.status.value, np.round(result.coef, 4).tolist()
    ('converged', [1.0, -2.0, 0.5])
    """

    seed: int = 0
    visit: int | None = None
    refresh: bool = True
    pace: float = 1 / 3
    lanes: int = 1
    derivative: Any = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"SAGA(seed={self.seed!r}): must be a whole number of at least 0.")
        if self.visit is not None and self.visit < 0:
            raise ValueError(f"SAGA(visit={self.visit!r}): must be a number of rows, or 0 for whole chunks.")
        if not 0 < self.pace < math.inf:
            raise ValueError(f"SAGA(pace={self.pace!r}): must be a number above 0.")
        if self.lanes < 1:
            raise ValueError(f"SAGA(lanes={self.lanes!r}): must be at least 1.")
        if self.lanes > 1 and not self.refresh:
            raise ValueError(
                "SAGA(lanes=, refresh=False): lanes start from one point, which all rows remember: leave refresh on."
            )

    @property
    def name(self) -> str:
        return "SAGA" if self.lanes == 1 else f"SAGA in {self.lanes} lanes"

    def refusal(self, objective: Objective) -> str | None:
        family, penalty = objective.family, objective.penalty
        if not objective.plain:
            return f"rows have no single linear predictor in the {family.name} family; use LBFGS or Newton"
        if objective.units is not None:
            return "rows are walked in the features' own units: scale X before, or use LBFGS or Proximal"
        if penalty.kinks is None:
            return f"{penalty!r} ties coefficients together; use Proximal or ADMM"
        if derivative_of(family, self.derivative) is None:
            return (
                f"the {family.name} family has no derivative for one row; "
                "give SAGA(derivative=) an njit function of eta and y, or use LBFGS"
            )
        return None

    def prewarm(self, client: Any, X: Any, family: str | Family = "normal") -> int:
        """Compile what a fit needs on one worker of a cluster, and send the machine code to all others.

        Parameters
        ----------
        client : distributed.Client
            One that `graphopt.numba_cache.install` was called with.
        X : array of shape (rows, features)
            Some rows, of the kind and the type of numbers that will be fitted: NumPy or CSR.
        family : str or Family
            The loss.

        Returns
        -------
        int
            How many functions were compiled.
        """
        functions = examples(family_of(family), self.derivative, X)
        return sum(go.numba_cache.prewarm(client, function, *some).functions for function, some in functions)

    def init(self, objective: Objective, beta: np.ndarray) -> _Walked:
        at = objective(beta)
        data = objective.data
        sizes = data.X.chunks[0]
        fits = data.sparse or data.X.nbytes <= _HELD
        visit = (usual(sizes) if fits else max(sizes)) if self.visit is None else self.visit
        blocks = loaded(data) if fits and self.lanes == 1 and not on_cluster() else None
        memories = None
        if not self.refresh:
            objective.passes += 1
            memories = remembered(data, objective.family, beta, objective.intercept, blocks)
        average = at.gradient - objective.ridges() * beta
        return _Walked(beta, at, 0, visit, 1.0, self._curvature(objective, beta), blocks, memories, average)

    def step(self, objective: Objective, state: _Walked) -> _Walked | None:
        most = state.at.value + objective.nonsmooth(state.beta)
        most += _ROUNDING * abs(most)
        for _ in range(_TRIES):
            new = self._walked(objective, state)
            for _ in range(_HALVED if self.lanes > 1 else 0):
                if new.at.value + objective.nonsmooth(new.beta) <= most:
                    break
                new = self._at(objective, new, 0.5 * (state.beta + new.beta))
            value = new.at.value + objective.nonsmooth(new.beta)
            if value <= most or (np.isfinite(value) and not self.refresh):
                return new
            state = self._careful(objective, state)
        return None

    def _walked(self, objective: Objective, state: _Walked) -> _Walked:
        """Make an epoch, and evaluate where it leads."""
        data, beta, sizes = objective.data, state.beta, objective.data.X.chunks[0]
        objective.passes += 1
        epoch = Epoch(
            objective.family,
            self.derivative,
            self.seed,
            state.epoch + 1,
            state.slower * self.pace / max(state.curvature, 1e-300),
            objective.penalty.ridge,
            objective.penalty.kinks or Kinks(),
            data.rows,
            data.total,
            objective.intercept,
        )
        walker = Walker.at(beta, state.average)
        order = visits(sizes, self.seed, epoch.number, state.visit)
        average, memories = state.average, state.memories
        if self.lanes > 1:
            beta = in_lanes(walker, epoch, data, order, lanes_of(sizes, self.lanes))
        elif on_cluster():
            beta, average, memories = chained(walker, epoch, data, order, memories)
        else:
            beta, average, memories = walked(walker, epoch, data, order, state.blocks, memories)
        return self._at(objective, replace(state, epoch=epoch.number, average=average, memories=memories), beta)

    def _at(self, objective: Objective, state: _Walked, beta: np.ndarray) -> _Walked:
        """Return a state that is the same but for where it is."""
        at = objective(beta)
        average = at.gradient - objective.ridges() * beta if self.refresh else state.average
        bounded = np.isfinite(objective.family.bound) or not np.isfinite(at.value)
        curvature = state.curvature if bounded else self._curvature(objective, beta)
        return replace(state, beta=beta, at=at, average=average, curvature=curvature)

    def _careful(self, objective: Objective, state: _Walked) -> _Walked:
        """Return the same point, to go on from in shorter visits or steps."""
        sizes = objective.data.X.chunks[0]
        visit, least = state.visit or max(sizes), max(_SHORTEST, -(-sum(sizes) // _VISITS))
        if self.lanes > 1 or visit <= least or not self.refresh:
            return replace(state, epoch=state.epoch + 1, slower=0.5 * state.slower)
        return replace(state, epoch=state.epoch + 1, visit=max(visit // _SHORTER, least))

    def _curvature(self, objective: Objective, beta: np.ndarray) -> float:
        """Return the largest curvature of a row along itself, in a pass of its own."""
        objective.passes += 1
        found = evaluated(_curvature(objective.intercept), objective.data, objective.family, beta)
        return float(found[0]) * objective.data.rows / objective.data.total


@functools.cache
def _curvature(intercept: bool) -> Callable[..., Any]:
    """Return the pass that looks for the row with the most weight, curvature and length."""

    def largest(family: Family, X: Any, y: Any, weights: Any, offset: Any, beta: Any) -> Any:
        work = functools.partial(_largest, family=family, intercept=intercept)
        return by_chunks(work, 1, X, y, weights, offset, beta).max(axis=0)

    return largest


def _largest(
    X: Any, y: np.ndarray, weights: Any, offset: Any, beta: np.ndarray, *, family: Family, intercept: bool
) -> np.ndarray:
    return np.array([curvature_of(family, block_of(X, y, weights, offset), beta, intercept)])
