"""Search: hyper-parameter search that fits nothing twice, with scikit-learn's interface.

A search is one task graph. Its keys are hashes of what is fitted: the estimator with its parameters, its input and the fold.
So equal prefixes of pipelines, and equal members of unions and column transformers, are fitted once on each fold, and PCAs that
differ in how many components they keep as well::

    tokens, draws   what an estimator is, and whether its fit is a draw of its own
    outline         what candidates share, found out before anything is fitted
    given           stand-ins for what is fitted, by which scikit-learn's containers do the rest
    values, tasks   what is run
    truncation      PCAs that are cut out of another
    apart           how random numbers of fits at a time are kept from each other
    graph           in which order
    choice          the table of results and the best candidate
    job, run        one search, on any of dask's schedulers
"""

from solvers.search.account import Savings
from solvers.search.grid import GridSearchCV, HalvingGridSearchCV, RandomizedSearchCV

__all__ = ["GridSearchCV", "HalvingGridSearchCV", "RandomizedSearchCV", "Savings"]
