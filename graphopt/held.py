"""Held: what the scheduler that runs the optimiser already has, or is working on, for somebody.

On a cluster a key is a promise: while anybody holds a future of it, whoever asks for that key again gets the same result.
``f = client.compute(model)`` and later ``client.compute(score(model))`` train one model, not two. A fused task has lost that
key, so the model would be trained again, and if training is random it would be another model. And a key that is asked for
again with other inputs makes the scheduler warn of a deadlock.

So tasks that the scheduler knows are left to it: the passes see a future there, and afterwards the graph gets the scheduler's
own description of the task and of all that it reads, should it have to be run again.

Nothing here imports distributed. The optimiser runs in a thread of the scheduler's process; everywhere else there is nothing
to look up.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Collection
from typing import Any

from graphopt.spec import GraphNode
from graphopt.types import Graph, Key

__all__ = ["held"]

#: The threads in which distributed's scheduler materialises graphs.
_THREAD = "Dask-Offload"


def held(graph: Graph, keys: Collection[Key]) -> tuple[set[Key], dict[Key, GraphNode]]:
    """Return which keys of the graph the scheduler knows, and its description of them and of all they read.

    A key counts if somebody holds it, or if it is asked for now.

    Parameters
    ----------
    graph, keys
        The graph and what is asked for.

    Notes
    -----
    The scheduler's thread may change what is read here at any time. That can cost a fusion or repeat a task, never an
    answer: what is returned is complete in itself.
    """
    known: set[Key] = set()
    tasks: dict[Key, GraphNode] = {}
    module = sys.modules.get("distributed.scheduler")
    if module is None or not threading.current_thread().name.startswith(_THREAD):
        return known, tasks
    wanted = set(keys)
    with contextlib.suppress(RuntimeError):  # a set changed while it was read
        for scheduler in list(module.Scheduler._instances):
            states = filter(None, map(scheduler.tasks.get, graph))
            found = [state for state in states if state.run_spec is not None and (state.who_wants or state.key in wanted)]
            tasks.update(_with_inputs(found))
            known.update([state.key for state in found])
    return known, tasks


def _with_inputs(states: list[Any]) -> dict[Key, GraphNode]:
    """Return the tasks of these states and of all they read. What has no task is data, which is read by key alone."""
    out: dict[Key, GraphNode] = {}
    work = list(states)
    while work:
        state = work.pop()
        if state.key not in out and state.run_spec is not None:
            out[state.key] = state.run_spec
            work.extend(list(state.dependencies))
    return out
