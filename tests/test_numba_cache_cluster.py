"""The numba cache on a cluster of two worker processes: who compiles how often, whoever joins or restarts.

numba itself tells what it compiles. Nothing here measures time; ``bench/numba_cache.py`` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import dask
import distributed
import numpy as np
import pytest
from conftest import QUIET
from numba_seen import call, expected, gufunc, loss_and_derivative, on_loops, seen, total, typed, ufunc, watch

from graphopt import numba_cache
from graphopt.numba_cache.process import here

pytestmark = pytest.mark.timeout(90)

TASKS = 50
DATA = np.linspace(-1.0, 1.0, 100)


@pytest.fixture
def fresh() -> Iterator[distributed.Client]:
    """A cluster of its own: two processes in which numba has compiled nothing."""
    patient = {"distributed.deploy.lost-worker-timeout": "60s"}
    with (
        dask.config.set(patient),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **QUIET) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
        numba_cache.uninstall(client)


def run(client: distributed.Client, tasks: int = TASKS) -> dict[str, int]:
    """Run tasks with functions made anew for each, by turns on the workers; return how often each was compiled in all."""
    client.run(watch)
    workers = sorted(client.scheduler_info()["workers"])
    futures = []
    for i in range(tasks):
        epoch, derivative = loss_and_derivative(2.0)
        futures.append(client.submit(call, epoch, DATA + i, derivative, pure=False, workers=[workers[i % len(workers)]]))
    for i, value in enumerate(client.gather(futures)):
        assert value == pytest.approx(expected(DATA + i, 2.0), rel=1e-12)
    counts = client.run(seen).values()
    return {name: total(counts, name) for name in ("epoch", "derivative")}


def test_each_worker_compiles_once(fresh: distributed.Client) -> None:
    assert run(fresh, 6) == {"epoch": 6, "derivative": 6}, "numba by itself: a closure at each task"
    numba_cache.install(fresh)
    assert run(fresh) == {"epoch": 2, "derivative": 2}
    assert run(fresh) == {"epoch": 0, "derivative": 0}
    numba_cache.uninstall(fresh)
    assert run(fresh, 6) == {"epoch": 6, "derivative": 6}, "nothing is left"


@pytest.mark.slow
def test_the_store_compiles_once_for_all_processes_and_ever(fresh: distributed.Client, tmp_path: Path) -> None:
    numba_cache.install(fresh, store=str(tmp_path / "store"))
    assert run(fresh) == {"epoch": 1, "derivative": 1}
    fresh.restart()
    assert run(fresh) == {"epoch": 0, "derivative": 0}, "after a restart everything is on disk"
    told = numba_cache.info(fresh)
    assert told.total["loaded"] == 2
    assert told.total["compilations"] == 0
    assert told.total["saved"] > 0
    numba_cache.uninstall(fresh)
    assert not list((tmp_path / "store").glob("*.lock"))


def test_prewarm_compiles_on_one_worker_for_all(fresh: distributed.Client) -> None:
    numba_cache.install(fresh)
    fresh.run(watch)
    epoch, derivative = loss_and_derivative(2.0)
    done = numba_cache.prewarm(fresh, epoch, DATA, derivative)
    assert (done.workers, done.processors, done.functions) == (2, 1, 2)
    counts = fresh.run(seen).values()
    assert sorted(each.get("epoch", 0) for each in counts) == [0, 1]
    assert sorted(each.get("derivative", 0) for each in counts) == [0, 1]
    assert run(fresh) == {"epoch": 0, "derivative": 0}
    fresh.cluster.scale(3)
    fresh.wait_for_workers(3, timeout=30)
    assert run(fresh) == {"epoch": 0, "derivative": 0}, "who joins later is served too"


@pytest.mark.slow
def test_ufuncs_compile_once_a_worker_and_not_on_the_way(fresh: distributed.Client) -> None:
    numba_cache.install(fresh)
    made = {kind: [kind(1.0) for _ in range(10)] for kind in (ufunc, gufunc, typed)}
    workers = sorted(fresh.scheduler_info()["workers"])
    fresh.run(watch)
    watch()  # the scheduler is in this process
    for kind, functions in made.items():
        args = (2.0, 3.0) if kind is ufunc else (np.arange(3.0),) if kind is gufunc else (2.0,)
        shipped = [numba_cache.ship(function) for function in functions]
        futures = [fresh.submit(call, each, *args, pure=False, workers=[workers[i % 2]]) for i, each in enumerate(shipped)]
        assert fresh.gather(futures) == [kind(1.0)(*args)] * 10
    counts = fresh.run(seen).values()
    assert {name: total(counts, name) for name in ("shifted", "summed", "moved")} == {"shifted": 2, "summed": 2, "moved": 2}
    assert not sum(total([told], name) for told in fresh.run(on_loops).values() for name in told)
    assert seen() == {"shifted": 1, "summed": 1, "moved": 1}, "what this test compiled itself"


@pytest.mark.slow
def test_what_unpickling_imports_is_there_before_the_compiler_starts(fresh: distributed.Client) -> None:
    """Else a task that unpickles a ufunc and the thread that warms numba up may wait for each other's imports."""

    def imported() -> bool:
        import sys

        return {"numba.np.npyimpl", "numba.np.npyfuncs", "numba.np.npdatetime"} <= sys.modules.keys()

    assert not any(fresh.run(imported).values())
    numba_cache.install(fresh, warm=False)
    assert all(fresh.run(imported).values())


