"""Loops: a lane as one compiled function over many chunks, without temporaries and without the GIL.

::

    loop = loop_of(program, fixed, [Arg.of(X, lane=True), Arg.of(beta, lane=False)])    # or why not, in a sentence
    bound = loop.bind([[X0], [X1], ...])
    bound([beta])                                                                       # the outputs of each lane

Values are NumPy's up to rounding: what goes number by number is rounded as NumPy does, elementary functions are within two
units in the last place, and sums are added up in another order. NaN and infinity come out where they do in NumPy; NumPy's
warnings about them do not.
"""

from graphopt.loops.loop import Bound, Loop, loop_of
from graphopt.loops.nodes import Arg, Output

EXACT = False

__all__ = ["EXACT", "Arg", "Bound", "Loop", "Output", "loop_of"]
