"""``iterate``: the same states as the loop written out, here and on a cluster, where the loop runs on the workers."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from conftest import QUIET
from on_cluster import there, wait_until
from oracle import close
from test_cluster_compile import messages

import graphopt as go

pytestmark = pytest.mark.timeout(60)

_ = messages  # a fixture
A = np.random.default_rng(0).random((24, 3))
B = A @ np.array([1.0, -2.0, 0.5])


def descent(beta: Any, X: Any, y: Any) -> Any:
    return beta - X.T.dot(X.dot(beta) - y) / 24


def written_out(iterations: int) -> np.ndarray:
    beta = np.zeros(3)
    for _ in range(iterations):
        beta = beta - A.T @ (A @ beta - B) / 24
    return beta


def data(client: Any = None) -> tuple[Any, Any]:
    X, y = da.from_array(A, chunks=(4, 3)), da.from_array(B, chunks=4)
    if client is None:
        return X.persist(scheduler="sync"), y.persist(scheduler="sync")
    return there(client, X), there(client, y)


def test_here() -> None:
    X, y = data()
    step = go.compile(descent, exact=True)
    assert close(go.iterate(step, np.zeros(3), X, y, max_iter=7), written_out(7))
    assert step.stats.calls == 7
    assert close(go.iterate(descent, np.zeros(3), X, y, max_iter=3), written_out(3))
    assert go.iterate(step, "as it was", X, y, max_iter=0) == "as it was"


def test_on_a_cluster(client: distributed.Client, messages: list[str]) -> None:
    X, y = data(client)
    step = go.compile(descent, exact=True)
    assert close(go.iterate(step, np.zeros(3), X, y, max_iter=200), written_out(200))
    assert messages == ["bind", "bind", "run", "run", "bind", "bind", "loop", "loop"]
    assert (step.stats.calls, step.stats.on_cluster, step.stats.retries) == (200, 200, 0)


@pytest.mark.parametrize("pair", [False, True])
def test_a_rule_ends_the_loop(pair: bool, client: distributed.Client) -> None:
    X, y = data(client)
    step = go.compile(descent, exact=True)
    if pair:
        until: Any = lambda old, new: abs(new - old).max() < 0.01  # noqa: E731
        expected = next(k for k in range(1, 1000) if abs(written_out(k) - written_out(k - 1)).max() < 0.01)
    else:
        until = lambda new: new[0] > 0.2  # noqa: E731
        expected = next(k for k in range(1, 1000) if written_out(k)[0] > 0.2)
    for state in (np.zeros(3), written_out(1)):
        step = go.compile(descent, exact=True)
        assert close(go.iterate(step, state, X, y, until=until, max_iter=1000), written_out(expected))
    assert step.stats.on_cluster == expected - 1


def test_states_of_several_parts(client: distributed.Client) -> None:
    """Numbers become what the step returns, and go round as that; formulas of numbers are computed on the workers."""

    def step(state: Any, X: Any) -> Any:
        v, rate = state["v"], state["rate"]
        w = X.T.dot(X.dot(v))
        return {"v": w / da.sqrt((w**2).sum()), "rate": rate * 0.5 + 1, "norm": (w**2).sum() * rate}

    X, _ = data(client)
    compiled = go.compile(step, exact=True)
    v, rate, norm = np.ones(3), 4.0, 0.0
    for _ in range(20):
        w = A.T @ (A @ v)
        v, rate, norm = w / np.sqrt((w**2).sum()), rate * 0.5 + 1, (w**2).sum() * rate
    found = go.iterate(compiled, {"v": np.ones(3), "rate": 4.0, "norm": 0.0}, X, max_iter=20)
    assert close(found["v"], v)
    assert close(found["rate"], rate)
    assert close(found["norm"], norm)
    assert compiled.stats.by_dask == 0


def test_a_chunked_state_stays_where_it_is(client: distributed.Client, messages: list[str]) -> None:
    X, _ = data(client)
    step = go.compile(lambda u, X: u + X, exact=True)
    found = go.iterate(step, X, X, max_iter=4)
    assert close(found.compute(), 5 * A)
    assert "loop" not in messages
    assert step.stats.on_cluster == 4


def test_progress_is_heard(client: distributed.Client) -> None:
    X, y = data(client)
    heard: list[tuple[int, Any]] = []
    go.iterate(
        go.compile(descent, exact=True), np.zeros(3), X, y, max_iter=600, progress=lambda n, beta: heard.append((n, beta))
    )
    assert [n for n, _ in heard] == sorted({n for n, _ in heard})
    assert len(heard) > 1
    for n, beta in heard[:3]:
        assert close(beta, written_out(n))


def test_the_dashboard_is_told(client: distributed.Client) -> None:
    X, y = data(client)

    def descending(beta: Any, X: Any, y: Any) -> Any:
        return descent(beta, X, y)

    step = go.compile(descending, exact=True)
    for _ in range(20):
        step(np.zeros(3), X, y)
    go.iterate(step, np.zeros(3), X, y, max_iter=181)

    def told() -> Counter[str]:
        events = [event for _, event in client.get_events("graphopt") if event["function"] == "descending"]
        assert all(event["seconds"] > 0 for event in events)
        runs: Counter[str] = Counter()
        for event in events:
            runs[event["worker"]] += event["runs"]
        return runs

    wait_until(lambda: told() == dict.fromkeys(client.scheduler_info()["workers"], 201))


def test_a_rule_that_fails_is_the_users(client: distributed.Client) -> None:
    X, y = data(client)

    def until(beta: Any) -> bool:
        if beta[0] > 0.15:
            raise ZeroDivisionError("no more")
        return False

    step = go.compile(descent, exact=True)
    with pytest.raises(ZeroDivisionError, match="no more"):
        go.iterate(step, np.zeros(3), X, y, until=until, max_iter=1000)
    assert close(go.iterate(step, np.zeros(3), X, y, max_iter=5), written_out(5))


def test_workers_that_disagree_are_an_error(client: distributed.Client) -> None:
    """Rather than a loop that waits for ever."""
    X, y = data(client)
    first = sorted(client.scheduler_info()["workers"])[0]

    def until(beta: Any) -> bool:
        try:
            return bool(beta[0] > 0.1 and distributed.get_worker().address == first)
        except ValueError:
            return bool(beta[0] > 0.1 and next(iter(distributed.worker.Worker._instances)).address == first)

    with pytest.raises(go.ClusterError, match="until"):
        go.iterate(go.compile(descent, exact=True), np.zeros(3), X, y, until=until, max_iter=1000)


def test_loops_and_calls_at_once(client: distributed.Client) -> None:
    X, y = data(client)
    step = go.compile(descent, exact=True)
    total = go.compile(lambda X, a: (X * a).sum(), exact=True)
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(go.iterate(step, np.zeros(3), X, y, max_iter=150))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for i in range(30):
        assert close(total(X, float(i)), A.sum() * i)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(found) == 3
    assert all(close(beta, written_out(150)) for beta in found)


def test_many_workers_end_a_loop_together() -> None:
    """One may say that it has ended before another's share in the last iteration has come: nobody may wait for ever.

    With more than eight workers partial results meet in a tree.
    """
    count = 16
    with (
        distributed.LocalCluster(n_workers=count, threads_per_worker=1, processes=False, **QUIET) as cluster,
        distributed.Client(cluster) as client,
    ):
        names = sorted(client.scheduler_info(n_workers=-1)["workers"])
        x = da.ones(count * 2, chunks=2)
        with dask.annotate(workers=lambda key: [names[key[1]]], allow_other_workers=False):
            (x,) = client.persist([x], optimize_graph=False)
        step = go.compile(lambda a, x: a + x.sum())
        for _ in range(25):
            assert go.iterate(step, 1.0, x, max_iter=3) == 1.0 + 3 * 2 * count
        assert step.stats.retries == 0
