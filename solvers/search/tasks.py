"""Tasks: what the tasks of a search do. They run wherever dask runs them, and know nothing of graphs.

`cut` cuts the rows of a fold, `extended` fits one more step of a pipeline or a member of a container, or cuts it out of what is
fitted, `moved` transforms the rows that are scored, `evaluated` fits and scores candidates.

What is shared is never the cause of another answer: where a shared part failed, drew random numbers, or does not get along
with what reads it, a candidate is fitted whole, as if nothing were shared. Then it fails, or not, as it would have.
"""

from __future__ import annotations

import contextlib
import numbers
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.model_selection import _validation as validation
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.validation import _num_samples

from solvers.search.apart import apart
from solvers.search.draws import Watched
from solvers.search.given import Given, assemble, revealed, rows
from solvers.search.outline import Node
from solvers.search.tokens import draws
from solvers.search.truncation import truncated
from solvers.search.values import Candidate, Cut, Fold, Part, Score, Setting, Table, at_work

__all__ = ["cut", "evaluated", "extended", "gathered", "is_square", "moved"]

#: Parameters by which an estimator says that it writes to its rows, and their values then.
_WRITES = {"copy": False, "copy_X": False, "copy_x": False, "overwrite_X": True}


# -- rows --------------------------------------------------------------------------------------------------------------


def cut(setting: Setting, table: Table, fold: Fold) -> Cut | None:
    """Cut the rows of a fold out of a table, once for all who read them; None if they cannot be kept from writing to them."""
    arrays = isinstance(table.X, np.ndarray) and table.X.dtype != object and isinstance(table.y, (np.ndarray, type(None)))
    if not arrays or is_square(table.X) or setting.options["verbose"] > 1:
        return None
    try:
        found = _cut(setting, table, fold)
    except Exception:
        return None  # whoever cuts for himself will say why
    for array in (found.X_train, found.y_train, found.X_test, found.y_test):
        _frozen(array)
    return found


def is_square(X: Any) -> bool:
    """Say whether rows may be those of a kernel's matrix, of which estimators take columns, too, as their parameters say."""
    shape = tuple(getattr(X, "shape", ()))
    return len(shape) == 2 and shape[0] == shape[1]


def _cut(setting: Setting, table: Table, fold: Fold) -> Cut:
    train = _safe_split(setting.estimator, table.X, table.y, fold.train)
    test = _safe_split(setting.estimator, table.X, table.y, fold.test, fold.train)
    fit_params = _of_rows(table, table.fit_params, fold.train)
    of_scores = [_of_rows(table, table.score_params, numbers) for numbers in (fold.train, fold.test)]
    return Cut(train[0], train[1], test[0], test[1], fit_params, of_scores[0], of_scores[1])


