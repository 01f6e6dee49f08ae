"""Every way to start a computation, on every scheduler: the answers are dask's, and the scheduler got the optimised graph.

Nothing is mocked: threads are threads, processes are spawned, the cluster has workers in processes of their own, and one test
has its scheduler in a process of its own as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import operator
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.multiprocessing
import distributed
import numpy as np
import pytest
from seen import STRICT, run_here, run_there

import graphopt as go

pytestmark = pytest.mark.timeout(90)

A = np.random.default_rng(0).random((40, 30))


@pytest.fixture(autouse=True)
def fresh_data() -> None:
    """Give each test data, and so keys, of its own: the cluster is shared, and remembers the tasks of other tests."""
    global A
    A = np.random.default_rng(next(_SEEDS)).random((40, 30))


_SEEDS = itertools.count(1_000)

# -- one collection of each kind, and what dask makes of it ------------------------------------------------------------


def double(x: Any) -> Any:
    return x * 2


def is_even(x: int) -> bool:
    return x % 2 == 0


def array() -> Any:
    x = da.from_array(A, chunks=(10, 15))
    return da.exp(x) - 1 / x


def delayed() -> Any:
    total = dask.delayed(operator.add)(1, 2)
    for _ in range(3):
        total = dask.delayed(double)(total)
    return total


def bag() -> Any:
    return db.from_sequence(range(20), npartitions=4).map(double).filter(is_even).map(double)


def frame() -> Any:
    import dask.dataframe as dd
    import pandas as pd

    table = dd.from_pandas(pd.DataFrame({"a": [1, 2] * 10, "b": np.arange(20.0)}), npartitions=3)
    return table.assign(c=table.b * 2).groupby("a").c.sum()


KINDS: dict[str, Callable[[], Any]] = {"array": array, "delayed": delayed, "bag": bag, "frame": frame}
FUSED = ("array", "delayed", "bag")  # dataframes are expressions, which dask optimises itself

#: How many tasks a compute runs on two threads: one a chunk or partition, and one that joins them.
TASKS = {"array": 8 + 1, "delayed": 1, "bag": 4 + 1}


def plain(collection: Any) -> Any:
    """Compute as dask does without any optimisation."""
    return dask.compute(collection, scheduler="sync", optimize_graph=False)[0]


def same(a: Any, b: Any) -> None:
    """Assert that two results are equal, bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif hasattr(a, "equals"):  # pandas: groups come in no order
        assert a.sort_index().equals(b.sort_index())
    else:
        assert a == b


# -- the schedulers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Two processes, started once."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(params=["sync", "threads", "processes", "cluster"])
def counting(request: pytest.FixtureRequest) -> Iterator[Callable[[], Any]]:
    """Make one scheduler dask's default, and yield the context that counts the tasks it runs."""
    with contextlib.ExitStack() as stack:
        if request.param == "cluster":
            client = request.getfixturevalue("client")
            yield lambda: run_there(client)
        else:
            options: dict[str, Any] = {"scheduler": request.param, "num_workers": 2}
            if request.param == "processes":
                options["pool"] = request.getfixturevalue("pool")
            stack.enter_context(dask.config.set(options))
            yield run_here


@pytest.mark.parametrize("kind", KINDS)
def test_compute(counting: Callable[[], Any], kind: str) -> None:
    collection = KINDS[kind]()
    with go.optimized(**STRICT, parallelism=2), counting() as ran:
        result = collection.compute()
    same(result, plain(collection))
    if kind in FUSED:
        assert len(ran) == TASKS[kind], ran


@pytest.mark.parametrize("kind", KINDS)
def test_persist(counting: Callable[[], Any], kind: str) -> None:
    collection = KINDS[kind]()
    with go.optimized(**STRICT, parallelism=2), counting() as ran:
        held = collection.persist()
        dask.base.wait(held)  # on a cluster persist only starts it
    same(held.compute(), plain(collection))
    assert {*dask.core.flatten(held.__dask_keys__())} == {*dask.core.flatten(collection.__dask_keys__())} or kind == "frame"
    if kind in FUSED:
        assert len(ran) == len({*dask.core.flatten(held.__dask_keys__())}), ran


