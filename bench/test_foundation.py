"""The foundation's timings under pytest-benchmark, for comparing runs over time; ratios are in foundation.py."""

from __future__ import annotations

import dask
import pytest
from problems import blocks_of, chain, lanes, logistic, logistic_data, logistic_numpy

import graphopt as go
from graphopt.spec import Task


@pytest.mark.benchmark(group="execute a fused region of 10 nodes")
@pytest.mark.parametrize("who", ["dask", "graphopt"])
def test_fused_region(benchmark, who):
    graph = chain(10)
    task = Task.fuse(*graph.values(), key="n9") if who == "dask" else go.optimize(graph, ["n9"], futures=["x"])["n9"]
    assert benchmark(task, {"x": 1}) == 11


@pytest.mark.benchmark(group="logistic step, 1e6 x 15, threads")
@pytest.mark.parametrize("chunks", [100, 1000])
@pytest.mark.parametrize("who", ["numpy", "dask", "graphopt"])
def test_logistic_step(benchmark, who, chunks):
    X, y, beta = logistic_data(chunks)
    blocks = blocks_of(X, y)

    def run():
        if who == "numpy":
            return logistic_numpy(blocks, beta)
        if who == "dask":
            return dask.compute(*logistic(X, y, beta), scheduler="threads")
        with go.optimized(strict=True):
            return dask.compute(*logistic(X, y, beta), scheduler="threads")

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="optimise")
@pytest.mark.parametrize("tasks", [1_000, 10_000, 100_000])
def test_optimise(benchmark, tasks):
    graph, keys = lanes(tasks)
    benchmark.extra_info["tasks"] = len(graph)
    benchmark.pedantic(lambda: go.optimize(graph, keys), rounds=3, warmup_rounds=1)
