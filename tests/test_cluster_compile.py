"""``compile`` on a cluster: what it computes, where, with how many messages, and what the workers hold.

Results are compared with the same function replayed in this process. Faults have a file of their own.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import platform
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from on_cluster import PATIENCE, SMALL, A, counts, exact, remote, runs_as_here, there, wait_until
from oracle import close

import graphopt as go
from graphopt.cluster import _said

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def messages(client: distributed.Client, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List what the client asks of workers."""
    from graphopt.execute.channel import Channel
    from graphopt.execute.line import Line

    asked: list[str] = []
    original = Channel.ask

    async def ask(self: Channel, do: str, *args: Any, **message: Any) -> Any:
        if do != "ping":  # which is only sent to those that take long
            asked.append(do)
        return await original(self, do, *args, **message)

    monkeypatch.setattr(Channel, "ask", ask)
    send = Line.send

    def sent(self: Line, message: Any, *args: Any) -> None:
        asked.append("run")
        send(self, message, *args)

    monkeypatch.setattr(Line, "send", sent)
    return asked


# -- what it computes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_problems_come_out_as_they_do_here(name: str, loops: bool, client: distributed.Client) -> None:
    step = runs_as_here(client, name, exact=not loops)
    assert counts(step) == (3, 0, 0)
    assert step.stats.traces == 1


def test_results_of_every_kind(client: distributed.Client) -> None:
    def fn(X: Any, a: Any, b: Any) -> Any:
        return {
            "chunked": X * a,
            "same": X,
            "both": [X.sum(), X + 1],
            "delayed": dask.delayed(sum)([a, X.sum()]),
            "number": a + 1,
            "text": "text",
            "argument": b,
        }

    step, X, b = exact(fn), there(client, da.from_array(A, chunks=(4, 3))), np.arange(3.0)
    for a in (2.0, 3.0):
        found = step(X, a, da.from_array(b, chunks=3) if a == 5 else b)
        assert close(found["chunked"].compute(), A * a)
        assert close(found["same"].compute(), A)
        assert close(found["both"][0], A.sum())
        assert close(found["both"][1].compute(), A + 1)
        assert close(found["delayed"], A.sum() + a)
        assert (found["number"], found["text"]) == (a + 1, "text")
        assert close(found["argument"], b)
    assert counts(step) == (2, 0, 0)


def test_chunked_results_are_futures_that_feed_the_next_call(client: distributed.Client, messages: list[str]) -> None:
    step = exact(lambda X, a: (X * a, X.sum()))
    X, expected = there(client, da.from_array(A, chunks=(4, 3))), A
    step(X, 1.0)
    messages.clear()
    for a in (2.0, 0.5, 3.0):
        X, total = step(X, a)
        assert close(total, expected.sum())
        expected = expected * a
    assert messages == ["run"] * 6
    assert all(isinstance(X.dask[key], distributed.Future) for key in dask.core.flatten(X.__dask_keys__()))
    assert messages == ["run"] * 6 + ["register"] * 2
    assert close(X.compute(), expected)
    assert close((X + 1).sum().compute(), (expected + 1).sum())
    homes = client.who_has(X)
    assert len({worker for workers in homes.values() for worker in workers}) == 2


def test_results_that_nobody_wants_leave_the_workers(client: distributed.Client) -> None:
    step = exact(lambda X: X * 2)
    X = there(client, da.from_array(A, chunks=(4, 3)))
    for _ in range(3):
        kept = step(X)
    client.futures_of(kept)  # dask does not know it before
    names = {
        key[0]
        for key in client.run_on_scheduler(lambda dask_scheduler: [k for k in dask_scheduler.tasks if isinstance(k, tuple)])
    }
    assert kept.name in names
    del kept
    gc.collect()

    def left() -> set[str]:
        known = client.run_on_scheduler(lambda dask_scheduler: [k[0] for k in dask_scheduler.tasks if isinstance(k, tuple)])
        return {name for name in known if name.startswith("graphopt-")}

    wait_until(lambda: not left())


def test_chunks_of_this_process_are_sent_once(client: distributed.Client, messages: list[str]) -> None:
    step = exact(lambda X, a: (X * a).sum())
    X = da.from_array(A, chunks=(4, 3))
    for a in (1.0, 2.0, 3.0):
        assert close(step(X, a), (A * a).sum())
    assert counts(step) == (3, 0, 0)
    assert messages == ["bind", "bind", *["run"] * 6]
    del X
    gc.collect()

    def left() -> list[str]:
        known = client.run_on_scheduler(lambda dask_scheduler: [k[0] for k in dask_scheduler.tasks if isinstance(k, tuple)])
        return [name for name in known if name.startswith("graphopt-copy")]

    wait_until(lambda: not left())