@pytest.mark.filterwarnings("ignore:Computing mixed collections")  # dask's advice, with or without us
def test_all_kinds_in_one_compute(counting: Callable[[], Any]) -> None:
    collections = [make() for make in KINDS.values()]
    with counting() as written:
        dask.compute(*collections, optimize_graph=False)
    with counting() as ours:
        dask.compute(*collections[:3], optimize_graph=False)
    with go.optimized(**STRICT, parallelism=2), counting() as ran:
        results = dask.compute(*collections)
    for result, collection in zip(results, collections, strict=True):
        same(result, plain(collection))
    assert len(written) - len(ran) == len(ours) - sum(TASKS.values()), "the frame's tasks are dask's own either way"


def test_kinds_that_read_each_other(counting: Callable[[], Any]) -> None:
    """An array made of Delayed, a bag of them, and a Delayed that reads an array and a bag, as one graph."""
    parts = [dask.delayed(np.full)(5, float(i)) for i in range(4)]
    x = da.concatenate([da.from_delayed(part, (5,), float) for part in parts])
    items = db.from_delayed([dask.delayed(list)([i, i + 1]) for i in range(4)])
    both = dask.delayed(lambda array, items: (array.sum(), sum(items)))((x + 1) * 2, items.map(double))
    with go.optimized(**STRICT, parallelism=2), counting() as ran:
        assert both.compute() == (100.0, 32)
    assert len(ran) < len(dict(both.__dask_graph__())) / 2, ran


def test_persist_several(counting: Callable[[], Any]) -> None:
    collections = array(), delayed(), bag()
    with go.optimized(**STRICT, parallelism=2), counting():
        held = dask.persist(*collections)
    for one, collection in zip(held, collections, strict=True):
        same(one.compute(), plain(collection))


def test_what_is_persisted_feeds_what_comes_next(counting: Callable[[], Any]) -> None:
    with go.optimized(**STRICT, parallelism=2):
        x = array().persist()
        total = (x + 1).sum(axis=0)
        with counting() as ran:
            result = total.compute()
    same(result, plain((array() + 1).sum(axis=0)))
    assert not any("exp" in str(key) for key in ran), "computed again instead of read"


@pytest.mark.parametrize("kind", FUSED)
def test_optimize_then_get(counting: Callable[[], Any], kind: str) -> None:
    """A graph made by `optimize` is a graph like any other: every scheduler's ``get`` takes it."""
    collection = KINDS[kind]()
    keys = collection.__dask_keys__()
    graph = go.optimize(collection, keys, go.Policy(strict=True, parallelism=2))
    assert isinstance(graph, dict)
    get = dask.base.get_scheduler()
    with counting() as ran:
        results = get(graph, keys)
    finish, args = collection.__dask_postcompute__()
    same(finish(results, *args), plain(collection))
    assert len(ran) <= len(graph) < len(dict(collection.__dask_graph__()))


# -- the client's own methods ------------------------------------------------------------------------------------------


def test_client_compute_and_persist(client: distributed.Client) -> None:
    collections = array(), delayed(), bag()
    expected = [plain(collection) for collection in collections]
    with go.optimized(**STRICT), run_there(client) as ran:
        futures = client.compute(list(collections))
        held = client.persist(list(collections))
        single = client.compute(collections[0])
        results = [*client.gather(futures), *(one.compute() for one in held), single.result()]
    for result, value in zip(results, [*expected, *expected, expected[0]], strict=True):
        same(result, value)
    assert ran
    assert not any("truediv" in str(key).split("-")[0] and "exp" not in str(key) for key in ran)


def test_client_get_of_annotated_graph(client: distributed.Client) -> None:
    with dask.annotate(retries=1):
        x = dask.delayed(operator.add)(1, 1)
    y = dask.delayed(operator.mul)(x, 5)
    graph = go.optimize(y, y.key)
    assert client.get(graph, y.key) == 10


def test_futures_of_the_cluster_in_optimize(client: distributed.Client) -> None:
    """Keys that only the cluster knows are named; one that nobody knows is an error."""
    future = client.submit(operator.add, 1, 1)
    y = dask.delayed(operator.neg)(dask.delayed(operator.mul)(future, 5))
    graph = go.optimize(y, y.key, futures=[future.key])
    assert client.get(graph, y.key) == -10
    with pytest.raises(go.MissingKeyError, match="nowhere"):
        go.optimize({"a": (operator.neg, "b")}, ["nowhere"])


