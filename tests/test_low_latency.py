"""`low_latency`: what every timer is before, in and after the context, whoever joins, hangs, dies or leaves meanwhile.

Nothing here measures time; ``bench/low_latency.py`` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import distributed
import pytest
from conftest import QUIET
from distributed.batched import BatchedSend

import graphopt as go
from graphopt.execute import cluster_timers, low_latency
from graphopt.execute.low_latency import set_timer

pytestmark = pytest.mark.timeout(90)

PATIENCE = 30  # seconds until what should come is counted as never coming

#: Milliseconds that dask waits by itself: what the figures in the documentation rest on.
DASK = {"client": {10.0}, "to clients": {2.0}, "to workers": {5.0}, "from workers": {2.0}}


def everywhere(milliseconds: float) -> dict[str, set[float]]:
    return {whose: {milliseconds} for whose in DASK}


AT_ONCE = everywhere(0.0)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


def on_scheduler(dask_scheduler: Any) -> dict[str, Any]:
    return {
        "to clients": {stream.interval * 1e3 for stream in dask_scheduler.client_comms.values()},
        "to workers": {stream.interval * 1e3 for stream in dask_scheduler.stream_comms.values()},
        "plugins": {*dask_scheduler.plugins, *dask_scheduler.worker_plugins, *dask_scheduler.nanny_plugins},
    }


def on_worker(dask_worker: Any) -> tuple[float, set[str]]:
    stream = dask_worker.batched_stream
    assert ("wait" in vars(stream.waker)) == (stream.interval == 0)
    assert ("send" in vars(stream)) == (stream.interval == 0)
    return stream.interval * 1e3, set(dask_worker.plugins)


def everything(client: distributed.Client) -> tuple[dict[str, set[float]], set[str]]:
    """Return the timers of all parties, in milliseconds, and the names of all plugins."""
    timers = client.run_on_scheduler(on_scheduler)
    plugins = timers.pop("plugins")
    workers = client.run(on_worker)
    assert ("wait" in vars(client.scheduler_comm.waker)) == (client.scheduler_comm.interval == 0)
    timers["client"] = {client.scheduler_comm.interval * 1e3}
    timers["from workers"] = {interval for interval, _ in workers.values()}
    return timers, plugins.union(*(names for _, names in workers.values()))


def timers(client: distributed.Client) -> dict[str, set[float]]:
    return everything(client)[0]


@contextlib.contextmanager
def without_trace(client: distributed.Client) -> Iterator[None]:
    """Assert that in the end all timers are dask's own, and the plugins those that there were."""
    before = everything(client)
    assert before[0] == DASK
    yield
    assert everything(client) == before


@pytest.fixture
def threads() -> Iterator[distributed.Client]:
    """A client of a cluster that lives in this process."""
    with distributed.Client(processes=False, n_workers=2, threads_per_worker=1, **QUIET) as client:
        yield client


def increment(x: int) -> int:
    return x + 1


# -- the usual ---------------------------------------------------------------------------------------------------------


def test_timers_are_shortened_and_restored(client: distributed.Client) -> None:
    with without_trace(client):
        with go.low_latency(client) as same:
            assert same is client
            assert timers(client) == AT_ONCE
            x = client.submit(increment, 0)
            for _ in range(20):
                x = client.submit(increment, x)
            assert x.result(timeout=PATIENCE) == 21
        with pytest.raises(ZeroDivisionError), go.low_latency(client):
            raise ZeroDivisionError


@pytest.mark.parametrize(("interval", "expected"), [("0ms", 0.0), (0.001, 1.0), ("1 ms", 1.0), ("500us", 0.5)])
def test_intervals(client: distributed.Client, interval: Any, expected: float) -> None:
    with without_trace(client), go.low_latency(client, interval):
        assert timers(client) == everywhere(expected)


def test_no_stream_is_made_to_wait_longer(client: distributed.Client) -> None:
    with without_trace(client), go.low_latency(client, "4ms"):
        assert timers(client) == DASK | {"client": {4.0}, "to workers": {4.0}}


def test_contexts_nest_and_the_shortest_counts(client: distributed.Client) -> None:
    with without_trace(client):
        again = go.low_latency(client, "1ms")
        with again:
            with go.low_latency(client):
                with go.low_latency(client, "1ms"), again:
                    assert timers(client) == AT_ONCE
                assert timers(client) == AT_ONCE
            assert timers(client) == everywhere(1.0)


