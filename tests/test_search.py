"""Searches: scikit-learn's results, with fewer fits. Its own tests of its searches are run by bench/search_conformance.py."""

from __future__ import annotations

import contextlib
import gc
import pickle
import queue
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any, ClassVar

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse
import threadpoolctl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import model_selection as theirs
from sklearn import set_config
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import load_iris, make_classification, make_regression
from sklearn.decomposition import PCA
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.feature_selection import SelectKBest, SelectPercentile
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, ShuffleSplit
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, PolynomialFeatures, StandardScaler, TargetEncoder
from sklearn.svm import SVC, LinearSVC
from sklearn.svm import _base as caller
from sklearn.tree import DecisionTreeClassifier

import solvers
from solvers.search import GridSearchCV, HalvingGridSearchCV, RandomizedSearchCV
from solvers.search.apart import apart
from solvers.search.draws import Watched
from solvers.search.tokens import token
from solvers.search.truncation import truncated, untruncated

X, Y = make_classification(150, 8, n_redundant=3, random_state=42)

FITS: Counter[str] = Counter()
LOCK = threading.Lock()


def counted(name: str) -> None:
    with LOCK:
        FITS[name] += 1


@pytest.fixture(autouse=True)
def _from_zero() -> Iterator[None]:
    FITS.clear()
    with dask.config.set(scheduler="threads"):  # whatever client there may be
        yield


class CountingPCA(PCA):
    """A PCA whose fits are counted."""

    def fit(self, X: Any, y: Any = None) -> Any:
        counted("pca")
        return super().fit(X, y)

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        counted("pca")
        return super().fit_transform(X, y)


class Counting(TransformerMixin, BaseEstimator):
    """A transformer of that name whose fits are counted."""

    def __init__(self, name: str = "", shift: float = 0.0) -> None:
        self.name, self.shift = name, shift

    def fit(self, X: Any, y: Any = None) -> Any:
        counted(self.name)
        self.mean_ = np.asarray(X).mean(axis=0)
        return self

    def transform(self, X: Any) -> Any:
        return X - self.mean_ + self.shift


def same_results(mine: Any, other: Any, tol: float = 1e-12) -> None:
    """Hold two searches to the same results: keys, their order, dtypes, and values but for times."""
    assert list(mine.cv_results_) == list(other.cv_results_)
    for name, expected in other.cv_results_.items():
        found = mine.cv_results_[name]
        if name == "params":
            assert [sorted(map(str, one.items())) for one in found] == [sorted(map(str, one.items())) for one in expected]
            continue
        assert found.dtype == expected.dtype, name
        assert type(found) is type(expected), name
        if "time" in name:
            assert (found >= 0).all()
        elif found.dtype == object:
            assert [str(value) for value in found] == [str(value) for value in expected], name
        else:
            np.testing.assert_allclose(found, expected, rtol=0, atol=tol, err_msg=name)
    for name in ("best_index_", "best_score_", "n_splits_", "multimetric_"):
        assert hasattr(mine, name) == hasattr(other, name)
        if hasattr(other, name):
            assert getattr(mine, name) == pytest.approx(getattr(other, name), abs=tol)
    assert str(getattr(mine, "best_params_", None)) == str(getattr(other, "best_params_", None))


def both(estimator: Any, grid: Any, X: Any = X, y: Any = Y, *, tol: float = 1e-12, fit: Any = None, **options: Any) -> Any:
    """Search with both, hold them to the same results, and return ours."""
    options = {"cv": 3, **options}
    mine = GridSearchCV(estimator, grid, **options).fit(X, y, **(fit or {}))
    other = theirs.GridSearchCV(estimator, grid, **options).fit(X, y, **(fit or {}))
    same_results(mine, other, tol)
    return mine


# -- what is shared ----------------------------------------------------------------------------------------------------


