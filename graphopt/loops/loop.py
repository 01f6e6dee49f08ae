"""Loop: a lane compiled, and what it needs to run over a set of chunks.

The compiled function takes a table with a line for each lane: how many rows it has, where they start among all, and the
addresses of its chunks. Making the table costs about a microsecond a chunk and is done once; a call costs a few microseconds.
Nothing here loads numba: that is up to `graphopt.native`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.loops.lower import Lowered, lower
from graphopt.loops.nodes import Arg, Const, Node, Refused
from graphopt.loops.sizes import LINE
from graphopt.loops.write import Written, write
from graphopt.native import NotNative, Unit, compiled
from graphopt.program import Program

__all__ = ["Bound", "Loop", "loop_of"]


def loop_of(program: Program, fixed: Mapping[int, Any], args: Sequence[Arg]) -> Loop | str:
    """Compile a lane; where that cannot be done, return one sentence that says why.

    Parameters
    ----------
    program
        What is done to the chunks of a lane.
    fixed
        The literals that never change, by place.
    args
        What the others are: all inputs, then the literals that are not fixed.
    """
    try:
        lowered = lower(program, fixed, args)
        return Loop(lowered, write(lowered))
    except Refused as refused:
        return str(refused)
    except NotNative as why:
        return str(why)


def _unit(written: Written) -> Unit:
    """Return what is compiled: a text has its types in it."""
    text = f"from graphopt.loops.vectors import array_at\n\n\n{written.text}"
    modules = {"blocks": "graphopt.loops.blocks", "vector": "graphopt.loops.vector_math"}
    return Unit(text, modules, also=("graphopt.loops.vectors", "graphopt.loops.sizes"))


class Loop:
    """One compiled function for all lanes of a kind.

    Attributes
    ----------
    source : str
        The Python that was compiled.
    outputs : tuple of Output
        What it gives for each lane.
    """

    __slots__ = ("_args", "_function", "_lane_args", "_needs_rows", "_shared_args", "_steps", "_written", "outputs", "source")

    def __init__(self, lowered: Lowered, written: Written) -> None:
        self.source, self.outputs = written.text, written.outputs
        self._written, self._function = written, compiled(_unit(written))
        self._args = lowered.args
        self._lane_args = [(place, arg) for place, arg in enumerate(lowered.args) if arg.lane]
        self._shared_args = [(place, arg) for place, arg in enumerate(lowered.args) if not arg.lane]
        self._steps = lowered.prologue.steps
        self._needs_rows = written.needs_rows

    def __call__(self, lanes: Sequence[Sequence[Any]], shared: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run over lanes; return the outputs of each.

        Parameters
        ----------
        lanes
            For each lane its chunks, in the order of the arguments that are a lane's own.
        shared
            The other arguments.
        """
        return self.bind(lanes)(shared)

    def bind(self, lanes: Sequence[Sequence[Any]]) -> Bound:
        """Look the chunks up once, for any number of calls.

        Raises
        ------
        ValueError
            Where a chunk is not of the described kind, or not C-contiguous.
        """
        return Bound(self, lanes)

    def shared_values(self, shared: Sequence[Any]) -> list[Any]:
        """Check the shared arguments, run what is done before the loop, and return the parameters of the loop."""
        if len(shared) != len(self._shared_args):
            raise ValueError(f"{len(shared)} shared arguments are given, the loop takes {len(self._shared_args)}")
        values: dict[int, Any] = {}
        for (place, arg), value in zip(self._shared_args, shared, strict=True):
            values[place] = _checked(arg, value)
        count = len(self._args)
        for place, (func, args, options) in enumerate(self._steps):
            found = [_found(arg, values) for arg in args]
            values[count + place] = func(*found, **{name: _found(value, values) for name, value in options.items()})
        return [_flat(values[node.extra], node) for node in self._written.shared]

    def run(self, table: np.ndarray, start: int, stop: int, rows: int, shared: Sequence[Any]) -> list[np.ndarray]:
        """Run the lanes of a range; return each output of all of them as one array."""
        counts = [out.columns * (rows if out.kind == "rows" else stop - start) for out in self.outputs]
        flat = [np.empty(count, out.dtype) for count, out in zip(counts, self.outputs, strict=True)]
        given = self.shared_values(shared)
        room = np.empty(self._written.room + LINE, np.uint8)
        addresses = [array.ctypes.data for array in (*given, *flat)]
        told = np.array([table.ctypes.data, start, stop, rows, -(-room.ctypes.data // LINE) * LINE, *addresses], np.int64)
        self._function(told.ctypes.data)
        first = [rows if out.kind == "rows" else stop - start for out in self.outputs]
        return [
            array if not out.trailing else array.reshape(length, *out.trailing)
            for array, length, out in zip(flat, first, self.outputs, strict=True)
        ]

    def table(self, lanes: Sequence[Sequence[Any]]) -> np.ndarray:
        """Write down rows, starts and addresses of chunks."""
        lines = []
        start = 0
        order = {place: i for i, (place, _) in enumerate(self._lane_args)}
        read = [order[place] for place in self._written.lanes]
        for chunks in lanes:
            if len(chunks) != len(self._lane_args):
                raise ValueError(f"a lane has {len(chunks)} chunks, the loop takes {len(self._lane_args)}")
            rows = -1
            for (_, arg), chunk in zip(self._lane_args, chunks, strict=True):
                _check_chunk(arg, chunk, rows)
                rows = chunk.shape[0]
            if rows == 0 and self._needs_rows:
                raise ValueError("a chunk without rows has no greatest or least number")
            lines.append([rows, start, *(chunks[place].ctypes.data for place in read)])
            start += rows
        table = np.array(lines, np.int64).reshape(len(lines), 2 + len(read))
        table.flags.writeable = False
        return table


class Bound:
    """A loop and the chunks it runs over. It holds the chunks, and may be called from several threads at once."""

    __slots__ = ("_ends", "_lanes", "_table", "loop")

    def __init__(self, loop: Loop, lanes: Sequence[Sequence[Any]]) -> None:
        self.loop, self._lanes = loop, [tuple(chunks) for chunks in lanes]
        self._table = loop.table(self._lanes)
        self._ends: list[int] = [0, *np.cumsum(self._table[:, 0]).tolist()]

    def __len__(self) -> int:
        return len(self._lanes)

    def stacked(self, shared: Sequence[Any], start: int = 0, stop: int | None = None) -> list[np.ndarray]:
        """Run a range of lanes; return for each output one array for all of them.

        Folds are stacked along a new first axis; rows follow one another along theirs.
        """
        stop = len(self._lanes) if stop is None else stop
        if not 0 <= start <= stop <= len(self._lanes):
            raise IndexError(f"there are {len(self._lanes)} lanes, not {start} to {stop}")
        return self.loop.run(self._table, start, stop, self._ends[stop] - self._ends[start], shared)

    def __call__(self, shared: Sequence[Any], start: int = 0, stop: int | None = None) -> list[tuple[Any, ...]]:
        """Run a range of lanes; return the outputs of each."""
        stop = len(self._lanes) if stop is None else stop
        found = self.stacked(shared, start, stop)
        columns: list[list[Any]] = []
        for array, out in zip(found, self.loop.outputs, strict=True):
            if out.kind == "fold":
                columns.append(list(array))
            else:
                ends = [end - self._ends[start] for end in self._ends[start : stop + 1]]
                columns.append([array[a:b] for a, b in itertools.pairwise(ends)])
        return list(zip(*columns, strict=True))


def _check_chunk(arg: Arg, chunk: Any, rows: int) -> None:
    if type(chunk) is not np.ndarray or chunk.dtype != arg.dtype or chunk.shape[1:] != arg.trailing or chunk.ndim != arg.ndim:
        raise ValueError(f"a chunk is not an array of {arg.dtype} with rows of shape {arg.trailing}")
    if rows not in (-1, chunk.shape[0]):
        raise ValueError("the chunks of a lane differ in their number of rows")
    if not chunk.flags.c_contiguous or not chunk.flags.aligned:
        raise ValueError("a chunk is not C-contiguous")


def _checked(arg: Arg, value: Any) -> Any:
    """Return a shared argument if it is what was described."""
    if arg.dtype is None:
        if type(value) is not arg.kind:
            raise ValueError(f"a shared argument is a {type(value).__name__}, not a number of the described type")
    elif not isinstance(value, (np.ndarray, np.generic)) or value.dtype != arg.dtype or value.shape != arg.trailing:
        raise ValueError(f"a shared argument is not an array of {arg.dtype} of shape {arg.trailing}")
    return value


def _found(value: Any, values: Mapping[int, Any]) -> Any:
    if isinstance(value, Node):
        return values[value.extra]
    if isinstance(value, Const):
        return value.value
    return type(value)(_found(item, values) for item in value)


def _flat(value: Any, node: Node) -> Any:
    """Return a shared value as the compiled function takes it: contiguous numbers of the type that it was told."""
    return np.require(value, node.dtype, ("C", "A"))
