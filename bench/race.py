"""A race between solvers: each with the loosest setting that reaches the accuracy asked for, in turn, and medians compared.

The *gap* is how far the mean loss and penalty is above the least that anybody found. A candidate is first run with one setting
after another until its gap is small enough, which also compiles, imports and fills caches; what counts is measured after that.
Who never gets there is shown with the gap that it stopped at.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["CLOSE", "Candidate", "Finish", "race", "rows_of", "table"]

CLOSE = 1e-12


@dataclass(frozen=True)
class Candidate:
    """Somebody who fits.

    Attributes
    ----------
    name : str
        What it is called; what it comes from is before the first comma.
    run : callable
        Returns coefficients, the intercept last if there is one, for a setting: a tolerance, or a number of iterations.
    settings : sequence of float
        To be tried, the fastest first.
    close : float
        The gap to reach.
    """

    name: str
    run: Callable[[float], Any]
    settings: Sequence[float]
    close: float = CLOSE


@dataclass(frozen=True)
class Finish:
    """How somebody fared."""

    name: str
    seconds: float
    first: float
    setting: float
    gap: float
    close: float
    error: float = math.nan

    @property
    def reached(self) -> bool:
        return self.gap <= self.close


def race(
    candidates: Iterable[Candidate],
    value: Callable[[np.ndarray], float],
    least: float,
    *,
    rounds: int = 3,
    limit: float = 30.0,
    truth: np.ndarray | None = None,
) -> list[Finish]:
    """Let candidates run in turn.

    Parameters
    ----------
    candidates
        Who takes part.
    value
        The mean loss and penalty at coefficients.
    least
        The least of it that is known.
    rounds
        How often each runs once its setting is chosen; who takes more than a third of ``limit`` has only one run more.
    limit
        Seconds: who takes more in a run is given no tighter setting, and no other run.
    truth
        The coefficients that the data was made with, to report the largest error.
    """
    found: dict[str, Finish] = {}
    times: dict[str, list[float]] = {}
    chosen: list[Candidate] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a setting was too loose is what we find out
        for candidate in candidates:
            first = math.nan
            for setting in candidate.settings:
                seconds, beta = _timed(candidate, setting)
                if beta is None:
                    break
                if math.isnan(first):
                    first = seconds
                    if limit / 3 < seconds <= 2 * limit:  # some of that was compiling
                        seconds, beta = _timed(candidate, setting)
                gap = value(beta) - least
                error = math.nan if truth is None else float(np.abs(beta[: len(truth)] - truth).max())
                found[candidate.name] = Finish(candidate.name, seconds, first, setting, gap, candidate.close, error)
                times[candidate.name] = []
                if gap <= candidate.close or seconds > limit:
                    break
            if candidate.name in found:
                chosen.append(candidate)
                print(f"  {line(found[candidate.name])}", flush=True)
        for turn in range(rounds):
            for candidate in chosen:
                once = found[candidate.name]
                if once.seconds <= limit / 3 or (not turn and once.seconds <= limit):
                    times[candidate.name].append(_timed(candidate, once.setting)[0])
    return [
        Finish(**{**asdict(once), "seconds": statistics.median(times[name] or [once.seconds])}) for name, once in found.items()
    ]


def _timed(candidate: Candidate, setting: float) -> tuple[float, Any]:
    start = time.perf_counter()
    try:
        beta = candidate.run(setting)
    except Exception as error:  # a peer that fails is a finding, and no end of the race
        print(f"  {candidate.name}, {setting:g}: {type(error).__name__}: {error}"[:200], flush=True)
        return math.nan, None
    return time.perf_counter() - start, np.asarray(beta, float)


def line(one: Finish) -> str:
    """Return a line for the terminal."""
    note = "" if one.reached else "  not close enough"
    return f"{one.name:40} {one.seconds:9.3f} s  first {one.first:8.2f} s  setting {one.setting:<8.3g} gap {one.gap:9.1e}{note}"


def table(rows: Sequence[Finish], against: Callable[[Finish], Finish | None] | None = None) -> list[str]:
    """Return a table in Markdown; with ``against`` its last column is the time of another over that of the row."""
    shown = any(not math.isnan(row.error) for row in rows)
    head = ["", "seconds", "first", "setting", "gap", *(["error"] if shown else []), *(["beside"] if against else [])]
    out = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [row.name, f"{row.seconds:.3g}", f"{row.first:.2g}", f"{row.setting:g}", f"{max(row.gap, 0):.0e}"]
        cells[-1] += "" if row.reached else " (not reached)"
        cells += [f"{row.error:.4f}"] if shown else []
        other = against(row) if against else None
        cells += [] if against is None else ["" if other is None else f"{other.seconds / row.seconds:.1f} ×, {other.name}"]
        out.append(f"| {' | '.join(cells)} |")
    return out


def rows_of(found: Iterable[Finish], names: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return what JSON takes."""
    return [{**(names or {}), **asdict(one), "reached": one.reached} for one in found]
