"""solvers: generalised linear models on dask arrays, and the proof that graphopt pays.

`fit` takes data, a family, a penalty and a solver, and returns a `Result`. Every pass over the data is written in plain dask
and compiled by graphopt; it runs on threads or on the workers of a cluster, wherever the data is.

`solvers.estimators` has the same models with scikit-learn's manners. Importing `solvers` does not import scikit-learn; the
first use of an estimator does; so does that of `solvers.search`, which looks for their parameters, and for any other's.
(`solvers.ElasticNet` is the penalty, `solvers.estimators.ElasticNet` the estimator.)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from solvers.consensus.method import ConsensusADMM
from solvers.deviance import DevianceRow, DevianceTable, deviance_table
from solvers.families import Family, Gamma, Huber, Logistic, Normal, Poisson
from solvers.fit import fit
from solvers.inference import Inference, Wald
from solvers.multinomial import Multinomial
from solvers.path import Path, path
from solvers.penalties import L1, L2, Box, ElasticNet, GroupL1, Penalty, Unpenalised
from solvers.result import Point, Result, Status
from solvers.saga import SAGA
from solvers.scaled import ScaledHuber

if TYPE_CHECKING:
    from solvers import estimators, search
    from solvers.estimators import (
        GammaRegressor,
        HuberRegressor,
        Lasso,
        LinearRegression,
        LogisticRegression,
        PoissonRegressor,
        Ridge,
        SAGAClassifier,
        SAGARegressor,
    )
    from solvers.search import GridSearchCV, HalvingGridSearchCV, RandomizedSearchCV

__all__ = [
    "L1",
    "L2",
    "SAGA",
    "Box",
    "ConsensusADMM",
    "DevianceRow",
    "DevianceTable",
    "ElasticNet",
    "Family",
    "Gamma",
    "GammaRegressor",
    "GridSearchCV",
    "GroupL1",
    "HalvingGridSearchCV",
    "Huber",
    "HuberRegressor",
    "Inference",
    "Lasso",
    "LinearRegression",
    "Logistic",
    "LogisticRegression",
    "Multinomial",
    "Normal",
    "Path",
    "Penalty",
    "Point",
    "Poisson",
    "PoissonRegressor",
    "RandomizedSearchCV",
    "Result",
    "Ridge",
    "SAGAClassifier",
    "SAGARegressor",
    "ScaledHuber",
    "Status",
    "Unpenalised",
    "Wald",
    "deviance_table",
    "estimators",
    "fit",
    "path",
    "search",
]

#: What needs scikit-learn is imported when it is asked for.
_LATER = {
    "GammaRegressor": "estimators",
    "GridSearchCV": "search",
    "HalvingGridSearchCV": "search",
    "HuberRegressor": "estimators",
    "Lasso": "estimators",
    "LinearRegression": "estimators",
    "LogisticRegression": "estimators",
    "PoissonRegressor": "estimators",
    "RandomizedSearchCV": "search",
    "Ridge": "estimators",
    "SAGAClassifier": "estimators",
    "SAGARegressor": "estimators",
}


def __getattr__(name: str) -> Any:
    if name in ("estimators", "search"):
        return importlib.import_module(f"solvers.{name}")
    if name in _LATER:
        return getattr(importlib.import_module(f"solvers.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