def test_lazy_arguments_are_loaded_by_the_lanes(client: distributed.Client) -> None:
    step = exact(lambda X, a: (X * a).sum())
    X = da.random.default_rng(0).random((24, 3), chunks=(4, 3))
    whole = X.compute()
    for a in (1.0, 2.0):
        assert close(step(X, a), (whole * a).sum())
    assert counts(step) == (2, 0, 0)
    assert step.stats.traces == 1
    assert len(remote(step).seconds) == 2


def test_lazy_arguments_may_read_futures(client: distributed.Client) -> None:
    held = there(client, da.from_array(A, chunks=(4, 3)))
    step = exact(lambda X, a: (X * a).sum())
    for a in (1.0, 2.0):
        assert close(step(held + 1, a), ((A + 1) * a).sum())
    assert counts(step) == (2, 0, 0)
    captures = exact(lambda a: (held * a).sum())
    assert close(captures(3.0), (A * 3).sum())
    assert counts(captures) == (1, 0, 0)


def test_arrays_over_futures_of_any_name(client: distributed.Client) -> None:
    futures = client.scatter([A[:12], A[12:]], hash=False)
    X = da.concatenate([da.from_delayed(future, (12, 3), meta=A[:0]) for future in futures])
    step = exact(lambda X, a: (X * a).sum(axis=0))
    for a in (1.0, 2.0):
        assert close(step(X.persist(), a), (A * a).sum(axis=0))
    named = da.Array({("mine", i, 0): future for i, future in enumerate(futures)}, "mine", ((12, 12), (3,)), meta=A[:0])
    for a in (1.0, 2.0):
        assert close(step(named, a), (A * a).sum(axis=0))
    assert step.stats.by_dask == 0


def test_only_small_arguments(client: distributed.Client) -> None:
    step = exact(lambda b: (b * 2).sum())
    assert close(step(np.arange(4.0)), 12.0)
    assert close(step(np.ones(4)), 8.0)
    assert step.stats.by_dask == 0


def test_another_array_is_never_taken_for_the_first(client: distributed.Client) -> None:
    step = exact(lambda X: X.sum())
    X, Y = (there(client, da.from_array(A * factor, chunks=(4, 3))) for factor in (1, 2))
    for _ in range(3):
        assert close(step(X), A.sum())
        assert close(step(Y), 2 * A.sum())
    assert step.stats.traces == 1


@pytest.mark.parametrize("stays", [False, True])
def test_results_that_cannot_be_sent_are_an_error(stays: bool, client: distributed.Client) -> None:
    """Rather than a call that waits for an answer for ever."""

    def held(x: Any) -> Any:
        return [x, threading.Lock()]

    step = exact(lambda X: [dask.delayed(held)(X.sum()), X + 1] if stays else dask.delayed(held)(X.sum()))
    X = there(client, da.from_array(A, chunks=(4, 3)))
    for _ in range(2):
        with pytest.raises(TypeError, match="pickle"):
            step(X)


def test_errors_of_kernels_are_the_users(client: distributed.Client) -> None:
    def check(block: Any, most: float) -> Any:
        if block.max() > most:
            raise ZeroDivisionError("too much")
        return block

    step = exact(lambda X, most: X.map_blocks(check, most, dtype=float).sum())
    X = there(client, da.from_array(A, chunks=(4, 3)))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="too much"):
            step(X, 0.5)
        assert close(step(X, 100.0), A.sum())
    assert step.stats.retries == 0


def test_memory_is_bounded_on_each_worker(client: distributed.Client) -> None:
    step = exact(lambda X: (X @ X.T).sum(axis=0), memory=1000)
    X = there(client, da.from_array(np.ones((200, 3)), chunks=(50, 3)))
    with pytest.raises(go.MemoryLimitError):
        step(X)


