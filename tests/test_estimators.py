"""Estimators: scikit-learn's own checks, its answers on its own data, and the same, later, from whatever dask has."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import dask.array as da
import dask.dataframe as dd
import distributed
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.sparse
import sklearn.metrics
from sklearn import datasets, linear_model
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model._huber import _huber_loss_and_gradient
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from solvers import estimators
from solvers.estimators import (
    ElasticNet,
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

ALL = [getattr(estimators, name) for name in estimators.__all__]
KINDS = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
LOADED = {
    name: getattr(datasets, f"load_{name}")(return_X_y=True) for name in ("breast_cancer", "diabetes", "iris", "wine", "digits")
}


def real(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return standardised features, labels, and weights made up for them."""
    X, y = LOADED[name]
    spread = X.std(axis=0)
    return (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1), y, np.random.default_rng(0).random(len(y))


def few(words: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return rows with labels that every estimator can take: the same shape in all tests, for it is compiled once."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((120, 3))
    y = 1.0 + (X @ [1.0, -2.0, 0.5] + rng.standard_normal(120) > 0)
    return X, np.where(y > 1, "yes", "no") if words else y


def lazy(X: Any, *columns: Any, rows: Any = 50) -> tuple[Any, ...]:
    return da.from_array(X, chunks=(rows, -1)), *[da.from_array(column, chunks=rows) for column in columns]


class Counted:
    """Rows that count how often a chunk of them is asked for."""

    def __init__(self, X: np.ndarray) -> None:
        self.asked, self.X, self.shape, self.dtype, self.ndim = 0, X, X.shape, X.dtype, X.ndim

    def __getitem__(self, where: Any) -> Any:
        self.asked += 1
        return self.X[where]


FEW = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # some checks allow few iterations
STOCHASTIC = [kind for kind in ALL if kind.__name__.startswith("SAGA")]


@FEW
@parametrize_with_checks([kind(tol=1e-9) for kind in ALL if kind not in STOCHASTIC])
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow  # SAGA's certificate falls slowly where rows are as few as features and hardly penalised
@FEW
@parametrize_with_checks([kind(tol=1e-9, alpha=1.0, max_iter=20_000) for kind in STOCHASTIC])
def test_scikit_learns_own_checks_of_saga(estimator: Any, check: Any) -> None:
    check(estimator)


# -- beside scikit-learn, on real data -----------------------------------------------------------------------------------

FAR = {"tol": 1e-14, "max_iter": 100_000}
EXACT = {"solver": "newton-cholesky", "tol": 1e-12}
REGRESSIONS: list[tuple[Any, Any, dict[str, Any], dict[str, Any]]] = [
    (LinearRegression, linear_model.LinearRegression, {}, {}),
    (LinearRegression, linear_model.LinearRegression, {"fit_intercept": False}, {}),
    (LinearRegression, linear_model.LinearRegression, {"positive": True}, {}),
    (Ridge, linear_model.Ridge, {"alpha": 30.0}, {}),
    (Lasso, linear_model.Lasso, {"alpha": 2.0}, FAR),
    (Lasso, linear_model.Lasso, {"alpha": 2.0, "positive": True}, FAR),
    (ElasticNet, linear_model.ElasticNet, {"alpha": 2.0, "l1_ratio": 0.3}, FAR),
    (ElasticNet, linear_model.ElasticNet, {"alpha": 2.0, "fit_intercept": False, "positive": True}, FAR),
    (PoissonRegressor, linear_model.PoissonRegressor, {"alpha": 0.1}, EXACT),
    (GammaRegressor, linear_model.GammaRegressor, {"alpha": 0.1}, EXACT),
]


def close(ours: Any, theirs: Any, X: Any, y: Any, weights: Any, atol: float = 1e-6) -> Any:
    ours.fit(X, y, sample_weight=weights)
    theirs.fit(X, y, sample_weight=weights)
    assert ours.coef_.shape == theirs.coef_.shape
    assert np.shape(ours.intercept_) == np.shape(theirs.intercept_)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=atol)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=atol)
    assert ours.score(X, y, sample_weight=weights) == pytest.approx(theirs.score(X, y, sample_weight=weights), abs=1e-9)
    np.testing.assert_allclose(ours.predict(X[:9]), theirs.predict(X[:9]), rtol=1e-6)
    return theirs


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "theirs", "options", "exactly"), REGRESSIONS)
def test_regressions_as_scikit_learn(kind: Any, theirs: Any, options: Any, exactly: Any, weighted: bool) -> None:
    X, y, weights = real("diabetes")
    close(kind(tol=1e-9, **options), theirs(**options, **exactly), X, y, weights if weighted else None)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"class_weight": "balanced"}, {"class_weight": {0: 3.0, 1: 0.5}}, {"C": 0.1, "fit_intercept": False}]
)
@pytest.mark.parametrize("name", ["breast_cancer", "iris", "wine", pytest.param("digits", marks=pytest.mark.slow)])
def test_logistic_as_scikit_learn(name: str, options: Any, weighted: bool) -> None:
    X, y, weights = real(name)
    ours = LogisticRegression(tol=1e-10, max_iter=2000, **options)
    theirs = close(ours, linear_model.LogisticRegression(**EXACT, **options), X, y, weights if weighted else None)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(ours.predict_log_proba(X), theirs.predict_log_proba(X), atol=1e-4)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-5)
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)


