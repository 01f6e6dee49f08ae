"""Chunks that are chosen: what they do to results, and which are chosen where the times are made up."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
import scipy.sparse
from oracle import close

import graphopt as go
from graphopt.chunks import measuring as module
from graphopt.chunks.executor import Executor, executor_of
from graphopt.chunks.sampling import call_of, known
from graphopt.chunks.space import Found, options, space_of
from graphopt.chunks.survey import Lab, Trial, finals, survey
from graphopt.makespan import Model

ROWS = 6_000
A = np.random.default_rng(0).random((ROWS, 4))
QUICK: dict[str, Any] = {"seconds": 0.2}


def gradient(X: da.Array, y: da.Array, beta: np.ndarray) -> Any:
    return X.T.dot(1 / (1 + da.exp(-X.dot(beta))) - y)


def made_up(monkeypatch: pytest.MonkeyPatch, model: Callable[[Executor], Model], slow: float = 0.0) -> list[int]:
    """Let times be those of a model, and the clock go by them; return the chunks of each run."""
    ran: list[int] = []
    now = [0.0]

    class Fake(Lab):
        def clock(self) -> float:
            return now[0]

        def warm(self, trial: Trial, seconds: float) -> None:
            pass

        def time(self, trial: Trial) -> None:
            ran.append(len(trial.sizes))
            trial.times.append(model(self.executor).seconds(trial.sizes))
            now[0] += trial.times[-1] + slow

        def held(self, trial: Trial) -> float | None:
            return None

    monkeypatch.setattr(module, "Lab", Fake)
    return ran


def work(row: float, lane: float = 0.0, call: float = 1e-4) -> Callable[[Executor], Model]:
    return lambda executor: Model(executor.workers, call, lane, row)


def data(size: Any = 50, dtype: Any = float) -> tuple[da.Array, da.Array, np.ndarray]:
    X = da.from_array(A.astype(dtype), chunks=(size, 4)).persist(scheduler="sync")
    return X, da.from_array(A[:, 0], chunks=size).persist(scheduler="sync"), np.ones(4)


# -- what is chosen ----------------------------------------------------------------------------------------------------


def test_overhead_asks_for_large_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1e-6, lane=1e-2))
    with dask.config.set(num_workers=2):
        choice = go.auto_chunks(data()[0], lambda X: X.sum())
    assert choice.pays
    assert choice.chosen.count == 1
    assert choice.chosen.predicted == min(one.predicted for one in choice.candidates)
    assert choice.present.count == 120


def test_work_asks_for_a_chunk_for_each_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1e-3, lane=1e-6))
    with dask.config.set(num_workers=3):
        choice = go.auto_chunks(data(6_000)[0], lambda X: X.sum())
    assert choice.chosen.count == 3
    assert choice.bound == "parallelism"
    assert choice.executor == "dask, 3 threads"


def test_a_change_that_does_not_pay_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1e-6))
    X, y, beta = data(3_000)
    with dask.config.set(num_workers=2):
        choice = go.auto_chunks(X, gradient, y, beta)
        assert not choice.pays
        assert choice.rechunk(X, y, beta) == (X, y, beta)
        assert go.auto_rechunk(gradient, X, y, beta)[0] is X
    assert choice.chunks == X.chunks


def test_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1e-6, lane=1e-2))
    X = da.from_array(np.ones((200_000, 4)), chunks=(100_000, 4)).persist(scheduler="sync")
    with dask.config.set(num_workers=2):
        assert go.auto_chunks(X, lambda X: X.sum()).chosen.count <= 2
        choice = go.auto_chunks(X, lambda X: X.sum(), memory="2 MiB")
    assert choice.bound == "memory"
    assert choice.chosen.held <= 2 << 20
    assert choice.chosen.count > 2


def test_rounds_change_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1e-6, lane=1e-6))
    X = da.from_array(np.ones((100_000, 4)), chunks=(100_000, 4)).persist(scheduler="sync")
    with dask.config.set(num_workers=2):
        few = go.auto_chunks(X, lambda X: X.sum())
        many = go.auto_chunks(X, lambda X: X.sum(), rounds=lambda chunks: 1 / min(chunks, 16))
    assert few.chosen.count == 2
    assert many.chosen.count == 16


def test_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    X = da.from_array(np.ones((100_000, 4)), chunks=(100_000, 4)).persist(scheduler="sync")
    ran = made_up(monkeypatch, work(1e-6), slow=3.0)
    with dask.config.set(num_workers=2):
        go.auto_chunks(X, lambda X: X.sum(), seconds=10)
    assert 2 <= len(ran) <= 6


def test_ways_that_are_worse_end_the_search() -> None:
    class Timer:
        workers, cells = 2, 1024

        def clock(self) -> float:
            return 0.0

        def trial(self, place: int, way: Any, *, few: bool = False) -> Trial:
            return Trial(place, way[0], call=True)

        def warm(self, trial: Trial, seconds: float) -> None: ...

        def time(self, trial: Trial) -> None:
            trial.times.append(float(len(trial.sizes)))

    ways = [{0: (1024 // 2**k,) * 2**k} for k in range(10)]
    assert [trial.place for trial in survey(Timer(), ways, 0, 1.0, lambda text: None)[0]] == [0, 1, 3, 2]
    assert [trial.place for trial in survey(Timer(), ways, 7, 1.0, lambda text: None)[0]] == [7, 0, 1, 3, 2]


class Clocked:
    """Times of ways by their number of chunks, and a clock that goes by them."""

    workers, cells = 2, 1024

    def __init__(self, seconds: dict[int, float], cutting: float = 0.0) -> None:
        self.seconds, self.cutting, self.now = seconds, cutting, 0.0
        self.cut: list[int] = []

    def clock(self) -> float:
        return self.now

    def trial(self, place: int, way: Any, *, few: bool = False) -> Trial:
        self.cut.append(len(way[0]))
        self.now += self.cutting
        return Trial(place, way[0], call=True)

    def warm(self, trial: Trial, seconds: float) -> None: ...

    def time(self, trial: Trial) -> None:
        trial.times.append(self.seconds[len(trial.sizes)])
        self.now += trial.times[-1]


WAYS = [{0: (1024 // 2**k,) * 2**k} for k in range(4)]


def test_finals_go_on_with_those_that_are_near() -> None:
    timer = Clocked({1: 1.3, 2: 1.0, 4: 1.1, 8: 3.0, 16: 5.0})
    ways = [*WAYS, {0: (64,) * 16}]
    found, _ = finals(timer, ways, [2, 1, 3, 0, 4], [], lambda place: 3.0, 200.0, lambda text: None)
    assert all(trial.final for trial in found)
    runs = {len(trial.sizes): len(trial.times) for trial in found}
    assert runs[2] == runs[4] > runs[1] > runs[8] == 2 > runs[16] == 1


def test_finals_end_with_the_time() -> None:
    timer = Clocked({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, cutting=3.0)
    assert len(finals(timer, WAYS, [0, 1, 2, 3], [], lambda place: 4.0, 10.0, lambda text: None)[0]) == 2
    assert timer.cut == [1, 2]
    assert timer.now <= 11.0
    assert finals(timer, WAYS, [0, 1, 2, 3], [], lambda place: 4.0, 16.0, lambda text: None)[0] == []  # one alone says nothing


def test_a_way_that_raises_on_all_data_is_out_of_the_finals() -> None:
    timer = Clocked({1: 1.0, 2: 1.0})  # four take no time that is known: a KeyError
    found, failed = finals(timer, WAYS, [2, 0, 1], [], lambda place: 1.0, 50.0, lambda text: None)
    assert [trial.place for trial in found] == [0, 1]
    assert failed == {2}


def test_finals_go_on_with_what_was_on_all_data() -> None:
    timer = Clocked({1: 1.0, 2: 1.0})
    there = [Trial(0, WAYS[0][0], call=True, times=[1.0]), Trial(1, (256,), call=True, times=[1.0])]
    found, _ = finals(timer, WAYS, [0, 1], there, lambda place: 1.0, 50.0, lambda text: None)
    assert found[0] is there[0]
    assert timer.cut == [2]


def test_what_was_timed_on_all_data_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample says two chunks; on all data more than two are quicker, which no model of the rows could say."""
    made_up(monkeypatch, work(1e-6, lane=1e-3))
    monkeypatch.setattr(module, "_SAMPLE", 1 << 20)
    monkeypatch.setattr(module, "cache_sizes", lambda: (0, 0))
    time = module.Lab.time

    def slower(self: Any, trial: Trial) -> None:
        time(self, trial)
        if sum(trial.sizes) == self.cells and len(trial.sizes) <= 2:
            trial.times[-1] += 1.0

    monkeypatch.setattr(module.Lab, "time", slower)
    X = da.from_array(np.ones((200_000, 4)), chunks=(1_000, 4)).persist(scheduler="sync")
    with dask.config.set(num_workers=2):
        choice = go.auto_chunks(X, lambda X: X.sum())
    assert choice.chosen.count == 4
    assert choice.chosen.part == 1
    assert choice.chosen.seconds == choice.chosen.measured
    (two,) = [one for one in choice.candidates if one.count == 2]
    assert two.seconds > 0.5
    assert abs(two.predicted / two.seconds - 1) < 0.1  # the model has learned of it, and says so of what was not run too
    assert choice.model.seconds([100_000] * 2) > 0.5 > choice.model.seconds([50_000] * 4)
    assert "~" in str(choice)  # others were run on a sample only


