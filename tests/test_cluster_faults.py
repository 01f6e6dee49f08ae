"""``compile`` on clusters where things go wrong: processes are killed, stopped and started, and data is moved and lost.

In each case the call returns the right answer or raises an error that names what is lost, and never hangs.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from conftest import QUIET
from oracle import close

import graphopt as go
from solvers import L2, fit

pytestmark = [pytest.mark.timeout(90), pytest.mark.slow]

PATIENCE = 30
COLUMNS, ROWS, CHUNK = 4, 48, 6


@contextlib.contextmanager
def cluster_of(workers: int = 2, **options: Any) -> Iterator[distributed.Client]:
    """Start a cluster whose lost workers do not fill the log of the test."""
    options = {"threads_per_worker": 1, "processes": True, "silence_logs": 60, **QUIET, **options}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 10, "graphopt.deadline": "20s"}),
        distributed.LocalCluster(n_workers=workers, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def client() -> Iterator[distributed.Client]:
    with cluster_of(2) as client:
        yield client


def made(client: distributed.Client, rows: int = ROWS) -> tuple[Any, np.ndarray]:
    """Return an array that dask knows how to make again, and the whole of it."""
    X = da.random.default_rng(0).random((rows, COLUMNS), chunks=(CHUNK, COLUMNS))
    whole = X.compute(scheduler="sync")
    X = client.persist(X)
    distributed.wait(X, timeout=PATIENCE)
    return X, whole


def slowly(block: Any, seconds: float) -> Any:
    time.sleep(seconds)
    return block


@pytest.fixture
def step() -> Any:
    return go.compile(lambda X, b: X.T.dot(X.dot(b)), exact=True)


def right(step: Any, X: Any, whole: np.ndarray, factor: float = 1.0) -> bool:
    b = np.arange(1.0, COLUMNS + 1) * factor
    return close(step(X, b), whole.T @ (whole @ b))


def pids(client: distributed.Client) -> dict[str, int]:
    return dict(client.run(os.getpid))


def kill(client: distributed.Client, number: int = 0) -> str:
    address, pid = sorted(pids(client).items())[number]
    os.kill(pid, signal.SIGKILL)
    return address


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)


# -- workers that die ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_is_killed_between_calls(number: int, client: distributed.Client, step: Any) -> None:
    X, whole = made(client)
    assert right(step, X, whole)
    kill(client, number)
    for i in range(3):
        assert right(step, X, whole, i)
    assert step.stats.by_dask == 0
    assert step.stats.on_cluster == 4
    assert step.stats.retries >= 1


@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_is_killed_in_the_middle_of_a_call(number: int, client: distributed.Client) -> None:
    slow = go.compile(lambda X, b: X.map_blocks(slowly, 0.1, dtype=float).T.dot(X.dot(b)), exact=True)
    X, whole = made(client)
    assert right(slow, X, whole)
    there = sorted(pids(client).items())
    timer = threading.Timer(0.2, os.kill, (there[number][1], signal.SIGKILL))
    timer.start()
    assert right(slow, X, whole, 2.0)
    timer.join()
    assert right(slow, X, whole, 3.0)
    assert slow.stats.retries >= 1
    assert slow.stats.by_dask == 0


def test_workers_are_killed_again_and_again(client: distributed.Client, step: Any) -> None:
    X, whole = made(client)
    over = threading.Event()

    def trouble() -> None:
        for i in range(3):
            if over.wait(1.5):
                return
            with contextlib.suppress(Exception):
                kill(client, i % 2)

    thread = threading.Thread(target=trouble)
    thread.start()
    try:
        until = time.monotonic() + 6
        i = 0
        while time.monotonic() < until:
            i += 1
            assert right(step, X, whole, i)
    finally:
        over.set()
        thread.join()
    assert step.stats.by_dask == 0


def test_all_workers_are_killed(client: distributed.Client, step: Any) -> None:
    X, whole = made(client)
    assert right(step, X, whole)
    for pid in pids(client).values():
        os.kill(pid, signal.SIGKILL)
    assert right(step, X, whole, 2.0)


def test_threads_survive_a_worker_together(client: distributed.Client, step: Any) -> None:
    X, whole = made(client)
    other = go.compile(lambda X, b: (X * b).sum(axis=0), exact=True)
    wrong: list[int] = []

    def work(number: int) -> None:
        for i in range(30):
            b = np.full(COLUMNS, float(i))
            if not (right(step, X, whole, i) and close(other(X, b), (whole * b).sum(axis=0))):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    kill(client)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not wrong


def test_a_chunked_state_is_lost_with_its_worker(client: distributed.Client) -> None:
    """What a call left on a worker dask cannot compute again: an error says so."""
    move = go.compile(lambda X: X * 2, exact=True)
    X, whole = made(client)
    Y = move(X)
    blocks = client.futures_of(Y)
    # Not Y.compute(): the task that puts the blocks together would leave copies of them where it runs.
    assert close(np.concatenate(client.gather(sorted(blocks, key=lambda future: future.key))), whole * 2)
    (home, *_) = next(iter(client.who_has(blocks[:1]).values()))
    os.kill(pids(client)[home], signal.SIGKILL)
    wait_until(lambda: any(future.status in ("lost", "cancelled") for future in blocks))
    with pytest.raises(go.ClusterError, match="input 'X' is lost"):
        move(Y)
    assert close(move(X).compute(), whole * 2)


@pytest.mark.parametrize("how", ["call", "compute", "look"])
def test_a_state_that_dask_never_knew_is_lost_with_its_worker(how: str, client: distributed.Client) -> None:
    move = go.compile(lambda X: X * 2, exact=True)
    X, whole = made(client)
    for _ in range(2):
        move(X)
    assert close(move(move(X)).compute(), whole * 4)
    Y = move(X)
    kill(client)
    if how == "compute":
        with pytest.raises(distributed.client.FutureCancelledError, match="lost dependencies"):
            Y.compute()
    else:
        with pytest.raises(go.ClusterError, match=r"input 'X' is lost" if how == "call" else r"blocks of .* are lost"):
            move(Y) if how == "call" else client.futures_of(Y)
    assert close(move(X).compute(), whole * 2)


def test_a_state_that_dask_never_knew_moves_with_what_its_worker_had(client: distributed.Client) -> None:
    move = go.compile(lambda X, a: X * a, exact=True)
    X, whole = made(client, 50 * ROWS)
    Y = X
    for _ in range(4):
        Y = move(Y, 2.0)
    client.retire_workers([sorted(pids(client))[0]], close_workers=True)
    assert close(move(Y, 2.0).compute(), whole * 32)


def test_chunks_of_admm_start_over_when_what_they_kept_is_lost(client: distributed.Client) -> None:
    X, whole = made(client)
    y = client.persist((X[:, 0] > 0.5).astype(float))
    distributed.wait(y, timeout=PATIENCE)
    problem: dict[str, Any] = {"family": "logistic", "penalty": L2(1e-2), "tol": 1e-8}
    expected = fit(whole, (whole[:, 0] > 0.5).astype(float), **problem)
    killed: list[str] = []

    def callback(point: Any, beta: Any) -> None:
        if point.iteration == 3:
            killed.append(kill(client))

    found = fit(X, y, solver="admm", callback=callback, **problem)
    assert killed
    assert found.ok
    assert np.abs(found.beta - expected.beta).max() < 1e-5


def test_data_that_was_scattered_is_lost(client: distributed.Client, step: Any) -> None:
    whole = np.random.default_rng(1).random((12, COLUMNS))
    parts = client.scatter([whole[:6], whole[6:]], hash=False)
    X = da.Array({("parts", i, 0): part for i, part in enumerate(parts)}, "parts", ((6, 6), (COLUMNS,)), dtype=float)
    assert right(step, X, whole)
    home = next(iter(client.who_has([parts[1]]).values()))[0]
    os.kill(pids(client)[home], signal.SIGKILL)
    with pytest.raises(go.ClusterError, match="input 'X' is lost"):
        right(step, X, whole)


def test_chunks_of_this_process_are_sent_again(client: distributed.Client, step: Any) -> None:
    whole = np.random.default_rng(1).random((12, COLUMNS))
    X = da.from_array(whole, chunks=(3, COLUMNS))
    assert right(step, X, whole)
    kill(client)
    for i in range(3):
        assert right(step, X, whole, i)
    assert step.stats.by_dask == 0


@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_is_killed_in_the_middle_of_a_loop(number: int, client: distributed.Client) -> None:
    def descent(beta: Any, X: Any) -> Any:
        return beta - X.T.dot(X.map_blocks(slowly, 0.002, dtype=float).dot(beta) - 1) / ROWS

    step = go.compile(descent, exact=True)
    X, whole = made(client)
    expected = np.zeros(COLUMNS)
    for _ in range(150):
        expected = expected - whole.T @ (whole @ expected - 1) / ROWS
    there = sorted(pids(client).items())
    timer = threading.Timer(1.0, os.kill, (there[number][1], signal.SIGKILL))
    timer.start()
    heard: list[int] = []
    assert close(go.iterate(step, np.zeros(COLUMNS), X, max_iter=150, progress=lambda n, beta: heard.append(n)), expected)
    timer.join()
    assert heard == sorted(heard), "it went on from where it was"
    assert step.stats.retries >= 1
    assert step.stats.by_dask == 0


# -- workers that come and go --------------------------------------------------------------------------------------------


def test_workers_join_and_leave(client: distributed.Client, step: Any) -> None:
    X, whole = made(client)
    assert right(step, X, whole)
    client.cluster.scale(3)
    client.wait_for_workers(3, timeout=PATIENCE)
    assert right(step, X, whole, 2.0)
    leaving = sorted(pids(client))[0]
    client.retire_workers([leaving], close_workers=True)
    for i in range(3):
        assert right(step, X, whole, i)
    assert step.stats.by_dask == 0
    assert leaving not in step.plan(X, np.ones(COLUMNS)).info()


def test_a_worker_leaves_in_the_middle_of_a_call(client: distributed.Client) -> None:
    slow = go.compile(lambda X, b: X.map_blocks(slowly, 0.1, dtype=float).T.dot(X.dot(b)), exact=True)
    X, whole = made(client)
    leaving = sorted(pids(client))[0]
    timer = threading.Timer(0.2, client.retire_workers, ([leaving],), {"close_workers": True})
    timer.start()
    assert right(slow, X, whole)
    timer.join()
    assert right(slow, X, whole, 2.0)


def test_the_cluster_restarts(client: distributed.Client, step: Any) -> None:
    X, whole = made(client)
    assert right(step, X, whole)
    client.restart(timeout=PATIENCE)
    with pytest.raises(go.ClusterError, match="input 'X' is lost"):
        right(step, X, whole)
    X, whole = made(client)
    for i in range(2):
        assert right(step, X, whole, i)
    assert step.stats.by_dask == 0


def test_a_worker_hangs(client: distributed.Client, step: Any) -> None:
    """It is taken off the cluster once it was silent for too long, and what it had is computed again."""
    X, whole = made(client)
    assert right(step, X, whole)
    address, pid = sorted(pids(client).items())[0]
    with dask.config.set({"graphopt.deadline": "2s"}):
        os.kill(pid, signal.SIGSTOP)
        try:
            assert right(step, X, whole, 2.0)
            assert right(step, X, whole, 3.0)
        finally:
            os.kill(pid, signal.SIGKILL)
    assert address not in step.plan(X, np.ones(COLUMNS)).info()
    assert step.stats.by_dask == 0


def test_a_slow_kernel_is_not_taken_for_a_hanging_worker(client: distributed.Client) -> None:
    slow = go.compile(lambda X, b: X.map_blocks(slowly, 0.8, dtype=float).T.dot(X.dot(b)), exact=True)
    X, whole = made(client)
    with dask.config.set({"graphopt.deadline": "1.5s"}):
        assert right(slow, X, whole)
    assert slow.stats.retries == 0


# -- data that moves -----------------------------------------------------------------------------------------------------


def test_blocks_are_moved(client: distributed.Client, step: Any) -> None:
    workers = sorted(pids(client))
    X = da.random.default_rng(0).random((ROWS, COLUMNS), chunks=(CHUNK, COLUMNS))
    whole = X.compute(scheduler="sync")
    X = client.persist(X, workers=[workers[0]], allow_other_workers=False)
    distributed.wait(X, timeout=PATIENCE)
    assert right(step, X, whole)
    plan = step.plan(X, np.ones(COLUMNS))
    assert [part["chunks"] for part in plan.info().values()] == [ROWS // CHUNK]
    # to the other worker, whatever its memory
    keys = [future.key for future in client.futures_of(X)]

    async def move(dask_scheduler: Any) -> None:
        await dask_scheduler.replicate(keys=keys[:4], workers=[workers[1]], n=1)
        await dask_scheduler.delete_worker_data(worker_address=workers[0], keys=keys[:4], stimulus_id="test")

    client.run_on_scheduler(move)
    client.rebalance()
    for i in range(3):
        assert right(step, X, whole, i)
    found = plan.info()
    assert sum(part["chunks"] for part in found.values()) == ROWS // CHUNK
    assert len(found) == 2
    has = client.who_has(X)
    assert {worker for homes in has.values() for worker in homes} == set(found)


def test_blocks_are_spilled(client: distributed.Client, step: Any) -> None:
    X, whole = made(client)
    assert right(step, X, whole)

    def spill(dask_worker: Any) -> int:
        while dask_worker.data.fast:
            dask_worker.data.evict()
        return len(dask_worker.data.slow)

    assert sum(client.run(spill).values()) >= ROWS // CHUNK
    for i in range(3):
        assert right(step, X, whole, i)
    assert step.stats.retries == 0
    client.run(spill)
    plan = step.plan(X, np.ones(COLUMNS))
    wait_until(lambda: all(part["blocks"] == 0 for part in plan.info().values()))
    assert right(step, X, whole, 5.0)


def test_a_future_is_cancelled(client: distributed.Client, step: Any) -> None:
    X, whole = made(client)
    assert right(step, X, whole)
    client.cancel(X)
    errors: list[go.ClusterError] = []

    def lost() -> bool:
        try:
            assert right(step, X, whole), "while the workers still have it"
        except go.ClusterError as error:
            errors.append(error)
        return bool(errors)

    wait_until(lost)
    assert "input 'X' is lost" in str(errors[0])
    X, whole = made(client)
    assert right(step, X, whole)


def test_an_input_failed(client: distributed.Client, step: Any) -> None:
    def fail(block: Any) -> Any:
        raise ZeroDivisionError("not today")

    X = client.persist(da.ones((12, COLUMNS), chunks=(6, COLUMNS)).map_blocks(fail, dtype=float))
    with pytest.raises(ZeroDivisionError, match="not today"):
        step(X, np.ones(COLUMNS))


def test_an_input_that_is_not_ready_is_waited_for(client: distributed.Client, step: Any) -> None:
    X = da.random.default_rng(0).random((ROWS, COLUMNS), chunks=(CHUNK, COLUMNS))
    whole = X.compute(scheduler="sync")
    assert right(step, client.persist(X.map_blocks(slowly, 0.2, dtype=float)), whole)


# -- the scheduler -------------------------------------------------------------------------------------------------------


class Processes:
    """A scheduler and workers in processes of their own, to be killed one by one."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address, self.all = f"tcp://127.0.0.1:{self.port}", []

    def start(self, what: str, *args: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *args]
        here = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}  # kernels are functions of this file
        self.all.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, env=here))
        return self.all[-1]

    def scheduler(self) -> subprocess.Popen[bytes]:
        return self.start("scheduler", "--host", "127.0.0.1", "--port", str(self.port))

    def workers(self, count: int = 2) -> None:
        for _ in range(count):
            self.start("worker", self.address, "--nthreads", "1", "--no-nanny", "--death-timeout", "20")


