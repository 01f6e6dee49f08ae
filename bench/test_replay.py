"""Compiled iterations under pytest-benchmark, for comparing runs over time; ratios are in replay.py."""

from __future__ import annotations

from functools import partial

import pytest
import threadpoolctl
from iterative import PROBLEMS
from replay import SETTLED, compiled, no_op_problem


@pytest.mark.benchmark(group="one iteration")
@pytest.mark.parametrize("chunks", [100, 1000])
@pytest.mark.parametrize("who", ["numpy", "dask", "graphopt"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_iteration(benchmark, name, who, chunks):
    problem = PROBLEMS[name](chunks)
    if who == "numpy":
        loop = problem.numpy_loop()
    else:
        loop = problem.loop(problem.with_dask() if who == "dask" else compiled(problem.step)[0])
    with threadpoolctl.threadpool_limits(1, "blas"):
        few = who == "dask"
        benchmark.pedantic(partial(next, loop), rounds=3 if few else 10, warmup_rounds=1 if few else SETTLED)


@pytest.mark.benchmark(group="replaying 1 000 lanes of 18 tasks that do nothing")
def test_no_op(benchmark):
    problem = no_op_problem()
    loop = problem.loop(compiled(problem.step)[0])
    benchmark.pedantic(partial(next, loop), rounds=20, warmup_rounds=SETTLED)


@pytest.mark.benchmark(group="the first call: tracing, optimising, generating")
@pytest.mark.parametrize("chunks", [100, 1000])
@pytest.mark.parametrize("name", PROBLEMS)
def test_first_call(benchmark, name, chunks):
    problem = PROBLEMS[name](chunks)
    benchmark.pedantic(lambda: problem.run(1, compiled(problem.step)[0]), rounds=3)