def test_two_clients_and_the_last_restores(cluster: distributed.LocalCluster, client: distributed.Client) -> None:
    with without_trace(client), distributed.Client(cluster) as other:
        one, two = go.low_latency(client), go.low_latency(other)
        one.__enter__()
        two.__enter__()
        assert timers(client) == timers(other) == AT_ONCE
        one.__exit__(None, None, None)
        assert timers(client) == AT_ONCE | {"client": {10.0}}
        assert timers(other) == AT_ONCE
        two.__exit__(None, None, None)
        assert timers(client) == timers(other) == DASK


def test_threads_enter_and_leave_at_once(client: distributed.Client) -> None:
    failed: list[BaseException] = []

    def often() -> None:
        try:
            for _ in range(10):
                with go.low_latency(client):
                    assert client.scheduler_comm.interval == 0
        except BaseException as error:
            failed.append(error)

    with without_trace(client):
        together = [threading.Thread(target=often) for _ in range(4)]
        for thread in together:
            thread.start()
        for thread in together:
            thread.join()
        assert not failed


def test_in_this_process(threads: distributed.Client) -> None:
    with without_trace(threads), go.low_latency(threads):
        assert timers(threads) == AT_ONCE
        assert threads.submit(increment, 1).result(timeout=PATIENCE) == 2


def test_inside_a_task(client: distributed.Client) -> None:
    """An algorithm that runs on a worker has the worker's client."""

    def algorithm() -> tuple[dict[str, set[float]], int]:
        with distributed.worker_client() as here, go.low_latency(here):
            total = here.submit(increment, 1).result(timeout=PATIENCE)
            return timers(here), total

    with without_trace(client):
        found, total = client.submit(algorithm, pure=False).result(timeout=PATIENCE)
        assert (found, total) == (AT_ONCE, 2)


def test_asynchronous_clients() -> None:
    async def run() -> None:
        quiet = {**QUIET, "processes": False, "n_workers": 1, "threads_per_worker": 1}
        async with (
            distributed.LocalCluster(asynchronous=True, **quiet) as cluster,
            distributed.Client(cluster, asynchronous=True) as client,
        ):
            with pytest.raises(TypeError, match="async with"):
                go.low_latency(client).__enter__()
            async with go.low_latency(client) as same:
                assert same is client
                assert client.scheduler_comm.interval == 0
                assert await client.run(lambda dask_worker: dask_worker.batched_stream.interval == 0)
                assert await client.submit(increment, 1) == 2
            assert client.scheduler_comm.interval == 0.01
            found = await client.run_on_scheduler(on_scheduler)
            assert (found["to clients"], found["to workers"]) == (DASK["to clients"], DASK["to workers"])
            assert cluster_timers.NAME not in found["plugins"]

    asyncio.run(run())


def test_misuse(threads: distributed.Client) -> None:
    for bad in (-1, -0.001, float("nan"), "-1ms", "soon"):
        with pytest.raises(ValueError, match="interval="):
            go.low_latency(threads, bad)

    async def run() -> None:
        async with go.low_latency(threads):
            pass

    with pytest.raises(TypeError, match="use `with`"):
        asyncio.run(run())


def test_graphopt_does_not_load_distributed() -> None:
    subprocess.run([sys.executable, "-c", "import graphopt, sys; assert 'distributed' not in sys.modules"], check=True)


# -- who comes, and who goes -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_that_join_die_and_restart() -> None:
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, **QUIET) as cluster,
        distributed.Client(cluster) as client,
        without_trace(client),
    ):
        with go.low_latency(client):
            cluster.scale(2)
            client.wait_for_workers(2, timeout=PATIENCE)
            wait_until(lambda: timers(client) == AT_ONCE)
            pids = client.run(os.getpid)
            os.kill(next(iter(pids.values())), signal.SIGKILL)
            wait_until(lambda: len(new := client.run(os.getpid, on_error="ignore")) == 2 and new != pids)
            wait_until(lambda: timers(client) == AT_ONCE)
            client.restart(timeout=PATIENCE)
            wait_until(lambda: timers(client) == AT_ONCE)
            pids = client.run(os.getpid)
            os.kill(next(iter(pids.values())), signal.SIGKILL)  # and leave while it dies
        client.wait_for_workers(2, timeout=PATIENCE)
        wait_until(lambda: len(new := client.run(os.getpid, on_error="ignore")) == 2 and new != pids)


