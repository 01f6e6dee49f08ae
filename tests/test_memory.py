"""Memory of a replay: chunks from files stream through, what is held is measured, and a bound is kept or the call raises."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

import graphopt as go

ROWS, COLUMNS, CHUNKS = 20_000, 10, 12
CHUNK = ROWS * COLUMNS * 8  # bytes: 1.6 MB
WHOLE = np.random.default_rng(0).random((CHUNKS * ROWS, COLUMNS))

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack of npy files, a chunk in each."""
    folder = tmp_path_factory.mktemp("stack") / "data"
    da.to_npy_stack(str(folder), da.from_array(WHOLE, chunks=(ROWS, COLUMNS)), axis=0)
    return folder


def gradient(X: Any, b: Any) -> Any:
    residual = X.dot(b) - 1
    return (residual**2).sum(), X.T.dot(residual)


def load(i: int) -> np.ndarray:
    return WHOLE[i * ROWS : (i + 1) * ROWS].copy()


def loaded() -> Any:
    """Chunks that Delayed tasks make."""
    parts = [da.from_delayed(dask.delayed(load, pure=True)(i), (ROWS, COLUMNS), float) for i in range(CHUNKS)]
    return da.concatenate(parts)


def test_a_stack_of_files_streams_through(stack: Path) -> None:
    X, b = da.from_npy_stack(str(stack), mmap_mode=None), np.linspace(-1, 1, COLUMNS)
    step = go.compile(gradient, memory=6 * CHUNK, policy=go.Policy(parallelism=2))
    for k in range(3):
        loss, slope = step(X, b * k)
        residual = WHOLE @ (b * k) - 1
        np.testing.assert_allclose(loss, (residual**2).sum())
        np.testing.assert_allclose(slope, WHOLE.T @ residual)
    seen = step.plan(X, b).observed
    assert seen.peak is not None
    assert CHUNK <= seen.peak <= 6 * CHUNK < CHUNKS * CHUNK
    assert step.stats.traces == 1


def test_fewer_lanes_run_at_once_where_that_keeps_the_bound() -> None:
    X, b = loaded(), np.ones(COLUMNS)
    free, tight = (go.compile(gradient, memory=bound, policy=go.Policy(parallelism=4)) for bound in (None, 2 * CHUNK))
    assert all(map(np.allclose, free(X, b), tight(X, b)))
    assert free.plan(X, b).observed.flight[0] == 4
    assert tight.plan(X, b).observed.flight[0] == 1
    assert tight.plan(X, b).observed.peak <= 2 * CHUNK


def test_where_not_even_one_lane_fits_the_error_says_what_it_needs() -> None:
    step = go.compile(gradient, memory=CHUNK // 2)
    with pytest.raises(go.MemoryLimitError, match=r"A lane of .* needs .* MiB .* smaller chunks, or allow more"):
        step(loaded(), np.ones(COLUMNS))


def test_chunks_that_would_all_be_held_are_refused_before_they_are() -> None:
    """The mean needs every chunk once, and then each chunk again."""
    made: list[weakref.ref[Any]] = []

    def tracked(block: Any) -> Any:
        made.append(weakref.ref(block))
        return block

    def centred(X: Any) -> Any:
        return (abs(X - X.mean(axis=0))).sum()

    X = loaded().map_blocks(tracked, dtype=float, meta=np.empty((0, 0)))
    step = go.compile(centred, memory=4 * CHUNK)
    with pytest.raises(go.MemoryLimitError, match="split the function there"):
        step(X)
    assert len(made) == 1, "one chunk was made to see how large it is"
    gc.collect()
    assert made[0]() is None
    np.testing.assert_allclose(go.compile(centred)(X), abs(WHOLE - WHOLE.mean(axis=0)).sum())


def test_a_bound_is_read_as_dask_reads_sizes() -> None:
    assert go.compile(gradient, memory="1 GiB")(loaded(), np.ones(COLUMNS))[0] > 0
    with pytest.raises(ValueError, match="byte unit"):
        go.compile(gradient, memory="1 heap")


def test_no_more_chunks_are_alive_than_run() -> None:
    alive: set[int] = set()
    most = [0]

    def watched(i: int) -> np.ndarray:
        block = load(i)
        alive.add(i)
        most[0] = max(most[0], len(alive))
        weakref.finalize(block, alive.discard, i)
        return block

    parts = [da.from_delayed(dask.delayed(watched)(i), (ROWS, COLUMNS), float) for i in range(CHUNKS)]
    step = go.compile(gradient, policy=go.Policy(parallelism=2))
    step(da.concatenate(parts), np.ones(COLUMNS))
    assert most[0] <= 3  # two that run, and one that is being let go
