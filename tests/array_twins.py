"""Random programs on dask arrays, written twice from one seed: lazily, and in step with it in plain NumPy.

Chunked sums and products round differently from whole ones, so these twins agree to rounding only; bit for bit, what dask
itself computes from the same arrays is the reference.
"""

from __future__ import annotations

import operator
import random
import warnings
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np


@dataclass
class Arrays:
    """dask arrays and, in step with them, the NumPy arrays they stand for."""

    lazy: list[Any] = field(default_factory=list)
    eager: list[np.ndarray[Any, Any]] = field(default_factory=list)

    def add(self, lazy: Any, eager: Any) -> None:
        self.lazy.append(lazy)
        self.eager.append(np.asarray(eager))


def wobble(block: Any, by: float = 1.0) -> Any:
    """A user's function for ``map_blocks``."""
    return np.sin(block) * by


def arrays(seed: int, size: int) -> Arrays:
    """Write a program on two-dimensional dask arrays; every operation is continuous, so rounding stays rounding."""
    rng = random.Random(seed)
    out = Arrays()
    rows, cols = rng.randint(4, 12), rng.randint(1, 4)

    def leaf() -> None:
        shape, chunks = (rows, cols), (rng.choice((2, 3, rows)), rng.choice((1, cols)))
        kind = rng.randrange(4)
        if kind == 0:
            x = da.random.default_rng(rng.getrandbits(16)).random(shape, chunks=chunks)
            out.add(x, x.compute(scheduler="sync", optimize_graph=False))
        elif kind == 1:
            x = np.random.default_rng(rng.getrandbits(16)).normal(size=shape)
            out.add(da.from_array(x, chunks=chunks), x)
        elif kind == 2:
            x = np.arange(rows * cols, dtype="f4").reshape(shape)
            out.add(da.from_array(x, chunks=chunks) / 7, x / 7)
        else:
            out.add(da.ones(shape, chunks=chunks), np.ones(shape))

    def pick() -> int:
        return rng.randrange(max(0, len(out.lazy) - 6), len(out.lazy))

    def alike(i: int) -> int:
        same_shape = [j for j, x in enumerate(out.eager) if x.shape == out.eager[i].shape]
        return rng.choice(same_shape)

    def step() -> None:
        i = pick()
        x, a = out.lazy[i], out.eager[i]
        j = alike(i)
        y, b = out.lazy[j], out.eager[j]
        kind = rng.randrange(13)
        if kind == 0:
            leaf()
        elif kind == 1:
            f = rng.choice((np.sin, np.tanh, np.negative, np.arctan, np.abs))
            out.add(f(x), f(a))
        elif kind == 2:
            f = rng.choice((operator.add, operator.sub, np.maximum, np.hypot))
            out.add(f(x, y), f(a, b))
        elif kind == 3:
            out.add(0.5 * x - 1, 0.5 * a - 1)
        elif kind == 4:
            axis, keep = rng.choice((0, 1, None)), True
            f = rng.choice(("sum", "mean", "max"))
            out.add(getattr(x, f)(axis=axis, keepdims=keep), getattr(a, f)(axis=axis, keepdims=keep))
        elif kind == 5:
            cut = slice(rng.randint(0, 1), None, rng.choice((1, 2)))
            if len(a[cut]):
                out.add(x[cut], a[cut])
        elif kind == 6:
            out.add(x.T, a.T)
        elif kind == 7:
            out.add((x @ y.T) / a.shape[1], (a @ b.T) / a.shape[1])
        elif kind == 8:
            out.add(da.concatenate([x, y], axis=0), np.concatenate([a, b], axis=0))
        elif kind == 9:
            out.add(x.rechunk((max(1, a.shape[0] // 2), a.shape[1])), a)
        elif kind == 10:
            out.add(x.map_blocks(wobble, by=2.0, dtype="f8"), wobble(a, by=2.0))
        elif kind == 11:
            out.add(da.where(x > y, x, y), np.where(a > b, a, b))
        else:
            out.add(x - x.mean(axis=0), a - a.mean(axis=0))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", da.PerformanceWarning)
        leaf()
        while len(out.lazy) < size:
            step()
    return out
