"""What could go wrong on a cluster without anybody noticing: names, places, promises, and worker processes that die.

The rest of the list is in ``test_footguns.py``. Workers are processes; the scheduler runs in this one, so that its log can be
read. Where a fault would be a computation that never ends, results are waited for with a time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import operator
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import distributed
import numpy as np
import pytest
from dask.delayed import Delayed
from dask.task_spec import Alias, Task, TaskRef
from dask.utils import SerializableLock
from seen import complaints, fetched, known_tasks, run_there

import graphopt as go

pytestmark = pytest.mark.timeout(90)

A = np.random.default_rng(0).random((40, 30))
PATIENCE = 20  # seconds until a computation counts as stuck

GREEDY = go.Policy(strict=True, parallelism=1, spare=1)
USUAL = go.Policy(strict=True, parallelism=2)


def stored() -> Any:
    return da.from_array(A, chunks=(10, 15))


def curve(x: Any) -> Any:
    return da.exp(x) - 1 / x


def result(client: distributed.Client, collection: Any, policy: go.Policy = USUAL, **options: Any) -> Any:
    """Compute on the cluster with the optimiser on; fail if it gets stuck."""
    with go.optimized(policy):
        future = client.compute(collection, **options)
    return future.result(timeout=PATIENCE)


def plain(collection: Any) -> Any:
    return dask.compute(collection, scheduler="sync", optimize_graph=False)[0]


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def identity(x: Any) -> Any:
    return x


@contextlib.contextmanager
def nothing_left(client: distributed.Client) -> Iterator[None]:
    """Assert that in the end the scheduler knows no task that it did not know before."""
    before = known_tasks(client)
    yield
    wait_until(lambda: known_tasks(client) <= before)


# -- silent: where tasks run -------------------------------------------------------------------------------------------


@pytest.fixture
def calm(client: distributed.Client) -> Iterator[distributed.Client]:
    """A client of a cluster whose idle workers do not take tasks from busy ones: where tasks go is settled beforehand."""

    async def stealing(on: bool, dask_scheduler: distributed.Scheduler) -> None:
        extension = dask_scheduler.extensions["stealing"]
        await (extension.start() if on else extension.stop())

    client.run_on_scheduler(stealing, False)
    yield client
    client.run_on_scheduler(stealing, True)


def spread(client: distributed.Client, shape: tuple[int, int], rows: int) -> tuple[Any, dict[str, str]]:
    """Persist an array with its blocks of rows on the workers by turns, and say where each is."""
    workers = sorted(client.scheduler_info()["workers"])
    x = da.random.default_rng(0).random(shape, chunks=(rows, shape[1]))
    with dask.annotate(workers=lambda key: [workers[key[1] % 2]], allow_other_workers=False):
        x = client.persist(x.map_blocks(identity, dtype=float), optimize_graph=False)
    distributed.wait(x)
    return x, {str(key): workers[key[1] % 2] for key in dask.core.flatten(x.__dask_keys__())}


def homes(client: distributed.Client, x: Any) -> list[str]:
    held = {str(key): workers for key, workers in client.who_has(x).items()}
    return [next(iter(held[str(key)])) for key in dask.core.flatten(x.__dask_keys__())]


def test_tasks_run_where_their_chunks_are(calm: distributed.Client) -> None:
    """Neither chunks nor what is made of them by the chunk travel; only sums do."""
    client = calm
    x, there = spread(client, (400, 300), 25)
    beta = np.ones(300)
    loss = da.log1p(da.exp((x * 2 + 1).dot(beta)))
    with fetched(client) as moved:
        with go.optimized(USUAL):
            held = client.persist(loss)
        distributed.wait(held)
    assert not moved, "chunks were moved"
    assert homes(client, held) == list(there.values()), "made elsewhere"
    for policy in (USUAL, GREEDY):
        with fetched(client) as moved:
            total = result(client, (loss * 3).sum(), policy)
        assert not {str(key) for key in moved} & there.keys(), "chunks were moved"
        np.testing.assert_allclose(total, (np.log1p(np.exp((x.compute() * 2 + 1) @ beta)) * 3).sum())


def test_data_sent_along_leaves_tasks_where_their_chunks_are(calm: distributed.Client) -> None:
    """A task that absorbed data must not count as one that makes data, which the scheduler puts anywhere."""
    client = calm
    x, there = spread(client, (400, 30), 20)
    small = da.from_array(np.arange(30.0), chunks=30)
    with fetched(client) as moved:
        with go.optimized(USUAL):
            held = client.persist((x + small) * small)
        distributed.wait(held)
    assert not moved
    assert homes(client, held) == list(there.values())
    producers = client.run_on_scheduler(
        lambda keys, dask_scheduler: [key for key in keys if dask_scheduler.tasks[key].run_spec.data_producer],
        list(dask.core.flatten(held.__dask_keys__())),
    )
    assert not producers


# -- silent: what a key promises ---------------------------------------------------------------------------------------


def test_what_is_held_is_not_made_again(client: distributed.Client) -> None:
    """A draw that somebody holds a future of is that draw for everybody, as it is without us."""
    for policy in (GREEDY, USUAL):
        draw = dask.delayed(random.random, pure=False)()
        with go.optimized(policy):
            held = client.compute(draw)
            later = client.compute(dask.delayed(operator.add)(draw, 0.0))
            both = client.compute(dask.delayed(operator.sub)(draw, dask.delayed(operator.mul)(draw, 1)))
        assert later.result(timeout=PATIENCE) == held.result(timeout=PATIENCE)
        assert both.result(timeout=PATIENCE) == 0
        again = client.compute(dask.delayed(operator.add)(draw, 0.0), optimize_graph=False)
        assert again.result(timeout=PATIENCE) == held.result(timeout=PATIENCE)


def test_what_is_held_is_not_computed_again(client: distributed.Client, tmp_path: Path) -> None:
    def train(n: int) -> int:
        (tmp_path / uuid.uuid4().hex).touch()
        return n

    model = dask.delayed(train)(dask.delayed(identity)(3))
    with go.optimized(USUAL):
        held = client.compute(model)
        scores = [client.compute(dask.delayed(operator.mul)(model, i)) for i in range(3)]
        assert client.gather(scores) == [0, 3, 6]
    assert held.result(timeout=PATIENCE) == 3
    assert len(list(tmp_path.iterdir())) == 1


def test_what_was_held_and_let_go_is_made_again(client: distributed.Client) -> None:
    draw = dask.delayed(random.random, pure=False)()
    with go.optimized(USUAL):
        with nothing_left(client):
            first = client.compute(draw).result(timeout=PATIENCE)
        assert client.compute(draw).result(timeout=PATIENCE) != first


def mean_and_rest(x: Any) -> list[Any]:
    """An array, and what is made of it with its own mean: tasks that are left apart, and read what was fused."""
    y = curve(x)
    mean = y.mean(axis=0)
    return [y, mean, (y - mean).sum(axis=0), (y.T @ y).sum(axis=0) - mean, (y - mean).rechunk((20, 30)), y[3:17, ::2]]


@pytest.mark.parametrize("first", range(6))
def test_optimised_beside_what_is_held_unoptimised(client: distributed.Client, first: int) -> None:
    """Whatever is held, the optimiser meets no key with another task, so that the scheduler never has to warn."""
    expected = [plain(one) for one in mean_and_rest(stored())]
    with complaints() as said, nothing_left(client):
        held = client.persist(mean_and_rest(stored())[first], optimize_graph=False)
        for policy in (GREEDY, USUAL):
            with go.optimized(policy):
                futures = client.compute(mean_and_rest(stored()))
                kept = client.persist(mean_and_rest(stored()))
                futures += client.compute(kept)
            results = [future.result(timeout=PATIENCE) for future in futures]
            for found, value in zip(results, expected * 2, strict=True):
                np.testing.assert_allclose(found, value, rtol=1e-12)
            del futures, kept
        np.testing.assert_allclose(result(client, held), expected[first], rtol=1e-12)
        del held
    assert not said


@pytest.mark.parametrize("first", range(6))
def test_optimised_beside_what_dask_optimised(client: distributed.Client, first: int) -> None:
    expected = [plain(one) for one in mean_and_rest(stored())]
    with complaints() as said:
        held = client.persist(mean_and_rest(stored())[first])
        with go.optimized(USUAL):
            futures = client.compute(mean_and_rest(stored()))
            kept = client.persist(mean_and_rest(stored()))
        for future, one, value in zip(futures, client.compute(kept), expected, strict=True):
            np.testing.assert_allclose(future.result(timeout=PATIENCE), value, rtol=1e-12)
            np.testing.assert_allclose(one.result(timeout=PATIENCE), value, rtol=1e-12)
    assert not said
    del held


def test_optimised_twice_under_different_policies(client: distributed.Client) -> None:
    expected = [plain(one) for one in mean_and_rest(stored())]
    policies = (
        GREEDY,
        USUAL,
        go.Policy(strict=True, parallelism=16),
        go.Policy(strict=True, passes=("cull", "lower", "diamond")),
    )
    futures = []
    with complaints() as said:
        for policy in policies:
            for one in mean_and_rest(stored()):
                with go.optimized(policy):
                    futures.append(client.compute(one))
                    futures.append(client.persist(one))
        for number, future in enumerate(futures):
            value = future.result(timeout=PATIENCE) if isinstance(future, distributed.Future) else future.compute()
            np.testing.assert_allclose(value, expected[number // 2 % 6], rtol=1e-12)
    assert not said


def test_unoptimised_beside_what_is_held_optimised(client: distributed.Client) -> None:
    """The scheduler warns, as it does beside what dask optimised: nobody tells dask what is held. The answers are right."""
    expected = [plain(one) for one in mean_and_rest(stored())]
    with go.optimized(USUAL):
        held = client.persist(mean_and_rest(stored()))
    for optimize_graph in (False, True):
        futures = client.compute(mean_and_rest(stored()), optimize_graph=optimize_graph)
        kept = client.persist(mean_and_rest(stored()), optimize_graph=optimize_graph)
        for future, one, value in zip(futures, client.compute(kept), expected, strict=True):
            np.testing.assert_allclose(future.result(timeout=PATIENCE), value, rtol=1e-12)
            np.testing.assert_allclose(one.result(timeout=PATIENCE), value, rtol=1e-12)
    del held


def test_nothing_is_left_behind(client: distributed.Client) -> None:
    with go.optimized(USUAL), nothing_left(client):
        results = dask.compute(*mean_and_rest(stored()), dask.delayed(operator.neg)(1), db.range(9, npartitions=3).sum())
    assert results[-2:] == (-1, 36)


# -- futures -----------------------------------------------------------------------------------------------------------


def test_futures_are_held_while_used_and_then_let_go(client: distributed.Client) -> None:
    def use() -> list[Any]:
        slow = client.submit(lambda: time.sleep(0.3) or np.arange(6.0))
        value = dask.delayed(operator.mul)(dask.delayed(operator.add)(slow, 1), dask.delayed(sum)([slow, slow]))
        array = da.from_delayed(dask.delayed(identity)(slow), (6,), float)
        with go.optimized(USUAL):
            return [client.compute(value), client.compute((array + 1).sum()), client.compute(array)]

    with nothing_left(client):
        results = client.gather(use())
    np.testing.assert_array_equal(results[0], (np.arange(6.0) + 1) * 2 * np.arange(6.0))
    assert results[1] == 21
    np.testing.assert_array_equal(results[2], np.arange(6.0))


def test_persisted_arrays_are_held_while_used(client: distributed.Client) -> None:
    def use() -> list[Any]:
        with go.optimized(USUAL):
            x = client.persist(curve(stored()))
            return [client.compute((x - x.mean(axis=0)).sum()), client.compute(client.persist(x + 1))]

    y = curve(stored())
    with nothing_left(client):
        results = client.gather(use())
    np.testing.assert_allclose(results[0], plain((y - y.mean(axis=0)).sum()), atol=1e-9)
    np.testing.assert_array_equal(results[1], plain(y + 1))


def test_scattered_data(client: distributed.Client) -> None:
    weights = client.scatter(np.arange(15.0), broadcast=True)
    y = stored().map_blocks(lambda block, w: block * w, weights, dtype=float) + 1
    np.testing.assert_array_equal(result(client, y), A * np.tile(np.arange(15.0), 2) + 1)
    assert result(client, dask.delayed(operator.add)(dask.delayed(np.sum)(weights), 1)) == 106


def test_futures_of_failed_tasks(client: distributed.Client) -> None:
    bad = client.submit(operator.truediv, 1, 0)
    value = dask.delayed(operator.neg)(dask.delayed(operator.add)(bad, 1))
    with pytest.raises(ZeroDivisionError):
        result(client, value)


# -- annotations, where they mean something ----------------------------------------------------------------------------


def test_retries_retry_and_only_what_was_annotated(client: distributed.Client, tmp_path: Path) -> None:
    def fail_once(x: int, name: str) -> int:
        mark = tmp_path / name
        if not mark.exists():
            mark.touch()
            raise OSError("the first time it fails")
        return x

    before = dask.delayed(operator.add)(1, 1)
    with dask.annotate(retries=1):
        flaky = dask.delayed(fail_once)(before, "annotated")
        flaky = dask.delayed(operator.neg)(flaky)
    assert result(client, dask.delayed(operator.add)(flaky, 1), GREEDY) == -1
    with pytest.raises(OSError, match="the first time"):
        result(client, dask.delayed(operator.neg)(dask.delayed(fail_once)(before, "not")), GREEDY)
    assert result(client, dask.delayed(operator.neg)(dask.delayed(fail_once)(before, "given")), GREEDY, retries=2) == -2


def here(*values: Any) -> str:
    return str(distributed.get_worker().address)


def both(*values: Any) -> Any:
    return values


def test_workers_restrict(client: distributed.Client) -> None:
    one, other = sorted(client.scheduler_info()["workers"])
    parts = []
    for i in range(8):
        start = dask.delayed(operator.add)(i, 1)
        with dask.annotate(workers=[one if i % 2 else other], allow_other_workers=False):
            place = dask.delayed(here)(start)
        parts.append(dask.delayed(both)(place, dask.delayed(identity)(start)))
    assert result(client, dask.delayed(list)(parts), GREEDY) == [(one if i % 2 else other, i + 1) for i in range(8)]


def test_resources_restrict(client: distributed.Client) -> None:
    _, other = sorted(client.scheduler_info()["workers"])

    async def give(dask_worker: distributed.Worker, **resources: float) -> None:
        await dask_worker.set_resources(**resources)

    client.run(give, workers=[other], SPECIAL=1)
    try:
        starts = [dask.delayed(operator.add)(i, 1) for i in range(4)]
        with dask.annotate(resources={"SPECIAL": 1}):
            places = [dask.delayed(here)(start) for start in starts]
        ends = [dask.delayed(both)(place, start) for place, start in zip(places, starts, strict=True)]
        assert result(client, dask.delayed(list)(ends), GREEDY) == [(other, i + 1) for i in range(4)]
        with dask.annotate(resources={"SPECIAL": 1}):
            x = stored().map_blocks(lambda block: np.full_like(block, here() == other), dtype=float)
        with dask.config.set({"optimization.annotations.fuse": False}):
            assert result(client, (x * 2).min()) == 2
    finally:
        client.run(give, workers=[other], SPECIAL=0)


def test_priority_and_retries_reach_the_scheduler(client: distributed.Client) -> None:
    with dask.annotate(priority=10, retries=3):
        x = dask.delayed(operator.add)(dask.delayed(identity)(1), 1)
    y = dask.delayed(operator.neg)(x)
    with go.optimized(GREEDY):
        held = client.persist([x, y])
    distributed.wait(held)
    states = client.run_on_scheduler(
        lambda keys, dask_scheduler: [
            (dask_scheduler.tasks[key].priority[0], dask_scheduler.tasks[key].retries, dask_scheduler.tasks[key].annotations)
            for key in keys
        ],
        [x.key, y.key],
    )
    assert states[0][:2] == (-10, 3)
    assert states[0][2].items() >= {"priority": 10, "retries": 3}.items()
    assert states[1][:2] == (0, 0)
    assert dask.compute(*held) == (2, -2)


# -- barriers ----------------------------------------------------------------------------------------------------------


async def later(x: int) -> int:
    await asyncio.sleep(0.01)
    return x + 1


def test_coroutines(client: distributed.Client) -> None:
    value = dask.delayed(operator.mul)(dask.delayed(later)(dask.delayed(operator.add)(1, 1)), 10)
    assert result(client, value, GREEDY) == 30


def test_locks_on_workers(client: distributed.Client) -> None:
    def take(lock: Any, x: int) -> int:
        with lock:
            return x

    for lock in (SerializableLock(), distributed.Lock("test")):
        parts = [dask.delayed(take)(lock, dask.delayed(operator.add)(i, 1)) for i in range(6)]
        assert result(client, dask.delayed(sum)(parts), GREEDY) == 21
    x = da.from_array(A, chunks=10, lock=True) + 1
    np.testing.assert_array_equal(result(client, x), A + 1)


class Counter:
    """An actor: state that stays on a worker."""

    count = 0

    def increment(self) -> int:
        self.count += 1
        return self.count


def increment(counter: Any) -> tuple[str, int]:
    return type(counter).__name__, counter.increment().result()


def test_actors(client: distributed.Client) -> None:
    """Which tasks become actors is told to the scheduler, not to the optimiser: persist them, or annotate them."""
    with go.optimized(GREEDY):
        counter = client.persist(dask.delayed(Counter)(), actors=True)
        for count in (1, 2):
            one_more = dask.delayed(identity)(dask.delayed(increment)(counter))
            assert client.compute(one_more).result(timeout=PATIENCE) == ("Actor", count)
    with dask.annotate(actor=True):
        lone = dask.delayed(Counter)()
    assert result(client, dask.delayed(increment)(lone), GREEDY, actors=(lone,)) == ("Actor", 1)


def test_tasks_that_leave_their_thread_or_their_worker(client: distributed.Client) -> None:
    def step_aside(x: int) -> int:
        distributed.secede()
        distributed.rejoin()
        return x

    def insist(x: int, there: str) -> str:
        if here() != there:
            raise distributed.Reschedule
        return there

    value = dask.delayed(operator.add)(dask.delayed(step_aside)(dask.delayed(operator.add)(1, 1)), 1)
    assert result(client, value, GREEDY) == 3
    there = max(client.scheduler_info()["workers"])
    one = dask.delayed(operator.add)(1, 1)
    assert result(client, dask.delayed(both)(dask.delayed(insist)(one, there), 1), GREEDY) == (there, 1)


def shuffled(method: str) -> dict[str, Any]:
    x = da.from_array(np.arange(4096.0).reshape(64, 64), chunks=(8, 64)) + 1
    with dask.config.set({"array.rechunk.method": method}):
        across = x.rechunk((64, 8))
        return {
            "rechunk": across,
            "sum": across.sum(),
            "tree": x.rechunk((32, 2)).sum(split_every=2),
            "two that meet": x.rechunk((64, 8)).sum(axis=0) + x.rechunk((64, 8))[:, ::-1].mean(axis=0),
            "two shapes that meet": x.rechunk((16, 16)) * (x[:8] + 0).rechunk((8, 16))[0][None, :],
            "beside its input": across.sum() + x.sum(),
            "one after another": (across + 1).rechunk((8, 64)).max(),
        }


@pytest.mark.parametrize("policy", [GREEDY, USUAL], ids=["greedy", "usual"])
@pytest.mark.parametrize("name", shuffled("tasks"))
def test_rechunking_over_the_network(client: distributed.Client, name: str, policy: go.Policy) -> None:
    """Each task that unpacks a shuffle must run on the worker that the scheduler names; two in one task never could."""
    collection = shuffled("p2p")[name]
    expected = plain(shuffled("tasks")[name])
    with run_there(client) as ran:
        found = result(client, collection, policy)
    np.testing.assert_allclose(found, expected)
    assert any("barrier" in str(key) for key in ran), "that was no shuffle"


@pytest.mark.parametrize("policy", [GREEDY, USUAL], ids=["greedy", "usual"])
def test_dataframe_shuffles_inside_arrays(client: distributed.Client, policy: go.Policy) -> None:
    """Dask optimises dataframes itself, but an array made of one carries its tasks, shuffles and all."""
    import dask.dataframe as dd
    import pandas as pd

    left = pd.DataFrame({"k": np.arange(60) % 7, "a": np.arange(60.0)})
    right = pd.DataFrame({"k": np.arange(7), "b": np.arange(7.0) * 10})
    with dask.config.set({"dataframe.shuffle.method": "p2p"}):
        joined = dd.from_pandas(left, npartitions=4).merge(dd.from_pandas(right, npartitions=3), on="k", broadcast=False)
        values = joined[["a", "b"]].to_dask_array()
        total = (values * 2).sum(axis=0)
        whole = left.merge(right, on="k")[["a", "b"]].to_numpy()
        with run_there(client) as ran:
            found = result(client, total, policy)
        np.testing.assert_allclose(found, 2 * whole.sum(axis=0))
        assert any("barrier" in str(key) for key in ran), "that was no shuffle"
        parts = [dask.delayed(len)(part) for part in joined.to_delayed()]
        assert result(client, dask.delayed(sum)(parts), policy) == 60


# -- errors and faults -------------------------------------------------------------------------------------------------


class Refused(Exception):
    """An error of a user's, with arguments of its own."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(code, why)
        self.code = code