@pytest.mark.slow
def test_machine_code_of_ufuncs_comes_from_who_compiled_first(fresh: distributed.Client, tmp_path: Path) -> None:
    numba_cache.install(fresh, store=str(tmp_path / "store"))
    fresh.run(watch)
    watch()
    workers = sorted(fresh.scheduler_info()["workers"])
    for kind, args in ((ufunc, (2.0, 3.0)), (gufunc, (np.arange(3.0),)), (typed, (2.0,))):
        shipped = numba_cache.ship(kind(1.0))
        futures = [fresh.submit(call, shipped, *args, pure=False, workers=[worker]) for worker in workers]
        assert fresh.gather(futures) == [kind(1.0)(*args)] * 2
    assert seen() == {"shifted": 1, "summed": 1, "moved": 1}, "the client, which made them"
    assert not any(fresh.run(seen).values())


@pytest.mark.slow
def test_prewarmed_ufuncs(fresh: distributed.Client) -> None:
    numba_cache.install(fresh)
    fresh.run(watch)
    workers = sorted(fresh.scheduler_info()["workers"])
    for kind, args in ((ufunc, (2.0, 3.0)), (gufunc, (np.arange(3.0),)), (typed, (2.0,))):
        shipped = numba_cache.ship(kind(1.0))
        numba_cache.prewarm(fresh, shipped)
        futures = [fresh.submit(call, shipped, *args, pure=False, workers=[worker]) for worker in workers]
        assert fresh.gather(futures) == [kind(1.0)(*args)] * 2
    counts = fresh.run(seen).values()
    assert {name: total(counts, name) for name in ("shifted", "summed", "moved")} == {"shifted": 1, "summed": 1, "moved": 1}


@pytest.mark.slow
def test_workers_of_another_processor_compile_for_themselves(fresh: distributed.Client) -> None:
    cluster = fresh.cluster
    spec = cluster.new_spec
    cluster.worker_spec["generic"] = {**spec, "options": {**spec["options"], "env": {"NUMBA_CPU_NAME": "generic"}}}
    cluster.sync(cluster._correct_state)
    fresh.wait_for_workers(3, timeout=30)
    numba_cache.install(fresh)
    fresh.run(watch)
    epoch, derivative = loss_and_derivative(2.0)
    done = numba_cache.prewarm(fresh, epoch, DATA, derivative)
    assert (done.workers, done.processors, done.functions) == (3, 2, 2)
    assert sorted(each.get("epoch", 0) for each in fresh.run(seen).values()) == [0, 1, 1]
    assert run(fresh) == {"epoch": 0, "derivative": 0}


def test_by_dasks_configuration_alone(tmp_path: Path) -> None:
    module = ["graphopt.numba_cache.preload"]
    options = {
        "distributed.worker.preload": module,
        "distributed.client.preload": module,
        "graphopt.numba-cache": {"store": str(tmp_path / "store"), "limit": "10 MB"},
    }
    with (
        dask.config.set(options),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **QUIET) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert run(client, 10) == {"epoch": 1, "derivative": 1}
        told = numba_cache.info(client)
        assert {each["state"] for each in told.workers.values()} == {"on"}
        assert all(word in str(told) for word in ("compiled", "saved", "all", *told.workers))
    assert not here.on


def test_asynchronous_clients() -> None:
    async def main() -> int:
        async with (
            distributed.LocalCluster(n_workers=1, processes=False, asynchronous=True, **QUIET) as cluster,
            distributed.Client(cluster, asynchronous=True) as client,
        ):
            await numba_cache.install(client, warm=False)
            epoch, derivative = loss_and_derivative(2.0)
            value = await client.submit(call, epoch, DATA, derivative)
            assert value == pytest.approx(expected(DATA, 2.0), rel=1e-12)
            done = await numba_cache.prewarm(client, epoch, DATA, derivative)
            assert done.workers == 1
            told = await numba_cache.info(client)
            await numba_cache.uninstall(client)
            assert not here.on
            return len(told.workers)

    assert asyncio.run(main()) == 1


def test_prewarm_says_what_is_missing(client: distributed.Client) -> None:
    epoch, derivative = loss_and_derivative(2.0)
    with pytest.raises(RuntimeError, match="install"):
        numba_cache.prewarm(client, epoch, DATA, derivative)
    with pytest.raises(TypeError, match="no option colour"):
        numba_cache.install(client, colour="green")