def test_a_worker_that_hangs_is_told_later(client: distributed.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither entering nor leaving waits for it for ever, and it misses neither."""
    monkeypatch.setattr(cluster_timers, "PATIENCE", 0.3)  # the scheduler is in this process
    pids = client.run(os.getpid)
    address, pid = next(iter(pids.items()))
    with without_trace(client):
        try:
            with go.low_latency(client):
                assert timers(client) == AT_ONCE
                os.kill(pid, signal.SIGSTOP)
            assert client.scheduler_comm.interval == 0.01
            assert client.run_on_scheduler(on_scheduler)["to workers"] == {5.0}
            with go.low_latency(client, "1ms"):
                os.kill(pid, signal.SIGCONT)
                wait_until(lambda: client.run(on_worker, workers=[address])[address][0] == 1.0)
                os.kill(pid, signal.SIGSTOP)
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: cluster_timers.NAME not in client.run_on_scheduler(on_scheduler)["plugins"])


def test_a_client_that_goes_has_left(cluster: distributed.LocalCluster, client: distributed.Client) -> None:
    with without_trace(client):
        other = distributed.Client(cluster, set_as_default=False)
        with go.low_latency(other):
            assert timers(client) == AT_ONCE | {"client": {10.0}}
            other.close()
            wait_until(lambda: timers(client) == DASK)


def test_a_lost_connection_is_made_short_again(threads: distributed.Client) -> None:
    with without_trace(threads), go.low_latency(threads):
        first = threads.scheduler_comm
        threads.loop.add_callback(first.abort)
        wait_until(lambda: threads.scheduler_comm not in (None, first) and timers(threads) == AT_ONCE)


def test_a_cluster_that_closes() -> None:
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **QUIET)
    with distributed.Client(cluster) as client, go.low_latency(client):
        cluster.close()


def test_a_scheduler_that_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    options = ["--port", "0", "--no-dashboard", "--no-show", "--host", "127.0.0.1", "--scheduler-file", str(file)]
    process = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(file.exists)
        with distributed.Client(scheduler_file=str(file), timeout=PATIENCE) as client:
            with go.low_latency(client), go.low_latency(client):
                stream = client.scheduler_comm
                assert stream.interval == 0
                process.kill()
                process.wait()
            assert stream.interval == 0.01
            with pytest.raises(OSError):
                go.low_latency(client).__enter__()
            assert stream.interval == 0.01
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_tls(tmp_path: Path) -> None:
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    roles = {
        f"tls_{role}_{part}": path
        for role in ("client", "scheduler", "worker")
        for part, path in [("cert", certificate), ("key", key)]
    }
    security = distributed.Security(require_encryption=True, tls_ca_file=certificate, **roles)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, security=security, protocol="tls://", **QUIET) as cluster,
        distributed.Client(cluster, security=security) as client,
        without_trace(client),
        go.low_latency(client),
    ):
        assert cluster.scheduler_address.startswith("tls://")
        assert timers(client) == AT_ONCE


# -- who does not take part --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def that_blocks(who: str, handler: str) -> Iterator[distributed.Client]:
    with (
        dask.config.set({f"distributed.{who}.blocked-handlers": [handler]}),
        distributed.Client(processes=False, n_workers=2, threads_per_worker=1, **QUIET) as client,
    ):
        yield client


def test_a_scheduler_that_runs_no_functions(caplog: pytest.LogCaptureFixture) -> None:
    with that_blocks("scheduler", "run_function") as client, caplog.at_level(logging.WARNING, "graphopt"):
        with go.low_latency(client):
            assert client.scheduler_comm.interval == 0
            assert client.submit(increment, 1).result(timeout=PATIENCE) == 2
        assert client.scheduler_comm.interval == 0.01
    (said,) = [record.getMessage() for record in caplog.records if record.name == "graphopt"]
    assert "only the client's messages" in said
    assert "disallowed" in said


def test_workers_that_run_no_functions(caplog: pytest.LogCaptureFixture) -> None:
    with that_blocks("worker", "run") as client, caplog.at_level(logging.WARNING, "graphopt"):
        with go.low_latency(client):
            found = client.run_on_scheduler(on_scheduler)
            assert (found["to clients"], found["to workers"]) == ({0.0}, {0.0})
        found = client.run_on_scheduler(on_scheduler)
        assert (found["to clients"], found["to workers"]) == (DASK["to clients"], DASK["to workers"])
        assert cluster_timers.NAME not in found["plugins"]
    (said,) = [record.getMessage() for record in caplog.records if record.name == "graphopt"]
    assert "2 workers keep their timers" in said
    assert "disallowed" in said


def test_timers_that_are_elsewhere(threads: distributed.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, whose in ((low_latency, "client"), (cluster_timers, "scheduler")):
        with without_trace(threads), monkeypatch.context() as patch:
            patch.setattr(module, "timed", lambda stream: False)
            with pytest.warns(go.GraphoptWarning, match=f"the {whose}'s messages") as warned, go.low_latency(threads):
                assert timers(threads) == DASK
            assert len(warned) == 1


def test_a_scheduler_without_streams() -> None:
    assert asyncio.run(cluster_timers.open_timers("a", "client", 0, SimpleNamespace(plugins={}))) is None


def test_a_client_that_went_while_it_asked() -> None:
    scheduler = SimpleNamespace(plugins={}, clients={}, client_comms={}, stream_comms={})
    assert asyncio.run(cluster_timers.open_timers("a", "client", 0, scheduler)) == {}
    assert not scheduler.plugins


# -- what it rests on --------------------------------------------------------------------------------------------------


def test_set_timer() -> None:
    stream = SimpleNamespaceWithIdentity(interval=0.005)
    set_timer(stream, None)
    assert stream.interval == 0.005
    for seconds, expected in ((0.001, 0.001), (0.0, 0.0), (1.0, 0.005), (0.002, 0.002), (None, 0.005), (None, 0.005)):
        set_timer(stream, seconds)
        assert stream.interval == expected
    other = SimpleNamespaceWithIdentity()
    set_timer(other, 0.0)
    set_timer(other, None)
    assert not hasattr(other, "interval")


class SimpleNamespaceWithIdentity(SimpleNamespace):
    """Compared and hashed by identity, as streams are."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


def test_at_zero_nothing_polls() -> None:
    """A stream wakes for what is sent, and then sleeps until there is something to send."""

    class Comm:
        def __init__(self) -> None:
            self.sent: list[Any] = []

        def closed(self) -> bool:
            return False

        async def _write(self, messages: list[Any]) -> int:
            self.sent += messages
            return 1

        def write(self, messages: list[Any], **_: Any) -> Any:
            return self._write(messages)

        async def close(self) -> None:
            pass

    async def run() -> tuple[int, int, list[Any]]:
        stream, comm = BatchedSend(interval="10ms"), Comm()
        set_timer(stream, 0)
        waits, wait = 0, stream.waker.wait

        def counted(timeout: Any = None) -> Any:
            nonlocal waits
            waits += 1
            return wait(timeout)

        stream.waker.wait = counted
        stream.start(comm)
        for i in range(10):
            stream.send(i)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        counts = waits, stream.batch_count
        set_timer(stream, None)
        assert "wait" not in vars(stream.waker)
        stream.send(10)
        await stream.close()
        return *counts, comm.sent

    waits, batches, sent = asyncio.run(run())
    assert sent == list(range(11))
    assert waits == 2 * batches + 1


def test_what_nobody_waits_for_goes_with_the_rest() -> None:
    """In a chain a worker says with each task that it has thrown away what came before."""
    with distributed.Client(n_workers=1, threads_per_worker=1, **QUIET) as client, go.low_latency(client):

        def batches(dask_worker: Any) -> int:
            return int(dask_worker.batched_stream.batch_count)

        before = sum(client.run(batches).values())
        last = dask.delayed(increment)(0)
        for _ in range(49):
            last = dask.delayed(increment)(last)
        assert client.compute(last, optimize_graph=False).result(timeout=PATIENCE) == 50
        assert sum(client.run(batches).values()) - before < 75


def test_what_nobody_waits_for_goes_in_time() -> None:
    class Comm:
        sent: list[Any]

        def __init__(self) -> None:
            self.sent = []

        def closed(self) -> bool:
            return False

        async def write(self, payload: Any, **_: Any) -> int:
            self.sent.append(payload)
            return 1

    async def run() -> None:
        stream: Any = BatchedSend(interval="50ms")
        comm: Any = Comm()
        set_timer(stream, 0)
        stream.start(comm)
        await asyncio.sleep(0.01)
        late, soon = {"op": "release-worker-data"}, {"op": "task-finished"}
        stream.send(late)
        await asyncio.sleep(0.01)
        assert comm.sent == []
        stream.send(soon)
        await asyncio.sleep(0.01)
        assert comm.sent == [[late, soon]]
        stream.send(late)
        for _ in range(200):
            if len(comm.sent) == 2:
                break
            await asyncio.sleep(0.01)
        assert comm.sent == [[late, soon], [late]]
        set_timer(stream, None)
        assert "send" not in vars(stream)
        stream.abort = lambda: None
        stream.please_stop = True
        stream.waker.set()
        await stream.stopped.wait()

    asyncio.run(run())
