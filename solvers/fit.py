"""Fit: data, family, penalty and solver, chosen and put together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from solvers.admm import ADMM
from solvers.bfgs import BFGS, LBFGS, OWLQN
from solvers.chunks import recut
from solvers.consensus.method import ConsensusADMM
from solvers.data import Data, prepare
from solvers.families import Family, Normal, family_of
from solvers.giant import Giant
from solvers.gradient import GradientDescent
from solvers.gram import GramObjective
from solvers.information import infer, refuse
from solvers.iterate import Method, minimise
from solvers.moments import standardised
from solvers.multinomial import Multinomial, MultinomialObjective
from solvers.newton import Newton, ProximalNewton
from solvers.objective import Objective
from solvers.penalties import Penalty, Unpenalised
from solvers.proximal import Proximal
from solvers.result import Point, Result, Status
from solvers.saga import SAGA
from solvers.scaled import ScaledHuber, ScaledObjective

__all__ = ["OBJECTIVES", "SOLVERS", "cut", "fit", "objective_of", "solve"]

#: The solvers that go by a name.
SOLVERS: dict[str, Method] = {
    "gradient": GradientDescent(),
    "proximal": Proximal(),
    "newton": Newton(),
    "proximal-newton": ProximalNewton(),
    "bfgs": BFGS(),
    "lbfgs": LBFGS(),
    "owlqn": OWLQN(),
    "giant": Giant(),
    "admm": ADMM(),
    "admm-async": ConsensusADMM(),
    "saga": SAGA(),
}

#: The objectives of families that have one of their own.
OBJECTIVES: dict[type[Family], type[Objective]] = {
    Multinomial: MultinomialObjective,
    Normal: GramObjective,
    ScaledHuber: ScaledObjective,
}

#: Up to so many coefficients Newton's few passes take no longer than those of L-BFGS where features are not standardised: of
#: several classes, of dense features, and of sparse ones, whose Hessians cost pairs of what a row has. And up to so many a
#: Hessian is worth its memory where nothing else serves as well.
_FEW, _MANY, _SPARSE, _SOME = 64, 300, 1_000, 2_000

#: An objective that is lower by more than this, relative to it and to where it began, is lower by more than rounding.
_BETTER = 1e-10


def fit(
    X: Any,
    y: Any,
    *,
    family: str | Family = "normal",
    penalty: Penalty | None = None,
    solver: str | Method = "auto",
    intercept: bool = True,
    standardize: bool = False,
    weights: Any = None,
    offset: Any = None,
    start: Any = None,
    tol: float = 1e-6,
    max_iter: int = 200,
    inference: bool | str = False,
    weights_are: str | None = None,
    chunks: str | None = None,
    callback: Callable[[Point, np.ndarray], Any] | None = None,
    progress: bool = False,
) -> Result:
    """Fit a generalised linear model: minimise the weighted mean loss and a penalty.

    Parameters
    ----------
    X : array of shape (rows, features)
        A dask or NumPy array, a dask or pandas dataframe, a SciPy sparse matrix, or a dask array of sparse chunks. What is not
        in memory is loaded in each pass.
    y : array of shape (rows,)
        Labels.
    family : str or Family
        "normal", "logistic", "poisson", "gamma", "huber", or one of your own.
    penalty : Penalty, optional
        Of the coefficients, beside the *mean* loss; the intercept has none.
    solver : str or Method
        "auto", or one of "gradient", "proximal", "newton", "proximal-newton", "bfgs", "lbfgs", "owlqn", "giant",
        "admm", "admm-async", "saga".
    intercept : bool
        Whether to fit one.
    standardize : bool
        Whether the penalty is of coefficients in units of the features' standard deviations. Coefficients come back, and
        ``start`` is taken, in the features' own units.
    weights, offset : array of shape (rows,), optional
        How much each row counts; what is added to its linear predictor.
    start : array, optional
        Coefficients to begin with, the intercept last.
    tol : float
        The certificate to reach: the largest component of the proximal gradient.
    max_iter : int
        The most iterations.
    inference : bool or str
        Whether to say how well coefficients are determined, in one pass more: True for what the family says, "HC0" or "HC1"
        for a sandwich, which does not need the family to be right about the variance. For fits without a penalty.
    weights_are : str, optional
        What weights are, for ``inference``: "frequencies", where a weight of 3 stands for three equal rows, or "precisions",
        where it stands for one row with a third of the variance.
    chunks : str, optional
        "auto" to look some seconds for the chunks that suit solver and machine, and to fit to rows that are cut so. For more
        fits to them take ``result.chunks.rechunk(X, y)``. By default rows stay as they are cut.
    callback : callable, optional
        Called after each iteration with a line of the trace and the coefficients; ends the fit if it returns True.
    progress : bool
        Show iterations, objective and certificate on standard error while it runs.

    Returns
    -------
    Result
        Coefficients, status with advice, certificate and trace. It prints well.

    Raises
    ------
    ValueError
        If the data cannot be fitted: shapes, labels, weights, numbers that are not finite; if there is no such family or
        solver; or if the solver cannot minimise this objective.

    Examples
    --------
    >>> import numpy as np
    >>> from solvers import L2, fit
    >>> rng = np.random.default_rng(0)
    >>> X = rng.random((200, 3))
    >>> result = fit(X, X @ [1.0, -2.0, 0.5] + 3, penalty=L2(1e-9))
    >>> result.status.value, np.round(result.coef, 4).tolist(), round(result.intercept, 4)
    ('converged', [1.0, -2.0, 0.5], 3.0)
    """
    kind = family_of(family)
    data = prepare(X, y, kind, weights=weights, offset=offset)
    objective = objective_of(data, kind, penalty or Unpenalised(), intercept=intercept, standardize=standardize)
    if inference:
        refuse(objective, inference, weights_are)
    before = objective.passes
    options: dict[str, Any] = {"chunks": chunks, "callback": callback, "progress": progress}
    result = solve(objective, solver, start=start, tol=tol, max_iter=max_iter, **options)
    passes, after = before + result.passes, objective.passes
    found = infer(objective, result.beta, inference, weights_are) if inference and result.ok else None
    return replace(result, passes=passes + objective.passes - after, inference=found)


def objective_of(
    data: Data, family: Family, penalty: Penalty, *, intercept: bool = True, standardize: bool = False
) -> Objective:
    """Return the objective of a family: most have a number for each row, some have more to look for."""
    kind = OBJECTIVES.get(type(family), Objective)
    if kind is GramObjective and data.features > _SOME:  # so many products are not worth their memory
        kind = Objective
    objective = kind(data, family, penalty, intercept=intercept)
    return standardised(objective) if standardize else objective


def solve(
    objective: Objective,
    solver: str | Method = "auto",
    *,
    start: Any = None,
    tol: float = 1e-6,
    max_iter: int = 200,
    chunks: str | None = None,
    callback: Callable[[Point, np.ndarray], Any] | None = None,
    progress: bool = False,
) -> Result:
    """Minimise an objective, as `fit` does once it has put one together."""
    method, why = _chosen(solver, objective)
    with _shown(progress, max_iter, callback) as (told, said):
        objective, choice = cut(objective, method, chunks, start, said)
        found = minimise(method, objective, start, tol=tol, max_iter=max_iter, callback=told, why=why)
    if found.status is Status.PRECISION:
        found = _confirmed(objective, found)
    return found if choice is None else replace(found, chunks=choice)


def cut(
    objective: Objective, solver: str | Method, chunks: str | None, start: Any = None, said: Callable[[str], None] | None = None
) -> tuple[Objective, Any]:
    """Return an objective over the data in the chunks that are asked for, and what was found out about them, or None."""
    if chunks is None:
        return objective, None
    if chunks != "auto":
        raise ValueError(f"chunks={chunks!r}: must be 'auto', or None for rows that stay as they are cut; or rechunk X before.")
    return recut(objective, _chosen(solver, objective)[0], start, said)


def _confirmed(objective: Objective, found: Result) -> Result:
    """Return a result whose method saw nothing but rounding, or say that it stalled, if a step of another finds better."""
    method: Method = Newton() if objective.penalty.smooth else ProximalNewton()
    if objective.size > _SOME or not objective.penalty.separable:
        method = Proximal()
    before = objective.passes
    state = method.step(objective, method.init(objective, objective.standard(found.beta)))
    value = np.inf if state is None else state.at.value + objective.nonsmooth(state.beta)
    least = _BETTER * max(abs(found.objective), abs(found.trace[0].objective))
    status = Status.STALLED if value < found.objective - least else found.status
    return replace(found, status=status, passes=found.passes + objective.passes - before)


def _chosen(solver: str | Method, objective: Objective) -> tuple[Method, str]:
    """Return the method, and why it is this one."""
    if not isinstance(solver, str):
        return solver, ""
    if solver != "auto":
        if solver not in SOLVERS:
            raise ValueError(f"There is no solver {solver!r}: give auto, {', '.join(SOLVERS)}, or a method.")
        return SOLVERS[solver], ""
    size, penalty = objective.size, objective.penalty
    if not penalty.separable:
        return Proximal(), "the penalty ties coefficients together"
    if not penalty.smooth:
        if size > _SOME:
            return Proximal(), f"{size} coefficients are too many for a Hessian"
        return ProximalNewton(), "the penalty is not smooth"
    if isinstance(objective.family, Normal) and size <= _SOME:
        return Newton(), "least squares takes one step"
    if objective.plain and objective.data.sparse and size <= _SPARSE:
        return Newton(), "rows are sparse"
    if size > (_MANY if objective.plain else _FEW):
        return LBFGS(), f"a Hessian of {size} coefficients costs more than it saves"
    return Newton(), "there are few coefficients"


@contextlib.contextmanager
def _shown(progress: bool, max_iter: int, callback: Any) -> Iterator[Any]:
    """Show how far a fit is."""
    if not progress:
        yield callback, None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("fitting", total=max_iter)

        def told(point: Point, beta: np.ndarray) -> Any:
            text = f"objective {point.objective:.6g}, certificate {point.certificate:.1e}"
            bar.update(task, completed=point.iteration, description=text)
            return None if callback is None else callback(point, beta)

        yield told, lambda text: bar.update(task, description=f"looking for chunks: {text}")
