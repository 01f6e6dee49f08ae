"""Result: what a solver returns. Failure is a value too: its status says what happened and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from os import PathLike
from typing import Any

import numpy as np

from solvers.inference import Inference

__all__ = ["Point", "Result", "Status"]


class Status(Enum):
    """How a fit ended; `advice` says what to do if it did not converge."""

    CONVERGED = "converged"
    ITERATIONS = "too few iterations"
    PRECISION = "as far as rounding allows"
    STALLED = "nothing better was found"
    INTERRUPTED = "interrupted"
    UNBOUNDED = "no minimum was found"

    @property
    def ok(self) -> bool:
        """Whether the coefficients can be used as they are."""
        return self in (Status.CONVERGED, Status.PRECISION)

    @property
    def advice(self) -> str:
        """One sentence: what to do now."""
        return _ADVICE[self]


_ADVICE = {
    Status.CONVERGED: "Nothing is to be done.",
    Status.ITERATIONS: "Allow more iterations (max_iter), a larger tolerance (tol), or standardise the features.",
    Status.PRECISION: "The tolerance is below what rounding allows on this data: use a larger tol, or float64.",
    Status.STALLED: "There is something better, which this solver did not find: use another, or standardise the features.",
    Status.INTERRUPTED: "The coefficients are the best so far; fit again from them (start) to go on.",
    Status.UNBOUNDED: "Coefficients grow without end, as they do where a class is separated perfectly: add a penalty.",
}

_ASK = "fit with inference=True; from start=result.beta that takes two passes."


@dataclass(frozen=True, slots=True)
class Point:
    """A line of the trace: what was known after an iteration.

    Attributes
    ----------
    iteration, passes : int
        How many iterations and passes over the data there were.
    objective : float
        Mean loss and penalty.
    certificate : float
        How far from optimal the coefficients are at most, in the sense of `Result.certificate`.
    seconds : float
        Since the start.
    """

    iteration: int
    passes: int
    objective: float
    certificate: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Result:
    """Coefficients, and how they were found.

    Attributes
    ----------
    coef : numpy.ndarray
        One for each feature; a row of them for each class where there are several.
    intercept : float or numpy.ndarray
        0 if there is none; one for each class where there are several.
    status : Status
        How it ended.
    objective : float
        Mean loss and penalty at these coefficients.
    certificate : float
        The largest component of the (proximal) gradient there: 0 at an optimum, and nowhere else.
    iterations, passes : int
        How many there were; passes are over all data.
    seconds : float
        How long it took.
    method : str
        What solved it, and why that.
    trace : tuple of Point
        One for each iteration, the start first.
    beta : numpy.ndarray
        All that was looked for as one vector: give it as ``start`` to go on from here.
    inference : Inference, or None
        Standard errors, tests and deviance, if they were asked for and the fit has converged.
    chunks : graphopt.Choice or None
        The chunks that were chosen, if that was asked for; print it.
    record : object, or None
        What the run was like, if the solver takes that down: `solvers.ConsensusADMM` does.
    """

    coef: np.ndarray
    intercept: Any
    status: Status
    objective: float
    certificate: float
    iterations: int
    passes: int
    seconds: float
    method: str
    trace: Sequence[Point] = field(default=(), repr=False)
    beta: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    inference: Inference | None = field(default=None, repr=False)
    chunks: Any = field(default=None, repr=False)
    record: Any = field(default=None, repr=False)

    def summary(self) -> None:
        """Print the table of standard errors and tests.

        Raises
        ------
        ValueError
            If there is none.
        """
        if self.inference is None:
            raise ValueError("summary: " + (_ASK if self.ok else f"{self.status.value}. {self.status.advice}"))
        print(self.inference)

    @property
    def ok(self) -> bool:
        """Whether the coefficients can be used as they are."""
        return self.status.ok

    def plot(self, filename: str | PathLike[str] | None = None) -> Any:
        """Draw objective and certificate by iteration and by time.

        Parameters
        ----------
        filename : str or path, optional
            Where to write it, as SVG or PNG by the ending of the name.

        Returns
        -------
        matplotlib.figure.Figure
            The picture, which notebooks show.

        Raises
        ------
        ImportError
            If matplotlib is not installed, which ``pip install 'graphopt[plots]'`` does.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 3.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        least = min(point.objective for point in self.trace)
        gaps = [max(point.objective - least, 1e-17) for point in self.trace]
        left.semilogy([point.passes for point in self.trace], gaps, marker=".")
        left.set(xlabel="passes over the data", ylabel="objective above the least seen")
        right.semilogy([point.seconds for point in self.trace], [point.certificate for point in self.trace], marker=".")
        right.set(xlabel="seconds", ylabel="certificate")
        figure.suptitle(f"{self.method}: {self.status.value}")
        if filename is not None:
            figure.savefig(filename)
        return figure

    def plot_residuals(self, filename: str | PathLike[str] | None = None) -> Any:
        """Draw by time how far chunks are from consensus, and how far that moves: of `solvers.ConsensusADMM`.

        Parameters
        ----------
        filename : str or path, optional
            Where to write it, as SVG or PNG by the ending of the name.

        Returns
        -------
        matplotlib.figure.Figure
            The picture.
        """
        return self._recorded("plot_residuals").plot_residuals(filename)

    def plot_task_stream(self, filename: str | PathLike[str] | None = None) -> Any:
        """Draw by time which worker solved which chunk: of `solvers.ConsensusADMM`.

        Parameters and what is returned are those of `plot_residuals`.
        """
        return self._recorded("plot_task_stream").plot_task_stream(filename)

    def _recorded(self, what: str) -> Any:
        if self.record is None:
            raise ValueError(f"{what}: nothing was recorded. Solve with solver='admm-async', or a ConsensusADMM.")
        return self.record

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.method}: {self.status.value}",
                f"  objective    {self.objective:.10g}",
                f"  certificate  {self.certificate:.2g}",
                f"  iterations   {self.iterations} ({self.passes} passes over the data, {self.seconds:.3g} s)",
                f"  coefficients {_short(self.coef)}, intercept {_short(self.intercept)}",
                *([] if self.ok else [f"  {self.status.advice}"]),
            ]
        )


def _short(numbers: Any) -> str:
    return np.array2string(np.asarray(numbers), precision=4, threshold=8).replace("\n", "")
