"""``compile`` where workers cannot be talked to: by ordinary tasks, a few for each worker, with the same results."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from conftest import QUIET
from on_cluster import SMALL, A, counts, exact, runs_as_here, there, wait_until
from oracle import close

import graphopt as go
from graphopt.execute import peers
from graphopt.execute.tasks import Tasks

pytestmark = [pytest.mark.timeout(90), pytest.mark.slow]


@contextlib.contextmanager
def cluster_of(where: str, handlers: list[str], workers: int = 2) -> Iterator[distributed.Client]:
    """Start a cluster where something refuses to do something."""
    options: Any = {"threads_per_worker": 1, "silence_logs": 60, **QUIET}
    # Only until it is started: the cluster that all tests share may be started while this one is there.
    with dask.config.set({f"distributed.{where}.blocked-handlers": handlers, "distributed.scheduler.allowed-failures": 10}):
        cluster = distributed.LocalCluster(n_workers=workers, **options)
    with cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def refusing() -> Iterator[distributed.Client]:
    with cluster_of("worker", ["graphopt-serve"]) as client:
        yield client


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List the tasks that are submitted."""
    found: list[str] = []
    original = Tasks.submit

    def submit(self: Tasks, work: Any, *args: Any, **options: Any) -> Any:
        found.append(work.__name__)
        return original(self, work, *args, **options)

    monkeypatch.setattr(Tasks, "submit", submit)
    return found


# -- what it computes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_problems_come_out_as_they_do_here(name: str, refusing: distributed.Client) -> None:
    step = runs_as_here(refusing, name, exact=True)
    assert counts(step) == (3, 0, 0)


def test_results_of_every_kind(refusing: distributed.Client) -> None:
    def fn(X: Any, a: Any, b: Any) -> Any:
        both = [X.sum(), X + 1]
        return {
            "chunked": X * a,
            "same": X,
            "both": both,
            "delayed": dask.delayed(sum)([a, X.sum()]),
            "argument": b,
            "n": a + 1,
        }

    step, X, b = exact(fn), there(refusing, da.from_array(A, chunks=(4, 3))), np.arange(3.0)
    for a in (2.0, 3.0):
        found = step(X, a, b)
        assert close(found["chunked"].compute(), A * a)
        assert close(found["same"].compute(), A)
        assert close(found["both"][0], A.sum())
        assert close(found["both"][1].compute(), A + 1)
        assert close(found["delayed"], A.sum() + a)
        assert found["n"] == a + 1
        assert close(found["argument"], b)
    assert counts(step) == (2, 0, 0)


def test_chunked_results_feed_the_next_call(refusing: distributed.Client) -> None:
    step, X, expected = exact(lambda X, a: (X * a, X.sum())), there(refusing, da.from_array(A, chunks=(4, 3))), A
    for a in (2.0, 0.5, 3.0):
        X, total = step(X, a)
        assert close(total, expected.sum())
        expected = expected * a
        assert all(isinstance(X.dask[key], distributed.Future) for key in dask.core.flatten(X.__dask_keys__()))
    assert close(X.compute(), expected)


def test_chunks_of_this_process_and_what_a_function_refers_to(refusing: distributed.Client) -> None:
    other = there(refusing, da.from_array(2 * A, chunks=(4, 3)))
    step, X = exact(lambda X, a: (X * a + other).sum()), da.from_array(A, chunks=(4, 3))
    for a in (1.0, 2.0):
        assert close(step(X, a), (A * a + 2 * A).sum())
    assert counts(step) == (2, 0, 0)


def test_errors_of_kernels_are_the_users(refusing: distributed.Client) -> None:
    def broken(block: Any, limit: float) -> Any:
        if limit > 1:
            raise ZeroDivisionError("of the user")
        return block

    step, X = exact(lambda X, a: X.map_blocks(broken, a, dtype=float).sum()), there(refusing, da.from_array(A, chunks=(4, 3)))
    assert close(step(X, 1.0), A.sum())
    with pytest.raises(ZeroDivisionError, match="of the user"):
        step(X, 2.0)
    assert close(step(X, 0.5), A.sum())


