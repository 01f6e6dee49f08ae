"""Tasks: what the tasks of a search do. They run wherever dask runs them, and know nothing of graphs.

`extended` fits one more step of a pipeline, `member` a member of a container, `moved` transforms the rows that are scored,
`evaluated` fits and scores candidates, by scikit-learn's own function for that.

What is shared is never the cause of another answer: where a shared part failed, drew random numbers, or does not get along
with what reads it, a candidate is fitted whole, as if nothing were shared. Then it fails, or not, as it would have.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import _validation as validation
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.validation import _num_samples

from solvers.search.draws import Watched
from solvers.search.given import Given, assemble, revealed, rows
from solvers.search.tokens import draws

__all__ = [
    "Candidate",
    "Fold",
    "Part",
    "Setting",
    "Table",
    "at_work",
    "busy",
    "evaluated",
    "extended",
    "gathered",
    "member",
    "moved",
]

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
    _HERE.depth = getattr(_HERE, "depth", 0) + 1
    try:
        with config_context(**setting.config):
            yield
    finally:
        _HERE.depth -= 1


# -- shared parts ------------------------------------------------------------------------------------------------------


def extended(
    setting: Setting,
    table: Table,
    fold: Fold,
    step: Any,
    params: tuple[str, ...],
    before: Part | None,
    names: tuple[str, ...],
    *inner: Part,
) -> Part:
    """Fit one more step, on what the steps before it made of the rows; what is inside of it may be there."""
    if _any_lost(before, *inner):
        return Part(lost=True)
    parts = dict(zip(names, inner, strict=True))
    with at_work(setting):
        start = time.time()
        X, y = _safe_split(setting.estimator, table.X, table.y, fold.train)
        if before is not None:
            X = before.output
        options = {name.partition("__")[2]: table.fit_params[name] for name in params}
        fitted, output = _fitted(clone(step), X, y, _of_rows(table, options, fold.train), parts)
        if fitted is None:
            return Part(lost=True)
        seconds = time.time() - start + sum(part.seconds for part in (before, *parts.values()) if part)
        return Part((*(before.fitted if before else ()), fitted), output, seconds)


def member(
    setting: Setting,
    table: Table,
    fold: Fold,
    estimator: Any,
    columns: Any,
    before: Part | None,
    names: tuple[str, ...],
    *inner: Part,
) -> Part:
    """Fit a member of a container, or of a container in it."""
    if _any_lost(before, *inner):
        return Part(lost=True)
    parts = dict(zip(names, inner, strict=True))
    with at_work(setting):
        start = time.time()
        X, y = _safe_split(setting.estimator, table.X, table.y, fold.train)
        if before is not None:
            X = before.output
        try:
            if columns is not None:
                X = _safe_indexing(X, columns(X) if callable(columns) else columns, axis=1)
        except Exception:
            return Part(lost=True)
        fitted, output = _fitted(clone(estimator), X, y, {}, parts)
        if fitted is None:
            return Part(lost=True)
        return Part((fitted,), output, time.time() - start + sum(part.seconds for part in parts.values()))


def moved(setting: Setting, table: Table, fold: Fold, train: bool, part: Part, before: Part | None) -> Part:
    """Transform the rows that are scored by the last step of a part, from what the steps before it made of them."""
    if part.lost or (before is not None and before.lost):
        return Part(lost=True)
    with at_work(setting):
        start = time.time()
        try:
            if before is None:
                chosen = (fold.train,) if train else (fold.test, fold.train)
                X, _ = _safe_split(setting.estimator, table.X, None, *chosen)
            else:
                X = before.output
            output = _frozen(part.fitted[-1].transform(_own(part.fitted[-1], X)))
        except Exception:
            return Part(lost=True)
        return Part((), output, time.time() - start + (before.seconds if before else 0.0))


def _fitted(estimator: Any, X: Any, y: Any, params: dict[str, Any], parts: dict[str, Part]) -> tuple[Any, Any]:
    """Fit a clone and transform; (None, None) if it failed or drew random numbers."""
    watched = Watched()
    chance = [] if parts else draws(estimator)
    try:
        if chance:
            estimator.set_params(**dict.fromkeys(chance, watched))
        X = _own(estimator, X)
        if parts:
            output = assemble(estimator, X, y, {name: Given(part.fitted[-1], part.output) for name, part in parts.items()})
        elif hasattr(estimator, "fit_transform"):
            output = estimator.fit_transform(X, y, **params)
        else:
            output = estimator.fit(X, y, **params).transform(X)
        if watched.used or (chance and any(value is watched for value in _attributes(estimator, chance))):
            return None, None
        if chance:
            estimator.set_params(**dict.fromkeys(chance))
    except Exception:
        return None, None
    return estimator, _frozen(output)


def _attributes(estimator: Any, chance: list[str]) -> list[Any]:
    return [value for name, value in vars(estimator).items() if name not in chance]


def _any_lost(*parts: Part | None) -> bool:
    return any(part is not None and part.lost for part in parts)


def _of_rows(table: Table, params: dict[str, Any], indices: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = validation._check_method_params(table.X, params=params, indices=indices) if params else {}
    return found


def _own(estimator: Any, X: Any) -> Any:
    """Return rows that an estimator may write to, if it asks for that."""
    params = estimator.get_params(deep=True) if hasattr(estimator, "get_params") else {}
    wanted = {"copy": False, "copy_X": False, "copy_x": False, "overwrite_X": True}
    for name, value in params.items():
        if wanted.get(name.rpartition("__")[2]) is value and value is not None and hasattr(X, "copy"):
            return X.copy()
    return X


def _frozen(output: Any) -> Any:
    """Return what several will read such that nobody writes to it."""
    for array in (output.data,) if issparse(output) else (output,):
        if isinstance(array, np.ndarray) and array.flags.owndata:
            array.flags.writeable = False
    return output


# -- candidates --------------------------------------------------------------------------------------------------------


class _Told(dict[str, Any]):
    """Parameters that are set already, and are only to be printed."""

    def __sklearn_clone__(self) -> dict[str, Any]:
        return {}


class _Revealing:
    """A scorer that may look at the estimator: it sees the fitted steps, not their stand-ins."""

    def __init__(self, scorer: Any) -> None:
        self.scorer = scorer

    def __call__(self, estimator: Any, *args: Any, **params: Any) -> Any:
        return self.scorer(revealed(estimator), *args, **params)


def evaluated(
    setting: Setting, table: Table, fold: Fold, candidates: Sequence[Candidate], part: Part | None = None, *seen: Part
) -> list[Score]:
    """Fit and score candidates that begin with the same part, each from where the one before it ended, if it has a path."""
    shared = part if part is not None and not _any_lost(part, *seen) else None
    scores: list[Score] = []
    with at_work(setting):
        for candidate in candidates:
            before = _ended(scores[-1].fitted) if scores else None
            score = _one(setting, table, fold, candidate, shared, seen, before, keep=len(candidates) > 1)
            if before is not None and _ended(score.fitted) is None:  # it is no better off than it would have been
                score = _one(setting, table, fold, candidate, shared, seen, None, keep=True)
            scores.append(score)
    return [replace(score, fitted=None) for score in scores]


def _one(
    setting: Setting,
    table: Table,
    fold: Fold,
    candidate: Candidate,
    part: Part | None,
    seen: Sequence[Part],
    before: Any,
    keep: bool,
) -> Score:
    estimator = clone(setting.estimator)
    if before is not None or part is not None:
        estimator.set_params(**clone(candidate.params, safe=False))
    if before is not None:
        _begun(_final(estimator), before)
    if part is not None:
        with contextlib.suppress(Exception):
            score = _with_part(setting, table, fold, candidate, estimator, part, seen, keep)
            if score.out["fit_error"] is None:
                return score
        return _one(setting, table, fold, candidate, None, seen, before, keep)
    return _scored(setting, table, fold, candidate, estimator, setting.scorer, keep)


def _with_part(
    setting: Setting,
    table: Table,
    fold: Fold,
    candidate: Candidate,
    estimator: Pipeline,
    part: Part,
    seen: Sequence[Part],
    keep: bool,
) -> Score:
    """Fit and score a pipeline whose first steps are given."""
    stands = [Given(fitted) for fitted in part.fitted]
    numbers = (fold.test, fold.train)
    stands[-1].output = part.output
    stands[-1].known = tuple((number, there.output) for number, there in zip(numbers, seen, strict=False))
    places = [i for i, (_, step) in enumerate(estimator.steps) if hasattr(step, "fit")][: len(stands)]
    if places[-1] < len(estimator.steps) - 1:
        stands[-1].output = _own(estimator.steps[-1][1], part.output)
    steps = list(estimator.steps)
    for place, stand in zip(places, stands, strict=True):
        steps[place] = steps[place][0], stand
    estimator.steps = steps
    scorer = setting.scorer
    if setting.plain:
        table = replace(table, X=rows(_num_samples(table.X)))
    else:
        scorer = _Revealing(scorer)
    score = _scored(setting, table, fold, replace(candidate, params=_Told(candidate.params)), estimator, scorer, keep)
    score.out["fit_time"] += part.seconds
    score.out["score_time"] += seen[0].seconds if setting.plain else 0.0
    return replace(score, given=len(stands))


def _scored(setting: Setting, table: Table, fold: Fold, candidate: Candidate, estimator: Any, scorer: Any, keep: bool) -> Score:
    """Fit and score, as scikit-learn does it."""
    out = validation._fit_and_score(
        estimator,
        table.X,
        table.y,
        scorer=scorer,
        train=fold.train,
        test=fold.test,
        parameters=candidate.params,
        fit_params=table.fit_params,
        score_params=table.score_params,
        return_n_test_samples=True,
        return_times=True,
        return_estimator=keep,
        split_progress=(fold.number, fold.count),
        candidate_progress=(candidate.number, candidate.count),
        **setting.options,
    )
    return Score(out, 0, out.pop("estimator", None) if out["fit_error"] is None else None)


def _final(estimator: Any) -> Any:
    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator


def _ended(estimator: Any) -> Any:
    """Return where a fit of ours ended, if it converged."""
    final = _final(estimator)
    return final if getattr(getattr(final, "result_", None), "ok", False) else None


def _begun(final: Any, before: Any) -> None:
    """Let a fit begin where another ended."""
    for name in ("coef_", "intercept_", "scale_"):
        if hasattr(before, name):
            setattr(final, name, getattr(before, name))
    final.warm_start = True


def gathered(*parts: Sequence[Score]) -> list[Score]:
    """Return the scores of several tasks in one list."""
    return [score for part in parts for score in part]