def test_samples_that_take_no_longer_than_any_call_say_nothing() -> None:
    """A run of few small chunks takes what a call takes; a little noise, and all of the data costs nothing in such chunks."""
    X = da.from_array(np.ones((1 << 16, 30)), chunks=(1 << 15, 30)).persist(scheduler="sync")
    space = space_of(call_of(X, (), (0,)), executor_of(print), None, weigh=False)
    model = Model(2, 1e-3, 0.0, 0.0, knee=2_000, beyond=1e-5)
    tiny = next(place for place, way in enumerate(space.ways) if len(way[0]) == 64)

    def is_open(seconds: float, chunks: int) -> bool:
        trials = [Trial(0, (1 << 16,), times=[1.0]), Trial(tiny, (1 << 10,) * chunks, times=[seconds])]
        return options(space, Found(model, 8.0, trials))[tiny].open

    assert not is_open(1.5e-3, 4)
    assert is_open(3e-3, 4)  # most of it is work
    assert is_open(1.5e-3, 64)  # all of the data


def test_ways_in_which_the_step_raises_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1e-9, lane=1e-2))
    warm = module.Lab.warm

    def fails(self: Any, trial: Trial, seconds: float) -> None:
        if len(trial.sizes) < 4:
            raise MemoryError("chunks are too large")
        warm(self, trial, seconds)

    monkeypatch.setattr(module.Lab, "warm", fails)
    X = da.from_array(np.ones((100_000, 4)), chunks=(2_000, 4)).persist(scheduler="sync")
    with dask.config.set(num_workers=2):
        assert go.auto_chunks(X, lambda X: X.sum()).chosen.count == 4