# -- how many messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [2, 12])
def test_an_iteration_is_one_message_to_each_worker(chunks: int, client: distributed.Client, messages: list[str]) -> None:
    step = go.compile(lambda X, beta: X.T.dot(X.dot(beta)))
    X = there(client, da.from_array(A, chunks=(24 // chunks, 3)))
    step(X, np.ones(3))
    assert messages == ["bind", "bind", "run", "run"]
    messages.clear()
    for i in range(5):
        assert close(step(X, np.full(3, float(i))), A.T @ (A @ np.full(3, float(i))))
    assert messages == ["run"] * 10
    (bound,) = remote(step).bounds.values()
    assert bound.partition.messages == 1


def test_the_scheduler_is_not_asked(client: distributed.Client) -> None:
    step = exact(lambda X, a: (X * a).sum())
    X = there(client, da.from_array(A, chunks=(4, 3)))
    step(X, 1.0)

    def received(dask_scheduler: Any) -> int:
        return sum(
            len(counter.components[0]) and sum(counter.components[0].values()) for counter in [dask_scheduler.counters["op"]]
        )

    before = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
    for a in range(10):
        step(X, float(a))
    assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == before


@pytest.mark.parametrize("how", ["line", "socket", "pool"])
def test_a_line_that_closes_is_opened_again(how: str, client: distributed.Client, messages: list[str]) -> None:
    from graphopt.execute.channel import network_of

    step, X = exact(lambda X, a: (X * a).sum()), there(client, da.from_array(A, chunks=(4, 3)))
    assert close(step(X, 1.0), A.sum())
    for channel in network_of(client).channels.values():
        if how == "line":
            channel.line.close()
        elif how == "socket":
            channel.line.socket.shutdown(2)
        else:
            client.loop.add_callback(channel.line.comm.close)
    for a in (2.0, 3.0):
        assert close(step(X, a), a * A.sum())
    assert all(not channel.line.closed for channel in network_of(client).channels.values())
    messages.clear()
    assert close(step(X, 4.0), 4 * A.sum())
    assert messages == ["run"] * 2
    assert step.stats.by_dask == 0


def rested(block: Any, seconds: float) -> Any:
    time.sleep(seconds)
    return block


def test_ctrl_c_in_a_call(client: distributed.Client) -> None:
    step, X = exact(lambda X, s: X.map_blocks(rested, s, dtype=float).sum()), there(client, da.from_array(A, chunks=(4, 3)))
    assert close(step(X, 0.0), A.sum())
    timer = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        step(X, 0.3)
    timer.join()
    for _ in range(3):
        assert close(step(X, 0.0), A.sum())
    assert step.stats.by_dask == 0


def test_more_workers_than_a_client_may_have_connections(cluster: distributed.LocalCluster) -> None:
    """A pool of comms lets everybody wait who asks for one too many; what stays open must not count there."""
    with distributed.Client(cluster, connection_limit=1) as client:
        step, X = exact(lambda X, a: (X * a).sum()), there(client, da.from_array(A, chunks=(4, 3)))
        for a in (1.0, 2.0):
            assert close(step(X, a), a * A.sum())
        assert close((X + 1).sum().compute(), (A + 1).sum())
        assert counts(step) == (2, 0, 0)


# -- what workers hold -------------------------------------------------------------------------------------------------


def held_there(client: distributed.Client) -> int:
    """Count the plans that all workers hold."""
    return sum(client.run(lambda dask_worker: len(dask_worker.plugins["graphopt-replay"].replayer.plans)).values())


def test_plans_are_held_as_long_as_they_are_wanted(client: distributed.Client) -> None:
    X = there(client, da.from_array(A, chunks=(4, 3)))
    step = exact(lambda X, a: (X * a).sum())
    step(X, 1.0)
    wait_until(lambda: held_there(client) == 2)
    plan = step.plan(X, 1.0)
    assert "on the cluster" in plan.explain()
    info = plan.info()
    assert len(info) == 2
    assert sum(worker["chunks"] for worker in info.values()) == 6
    assert sum(worker["chunk_bytes"] for worker in info.values()) >= A.nbytes
    step.close()
    wait_until(lambda: held_there(client) == 0)
    assert plan.info() == {}
    assert close(step(X, 2.0), (A * 2).sum())
    wait_until(lambda: held_there(client) == 2)
    del step, plan
    gc.collect()
    wait_until(lambda: held_there(client) == 0)


def test_what_a_client_bound_goes_with_it(cluster: distributed.LocalCluster, client: distributed.Client) -> None:
    step = exact(lambda X, a: (X * a).sum())
    with distributed.Client(cluster, set_as_default=False) as other, other.as_current():
        with dask.config.set(scheduler=other):
            X = there(other, da.from_array(A, chunks=(4, 3)))
            assert close(step(X, 1.0), A.sum())
        wait_until(lambda: held_there(client) == 2)
        del X
    wait_until(lambda: held_there(client) == 0)


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="it is glibc that dask tells to trim")
def test_memory_of_temporaries_is_kept_while_plans_are_bound(client: distributed.Client) -> None:
    def pages(worker: str) -> int:
        """Return how many pages the system had to clear for fifty temporaries, one after the other, of 196 pages each."""

        def work() -> int:
            import resource

            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
            for _ in range(50):
                np.ones(100_000)
            return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

        return client.submit(work, workers=[worker], pure=False).result()  # type: ignore[no-any-return]

    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    gc.collect()
    wait_until(lambda: held_there(client) == 0)
    assert all(pages(worker) > 50 * 100 for worker in workers)
    step = exact(lambda X, a: (X * a).sum())
    X = there(client, da.from_array(A, chunks=(4, 3)))
    step(X, 1.0)
    assert all(pages(worker) < 10 * 196 for worker in workers)
    del step, X
    gc.collect()
    wait_until(lambda: held_there(client) == 0)
    assert all(pages(worker) > 50 * 100 for worker in workers)


def test_an_idle_plan_holds_no_chunks(client: distributed.Client) -> None:
    step = exact(lambda X, a: (X * a).sum())
    X = there(client, da.from_array(A, chunks=(4, 3)))
    step(X, 1.0)
    plan = step.plan(X, 1.0)
    wait_until(lambda: all(worker["blocks"] == 0 for worker in plan.info().values()))
    assert close(step(X, 2.0), (A * 2).sum())


# -- at the same time --------------------------------------------------------------------------------------------------


def test_threads_and_plans_at_once(client: distributed.Client) -> None:
    """More runs than task threads, all of which wait for each other's parts."""
    one = exact(lambda X, a: X.T.dot(X * a))
    two = exact(lambda X, a: ((X * a).sum(axis=0), X * a))
    X, Y = (there(client, da.from_array(A * factor, chunks=(4, 3))) for factor in (1, 2))

    def work(i: int) -> bool:
        data, factor = (X, 1) if i % 3 else (Y, 2)
        if i % 2:
            return close(one(data, float(i)), factor**2 * (A.T @ A) * i)
        total, chunked = two(data, float(i))
        return close(total, (A * factor * i).sum(axis=0)) and close(chunked.compute(), A * factor * i)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(48), timeout=60))
    assert one.stats.by_dask == two.stats.by_dask == 0
    assert one.stats.retries == two.stats.retries == 0