def fail(x: Any) -> Any:
    raise Refused(7, "because")


def test_errors_cross_the_network_with_their_note(client: distributed.Client) -> None:
    a = dask.delayed(operator.add)(1, 1, dask_key_name="fine")
    bad = dask.delayed(operator.neg)(dask.delayed(fail)(a, dask_key_name="culprit"))
    with pytest.raises(Refused, match="because") as caught:
        result(client, bad, GREEDY)
    assert caught.value.code == 7
    assert "'culprit'" in "\n".join(caught.value.__notes__)
    blocks = stored().map_blocks(fail, dtype=float, name="blocks").sum()
    with go.optimized(USUAL), pytest.raises(Refused, match="because") as caught:
        blocks.compute()
    assert "blocks" in "\n".join(caught.value.__notes__)


def test_an_error_of_the_optimiser_is_an_error_of_the_computation(client: distributed.Client) -> None:
    """The optimiser runs on the scheduler; what it finds wrong with a graph must come back, not hang."""
    circle = Delayed("a", {"a": Task("a", identity, TaskRef("b")), "b": Alias("b", "a")})
    with pytest.raises(go.CycleError, match="cycle"):
        result(client, circle)


@pytest.fixture
def steady(client: distributed.Client) -> Iterator[distributed.Client]:
    """A client whose cluster has its workers back when the test is over."""
    yield client
    client.wait_for_workers(2, timeout=60)