@pytest.mark.slow
def test_ten_classes_as_scikit_learn() -> None:
    X, y, weights = real("digits")
    theirs = linear_model.LogisticRegression(C=0.1, **EXACT)
    close(LogisticRegression(C=0.1, tol=1e-10, max_iter=2000), theirs, X[:600], y[:600], weights[:600])


@pytest.mark.parametrize("ratio", [0.5, 1.0])
@pytest.mark.parametrize("name", ["breast_cancer", "iris"])
def test_sparse_logistic_as_scikit_learn(name: str, ratio: float) -> None:
    X, y, _ = real(name)
    ours = LogisticRegression(l1_ratio=ratio, C=0.5, tol=1e-10).fit(X, y)
    theirs = linear_model.LogisticRegression(l1_ratio=ratio, C=0.5, solver="saga", tol=1e-12, max_iter=100_000).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    # SAGA lets the sum of intercepts drift, which changes no prediction
    np.testing.assert_allclose(
        ours.intercept_, theirs.intercept_ - (theirs.intercept_.mean() if name == "iris" else 0), atol=1e-4
    )
    assert (ours.coef_ == 0).any()


@pytest.mark.parametrize("weighted", [False, True])
def test_huber_minimises_what_scikit_learn_does(weighted: bool) -> None:
    """Its own solver stops at about 1e-3; so its function is minimised beyond that, and has no gradient where we are."""
    X, y, weights = real("diabetes")
    weights = weights if weighted else np.ones(len(y))
    ours = HuberRegressor(alpha=0.1, tol=1e-10).fit(X, y, sample_weight=weights)
    theirs = linear_model.HuberRegressor(alpha=0.1, tol=1e-12, max_iter=10_000).fit(X, y, sample_weight=weights)
    beta = np.concatenate([ours.coef_, [ours.intercept_, ours.scale_]])
    value, gradient = _huber_loss_and_gradient(beta, X, y, 1.35, 0.1, weights)
    assert np.abs(gradient).max() < 1e-6
    near = np.concatenate([theirs.coef_, [theirs.intercept_, theirs.scale_]])
    assert value <= _huber_loss_and_gradient(near, X, y, 1.35, 0.1, weights)[0]
    options = {"ftol": 1e-16, "gtol": 1e-10, "maxiter": 10_000, "maxfun": 10_000, "maxcor": 50}
    arguments = (X, y, 1.35, 0.1, weights)
    there = scipy.optimize.minimize(_huber_loss_and_gradient, near, arguments, "L-BFGS-B", jac=True, options=options).x
    np.testing.assert_allclose(beta, there, atol=1e-5)
    np.testing.assert_array_equal(ours.outliers_, theirs.outliers_)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), abs=1e-5)