def test_dask_works_beside_it(client: distributed.Client) -> None:
    step = exact(lambda X, a: (X * a).sum())
    X = there(client, da.from_array(A, chunks=(4, 3)))
    busy = client.map(lambda i: time.sleep(0.01) or i, range(60), pure=False)
    for i in range(20):
        assert close(step(X, float(i)), (A * i).sum())
    assert client.gather(busy) == list(range(60))


def test_two_clients(cluster: distributed.LocalCluster, client: distributed.Client) -> None:
    step = exact(lambda X, a: (X * a).sum())
    X = there(client, da.from_array(A, chunks=(4, 3)))
    assert close(step(X, 1.0), A.sum())
    with distributed.Client(cluster, set_as_default=False) as other:
        found: list[Any] = []

        def work() -> None:
            with other.as_current(), dask.config.set(scheduler=other):
                Y = there(other, da.from_array(2 * A, chunks=(4, 3)))
                found.extend(step(Y, float(i)) for i in range(5))

        thread = threading.Thread(target=work)
        thread.start()
        mine = [step(X, float(i)) for i in range(5)]
        thread.join(PATIENCE)
    assert all(close(value, (A * i).sum()) for i, value in enumerate(mine))
    assert all(close(value, (2 * A * i).sum()) for i, value in enumerate(found))
    assert len(found) == 5


# -- what dask runs ----------------------------------------------------------------------------------------------------


def test_calls_in_tasks_are_left_to_dask(client: distributed.Client) -> None:
    """A task that waited for a replay would hold the thread that the replay needs."""

    def task(values: Any) -> Any:
        with distributed.worker_client():
            step = go.compile(lambda X: X.sum(), exact=True)
            return float(step(da.from_array(values, chunks=(4, 3)))), step.stats.by_dask

    total, by_dask = client.submit(task, A).result(timeout=PATIENCE)
    assert close(total, A.sum())
    assert by_dask == 1


def test_the_reason_is_logged_once(client: distributed.Client, caplog: pytest.LogCaptureFixture) -> None:
    _said.clear()
    step = exact(lambda X: X.sum())
    X = there(client, da.from_array(A, chunks=(4, 3)))
    with caplog.at_level(logging.WARNING, logger="graphopt"), dask.config.set(scheduler="sync"):
        for _ in range(2):
            with contextlib.suppress(Exception):  # that scheduler may or may not be able to read futures
                step(X)
    assert step.stats.by_dask == 2
    assert [record.getMessage() for record in caplog.records if record.name == "graphopt"] == [
        "graphopt: dask runs a compiled function: its data is on a cluster whose client is not dask's scheduler here"
    ]