@pytest.fixture
def processes() -> Iterator[tuple[Processes, subprocess.Popen[bytes], distributed.Client]]:
    """Return a scheduler and two workers, the scheduler's process, and a client."""
    found = Processes()
    with dask.config.set({"distributed.comm.timeouts.connect": "5s", "graphopt.deadline": "20s"}):
        scheduler = found.scheduler()
        found.workers()
        with distributed.Client(found.address, timeout=PATIENCE) as client:
            client.wait_for_workers(2, timeout=PATIENCE)
            yield found, scheduler, client
    for process in found.all:
        process.kill()
        process.wait()


def test_the_scheduler_is_killed(processes: Any, step: Any) -> None:
    found, scheduler, client = processes
    X, whole = made(client)
    assert right(step, X, whole)
    scheduler.kill()
    scheduler.wait()
    # The workers may answer until they notice.
    with pytest.raises(go.ClusterError, match="The input 'X' is lost: the connection to the scheduler is gone"):
        wait_until(lambda: not right(step, X, whole, 2.0))
    found.scheduler()
    wait_until(lambda: client.status == "running")
    found.workers()
    client.wait_for_workers(2, timeout=PATIENCE)
    with pytest.raises(go.ClusterError, match="The input 'X' is lost"):
        right(step, X, whole)
    X, whole = made(client)
    assert right(step, X, whole, 3.0)