def test_the_documents_problem_scaled_down() -> None:
    """18 candidates on 3 folds share 9 fits of PCA, and one is of the refit."""
    X, y = make_classification(300, 20, n_redundant=10, random_state=42)
    pipeline = Pipeline([("pca", CountingPCA()), ("model", LogisticRegression(solver="saga", random_state=0, max_iter=50))])
    grid = {"pca__n_components": [2, 5, 10], "model__C": [1e-4, 1.0, 1e4], "model__l1_ratio": [0.0, 1.0]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
        assert FITS["pca"] == 9 + 1
        FITS.clear()
        other = theirs.GridSearchCV(pipeline, grid, cv=3).fit(X, y)
        assert FITS["pca"] == 54 + 1
    same_results(mine, other)
    np.testing.assert_array_equal(mine.best_estimator_.predict(X), other.best_estimator_.predict(X))
    savings = mine.explain()
    assert savings.plain == {"pca": 54, "model": 54}
    assert savings.done == {"pca": 9, "model": 54}
    assert "pca" in str(savings)


def test_prefixes_are_shared_as_far_as_they_are_equal() -> None:
    pipeline = Pipeline([("a", Counting("a")), ("b", Counting("b")), ("model", KNeighborsClassifier())])
    both(pipeline, {"b__shift": [0.0, 1.0], "model__n_neighbors": [1, 3, 5]}, refit=False)
    assert FITS == {"a": 3 + 18, "b": 6 + 18}  # the second is scikit-learn's


def test_a_step_after_one_that_differs_is_not_shared() -> None:
    pipeline = Pipeline([("a", Counting("a")), ("b", Counting("b")), ("model", KNeighborsClassifier())])
    GridSearchCV(pipeline, {"a__shift": [0.0, 1.0]}, cv=3, refit=False).fit(X, Y)
    assert FITS == {"a": 6, "b": 6}


@pytest.mark.parametrize(("solver", "rows"), [("full", 60), ("covariance_eigh", 60), ("auto", 300)])
def test_pcas_are_cut_out_of_one_decomposition(solver: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three numbers of components by two models on three folds there are three decompositions, and one of the refit."""
    done: list[int] = []
    plain = PCA._fit_full
    monkeypatch.setattr(PCA, "_fit_full", lambda self, *args: done.append(1) or plain(self, *args))
    X, y = make_classification(rows, 8, random_state=0)
    pipeline = Pipeline([("scale", StandardScaler()), ("pca", PCA(svd_solver=solver)), ("model", LogisticRegression())])
    grid = {"pca__n_components": [2, 3, 5], "model__C": [0.1, 1.0]}
    mine = GridSearchCV(pipeline, grid, cv=3, return_train_score=True).fit(X, y)
    assert len(done) == 3 + 1
    same_results(mine, theirs.GridSearchCV(pipeline, grid, cv=3, return_train_score=True).fit(X, y), tol=0.0)
    assert mine.explain().done == {"scale": 3, "pca": 3, "model": 18}
    assert [one.before for one in mine.explain().shared] == [None, 0, 1, 1, 1]


def test_what_finds_no_more_components_than_it_is_asked_for_is_fitted_for_each() -> None:
    X, y = make_classification(60, 8, random_state=0)
    union = FeatureUnion([("pca", PCA(random_state=0)), ("scale", StandardScaler())])
    grid: dict[str, Any] = {"union__pca__n_components": [2, 3, 99], "model__C": [0.1, 1.0]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for solver in ("randomized", "auto", "full"):
            pipeline = Pipeline([("union", union), ("model", LogisticRegression())]).set_params(union__pca__svd_solver=solver)
            mine = both(pipeline, grid, X, y, tol=0.0)
            assert any("Decomposition" in one.estimator for one in mine.explain().shared) == (solver == "full")


@given(
    rows=st.integers(2, 120),
    features=st.integers(1, 10),
    count=st.integers(1, 10),
    solver=st.sampled_from(["auto", "full", "covariance_eigh"]),
    whiten=st.booleans(),
    kind=st.sampled_from([np.float64, np.float32, int]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_what_is_cut_out_is_what_a_fit_finds(
    rows: int, features: int, count: int, solver: str, whiten: bool, kind: Any
) -> None:
    """To the last digit: all that the estimator knows, and what it makes of its rows."""
    A = (np.random.default_rng(rows * features).normal(size=(rows, features)) * 9).astype(kind)
    pca = PCA(min(count, rows, features), svd_solver=solver, whiten=whiten)
    whole = untruncated(pca, A.shape)
    if whole is None:
        assert solver == "auto"
        assert rows < 10 * features
        return
    expected = clone(pca)
    output = expected.fit_transform(A)
    found, cut = truncated(pca, whole, whole.fit_transform(A), A)
    np.testing.assert_array_equal(cut, output)
    assert vars(found).keys() == vars(expected).keys()
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
        assert type(getattr(found, name)) is type(value), name


def test_members_of_unions_are_shared() -> None:
    union = FeatureUnion([("a", Counting("a")), ("k", SelectKBest())], transformer_weights={"a": 2.0})
    pipeline = Pipeline([("union", union), ("model", LogisticRegression())])
    both(pipeline, {"union__k__k": [1, 2, 3]}, refit=False, return_train_score=True)
    assert FITS["a"] == 3 + 9


def test_members_of_column_transformers_are_shared() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X[:, :4], columns=list("abcd"))
    columns = [
        ("x", Counting("x"), ["a", "b"]),
        ("k", SelectPercentile(), make_column_selector(pattern="[cd]")),
        ("gone", "drop", ["d"]),
        ("none", StandardScaler(), []),
    ]
    pipeline = Pipeline([("columns", ColumnTransformer(columns, remainder="passthrough")), ("model", LogisticRegression())])
    both(pipeline, {"columns__k__percentile": [50, 100], "columns__x__shift": [0.0, 1.0]}, frame, refit=False)
    assert FITS["x"] == 6 + 12


def test_nested_pipelines_are_shared() -> None:
    inner = Pipeline([("a", Counting("a")), ("nothing", "passthrough"), ("b", Counting("b"))])
    pipeline = Pipeline([("inner", inner), ("none", None), ("model", KNeighborsClassifier())])
    both(pipeline, {"inner__b__shift": [0.0, 1.0], "model__n_neighbors": [1, 3]}, refit=False)
    assert FITS == {"a": 3 + 12, "b": 6 + 12}


def test_equal_candidates_are_one() -> None:
    search = GridSearchCV(
        make_pipeline(Counting("a"), LogisticRegression()), [{"counting__shift": [0.0, 0.0]}] * 2, cv=3, refit=False
    )
    assert len(search.fit(X, Y).cv_results_["params"]) == 4
    assert FITS["a"] == 3
    tree = DecisionTreeClassifier(random_state=0)
    assert GridSearchCV(tree, {"max_depth": [2, 2, 3]}, cv=3).fit(X, Y).explain().done == {"": 6}


@pytest.mark.parametrize("state", [None, np.random.RandomState(0)], ids=["none", "generator"])
def test_what_would_be_different_draws_is_not_shared(state: Any) -> None:
    """Each candidate draws its own features, where a plain search would; a seed makes them one."""
    drawn: list[Any] = []

    class Sampler(RBFSampler):
        def fit(self, X: Any, y: Any = None) -> Any:
            super().fit(X, y)
            drawn.append(self.random_offset_.tobytes())
            return self

    grid = {"model__C": [0.1, 1.0, 10.0]}
    pipeline = Pipeline([("draw", Sampler(n_components=5, random_state=state)), ("model", LogisticRegression())])
    search = GridSearchCV(pipeline, grid, cv=2, refit=False).fit(X, Y)
    assert search.explain().done["draw"] >= 6
    if state is None:
        assert len(set(drawn)) == len(drawn) >= 6
    else:
        same_results(search, theirs.GridSearchCV(pipeline, grid, cv=2, refit=False).fit(X, Y))
    drawn.clear()
    pipeline.set_params(draw__random_state=0)
    both(pipeline, grid, cv=2, refit=False)
    assert len(drawn) == 2 + 6


def test_generators_are_watched() -> None:
    for draw in (lambda w: w.rand(), lambda w: w.randint(3), pickle.dumps, lambda w: deepcopy(w).normal()):
        watched = Watched()
        assert not watched.used
        draw(watched)
        assert watched.used


def test_tokens_tell_estimators_apart() -> None:
    assert token(make_pipeline(PCA(2))) == token(clone(make_pipeline(PCA(2))))
    assert token({"a": 1}) != token({"a": True})
    assert token(StandardScaler()) != token(StandardScaler().set_output(transform="pandas"))
    fitted = [FrozenEstimator(PCA(2).fit(X[:k])) for k in (20, 30)]
    assert token(fitted[0]) != token(fitted[1])
    splits = [ShuffleSplit(n, random_state=1) for n in (3, 3, 4)]
    assert token(splits[0]) == token(splits[1]) != token(splits[2])
    assert token(ShuffleSplit(random_state=None)) != token(ShuffleSplit(random_state=None))
    assert token(np.arange(3)) != token(np.arange(4))


def test_intermediate_results_are_dropped() -> None:
    """When a fit ends, what fits before it have made for others is gone."""
    alive: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
    most: list[int] = []

    class Made(np.ndarray):
        pass

    class Making(Counting):
        def transform(self, X: Any) -> Any:
            made = super().transform(X).view(Made)
            alive[id(made)] = made
            most.append(len(alive))
            return made

    pipeline = Pipeline([("a", Making("a")), ("model", KNeighborsClassifier())])
    grid = {"a__shift": list(range(12)), "model__n_neighbors": [1, 3]}
    with dask.config.set(scheduler="sync"):
        GridSearchCV(pipeline, grid, cv=3, refit=False).fit(X, Y)
    assert FITS["a"] == 36
    assert max(most) <= 8  # of 72
    gc.collect()
    assert not alive


# -- scikit-learn's answers --------------------------------------------------------------------------------------------


def steps_of(draw: Any) -> list[tuple[str, Any, dict[str, list[Any]]]]:
    """Draw transformers, and values of their parameters."""
    pool = [
        (StandardScaler(), {"with_mean": [True, False]}),
        (MinMaxScaler(), {"feature_range": [(0, 1), (-1, 1)]}),
        (PCA(), {"n_components": [2, 3], "whiten": [True, False]}),
        (SelectKBest(), {"k": [2, 3]}),
        (PolynomialFeatures(include_bias=False), {"degree": [1, 2]}),
        (FunctionTransformer(np.abs), {}),
        (FeatureUnion([("s", StandardScaler()), ("p", PCA(2, random_state=0))]), {"p__n_components": [1, 2]}),
        (Pipeline([("m", MinMaxScaler()), ("p", PCA())]), {"p__n_components": [2, 3], "m": ["passthrough", StandardScaler()]}),
        (
            ColumnTransformer([("f", StandardScaler(), [0, 1]), ("l", PCA(1), slice(1, 3))], remainder="passthrough"),
            {"l__n_components": [1, 2]},
        ),
        ("passthrough", {}),
        (RBFSampler(n_components=4, random_state=2), {"random_state": [0, 1]}),
    ]
    some = draw(st.lists(st.sampled_from(range(len(pool))), min_size=1, max_size=3))
    return [(f"s{i}", *pool[k]) for i, k in enumerate(some)]


@st.composite
def pipelines(draw: Any) -> tuple[Any, dict[str, list[Any]]]:
    steps, grid = [], {}
    for name, estimator, values in steps_of(draw):
        steps.append((name, deepcopy(estimator)))
        for parameter, all_ in values.items():
            if draw(st.booleans()):
                grid[f"{name}__{parameter}"] = all_
    model, values = draw(
        st.sampled_from(
            [
                (LogisticRegression(), {"C": [0.1, 10.0]}),
                (DecisionTreeClassifier(random_state=0), {"max_depth": [1, 3]}),
                (KNeighborsClassifier(), {"n_neighbors": [1, 5]}),
                (SVC(), {"kernel": ["rbf", "linear"]}),
            ]
        )
    )
    grid |= {f"model__{name}": all_ for name, all_ in values.items()}
    return Pipeline([*steps, ("model", deepcopy(model))]), grid


@given(case=pipelines(), train=st.booleans(), scoring=st.sampled_from([None, "accuracy", ["accuracy", "f1"]]))
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_generated_pipelines_have_the_same_results(case: Any, train: bool, scoring: Any) -> None:
    pipeline, grid = case
    some = X[:60, :5], Y[:60]
    options = {"refit": "f1" if isinstance(scoring, list) else True, "scoring": scoring, "return_train_score": train}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine = both(pipeline, grid, *some, tol=1e-9, **options)
    savings = mine.explain()
    assert sum(savings.done.values()) <= sum(savings.plain.values())
    assert set(vars(clone(mine))) == set(clone(mine).get_params(deep=False))


class Failing(ClassifierMixin, BaseEstimator):
    """A classifier that fails for some parameters."""

    def __init__(self, bad: bool = False) -> None:
        self.bad = bad

    def fit(self, X: Any, y: Any) -> Any:
        if self.bad:
            raise ValueError("it is bad")
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.classes_[0])


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
@pytest.mark.parametrize("score", [np.nan, -3.0])
@pytest.mark.parametrize("piped", [True, False])
def test_a_candidate_that_fails(score: float, piped: bool) -> None:
    estimator = Pipeline([("a", Counting("a")), ("model", Failing())]) if piped else Failing()
    grid = {"model__bad" if piped else "bad": [False, True], **({"a__shift": [0.0, 1.0]} if piped else {})}
    with pytest.warns(Warning, match="it is bad") as told:
        both(estimator, grid, error_score=score)
    assert [one.category for one in told].count(FitFailedWarning) == 2  # ours and scikit-learn's


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_a_step_that_fails() -> None:
    pipeline = Pipeline([("pca", PCA()), ("model", LogisticRegression())])
    grid = {"pca__n_components": [2, 99], "model__C": [0.1, 1.0]}
    with pytest.warns(FitFailedWarning, match="n_components=99"):
        both(pipeline, grid)
    with pytest.raises(ValueError, match="n_components=99"):
        GridSearchCV(pipeline, grid, error_score="raise").fit(X, Y)
    with pytest.raises(ValueError, match="All the 6 fits failed"):
        GridSearchCV(pipeline, {"pca__n_components": [99, 98]}, cv=3).fit(X, Y)


def test_a_scorer_that_looks_at_the_estimator_sees_its_steps() -> None:
    def components(estimator: Any, X: Any, y: Any) -> dict[str, float]:
        assert type(estimator[0]) is CountingPCA
        return {"n": estimator[0].n_components_, "rows": len(X), "right": estimator.score(X, y)}

    pipeline = Pipeline([("pca", CountingPCA()), ("model", LogisticRegression())])
    grid = {"pca__n_components": [2, 3], "model__C": [0.1, 1.0]}
    both(pipeline, grid, scoring=components, refit="right", return_train_score=True)
    assert FITS["pca"] == 6 + 1 + 12 + 1


def test_fit_parameters_groups_and_weights() -> None:
    weights = np.random.default_rng(0).random(len(Y))
    groups = np.arange(len(Y)) % 5
    both(LogisticRegression(), {"C": [0.1, 1.0]}, cv=GroupKFold(3), fit={"sample_weight": weights, "groups": groups})
    pipeline = Pipeline([("scale", StandardScaler()), ("model", LogisticRegression())])
    grid = {"model__C": [0.1, 1.0], "scale__with_mean": [True, False]}
    mine = both(pipeline, grid, fit={"model__sample_weight": weights, "scale__sample_weight": weights})
    assert mine.explain().done["scale"] == 6


def test_routed_metadata() -> None:
    weights = np.random.default_rng(0).random(len(Y))
    set_config(enable_metadata_routing=True)
    try:
        model = LogisticRegression().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        pipeline = Pipeline([("scale", StandardScaler().set_fit_request(sample_weight=True)), ("model", model)])
        grid = {"model__C": [0.1, 1.0], "scale__with_mean": [True, False]}
        both(pipeline, grid, fit={"sample_weight": weights})
        both(pipeline, grid)
    finally:
        set_config(enable_metadata_routing=False)


@pytest.mark.parametrize("refit", [True, False, lambda results: 1], ids=["true", "false", "callable"])
def test_refit(refit: Any) -> None:
    mine = both(LogisticRegression(), {"C": [0.1, 1.0, 10.0]}, refit=refit)
    assert hasattr(mine, "best_estimator_") == bool(refit)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_transformers_that_fit_and_transform_otherwise_than_one_after_the_other() -> None:
    """A TargetEncoder encodes the rows it is fitted on by others; train scores are of plain transforms."""
    words = np.random.default_rng(0).integers(0, 6, (150, 2)).astype(str).astype(object)
    pipeline = Pipeline([("encode", TargetEncoder(random_state=0)), ("model", LogisticRegression())])
    both(pipeline, {"model__C": [0.01, 1.0]}, words, return_train_score=True)


def test_estimators_that_write_to_their_rows_hurt_nobody() -> None:
    class Writing(Counting):
        def fit(self, X: Any, y: Any = None) -> Any:
            super().fit(X, y)
            X *= 0.5
            return self

    pipeline = Pipeline([("a", StandardScaler()), ("b", StandardScaler(copy=False)), ("model", LogisticRegression())])
    both(pipeline, {"b__with_std": [True, False], "model__C": [0.1, 1.0]})
    pipeline = Pipeline([("a", StandardScaler()), ("b", Writing("b")), ("model", LogisticRegression())])
    both(pipeline, {"b__shift": [0.0, 1.0], "model__C": [0.1, 1.0]})
    before = X.copy()
    GridSearchCV(pipeline, {"model__C": [0.1, 1.0]}, cv=3, refit=False).fit(X, Y)
    np.testing.assert_array_equal(X, before)


def test_square_and_sparse_and_listed_rows() -> None:
    square = X @ X.T
    both(SVC(), {"kernel": ["precomputed", "rbf"]}, square)
    both(SVC(kernel="precomputed"), {"kernel": ["precomputed", "rbf"]}, square)
    sparse = scipy.sparse.csr_matrix(np.where(X > 0, X, 0.0))
    pipeline = Pipeline([("scale", StandardScaler(with_mean=False)), ("model", LogisticRegression())])
    mine = both(pipeline, {"model__C": [0.1, 1.0]}, sparse)
    assert mine.explain().done["scale"] == 3
    both(pipeline, {"model__C": [0.1, 1.0]}, X.tolist(), Y.tolist())


def test_frames_keep_their_names() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
    pipeline = Pipeline([("scale", StandardScaler()), ("pca", PCA(2)), ("model", LogisticRegression())]).set_output(
        transform="pandas"
    )
    mine = both(pipeline, {"model__C": [0.1, 1.0]}, frame, pandas.Series(Y))
    assert list(mine.feature_names_in_) == list(frame.columns)
    assert mine.n_features_in_ == X.shape[1]


def test_memory_and_verbose_pipelines_are_left_alone(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = Pipeline([("a", PCA(2)), ("model", LogisticRegression())], memory=str(tmp_path))
    both(pipeline, {"model__C": [0.1, 1.0]})
    both(LogisticRegression(), {"C": [1.0]}, verbose=2)
    assert "[CV] END ..." in capsys.readouterr().out


def test_searches_nest_pickle_and_clone() -> None:
    inner = GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2)
    mine = both(make_pipeline(StandardScaler(), inner), {"gridsearchcv__cv": [2, 3]})
    again = pickle.loads(pickle.dumps(mine))
    np.testing.assert_array_equal(again.predict(X), mine.predict(X))
    assert str(again.explain()) == str(mine.explain())
    with pytest.raises(NotFittedError):
        clone(mine).explain()
    scores = theirs.cross_val_score(make_pipeline(StandardScaler(), inner), X, Y, cv=2)
    assert scores.shape == (2,)


def test_randomised_and_halving_searches() -> None:
    pipeline = Pipeline([("pca", CountingPCA()), ("model", DecisionTreeClassifier(random_state=0))])
    grid = {"pca__n_components": [2, 3], "model__max_depth": [1, 2, 3]}
    options: dict[str, Any] = {"cv": 3, "random_state": 0, "return_train_score": True}
    same_results(
        RandomizedSearchCV(pipeline, grid, n_iter=4, **options).fit(X, Y),
        theirs.RandomizedSearchCV(pipeline, grid, n_iter=4, **options).fit(X, Y),
    )
    FITS.clear()
    mine = HalvingGridSearchCV(pipeline, grid, **options).fit(X, Y)
    assert FITS["pca"] == sum(mine.explain().done[name] for name in ["pca"]) + 1 < mine.explain().plain["pca"]
    other = theirs.HalvingGridSearchCV(pipeline, grid, **options).fit(X, Y)
    same_results(mine, other)
    assert mine.n_candidates_ == other.n_candidates_


# -- where it runs -----------------------------------------------------------------------------------------------------


PIPELINE = Pipeline([("pca", PCA()), ("model", LogisticRegression())])
GRID = {"pca__n_components": [2, 3], "model__C": [0.1, 1.0]}


class Hiding(ClassifierMixin, BaseEstimator):
    """A classifier whose parameters do not say that it is one of liblinear's."""

    def __init__(self, C: float = 1.0) -> None:
        self.C = C

    def fit(self, X: Any, y: Any) -> Any:
        self.estimators_ = [LinearSVC(C=self.C, dual=True, random_state=0, max_iter=50).fit(X, y)]
        return self


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (LogisticRegression(solver="liblinear", penalty="l1", random_state=0), "C"),
        (OneVsRestClassifier(LinearSVC(dual=True, random_state=0, max_iter=50)), "estimator__C"),
        (Hiding(), "C"),
    ],
)
@pytest.mark.parametrize("copies", [True, False], ids=["copies", "one after the other"])
def test_seeds_hold_where_threads_share_a_generator(
    model: Any, name: str, copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """liblinear's: fits at a time on threads drew from each other's sequence, and ended elsewhere within their tolerance."""
    if not copies:
        monkeypatch.setattr("solvers.search.apart._FREE", _of_the_first(queue.LifoQueue()))
        monkeypatch.setattr("solvers.search.apart._copied", lambda: 1 / 0)

    def weight(estimator: Any, X: Any, y: Any) -> float:
        return float(np.sum(getattr(estimator, "estimators_", [estimator])[0].coef_))

    X, y = make_classification(1_000, 30, random_state=42)
    grid = {name: [0.1, 1.0, 10.0, 100.0]}
    with warnings.catch_warnings(), dask.config.set(scheduler="threads"):
        warnings.simplefilter("ignore")
        ours = GridSearchCV(model, grid, cv=3, scoring=weight, n_jobs=4, refit=False).fit(X, y)
        plain = theirs.GridSearchCV(model, grid, cv=3, scoring=weight, refit=False).fit(X, y)
    for fold in range(3):
        found, expected = (search.cv_results_[f"split{fold}_test_score"] for search in (ours, plain))
        assert found.tolist() == expected.tolist()


def _of_the_first(free: queue.LifoQueue[Any]) -> queue.LifoQueue[Any]:
    free.put({name: getattr(caller, name).shared for name in ("liblinear", "libsvm", "libsvm_sparse")})
    return free


@pytest.mark.parametrize(
    ("name", "call"), [("liblinear", "train_wrap"), ("libsvm", "fit"), ("libsvm_sparse", "libsvm_sparse_train")]
)
def test_fits_at_a_time_have_libraries_of_their_own(name: str, call: str) -> None:
    """Libsvm draws where it calibrates probabilities, for each pair of classes; there seeds go astray now and then."""
    together = threading.Barrier(2, timeout=60)
    library = getattr(caller, name)

    def held(nested: bool) -> Any:
        with apart(), apart() if nested else contextlib.nullcontext():
            first = getattr(library, call)
            together.wait()
            assert getattr(library, call) is first
            return first

    outside = getattr(library, call)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(held, [True, False])
    assert first is not second
    assert getattr(library, call) is outside


@pytest.mark.parametrize("scheduler", ["sync", "threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_local_schedulers(scheduler: str) -> None:
    with dask.config.set(scheduler=scheduler):
        mine = both(PIPELINE, GRID, n_jobs=2 if scheduler != "sync" else None)
    assert mine.explain().done["pca"] == 3


def test_a_cluster(client: Any) -> None:
    dask.config.set(scheduler=None)
    mine = both(PIPELINE, GRID)
    assert mine.explain().done["pca"] == 3
    halved = HalvingGridSearchCV(PIPELINE, GRID, random_state=0, cv=3).fit(X, Y)
    assert halved.best_params_ == theirs.HalvingGridSearchCV(PIPELINE, GRID, random_state=0, cv=3).fit(X, Y).best_params_
    lazily = GridSearchCV(PIPELINE, GRID, cv=3).fit(da.from_array(X, chunks=(40, 8)), Y)
    same_results(lazily, mine)
    with pytest.raises(ValueError, match="n_components=99"):
        GridSearchCV(PIPELINE, {"pca__n_components": [99]}, error_score="raise").fit(X, Y)


def test_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    GridSearchCV(PIPELINE, GRID, cv=3, progress=True).fit(X, Y)
    assert "12/12" in capsys.readouterr().err


def test_rows_of_dask() -> None:
    lazily = GridSearchCV(PIPELINE, GRID, cv=3, return_train_score=True).fit(
        da.from_array(X, chunks=(40, 3)), da.from_array(Y, chunks=50)
    )
    same_results(lazily, theirs.GridSearchCV(PIPELINE, GRID, cv=3, return_train_score=True).fit(X, Y), 1e-9)


# -- estimators of ours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Ridge", "Lasso", "ElasticNet", "LogisticRegression", "PoissonRegressor", "HuberRegressor"])
def test_paths_are_warm_and_end_where_cold_ones_do(name: str) -> None:
    kind = getattr(solvers.estimators, name)
    A, b = make_regression(120, 5, noise=5.0, random_state=0)
    if name == "LogisticRegression":
        b = (b > 0).astype(int)
    if name == "PoissonRegressor":
        b = np.random.default_rng(0).poisson(np.exp(b / 100))
    grid = {("C" if name == "LogisticRegression" else "alpha"): [1e-3, 1e-2, 0.1, 1.0], "tol": [1e-9]}
    both(kind(), grid, A, b, tol=1e-5)


def test_a_warm_start_saves_iterations() -> None:
    started: list[Any] = []

    class Seen(solvers.LogisticRegression):
        def _start(self) -> Any:
            started.append(super()._start())
            return started[-1]

    pipeline = Pipeline([("scale", StandardScaler()), ("model", Seen())])
    with dask.config.set(scheduler="sync"):
        mine = both(pipeline, {"model__C": [0.1, 1.0, 10.0]}, tol=1e-6, refit=False, cv=2)
    assert sum(start is not None for start in started) == 4  # two of three, on two folds; none of scikit-learn's
    assert mine.explain().done == {"scale": 2, "model": 6}


@pytest.mark.parametrize("l1_ratio", [0.0, 1.0])
def test_a_path_takes_fewer_passes_than_its_fits_alone(l1_ratio: float) -> None:
    """66 instead of 90 over seven strengths and two folds, or 61 instead of 84; each fit ends within the same tolerance."""
    passes: list[int] = []

    class Counted(solvers.LogisticRegression):
        def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Any:
            super().fit(X, y, sample_weight, offset)
            passes.append(self.result_.passes)
            return self

    A, b = make_classification(400, 30, random_state=0)
    grid = {"C": np.geomspace(1e-2, 10, 7).tolist()}
    totals = []
    for search in (GridSearchCV, theirs.GridSearchCV):
        passes.clear()
        with dask.config.set(scheduler="sync"):
            found = search(Counted(l1_ratio=l1_ratio, tol=1e-8), grid, cv=2, refit=False).fit(A, b)
        totals.append(sum(passes))
        assert len(found.cv_results_["params"]) == 7
    assert totals[0] < 0.9 * totals[1]


def test_blas_is_held_while_threads_run_and_let_go_for_the_refit() -> None:
    def now() -> int:
        return max(one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas")

    class Seeing(Counting):
        seen: ClassVar[list[int]] = []

        def fit(self, X: Any, y: Any = None) -> Any:
            self.seen.append(now())
            return super().fit(X, y)

    pipeline = make_pipeline(Seeing(), LogisticRegression())
    for most in (1, 2):
        Seeing.seen.clear()
        with threadpoolctl.threadpool_limits(most, user_api="blas"):
            GridSearchCV(pipeline, {"seeing__shift": [0.0, 1.0]}, cv=2, n_jobs=64).fit(X, Y)
            assert now() == most
        assert Seeing.seen == [1] * 4 + [most]


@pytest.mark.slow
def test_estimators_of_ours_keep_lazy_rows_lazy() -> None:
    class Lazy(solvers.LogisticRegression):
        seen: ClassVar[list[Any]] = []

        def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Any:
            self.seen.append(type(X))
            return super().fit(X, y, sample_weight, offset)

    lazily = GridSearchCV(Lazy(), {"C": [0.1, 1.0]}, cv=2).fit(da.from_array(X, chunks=(40, 8)), Y)
    assert set(Lazy.seen) == {da.Array}
    other = theirs.GridSearchCV(Lazy(), {"C": [0.1, 1.0]}, cv=2).fit(X, Y)
    same_results(lazily, other, 1e-5)
    assert lazily.explain().done == {"": 4}


@pytest.mark.slow
def test_candidates_of_ours_share_plans() -> None:
    """Four candidates trace no more than one does."""
    from solvers.objective import compiled

    used: list[Any] = []
    traces: list[int] = []
    lazy = da.from_array(X, chunks=(40, 8))
    compiled.cache_clear()
    for strengths in ([1.0], [0.01, 0.1, 1.0, 10.0]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("solvers.objective.compiled", lambda *what: used.append(compiled(*what)) or used[-1])
            GridSearchCV(solvers.LogisticRegression(), {"C": strengths}, cv=2, refit=False).fit(lazy, Y)
        traces.append(sum(step.stats.traces for step in {id(step): step for step in used}.values()))
    assert len(used) > 4 * traces[0]
    assert traces[0] == traces[1]


# -- what it shows -----------------------------------------------------------------------------------------------------


def test_it_draws_what_is_shared(tmp_path: Any) -> None:
    search = GridSearchCV(PIPELINE, GRID, cv=3).fit(X, Y)
    search.visualize(tmp_path / "search.svg")
    text = (tmp_path / "search.svg").read_text()
    assert text.startswith("<?xml")
    with pytest.raises(ValueError, match=r"must end in \.svg"):
        search.visualize("search.pdf")


def test_importing_solvers_imports_no_scikit_learn() -> None:
    import subprocess
    import sys

    code = "import sys, solvers; print('sklearn' in sys.modules); solvers.GridSearchCV; print('sklearn' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True"]


def test_iris() -> None:
    both(LogisticRegression(max_iter=500), {"C": [0.1, 1.0]}, *load_iris(return_X_y=True))
