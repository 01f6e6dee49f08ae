"""Random lanes: what their loops give is what their programs give."""

from __future__ import annotations

import operator
import random
from typing import Any

import numpy as np
import pytest
from by_hand import ROW_COUNTS, Build, K, check, data, x

from graphopt import lean
from graphopt.program import Program, Spec

UNARY = (
    operator.neg,
    np.exp,
    np.tanh,
    np.square,
    np.abs,
    np.sign,
    np.floor,
    np.expm1,
    np.reciprocal,
    np.logical_not,
    np.isfinite,
)
BINARY = (operator.add, operator.sub, operator.mul, operator.truediv, np.maximum, np.minimum, np.logaddexp)
COMPARISONS = (operator.lt, operator.le, operator.eq, np.greater, np.not_equal)


class Random:
    """Writes a random program on ``X (n, K)``, ``y (n,)``, ``w (n, 1)``, ``beta (K,)`` and a number."""

    def __init__(self, seed: int, single: bool) -> None:
        self.random, self.b = random.Random(seed), Build()
        self.flat, self.columns, self.truth = [x(1)], [x(0)], []
        self.folds: list[Spec] = []
        self.single = single

    def write(self, steps: int) -> Program:
        for _ in range(steps):
            self.random.choice(
                (self.unary, self.binary, self.binary, self.choose, self.dot, self.mixed, self.shape, self.fold)
            )()
        self.fold()
        outputs = {self.flat[-1], self.columns[-1], *self.folds[-4:], *self.truth[-1:]} - {x(0), x(1)}
        return self.b.program(5, *sorted(outputs))

    def pool(self) -> list[Spec]:
        return self.random.choice((self.flat, self.columns))

    def unary(self) -> None:
        pool, func = self.pool(), self.random.choice(UNARY)
        value = self.b(func, self.random.choice(pool))
        if func in (np.logical_not, np.isfinite):
            value = self.b(np.where, value, self.random.choice(pool), 0.5)
        pool.append(value)

    def binary(self) -> None:
        pool, func = self.pool(), self.random.choice(BINARY)
        other: Any = self.random.choice((self.random.choice(pool), self.random.choice((2, 0.5, -1.5, np.inf)), x(4)))
        one = self.random.choice(pool)
        pair = (one, other) if self.random.random() < 0.5 else (other, one)
        pool.append(self.b(func, *pair) if self.random.random() < 0.8 else self.b(operator.pow, one, 2))

    def choose(self) -> None:
        pool = self.pool()
        a, b = self.random.choice(pool), self.random.choice(pool)
        truth = self.b(self.random.choice(COMPARISONS), a, b)
        if pool is self.flat:
            self.truth.append(truth)
        pool.append(self.b(np.where, truth, b, self.b(operator.mul, a, 0.25)))

    def dot(self) -> None:
        a = self.random.choice(self.columns)
        self.flat.append(self.b(operator.matmul, a, x(3)))
        t = self.b(np.transpose, a)
        if self.random.random() < 0.5:
            self.folds.append(self.b(np.dot, t, self.random.choice(self.flat)))
        else:
            self.folds.append(self.b(operator.matmul, t, self.random.choice(self.columns)))

    def mixed(self) -> None:
        wide = self.random.choice(self.columns)
        column = self.b(operator.getitem, self.random.choice(self.flat), (slice(None), None))
        other = self.random.choice((x(2), x(3), column, self.b(np.multiply, x(3), x(4))))
        self.columns.append(self.b(self.random.choice(BINARY[:4]), wide, other))

    def shape(self) -> None:
        wide = self.random.choice(self.columns)
        part = self.b(operator.getitem, wide, (slice(None), slice(1, 4)))
        self.flat.append(self.b(self.random.choice((np.sum, np.max, np.min, np.mean)), part, axis=1))
        if self.random.random() < 0.5:
            mean = self.b(np.mean, self.random.choice(self.columns), axis=0)
            self.columns.append(self.b(operator.sub, wide, mean))

    def fold(self) -> None:
        pool, keep = self.pool(), self.random.random() < 0.5
        axis = 0 if pool is self.flat else self.random.choice((0, None, (0, 1)))
        func = self.random.choice((np.sum, lean.sum_, np.sum, np.max, np.min))
        value = self.b(func, self.random.choice(pool), axis=axis, keepdims=keep)
        self.folds.append(self.b(operator.mul, value, 0.5) if self.random.random() < 0.3 else value)


def run_random(seed: int, dtype: Any) -> None:
    program = Random(seed, dtype == np.float32).write(12)
    lanes = (True, True, True, False, False)
    has_most = any(func in (np.max, np.min) for func, _, _ in program.steps)
    arguments = []
    beta = data((K,), dtype, seed)
    for place, rows in enumerate(ROW_COUNTS[has_most:]):
        shapes: list[tuple[int, ...]] = [(rows, K), (rows,), (rows, 1)]
        odd = place == 4
        arguments.append([*(data(shape, dtype, seed + place + i, odd) for i, shape in enumerate(shapes)), beta, 1.25])
    check(program, arguments, lanes)


@pytest.mark.parametrize("seed", range(6))
def test_random_programs(seed: int) -> None:
    run_random(seed, np.float32 if seed % 3 == 2 else np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_many_random_programs(seed: int) -> None:
    run_random(seed, np.float32 if seed % 3 == 2 else np.float64)