@pytest.mark.parametrize("loop", [False, True])
def test_the_scheduler_is_killed_in_the_middle(loop: bool, processes: Any) -> None:
    """The workers do not need it for a call or a loop: the right answer comes, or an error, and nothing else."""
    _, scheduler, client = processes
    X, whole = made(client)
    b = np.arange(1.0, COLUMNS + 1)
    slow = go.compile(lambda b, X: X.map_blocks(slowly, 0.05, dtype=float).T.dot(X.dot(b)) / 50, exact=True)
    assert close(slow(b, X), whole.T @ (whole @ b) / 50)
    expected = b
    for _ in range(10 if loop else 1):
        expected = whole.T @ (whole @ expected) / 50
    killer = threading.Timer(0.1, scheduler.kill)
    killer.start()
    with contextlib.suppress(go.ClusterError):
        assert close(go.iterate(slow, b, X, max_iter=10) if loop else slow(b, X), expected)
    killer.join()


# -- what may not be done ------------------------------------------------------------------------------------------------


def test_a_worker_that_was_never_taught_is(client: distributed.Client, step: Any) -> None:
    X, whole = made(client)
    assert right(step, X, whole)

    async def forget(dask_worker: Any) -> None:
        await dask_worker.plugin_remove(name="graphopt-replay")

    client.run(forget)
    step.close()
    with distributed.Client(client.cluster) as other:
        Y, whole = made(other)
        assert right(step, Y, whole)
    assert step.stats.by_dask == 0


def test_nothing_is_left_after_trouble(client: distributed.Client, step: Any) -> None:
    X, whole = made(client)
    assert right(step, X, whole)
    kill(client)
    assert right(step, X, whole, 2.0)
    client.wait_for_workers(2, timeout=PATIENCE)
    assert right(step, X, whole, 3.0)

    def held() -> int:
        return sum(client.run(lambda dask_worker: len(dask_worker.plugins["graphopt-replay"].replayer.plans)).values())

    wait_until(lambda: held() <= 2)
    del X
    step.close()
    gc.collect()
    wait_until(lambda: held() == 0)
    wait_until(lambda: not client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))