def _of_rows(table: Table, params: dict[str, Any], numbers: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = validation._check_method_params(table.X, params=params, indices=numbers) if params else {}
    return found


def _frozen(output: Any) -> Any:
    """Return what several will read such that nobody writes to it."""
    arrays = (output.data, output.indices, output.indptr) if issparse(output) and output.format in ("csr", "csc") else (output,)
    for array in arrays:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return output


def _own(estimator: Any, X: Any) -> Any:
    """Return rows that an estimator may write to, if it asks for that."""
    params = estimator.get_params(deep=True) if hasattr(estimator, "get_params") else {}
    asks = any(value is _WRITES.get(name.rpartition("__")[2], _WRITES) for name, value in params.items())
    return X.copy() if asks and hasattr(X, "copy") else X


# -- shared parts ------------------------------------------------------------------------------------------------------


def extended(
    setting: Setting,
    table: Table,
    fold: Fold,
    there: Cut | None,
    node: Node,
    before: Part | None,
    first: Part | None,
    *inner: Part,
) -> Part:
    """Fit one more step, or a member of one, on what the steps before it made of the rows; parts of it may be there.

    ``first`` is what others keep more or less of, where there is such a thing.
    """
    if any_lost(before, first, *inner):
        return Part(lost=True)
    start = time.time()
    try:
        with at_work(setting):
            rows_of = there or _cut(setting, table, fold)
            X = before.output if before else rows_of.X_train
            if node.columns is not None:
                X = _safe_indexing(X, node.columns(X) if callable(node.columns) else node.columns, axis=1)
                if np.shape(X)[1:] == (0,):  # a member that gets no columns is never asked
                    return Part((clone(node.estimator),), X)
            options = {name.partition("__")[2]: rows_of.fit_params[name] for name in node.params}
            given = {name: Given(part.fitted[-1], part.output) for (name, _), part in zip(node.members, inner, strict=True)}
            with apart():
                estimator = clone(node.estimator)
                if first is None:
                    fitted, output = _fitted(estimator, X, rows_of.y_train, options, given)
                else:
                    fitted, output = truncated(estimator, first.fitted[-1], first.output, X)
    except Exception:
        return Part(lost=True)  # whoever fits it for himself will say why
    if fitted is None:
        return Part(lost=True)
    seconds = time.time() - start + sum(part.seconds for part in inner)
    past = Part() if node.inner or before is None else before
    return Part((*past.fitted, fitted), _frozen(output), seconds + (first or past).seconds)


def moved(setting: Setting, table: Table, fold: Fold, there: Cut | None, train: bool, part: Part, before: Part | None) -> Part:
    """Transform the rows that are scored by the last step of a part, from what the steps before it made of them."""
    if any_lost(part, before):
        return Part(lost=True)
    start = time.time()
    try:
        with at_work(setting):
            if before is None:
                rows_of = there or _cut(setting, table, fold)
                X = rows_of.X_train if train else rows_of.X_test
            else:
                X = before.output
            output = _frozen(part.fitted[-1].transform(_own(part.fitted[-1], X)))
    except Exception:
        return Part(lost=True)
    return Part((), output, time.time() - start + (before.seconds if before else 0.0))


def _fitted(estimator: Any, X: Any, y: Any, params: dict[str, Any], given: dict[str, Given]) -> tuple[Any, Any]:
    """Fit a clone and transform; return both, or (None, None) if it drew random numbers."""
    X = _own(estimator, X)
    if given:
        return estimator, assemble(estimator, X, y, given)
    watched, chance = Watched(), draws(estimator)
    if chance:
        estimator.set_params(**dict.fromkeys(chance, watched))
    if hasattr(estimator, "fit_transform"):
        output = estimator.fit_transform(X, y, **params)
    else:
        output = estimator.fit(X, y, **params).transform(X)
    if watched.used or any(value is watched for name, value in vars(estimator).items() if name not in chance):
        return None, None
    if chance:
        estimator.set_params(**dict.fromkeys(chance))
    return estimator, output


def any_lost(*parts: Part | None) -> bool:
    """Say whether one of some parts cannot be shared."""
    return any(part is not None and part.lost for part in parts)


# -- candidates --------------------------------------------------------------------------------------------------------


class _Revealing:
    """A scorer that may look at the estimator: it sees the fitted steps, not their stand-ins."""

    def __init__(self, scorer: Any) -> None:
        self.scorer = scorer

    def __call__(self, estimator: Any, *args: Any, **params: Any) -> Any:
        return self.scorer(revealed(estimator), *args, **params)


def evaluated(
    setting: Setting,
    table: Table,
    fold: Fold,
    there: Cut | None,
    candidates: Sequence[Candidate],
    part: Part | None = None,
    *seen: Part,
) -> list[Score]:
    """Fit and score candidates that begin with the same part, each from where the one before it ended, if it has a path."""
    shared = None if any_lost(part, *seen) else part
    scores: list[Score] = []
    with at_work(setting):
        try_ = _Trial(setting, table, fold, there, shared, seen, keep=len(candidates) > 1)
        for candidate in candidates:
            before = _ended(scores[-1].fitted) if scores else None
            score = try_(candidate, before)
            if before is not None and _ended(score.fitted) is None:  # it is no better off than it would have been
                score = try_(candidate, None)
            scores.append(score)
    return [replace(score, fitted=None) for score in scores] if len(scores) > 1 else scores


@dataclass(frozen=True)
class _Trial:
    """Fits and scores a candidate on a fold: with the part that is there, else on the rows that are cut, else as scikit-learn.

    What succeeds is the same all three ways. What fails is left to scikit-learn, with all that belongs to it.
    """

    setting: Setting
    table: Table
    fold: Fold
    there: Cut | None
    part: Part | None
    seen: Sequence[Part]
    keep: bool

    def __call__(self, candidate: Candidate, before: Any) -> Score:
        """Fit and score a candidate; ``before`` is a fit of the path to go on from."""
        if self.part is not None:
            with contextlib.suppress(Exception):
                return self._with_part(candidate, before, self.part)
        if self.there is not None:
            with contextlib.suppress(Exception):
                return self._quick(self._estimator(candidate, before), self.there, self.setting.scorer)
        return self._plainly(candidate, before)

    def _estimator(self, candidate: Candidate, before: Any) -> Any:
        estimator = clone(self.setting.estimator).set_params(**clone(candidate.params, safe=False))
        if before is not None:
            _begun(_final(estimator), before)
        return estimator

    def _with_part(self, candidate: Candidate, before: Any, part: Part) -> Score:
        """Fit a pipeline whose first steps are given."""
        estimator = self._estimator(candidate, before)
        stands = [Given(fitted) for fitted in part.fitted]
        places = [i for i, (_, step) in enumerate(estimator.steps) if hasattr(step, "fit")][: len(stands)]
        whole = places[-1] == len(estimator.steps) - 1
        stands[-1].output = part.output if whole else _own(estimator.steps[-1][1], part.output)
        numbers = self.fold.test, self.fold.train
        stands[-1].known = tuple((number, there.output) for number, there in zip(numbers, self.seen, strict=False))
        steps = list(estimator.steps)
        for place, stand in zip(places, stands, strict=True):
            steps[place] = steps[place][0], stand
        estimator.steps = steps
        plain = self.setting.plain
        table = replace(self.table, X=rows(_num_samples(self.table.X))) if plain else self.table
        there = self.there if self.there is not None and not plain else _cut(self.setting, table, self.fold)
        score = self._quick(estimator, there, self.setting.scorer if plain else _Revealing(self.setting.scorer))
        score.out["fit_time"] += part.seconds
        score.out["score_time"] += self.seen[0].seconds if plain else 0.0
        return replace(score, given=len(stands))

    def _quick(self, estimator: Any, there: Cut, scorer: Any) -> Score:
        """Fit and score; raise if anything is out of the ordinary."""
        labels = () if there.y_train is None else (there.y_train,)
        with apart():
            start = time.time()
            estimator.fit(_own(estimator, there.X_train), *labels, **there.fit_params)
            fitted = time.time()
        labels = () if there.y_test is None else (there.y_test,)
        out = {"fit_error": None, "test_scores": _numbers(scorer(estimator, there.X_test, *labels, **there.score_test))}
        out |= {"n_test_samples": len(self.fold.test), "fit_time": fitted - start, "score_time": time.time() - fitted}
        if self.setting.options["return_train_score"]:
            labels = () if there.y_train is None else (there.y_train,)
            out["train_scores"] = _numbers(scorer(estimator, there.X_train, *labels, **there.score_train))
        return Score(out, 0, estimator if self.keep else None)

    def _plainly(self, candidate: Candidate, before: Any) -> Score:
        """Fit and score by scikit-learn's own function."""
        estimator = clone(self.setting.estimator) if before is None else self._estimator(candidate, before)
        with apart():
            out = validation._fit_and_score(
                estimator,
                self.table.X,
                self.table.y,
                scorer=self.setting.scorer,
                train=self.fold.train,
                test=self.fold.test,
                parameters=candidate.params,
                fit_params=self.table.fit_params,
                score_params=self.table.score_params,
                return_n_test_samples=True,
                return_times=True,
                return_estimator=self.keep,
                split_progress=(self.fold.number, self.fold.count),
                candidate_progress=(candidate.number, candidate.count),
                **self.setting.options,
            )
        return Score(out, 0, out.pop("estimator", None) if out["fit_error"] is None else None)


def _numbers(scores: Any) -> Any:
    """Return scores as numbers of Python."""
    if isinstance(scores, dict):
        return {name: _numbers(score) for name, score in scores.items()}
    score = scores.item() if hasattr(scores, "item") else scores
    if not isinstance(score, numbers.Number):
        raise TypeError("not a number")
    return score


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