# -- results, and arrays of all kinds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("size", [50, ((1_000, 13, 4_000, 987),), 6_000])
def test_results_are_unchanged(compiled: bool, size: Any) -> None:
    X, y, beta = data(size if isinstance(size, int) else size[0])
    step = go.compile(gradient, exact=True) if compiled else gradient
    cut = go.auto_rechunk(step, X, y, beta, **QUICK)
    assert close(np.asarray(gradient(*cut)), np.asarray(gradient(X, y, beta)))
    assert cut[0].chunks[0] == cut[1].chunks[0]
    assert cut[2] is beta
    if compiled:
        assert step.stats.calls == 0


def test_unknown_chunks_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1e-9, lane=1e-2))
    X, y, beta = data()
    unknown = [array[X[:, 0] > 0.5] for array in (X, y)]
    unknown = [array.persist(scheduler="sync") for array in unknown]
    assert all(array.shape[0] != array.shape[0] for array in unknown)
    cut = go.auto_rechunk(gradient, *unknown, beta)
    assert cut[0].numblocks == (1, 1)
    assert cut[0].shape == ((A[:, 0] > 0.5).sum(), 4)
    assert unknown[0].shape[0] != unknown[0].shape[0]  # theirs are as they were
    chosen = A[:, 0] > 0.5
    assert close(np.asarray(gradient(*cut)), A[chosen].T @ (1 / (1 + np.exp(-A[chosen] @ beta)) - A[chosen][:, 0]))


