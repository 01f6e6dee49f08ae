"""Loops: a lane as one compiled function over many chunks, without temporaries and without the GIL."""

from graphopt.loops.loop import Bound, Loop, compilations, loop_of
from graphopt.loops.nodes import Arg, Output

__all__ = ["Arg", "Bound", "Loop", "Output", "compilations", "loop_of"]