def test_asynchronous_client(cluster: distributed.LocalCluster) -> None:
    async def run() -> Any:
        async with distributed.Client(cluster.scheduler_address, asynchronous=True) as client:
            with go.optimized(**STRICT) as policy:
                result = await client.compute(array())
                held = client.persist(array())
                again = await client.compute(held.sum())
            return policy, result, again

    policy, result, again = asyncio.run(run())
    assert policy.parallelism == 2
    same(result, plain(array()))
    same(again, plain(array().sum()))


def test_tasks_that_start_tasks(client: distributed.Client) -> None:
    """A fused task may use its worker's client, under an optimiser of its own."""

    def launch(n: int) -> float:
        with distributed.worker_client() as inner, go.optimized(strict=True):
            return float(inner.compute((da.ones(n, chunks=5) + 1).sum()).result())

    total = dask.delayed(operator.add)(dask.delayed(launch)(dask.delayed(operator.add)(5, 5)), 1)
    with go.optimized(**STRICT):
        assert client.compute(total).result(timeout=60) == 21


# -- other ways to say where -------------------------------------------------------------------------------------------


def test_scheduler_given_as_an_executor() -> None:
    with ThreadPoolExecutor(2) as executor, go.optimized(**STRICT), run_here() as ran:
        result = array().compute(scheduler=executor)
    same(result, plain(array()))
    assert len(ran) == TASKS["array"]


def test_scheduler_given_as_a_function() -> None:
    """A custom scheduler is handed an expression; asked for its graph, that gives the optimised one."""
    graphs = []

    def scheduler(graph: Any, keys: Any, **options: Any) -> Any:
        graphs.append(graph.__dask_graph__())
        return dask.get(graphs[-1], keys)

    with go.optimized(**STRICT, parallelism=2):
        same(array().compute(scheduler=scheduler), plain(array()))
    assert len(graphs[0]) == TASKS["array"]


def test_dask_optimize_and_compute_later() -> None:
    with go.optimized(**STRICT, parallelism=2):
        (ready,) = dask.optimize(array())
    with run_here() as ran:
        result = ready.compute(scheduler="sync", optimize_graph=False)
    same(result, plain(array()))
    assert len(ran) == TASKS["array"]
    with go.optimized(**STRICT, parallelism=2):
        same(ready.compute(scheduler="sync"), plain(array()))


class Plain(Mapping):  # type: ignore[type-arg]
    """A graph that is neither a dict nor a high-level graph."""

    def __init__(self, graph: dict[Any, Any]) -> None:
        self.graph = graph

    def __getitem__(self, key: Any) -> Any:
        return self.graph[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.graph)

    def __len__(self) -> int:
        return len(self.graph)

    def copy(self) -> Plain:
        return Plain(dict(self.graph))


def test_collections_over_any_mapping(counting: Callable[[], Any]) -> None:
    from dask.delayed import Delayed

    from graphopt.spec import Task, TaskRef

    chain = {i: Task(i, operator.add, TaskRef(i - 1), 1) for i in range(1, 9)} | {0: Task(0, operator.add, 0, 0)}
    with go.optimized(**STRICT), counting() as ran:
        assert Delayed(8, Plain(chain)).compute() == 8
    assert ran == [8]


# -- where the optimiser runs ------------------------------------------------------------------------------------------


def test_parallelism_is_counted_where_the_context_is_entered(client: distributed.Client) -> None:
    with go.optimized() as policy:
        assert policy.parallelism == 2, "the cluster's threads"
    with go.optimized(parallelism=7) as policy:
        assert policy.parallelism == 7


def test_parallelism_of_local_schedulers() -> None:
    with dask.config.set(scheduler="sync"), go.optimized() as policy:
        assert policy.parallelism == 1
    with dask.config.set(scheduler="threads", num_workers=5), go.optimized() as policy:
        assert policy.parallelism == 5


