"""Small blocks that calls leave on workers, which dask does not know until somebody asks: what is counted, and who may ask."""

from __future__ import annotations

import gc
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from on_cluster import PATIENCE, A, counts, exact, there, wait_until
from oracle import close

import graphopt as go
from graphopt.execute import unregistered
from graphopt.execute.channel import network_of
from graphopt.execute.runs import Stopped
from graphopt.execute.shelf import Shelf
from graphopt.execute.worker import ReplayPlugin
from solvers import L1, fit

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are not registered because of how long they have been held."""
    monkeypatch.setattr(unregistered, "_SECONDS", 60.0)


@pytest.fixture
def heard(client: distributed.Client) -> Iterator[Any]:
    """Return a function that says what the scheduler has heard of keys since it was last called."""
    client.run_on_scheduler(_listen)
    yield lambda: client.run_on_scheduler(_heard)
    client.run_on_scheduler(_deafen)


def _listen(dask_scheduler: Any) -> None:
    dask_scheduler.heard = []
    dask_scheduler.unheard = []
    for table, name in [
        (dask_scheduler.handlers, "update_data"),
        (dask_scheduler.stream_handlers, "client-releases-keys"),
        (dask_scheduler.stream_handlers, "add-keys"),
    ]:
        original = table[name]

        def told(*args: Any, original: Any = original, name: str = name, **about: Any) -> Any:
            dask_scheduler.heard.append(name)
            return original(*args, **about)

        table[name] = told
        dask_scheduler.unheard.append((table, name, original))


def _heard(dask_scheduler: Any) -> list[str]:
    found, dask_scheduler.heard = dask_scheduler.heard, []
    return found


def _deafen(dask_scheduler: Any) -> None:
    for table, name, original in dask_scheduler.unheard:
        table[name] = original


def _shelf(dask_worker: Any) -> dict[str, str]:
    return dict(dask_worker.plugins[ReplayPlugin.name].replayer.shelf.owners)


def shelved(client: distributed.Client) -> set[str]:
    """Return the names of what a client has on the shelves of workers."""
    return {name for owners in client.run(_shelf).values() for name, owner in owners.items() if owner == client.id}


def known(client: distributed.Client) -> set[str]:
    """Return the names of results that the scheduler knows."""
    keys = client.run_on_scheduler(lambda dask_scheduler: [key for key in dask_scheduler.tasks if isinstance(key, tuple)])
    return {key[0] for key in keys if str(key[0]).startswith("graphopt-")}


def left(client: distributed.Client, times: int = 3) -> tuple[Any, np.ndarray]:
    """Return what calls have left on the workers, and what it is."""
    step = exact(lambda X, a: X * a)
    X = there(client, da.from_array(A, chunks=(4, 3)))
    for _ in range(times):
        X = step(X, 2.0)
    assert counts(step) == (times, 0, 0)
    return X, A * 2.0**times


# -- counts ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("never")
def test_the_scheduler_does_not_hear_of_a_state(client: distributed.Client, heard: Any) -> None:
    step = exact(lambda X, a: (X * a, X.sum()))
    X, expected = there(client, da.from_array(A, chunks=(4, 3))), A
    for _ in range(2):
        X, _ = step(X, 1.0)
    wait_until(lambda: len(known(client)) == 0)  # the first call is the one that binds
    heard()
    for a in (0.5, 3.0, 1.0, 2.0, 0.25) * 4:
        X, total = step(X, a)
        assert close(total, expected.sum())
        expected = expected * a
    assert heard() == []
    assert known(client) == set()
    assert close(X.compute(), expected)
    assert sorted(heard()).count("update_data") == 2  # one from each worker
    assert step.stats.retries == 0


@pytest.mark.usefixtures("never")
def test_passes_of_admm_do_not_tell_the_scheduler(client: distributed.Client, heard: Any) -> None:
    X = there(client, da.from_array(A, chunks=(4, 3)))
    y = there(client, da.from_array((A[:, 0] > 0.1).astype(float), chunks=4))

    def fitted(passes: int) -> list[str]:
        fit(X, y, family="logistic", penalty=L1(1e-3), solver="admm", tol=1e-14, max_iter=passes)
        gc.collect()
        found = sorted(heard())
        wait_until(lambda: not known(client))
        heard()
        return found

    for _ in range(2):
        fitted(12)
    assert len(fitted(12)) == len(fitted(3))


def test_what_nobody_wants_leaves_the_shelves(client: distributed.Client) -> None:
    X, _ = left(client)
    before = X.name
    assert before in shelved(client) | known(client)
    del X
    gc.collect()
    wait_until(lambda: before not in shelved(client) | known(client))


@pytest.mark.usefixtures("never")
def test_a_call_says_what_nobody_wants_any_more(client: distributed.Client) -> None:
    step = exact(lambda X, a: X * a)
    X = there(client, da.from_array(A, chunks=(4, 3)))
    for _ in range(20):
        X = step(X, 1.0)
        assert len(shelved(client)) <= 2  # the last, and the one before it


def test_what_is_held_for_long_is_registered(client: distributed.Client) -> None:
    held, expected = left(client)
    name = held.name
    wait_until(lambda: known(client) == {name})
    wait_until(lambda: not shelved(client))
    assert close(held.compute(), expected)
    del held
    gc.collect()
    wait_until(lambda: not known(client))


def test_what_is_large_is_registered_at_once(client: distributed.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unregistered, "_BYTES", A.nbytes - 1)
    X, expected = left(client)
    assert X.name in known(client)
    assert not shelved(client)
    assert close(X.compute(), expected)


@pytest.mark.usefixtures("never")
def test_only_so_much_is_not_registered(client: distributed.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unregistered, "_BYTES", 3 * A.nbytes)
    step = exact(lambda X, a: X * a)
    X = there(client, da.from_array(A, chunks=(4, 3)))
    step(X, 1.0)
    held = [step(X, float(a)) for a in range(6)]
    assert shelved(client) == {each.name for each in held[:3]}
    assert {each.name for each in held[3:]} <= known(client)
    assert all(close(each.compute(), A * a) for a, each in enumerate(held))


@pytest.mark.usefixtures("never")
def test_a_call_that_fails_leaves_nothing(client: distributed.Client) -> None:
    def check(block: Any, most: float) -> Any:
        if block[0, 0] > most:
            raise ZeroDivisionError("too much")
        return block

    step = exact(lambda X, most: X.map_blocks(check, most, dtype=float))
    X = there(client, da.from_array(np.repeat([[0.0], [1.0]], 4, axis=0), chunks=(4, 1)))
    for most in (2.0, 2.0):
        step(X, most)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError, match="too much"):
            step(X, 0.5)
    assert close(step(X, 2.0).sum().compute(), 4.0)
    gc.collect()
    step(X, 2.0)
    assert len(shelved(client)) <= 1


# -- who may ask -------------------------------------------------------------------------------------------------------


ASKED = {
    "compute": lambda client, X: X.compute(),
    "persist": lambda client, X: X.persist().compute(),
    "graph": lambda client, X: (X + 0).rechunk((5, 2))[::-1][::-1].compute(),
    "gathered": lambda client, X: np.concatenate(
        client.gather(sorted(client.futures_of(X), key=lambda future: future.key)), axis=0
    ),
    "pickled": lambda client, X: pickle.loads(pickle.dumps(X)).compute(),
    "delayed": lambda client, X: dask.delayed(np.asarray)(X).compute(),
    "compiled": lambda client, X: go.compile(lambda X: X + 0, exact=True)(X).compute(),
    "lazy": lambda client, X: go.compile(lambda X: X * 1, exact=True)(X + 0).compute(),
    "optimised": lambda client, X: _optimised(X),
    "by tasks": lambda client, X: _by_tasks(client, X),
    "another thread": lambda client, X: _elsewhere(X),
    "called by dask": lambda client, X: _asynchronously(X),
}


def _optimised(X: Any) -> Any:
    with go.optimized():
        return (X + 0).compute()


def _by_tasks(client: distributed.Client, X: Any) -> Any:
    network_of(client).refused = "for a test"
    return go.compile(lambda X: X + 0, exact=True)(X).compute()


def _elsewhere(X: Any) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(X.compute()))
    thread.start()
    thread.join(PATIENCE)
    return found[0]


def _asynchronously(X: Any) -> Any:
    return distributed.get_client().compute(X).result(timeout=PATIENCE)


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("how", sorted(ASKED))
def test_whoever_asks_has_dasks_answer(how: str, client: distributed.Client) -> None:
    X, expected = left(client)
    assert X.name in shelved(client)
    assert close(ASKED[how](client, X), expected)
    assert close(X.compute(), expected)


@pytest.mark.usefixtures("never")
def test_another_client_asks(cluster: distributed.LocalCluster, client: distributed.Client) -> None:
    X, expected = left(client)
    with distributed.Client(cluster, set_as_default=False) as other:
        assert close(other.compute(X).result(timeout=PATIENCE), expected)
    X, expected = left(client)
    with distributed.Client(cluster, set_as_default=False) as other, other.as_current(), dask.config.set(scheduler=other):
        step = exact(lambda X: X + 1)
        assert close(step(X).compute(), expected + 1)


@pytest.mark.usefixtures("never")
def test_who_asks_may_have_locked_what_the_event_loop_needs(client: distributed.Client) -> None:
    """Graphs are pickled under the lock that the release of a future takes, on the event loop."""
    for _ in range(3):
        X, expected = left(client)
        others = client.map(lambda i: i, range(50), pure=False)
        distributed.wait(others, timeout=PATIENCE)
        with client._refcount_lock:
            del others
            gc.collect()
            assert close(pickle.loads(pickle.dumps(X)).name == X.name, True)
        assert close(X.compute(), expected)


@pytest.mark.usefixtures("never")
def test_the_event_loop_cannot_wait(client: distributed.Client) -> None:
    X, expected = left(client)

    async def ask() -> Any:
        return dict(X.dask)

    with pytest.raises(go.ClusterError, match="persist the array before"):
        client.sync(ask)
    assert close(X.compute(), expected)  # and what it asked for came to be
    client.sync(ask)


@pytest.mark.usefixtures("never")
def test_a_client_that_is_closed(cluster: distributed.LocalCluster) -> None:
    with distributed.Client(cluster, set_as_default=False) as other, other.as_current(), dask.config.set(scheduler=other):
        X, _ = left(other)
    with pytest.raises(go.ClusterError, match="client that had them is closed"):
        X.compute(scheduler="sync")


@pytest.mark.usefixtures("never")
def test_a_connection_that_is_lost_loses_nothing(client: distributed.Client) -> None:
    step = exact(lambda X, a: X * a)
    X = there(client, da.from_array(A, chunks=(4, 3)))
    for _ in range(2):
        X = step(X, 2.0)
    assert X.name in shelved(client)
    for channel in network_of(client).channels.values():
        client.loop.add_callback(channel.close, "for a test")
    X = step(X, 2.0)
    assert close(X.compute(), A * 8)


@pytest.mark.usefixtures("never")
def test_threads_ask_at_once(client: distributed.Client) -> None:
    X, expected = left(client)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda total: total.compute(), [X.sum() for _ in range(4)], timeout=PATIENCE))
    assert all(close(each, expected.sum()) for each in found)
    name = X.name
    del X
    gc.collect()
    wait_until(lambda: name not in known(client) | shelved(client))


# -- shelves -----------------------------------------------------------------------------------------------------------


class Running:
    """What a shelf asks of a worker."""

    status = distributed.Status.running


NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(["one", "other"]), NAMES, st.integers(1, 3)),
        st.tuples(st.just("take"), st.lists(NAMES, max_size=2)),
        st.tuples(st.just("leave"), st.sampled_from(["one", "other"])),
    ),
    max_size=12,
)


@given(STEPS)
def test_a_shelf_has_what_was_put_there_and_not_taken(steps: list[Any]) -> None:
    gone: list[Any] = []
    shelf, expected, owners, refused = Shelf(Running(), gone.append), {}, {}, set()
    for what, *about in steps:
        taken: list[Any] = []
        if what == "put":
            client, name, size = about
            shelf.put(client, {(name, i): i for i in range(size)})
            if name not in refused:
                owners[name] = client
                expected.update({(name, i): i for i in range(size)})
            continue
        names = about[0] if what == "take" else [name for name, owner in owners.items() if owner == about[0]]
        for name in names:
            mine = [key for key in expected if key[0] == name]
            refused |= set() if mine else {name}
            taken += mine
            owners.pop(name, None)
            expected = {key: value for key, value in expected.items() if key[0] != name}
        gone.clear()
        shelf.take(names) if what == "take" else shelf.leave(about[0])
        assert sorted(gone) == sorted(taken)
    assert {key: value for found in shelf.blocks.values() for key, value in found.items()} == expected
    assert shelf.owners == owners
    assert all(shelf.get((name, i)) == expected.get((name, i)) for name in "abc" for i in range(3))


def test_a_worker_that_leaves_takes_no_more() -> None:
    worker = Running()
    shelf = Shelf(worker, lambda key: None)
    worker.status = distributed.Status.closing_gracefully
    with pytest.raises(Stopped, match="leaving"):
        shelf.put("client", {("a", 0): 1})
    shelf.put("client", {})
    assert not shelf.blocks


def test_a_client_that_comes_back_finds_its_blocks() -> None:
    shelf = Shelf(Running(), lambda key: None)
    shelf.put("client", {("a", 0): 1})
    shelf.come("client", "first")
    shelf.come("client", "second")
    shelf.comms["client"].discard("first")
    shelf.leave("client")
    assert shelf.get(("a", 0)) == 1
    shelf.comms["client"].discard("second")
    shelf.leave("client")
    assert shelf.get(("a", 0)) is None
