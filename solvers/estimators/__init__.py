"""Estimators: generalised linear models with scikit-learn's manners, on NumPy and on dask.

Names, parameters and attributes are scikit-learn's, and so are the answers; what stands beside them is ``solver`` (one of
`solvers.fit`'s), ``callback`` and ``progress``, and ``result_``, the `solvers.Result` with trace and certificate. ``tol`` is
the certificate to reach: the largest component of the (proximal) gradient of the mean loss and penalty.

X is anything that scikit-learn takes, or a dask array, of CSR chunks too, or a dask dataframe. On these, labels and weights
may be lazy as well, each iteration reads the rows where they are, and ``predict`` returns a dask array that nothing has been
computed of. What a penalty's number means::

    LinearRegression    mean (y - Xw)² / 2                      Ridge     sum (y - Xw)² + alpha |w|²
    Lasso, ElasticNet   mean (y - Xw)² / 2 + alpha (l1_ratio |w|₁ + (1 - l1_ratio) / 2 |w|²)
    LogisticRegression  C sum log loss + l1_ratio |w|₁ + (1 - l1_ratio) / 2 |w|²
    PoissonRegressor, GammaRegressor   mean deviance / 2 + alpha / 2 |w|²
    HuberRegressor      sum σ + σ huber((y - Xw) / σ) + alpha |w|²
    SAGAClassifier, SAGARegressor      mean loss + alpha (l1_ratio |w|₁ + (1 - l1_ratio) / 2 |w|²)

where sums and means are weighted. SAGA's two have ``partial_fit``. The others do not: the optimum of all rows is not made of
those of some. To go on with more rows, set ``warm_start`` and fit them all.
"""

from solvers.estimators.classes import LogisticRegression
from solvers.estimators.counts import GammaRegressor, PoissonRegressor
from solvers.estimators.linear import ElasticNet, Lasso, LinearRegression, Ridge
from solvers.estimators.robust import HuberRegressor
from solvers.estimators.stochastic import SAGAClassifier, SAGARegressor

__all__ = [
    "ElasticNet",
    "GammaRegressor",
    "HuberRegressor",
    "Lasso",
    "LinearRegression",
    "LogisticRegression",
    "PoissonRegressor",
    "Ridge",
    "SAGAClassifier",
    "SAGARegressor",
]