_ELSEWHERE = """
import operator, os, sys
import dask, dask.array as da, distributed, numpy as np
import graphopt as go

def where(dask_scheduler):
    from dask import config
    return os.getpid(), config.get("array_optimize", None) is None, len(dask_scheduler.tasks)

if __name__ == "__main__":
    with distributed.Client(scheduler_file=sys.argv[1]) as client:
        client.wait_for_workers(1, timeout=60)
        pid, unset, _ = client.run_on_scheduler(where)
        assert pid != os.getpid() and unset, "the scheduler is another process, without our configuration"
        x = da.ones(80, chunks=10)
        with go.optimized(strict=True) as policy:
            assert policy.parallelism == 1, policy
            y = (da.exp(x) - 1 / x).persist()
            distributed.wait(y)
            assert client.run_on_scheduler(where)[2] == 8, client.run_on_scheduler(where)
            np.testing.assert_array_equal(y.compute(), np.exp(np.ones(80)) - 1)
            bad = dask.delayed(operator.truediv)(dask.delayed(operator.add)(1, 1, dask_key_name="two"), 0)
            future = client.compute(bad)
            error = future.exception(timeout=30)
            assert type(error) is ZeroDivisionError, error
            assert any(bad.key in note for note in error.__notes__), error.__notes__
        print("well")
"""


def test_scheduler_in_a_process_of_its_own(tmp_path: Path) -> None:
    """The optimiser travels to the scheduler with its policy, and needs nothing there but graphopt."""
    (tmp_path / "elsewhere.py").write_text(_ELSEWHERE)
    file = str(tmp_path / "scheduler.json")
    root = str(Path(__file__).resolve().parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    run = [sys.executable, "-m", "distributed.cli"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": env, "cwd": tmp_path}
    with contextlib.ExitStack() as stack:
        for command in (
            ["dask_scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", file],
            ["dask_worker", "--scheduler-file", file, "--nthreads", "1", "--no-dashboard", "--no-nanny"],
        ):
            module, *options = command
            process = subprocess.Popen([*run[:-1], f"distributed.cli.{module}", *options], **quiet)
            stack.callback(process.wait)
            stack.callback(process.kill)
        done = subprocess.run(
            [sys.executable, "elsewhere.py", file], capture_output=True, text=True, timeout=80, env=env, cwd=tmp_path
        )
    assert done.stdout.strip() == "well", done.stderr


# -- array expressions -------------------------------------------------------------------------------------------------

_PLANNED = """
import dask
dask.config.set({"array.query-planning": True})
import dask.array as da, numpy as np
import graphopt as go
assert da.ARRAY_EXPR_ENABLED if hasattr(da, "ARRAY_EXPR_ENABLED") else da._array_expr_enabled()
a = np.random.default_rng(0).random((40, 30))
x = da.from_array(a, chunks=(10, 15))
y = da.exp(x) - 1 / x
for z in (y, y.sum(axis=0), y.T + 1, y.rechunk((7, 30)), y[3:20, ::2]):
    expected = z.compute(scheduler="sync")
    for scheduler in ("sync", "threads"):
        with go.optimized(strict=True):
            np.testing.assert_array_equal(z.compute(scheduler=scheduler), expected)
            np.testing.assert_array_equal(z.persist(scheduler=scheduler).compute(scheduler=scheduler), expected)
            if z is y:
                both = dask.compute(z, dask.delayed(abs)(-1), scheduler=scheduler)
                np.testing.assert_array_equal(both[0], expected)
                assert both[1] == 1
    z = z.optimize() if hasattr(z, "optimize") else z
    keys = z.__dask_keys__()
    graph = go.optimize(z, keys, go.Policy(strict=True, parallelism=2))
    assert len(graph) <= len(z.__dask_graph__())
    finish, args = z.__dask_postcompute__()
    np.testing.assert_array_equal(finish(dask.get(graph, keys), *args), expected)
print("well")
"""


def test_array_expressions() -> None:
    """``array.query-planning`` is read when dask.array is imported, hence a process of its own."""
    root = str(Path(__file__).resolve().parent.parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _PLANNED], capture_output=True, text=True, timeout=80, env=env)
    assert done.stdout.strip() == "well", done.stderr