@pytest.mark.parametrize("kind", [scipy.sparse.csr_matrix, scipy.sparse.csr_array])
def test_sparse_chunks(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1e-9, lane=1e-2))
    matrix = kind(scipy.sparse.random(600, 40, density=0.1, random_state=0, format="csr"))
    parts = [matrix[i : i + 50] for i in range(0, 600, 50)]
    X = da.concatenate([da.from_delayed(dask.delayed(part), part.shape, meta=matrix[:0]) for part in parts])
    X = X.persist(scheduler="sync")

    def step(X: da.Array, v: np.ndarray) -> Any:
        return X.map_blocks(operator.matmul, v, drop_axis=1, dtype=float, meta=np.empty(0))

    v = np.arange(40.0)
    choice = go.auto_chunks(X, step, v)
    assert choice.chosen.count == 1
    assert choice.chosen.nbytes < 600 * 40 * 4  # as they are stored, not as if they were dense
    cut, v = choice.rechunk(X, v)
    assert isinstance(cut.blocks[0].compute(), kind)
    assert close(step(cut, v).compute(), matrix @ v)


def test_wide_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1.0, lane=1e-3))
    X = da.from_array(np.ones((6, 200_000)), chunks=(6, 200_000)).persist(scheduler="sync")
    with dask.config.set(num_workers=2):
        choice = go.auto_chunks(X, lambda X: X.sum())
    assert choice.chosen.shape == (3, 200_000)
    assert max(one.count for one in choice.candidates) <= 6


def test_data_that_is_loaded_is_cut_where_it_is_stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made_up(monkeypatch, work(1e-3, lane=1e-6))
    stored = np.memmap(tmp_path / "data", dtype=float, mode="w+", shape=(ROWS, 4))
    stored[:] = A
    X = da.from_array(stored, chunks=(500, 4))
    with dask.config.set(num_workers=3):
        choice = go.auto_chunks(X, lambda X: X.sum(axis=0))
    assert all(size % 500 == 0 for one in choice.candidates for size in one.shape[:1])
    assert max(one.count for one in choice.candidates) == 12
    cut = choice.rechunk(X)
    assert cut.npartitions == choice.chosen.count
    assert call_of(cut, (), (0,)).lazy  # nothing was loaded to stay
    assert any("loading" in note for note in choice.notes)


def test_stored_chunks_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, lambda executor: Model(1, 0, 0, 1e-6, 100, 1e-3))
    X = da.from_array(A, chunks=(3000, 4)).map_blocks(np.abs).rechunk((6000, 4))
    X = da.concatenate([X[i : i + 1500] for i in range(0, 6000, 1500)])
    choice = go.auto_chunks(X, lambda X: X.sum(), axes=0)
    assert choice.bound == "stored chunks"


class Stored:
    """Stands for an array of a library that stores chunks, such as zarr."""

    shape, dtype, ndim, chunks = (ROWS, 4), np.dtype(float), 2, (250, 4)

    def __getitem__(self, index: Any) -> Any:
        return A[index]


def test_the_chunks_of_the_store_count_not_those_of_dask() -> None:
    assert call_of(da.from_array(Stored(), chunks=(1000, 4)), (), (0,)).units == {0: 250}


# -- axes --------------------------------------------------------------------------------------------------------------


