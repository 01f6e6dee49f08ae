"""Partitions: the parts of random plans on random places, run in one process, give what the whole gives; and who does what."""

from __future__ import annotations

import functools
import random
from collections import Counter
from types import FunctionType
from typing import Any

import cloudpickle
import dask.array as da
import numpy as np
import pytest
from dask.array import chunk
from dask.array.reductions import moment_agg
from hypothesis import given
from hypothesis import strategies as st
from oracle import close
from test_laws_compile import COLS, ROWS, program
from twins import examples

import graphopt as go
from graphopt.execute.local import run
from graphopt.execute.resident import pickled
from graphopt.execute.team import team_of
from graphopt.execute.threads import Threads
from graphopt.partition import TREE, fold_of_partials, partition
from graphopt.parts import Part, Partition

pytestmark = pytest.mark.timeout(100)

A = np.random.default_rng(0).normal(size=(12, 3))
ONE = go.Policy(parallelism=1)


def held(array: Any, chunks: Any = (2, 3)) -> Any:
    return da.from_array(array, chunks=chunks).persist(scheduler="sync")


def steps(fn: Any, *args: Any) -> tuple[Any, list[Any], list[Any]]:
    """Return a plan, the values of its slots before a run, and after one that was not divided."""
    step = go.compile(fn, policy=ONE)
    arguments, structure = step._arguments(args, {})
    ready = step._find(arguments, structure)
    values, _, _ = ready.bind(arguments)
    return ready.plan, list(values), run(ready.plan.schedule, values, team_of(1), Threads(len(ready.plan.levels)))


def divided(plan: Any, where: Any, workers: list[str], **options: Any) -> Partition:
    """Divide a plan, its chunks at ``where(argument, block)``."""
    kinds = plan.trace.kinds
    home = {slot: where(place, block) for slot, place, block in plan.blocks if kinds[place] == "chunked"}
    small = [slot for slot, place, _ in plan.blocks if kinds[place] == "array"]
    small += [slot for slot, _ in plan.schedule.scalars]
    results, keeps = set(), set()
    for result, slots in zip(plan.trace.results, plan.results, strict=True):
        (keeps if result.kind == "array" and not result.small else results).update(slots)
    found = partition(plan.schedule, home, workers, small=small, results=results, keeps=keeps, **options)
    found._check()
    return found


def together(partition: Partition, values: list[Any]) -> dict[Any, list[Any]]:
    """Run all parts in turns, as far as each comes; what is sent goes through pickle."""
    mail: dict[Any, dict[int, Any]] = {name: {} for name in partition.parts}
    left: dict[Any, Any] = {}
    have: dict[Any, list[Any]] = {}
    for name, part in partition.parts.items():
        mine: Part = cloudpickle.loads(pickled(part))
        left[name] = [(mine, phase) for phase in mine.phases]
        have[name] = [None] * mine.size
        for slot in (*mine.chunks, *mine.small):
            have[name][slot] = values[slot]
        for slot, value in mine.literals.items():
            have[name][slot] = value
    while any(left.values()):
        moved = False
        for name, phases in left.items():
            while phases and all(slot in mail[name] for slot in phases[0][1].needs):
                part, phase = phases.pop(0)
                moved = True
                for slot in phase.needs:
                    have[name][slot] = mail[name].pop(slot)
                run(part.schedule(phase), have[name], team_of(1), Threads(len(phase.levels)))
                for to, slots in phase.sends:
                    mail[to].update({slot: cloudpickle.loads(cloudpickle.dumps(have[name][slot])) for slot in slots})
                for slot in phase.drop:
                    have[name][slot] = None
        assert moved, "the parts wait for each other"
    return have


def agree(partition: Partition, plan: Any, before: list[Any], after: list[Any], everywhere: bool = False) -> None:
    have = together(partition, before)
    for slots in plan.results:
        for slot in slots:
            assert close(have[partition.places[slot]][slot], after[slot])
    if everywhere:
        for name, part in partition.parts.items():
            for slot in part.gives:
                one = have[partition.places[slot]][slot]
                np.testing.assert_array_equal(np.asarray(have[name][slot]), np.asarray(one))


@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([1, 2, 3, 5, 12]), st.sampled_from([1, 4, 12]), st.booleans())
@examples(60)
def test_parts_compute_what_the_whole_computes(seed: int, size: int, workers: int, rows: int, everywhere: bool) -> None:
    rng = random.Random(seed)
    X, Y = held(np.random.default_rng(seed).normal(size=(ROWS, COLS)), (rows, COLS)), held(np.ones((ROWS, COLS)), (rows, COLS))
    plan, before, after = steps(program(seed, size), X, Y, np.arange(1.0, COLS + 1), 0.5, 3)
    names = [f"w{i}" for i in range(workers)]
    spread = rng.choice([lambda place, block: names[block % workers], lambda place, block: rng.choice(names)])
    found = divided(plan, spread, names, everywhere=everywhere)
    agree(found, plan, before, after, everywhere)


def logistic(X: Any, y: Any, beta: Any) -> Any:
    eta = X.dot(beta)
    p = 1 / (1 + da.exp(-eta))
    return (da.log1p(da.exp(eta)) - y * eta).sum(), X.T.dot(p - y)


def problem(chunks: int) -> tuple[Any, ...]:
    X = np.random.default_rng(1).normal(size=(4 * chunks, 3))
    return held(X, (4, 3)), held((X[:, 0] > 0).astype(float), 4), np.ones(3)


