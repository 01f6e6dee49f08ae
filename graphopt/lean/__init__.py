"""Lean equivalents of dask's chunk functions.

dask's chunk functions serve every kind of array; most chunks are plain NumPy arrays. Each function here checks for that case
at run time, does there what dask's function comes down to, bit for bit, and hands everything else to the original.

What has no equivalent here is lean already, or is NumPy's own. On a block of 20 rows of 6, a call takes:

=============================  =======  ==================================================================================
``chunk.getitem``              0.25 µs  the slice alone takes 0.14. A small part of a block is copied, lest it keep the block
                                        in memory; where a kernel copies it anyway, `piece` does not (`peephole`)
``chunk.astype``               0.45 µs  the method alone takes 0.23
``np.transpose``               0.35 µs  a view
``np.where``                   0.9 µs   written in C
``np.broadcast_to``            2.0 µs   a view; NumPy's other ways to the same one take no less
stack                          0.3 µs   a new axis by ``chunk.getitem``, a view
norms                                   ``abs``, ``**``, and the sums and extremes of this package
=============================  =======  ==================================================================================
"""

from graphopt.lean.arguments import arg_agg, arg_chunk, arg_combine, argmax, argmin
from graphopt.lean.joins import concatenate, getter, grid, join, piece
from graphopt.lean.products import chunk_sum, contract, matmul, tensordot, times
from graphopt.lean.reductions import fold, max_, mean, mean_agg, mean_chunk, mean_combine, min_, reduce_blocks, sum_

__all__ = [
    "arg_agg",
    "arg_chunk",
    "arg_combine",
    "argmax",
    "argmin",
    "chunk_sum",
    "concatenate",
    "contract",
    "fold",
    "getter",
    "grid",
    "join",
    "matmul",
    "max_",
    "mean",
    "mean_agg",
    "mean_chunk",
    "mean_combine",
    "min_",
    "piece",
    "reduce_blocks",
    "sum_",
    "tensordot",
    "times",
]
