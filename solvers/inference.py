"""Inference: what an unpenalised fit says about its coefficients, as a value: standard errors, Wald tests, deviance.

A statistic is compared with Student's t where the dispersion is estimated and with the normal distribution where it is known,
as R does; a joint test with F and with chi-squared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Inference", "Wald"]

#: So many standard errors from the optimum are worth a word.
_FAR = 0.01


@dataclass(frozen=True)
class Wald:
    """A joint test of linear hypotheses.

    Attributes
    ----------
    statistic : float
        F where the dispersion is estimated, else chi-squared.
    df, df_residual : float
        How many hypotheses there are, and the degrees of freedom of what they are compared with; infinite for chi-squared.
    p_value : float
        How likely a statistic of at least this size is, if they are true.
    """

    statistic: float
    df: float
    df_residual: float
    p_value: float


@dataclass(frozen=True, eq=False)
class Inference:
    """What a fit without a penalty says about its coefficients: all in the order of `Result.beta`, the intercept last.

    Attributes
    ----------
    names : tuple of str
        Of the coefficients.
    coef : numpy.ndarray
        The coefficients.
    covariance : numpy.ndarray
        Their covariances; NaN where the rows do not determine a coefficient.
    kind : str
        "model", or "HC0" or "HC1" for a sandwich.
    family, weights_are : str
        What was fitted, and what weights were taken for; empty if there were none.
    rows : float
        How many rows count: the sum of frequencies, or the number of rows whose weight is not 0.
    rank : int
        How many numbers the rows determine.
    dispersion : float
        The factor of the variance: 1 where the family has none, else Pearson's estimate.
    estimated : bool
        Whether it was estimated.
    pearson : float
        Pearson's chi-squared.
    deviance, null_deviance : float
        Twice what the log-likelihood is below its most, in units of the dispersion; of the fit, and of its intercept and offset
        alone. NaN where the family is no likelihood.
    log_likelihood : float
        At the dispersion's maximum for the normal family, at its estimate for gamma. NaN where the family has none.
    label : float
        The mean label, by which tables tell other data.
    off : float
        How many standard errors the coefficients are from the optimum, at most.

    Examples
    --------
    >>> import numpy as np
    >>> from solvers import fit
    >>> rng = np.random.default_rng(0)
    >>> X = rng.random((200, 2))
    >>> y = X @ [1.0, -1.0] + rng.normal(0, 0.1, 200)
    >>> found = fit(X, y, inference=True).inference
    >>> np.round(found.standard_errors, 3).tolist()
    [0.024, 0.023, 0.02]
    >>> (found.p_values < 0.01).tolist(), found.df_residual
    ([True, True, False], 197.0)
    >>> print(found.wald(["x0", "x1"]).df_residual)
    197.0
    """

    names: tuple[str, ...]
    coef: np.ndarray
    covariance: np.ndarray = field(repr=False)
    kind: str
    family: str
    weights_are: str
    rows: float
    rank: int
    dispersion: float
    estimated: bool
    pearson: float
    deviance: float
    null_deviance: float
    log_likelihood: float
    label: float
    off: float

    @property
    def df_residual(self) -> float:
        """Rows that are left once coefficients are determined."""
        return self.rows - self.rank

    @property
    def aic(self) -> float:
        """Akaike's criterion; the dispersion is not counted as a parameter."""
        return 2.0 * self.rank - 2.0 * self.log_likelihood

    @property
    def bic(self) -> float:
        """The Bayesian criterion of Schwarz; the dispersion is not counted as a parameter."""
        return math.log(self.rows) * self.rank - 2.0 * self.log_likelihood

    @property
    def standard_errors(self) -> np.ndarray:
        """The root of each variance."""
        found: np.ndarray = np.sqrt(np.diag(self.covariance))
        return found

    @property
    def statistic(self) -> np.ndarray:
        """Each coefficient by its standard error: t where the dispersion is estimated, else z."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.coef / self.standard_errors)

    @property
    def p_values(self) -> np.ndarray:
        """How likely a statistic of at least this size is, if the coefficient is 0."""
        from scipy import special

        sizes = -np.abs(self.statistic)
        return np.asarray(2.0 * (special.stdtr(self.df_residual, sizes) if self.estimated else special.ndtr(sizes)))

    def interval(self, level: float = 0.95) -> np.ndarray:
        """Return the confidence interval of each coefficient.

        Parameters
        ----------
        level : float
            How often such intervals hold the coefficient.

        Returns
        -------
        numpy.ndarray of shape (coefficients, 2)
            Lower and upper ends.
        """
        from scipy import special

        if not 0 < level < 1:
            raise ValueError(f"interval(level={level!r}): must be between 0 and 1.")
        part = 0.5 + 0.5 * level
        half = self.standard_errors * (special.stdtrit(self.df_residual, part) if self.estimated else special.ndtri(part))
        return np.column_stack([self.coef - half, self.coef + half])

    def wald(self, hypotheses: Any, value: Any = 0.0) -> Wald:
        """Test jointly whether linear combinations of the coefficients have given values.

        Parameters
        ----------
        hypotheses : array of shape (coefficients,) or (tests, coefficients), or a sequence of names
            The combinations, or the coefficients that are to be 0 together.
        value : float or array of shape (tests,)
            What they are.

        Raises
        ------
        ValueError
            If there is no such coefficient, or one that the rows do not determine, or hypotheses repeat each other.
        """
        from scipy import special

        chosen = self._rows(hypotheses)
        used = chosen.any(axis=0)
        covariance = chosen[:, used] @ self.covariance[np.ix_(used, used)] @ chosen[:, used].T
        if np.isnan(covariance).any():
            raise ValueError("hypotheses: the rows do not determine all of these coefficients.")
        df = len(chosen)
        if np.linalg.matrix_rank(chosen) < df:
            raise ValueError("hypotheses: some follow from the others.")
        off = chosen @ self.coef - value
        square = float(off @ np.linalg.solve(covariance, off))
        if not self.estimated:
            return Wald(square, df, math.inf, float(special.chdtrc(df, square)))
        return Wald(square / df, df, self.df_residual, float(special.fdtrc(df, self.df_residual, square / df)))

    def _rows(self, hypotheses: Any) -> np.ndarray:
        if isinstance(hypotheses, Sequence) and len(hypotheses) and all(isinstance(name, str) for name in hypotheses):
            names = [hypotheses] if isinstance(hypotheses, str) else list(hypotheses)
            unknown = [name for name in names if name not in self.names]
            if unknown:
                raise ValueError(f"hypotheses: there is no coefficient {unknown[0]!r}.")
            return np.eye(len(self.names))[[self.names.index(name) for name in names]]
        chosen = np.atleast_2d(np.asarray(hypotheses, float))
        if chosen.ndim != 2 or chosen.shape[1] != len(self.names):
            raise ValueError(f"hypotheses has shape {chosen.shape}: must have a column for each of {len(self.names)} numbers.")
        return chosen

    def __str__(self) -> str:
        letter = "t" if self.estimated else "z"
        errors, statistic, p, ends = self.standard_errors, self.statistic, self.p_values, self.interval()
        wide = max(len("intercept"), *map(len, self.names))
        head = f"{'':{wide}}  {'coef':>11} {'std. error':>11} {letter:>9} {f'P>|{letter}|':>9} {'2.5 %':>11} {'97.5 %':>11}"
        lines = [*self._facts(), "", head]
        for i, name in enumerate(self.names):
            if np.isnan(self.covariance[i, i]):
                lines.append(f"{name:{wide}}  {self.coef[i]:>11.5g} not determined: other features say the same")
                continue
            shown = f"{self.coef[i]:>11.5g} {errors[i]:>11.4g} {statistic[i]:>9.3f} {_p(p[i]):>9}"
            lines.append(f"{name:{wide}}  {shown} {ends[i, 0]:>11.5g} {ends[i, 1]:>11.5g}")
        return "\n".join(line.rstrip() for line in lines)

    def _facts(self) -> list[str]:
        weights = f", weights are {self.weights_are}" if self.weights_are else ""
        lines = [f"{self.family}, {self.rows:.10g} rows{weights}; standard errors: {self.kind}"]
        if not math.isnan(self.deviance):
            lines.append(f"deviance {self.deviance:.6g} on {self.df_residual:.10g} df, null deviance {self.null_deviance:.6g}")
        if not math.isnan(self.dispersion):
            how = f"{self.dispersion:.6g}, estimated" if self.estimated else f"{self.dispersion:g}"
            lines.append(f"dispersion {how}")
        if not math.isnan(self.log_likelihood):
            lines.append(f"log-likelihood {self.log_likelihood:.6g}, AIC {self.aic:.6g}, BIC {self.bic:.6g}")
        if self.off > _FAR:
            lines.append(f"coefficients are up to {self.off:.2g} standard errors from the optimum: use a smaller tol")
        return lines


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
