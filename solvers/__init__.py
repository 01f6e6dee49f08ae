"""solvers: generalised linear models on dask arrays, and the proof that graphopt pays.

`fit` takes data, a family, a penalty and a solver, and returns a `Result`. Every pass over the data is written in plain dask
and compiled by graphopt; it runs on threads or on the workers of a cluster, wherever the data is.
"""

from solvers.families import Family, Gamma, Huber, Logistic, Normal, Poisson
from solvers.fit import fit
from solvers.penalties import L1, L2, Box, ElasticNet, GroupL1, Penalty, Unpenalised
from solvers.result import Point, Result, Status

__all__ = [
    "L1",
    "L2",
    "Box",
    "ElasticNet",
    "Family",
    "Gamma",
    "GroupL1",
    "Huber",
    "Logistic",
    "Normal",
    "Penalty",
    "Point",
    "Poisson",
    "Result",
    "Status",
    "Unpenalised",
    "fit",
]
