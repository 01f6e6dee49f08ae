"""The iterative problems of the benchmarks: the step in plain dask, the same work in NumPy, and the loop over either."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import dask
import dask.array as da
import numpy as np
import scipy.sparse
from problems import logistic, logistic_data, logistic_numpy

State = tuple[Any, ...]
Call = Callable[..., Any]  # call(step, *args) -> results


@dataclass(frozen=True)
class Problem:
    """An iteration: ``results = step(*data, *state)``, then ``state = update(state, results)``."""

    name: str
    step: Callable[..., Any]  # in plain dask
    data: tuple[da.Array, ...]  # persisted
    state: State  # small NumPy arrays and scalars, and persisted arrays
    floor: Callable[..., Any]  # floor(blocks, *state): the same over NumPy blocks, on one thread
    update: Callable[[State, Any], State] = field(default=lambda state, results: results)
    chunked: frozenset[int] = frozenset()  # which of the results stay chunked

    def loop(self, call: Call) -> Iterator[State]:
        """Iterate without end and yield every state."""
        state = self.state
        while True:
            state = self.update(state, call(self.step, *self.data, *state))
            yield state

    def run(self, iterations: int, call: Call) -> State:
        """Iterate that many times and return the last state."""
        return next(islice(self.loop(call), iterations - 1, None))

    def numpy_loop(self) -> Iterator[State]:
        """Iterate without end over the stored blocks, the chunked parts of the state as whole arrays."""
        blocks = blocks_of(*self.data)
        state = tuple(small(value) for value in self.state)
        while True:
            state = self.update(state, self.floor(blocks, *state))
            yield state

    def numpy_run(self, iterations: int) -> State:
        """Iterate that many times in NumPy and return the last state."""
        return next(islice(self.numpy_loop(), iterations - 1, None))

    def with_dask(self, scheduler: str = "threads") -> Call:
        """Return the call that lets dask do it: chunked results are persisted, small ones computed, in one go."""

        def call(step: Callable[..., Any], *args: Any) -> Any:
            results = step(*args)
            if not self.chunked:
                return dask.compute(*results, scheduler=scheduler)
            kept = dask.persist(*results, scheduler=scheduler)
            return tuple(value if i in self.chunked else value.compute(scheduler="sync") for i, value in enumerate(kept))

        return call


def small(value: Any) -> Any:
    """Return a dask array as one NumPy array, anything else as it is."""
    return value.compute(scheduler="sync") if isinstance(value, da.Array) else value


def blocks_of(*arrays: da.Array) -> list[tuple[Any, ...]]:
    """Return the stored blocks, those of all arrays at one place together."""
    keys = zip(*[dask.core.flatten(array.__dask_keys__()) for array in arrays], strict=True)
    graphs = [dict(array.dask) for array in arrays]
    return [tuple(_value(graph[key]) for graph, key in zip(graphs, row, strict=True)) for row in keys]


def _value(node: Any) -> Any:
    return node() if callable(node) else node  # persisted data, wrapped or bare


def rows_of(blocks: list[tuple[Any, ...]]) -> Iterator[tuple[slice, tuple[Any, ...]]]:
    """Yield the blocks with the rows that they stand for."""
    start = 0
    for row in blocks:
        stop = start + row[0].shape[0]
        yield slice(start, stop), row
        start = stop


def in_rows(data: np.ndarray, chunks: int) -> da.Array:
    """Store an array in that many blocks of rows."""
    size = (-(-len(data) // chunks), *data.shape[1:])
    return da.from_array(data, chunks=size).persist(scheduler="sync")


# -- logistic regression -----------------------------------------------------------------------------------------------


def logistic_descent(chunks: int, rows: int = 1_000_000, columns: int = 15) -> Problem:
    """Gradient descent on the logistic loss."""
    X, y, beta = logistic_data(chunks, rows, columns)

    def update(state: State, results: Any) -> State:
        return (state[0] - 4 / rows * results[1],)

    return Problem("logistic", logistic, (X, y), (beta,), logistic_numpy, update)


# -- conjugate gradient on the normal equations ------------------------------------------------------------------------


def cg_step(X: da.Array, lam: float, x: np.ndarray, r: np.ndarray, p: np.ndarray, rs: float) -> Any:
    """One step towards ``(X'X + lam I) x = b``; r is the residual, rs its square and p the direction."""
    Ap = X.T.dot(X.dot(p)) + lam * p
    alpha = rs / Ap.dot(p)
    r = r - alpha * Ap
    after = r.dot(r)
    return x + alpha * p, r, r + after / rs * p, after


def cg_numpy(blocks: list[Any], lam: float, x: np.ndarray, r: np.ndarray, p: np.ndarray, rs: float) -> Any:
    """Do the same over NumPy blocks."""
    Ap = lam * p
    for (X,) in blocks:
        Ap += X.T.dot(X.dot(p))
    alpha = rs / Ap.dot(p)
    r = r - alpha * Ap
    after = r.dot(r)
    return x + alpha * p, r, r + after / rs * p, after


def conjugate_gradient(chunks: int, rows: int = 800_000, columns: int = 30, lam: float = 0.5) -> Problem:
    """Ridge regression by conjugate gradient: chunked rows, everything else small."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((rows, columns))
    # Columns of different scales, so that the iteration has something to do.
    X *= np.geomspace(1, 10, columns)
    b = X.T @ (X @ rng.standard_normal(columns) + rng.standard_normal(rows))
    state = (lam, np.zeros(columns), b, b, b @ b)

    def update(state: State, results: Any) -> State:
        return (state[0], *results)

    return Problem("conjugate gradient", cg_step, (in_rows(X, chunks),), state, cg_numpy, update)


# -- power iteration ---------------------------------------------------------------------------------------------------


def power_step(A: da.Array, v: da.Array) -> Any:
    """Multiply by A and normalise; the vector stays chunked as the rows of A are."""
    w = A.dot(v.rechunk(-1))
    norm = da.linalg.norm(w)
    return w / norm, norm


def power_numpy(blocks: list[Any], v: np.ndarray) -> Any:
    """Do the same over NumPy blocks."""
    w = np.empty_like(v)
    for rows, (A,) in rows_of(blocks):
        w[rows] = A.dot(v)
    norm = np.linalg.norm(w)
    return w / norm, norm


def power_iteration(chunks: int, rows: int = 6_000) -> Problem:
    """The largest eigenvalue of a symmetric matrix in blocks of rows."""
    rng = np.random.default_rng(2)
    A = rng.random((rows, rows))
    A += A.T
    return Problem(
        "power iteration",
        power_step,
        (in_rows(A, chunks),),
        (in_rows(np.full(rows, rows**-0.5), chunks),),
        power_numpy,
        lambda state, results: results[:1],
        frozenset({0}),
    )


# -- Jacobi's method in one dimension ----------------------------------------------------------------------------------


def buffers_for(u: np.ndarray) -> list[np.ndarray]:
    """Make room for a state with a frame, and twice for one without.

    A NumPy loop that asked for all of it anew at every step would spend most of its time in the system.
    """
    return [np.zeros([size + 2 for size in u.shape]), np.zeros_like(u), np.zeros_like(u)]


def framed(buffers: list[np.ndarray], u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the state within a frame one wide, which is to be filled in, and room for the next state."""
    padded, one, other = buffers
    padded[(slice(1, -1),) * u.ndim] = u
    return padded, other if u is one else one


def neighbours(u: np.ndarray) -> np.ndarray:
    """Add both neighbours of every point but the first and the last."""
    out = np.zeros_like(u)
    np.add(u[:-2], u[2:], out=out[1:-1])
    return out


def jacobi_step(f: da.Array, u: da.Array) -> Any:
    """One step for ``-u'' = f`` (f times the squared distance of points), and the largest change."""
    around = da.map_overlap(neighbours, u, depth=1, boundary=0.0, dtype=u.dtype)
    new = 0.5 * (around + f)
    return new, abs(new - u).max()


def jacobi_numpy(buffers: list[np.ndarray], blocks: list[Any], u: np.ndarray) -> Any:
    """Do the same over NumPy blocks."""
    padded, new = framed(buffers, u)
    padded[0] = padded[-1] = change = 0.0
    for rows, (f,) in rows_of(blocks):
        new[rows] = 0.5 * (neighbours(padded[rows.start : rows.stop + 2])[1:-1] + f)
        change = max(change, abs(new[rows] - u[rows]).max())
    return new, change


def jacobi(chunks: int, points: int = 4_000_000) -> Problem:
    """Poisson's equation on a chunked line; the state stays chunked."""
    f = np.sin(np.linspace(0, np.pi, points)) / points**2
    return Problem(
        "jacobi",
        jacobi_step,
        (in_rows(f, chunks),),
        (in_rows(np.linspace(0, 1, points), chunks),),
        partial(jacobi_numpy, buffers_for(f)),
        lambda state, results: results[:1],
        frozenset({0}),
    )


# -- heat in two dimensions --------------------------------------------------------------------------------------------


def laplacian(u: np.ndarray) -> np.ndarray:
    """Add the four neighbours of every inner point and take it off four times."""
    out = np.zeros_like(u)
    out[1:-1, 1:-1] = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:] - 4 * u[1:-1, 1:-1]
    return out