def test_a_worker_dies(steady: distributed.Client) -> None:
    """Its chunks are made again, from the fused tasks, on the other worker or on the one that takes its place."""
    client = steady

    def slow(block: Any) -> Any:
        time.sleep(0.05)
        return block

    x = da.random.default_rng(5).random((400, 30), chunks=(20, 30))
    y = curve(x).map_blocks(slow, dtype=float)
    expected = plain((curve(x) - 1).sum(axis=0))
    pids = client.run(os.getpid)
    assert os.getpid() not in pids.values()
    with go.optimized(USUAL):
        held = client.persist(y)
        total = client.compute((held - 1).sum(axis=0))
    wait_until(lambda: any(future.done() for future in distributed.futures_of(held)))
    os.kill(next(iter(pids.values())), signal.SIGKILL)
    np.testing.assert_allclose(total.result(timeout=60), expected)
    wait_until(lambda: set(client.run(os.getpid).values()) != set(pids.values()))
    np.testing.assert_allclose(result(client, (held - 1).sum(axis=0)), expected)


@pytest.mark.slow
def test_a_worker_dies_in_a_shuffle(steady: distributed.Client) -> None:
    """The scheduler starts the shuffle over; that takes tasks that can run again one by one."""
    client = steady

    def slow(block: Any) -> Any:
        time.sleep(0.05)
        return block

    x = da.from_array(np.arange(4096.0).reshape(64, 64), chunks=(4, 64)).map_blocks(slow, dtype=float)
    with dask.config.set({"array.rechunk.method": "p2p"}):
        total = x.rechunk((64, 4)).sum(axis=0) + x.sum(axis=0)
    pids = client.run(os.getpid)
    with go.optimized(USUAL):
        future = client.compute(total)
    time.sleep(0.3)
    os.kill(next(iter(pids.values())), signal.SIGKILL)
    np.testing.assert_allclose(future.result(timeout=60), 2 * np.arange(4096.0).reshape(64, 64).sum(axis=0))
    wait_until(lambda: set(client.run(os.getpid).values()) != set(pids.values()))
