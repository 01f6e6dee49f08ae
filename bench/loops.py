"""What compiled loops over lanes take, beside NumPy: ``python bench/loops.py``.

The document's logistic problem, loss and gradient, 1e6 × 15. NumPy's loop over the chunks on one thread is what the others
are measured against; candidates take turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from rich.console import Console
from rich.table import Table

import graphopt as go
from graphopt import kernel
from graphopt.loops import Arg, Bound, Loop, loop_of

sys.path.insert(0, str(Path(__file__).parent))
from measure import interleaved, machine
from problems import blocks_of, graph_of, logistic, logistic_data, logistic_numpy

Lane = tuple[Any, dict[int, Any], list[Any]]  # a program, its fixed literals, its literals in one lane


def lane_of(X: Any, y: Any, beta: np.ndarray) -> Lane:
    """Return the program of one lane, its fixed literals, and its literals in the first lane."""
    graph, keys = graph_of(*logistic(X, y, beta))
    shapes: list[Any] = []
    write = kernel._Generator._write

    def watched(generator: Any, shape: Any) -> None:
        shapes.append(shape)
        write(generator, shape)

    kernel._Generator._write = watched  # type: ignore[method-assign]
    try:
        go.optimize(graph, keys, go.Policy(passes=("cull", "aliases", "common", "lower", "diamond")))
    finally:
        kernel._Generator._write = write  # type: ignore[method-assign]
    shape = max(shapes, key=lambda shape: len(shape.literals))
    return shape.program, shape.fixed(), shape.literals[0]


def bound_of(
    blocks: list[tuple[np.ndarray, np.ndarray]], beta: np.ndarray, lane: tuple[Any, dict[int, Any], list[Any]]
) -> Bound:
    """Compile the lane and bind it to the blocks."""
    program, fixed, literals = lane
    free = [value for place, value in enumerate(literals) if place not in fixed]
    args = [Arg.of(value, lane=value.shape != beta.shape) for value in free]
    loop = loop_of(program, fixed, args)
    assert isinstance(loop, Loop), loop
    order = [value.ndim == 2 for value in free if value.shape != beta.shape]
    return loop.bind([[X if wide else y for wide in order] for X, y in blocks])


def row(chunks: int, rounds: int, pool: ThreadPoolExecutor) -> list[str]:
    """Measure one number of chunks."""
    X, y, beta = logistic_data(chunks)
    blocks = blocks_of(X, y)
    bound = bound_of(blocks, beta, lane_of(X, y, beta))
    half = chunks // 2

    def part(start: int, stop: int) -> list[np.ndarray]:
        return [stacked.sum(axis=0) for stacked in bound.stacked([beta], start, stop)]

    def two() -> list[np.ndarray]:
        other = pool.submit(part, 0, half)
        mine = part(half, chunks)
        return [a + b for a, b in zip(other.result(), mine, strict=True)]

    candidates: dict[str, Callable[[], Any]] = {
        "NumPy": lambda: logistic_numpy(blocks, beta),
        "one": lambda: part(0, chunks),
        "two": two,
    }
    loss, gradient = candidates["NumPy"]()
    for found in (candidates["one"](), candidates["two"]()):
        values = sorted(found, key=lambda value: value.size)
        assert np.allclose(values[0], loss, rtol=1e-11)
        assert np.allclose(values[1].ravel(), gradient, rtol=1e-9)
    t = interleaved(candidates, rounds)
    ratios = [f"{t[name] * 1e3:.2f} ms ({t[name] / t['NumPy']:.2f})" for name in ("one", "two")]
    return [f"{chunks}", f"{t['NumPy'] * 1e3:.2f} ms", *ratios]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    table = Table("chunks", "NumPy, 1 thread", "loop, 1 thread", "loop, 2 threads", title=machine())
    with ThreadPoolExecutor(1) as pool, threadpoolctl.threadpool_limits(1, "blas"):
        for chunks in (10, 100, 1_000):
            table.add_row(*row(chunks, options.rounds, pool))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