def test_a_loop(refusing: distributed.Client) -> None:
    step, X, expected = exact(lambda v, X: X.T.dot(X.dot(v)) / 24), there(refusing, da.from_array(A, chunks=(4, 3))), np.ones(3)
    for _ in range(5):
        expected = A.T @ (A @ expected) / 24
    assert close(go.iterate(step, np.ones(3), X, max_iter=5), expected)


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [2, 12])
def test_as_many_tasks_as_workers_not_chunks(chunks: int, refusing: distributed.Client, submitted: list[str]) -> None:
    step, X = go.compile(lambda X, a: (X * a).sum()), there(refusing, da.from_array(A, chunks=(24 // chunks, 3)))
    step(X, 1.0)
    submitted.clear()
    assert close(step(X, 2.0), 2 * A.sum())
    assert sorted(submitted) == ["_phase", "_phase", "_phase", "_pick", "_pick"]


def test_what_workers_hold_is_shown_and_let_go(refusing: distributed.Client) -> None:
    def there_now() -> set[str]:
        keys = refusing.run_on_scheduler(lambda dask_scheduler: list(map(str, dask_scheduler.tasks)))
        return {key for key in keys if key.startswith("graphopt")}

    before = there_now()
    step, X = exact(lambda X, a: (X * a).sum()), there(refusing, da.from_array(A, chunks=(4, 3)))
    step(X, 1.0)
    assert there_now() - before
    info = step.plan(X, 1.0).info()
    assert sum(worker["chunks"] for worker in info.values()) == 6
    assert sum(worker["chunk_bytes"] for worker in info.values()) >= A.nbytes
    step.close()
    wait_until(lambda: there_now() <= before)
    assert close(step(X, 3.0), 3 * A.sum())
    del step
    gc.collect()
    wait_until(lambda: there_now() <= before)


def test_it_is_said_once_and_why(caplog: pytest.LogCaptureFixture) -> None:
    with cluster_of("worker", ["graphopt-serve"], 1) as client, caplog.at_level(logging.WARNING, "graphopt"):
        X = there(client, da.from_array(A, chunks=(4, 3)))
        for fn in (lambda X: X.sum(), lambda X: X.mean()):
            exact(fn)(X)
    said = [record.getMessage() for record in caplog.records if record.name == "graphopt"]
    assert len(said) == 1
    assert "ordinary tasks" in said[0]
    assert "explicitly disallowed" in said[0]


# -- where else workers cannot be talked to ------------------------------------------------------------------------------


def test_a_scheduler_that_takes_no_plugins() -> None:
    with cluster_of("scheduler", ["register_worker_plugin"]) as client:
        step, X = exact(lambda X, a: (X * a).sum()), there(client, da.from_array(A, chunks=(4, 3)))
        for a in (1.0, 2.0):
            assert close(step(X, a), a * A.sum())
        assert counts(step) == (2, 0, 0)


def test_workers_out_of_reach(cluster: distributed.LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's way to the workers is blocked, as by a firewall; the scheduler's is not."""
    with distributed.Client(cluster) as client, dask.config.set({"distributed.comm.timeouts.connect": "500ms"}):
        workers = set(client.scheduler_info()["workers"])

        def blocked(connect: Any) -> Any:
            async def blocking(address: str, *args: Any, **options: Any) -> Any:
                if address in workers:
                    raise OSError("no route to host")
                return await connect(address, *args, **options)

            return blocking

        monkeypatch.setattr(client.rpc, "connect", blocked(client.rpc.connect))
        monkeypatch.setattr(peers, "connect", blocked(peers.connect))
        step, X = exact(lambda X, a: (X * a, (X * a).sum())), there(client, da.from_array(A, chunks=(4, 3)))
        for a in (1.0, 2.0):
            chunked, total = step(X, a)
            assert close(total, a * A.sum())
            assert close(chunked.sum().compute(), a * A.sum())
        assert counts(step) == (2, 0, 0)
        here = da.from_array(A, chunks=(4, 3))
        assert close(exact(lambda X: X.sum())(here), A.sum())
        assert close(go.iterate(exact(lambda a, X: a + X.sum()), 0.0, X, max_iter=3), 3 * A.sum())


# -- faults ------------------------------------------------------------------------------------------------------------


def test_workers_are_killed() -> None:
    with cluster_of("worker", ["graphopt-serve"]) as client:
        X = da.random.default_rng(0).random((24, 3), chunks=(4, 3))
        whole = X.compute(scheduler="sync")
        X = client.persist(X)
        distributed.wait(X)
        step = exact(lambda X, a: (X * a).sum())
        for a in range(4):
            assert close(step(X, float(a)), a * whole.sum())
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        assert close(step(X, 5.0), 5 * whole.sum())
        assert step.stats.by_dask == 0


def test_an_input_that_is_cancelled_is_an_error_with_its_name() -> None:
    with cluster_of("worker", ["graphopt-serve"]) as client:
        step, X = exact(lambda X, a: (X * a).sum()), client.persist(da.from_array(A, chunks=(4, 3)))
        distributed.wait(X)
        assert close(step(X, 1.0), A.sum())
        client.cancel(X)
        wait_until(lambda: all(future.cancelled() for future in distributed.futures_of(X)))
        with pytest.raises(go.ClusterError, match="The input 'X' is lost"):
            step(X, 2.0)