def heat_step(u: da.Array, rate: float) -> Any:
    """One step of time on a plate that loses nothing at its rim."""
    return (u + rate * da.map_overlap(laplacian, u, depth=1, boundary="nearest", dtype=u.dtype),)


def heat_numpy(buffers: list[np.ndarray], places: list[Any], _: Any, u: np.ndarray, rate: float) -> Any:
    """Do the same block by block."""
    padded, new = framed(buffers, u)
    padded[:, 0], padded[:, -1] = padded[:, 1], padded[:, -2]
    padded[0], padded[-1] = padded[1], padded[-2]
    for rows, columns in places:
        around = laplacian(padded[rows.start : rows.stop + 2, columns.start : columns.stop + 2])
        new[rows, columns] = u[rows, columns] + rate * around[1:-1, 1:-1]
    return (new,)


def heat(chunks: int, side: int = 1_600) -> Problem:
    """The heat equation on a plate in two-dimensional chunks: all of it is state."""
    down = max(n for n in range(1, math.isqrt(chunks) + 1) if chunks % n == 0)
    sizes = tuple(tuple(len(part) for part in np.array_split(np.arange(side), n)) for n in (down, chunks // down))
    start = np.random.default_rng(3).random((side, side))
    u = da.from_array(start, chunks=sizes).persist(scheduler="sync")
    return Problem(
        "heat",
        heat_step,
        (),
        (u, 0.2),
        partial(heat_numpy, buffers_for(start), da.core.slices_from_chunks(u.chunks)),
        lambda state, results: (*results, 0.2),
        frozenset({0}),
    )


# -- k-means -----------------------------------------------------------------------------------------------------------


def kmeans_step(X: da.Array, centres: np.ndarray) -> Any:
    """Lloyd's step: assign every row to the nearest centre, and move the centres to the means."""
    # The squared distances, but for what is the same for all centres.
    nearest = ((centres**2).sum(axis=1) - 2 * X.dot(centres.T)).argmin(axis=1)
    members = (nearest[:, None] == np.arange(len(centres))).astype(X.dtype)
    counts = members.sum(axis=0)
    return members.T.dot(X) / da.maximum(counts, 1)[:, None], counts


def kmeans_numpy(blocks: list[Any], centres: np.ndarray) -> Any:
    """Do the same over NumPy blocks."""
    sums, counts = np.zeros_like(centres), np.zeros(len(centres))
    for (X,) in blocks:
        nearest = ((centres**2).sum(axis=1) - 2 * X.dot(centres.T)).argmin(axis=1)
        members = (nearest[:, None] == np.arange(len(centres))).astype(X.dtype)
        counts += members.sum(axis=0)
        sums += members.T.dot(X)
    return sums / np.maximum(counts, 1)[:, None], counts


def kmeans(chunks: int, rows: int = 200_000, columns: int = 8, clusters: int = 6) -> Problem:
    """Clusters of points around as many hidden centres; the centres are small."""
    rng = np.random.default_rng(4)
    hidden = rng.random((clusters, columns)) * 8
    X = hidden[rng.integers(clusters, size=rows)] + rng.standard_normal((rows, columns))
    return Problem(
        "k-means", kmeans_step, (in_rows(X, chunks),), (X[:clusters].copy(),), kmeans_numpy, lambda state, results: results[:1]
    )


# -- PageRank ----------------------------------------------------------------------------------------------------------


def follow(links: Any, ranks: np.ndarray) -> np.ndarray:
    """Pass the ranks on along a block of links."""
    return links @ ranks


def pagerank_step(links: da.Array, ranks: np.ndarray, damping: float) -> Any:
    """One step: ranks flow along the links; what does not arrive is spread evenly."""
    new = damping * links.map_blocks(follow, ranks, drop_axis=1, dtype=float, meta=np.empty(0))
    new = new + (1 - new.sum()) / links.shape[0]
    return new.rechunk(-1), abs(new - ranks).sum()


def pagerank_numpy(blocks: list[Any], ranks: np.ndarray, damping: float) -> Any:
    """Do the same over sparse blocks."""
    new = np.empty_like(ranks)
    for rows, (links,) in rows_of(blocks):
        new[rows] = damping * (links @ ranks)
    new += (1 - new.sum()) / len(ranks)
    return new, abs(new - ranks).sum()


def pagerank(chunks: int, pages: int = 100_000, links: int = 5_000_000) -> Problem:
    """PageRank on rows of scipy.sparse blocks; the ranks are one small array."""
    rng = np.random.default_rng(5)
    # Few pages have most of the links, and some have none.
    source, target = rng.integers(pages - pages // 50, size=links), (pages * rng.random(links) ** 2).astype(int)
    weights = 1 / np.bincount(source, minlength=pages)[source]
    matrix = scipy.sparse.csr_array((weights, (target, source)), shape=(pages, pages))
    size = -(-pages // chunks)
    parts = [matrix[i : i + size] for i in range(0, pages, size)]
    blocks = [da.from_delayed(dask.delayed(part), part.shape, meta=matrix[:0, :0]) for part in parts]
    return Problem(
        "pagerank",
        pagerank_step,
        (da.concatenate(blocks).persist(scheduler="sync"),),
        (np.full(pages, 1 / pages), 0.85),
        pagerank_numpy,
        lambda state, results: (results[0], state[1]),
    )


#: Makers of the problems, by name; each takes the number of chunks.
PROBLEMS: dict[str, Callable[..., Problem]] = {
    "logistic": logistic_descent,
    "conjugate gradient": conjugate_gradient,
    "power iteration": power_iteration,
    "jacobi": jacobi,
    "heat": heat,
    "k-means": kmeans,
    "pagerank": pagerank,
}

#: The same, small enough for tests.
SMALL: dict[str, Callable[..., Problem]] = {
    "logistic": partial(logistic_descent, rows=600, columns=4),
    "conjugate gradient": partial(conjugate_gradient, rows=600, columns=12),
    "power iteration": partial(power_iteration, rows=60),
    "jacobi": partial(jacobi, points=200),
    "heat": partial(heat, side=24),
    "k-means": partial(kmeans, rows=600, columns=3, clusters=4),
    "pagerank": partial(pagerank, pages=200, links=1_000),
}
