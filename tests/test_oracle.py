"""The oracles that the laws are judged by: they must see what they are for."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from oracle import differences, evaluate, same, widest
from twins import Program, examples, program, programs

from graphopt.graph import normalise


def test_the_same_seed_writes_the_same_program() -> None:
    one, two = program(11, 30), program(11, 30)
    assert repr(one.steps) == repr(two.steps)
    assert repr(program(11, 12).steps) == repr(one.steps[:12]), "a longer program starts with the shorter one"


@given(programs)
@examples(40)
def test_the_twins_agree_before_anything_is_done(twin: Program) -> None:
    assert not differences(evaluate(normalise(twin.graph()), twin.keys()), twin.expected())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.0, -0.0),
        (1, 1.0),
        (np.float64(1), 1.0),
        (np.zeros(2), np.zeros(2, "f4")),
        (np.zeros(2), -np.zeros(2)),
        (np.zeros((2, 1)), np.zeros((1, 2))),
        ([1], (1,)),
        ([1, 2], [1]),
        ({"a": 1}, {"a": 1.0}),
        (np.array([1, None], object), np.array([1.0, None], object)),
    ],
)
def test_same_sees_every_bit(one: Any, other: Any) -> None:
    assert same(one, one)
    assert same(one, pickle.loads(pickle.dumps(one)))
    assert not same(one, other)


def test_widest_finds_the_largest_antichain() -> None:
    below: dict[str, set[str]] = {"a": set(), "b": set(), "c": {"a"}, "d": {"a", "b"}, "e": {"a", "b", "d"}}
    assert widest("abcde", below) == 2
    assert widest("ae", below) == 1
    assert widest("cde", below) == 2
