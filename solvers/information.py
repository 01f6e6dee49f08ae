"""Information: the pass that says how well a fit is determined, and what is made of it on the client.

With a row's weight s, its score r = first(eta) and the covariance of what is looked for::

    model   φ A⁻¹,    A = Σ s information(eta) x xᵀ             φ is Pearson's chi-squared by the residual degrees of freedom
    HC0     A⁻¹ B A⁻¹, A = Σ s second(eta) x xᵀ, B = Σ g x xᵀ   g is s r² for frequencies, (s r)² for precisions
    HC1     that times rows / (rows - rank)

Pearson's residual, squared, is r² / information. Rows are taken about their means (`solvers.moments`), which keeps the digits
of features with large means; beside an intercept that is a change of coordinates, undone at the end. A⁻¹ Σ s r x is the Newton
step that is left: in units of standard errors it says whether the fit was exact enough.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
from dask.base import compute

from solvers.data import Data
from solvers.families import Family
from solvers.inference import Inference
from solvers.iterate import minimise
from solvers.moments import Moments, constant, joined, per_chunk, products, width
from solvers.multinomial import MultinomialObjective
from solvers.newton import Newton
from solvers.objective import Objective, evaluated
from solvers.penalties import Unpenalised
from solvers.rows import by_chunks

__all__ = ["KINDS", "infer", "refuse"]

#: Kinds of covariance, by what asks for them.
KINDS: dict[Any, str] = {True: "model", "model": "model", "HC0": "HC0", "HC1": "HC1"}

#: What weights are: how often a row was seen, or how precise it is.
_WEIGHTS = ("frequencies", "precisions")

#: What is summed up over rows beside products.
_SUMS = 7

#: So many coefficients have covariances that fit in memory a few times, once for each chunk.
_MOST = 4_000

#: Directions with less than this part of the information, for each coefficient, are rounding; coefficients with more than this
#: part of such a direction are not determined.
_SINGULAR, _PART = 2e-14, 1e-6


def refuse(objective: Objective, kind: Any, weights_are: str | None) -> None:
    """Raise if there is nothing that could be said of a fit, or not without knowing what weights are.

    Raises
    ------
    ValueError
        With what to do instead.
    """
    if not isinstance(kind, (bool, str)) or kind not in KINDS:
        raise ValueError(f"inference={kind!r}: must be True, 'HC0' or 'HC1'.")
    family, penalty = objective.family, objective.penalty
    if weights_are not in (None, *_WEIGHTS):
        raise ValueError(f"weights_are={weights_are!r}: must be 'frequencies' or 'precisions'.")
    if objective.data.weights is not None and weights_are is None:
        raise ValueError(
            "weights_are: standard errors depend on it. Say 'frequencies' if a weight of 3 stands for three equal rows, "
            "'precisions' if it stands for one row with a third of the variance."
        )
    if objective.size > _MOST:
        raise ValueError(f"inference: {objective.size} coefficients have too many covariances; ask for {_MOST} at most.")
    if not penalty.smooth:
        raise ValueError(
            f"inference: {penalty!r} chooses coefficients by the same rows, so their standard errors would be wrong. Fit those "
            "that it chooses without a penalty, on other rows."
        )
    if penalty.ridge:
        raise ValueError(
            f"inference: {penalty!r} draws coefficients towards 0, which standard errors do not tell. Fit without a penalty, "
            "or repeat the penalised fit on resampled rows."
        )
    if isinstance(objective, MultinomialObjective):
        if KINDS[kind] != "model":
            raise ValueError(f"inference={kind!r}: there is no sandwich for several classes yet; use inference=True.")
    elif not objective.plain:
        raise ValueError(
            f"inference: not for the {family.name} family. For scaled huber, fit family=Huber(delta * scale) with the scale "
            "that was found, the last of `beta`, and inference='HC0'."
        )
    elif KINDS[kind] == "model" and family.information(np.zeros(1)) is None:
        raise ValueError(f"inference: the {family.name} family is no likelihood; use inference='HC0' or 'HC1'.")


def infer(objective: Objective, beta: np.ndarray, kind: Any = True, weights_are: str | None = None) -> Inference:
    """Return what an optimum says about its coefficients, in one pass over the data.

    Parameters
    ----------
    objective
        What was minimised, without a penalty.
    beta
        Where its minimum is, in the features' own units.
    kind
        One of `KINDS`.
    weights_are
        What weights are, if there are any.
    """
    refuse(objective, kind, weights_are)
    meaning = "" if objective.data.weights is None else str(weights_are)
    if isinstance(objective, MultinomialObjective):
        return _of_classes(objective, beta, meaning)
    data, family, intercept = objective.data, objective.family, objective.intercept
    asked = _Asked(KINDS[kind], meaning)
    null = _null(objective)
    objective.passes += 1
    w, b = (beta[:-1], float(beta[-1])) if intercept else (beta, 0.0)
    sums, *told = evaluated(_pass(asked), data, family, w, np.array([b, null]))
    seen, logs, losses, least, nulls, pearson, extra = np.asarray(sums[:_SUMS]).tolist()
    rows = data.total if meaning == "frequencies" else seen
    scores = joined(*told[2:]) if asked.robust else None
    covariance, rank, step = _covariance(data, intercept, joined(*told[:2]), np.asarray(sums[_SUMS:]), scores)
    left = rows - rank
    likely = family.information(np.zeros(1)) is not None
    dispersion = 1.0 if likely else math.nan
    if family.dispersed:
        dispersion = pearson / left if left > 0 else math.nan
    if asked.kind == "HC1":
        covariance = covariance * (rows / left if left > 0 else math.nan)
    elif not asked.robust:
        covariance = covariance * dispersion
    log_weights = logs if meaning == "precisions" else None
    return Inference(
        names=(*_names(data), *["intercept"] * intercept),
        coef=beta,
        covariance=covariance,
        kind=asked.kind,
        family=family.name,
        weights_are=meaning,
        rows=rows,
        rank=rank,
        dispersion=dispersion,
        estimated=family.dispersed or not likely,
        pearson=pearson if likely else math.nan,
        deviance=2.0 * (losses - least) if likely else math.nan,
        null_deviance=2.0 * (nulls - least) if likely else math.nan,
        log_likelihood=family.log_likelihood(losses, extra, rows, dispersion, log_weights) if likely else math.nan,
        label=data.label,
        off=_off(step, covariance),
    )


def _names(data: Data) -> tuple[str, ...]:
    return data.names or tuple(f"x{i}" for i in range(data.features))


def _null(objective: Objective) -> float:
    """Return the intercept that fits best alone; with an offset, by passes over labels without features."""
    data, family = objective.data, objective.family
    if not objective.intercept:
        return 0.0
    if data.offset is None:
        return family.link(data.label)
    local = None if data.local is None else (np.ones((data.rows, 1)), *data.local[1:])
    thin = replace(data, X=da.ones((data.rows, 1), chunks=(data.X.chunks[0], 1)), local=local, names=None)
    return float(minimise(Newton(), Objective(thin, family, Unpenalised(), intercept=False), tol=1e-10).beta[0])


# -- in the chunks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """What is asked of the chunks."""

    kind: str
    weights_are: str

    @property
    def robust(self) -> bool:
        """Whether scores are multiplied too."""
        return self.kind != "model"


@functools.cache
def _pass(asked: _Asked) -> Callable[..., Any]:
    """Return the pass that sums up what is asked."""

    def look(family: Family, X: Any, y: Any, weights: Any, offset: Any, w: Any, ends: Any) -> Any:
        count, work = X.shape[1], functools.partial(_looked, family=family, asked=asked)
        first = _SUMS + count + 1
        second = first + width(count)
        out = by_chunks(work, second + asked.robust * width(count), X, y, weights, offset, w, ends)
        found = [out[:, :first].sum(axis=0), *per_chunk(out[:, first:second], count)]
        return tuple([*found, *per_chunk(out[:, second:], count)] if asked.robust else found)

    return look


def _looked(
    X: Any, y: np.ndarray, weights: Any, offset: Any, w: np.ndarray, ends: np.ndarray, *, family: Family, asked: _Asked
) -> np.ndarray:
    """Return the sums of a chunk and its products."""
    s, offset = np.ones(len(y)) if weights is None else weights, 0.0 if offset is None else offset
    eta, null = np.asarray(X @ w) + ends[0] + offset, np.full(len(y), ends[1]) + offset
    r, expected = family.first(eta, y), family.information(eta)
    seen, square = s > 0, np.zeros(len(y)) if expected is None else r * r
    with np.errstate(divide="ignore", invalid="ignore"):
        pearson = np.where(square > 0, square / (1.0 if expected is None else expected), 0.0)
    parts = [family.losses(eta, y), family.saturated(y), family.losses(null, y), pearson, family.extra(y)]
    sums = [seen.sum(), np.log(s[seen]).sum(), *[(s * part).sum() for part in parts]]
    found = [np.array(sums), np.asarray(X.T @ (s * r)), np.array([(s * r).sum()])]
    found.append(products(X, s * (family.second(eta, y) if asked.robust else expected)))
    if asked.robust:
        found.append(products(X, (s if asked.weights_are == "frequencies" else s * s) * r * r))
    return np.concatenate(found)


# -- on the client -------------------------------------------------------------------------------------------------------


def _covariance(
    data: Data, intercept: bool, by: Moments, slope: np.ndarray, scores: Moments | None
) -> tuple[np.ndarray, int, np.ndarray]:
    """Return covariances for a dispersion of 1, NaN where rows do not determine a coefficient; the rank; and the step left."""
    count = data.features
    shift = by.mean if intercept else np.zeros(count)
    core = _about(by, shift)
    rounding = 0.0
    if intercept:
        lost, rounding = _lost(data, by)
        core[lost], core[:, lost] = 0.0, 0.0
    size = np.sqrt(np.maximum(np.diag(core), 0.0))
    inverse, null = _inverse(core, size, rounding)
    free, rank = _parts(null) > _PART, count - null.shape[1]
    back = np.eye(count + intercept)
    bread = np.zeros_like(back)
    bread[:count, :count] = inverse
    if intercept:
        bread[-1, -1] = 1.0 / by.total if by.total > 0 else math.nan
        back[-1, :-1] = -shift
        along = by.mean * math.sqrt(by.total) / np.where(size > 0, size, 1.0)
        free = np.append(free, _parts(along[None] @ null) > _PART * max(1.0, float(np.abs(along).max())))
        rank += 1
    meat = bread if scores is None else bread @ _scores(scores, shift, intercept) @ bread
    covariance = back @ meat @ back.T
    covariance[free], covariance[:, free] = math.nan, math.nan
    return covariance, rank, back @ bread @ (back.T @ slope[: len(back)])


def _lost(data: Data, by: Moments) -> tuple[np.ndarray, float]:
    """Say which features are constant, and how much of the others' products is rounding."""
    variance, square = np.diag(by.products) / (by.total or 1.0), by.mean**2
    lost = constant(variance, by.mean, data.rows)
    if not data.sparse:
        return lost, 0.0
    lost |= variance <= 1e-13 * square  # CSR is multiplied as it is, and means come off its products as their squares
    return lost, 1e-15 * float(np.max(square[~lost] / variance[~lost], initial=0.0))