def test_axes_that_must_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1e-9, lane=1e-2))
    X = da.from_array(A, chunks=(60, 2)).persist(scheduler="sync")

    def share(block: np.ndarray) -> np.ndarray:
        return block / block.sum(axis=1, keepdims=True)

    choice = go.auto_chunks(X, lambda X: X.map_blocks(share).sum())
    assert choice.chunks[1] == (2, 2)
    assert len(choice.chunks[0]) == 1
    assert any("axis 1" in note for note in choice.notes)
    both = go.auto_chunks(X, lambda X: X.sum())
    assert both.chosen.count == 1
    assert go.auto_chunks(X, lambda X: X.sum(), axes=1).chunks[0] == X.chunks[0]


def test_results_that_depend_on_chunks_keep_them() -> None:
    X = data()[0]
    choice = go.auto_chunks(X, lambda X: X.map_blocks(np.cumsum, axis=0), **QUICK)
    assert not choice.pays
    assert choice.bound == "results"
    assert choice.chunks == X.chunks
    assert "depend on how" in str(choice)


def test_two_axes_are_cut_evenly() -> None:
    call = call_of(da.ones((64, 64), chunks=8).persist(), (), (0, 1))
    assert [len(lengths) for lengths in call.lengths(16).values()] == [4, 4]
    assert len(call.sizes_of(call.lengths(16))) == 16


def test_a_step_that_needs_all_rows_is_timed_on_all() -> None:
    S = da.from_array(np.ones((300, 300)), chunks=(10, 300)).persist(scheduler="sync")
    v = da.ones(300, chunks=10).persist(scheduler="sync")
    cut = go.auto_rechunk(lambda S, v: S.dot(v.rechunk(-1)) / (1 / (S.shape[0] == 300)), S, v, **QUICK)
    assert cut[0].chunks[0] == cut[1].chunks[0]


# -- without measuring -------------------------------------------------------------------------------------------------


def test_without_measuring_the_step_is_not_run() -> None:
    def step(X: Any) -> Any:
        raise AssertionError("it is run")

    X = da.ones((1_000_000, 15), chunks=(1_000, 15))
    choice = go.auto_chunks(X, step, measure=False)
    assert choice.pays
    assert choice.chosen.count < 100
    assert choice.sampled == 0
    compiled = go.auto_chunks(X, go.compile(lambda X: X.sum()), measure=False)
    assert compiled.chosen.count >= choice.chosen.count


# -- what is said ------------------------------------------------------------------------------------------------------


def test_a_choice_prints_in_sixty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1e-6, lane=1e-3))
    X, y, beta = data()
    choice = go.auto_chunks(X, gradient, y, beta)
    text = str(choice)
    assert max(map(len, text.splitlines())) <= 60
    assert "predicted" in text
    assert choice.bound in text
    assert repr(choice) == text


def test_a_choice_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1e-6, lane=1e-3))
    choice = go.auto_chunks(data()[0], lambda X: X.sum())
    found = choice.to_dict()
    again = json.loads(json.dumps(found))
    assert again["count"] == choice.chosen.count < choice.present.count
    assert {"predicted", "measured", "count", "shape"} <= again["candidates"][0].keys()


def test_errors_say_what_is_wrong() -> None:
    X = data()[0]
    with pytest.raises(TypeError, match="X is a ndarray: must be a dask array"):
        go.auto_chunks(A, lambda X: X.sum())
    with pytest.raises(ValueError, match="X has no axis 2"):
        go.auto_chunks(X, lambda X: X.sum(), axes=2)
    with pytest.raises(TypeError, match="step is a int"):
        go.auto_chunks(X, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="iterations=0"):
        go.auto_chunks(X, lambda X: X.sum(), iterations=0)
    with pytest.raises(ValueError, match="no axis that could be cut"):
        go.auto_chunks(da.ones(()), lambda X: X)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_error_of_the_step_is_its_own(compiled: bool) -> None:
    def step(X: da.Array) -> Any:
        raise KeyError("of the step")

    with pytest.raises(KeyError, match="of the step"):
        go.auto_chunks(data()[0], go.compile(step) if compiled else step, **QUICK)


