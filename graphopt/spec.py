"""dask's task specification, from its public home where that has all of it (dask before 2025.5 kept most of it private)."""

from __future__ import annotations

try:
    from dask.task_spec import Alias, DataNode, GraphNode, List, Task, TaskRef
except ImportError:  # pragma: no cover
    from dask._task_spec import Alias, DataNode, GraphNode, List, Task, TaskRef

__all__ = ["Alias", "DataNode", "GraphNode", "List", "Task", "TaskRef"]
