"""Streams: threads that go through several levels and wait only for what they read of each other."""

from __future__ import annotations

import random
import signal
import threading
import time
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt as go
from graphopt.execute.lanes import deal
from graphopt.execute.streams import Stretch, divided
from graphopt.execute.team import Team
from graphopt.schedule import Group, Lane, Level, as_group
from graphopt.spec import Task, TaskRef


def mix(number: int, block: Any, *inputs: Any) -> Any:
    """A number that depends on all that is read, in order."""
    return (number + int(block.sum()) + sum((i + 1) * int(value) for i, value in enumerate(inputs))) % 1_000_003


def collect(*values: Any) -> Any:
    return np.array(values, np.int64)


def grid(reads: list[list[list[int]]], task: Any = mix) -> Any:
    """Return a function of an array of as many blocks as the first row has points: rows of tasks that read the row before."""
    name = f"grid-{random.getrandbits(64):x}"

    def function(blocks: Any) -> Any:
        layer: dict[Any, Any] = {}
        for row, points in enumerate(reads):
            for point, others in enumerate(points):
                block = TaskRef((blocks.name, point % blocks.numblocks[0]))
                inputs = [TaskRef((name, "task", row - 1, other)) for other in others] if row else []
                key = (name, "task", row, point)
                layer[key] = Task(key, task, row * 100 + point, block, *inputs)
        last = len(reads) - 1
        layer[name, 0] = Task((name, 0), collect, *[TaskRef((name, "task", last, point)) for point in range(len(reads[-1]))])
        graph = HighLevelGraph(
            {**blocks.dask.layers, name: layer}, {**blocks.dask.dependencies, name: set(blocks.__dask_layers__())}
        )
        return da.Array(graph, name, ((len(reads[-1]),),), dtype=np.int64, meta=np.empty(0, np.int64))

    return function


def chunks(count: int) -> Any:
    return da.arange(3 * count, chunks=3).persist(scheduler="sync")