# -- compile(chunks="auto") --------------------------------------------------------------------------------------------


def test_a_compiled_function_cuts_its_arguments_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1e-9, lane=1e-2))
    X, y, beta = data()
    step = go.compile(gradient, exact=True, chunks="auto")
    first = step(X, y, beta=beta)
    kept = {name: array for name, (_, array) in step._chunks._cut.items()}
    second = step(X, y, beta=beta)
    assert close(first, np.asarray(gradient(X, y, beta)))
    assert close(first, second)
    assert step.stats.traces == 1
    assert step.stats.rebinds == 0
    assert {name: array for name, (_, array) in step._chunks._cut.items()} == kept
    assert [choice.chosen.count for choice in step.choices] == [1]
    assert "Chunks changed to 1 of 6000 x 4" in str(step.choices[0])
    assert step.plan(X, y, beta=beta).lanes <= 3
    assert X.npartitions == 120  # the arguments are as they were
    del X, y
    assert not step._chunks._cut


def test_chunked_results_stay_in_the_chosen_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, work(1e-9, lane=1e-2))
    u = da.from_array(A[:, 0], chunks=100).persist(scheduler="sync")
    step = go.compile(lambda u: (u + 1, u.sum()), exact=True, chunks="auto")
    assert step.choices == ()
    for _ in range(3):
        u, _total = step(u)
    assert close(np.asarray(u), A[:, 0] + 3)
    assert step.stats.traces <= 2


def test_chunks_must_be_auto() -> None:
    with pytest.raises(ValueError, match='must be "auto"'):
        go.compile(gradient, chunks="big")


# -- executors ---------------------------------------------------------------------------------------------------------


def test_the_executor_in_use() -> None:
    step = go.compile(gradient)
    with dask.config.set(scheduler="sync"):
        assert executor_of(gradient).kind == "sync"
        assert executor_of(step).kind == "compiled"
        assert executor_of(step).workers == 1
    with dask.config.set(scheduler="threads", num_workers=7):
        assert executor_of(gradient).kind == "threads"
        assert executor_of(gradient).workers == 7
    with dask.config.set(scheduler="processes", num_workers=3):
        assert executor_of(gradient).kind == "processes"


@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_cluster(client: distributed.Client, compiled: bool) -> None:
    X = da.from_array(A, chunks=(300, 4)).persist()
    y = da.from_array(A[:, 0], chunks=300).persist()
    step = go.compile(gradient, exact=True) if compiled else gradient
    choice = go.auto_chunks(X, step, y, np.ones(4), seconds=1.0)
    assert "2 workers" in choice.executor
    cut = choice.rechunk(X, y, np.ones(4))
    result = step(*cut) if compiled else gradient(*cut).compute()
    assert close(result, A.T @ (1 / (1 + np.exp(-A.sum(axis=1))) - A[:, 0]))


def test_chunks_are_spread_over_workers(client: distributed.Client) -> None:
    X = da.from_array(A, chunks=(6_000, 4)).persist()
    executor = executor_of(gradient)
    call = call_of(X, (), (0,)).rechunked({0: (1_500,) * 4}, executor)
    holders = client.who_has(call.array)
    assert len({worker for workers in holders.values() for worker in workers}) == 2


def test_sparse_chunks_weigh_the_same_on_a_cluster(client: distributed.Client) -> None:
    matrix = scipy.sparse.random(600, 40, density=0.5, random_state=0, format="csr")
    parts = [matrix[i : i + 100] for i in range(0, 600, 100)]
    X = da.concatenate([da.from_delayed(dask.delayed(part), part.shape, meta=matrix[:0]) for part in parts]).persist()
    stored = sum(part.data.nbytes + part.indices.nbytes for part in parts)
    assert stored <= call_of(X, (), (0,)).cell_bytes() * 600 <= 1.2 * stored


def test_known_chunks_are_left_alone() -> None:
    X = data()[0]
    assert known(X) is X