@pytest.mark.parametrize("workers", [2, 8])
def test_sums_cost_one_message_for_each_other_worker(workers: int) -> None:
    names = [f"w{i}" for i in range(workers)]
    plan, before, after = steps(logistic, *problem(2 * workers))
    found = divided(plan, lambda place, block: names[block // 2], names)
    agree(found, plan, before, after)
    assert found.messages == workers - 1
    assert [len(found.parts[name].chunks) for name in names] == [4] * workers
    assert {found.places[slot] for slots in plan.results for slot in slots} == {"w0"}
    assert [part.gives == () for part in found.parts.values()] == [False] + [True] * (workers - 1)


def test_many_workers_fold_in_a_tree() -> None:
    workers = TREE * TREE + 3
    names = [f"w{i}" for i in range(workers)]
    plan, before, after = steps(logistic, *problem(workers))
    found = divided(plan, lambda place, block: names[block], names)
    agree(found, plan, before, after)
    assert found.messages == workers - 1
    received = Counter(to for part in found.parts.values() for phase in part.phases for to, _ in phase.sends)
    assert max(received.values()) <= 2 * TREE


def test_results_for_everybody_are_exchanged_at_once() -> None:
    names = ["a", "b", "c"]
    plan, before, after = steps(logistic, *problem(6))
    found = divided(plan, lambda place, block: names[block % 3], names, everywhere=True)
    agree(found, plan, before, after, everywhere=True)
    assert found.messages == 6
    assert all(len(part.phases) == 2 for part in found.parts.values())


def test_results_for_many_are_passed_on() -> None:
    """Nobody sends more messages than a few, however many workers there are."""
    workers = TREE * TREE + 3
    names = [f"w{i}" for i in range(workers)]
    plan, before, after = steps(logistic, *problem(workers))
    found = divided(plan, lambda place, block: names[block], names, everywhere=True)
    agree(found, plan, before, after, everywhere=True)
    assert found.messages == 2 * (workers - 1)
    assert max(part.messages for part in found.parts.values()) <= TREE + 1


def test_lanes_stay_with_their_chunks() -> None:
    X = held(A)
    plan, before, after = steps(lambda X: da.exp(X) + 1, X)
    found = divided(plan, lambda place, block: "ab"[block % 2], ["a", "b"])
    agree(found, plan, before, after)
    assert found.messages == 0
    assert {slot: found.places[slot] for slot in plan.results[0]} == dict(zip(plan.results[0], "ababab", strict=True))


def test_a_prologue_is_done_by_all_who_need_it() -> None:
    def fn(X: Any, centres: Any) -> Any:
        return ((centres**2).sum(axis=1) - 2 * X.dot(centres.T)).argmin(axis=1)

    plan, before, after = steps(fn, held(A, (2, 3)), np.ones((4, 3)))
    found = divided(plan, lambda place, block: "ab"[block % 2], ["a", "b"])
    agree(found, plan, before, after)
    assert found.messages == 0


def test_what_makes_chunks_is_dealt_out() -> None:
    def fn(a: Any) -> Any:
        return (da.random.default_rng(0).random((16, 2), chunks=(2, 2)) * a).sum()

    plan, before, after = steps(fn, 2.0)
    found = divided(plan, None, ["a", "b"])
    agree(found, plan, before, after)
    assert [part.lanes for part in found.parts.values()] == [4 + 1 + 1, 4 + 1]


def test_a_stencil_exchanges_what_is_at_the_border() -> None:
    def fn(u: Any) -> Any:
        return da.map_overlap(lambda v: v[:-2] + v[2:], u, depth=1, boundary=0.0, trim=False, dtype=float).sum()

    plan, before, after = steps(fn, held(np.arange(24.0), 4))
    found = divided(plan, lambda place, block: "ab"[block // 3], ["a", "b"])
    agree(found, plan, before, after)


def test_equal_places_give_equal_parts() -> None:
    plan, _, _ = steps(logistic, *problem(6))
    some = [divided(plan, lambda place, block: "abc"[block % 3], ["a", "b", "c"]) for _ in range(2)]
    assert [[phase.sends for phase in p.phases] for p in some[0].parts.values()] == [
        [phase.sends for phase in p.phases] for p in some[1].parts.values()
    ]


def test_functions_of_dasks_are_the_same_after_a_journey() -> None:
    """What is compiled on a worker is told by which functions are called; some of dask's cannot be found by their names."""
    for name, value in vars(chunk).items():
        if isinstance(value, FunctionType):
            assert cloudpickle.loads(pickled([value]))[0] is value, name


@pytest.mark.parametrize("name", ["sum", "prod", "min", "max", "any", "all", "mean", "var", "std"])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions_of_any_kind(name: str, axis: Any, keepdims: bool) -> None:
    x = A > 0 if name in ("any", "all") else A
    plan, before, after = steps(lambda X: getattr(X, name)(axis=axis, keepdims=keepdims), held(x, (2, 1)))
    found = divided(plan, lambda place, block: "abc"[block * 7 % 3], ["a", "b", "c"])
    agree(found, plan, before, after)


def test_what_cannot_be_folded_again_is_sent_as_it_is() -> None:
    assert fold_of_partials(max) is None
    assert fold_of_partials(functools.partial(max, 1)) is None
    assert fold_of_partials(functools.partial(moment_agg, order=2, axis=(0,))).keywords["keepdims"] is True
    plan, before, after = steps(lambda X: X.argmin(axis=0), held(np.zeros((12, 3)), (2, 3)))
    found = divided(plan, lambda place, block: "ab"[block % 2], ["a", "b"])
    agree(found, plan, before, after)
    plan, before, after = steps(lambda X: da.median(X.rechunk((12, 1)), axis=0), held(A, (2, 3)))
    found = divided(plan, lambda place, block: "ab"[block % 2], ["a", "b"])
    agree(found, plan, before, after)
