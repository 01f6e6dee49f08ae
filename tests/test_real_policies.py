"""Real policies: 163 212 of them, one-hot in CSR chunks of about 620 columns, fitted to what scikit-learn finds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from conftest import QUIET
from sklearn import linear_model
from sklearn.preprocessing import OneHotEncoder

from solvers import L1, L2, fit

POLICIES = Path(__file__).parent.parent.parent / "shared" / "data" / "beMTPL97.parquet"
CATEGORIES = ["coverage", "sex", "fuel", "use", "fleet", "bm", "postcode"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not POLICIES.exists(), reason="the Belgian policies are not on this machine"),
]


@pytest.fixture(scope="module")
def policies() -> pd.DataFrame:
    return pd.read_parquet(POLICIES)


def encoded(table: pd.DataFrame) -> scipy.sparse.csr_matrix:
    numbers = table[["ageph", "power", "agec"]].to_numpy(float)
    scaled = scipy.sparse.csr_matrix((numbers - numbers.mean(axis=0)) / numbers.std(axis=0))
    return scipy.sparse.hstack([OneHotEncoder().fit_transform(table[CATEGORIES].astype(str)), scaled], format="csr")


def chunks_of(X: scipy.sparse.csr_matrix, rows: int) -> da.Array:
    parts = [X[start : start + rows] for start in range(0, X.shape[0], rows)]
    lazy = [da.from_delayed(dask.delayed(part), part.shape, dtype=float, meta=X[:0]) for part in parts]
    return da.concatenate(lazy).persist(scheduler="sync")


def numbers(column: Any) -> np.ndarray:
    return np.asarray(column, float)


@pytest.fixture(params=["here", "on a cluster"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "here":
        yield None
        return
    with distributed.LocalCluster(**QUIET, n_workers=2, threads_per_worker=1) as cluster, distributed.Client(cluster) as client:
        yield client


def put(client: Any, *arrays: Any) -> Any:
    if client is None:
        return arrays
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is a lot to send: it is sent once
        return client.persist(list(arrays))


def test_who_claims(policies: pd.DataFrame, client: Any) -> None:
    X, y = encoded(policies), numbers(policies["claim"].astype(str) == policies["claim"].astype(str).max())
    assert 500 < X.shape[1] < 700
    assert 0.1 < y.mean() < 0.12
    wanted = linear_model.LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10, max_iter=200).fit(X, y)
    X_, y_ = put(client, chunks_of(X, 20_000), da.from_array(y, chunks=20_000))
    found = fit(X_, y_, family="logistic", penalty=L2(1 / len(y)), tol=1e-11)
    assert found.ok
    np.testing.assert_allclose(found.coef, wanted.coef_[0], atol=1e-6)
    assert abs(found.intercept - wanted.intercept_[0]) < 1e-6


def test_how_often(policies: pd.DataFrame) -> None:
    """Exposure as an offset; scikit-learn has frequencies, weighted by exposure, for the same likelihood."""
    X, y, exposure = encoded(policies), numbers(policies["nclaims"]), numbers(policies["expo"])
    theirs = linear_model.PoissonRegressor(alpha=1e-4, solver="newton-cholesky", tol=1e-10, max_iter=200)
    theirs.fit(X, y / exposure, sample_weight=exposure)
    ridge = 1e-4 * exposure.sum() / len(y)  # their mean is over exposure, ours over policies
    found = fit(chunks_of(X, 40_000), y, family="poisson", offset=np.log(exposure), penalty=L2(ridge), tol=1e-11)
    assert found.ok
    np.testing.assert_allclose(found.coef, theirs.coef_, atol=1e-6)


def test_how_much(policies: pd.DataFrame) -> None:
    hurt = policies[policies["amount"] > 0]
    X, y = encoded(hurt), numbers(hurt["amount"])
    theirs = linear_model.GammaRegressor(alpha=1e-3, solver="newton-cholesky", tol=1e-10, max_iter=500).fit(X, y)
    found = fit(chunks_of(X, 5_000), y, family="gamma", penalty=L2(1e-3), tol=1e-11)
    assert found.ok
    np.testing.assert_allclose(found.coef, theirs.coef_, atol=1e-6)


def test_few_of_them_matter(policies: pd.DataFrame) -> None:
    """The lasso, certified; coordinate descent, FISTA and OWL-QN find the same value, and most postcodes say nothing.

    Which of the two columns of a factor of two levels has a coefficient is not determined, beside an intercept.
    """
    X, y = chunks_of(encoded(policies), 40_000), numbers(policies["claim"].astype(str) == policies["claim"].astype(str).max())
    options: dict[str, Any] = {"family": "logistic", "penalty": L1(5e-4), "tol": 1e-8, "max_iter": 3_000}
    best = fit(X, y, **options)
    assert best.ok
    assert 5 < np.count_nonzero(best.coef) < 100
    for solver in ("proximal", "owlqn"):
        other = fit(X, y, solver=solver, **options)
        assert other.ok
        assert abs(other.objective - best.objective) < 1e-10
