"""Native: Python text that numba can type, as machine code that runs without numba.

::

    function = compiled(Unit("def run(at): ...", modules={"vector": "graphopt.loops.vector_math"}))
    function(address)

numba and LLVM take half a second and more than a hundred megabytes of a process that loads them. So another process
compiles (`child`), the machine code is linked to a shared library of its own, kept in a folder of the user's (`store`), and
loaded from there like any C library. Where there is no linker or no other process can be started, this one compiles.

A text defines one function, ``run``, that takes 64-bit integers, numbers or addresses, and returns nothing. It must not
allocate memory and cannot raise.
"""

from graphopt.native.load import Counts, NotNative, compiled, counts
from graphopt.native.unit import Unit

__all__ = ["Counts", "NotNative", "Unit", "compiled", "counts"]
