"""The model of a call's time, and the choice that is made by it: from made-up times, so that no machine has a say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from graphopt.makespan import NOISE, UNSURE, Model, Option, Run, choose, cut, fit, promising

costs = st.floats(-3, 0).map(lambda power: 10.0**power)


def shapes(rows: int, workers: int) -> list[tuple[int, ...]]:
    """A survey: the same rows in ever more chunks, and a few rows, which show what a call costs."""
    counts = [workers * 2**k for k in range(9)]
    return [cut(rows, count) for count in counts] + [cut(rows, counts[-1])[:workers]]


@given(costs, costs, costs, st.integers(1, 8))
def test_the_fit_finds_the_costs(call: float, lane: float, row: float, workers: int) -> None:
    true = Model(workers, call, lane / 100, row / 1000)
    found = fit([Run(sizes, true.seconds(sizes)) for sizes in shapes(100_000, workers)], workers)
    for sizes in [*shapes(100_000, workers), *shapes(1_000_000, workers)]:
        assert found.seconds(sizes) == pytest.approx(true.seconds(sizes), rel=0.05)


@given(st.integers(3, 7), st.floats(0.3, 3), st.integers(1, 4))
def test_the_fit_finds_the_knee(place: int, more: float, workers: int) -> None:
    rows = 2**18
    knee = max(cut(rows, workers * 2**place))
    true = Model(workers, 1e-4, 1e-5, 1e-6, knee, more * 1e-6)
    found = fit([Run(sizes, true.seconds(sizes)) for sizes in shapes(rows, workers)], workers)
    assert knee / 2 < found.knee < knee * 2
    assert found.row == pytest.approx(true.row, rel=0.25)
    assert found.row + found.beyond == pytest.approx(true.row + true.beyond, rel=0.25)


@given(st.integers(0, 2**32 - 1), costs, costs)
def test_noise_moves_predictions_no_further_than_itself(seed: int, call: float, lane: float) -> None:
    rng = np.random.default_rng(seed)
    true = Model(2, call / 10, lane / 100, 1e-6, 20_000, 5e-7)
    runs = [Run(sizes, true.seconds(sizes) * rng.uniform(0.95, 1.05)) for sizes in shapes(200_000, 2)]
    found = fit(runs, 2)
    for sizes in shapes(200_000, 2)[:-1]:
        assert abs(math.log(found.seconds(sizes) / true.seconds(sizes))) < 0.12


def test_where_no_model_fits_predictions_follow_what_was_measured() -> None:
    seconds = [9.0, 1.0, 7.0, 1.0, 8.0]
    runs = [Run(cut(1024, 2**k), value) for k, value in enumerate(seconds)]
    model = fit(runs, 1)
    assert model.bends
    for run in runs:
        assert model.seconds(run.sizes) == pytest.approx(run.seconds)
    between = model.seconds(cut(1024, 3))
    assert 1.0 < between < 7.0


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(1, 8))
def test_a_makespan_is_between_its_bounds(sizes: list[int], workers: int) -> None:
    model = Model(workers, 0, 0, 1.0)
    assert max(max(sizes), sum(sizes) / workers) <= model.seconds(sizes) + 1e-9
    assert model.seconds(sizes) <= sum(sizes) / workers + max(sizes)


@given(st.integers(3, 60), st.integers(1, 8), st.integers(1, 50), st.integers(1, 50))
def test_even_chunks_are_dealt_out_in_turns(count: int, workers: int, size: int, last: int) -> None:
    assume(last <= size)
    sizes = (*[size] * (count - 1), last)
    turns = -(-count // workers)
    seconds = Model(workers, 0, 0, 1.0).seconds(sizes)
    assert (turns - 1) * size <= seconds <= turns * size
    assert Model(workers, 0, 0, 1.0).seconds((size,) * count) == turns * size


def test_a_chunk_that_has_the_machine_to_itself() -> None:
    """BLAS may work on one chunk in all threads: what that takes says nothing about two, and the other way round."""
    true = Model(2, 1e-4, 1e-5, 1e-6)
    runs = [Run(sizes, true.seconds(sizes)) for sizes in shapes(100_000, 2)]
    found = fit([*runs, Run((40_000,), 0.022)], 2)
    assert found.seconds((50_000,) * 2) == pytest.approx(true.seconds((50_000,) * 2), rel=0.01)
    assert found.seconds((100_000,)) == pytest.approx(0.055, rel=0.02)
    assert fit([Run((40_000,), 0.022)], 2).seconds((40_000,)) == pytest.approx(0.022)


def test_chunks_are_quantised() -> None:
    model = Model(2, 0, 0, 1.0)
    assert model.seconds([10] * 3) == model.seconds([10] * 4) == 20
    assert model.seconds([15] * 2) == 15


@given(st.integers(1, 5000), st.integers(1, 60), st.integers(1, 40))
def test_cuts_cover_the_rows_in_units(rows: int, chunks: int, unit: int) -> None:
    sizes = cut(rows, chunks, unit)
    assert sum(sizes) == rows
    assert all(size % unit == 0 for size in sizes[:-1])
    assert len(sizes) <= chunks
    assert len(set(sizes[:-1])) <= 1


def test_no_rows_are_one_chunk() -> None:
    assert cut(0, 4) == (0,)


options = st.lists(
    st.builds(
        Option,
        st.integers(1, 64).map(lambda count: (1,) * count),
        st.floats(0.01, 10),
        st.integers(0, 100),
        st.floats(0, 10),
    ),
    min_size=1,
    max_size=12,
)


@given(options, st.floats(1, 1000))
def test_the_choice_has_the_least_predicted_time(found: list[Option], calls: float) -> None:
    decision = choose(found, None, workers=2, calls=calls)
    assert decision.total == min(calls * option.seconds + option.once for option in found)


@given(options, st.floats(1, 1000), st.data())
def test_a_change_must_pay(found: list[Option], calls: float, data: st.DataObject) -> None:
    present = data.draw(st.integers(0, len(found) - 1))
    found[present] = Option(found[present].sizes, found[present].seconds)
    decision = choose(found, present, workers=2, calls=calls)
    assert decision.total <= decision.stay
    if decision.place != present:
        option = found[decision.place]
        assert calls * option.seconds + option.once <= (1 - NOISE) * calls * found[present].seconds


@given(options, st.integers(0, 100))
def test_what_holds_too_much_is_not_chosen(found: list[Option], memory: int) -> None:
    decision = choose(found, None, workers=2, calls=1, memory=memory)
    held = found[decision.place].held
    assert held <= memory or held == min(option.held for option in found)
    free = choose(found, None, workers=2, calls=1)
    assert (decision.bound == "memory") == (decision.place != free.place)


def test_a_change_that_memory_asks_for_need_not_pay() -> None:
    found = [Option((8,), 1.0, held=100), Option((4, 4), 3.0, held=10)]
    assert choose(found, 0, workers=2, calls=1, memory=50).bound == "memory"
    assert choose(found, 0, workers=2, calls=1, memory=50).place == 1


@pytest.mark.parametrize(
    ("seconds", "stored", "bound"),
    [
        ([4.0, 2.0, 3.0, 4.0], False, "parallelism"),
        ([4.0, 3.0, 2.0, 3.0], False, "time"),
        ([4.0, 3.0, 2.0, 1.0], False, "time"),
        ([4.0, 3.0, 2.0, 1.0], True, "stored chunks"),
        ([1.0, 3.0, 2.0, 2.0], False, "time"),
    ],
)
def test_what_decided_is_said(seconds: list[float], stored: bool, bound: str) -> None:
    found = [Option((1,) * count, value) for count, value in zip((1, 2, 4, 8), seconds, strict=True)]
    assert choose(found, None, workers=2, calls=1, stored=stored).bound == bound


def test_staying_is_said() -> None:
    found = [Option((2,), 1.0), Option((1, 1), 0.9, once=5.0)]
    assert choose(found, 0, workers=2, calls=10).bound == "present chunks"
    assert choose(found, 0, workers=2, calls=1000).place == 1


@given(options, st.floats(1, 1000), st.data())
def test_those_that_may_be_best_are_promising(found: list[Option], calls: float, data: st.DataObject) -> None:
    present = data.draw(st.integers(0, len(found) - 1))
    places = promising(found, present, calls=calls)
    totals = [calls * option.seconds + option.once for option in found]
    assert present in places
    assert len(set(places)) == len(places) <= 5
    assert min(totals) in [totals[place] for place in places]
    best = places[0] if len(found) > 1 else present
    assert all(totals[p] <= (1 + UNSURE) * min(totals) or p == present or abs(p - best) == 1 for p in places)


def test_what_holds_too_much_or_failed_is_not_promising() -> None:
    found = [Option((8,), 1.0, held=100), Option((4, 4), 1.1, held=10), Option((2,) * 4, 1.2, open=False)]
    assert promising(found, 1, calls=1, memory=50) == [1]


def test_what_was_given_up_is_not_chosen_on_a_guess() -> None:
    found = [Option((2,), 1.0), Option((1, 1), 0.1, open=False)]
    assert choose(found, 0, workers=2, calls=100).place == 0


def test_more_parties_may_need_more_rounds() -> None:
    """Consensus ADMM: smaller chunks are solved sooner, and their parties agree later."""
    found = [Option((1,) * count, 1.0 / count) for count in (1, 2, 4, 8, 16)]
    assert choose(found, 0, workers=2, calls=1).place == 4
    assert choose(found, 0, workers=2, calls=1, rounds=lambda chunks: 1 + (chunks / 4) ** 2).place == 2
    with pytest.raises(ValueError, match=r"rounds\(1\) is 0"):
        choose(found, 0, workers=2, calls=1, rounds=lambda chunks: 0)


def test_errors() -> None:
    with pytest.raises(ValueError, match="no runs"):
        fit([], 2)
    with pytest.raises(ValueError, match="no time"):
        fit([Run((1,), 0.0)], 2)
    with pytest.raises(ValueError, match="no options"):
        choose([], None, workers=1, calls=1)
