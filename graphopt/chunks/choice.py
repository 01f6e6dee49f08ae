"""Choice: the chunks that were chosen for a step, what else was considered, and why; made by `auto_chunks`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dask.utils import format_bytes

from graphopt.chunks.executor import Executor
from graphopt.chunks.sampling import call_of
from graphopt.chunks.survey import Way
from graphopt.cost import in_units
from graphopt.makespan import Model

__all__ = ["Candidate", "Choice"]


@dataclass(frozen=True)
class Candidate:
    """A way of cutting that was considered.

    Attributes
    ----------
    count : int
        How many chunks.
    shape : tuple of int
        Of a typical chunk of the first array.
    nbytes : int
        Of a typical chunk, with those of the arrays that are cut with it.
    predicted : float
        Seconds of a call as the model says, which is fitted to runs on a sample.
    measured : float
        Seconds of a call as they were timed; None if it was not run.
    part : float
        On what part of the data that was: 1 for all; what is less is reckoned up by the model.
    final : bool
        Whether that was in the finals, in turns with others on all data: only those are to be compared with each other.
    held : int
        Bytes that the chunks in flight hold in one process.
    once : float
        Seconds of changing to it.
    """

    count: int
    shape: tuple[int, ...]
    nbytes: int
    predicted: float
    measured: float | None
    part: float
    final: bool
    held: int
    once: float

    @property
    def seconds(self) -> float:
        """Seconds of a call, to the best of what is known: as measured, or else as predicted."""
        return self.predicted if self.measured is None else self.measured


@dataclass(frozen=True)
class Choice:
    """The chunks that were chosen, and why; print it.

    Attributes
    ----------
    chunks : tuple
        Of the first array, as dask writes them.
    candidates : tuple of Candidate
        What was considered, from the largest chunks to the smallest.
    chosen, present : Candidate
        Two of them: the one that was chosen, and the one that is there.
    bound : str
        What decided: ``time``, ``memory``, ``parallelism``, ``stored chunks``, ``present chunks`` (another would not pay), or
        ``results`` (they depend on the chunks).
    executor : str
        What would run the step.
    calls : float
        For how many calls it was reckoned.
    model : Model
        What was fitted.
    sampled, seconds : float
        Bytes of the sample, and what the search took.
    notes : tuple of str
        What else is to be known.
    """

    chunks: tuple[tuple[int, ...], ...]
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    present: Candidate
    bound: str
    executor: str
    calls: float
    model: Model
    sampled: int
    seconds: float
    notes: tuple[str, ...] = ()
    _axes: tuple[int, ...] = (0,)
    _way: Way = field(default_factory=dict, repr=False)
    _runs_on: Executor | None = field(default=None, repr=False, compare=False)

    @property
    def pays(self) -> bool:
        """Whether the arrays should be rechunked."""
        return self.chosen is not self.present

    def rechunk(self, X: Any, *others: Any) -> Any:
        """Return the arguments with their arrays cut as chosen; if that does not pay, as they are.

        Arrays that were in memory are there again. One argument comes back as it is, several as a tuple.
        """
        if not self.pays or self._runs_on is None:
            return (X, *others) if others else X
        call = call_of(X, others, self._axes)
        made = call.rechunked(self._way, self._runs_on).arguments
        return made if others else made[0]

    def to_dict(self) -> dict[str, Any]:
        """Return what was found as plain values, for JSON."""
        rows = [{**vars(candidate), "shape": list(candidate.shape)} for candidate in self.candidates]
        model = {name: getattr(self.model, name) for name in ("workers", "call", "lane", "row", "knee", "beyond", "idle")}
        return {
            "chunks": [list(axis) for axis in self.chunks],
            "count": self.chosen.count,
            "shape": list(self.chosen.shape),
            "pays": self.pays,
            "bound": self.bound,
            "why": self.why,
            "executor": self.executor,
            "calls": self.calls,
            "predicted": self.chosen.predicted,
            "measured": self.chosen.measured,
            "present": self.present.seconds,
            "candidates": rows,
            "model": model,
            "sampled": self.sampled,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    @property
    def why(self) -> str:
        """One sentence: what the change saves, or why there is none."""
        now, then = self.present.seconds, self.chosen.seconds
        if self.pays:
            per = f"{in_units(now)} a call become {in_units(then)}; changing takes {in_units(self.chosen.once)} once"
            return f"{per}, and there are {self.calls:g} calls"
        if self.bound == "results":
            return "the results depend on how the data is cut, so it stays"
        if self.bound == "present chunks":
            return f"nothing saves enough in {self.calls:g} calls to pay for the change"
        return "the chunks are good as they are"

    def __str__(self) -> str:
        wide = max(len(_by(one.shape)) for one in self.candidates)
        here = "changed to" if self.pays else "kept at"
        lines = [
            f"Chunks {here} {self.chosen.count} of {_by(self.chosen.shape)} ({format_bytes(self.chosen.nbytes)})",
            *_wrapped(f"why: {self.why}"),
            f"decided by: {self.bound}; on {self.executor}",
            "",
            f"  chunks  {'of':{wide}} {'size':>10}  predicted   measured",
        ]
        for one in self.candidates:
            mark = ">" if one is self.chosen else "*" if one is self.present else " "
            seen = "" if one.measured is None else "~" * _rough(one, self.candidates) + in_units(one.measured)
            size = format_bytes(one.nbytes)
            lines.append(f"{mark} {one.count:>6}  {_by(one.shape):{wide}} {size:>10} {in_units(one.predicted):>10} {seen:>10}")
        lines += [line for note in self.notes for line in _wrapped(f"note: {note}")]
        if any(_rough(one, self.candidates) for one in self.candidates):
            lines.append(f"~ from the survey, of {format_bytes(self.sampled)}; the rest from the finals, in turns")
        lines.append(f"> chosen, * as it was; {self.seconds:.1f} s")
        return "\n".join(lines)

    __repr__ = __str__


def _rough(one: Candidate, others: Sequence[Candidate]) -> bool:
    """Say whether a time is from the survey: of a sample, or at another time than those that took turns in the finals."""
    return (
        one.measured is not None and (one.part < 1 or not one.final) and any(other.final or other.part < 1 for other in others)
    )


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) if shape else "1"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 58, subsequent_indent="  ")
