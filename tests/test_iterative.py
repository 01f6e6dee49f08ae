"""The benchmarks' iterative problems compute in dask what they compute in NumPy.

Else comparing their times means nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from dask.array import Array

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
from iterative import SMALL, blocks_of, small


def close(found: tuple[Any, ...], expected: tuple[Any, ...], rtol: float = 1e-10) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(small(one)), np.asarray(small(other))
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * abs(other).max())


@pytest.mark.parametrize("chunks", [1, 3, 8])
@pytest.mark.parametrize("name", SMALL)
def test_dask_computes_what_numpy_computes(name: str, chunks: int) -> None:
    problem = SMALL[name](chunks)
    close(problem.run(4, problem.with_dask("sync")), problem.numpy_run(4))


@pytest.mark.parametrize("name", SMALL)
def test_problems_come_in_the_chunks_asked_for(name: str) -> None:
    for chunks in (1, 3, 8):
        problem = SMALL[name](chunks)
        arrays = [value for value in (*problem.data, *problem.state) if isinstance(value, Array)]
        assert {array.npartitions for array in arrays} == {chunks}
        assert all(len(blocks_of(array)) == chunks for array in arrays)


@pytest.mark.parametrize("name", SMALL)
def test_chunked_results_stay_chunked_and_in_memory(name: str) -> None:
    problem = SMALL[name](3)
    results = problem.with_dask("sync")(problem.step, *problem.data, *problem.state)
    for i, result in enumerate(results):
        assert isinstance(result, Array) == (i in problem.chunked)
        if i in problem.chunked:
            assert result.npartitions == 3
            assert set(result.dask) == set(dask.core.flatten(result.__dask_keys__()))


@pytest.mark.parametrize(
    ("name", "solved"),
    [
        ("logistic", lambda problem, state: loss_is_less(problem, state)),
        ("conjugate gradient", lambda problem, state: np.linalg.norm(state[2]) < 1e-9 * np.linalg.norm(problem.state[2])),
        ("power iteration", lambda problem, state: is_eigenvector(problem, state[0])),
        ("heat", lambda problem, state: np.isclose(state[0].sum(), small(problem.state[0]).sum())),
        ("pagerank", lambda problem, state: np.isclose(state[0].sum(), 1) and state[0].min() > 0),
        ("k-means", lambda problem, state: len(np.unique(state[0].round(1), axis=0)) == len(state[0])),
    ],
)
def test_iterations_get_somewhere(name: str, solved: Any) -> None:
    """The NumPy loop is right by itself: it solves its problem."""
    problem = SMALL[name](3)
    assert solved(problem, problem.numpy_run(14))


def loss_is_less(problem: Any, state: Any) -> bool:
    blocks = blocks_of(*problem.data)
    return bool(problem.floor(blocks, *state)[0] < problem.floor(blocks, *problem.state)[0])


def is_eigenvector(problem: Any, v: np.ndarray) -> bool:
    w = small(problem.data[0]) @ v
    return bool(np.allclose(w, v * (v @ w), rtol=1e-6))