def test_more_features_than_rows() -> None:
    """Of all that fit exactly, the shortest coefficients, as LAPACK finds them."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 50)), rng.standard_normal(20)
    close(LinearRegression(), linear_model.LinearRegression(), X, y, None)
    X, y, _ = real("diabetes")
    close(LinearRegression(), linear_model.LinearRegression(), np.c_[X, X[:, :3]] + 5, y, None)


# -- on dask --------------------------------------------------------------------------------------------------------------


@KINDS
def test_lazy_in_lazy_out(kind: Any) -> None:
    X, y = few()
    weights = np.random.default_rng(2).random(len(y))
    rows = Counted(X)
    ours = kind(tol=1e-9).fit(*lazy(X, y, weights))
    here = kind(tol=1e-9).fit(X, y, weights)
    np.testing.assert_allclose(ours.coef_, here.coef_, atol=1e-7)
    np.testing.assert_allclose(ours.intercept_, here.intercept_, atol=1e-7)
    later = da.from_array(rows, chunks=(50, 2), meta=X[:0], asarray=False)  # columns in chunks too
    names = [
        "predict",
        *(["decision_function", "predict_proba", "predict_log_proba"] if issubclass(kind, LogisticRegression) else []),
    ]
    found = {name: getattr(ours, name)(later) for name in names}
    assert rows.asked == 0
    for name, promise in found.items():
        wanted = getattr(here, name)(X)
        assert isinstance(promise, da.Array)
        assert (promise.shape, promise.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(promise.compute(scheduler="sync"), wanted, atol=1e-6)
        assert isinstance(wanted, np.ndarray)
    assert rows.asked == len(names) * later.npartitions
    for some in ({}, {"sample_weight": weights}):
        assert ours.score(*lazy(X, y), **some) == pytest.approx(here.score(X, y, **some), abs=1e-6)
    assert ours.score(X, lazy(X, y)[1]) == pytest.approx(here.score(X, y), abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_words_from_a_dask_dataframe(classes: int) -> None:
    X, y = few(words=True)
    y = np.where((X[:, 2] > 0.5) & (classes > 2), "perhaps", y)
    table = pd.DataFrame(X, columns=["a", "b", "c"]).assign(label=y, weight=1.0 + (y == "yes"))
    frame = dd.from_pandas(table, npartitions=3)
    rows = frame[["a", "b", "c"]]
    ours = LogisticRegression(tol=1e-9).fit(rows, frame["label"], sample_weight=frame["weight"])
    here = LogisticRegression(tol=1e-9).fit(table[["a", "b", "c"]], y, sample_weight=table["weight"])
    assert ours.classes_.tolist() == here.classes_.tolist() == sorted(set(y))
    assert ours.feature_names_in_.tolist() == here.feature_names_in_.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(ours.coef_, here.coef_, atol=1e-7)
    assert ours.predict(rows).compute().tolist() == here.predict(table[["a", "b", "c"]]).tolist()
    assert ours.score(rows, frame["label"]) == here.score(table[["a", "b", "c"]], y)
    assert ours.predict_proba(rows).compute().shape == (len(y), classes)
    with pytest.raises(ValueError, match="feature names"):
        ours.predict(rows.rename(columns={"a": "z"}))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
def test_chunks_of_csr(classes: int, solver: str) -> None:
    X, y, _ = real("iris")
    X, y = X[y < classes], y[y < classes]
    here = LogisticRegression(tol=1e-9).fit(X, y)
    rows = da.from_array(X, chunks=(40, -1)).map_blocks(scipy.sparse.csr_matrix, meta=scipy.sparse.csr_matrix((0, 0)))
    for data in (rows, scipy.sparse.csr_matrix(X), scipy.sparse.csc_array(X)):
        found = LogisticRegression(tol=1e-9, solver=solver, max_iter=1000).fit(data, y)
        np.testing.assert_allclose(found.coef_, here.coef_, atol=1e-6)
        np.testing.assert_array_equal(found.predict(data), here.predict(X))


@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_of_lazy_labels(weighted: bool) -> None:
    X, y = few(words=True)
    weights = np.random.default_rng(2).random(len(y)) if weighted else None
    for given in ("balanced", {"yes": 3.0, "no": 0.5}):
        here = LogisticRegression(class_weight=given, tol=1e-9).fit(X, y, weights)
        rows, labels = lazy(X, y)
        ours = LogisticRegression(class_weight=given, tol=1e-9).fit(rows, labels, weights)
        np.testing.assert_allclose(ours.coef_, here.coef_, atol=1e-7)
        np.testing.assert_allclose(
            LogisticRegression(class_weight=given, tol=1e-9).fit(rows, y, weights).coef_, here.coef_, atol=1e-7
        )
        plain = LogisticRegression(tol=1e-9).fit(X, y, weights)
        assert np.abs(plain.intercept_ - here.intercept_).max() > 1e-3


def test_on_a_cluster(client: distributed.Client) -> None:
    X, y = few(words=True)
    ours = LogisticRegression(tol=1e-9, class_weight="balanced").fit(*client.persist(list(lazy(X, y))))
    here = LogisticRegression(tol=1e-9, class_weight="balanced").fit(X, y)
    np.testing.assert_allclose(ours.coef_, here.coef_, atol=1e-7)
    assert ours.predict(lazy(X)[0]).compute().tolist() == here.predict(X).tolist()


def test_clear_words_on_dask() -> None:
    X, y = lazy(*few())
    model = Ridge().fit(X, y)
    for wrong, message in ((X[:, :2], "X has 2 features, but Ridge is expecting 3"), (X[:, 0], "Expected 2D array, got 1D")):
        with pytest.raises(ValueError, match=message):
            model.predict(wrong)
    with pytest.raises(ValueError, match="Unknown label type"):
        LogisticRegression().fit(X, X[:, 0])
    with pytest.raises(ValueError, match="has one class"):
        LogisticRegression().fit(X, da.ones_like(y))
    with pytest.raises(ValueError, match="y has 100 rows, X has 120"):
        LogisticRegression().fit(X, y[:100])
    with pytest.raises(ValueError, match="requires y"):
        Ridge().fit(X, None)
    with pytest.raises(ValueError, match="labels are not finite numbers above 0"):
        GammaRegressor().fit(X, y - 1)


# -- where the predecessors are wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [(-1, 1), (1, 2), ("a", "b"), (False, True), (0.0, 5.0)])
def test_any_two_labels(labels: Any) -> None:
    X, y = few()
    named = np.array(labels)[(y > 1).astype(int)]
    found = LogisticRegression(tol=1e-9).fit(X, named)
    assert found.classes_.tolist() == list(labels)
    np.testing.assert_allclose(found.coef_, LogisticRegression(tol=1e-9).fit(X, y).coef_, atol=1e-9)
    assert set(found.predict(X)) == set(labels)
    assert found.score(X, named) > 0.8


@pytest.mark.parametrize("words", [False, True])
def test_a_class_weight_is_a_sample_weight(words: bool) -> None:
    X, y = few(words)
    one, two = np.unique(y)
    given = LogisticRegression(class_weight={one: 1.0, two: 7.0}, tol=1e-9).fit(X, y)
    same = LogisticRegression(tol=1e-9).fit(X, y, sample_weight=np.where(y == two, 7.0, 1.0))
    np.testing.assert_allclose(given.coef_, same.coef_, atol=1e-9)
    assert (given.predict(X) == two).sum() > (LogisticRegression().fit(X, y).predict(X) == two).sum()
    with pytest.raises(ValueError, match="class_weight='blanced': must be"):
        LogisticRegression(class_weight="blanced").fit(X, y)


@KINDS
def test_a_warm_start_is_one(kind: Any) -> None:
    X, y = few()
    options = {"alpha": 0.01} if kind in (Lasso, ElasticNet) else {}
    model = kind(warm_start=True, tol=1e-7, **options).fit(X, y)
    coef = model.coef_
    again = model.fit(X, y)
    assert again.result_.iterations <= 1
    assert again.result_.trace[0].certificate < 1e-6
    np.testing.assert_allclose(again.coef_, coef, atol=1e-6)
    cold = clone(model).set_params(warm_start=False).fit(X, y).fit(X, y)
    assert cold.result_.trace[0].certificate > 1e-3
    with pytest.raises(ValueError, match="start has shape"):
        model.fit(X[:, :2], y)


@pytest.mark.parametrize("solver", ["gradient", "proximal", "newton", "proximal-newton", "bfgs", "lbfgs"])
def test_no_penalty_on_the_intercept(solver: str) -> None:
    X, y = few()
    model = Ridge(alpha=1e7, solver=solver, tol=1e-6, max_iter=5000).fit(X, y + 100)
    assert model.intercept_ == pytest.approx(np.mean(y + 100), abs=1e-3)


def test_an_elastic_net_is_one() -> None:
    X, y, _ = real("diabetes")
    coef = ElasticNet(alpha=5.0, l1_ratio=0.9, solver="proximal").fit(X, y).coef_
    assert (coef == 0).any()
    assert (coef != 0).any()


def test_counts_with_a_large_mean() -> None:
    rng = np.random.default_rng(5)
    X = rng.random((500, 3))
    y = rng.poisson(np.exp(X @ [2.0, 3.0, 1.0] + 6))
    np.testing.assert_allclose(PoissonRegressor(alpha=0, tol=1e-4).fit(X, y).coef_, [2, 3, 1], atol=0.05)


# -- manners --------------------------------------------------------------------------------------------------------------


def test_offset_and_exposure() -> None:
    X, y, _ = real("diabetes")
    hours = 0.5 + np.random.default_rng(0).random(len(y))
    options: dict[str, Any] = {"alpha": 0.1, "tol": 1e-10}
    model = PoissonRegressor(**options).fit(X, y, exposure=hours)
    rate = linear_model.PoissonRegressor(alpha=0.1, **EXACT)
    # the same as rates, weighted by exposure, and the mean is then of weights
    rate.set_params(alpha=0.1 / hours.mean()).fit(X, y / hours, sample_weight=hours)
    np.testing.assert_allclose(model.coef_, rate.coef_, atol=1e-6)
    np.testing.assert_allclose(model.predict(X, exposure=hours), rate.predict(X) * hours, rtol=1e-6)
    other = PoissonRegressor(**options).fit(X, y, offset=np.log(hours) - 1, exposure=np.full(len(y), np.e))
    np.testing.assert_allclose(other.coef_, model.coef_, atol=1e-8)
    wanted = sklearn.metrics.d2_tweedie_score(y, model.predict(X, exposure=hours), power=1)
    assert model.score(X, y, exposure=hours) == pytest.approx(wanted)
    rows, labels, times = lazy(X, y, hours, rows=200)
    there = PoissonRegressor(**options).fit(rows, labels, exposure=times)
    np.testing.assert_allclose(there.coef_, model.coef_, atol=1e-7)
    np.testing.assert_allclose(there.predict(rows, exposure=times), model.predict(X, exposure=hours))
    with pytest.raises(ValueError, match="offset: 1 of 442 are not finite"):
        model.fit(X, y, exposure=np.where(np.arange(len(y)) == 7, 0.0, hours))


def test_offsets_of_classes() -> None:
    X, y = few()
    model = LogisticRegression(C=np.inf, tol=1e-9).fit(X, y, offset=X[:, 0])
    whole = LogisticRegression(C=np.inf, tol=1e-9).fit(X, y)
    np.testing.assert_allclose(model.coef_ + np.eye(3)[:1], whole.coef_, atol=1e-6)
    np.testing.assert_allclose(model.predict_proba(X, offset=X[:, 0]), whole.predict_proba(X), atol=1e-6)
    with pytest.raises(ValueError, match="several classes"):
        LogisticRegression().fit(X, np.arange(120) % 3, offset=X[:, 0])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Ridge(alpha=-1.0), r"Ridge\(alpha=-1.0\): must be a number of at least 0"),
        (LogisticRegression(C=0.0), r"LogisticRegression\(C=0.0\): must be a number above 0"),
        (ElasticNet(l1_ratio=2.0), r"ElasticNet\(l1_ratio=2.0\): must be between 0 and 1"),
        (HuberRegressor(epsilon=0.5), r"must be a number of at least 1"),
        (Lasso(solver="newton"), "is not smooth; use ProximalNewton"),
        (Lasso(solver="magic"), "There is no solver 'magic'"),
        (Ridge(tol=np.nan), "tol=nan"),
    ],
)
def test_parameters_that_cannot_be(model: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.fit(*few())


def test_no_convergence_is_a_warning_with_advice() -> None:
    X, y = few()
    with pytest.warns(ConvergenceWarning, match=r"LogisticRegression: too few iterations after 2 .* Allow more iterations"):
        model = LogisticRegression(solver="gradient", max_iter=2).fit(X, y)
    assert not model.result_.ok
    assert model.n_iter_.tolist() == [2]


def test_callback_and_progress(capsys: Any) -> None:
    X, y = few()
    seen: list[Any] = []
    model = PoissonRegressor(callback=lambda point, beta: seen.append((point, beta)), progress=True).fit(X, y)
    assert len(seen) == model.n_iter_
    assert "certificate" in capsys.readouterr().err


@KINDS
def test_clone_pickle_repr(kind: Any) -> None:
    X, y = few()
    model = kind(tol=1e-5).fit(X, y)
    assert repr(model) == f"{kind.__name__}(tol=1e-05)"
    assert clone(model).get_params() == model.get_params()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))
    assert str(model.result_).startswith(model.result_.method)
    if not hasattr(linear_model, kind.__name__):
        return
    theirs = getattr(linear_model, kind.__name__)().get_params().keys() - {"copy_X", "n_jobs", "precompute", "selection"}
    missing = theirs - model.get_params().keys()
    assert missing <= {"random_state", "verbose", "penalty", "dual", "intercept_scaling"}, missing


def test_in_a_pipeline_and_a_search() -> None:
    X, y = few(words=True)
    pipe = make_pipeline(StandardScaler(), LogisticRegression()).set_output(transform="pandas")
    found = GridSearchCV(pipe, {"logisticregression__C": [1e-3, 1.0]}, cv=3).fit(pd.DataFrame(X, columns=list("abc")), y)
    assert found.best_params_ == {"logisticregression__C": 1.0}
    assert found.best_estimator_[-1].feature_names_in_.tolist() == list("abc")


def test_metadata_is_routed() -> None:
    X, y = few()
    weights = (X[:, 0] > 0).astype(float)
    with sklearn.config_context(enable_metadata_routing=True):
        model = PoissonRegressor(alpha=0.0).set_fit_request(sample_weight=True, exposure=True)
        model.set_score_request(sample_weight=True, exposure=True)
        params = {"sample_weight": weights, "exposure": 2 * np.ones(len(y))}
        routed = cross_validate(model, X, y, params=params, cv=3, return_estimator=True)["estimator"]
        assert {"sample_weight", "offset", "exposure"} <= set(model.get_metadata_routing().fit.requests)
    plain = cross_validate(PoissonRegressor(alpha=0.0), X, y, cv=3, return_estimator=True)["estimator"]
    assert abs(routed[0].intercept_ - plain[0].intercept_) > 0.5


def test_importing_solvers_is_light() -> None:
    code = "import sys, solvers; assert not {'sklearn', 'numba', 'rich'} & sys.modules.keys(); assert 'Ridge' in dir(solvers)"
    subprocess.run([sys.executable, "-c", code], check=True)
    import solvers

    assert solvers.Ridge is Ridge
    assert solvers.estimators is estimators
    assert solvers.ElasticNet is not ElasticNet  # a penalty
    with pytest.raises(AttributeError, match="no attribute 'Magic'"):
        _ = solvers.Magic  # type: ignore[attr-defined]


# -- SAGA -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", ["named", "known by what they hold", "lazy"])
@pytest.mark.parametrize("kind", [SAGAClassifier, SAGARegressor])
def test_passes_over_chunks(kind: Any, chunk: str) -> None:
    """Rows that come again are known again: after many passes the chunks' common optimum, whatever their number."""
    X, y, weights = real("breast_cancer")
    X, weights = X[:, :5], 0.5 + weights
    parts = [slice(0, 200), slice(200, 201), slice(201, 569)]
    options = {"alpha": 0.1, "l1_ratio": 0.3}
    model = kind(**options)
    classes = {"classes": [0, 1]} if kind is SAGAClassifier else {}
    for _ in range(60):
        if chunk == "lazy":
            model.partial_fit(*lazy(X, y, rows=(200, 1, 368)), sample_weight=lazy(X, weights)[1], **classes)
            continue
        for i, rows in enumerate(parts):
            name = {"chunk": i} if chunk == "named" else {}
            model.partial_fit(X[rows], y[rows], sample_weight=weights[rows], **name, **classes)
    assert len(model.passes_.known) == 3
    assert np.ravel(model.n_iter_)[0] == 180
    wanted = kind(tol=1e-9, **options).fit(X, y, weights)
    np.testing.assert_allclose(model.coef_, wanted.coef_, atol=2e-2)
    np.testing.assert_allclose(model.intercept_, wanted.intercept_, atol=2e-2)
    again = pickle.loads(pickle.dumps(model)).partial_fit(X, y, **classes)
    assert len(again.passes_.known) == 4
    assert not hasattr(model.fit(X, y), "passes_")


