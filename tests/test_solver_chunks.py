"""Chunks of a fit: chosen for the pass that its method makes, with no change of what comes out."""

from __future__ import annotations

import pickle
from typing import Any

import dask.array as da
import distributed
import numpy as np
import pytest
import scipy.sparse
from conftest import QUIET

import solvers.chunks
from solvers import L1, L2, LogisticRegression, Multinomial, ScaledHuber, fit, path
from solvers.data import prepare
from solvers.families import Logistic, Normal
from solvers.fit import SOLVERS, objective_of

ROWS = 30_000


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look no longer than it takes to try a few."""
    monkeypatch.setattr(solvers.chunks, "_SECONDS", 0.2)


def cut(parts: int, *, seed: int = 0) -> tuple[da.Array, da.Array]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((ROWS, 4))
    y = (rng.random(ROWS) < 1 / (1 + np.exp(-X @ [1.0, -1.0, 0.5, 0.0]))).astype(float)
    return (
        da.from_array(X, chunks=(-(-ROWS // parts), 4)).persist(scheduler="sync"),
        da.from_array(y, chunks=-(-ROWS // parts)).persist(scheduler="sync"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["proximal", "newton", "lbfgs", "admm", "giant"])
def test_far_too_many_chunks_become_fewer_and_coefficients_stay(solver: str) -> None:
    X, y = cut(600)
    weights = da.from_array(np.random.default_rng(1).random(ROWS), chunks=X.chunks[0])
    options: dict[str, Any] = {"family": "logistic", "solver": solver, "penalty": L2(0.01), "tol": 1e-9, "weights": weights}
    found, wanted = fit(X, y, chunks="auto", offset=0.1 * y, **options), fit(X, y, offset=0.1 * y, **options)
    assert found.ok
    np.testing.assert_allclose(found.coef, wanted.coef, atol=1e-7)
    assert found.passes <= wanted.passes + 5  # the search makes none that count
    choice = found.chunks
    assert choice.present.count == 600
    assert choice.chosen in choice.candidates
    again = choice.rechunk(X, y)
    assert again[0].numblocks == (choice.chosen.count, 1)
    assert again[0].chunks[0] == again[1].chunks[0]
    assert wanted.chunks is None


@pytest.mark.parametrize("family", [Multinomial(2), ScaledHuber()], ids=lambda family: family.name)
def test_families_with_objectives_of_their_own(family: Any) -> None:
    X, y = cut(64)
    found, wanted = (fit(X, y, family=family, penalty=L2(0.1), tol=1e-7, chunks=chunks) for chunks in ("auto", None))
    np.testing.assert_allclose(found.coef, wanted.coef, atol=1e-6)
    assert found.chunks is not None


def test_a_path_is_fitted_in_chunks_that_are_chosen_once() -> None:
    X, y = cut(600)
    options: dict[str, Any] = {"family": "logistic", "count": 3, "tol": 1e-8, "standardize": True}
    found, wanted = path(X, y, chunks="auto", **options), path(X, y, **options)
    np.testing.assert_allclose([one.coef for one in found], [one.coef for one in wanted], atol=1e-6)
    np.testing.assert_allclose(found.strengths, wanted.strengths, rtol=1e-9)
    assert len({id(one.chunks) for one in found}) == 1
    assert found[0].chunks.present.count == 600
    assert [one.passes for one in found] == [one.passes for one in wanted]
    assert all(one.chunks is None for one in (*wanted, *path(X, y, count=2, chunks="auto")))  # least squares reads rows once
    with pytest.raises(ValueError, match="chunks='large': must be 'auto', or None"):
        path(X, y, chunks="large")


@pytest.mark.slow
def test_estimators_choose_chunks_for_rows_that_are_lazy() -> None:
    X, y = cut(600)
    found, wanted = (LogisticRegression(chunks=chunks, tol=1e-8).fit(X, y) for chunks in ("auto", None))
    np.testing.assert_allclose(found.coef_, wanted.coef_, atol=1e-6)
    assert wanted.result_.chunks is None
    X_, _ = found.result_.chunks.rechunk(X, y)
    assert X_.numblocks == (found.result_.chunks.chosen.count, 1)
    assert pickle.loads(pickle.dumps(found)).result_.chunks == found.result_.chunks
    with pytest.raises(ValueError, match="chunks=4: must be 'auto', or None"):
        LogisticRegression(chunks=4).fit(X, y)


def test_sparse_chunks() -> None:
    X, y = cut(64)
    sparse = X.map_blocks(scipy.sparse.csr_array, dtype=float, meta=scipy.sparse.csr_array((0, 4))).persist(scheduler="sync")
    found, wanted = (fit(sparse, y, family="logistic", penalty=L1(0.01), tol=1e-8, chunks=chunks) for chunks in ("auto", None))
    np.testing.assert_allclose(found.coef, wanted.coef, atol=1e-7)
    assert found.chunks.candidates


def test_what_is_read_once_or_not_in_chunks_is_left_as_it_is() -> None:
    X, y = cut(64)
    least = fit(X, y, chunks="auto")
    assert least.chunks is None
    assert least.passes == 1
    few = fit(X[:500].compute(), y[:500].compute(), family="logistic", chunks="auto")
    assert few.chunks is None


def test_data_stays_as_it_was() -> None:
    """The objective that is asked is another than the one that is cut, and neither is left watching."""
    X, y = cut(64)
    objective = objective_of(prepare(X, y, Logistic()), Logistic(), L2(0.1))
    other, choice = solvers.chunks.recut(objective, SOLVERS["newton"])
    assert choice is not None
    assert objective.data.X is X
    assert objective.data.asked is None
    assert other.data.asked is None
    assert objective.passes == 0


def test_what_cannot_be_is_said_before_anything_is_timed() -> None:
    X, y = cut(8)
    with pytest.raises(ValueError, match="chunks=4: must be 'auto', or None"):
        fit(X, y, chunks=4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="start has shape"):
        fit(X, y, family="logistic", chunks="auto", start=[1.0])
    with pytest.raises(ValueError, match="is not smooth; use ProximalNewton"):
        fit(X, y, family="logistic", penalty=L1(0.1), solver="newton", chunks="auto")
    with pytest.raises(ValueError, match="ADMM: Hessians of chunks are no metric"):
        fit(X, y, family=ScaledHuber(), solver="admm", chunks="auto")


def test_admm_takes_as_many_rounds_whatever_the_chunks() -> None:
    """With Hessians as metric it is no reason to choose fewer chunks that more parties would take longer to agree."""
    X, y = cut(1)
    options: dict[str, Any] = {"family": "logistic", "solver": "admm", "penalty": L1(0.001), "tol": 1e-8}
    rounds = [fit(X.rechunk((ROWS // parts, 4)), y.rechunk(ROWS // parts), **options).iterations for parts in (2, 10, 100)]
    assert max(rounds) <= min(rounds) + 1


@pytest.mark.slow
def test_on_a_cluster() -> None:
    with (
        distributed.LocalCluster(**QUIET, n_workers=2, threads_per_worker=1) as cluster,
        distributed.Client(cluster) as client,
    ):
        X, y = (client.persist(array) for array in cut(100))
        found = fit(X, y, family="logistic", chunks="auto", tol=1e-9)
        assert found.ok
        assert found.chunks.executor == "compiled, 2 workers"
        X_, y_ = found.chunks.rechunk(X, y)
        np.testing.assert_allclose(fit(X_, y_, family="logistic", tol=1e-9).coef, found.coef, atol=1e-9)


def test_least_squares_by_rows_is_cut_too() -> None:
    """Where columns nearly depend on each other least squares looks at the rows after all; its first pass is the one it has."""
    X, y = cut(64)
    X = da.concatenate([X, X[:, :1] + 1e-9], axis=1).rechunk((-(-ROWS // 64), 5))
    found = fit(X, y, family=Normal(), solver="lbfgs", penalty=L2(1e-3), chunks="auto")
    assert found.ok
    assert found.chunks is None
