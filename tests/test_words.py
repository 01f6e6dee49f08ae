"""What dask's arrays are made of, word by word: which functions take the place of dask's, and that nothing else changes.

Each word is written in dask on chunks of many kinds, and optimised. The values must be dask's own, bit for bit; so must errors.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse
from odd_arrays import Mine, array, assert_alike, outcome
from oracle import evaluate
from toolz.functoolz import Compose

import graphopt as go
from graphopt.graph import normalise
from graphopt.passes.lower import lower
from graphopt.program import Program, container
from graphopt.spec import Task

Build = Callable[[Any], Any]

#: What a word is written as, the functions of ours that do it, and those of dask's that do and are lean already.
WORDS: dict[str, tuple[Build, str, str]] = {
    "tensordot": (lambda x: da.tensordot(x, x.T, axes=((1,), (0,))), "tensordot sum_ reduce_blocks", ""),
    "dot": (lambda x: x.dot(x[0]), "tensordot sum_ reduce_blocks", "getitem"),
    "dot of one block": (lambda x: x.rechunk(-1).dot(x[0].rechunk(-1)), "tensordot sum_ reduce_blocks", "getitem"),
    "matmul": (lambda x: x @ x.T, "matmul chunk_sum", ""),
    "matmul with a vector": (lambda x: x @ x[0], "matmul chunk_sum", "getitem"),
    "matmul of one block": (lambda x: x @ x.rechunk(-1).T[:, :2] if x.numblocks[1] == 1 else x @ x.T, "matmul", "getitem"),
    "transpose": (lambda x: x.T, "", ""),
    "sum": (lambda x: x.sum(axis=0), "sum_ reduce_blocks", ""),
    "sum of all, keeping axes": (lambda x: x.sum(keepdims=True), "sum_ reduce_blocks", ""),
    "mean": (lambda x: x.mean(axis=0), "mean_chunk mean_agg", ""),
    "mean along rows": (lambda x: x.mean(axis=1, keepdims=True), "mean_chunk mean_agg", ""),
    "mean of all": (lambda x: x.mean(), "mean_chunk mean_agg", ""),
    "mean in a tree": (lambda x: x.rechunk(1).mean(axis=0), "mean_chunk mean_combine mean_agg", "getitem"),
    "max": (lambda x: x.max(axis=1), "max_ reduce_blocks", ""),
    "min": (lambda x: x.min(), "min_ reduce_blocks", ""),
    "norm": (lambda x: da.linalg.norm(x), "sum_ reduce_blocks", ""),
    "norm of columns": (lambda x: da.linalg.norm(x, axis=0, keepdims=True), "sum_ reduce_blocks", ""),
    "norm by absolute values": (lambda x: da.linalg.norm(x, 1), "sum_ max_ reduce_blocks", ""),
    "norm by the greatest": (lambda x: da.linalg.norm(x, np.inf, axis=1), "max_ reduce_blocks", ""),
    "norm of the third order": (lambda x: da.linalg.norm(x, 3, axis=1), "sum_ reduce_blocks", ""),
    "argmin": (lambda x: x.argmin(axis=1), "arg_chunk arg_agg", ""),
    "argmax": (lambda x: x.argmax(axis=0, keepdims=True), "arg_chunk arg_agg", ""),
    "argmin of all": (lambda x: x.argmin(), "arg_chunk arg_agg", ""),
    "argmax in a tree": (lambda x: x.rechunk(1).argmax(axis=0), "arg_chunk arg_combine arg_agg", "getitem"),
    "slices": (lambda x: x[1:4, ::2], "", "getitem"),
    "a small slice": (lambda x: x[:1, :1] + x[1:2, 1:2], "", "getitem"),
    "a row": (lambda x: x[1], "", "getitem"),
    "rechunk": (lambda x: x.rechunk((4, 3)), "grid", "getitem"),
    "rechunk to one block": (lambda x: x.rechunk(-1).map_blocks(np.negative), "", ""),
    "concatenate": (lambda x: da.concatenate([x, x[1:]], axis=0).rechunk((5, 5)), "grid", "getitem"),
    "where": (lambda x: da.where(x == x, x, x.T[0, 0]), "", "getitem"),
    "astype": (lambda x: x.astype("f4"), "", "astype"),
    "broadcast": (lambda x: da.broadcast_to(x[0], (4, x.shape[1])), "", "getitem"),
    "stack": (lambda x: da.stack([x, x], axis=1), "", "getitem"),
    "stacked and summed": (lambda x: da.stack([x, x[::-1]]).sum(axis=0), "sum_ reduce_blocks", "getitem"),
    # What is not rewritten, and must not be disturbed by what is.
    "var": (lambda x: x.var(axis=0, ddof=1), "", "moment_chunk moment_agg"),
    "nanmean": (lambda x: da.nanmean(x, axis=0), "mean_agg", "mean_chunk"),
    "nanargmin": (lambda x: da.nanargmin(x, axis=1), "", "arg_chunk nanarg_agg _nanargmin _concatenate2"),
}


def functions(graph: Any) -> Iterator[Any]:
    """Yield what the tasks of a graph call, however deep."""
    stack = list(graph.values())
    while stack:
        item = stack.pop()
        if isinstance(item, Task):
            if container(item) is None:
                stack.append(item.func)
            stack += [*item.args, *item.kwargs.values()]
        elif isinstance(item, functools.partial):
            stack += [item.func, *item.args]
        elif isinstance(item, Compose):
            stack += [item.first, *item.funcs]
        elif isinstance(item, Program):
            stack += [func for func, _, _ in item.steps]
        elif callable(item):
            yield item


def of(module: str, found: Any) -> set[str]:
    return {func.__name__ for func in found if (getattr(func, "__module__", None) or "").startswith(module)}


def graph_of(y: Any) -> tuple[Any, list[Any]]:
    keys = list(dask.core.flatten(y.__dask_keys__()))
    return normalise(y, keys), keys


@pytest.mark.parametrize("word", WORDS)
def test_what_takes_the_place_of_dasks_functions(word: str) -> None:
    build, ours, theirs = WORDS[word]
    x = da.from_array(np.arange(30.0).reshape(6, 5), chunks=(3, 2))
    lowered = list(functions(lower(graph_of(build(x))[0])))
    assert of("graphopt.lean", lowered) >= set(ours.split())
    general = of("dask.array", lowered) - {"_enforce_dtype"}
    assert general <= set(theirs.split()), "dask's own function is still called"


def test_what_is_cut_out_of_a_file_is_cut_by_ours(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", np.arange(30.0).reshape(6, 5))
    x = da.from_array(np.load(tmp_path / "x.npy", mmap_mode="r"), chunks=(3, 2))
    graph, keys = graph_of(x + 1)
    assert of("graphopt.lean", functions(lower(graph))) == {"getter"}
    assert not of("dask.array", functions(lower(graph)))
    found, wanted = evaluate(go.optimize(graph, keys), keys), evaluate(graph, keys)
    assert_alike(("value", found), ("value", wanted))


@pytest.mark.parametrize("options", [{}, {"asarray": False}, {"fancy": False}, {"inline_array": True}])
def test_a_lock_is_held_while_stored_data_is_read(options: Any) -> None:
    """Once for each block, and never by two at once."""

    class Watched(np.ndarray[Any, Any]):
        def __getitem__(self, index: Any) -> Any:
            assert lock.held
            return np.asarray(self).__getitem__(index)

    class Lock:
        held, count = False, 0

        def acquire(self) -> None:
            assert not self.held
            self.held, self.count = True, self.count + 1

        def release(self) -> None:
            self.held = False

    lock = Lock()
    stored = np.arange(30.0).reshape(6, 5).view(Watched)
    x = da.from_array(stored, chunks=(3, 5), lock=lock, meta=np.empty((0, 0)), **options)
    with go.optimized(strict=True, parallelism=1):
        found = (x * 2).sum().compute(scheduler="sync")
    assert found == 870
    assert lock.count == 2
    assert not lock.held


# -- chunks of many kinds ----------------------------------------------------------------------------------------------


def in_chunks(values: Any, chunks: Any) -> Any:
    return da.from_array(values, chunks=chunks)


def numbers(dtype: str, layout: str = "C", kind: str = "plain", shape: tuple[int, ...] = (6, 5)) -> Any:
    return array(random.Random(f"{dtype} {layout} {kind}"), shape, dtype, layout, kind)


def sparse() -> Any:
    rows = scipy.sparse.random_array((6, 5), density=0.5, rng=np.random.default_rng(0), format="csr")
    blocks = [da.from_delayed(dask.delayed(rows[i : i + 3]), (3, 5), meta=rows[:0, :0]) for i in (0, 3)]
    return da.concatenate(blocks)


CHUNKS: dict[str, Callable[[], Any]] = {
    "float64": lambda: in_chunks(numbers("f8"), (3, 2)),
    "one block along rows": lambda: in_chunks(numbers("f8"), (2, 5)),
    "one block": lambda: in_chunks(numbers("f8"), -1),
    "many blocks": lambda: in_chunks(numbers("f8", shape=(11, 9)), 1),
    "float32": lambda: in_chunks(numbers("f4"), (3, 2)),
    "float16": lambda: in_chunks(numbers("f2"), (2, 5)),
    "extended precision": lambda: in_chunks(numbers("g"), (2, 5)),
    "int32": lambda: in_chunks(numbers("i4"), (2, 5)),
    "uint8": lambda: in_chunks(numbers("u1"), (3, 2)),
    "truth values": lambda: in_chunks(numbers("?"), (2, 5)),
    "complex": lambda: in_chunks(numbers("c16"), (3, 2)),
    "objects": lambda: in_chunks(numbers("fractions"), (2, 5)),
    "other byte order": lambda: in_chunks(numbers(">f8"), (2, 5)),
    "dates": lambda: in_chunks(numbers("M8[D]"), (2, 5)),
    "times": lambda: in_chunks(numbers("m8[s]"), (3, 2)),
    "columns first": lambda: in_chunks(numbers("f8", "F"), (2, 5)),
    "strided": lambda: in_chunks(numbers("f8", "strided"), (3, 2)),
    "read-only": lambda: in_chunks(numbers("f8", "readonly"), (2, 5)),
    "only NaN": lambda: in_chunks(np.full((6, 5), np.nan), (2, 5)),
    "ties": lambda: in_chunks(np.array([0.0, -0.0] * 15).reshape(6, 5), (2, 5)),
    "empty blocks": lambda: in_chunks(numbers("f8"), ((0, 3, 0, 3), (5, 0))),
    "no rows": lambda: in_chunks(np.empty((0, 5)), (2, 5)),
    "masked": lambda: in_chunks(numbers("f8", "C", "masked"), (2, 5)),
    "masked in columns": lambda: in_chunks(numbers("i4", "C", "masked"), (3, 2)),
    "a class of a user": lambda: in_chunks(numbers("f8"), (2, 5)).map_blocks(lambda block: block.view(Mine)),
    "sparse": sparse,
}


@pytest.mark.parametrize("kind", CHUNKS)
def test_values_are_dasks_bit_for_bit(kind: str) -> None:
    for word, (build, _, _) in WORDS.items():
        x = CHUNKS[kind]()
        made = outcome(build, x)
        if made[0] == "error":  # dask has no graph for it
            continue
        graph, keys = graph_of(made[1])
        optimised = go.optimize(graph, keys, go.Policy(parallelism=1, strict=True))
        found, wanted = outcome(evaluate, optimised, keys), outcome(evaluate, graph, keys)
        try:
            assert_alike(found, wanted)
        except AssertionError as error:
            raise AssertionError(f"{word}: {error}") from error


@pytest.mark.parametrize("dtype", ["f8", "i8", ">f4", "O", "M8[D]"])
def test_arrays_of_no_and_of_one_axis(dtype: str) -> None:
    words: dict[str, Build] = {
        **{name: lambda x, name=name: getattr(x, name)() for name in ("sum", "mean", "max", "min", "argmin", "argmax")},  # type: ignore[misc]
        "astype": lambda x: x.astype("f4"),
        "stack": lambda x: da.stack([x, x]),
        "broadcast": lambda x: da.broadcast_to(x, (2, *x.shape)),
        "where": lambda x: da.where(x == x, x, x),
        "norm": da.linalg.norm,
        "dot": lambda x: x.dot(x),
        "matmul": lambda x: x @ x,
        "transpose": lambda x: x.T,
        "rechunk": lambda x: x.rechunk(-1),
        "argmin, axes kept": lambda x: x.argmin(axis=0, keepdims=True),
        "std": lambda x: x.std(ddof=2),
    }
    for shape in ((), (1,), (7,)):
        for word, build in words.items():
            made = outcome(build, in_chunks(numbers(dtype, shape=shape), 3))
            if made[0] == "error":
                continue
            graph, keys = graph_of(made[1])
            found = outcome(evaluate, go.optimize(graph, keys, go.Policy(parallelism=1, strict=True)), keys)
            wanted = outcome(evaluate, graph, keys)
            assert found[0] == wanted[0], word
            assert_alike(found, wanted)