def _scores(scores: Moments, shift: np.ndarray, intercept: bool) -> np.ndarray:
    """Return the products of scores, by features about a point and by the intercept."""
    meat = _about(scores, shift)
    if not intercept:
        return meat
    level = scores.total * (scores.mean - shift)
    return np.block([[meat, level[:, None]], [level[None], np.array([[scores.total]])]])


def _parts(null: np.ndarray) -> np.ndarray:
    """Return how much each row has of directions that the rows of the data do not determine."""
    return np.abs(null).max(axis=1, initial=0.0)  # type: ignore[no-any-return]


def _off(step: np.ndarray, covariance: np.ndarray) -> float:
    """Return how many standard errors a step has at most."""
    known = np.diag(covariance) > 0
    return float(np.max(np.abs(step[known]) / np.sqrt(np.diag(covariance)[known]), initial=0.0))


def _about(moments: Moments, point: np.ndarray) -> np.ndarray:
    """Return the products of columns about a point, which is not their mean."""
    apart = moments.mean - point
    found: np.ndarray = moments.products + moments.total * np.outer(apart, apart)
    return found


def _inverse(core: np.ndarray, size: np.ndarray, rounding: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return a generalised inverse, and the directions that it leaves out, in units of each column's own size."""
    if not len(core):
        return core, core
    safe = np.where(size > 0, size, 1.0)
    sizes, along = np.linalg.eigh(core / np.outer(safe, safe))
    kept = sizes > _SINGULAR * len(core) + rounding
    inverse = along[:, kept] / sizes[kept] @ along[:, kept].T / np.outer(safe, safe)
    return inverse, along[:, ~kept]


# -- several classes -----------------------------------------------------------------------------------------------------


def _of_classes(objective: MultinomialObjective, beta: np.ndarray, meaning: str) -> Inference:
    """Return the same for `Multinomial`: of coefficients whose sum over the classes is 0."""
    data, family, classes = objective.data, objective.family, objective.family.classes
    plain = MultinomialObjective(data, family, Unpenalised(), intercept=objective.intercept)  # in the features' own units
    at = plain(beta, hessian=True)
    objective.passes += 1
    assert at.hessian is not None
    # Directions that change no loss were given curvature of their own, so what is inverted is regular, and they are taken out
    # again: what is left is the inverse among coefficients whose sum is 0.
    core = data.total * at.hessian
    inverse, null = _inverse(core, np.sqrt(np.diag(core)))
    apart = np.eye(classes) - 1.0 / classes
    out = np.kron(apart, np.eye(data.features))
    if objective.intercept:
        out = np.block([[out, np.zeros((len(out), classes))], [np.zeros((classes, len(out))), apart]])
    covariance = out @ inverse @ out.T
    free = _parts(null) > _PART
    covariance[free], covariance[:, free] = math.nan, math.nan
    ones = da.ones_like(data.y) if data.weights is None else data.weights
    held = compute((ones > 0).sum(), *[(ones * (data.y == k)).sum() for k in range(classes)])
    rows = data.total if meaning == "frequencies" else float(held[0])
    shares = np.array(held[1:]) / data.total
    entropy = -float((shares * np.log(np.where(shares > 0, shares, 1.0))).sum()) if objective.intercept else math.log(classes)
    names = [f"{k}: {name}" for k in range(classes) for name in _names(data)]
    return Inference(
        names=(*names, *[f"{k}: intercept" for k in range(classes)] * objective.intercept),
        coef=beta,
        covariance=covariance,
        kind="model",
        family=family.name,
        weights_are=meaning,
        rows=rows,
        rank=len(core) // classes * (classes - 1) - null.shape[1],
        dispersion=1.0,
        estimated=False,
        pearson=math.nan,
        deviance=2.0 * data.total * at.value,
        null_deviance=2.0 * data.total * entropy,
        log_likelihood=-data.total * at.value,
        label=data.label,
        off=_off(covariance @ (data.total * at.gradient), covariance),
    )
