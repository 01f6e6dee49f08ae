"""Values: what the tasks of a search are given, and what they return."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn import config_context

__all__ = ["Candidate", "Cut", "Fold", "Part", "Score", "Setting", "Table", "at_work", "busy"]

_HERE = threading.local()


@dataclass(frozen=True)
class Setting:
    """What all fits of a search have in common: the estimator, how it is scored, scikit-learn's configuration."""

    estimator: Any
    scorer: Any
    plain: bool  # the scorer sees nothing but predictions
    options: dict[str, Any]  # of scikit-learn's function
    config: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows, labels, and what else there is a value of for each row."""

    X: Any
    y: Any
    fit_params: dict[str, Any]
    score_params: dict[str, Any]


@dataclass(frozen=True)
class Fold:
    """Which rows are fitted and which are scored."""

    train: np.ndarray
    test: np.ndarray
    number: int
    count: int


@dataclass(frozen=True)
class Candidate:
    """Parameters that are tried."""

    number: int
    count: int
    params: dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Transformers that are fitted, one after the other, and what they made of the rows; ``lost`` if they cannot be shared."""

    fitted: tuple[Any, ...] = ()
    output: Any = None
    seconds: float = 0.0
    lost: bool = False


@dataclass(frozen=True)
class Cut:
    """The rows of a fold, cut out of the table."""

    X_train: Any
    y_train: Any
    X_test: Any
    y_test: Any
    fit_params: dict[str, Any]
    score_train: dict[str, Any]
    score_test: dict[str, Any]


@dataclass(frozen=True)
class Score:
    """What came of a candidate on a fold, and how many of its steps were there."""

    out: dict[str, Any]
    given: int = 0
    fitted: Any = field(default=None, compare=False)


def busy() -> bool:
    """Say whether this thread runs a task of a search: one inside another has no threads of its own."""
    return getattr(_HERE, "depth", 0) > 0


@contextlib.contextmanager
def at_work(setting: Setting) -> Iterator[None]:
    """Mark that a thread is busy with a search, and give it scikit-learn's configuration."""
    _HERE.depth = getattr(_HERE, "depth", 0) + 1
    try:
        with config_context(**setting.config):
            yield
    finally:
        _HERE.depth -= 1