def stencil(width: int, rows: int) -> list[list[list[int]]]:
    return [[[p for p in (point - 1, point, point + 1) if 0 <= p < width] for point in range(width)] for _ in range(rows)]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Make everything that can run as streams, and count how often it did."""
    ran: list[bool] = []
    run = Stretch.run

    def counted(self: Stretch, values: Any, team: Any) -> bool:
        ran.append(run(self, values, team))
        return ran[-1]

    monkeypatch.setattr("graphopt.execute.streams.Stretch.run", counted)
    monkeypatch.setattr("graphopt.execute.streams.Threads.__call__", lambda self, level: True)
    return ran


rows_of_reads = st.integers(2, 6).flatmap(
    lambda width: st.lists(
        st.lists(st.lists(st.integers(0, width - 1), min_size=1, max_size=4), min_size=width, max_size=width),
        min_size=2,
        max_size=8,
    )
)


def levels_of(reads: list[list[list[int]]], groups: int) -> list[Level]:
    """Return levels whose lanes read lanes of the level before, in so many groups."""
    levels = []
    width = len(reads[0])
    for row, points in enumerate(reads):
        lanes = [
            Lane(
                (row, point),
                tuple(dict.fromkeys((row - 1) * width + other for other in others)) if row else (),
                (row * width + point,),
            )
            for point, others in enumerate(points)
        ]
        kernels = [lambda *values, n=n: values for n in range(groups)]
        dealt = [[(kernels[n], lane, None) for lane in lanes[n::groups]] for n in range(groups)]
        levels.append(Level(tuple(as_group(rows) for rows in dealt if rows)))
    return levels


@settings(max_examples=60, deadline=None)
@given(rows_of_reads, st.integers(1, 3), st.integers(1, 4), st.randoms(use_true_random=False))
def test_whatever_thread_is_ahead_nothing_is_read_before_it_is_there(
    reads: list[list[list[int]]], groups: int, threads: int, rng: random.Random
) -> None:
    levels = levels_of(reads, groups)
    streams = divided(levels, threads)
    wanted = sorted(lane.key for level in levels for group in level.groups for lane in group.lanes)
    assert sorted(step.lane.key for stream in streams for step in stream) == wanted
    at, said, there = [0] * threads, [0] * threads, set()
    while any(at[thread] < len(streams[thread]) for thread in range(threads)):
        able = [
            thread
            for thread in range(threads)
            if at[thread] < len(streams[thread])
            and all(said[other] >= number for other, number in streams[thread][at[thread]].needs)
        ]
        assert able, "all wait for each other"
        thread = rng.choice(able)
        step = streams[thread][at[thread]]
        assert there.issuperset(step.lane.reads)
        there.update(step.writes)
        at[thread] += 1
        said[thread] = step.says or said[thread]


@settings(max_examples=25, deadline=None)
@given(rows_of_reads)
def test_streams_compute_what_dask_computes(reads: list[list[list[int]]]) -> None:
    function, blocks = grid(reads), chunks(len(reads[0]))
    compiled = go.compile(function)
    with dask.config.set(scheduler="threads", num_workers=2):
        wanted = function(blocks).compute(scheduler="sync")
        for _ in range(20):  # level by level and as streams
            np.testing.assert_array_equal(compiled(blocks), wanted)


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_several_threads(threads: int, always: list[bool]) -> None:
    function, blocks = grid(stencil(8, 30)), chunks(8)
    compiled = go.compile(function, policy=go.Policy(parallelism=threads))
    wanted = function(blocks).compute(scheduler="sync")
    with dask.config.set(scheduler="threads"):
        for _ in range(5):
            np.testing.assert_array_equal(compiled(blocks), wanted)
    assert always == [True] * 4  # the first run measures


def slow_first(number: int, block: Any, *inputs: Any) -> Any:
    if number % 100 == 0:
        time.sleep(0.02)  # others wait until they sleep
    return mix(number, block, *inputs)


def test_who_waits_long_sleeps_and_is_woken(always: list[bool]) -> None:
    reads = stencil(6, 6)
    function, blocks = grid(reads, slow_first), chunks(6)
    compiled = go.compile(function, policy=go.Policy(parallelism=3))
    with dask.config.set(scheduler="threads"):
        for _ in range(3):
            np.testing.assert_array_equal(compiled(blocks), grid(reads)(blocks).compute(scheduler="sync"))
    assert always == [True] * 2


FAIL: dict[str, Any] = {"at": None}


def fails(number: int, block: Any, *inputs: Any) -> Any:
    if number == FAIL["at"]:
        raise ZeroDivisionError("on purpose")
    return mix(number, block, *inputs)


@pytest.mark.parametrize("point", [0, 3, 7])
def test_an_error_says_which_key_and_nobody_waits_for_who_failed(point: int, always: list[bool]) -> None:
    function, blocks = grid(stencil(8, 20), fails), chunks(8)
    compiled = go.compile(function, policy=go.Policy(parallelism=2))
    with dask.config.set(scheduler="threads"):
        for failing in (None, 1000 + point, None):
            FAIL["at"] = failing
            for _ in range(2):
                if failing is None:
                    np.testing.assert_array_equal(compiled(blocks), grid(stencil(8, 20))(blocks).compute(scheduler="sync"))
                    continue
                with pytest.raises(ZeroDivisionError, match="on purpose") as caught:
                    compiled(blocks)
                assert any(f"'task', 10, {point})" in note for note in caught.value.__notes__)


def interrupts(number: int, block: Any, *inputs: Any) -> Any:
    if number == FAIL["at"]:
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.05)
    return mix(number, block, *inputs)


@pytest.mark.parametrize("point", [0, 7])  # by the thread that called, and by another
def test_ctrl_c_leaves_no_thread_running(point: int, always: list[bool]) -> None:
    function, blocks = grid(stencil(8, 20), interrupts), chunks(8)
    compiled = go.compile(function, policy=go.Policy(parallelism=2))
    with dask.config.set(scheduler="threads"):
        FAIL["at"] = None
        for _ in range(2):
            wanted = compiled(blocks)
        FAIL["at"] = 1000 + point
        with pytest.raises(KeyboardInterrupt):
            compiled(blocks)
        FAIL["at"] = None
        np.testing.assert_array_equal(compiled(blocks), wanted)


def test_calls_at_once_share_the_team(always: list[bool]) -> None:
    function, blocks = grid(stencil(8, 30), slow_first), chunks(8)
    compiled = go.compile(function, policy=go.Policy(parallelism=2))
    wanted = grid(stencil(8, 30))(blocks).compute(scheduler="sync")
    with dask.config.set(scheduler="threads"):
        compiled(blocks)
        found: list[Any] = [None] * 4

        def call(i: int) -> None:
            with dask.config.set(scheduler="threads"):
                found[i] = compiled(blocks)

        threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    for one in found:
        np.testing.assert_array_equal(one, wanted)
    assert True in always  # one has the team,
    assert False in always  # and others go level by level


def test_works_that_wait_for_each_other_do_not_run_on_a_busy_team() -> None:
    team, ran = Team(2), []
    works = [lambda: ran.append(0), lambda: ran.append(1)]

    def inside() -> None:
        assert not team.run(works, together=True)
        assert ran == []
        assert team.run(works)
        assert ran == [0, 1]

    assert team.run([inside, lambda: None], together=True)


@pytest.mark.parametrize("why", ["memory", "one level", "one thread", "large results"])
def test_where_there_are_none(why: str, always: list[bool]) -> None:
    blocks = chunks(8)
    rows = stencil(8, 1 if why == "one level" else 4)
    options: dict[str, Any] = {"policy": go.Policy(parallelism=1 if why == "one thread" else 2)}
    if why == "memory":
        options["memory"] = "100 MB"
    function = grid(rows)
    if why == "large results":
        function = grid(rows, large)
    elif why == "one level":
        function = lambda x: x.map_blocks(lambda block: [block][0] + 1)  # noqa: E731
    compiled = go.compile(function, **options)
    with dask.config.set(scheduler="threads"):
        for _ in range(3):
            compiled(blocks)
    assert not always


def large(number: int, block: Any, *inputs: Any) -> Any:
    return np.full(2**17, number)  # 8 a level make 8 MiB


def test_lanes_of_unlike_groups_are_dealt_evenly() -> None:
    def group(name: str, lanes: int) -> Group:
        kernel = lambda: None  # noqa: E731
        return as_group([(kernel, Lane((name, i), (), (0,)), None) for i in range(lanes)])

    level = Level((group("a", 4), group("b", 2), group("c", 1), group("d", 1)))
    assert deal(level, 2) == [[(0, 0, 2), (1, 0, 1), (2, 0, 1)], [(0, 2, 4), (1, 1, 2), (3, 0, 1)]]
    assert deal(level, 1) == [[(0, 0, 4), (1, 0, 2), (2, 0, 1), (3, 0, 1)]]
    assert deal(level, 2, begun=[0, 2]) == [[(0, 1, 3), (1, 0, 1)], [(0, 3, 4), (1, 1, 2), (3, 0, 1)]]
    assert deal(Level((group("a", 1),)), 3) == [[(0, 0, 1)], [], []]
