"""Measuring: what running a step shows of the costs of the ways in which its data may be cut.

First a survey of all of them on a sample, to which the model is fitted; then finals of those that may be the best by it, on all
of the data. The finals have more of the time: their differences are small, and a machine's moods are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from graphopt.chunks.executor import cache_sizes, run
from graphopt.chunks.space import Found, Space, guessed, options
from graphopt.chunks.survey import Lab, finals, survey
from graphopt.cost import in_units
from graphopt.makespan import Run, fit, promising

__all__ = ["measured"]

#: Bytes of a sample where there are as many: it must not stay in a cache that all data would not fit. And of one for finals.
_SAMPLE, _LARGE = 128 << 20, 1 << 30

#: The part of the time that a survey may take.
_SURVEY = 0.45

#: Rows with which is tried whether a step can do with a part of them.
_FEW = 48


def measured(
    step: Callable[..., Any], space: Space, terms: Mapping[str, Any], until: float, say: Callable[[str], None]
) -> Found:
    """Time the ways of cutting, until about that time by the performance counter.

    Parameters
    ----------
    step
        What is called; of a compiled one a twin is.
    space
        What there is to choose from.
    terms
        On what it will be chosen: the keywords of `promising`.
    until
        When to be done.
    say
        Told in a few words after each trial.

    Raises
    ------
    Exception
        What the step raises.
    """
    twin: Any = step.twin() if hasattr(step, "twin") else step
    lab = _lab(twin, space)
    found = _loaded(lab, space)
    left = until - time.perf_counter()
    trials, failed = survey(lab, space.ways, space.here, _SURVEY * left, say)
    if trials:
        seen = next((trial for trial in trials if trial.call is not None), None)
        held = (seen and lab.held(seen)) or found.held
        found = _fitted(replace(found, held=held + space.cell * space.call.lazy, trials=trials, failed=failed), space)
        found = _confirmed(lab, space, found, terms, lab.clock() + (1 - _SURVEY) * left, say)
    if twin is not step:
        twin.close()
    return found


def _lab(step: Callable[..., Any], space: Space) -> Lab:
    """Return what times the step: on a sample, or on all data if the step cannot do with a part of it."""
    call, executor = space.call, space.executor
    sample = call.sample(_rows(space, max(_SAMPLE, 2 * cache_sizes()[1])))
    if sample is not call:
        try:
            run(executor, step, call.sample(max(_FEW, call.units[call.axes[0]])).arguments)
        except Exception:
            run(executor, step, call.arguments)  # if it raises here too, it is the step's own error
            sample = call
    return Lab(step, call, sample, executor)


def _rows(space: Space, nbytes: float) -> int:
    """Return how many rows have so many bytes; at least two chunks, of what is stored, for each worker."""
    axis = space.call.axes[0]
    row = space.cell * space.call.cells / max(1, space.call.array.shape[axis])
    return max(int(nbytes / row), 2 * space.executor.workers * space.call.units[axis])


def _loaded(lab: Lab, space: Space) -> Found:
    """Return what is known before the step is run: what loading takes, for data that is not in memory."""
    found = replace(guessed(space), sampled=int(space.cell * lab.sample.cells))
    if not space.call.lazy:
        return found
    cold, warm = lab.loading()
    cells = space.call.cells
    extra = max(0.0, cold - warm) * cells if space.cell * cells > space.executor.memory else 0.0
    return replace(found, extra=extra, notes=(f"loading all of it takes {in_units(cold * cells)} the first time",))


def _confirmed(
    lab: Lab, space: Space, found: Found, terms: Mapping[str, Any], until: float, say: Callable[[str], None]
) -> Found:
    """Run the finals, on as much of the data as leaves room for a copy for each finalist."""
    known = options(space, found)
    larger = lab.larger(_rows(space, min(_LARGE, space.limit / 8)))
    part = larger.sample.cells / max(1, space.call.cells)

    def seconds(place: int) -> float:
        return part * (known[place].once + 3 * known[place].seconds)

    trials, failed = finals(larger, space.ways, promising(known, space.here, **terms), found.trials, seconds, until, say)
    more = [trial for trial in trials if trial not in found.trials]
    return _fitted(replace(found, trials=[*found.trials, *more], failed=found.failed | failed), space)


def _fitted(found: Found, space: Space) -> Found:
    """Fit the model to all that was run."""
    runs = [Run(trial.sizes, trial.seconds) for trial in found.trials if trial.times]
    return replace(found, model=fit(runs, space.executor.workers))
