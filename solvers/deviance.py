"""Deviance: a table of nested models, each tested against the one before it, as R's ``anova`` does for ``glm``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from solvers.inference import Inference
from solvers.result import Result

__all__ = ["DevianceRow", "DevianceTable", "deviance_table"]


@dataclass(frozen=True)
class DevianceRow:
    """A model, and how much less deviance it has than the one before it.

    Attributes
    ----------
    df_residual, deviance : float
        Of the model.
    df, decrease : float
        What it has more of parameters and less of deviance; NaN for the first.
    statistic, p_value : float
        F or chi-squared, and how likely one of at least this size is if the smaller model is true; NaN for the first.
    """

    df_residual: float
    deviance: float
    df: float = math.nan
    decrease: float = math.nan
    statistic: float = math.nan
    p_value: float = math.nan


@dataclass(frozen=True)
class DevianceTable:
    """Nested models, in order.

    Attributes
    ----------
    lines : tuple of DevianceRow
        One for each model.
    test : str
        "F", or "chi-squared" where the dispersion is known.
    """

    lines: tuple[DevianceRow, ...]
    test: str

    def __str__(self) -> str:
        lines = [f"{'df left':>10} {'deviance':>12} {'df':>6} {'decrease':>12} {self.test:>12} {'p':>9}"]
        for row in self.lines:
            line = f"{row.df_residual:>10.10g} {row.deviance:>12.6g}"
            if not math.isnan(row.df):
                p = "< 0.0001" if row.p_value < 1e-4 else f"{row.p_value:.4f}"
                line += f" {row.df:>6.4g} {row.decrease:>12.6g} {row.statistic:>12.4g} {p:>9}"
            lines.append(line)
        return "\n".join(lines)


def deviance_table(*results: Result) -> DevianceTable:
    """Compare nested models by their deviance: a likelihood ratio test, or F where the dispersion is estimated.

    Parameters
    ----------
    results : Result
        Fits of the same labels with ``inference=True``, each of features that hold those of the one before.

    Returns
    -------
    DevianceTable
        A row for each; it prints well.

    Raises
    ------
    ValueError
        If a fit has no inference or no deviance, or fits are of other labels, families or weights, or not from the smallest to
        the largest.

    Notes
    -----
    F has the dispersion of the largest model, which need not be wrong where a smaller one is. That models are nested is not
    checked beyond what their numbers tell.

    Examples
    --------
    >>> import numpy as np
    >>> from solvers import deviance_table, fit
    >>> rng = np.random.default_rng(0)
    >>> X = rng.random((200, 3))
    >>> y = rng.poisson(np.exp(X @ [1.0, 0.0, 0.0])).astype(float)
    >>> fits = [fit(X[:, :n], y, family="poisson", inference=True) for n in (1, 3)]
    >>> print(deviance_table(*fits))
       df left     deviance     df     decrease  chi-squared         p
           198      ...
           196      ...      2      ...      ...      ...
    """
    from scipy import special

    if len(results) < 2:
        raise ValueError("deviance_table: give two results or more.")
    all_ = [_asked(result) for result in results]
    last = all_[-1]
    rows = [DevianceRow(all_[0].df_residual, all_[0].deviance)]
    for one, other in pairwise(all_):
        _alike(one, other)
        df, decrease = float(other.rank - one.rank), one.deviance - other.deviance
        if df <= 0 or decrease < -1e-8 * abs(one.deviance):
            raise ValueError("deviance_table: give nested models, the smallest first.")
        if last.estimated:
            statistic = decrease / df / last.dispersion
            p = float(special.fdtrc(df, last.df_residual, max(statistic, 0.0)))
        else:
            statistic = decrease
            p = float(special.chdtrc(df, max(statistic, 0.0)))
        rows.append(DevianceRow(other.df_residual, other.deviance, df, decrease, statistic, p))
    return DevianceTable(tuple(rows), "F" if last.estimated else "chi-squared")


def _asked(result: Result) -> Inference:
    if result.inference is None:
        raise ValueError("deviance_table: a result has no inference; fit with inference=True, until it converges.")
    if math.isnan(result.inference.deviance):
        raise ValueError(f"deviance_table: the {result.inference.family} family has no deviance.")
    return result.inference


def _alike(one: Inference, other: Inference) -> None:
    """Raise if two fits cannot be of the same labels."""
    if one.family != other.family:
        raise ValueError(f"deviance_table: families differ, {one.family} and {other.family}.")
    if one.weights_are != other.weights_are or not math.isclose(one.rows, other.rows, rel_tol=1e-12):
        raise ValueError(f"deviance_table: rows or weights differ, {one.rows:.10g} and {other.rows:.10g} rows.")
    if not math.isclose(one.label, other.label, rel_tol=1e-9, abs_tol=1e-300):
        raise ValueError("deviance_table: labels differ.")