def test_passes_over_sparse_chunks_and_after_a_fit() -> None:
    X, y, _ = real("breast_cancer")
    dense, csr = SAGAClassifier(l1_ratio=0.5), SAGAClassifier(l1_ratio=0.5)
    for _ in range(3):
        dense.partial_fit(X, y, [0, 1], chunk="all")
        csr.partial_fit(scipy.sparse.csr_matrix(X), y, [0, 1], chunk="all")
    np.testing.assert_allclose(csr.coef_, dense.coef_, rtol=1e-9, atol=1e-12)
    model = SAGARegressor(alpha=0.1, tol=1e-9).fit(X, y)
    before = model.coef_
    np.testing.assert_allclose(model.partial_fit(X, y).coef_, before, atol=1e-6)


def test_regressors_by_saga_as_the_others() -> None:
    X, y, weights = real("diabetes")
    y = y / 50
    for loss, other in (("poisson", PoissonRegressor(alpha=0.1)), ("gamma", GammaRegressor(alpha=0.1))):
        ours = SAGARegressor(loss=loss, alpha=0.1, tol=1e-8).fit(X, y, weights)
        theirs = other.set_params(tol=1e-9).fit(X, y, weights)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-5)
        assert ours.score(X, y) == pytest.approx(theirs.score(X, y), abs=1e-6)
    told: list[Any] = []
    net = SAGARegressor(alpha=0.1, l1_ratio=0.5, tol=1e-8, lanes=2, callback=lambda point, beta: told.append(point)).fit(X, y)
    np.testing.assert_allclose(net.coef_, ElasticNet(alpha=0.1, tol=1e-9).fit(X, y).coef_, atol=1e-6)
    assert len(told) == net.n_iter_ == net.result_.iterations


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X, y: SAGAClassifier().fit(X, np.arange(len(y)) % 3), "Only binary classification .* 3 classes; use LogisticR"),
        (lambda X, y: SAGAClassifier().partial_fit(X, y), "classes must be passed on the first call"),
        (lambda X, y: SAGAClassifier().partial_fit(X, y, [1, 7]), "some labels are not among classes"),
        (lambda X, y: SAGAClassifier().partial_fit(X, y, [1, 2]).partial_fit(X, y, [1, 3]), r"they were \[1, 2\]"),
        (lambda X, y: SAGARegressor(loss="gamma").partial_fit(X, y - 1), "labels are not finite numbers above 0"),
        (lambda X, y: SAGARegressor().partial_fit(X, y, sample_weight=-y), "sample_weight: must be finite"),
        (lambda X, y: SAGARegressor(lanes=0).fit(X, y), "lanes=0"),
    ],
)
def test_what_saga_cannot_do(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*few())
